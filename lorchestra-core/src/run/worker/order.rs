//! What a supervisor orders its worker to do: one line of JSON on the control socket.

use crate::plan::RunSpec;
use lorchestra_plugin_api::invoke::Call;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// The longest order, in bytes. Parameters come from a command line, which Linux limits to less.
const MAX_ORDER: u64 = 16 << 20;

/// One attempt, as ordered.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerInput {
    /// Descriptor of the sealed library, inherited.
    pub library_fd: RawFd,
    /// Where the library's bytes came from: for messages.
    #[serde(with = "bytes")]
    pub library_path: PathBuf,
    /// What the run is.
    pub spec: RunSpec,
    /// The attempt's spool directory, empty.
    #[serde(with = "bytes")]
    pub spool: PathBuf,
    /// The attempt's lock.
    #[serde(with = "bytes")]
    pub lock: PathBuf,
    /// The run's trace.
    #[serde(with = "bytes")]
    pub trace: PathBuf,
    /// Bytes that are kept of it.
    pub log_max: u64,
    /// Where the job's progress is noted, where somebody looks at it.
    #[serde(with = "optional_bytes")]
    pub progress: Option<PathBuf>,
    /// Whether an event with a number that loses digits in 64 bits is refused.
    pub strict_numbers: bool,
    /// Whether a bookmark that the job sets would be read by a later run.
    pub bookmarks: bool,
    /// Which of the call's parameters are secrets: what the job says is masked.
    pub secrets: Vec<String>,
    /// What the plugin is handed.
    pub call: Call,
}

/// A library that is loaded on trial, and nothing more.
#[derive(Debug, Serialize, Deserialize)]
// An order that cannot be read must not be taken for one to load only.
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Descriptor of the sealed library, inherited.
    pub library_fd: RawFd,
    /// Where the library's bytes came from: for messages only, so that a name that is not UTF-8 is none the worse.
    pub origin: String,
}

/// What a worker may be told to do.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Task {
    /// To run a job.
    Run(Box<WorkerInput>),
    /// To load a library.
    Load(Trial),
}

impl WorkerInput {
    /// Sends the order. The worker reads it before it does anything else.
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
        // Nothing follows the order on this socket, so that nothing is lost with the buffer.
        BufReader::new(control.take(MAX_ORDER)).read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}

/// A path as its bytes: a name need not be UTF-8, and one that is not must not be the end of an order.
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

mod optional_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str().as_bytes()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        let bytes = Option::<Vec<u8>>::deserialize(deserializer)?;
        Ok(bytes.map(|bytes| OsString::from_vec(bytes).into()))
    }
}

fn send(order: &impl Serialize, mut control: &UnixStream) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    control.write_all(&line)
}
