//! A sandbox whose commands find a Slurm cluster of its own.

use super::Slurm;
use crate::{Fixture, Running, Sandbox};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The sandbox and its cluster.
#[derive(Debug)]
pub struct Site {
    /// The user's machine.
    pub sandbox: Sandbox,
    /// The cluster.
    pub cluster: Slurm,
}

/// An `sbatch` that waits.
#[derive(Debug)]
pub struct SlowSbatch {
    /// Variables of commands that use it.
    pub environment: Vec<(String, String)>,
    /// Exists once it was called.
    pub started: PathBuf,
    /// It continues once this exists.
    pub go: PathBuf,
}

impl Site {
    /// Starts a cluster whose arrays may have up to `array` tasks.
    pub fn new(array: u32) -> Self {
        Self { sandbox: Sandbox::with(&[Fixture::Misbehave]), cluster: Slurm::start(array) }
    }

    /// Starts lorchestra.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(&self.cluster.environment(), args)
    }

    fn start_with(&self, environment: &[(String, String)], args: &[&str]) -> Running {
        let mut command = self.sandbox.command(args);
        command.envs(environment.iter().cloned());
        Running::start(command)
    }

    /// Puts a program in front of `sbatch` that waits before it executes it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn slow_sbatch(&self) -> SlowSbatch {
        let mut environment = self.cluster.environment();
        let dir = self.sandbox.path("slow");
        fs::create_dir(&dir).expect("a directory");
        let (started, go) = (dir.join("started"), dir.join("go"));
        let path = environment.iter_mut().find(|(name, _)| name == "PATH").expect("a path");
        let real = path.1.split(':').next().expect("a directory").to_owned();
        let text = format!(
            "#!/bin/sh\n\
             if [ \"$1\" != --version ]; then\n  touch {started}\n  while [ ! -e {go} ]; do sleep 0.05; done\nfi\n\
             exec {real}/sbatch \"$@\"\n",
            started = started.display(),
            go = go.display(),
        );
        fs::write(dir.join("sbatch"), text).expect("a script");
        fs::set_permissions(dir.join("sbatch"), fs::Permissions::from_mode(0o755)).expect("a script of ours");
        path.1 = format!("{}:{}", dir.display(), path.1);
        SlowSbatch { environment, started, go }
    }

    /// Starts a backfill of this many windows of an hour on the cluster.
    ///
    /// # Panics
    /// If there are more windows than the calendar has hours.
    pub fn backfill(&self, windows: u32, flags: &[&str]) -> Running {
        self.backfill_with(&self.cluster.environment(), windows, flags)
    }

    /// Like [`Self::backfill`], with these variables.
    ///
    /// # Panics
    /// As [`Self::backfill`].
    pub fn backfill_with(&self, environment: &[(String, String)], windows: u32, flags: &[&str]) -> Running {
        let (shared, nodes) = (self.sandbox.arg("shared"), self.sandbox.arg("nodes"));
        let from = "2020-01-01";
        let to = chrono::DateTime::from_timestamp(1_577_836_800 + i64::from(windows) * 3600, 0).expect("a date");
        let to = to.format("%FT%TZ").to_string();
        let what = ["backfill", "misbehave", "windowed", "--from", from, "--to", &to, "--every", "1h"];
        let engine = ["--engine", "slurm", "--shared", &shared, "--node-state", &nodes];
        self.start_with(environment, &[&what[..], &engine, flags].concat())
    }
}
