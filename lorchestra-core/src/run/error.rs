//! Why a run could not begin, or its end not be recorded.

use super::intake::IntakeError;
use super::recovery;
use crate::host::state::StateError;
use crate::plan::time;
use crate::store::StoreError;
use chrono::{DateTime, Utc};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a run could not be begun, or its end not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another run of the same job and account goes on. No run was recorded.
    #[error("{}/{} is already running", .0.package, .0.job)]
    Overlap(Box<Overlap>),
    /// The run was to begin at the bookmark, and another one has moved that to its end or behind it. No run was recorded.
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
        /// Where it is.
        bookmark: DateTime<Utc>,
        /// Where the window ends.
        until: DateTime<Utc>,
    },
    /// A run of the id that was asked for is running, or just beginning, in another process. No run was recorded.
    #[error("run {run_id} is already running")]
    Running {
        /// The id.
        run_id: String,
    },
    /// A run of the id that was asked for is one of another job.
    #[error("run {run_id} is a run of {package}/{job}")]
    OtherJob {
        /// The id.
        run_id: String,
        /// Package of its job.
        package: String,
        /// Name of its job.
        job: String,
    },
    /// A signal came before the run was recorded. No run was recorded.
    #[error("interrupted by {} before the run started", crate::host::signals::signal_name(*signal))]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// Somebody else has closed the run meanwhile: another process took this one for dead.
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
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Predecessors could not be closed.
    #[error(transparent)]
    Recovery(#[from] recovery::RecoveryError),
    /// The worker could not be started or waited for.
    #[error("{doing}")]
    Process {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The job has ended, and its end cannot be recorded yet; it is safe in the spool, and the next command records it.
    #[error("the end of run {run_id} could not be recorded")]
    NotRecorded {
        /// The run.
        run_id: String,
        /// Why.
        source: Box<IntakeError>,
    },
}

/// Who is in the way of a run.
#[derive(Debug)]
pub struct Overlap {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Its account.
    pub account: Option<String>,
    /// The run that holds the lock, where it is known.
    pub holder: Option<String>,
    /// How long it was waited for, where that was asked for.
    pub waited: Option<Duration>,
}
