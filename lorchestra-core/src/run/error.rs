//! Why a run could not start, or its end could not be recorded.

use super::intake::IntakeError;
use super::recovery;
use crate::host::state::StateError;
use crate::plan::time;
use crate::store::StoreError;
use chrono::{DateTime, Utc};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a run could not start, or its end could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another run of the same job and account is running. No run was recorded.
    #[error("{}/{} is already running", .0.package, .0.job)]
    Overlap(Box<Overlap>),
    /// The run was to start at the bookmark, and another run has moved it to or past this run's end. No run was recorded.
    #[error(
        "another run has already moved the bookmark of {package}/{job} to {}, which is at or past this run's end ({})",
        time::show(*bookmark),
        time::show(*until)
    )]
    AllDone {
        /// Package of the job.
        package: String,
        /// Name of the job.
        job: String,
        /// The bookmark's position.
        bookmark: DateTime<Utc>,
        /// The end of the window.
        until: DateTime<Utc>,
    },
    /// A run with the requested id is running, or just starting, in another process. No run was recorded.
    #[error("run {run_id} is already running")]
    Running {
        /// The id.
        run_id: String,
    },
    /// The run with the requested id belongs to another job.
    #[error("run {run_id} is a run of {package}/{job}")]
    OtherJob {
        /// The id.
        run_id: String,
        /// Package of its job.
        package: String,
        /// Name of its job.
        job: String,
    },
    /// A signal arrived before the run was recorded. No run was recorded.
    #[error("interrupted by {} before the run started", crate::host::signals::signal_name(*signal))]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// The run is that of a member of a group that is cancelled. No run was recorded.
    #[error("the group of run {run_id} is cancelled")]
    GroupCancelled {
        /// The run's id.
        run_id: String,
    },
    /// Another process considered this one dead and closed its run.
    #[error("run {run_id} was closed by another process while it ran")]
    ClosedElsewhere {
        /// The run.
        run_id: String,
    },
    /// The library changed between its listing and its start.
    #[error("{path} was replaced while the run was being prepared", path = path.display())]
    Changed {
        /// The library.
        path: PathBuf,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Runs of dead supervisors could not be closed.
    #[error(transparent)]
    Recovery(#[from] recovery::RecoveryError),
    /// The worker could not be started or waited for.
    #[error("{doing}")]
    Process {
        /// The operation that failed.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The job has succeeded, and whether its run counts cannot be decided yet. The next command does that.
    #[error("the claim of run {run_id} cannot be taken or read: {path}", path = path.display())]
    NotClaimed {
        /// The run.
        run_id: String,
        /// The claim.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The job has ended, and its end cannot be recorded yet. It is safe in the spool, and the next command records it.
    #[error("the end of run {run_id} could not be recorded")]
    NotRecorded {
        /// The run.
        run_id: String,
        /// The reason.
        source: Box<IntakeError>,
    },
}

/// The run that prevents another from starting.
#[derive(Debug)]
pub struct Overlap {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Its account.
    pub account: Option<String>,
    /// The run that holds the lock, if known.
    pub holder: Option<String>,
    /// How long the run waited for it, if it did.
    pub waited: Option<Duration>,
}
