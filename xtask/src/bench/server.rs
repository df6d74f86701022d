//! A BigQuery server in a separate process: the fake of the tests, which can be set to only acknowledge, or the real emulator. Killed on
//! drop.

use crate::{Result, cargo};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The table that exists from the start.
pub(super) const TABLE: &str = "p1.bench.events";

/// A running server.
pub(super) struct Server {
    child: Child,
    pub(super) rest: String,
    pub(super) grpc: String,
}

impl Server {
    /// Starts the fake, which counts rows and keeps none; each answer is delayed by `delay` milliseconds.
    pub(super) fn acknowledging(delay: u32) -> Result<Self> {
        let mut command = Command::new(cargo::built("release")?.join("fake-bigquery"));
        command.args(["--acknowledge-only", "--table", TABLE]);
        if delay > 0 {
            command.args(["--delay", &delay.to_string()]);
        }
        Self::start(&mut command)
    }

    /// Starts the real emulator.
    pub(super) fn emulator() -> Result<Self> {
        Self::start(Command::new(cargo::built("release")?.join("bigquery-emulator")).arg("bench.events"))
    }

    fn start(command: &mut Command) -> Result<Self> {
        let program = cargo::line(command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| format!("{program}: {e}"))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let Some((rest, grpc)) = line.trim().strip_prefix("REST=").and_then(|line| line.split_once(" GRPC=")) else {
            return Err(format!("{program} did not print its addresses: {line}").into());
        };
        Ok(Self { rest: rest.to_owned(), grpc: grpc.to_owned(), child })
    }

    /// The configuration for delivering to it.
    pub(super) fn config(&self) -> String {
        format!(
            "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"bench\"\ntable = \"events\"\nendpoint = \"{}\"\nstorage_endpoint = \"{}\"\n",
            self.rest, self.grpc
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, and drop cannot report errors.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
