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
    /// The worker exited without a final record.
    Exit,
    /// The run's deadline passed.
    Timeout,
    /// Someone stopped the run.
    Cancelled,
    /// The supervisor died or failed, and its worker with it.
    Abandoned,
    /// The library could not be loaded.
    Load,
    /// Events may be missing because the spool could not be written.
    Spool,
    /// Another run of the same window has completed it.
    Superseded,
    /// The claim of its window was not taken.
    Claim,
    /// Refused: the plugin is missing, untrusted or unusable.
    Plugin,
    /// Refused: a secret is missing or empty.
    Secret,
    /// Refused: another run of the same job and account is running.
    Overlap,
    /// Refused: the configuration is wrong.
    Config,
    /// Refused: the host has no process, thread or file descriptor left.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The cause.
    pub cause: Cause,
    /// One or two sentences for people, without control characters.
    pub message: String,
    /// Whether a retry would be useless.
    pub permanent: bool,
    /// The job's own result, if it is not the outcome.
    pub job_result: Option<String>,
    /// The signal, if one was the cause.
    pub signal: Option<i32>,
    /// The exit code, if it was the cause.
    pub exit_code: Option<i32>,
}
