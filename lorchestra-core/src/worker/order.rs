//! What a supervisor orders its worker to do: one line of JSON on the control socket.

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
pub struct Order {
    /// Descriptor of the sealed library, inherited.
    pub library_fd: RawFd,
    /// Where the library's bytes came from: for messages.
    pub library_path: PathBuf,
    /// Name of the job.
    pub job: String,
    /// The attempt's spool directory, empty.
    pub spool: PathBuf,
    /// The attempt's lock.
    pub lock: PathBuf,
    /// The run's trace.
    pub trace: PathBuf,
    /// Bytes that are kept of it.
    pub log_max: u64,
    /// Bytes of memory that the worker, and each process it starts, may have.
    pub memory_max: Option<u64>,
    /// What the plugin is handed.
    pub call: Call,
}

impl Order {
    /// Sends the order. The worker reads it before it does anything else.
    pub fn send(&self, mut control: &UnixStream) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        control.write_all(&line)
    }

    /// Receives the order.
    pub fn receive(control: &UnixStream) -> io::Result<Self> {
        let mut line = Vec::new();
        // Nothing follows the order on this socket, so that nothing is lost with the buffer.
        BufReader::new(control.take(MAX_ORDER)).read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}
