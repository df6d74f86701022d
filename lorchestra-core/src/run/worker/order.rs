//! The supervisor's order to its worker: one line of JSON on the control socket.

use crate::plan::RunSpec;
use lorchestra_plugin_api::invoke::Call;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Maximum size of an order in bytes. Parameters come from a command line, which Linux limits to less.
const MAX_ORDER: u64 = 16 << 20;

/// The order to run one attempt.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerInput {
    /// Descriptor of the sealed library, inherited.
    pub library_fd: RawFd,
    /// Path of the library, for messages.
    #[serde(with = "bytes")]
    pub library_path: PathBuf,
    /// The run's spec.
    pub spec: RunSpec,
    /// The attempt's spool directory, which is empty.
    #[serde(with = "bytes")]
    pub spool: PathBuf,
    /// The attempt's lock.
    #[serde(with = "bytes")]
    pub lock: PathBuf,
    /// The file for the run's trace.
    #[serde(with = "bytes")]
    pub trace: PathBuf,
    /// Maximum number of bytes to keep of the trace.
    pub log_max: u64,
    /// The file for the job's progress, created when the job first reports it.
    #[serde(with = "bytes")]
    pub progress: PathBuf,
    /// Whether to refuse events with a number that loses precision in 64 bits.
    pub strict_numbers: bool,
    /// Whether a later run would read a bookmark that the job sets.
    pub bookmarks: bool,
    /// The parameters of the call that are secrets, to be masked in the job's output.
    pub secrets: Vec<String>,
    /// The call to the plugin.
    pub call: Call,
}

/// The order to load a library on trial, and nothing more.
#[derive(Debug, Serialize, Deserialize)]
// So that an unreadable order is not mistaken for one that only loads.
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Descriptor of the sealed library, inherited.
    pub library_fd: RawFd,
    /// Path of the library. A lossy string is fine, because it is only for messages.
    pub origin: String,
}

/// The orders that a worker accepts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Task {
    /// Run a job.
    Run(Box<WorkerInput>),
    /// Load a library.
    Load(Trial),
}

impl WorkerInput {
    /// Sends the order, which the worker reads before it does anything else.
    pub fn send(&self, control: &UnixStream) -> io::Result<()> {
        send(self, control)
    }
}

impl Trial {
    /// Sends the order.
    pub fn send(&self, control: &UnixStream) -> io::Result<()> {
        send(self, control)
    }
}

impl Task {
    /// Receives the order.
    pub fn receive(control: &UnixStream) -> io::Result<Self> {
        let mut line = Vec::new();
        // Nothing follows the order on this socket, so dropping the buffer loses nothing.
        BufReader::new(control.take(MAX_ORDER)).read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}

/// (De)serializes a path as bytes: file names need not be UTF-8, and such a name must not break an order.
mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

fn send(order: &impl Serialize, mut control: &UnixStream) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    control.write_all(&line)
}
