//! How a run ended, as a value: completed, or failed with a cause.
//!
//! The vocabulary shared by the plan (which causes are retried), the store, delivery and all observers. Imports nothing. `run::decision`
//! decides which outcome a run has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a run failed, or was refused before it began. A closed set; its names are part of the event envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The job returned an error.
    Error,
    /// The job panicked.
    Panic,
    /// The worker was killed by a signal.
    Signal,
    /// The worker exited without a final record, with any exit code.
    Exit,
    /// The job was stopped at its timeout.
    Timeout,
    /// The run was stopped by Ctrl-C, SIGTERM, SIGHUP or `runs stop`.
    Cancelled,
    /// Supervisor and worker died before the job finished, or the supervisor failed; or the run's spool is gone.
    Abandoned,
    /// The library could not be loaded, or the worker died while loading it.
    Load,
    /// Events may be missing: the spool could not be written, or the job closed its descriptor.
    Spool,
    /// Another run of the same window has its claim; the window is complete.
    Superseded,
    /// The job succeeded, but the claim of its window was not taken: its events were not delivered in time, or its supervisor died before
    /// that.
    Claim,
    /// Refused: the plugin is missing, broken, not trusted, not locked, or not the one that a spec requires.
    Plugin,
    /// Refused: a secret is missing, empty, or readable by other users.
    Secret,
    /// Refused: another run of the same job and account is running.
    Overlap,
    /// Refused: the configuration is wrong, or `--require-delivery` has nowhere to deliver to.
    Config,
    /// Refused: the host has no process, thread or file descriptor left for the run.
    Host,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 16] = [
        Self::Error,
        Self::Panic,
        Self::Signal,
        Self::Exit,
        Self::Timeout,
        Self::Cancelled,
        Self::Abandoned,
        Self::Load,
        Self::Spool,
        Self::Superseded,
        Self::Claim,
        Self::Plugin,
        Self::Secret,
        Self::Overlap,
        Self::Config,
        Self::Host,
    ];

    /// Returns the cause with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// The name as stored, sent and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Signal => "signal",
            Self::Exit => "exit",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Load => "load",
            Self::Spool => "spool",
            Self::Superseded => "superseded",
            Self::Claim => "claim",
            Self::Plugin => "plugin",
            Self::Secret => "secret",
            Self::Overlap => "overlap",
            Self::Config => "config",
            Self::Host => "host",
        }
    }
}

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The job returned `Ok`.
    Completed,
    /// The run did not complete, or events may be missing.
    Failed(Failure),
}

/// How and why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Why the run failed.
    pub cause: Cause,
    /// One or two sentences for people, without control characters.
    pub message: String,
    /// Whether a retry would be useless.
    pub permanent: bool,
    /// The result that the job itself had returned before a timeout or a signal ended it.
    pub job_result: Option<String>,
    /// The signal, if one was the cause.
    pub signal: Option<i32>,
    /// The exit code, if it was the cause.
    pub exit_code: Option<i32>,
}
