//! A sandbox whose commands find a Slurm cluster of its own.

use super::Slurm;
use crate::{Fixture, Running, Sandbox};

/// The sandbox and its cluster.
#[derive(Debug)]
pub struct Site {
    /// The user's machine.
    pub sandbox: Sandbox,
    /// The cluster.
    pub cluster: Slurm,
}

impl Site {
    /// Starts a cluster whose arrays may have up to `array` tasks.
    pub fn new(array: u32) -> Self {
        Self { sandbox: Sandbox::with(&[Fixture::Misbehave]), cluster: Slurm::start(array) }
    }

    /// Starts lorchestra.
    pub fn start(&self, args: &[&str]) -> Running {
        let mut command = self.sandbox.command(args);
        command.envs(self.cluster.environment());
        Running::start(command)
    }

    /// Starts a backfill of this many windows of an hour on the cluster.
    ///
    /// # Panics
    /// If there are more windows than the calendar has hours.
    pub fn backfill(&self, windows: u32, flags: &[&str]) -> Running {
        let (shared, nodes) = (self.sandbox.arg("shared"), self.sandbox.arg("nodes"));
        let from = "2020-01-01";
        let to = chrono::DateTime::from_timestamp(1_577_836_800 + i64::from(windows) * 3600, 0).expect("a date");
        let to = to.format("%FT%TZ").to_string();
        let what = ["backfill", "misbehave", "windowed", "--from", from, "--to", &to, "--every", "1h"];
        let engine = ["--engine", "slurm", "--shared", &shared, "--node-state", &nodes];
        self.start(&[&what[..], &engine, flags].concat())
    }
}
