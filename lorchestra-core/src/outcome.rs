//! How a run ended, as a value: completed, or failed with a cause.
//!
//! The vocabulary that the plan (which causes are retried), the store, delivery and every observer share. Imports nothing.
//! What decides which outcome a run has is `run::decision`.

use serde::{Deserialize, Serialize};

/// Why a run failed. A closed set; the names are part of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// The run was told to end.
    Cancelled,
    /// The supervisor died or failed, and the worker with it.
    Abandoned,
    /// The library could not be loaded.
    Load,
    /// Events may be missing: the spool could not be kept.
    Spool,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 9] = [
        Self::Error,
        Self::Panic,
        Self::Signal,
        Self::Exit,
        Self::Timeout,
        Self::Cancelled,
        Self::Abandoned,
        Self::Load,
        Self::Spool,
    ];

    /// Returns the cause of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// As stored, sent and shown.
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
        }
    }
}

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The job returned `Ok`.
    Completed,
    /// Anything else.
    Failed(Failure),
}

/// How and why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// For people: one or two sentences, without control characters.
    pub message: String,
    /// Whether trying again would not help.
    pub permanent: bool,
    /// What the job itself said, where that is not the outcome.
    pub job_result: Option<String>,
    /// The signal, where one was the cause.
    pub signal: Option<i32>,
    /// The exit code, where that was the cause.
    pub exit_code: Option<i32>,
}
