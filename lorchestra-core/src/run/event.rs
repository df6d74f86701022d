//! The one stream of typed events about a run, which every observer reads: terminal, JSON, progress bar, failure hook, diagnostics.
//!
//! [`super::launch`] sends them from the thread that called it: `Recovered` (where there was anything to close, and again right before the run if
//! its own job was), `Waiting`, then either `Skipped`, `Found`, `Refused`, or `Started` with its `AttemptFailed`s and `Ended`; then a `Delivered` for each
//! destination and `Pruned`. How far a job is comes by another way ([`super::supervisor::progress`]): it is read as often as somebody looks. An observer sees values and changes nothing:
//! what it does, and whether it fails, has no effect on the run. (These are not the job's own events, which go to the store.)

use super::recovery::Closed;
use crate::delivery::{DestinationConfig, Report};
use crate::outcome::Failure;
use crate::plan::RunSpec;
use crate::store::{Refusal, Run, StoreError, Terminal};
use std::path::Path;
use std::time::Duration;

/// Something that happened around a run.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// Runs whose supervisors had died were closed, or could not be closed for now.
    Recovered(&'a Closed),
    /// The run waits until this other run has ended.
    Waiting {
        /// The run that waits.
        spec: &'a RunSpec,
        /// The run that is waited for.
        holder: &'a str,
    },
    /// The run is recorded; its worker has not started the job yet.
    Started {
        /// Its id.
        run_id: &'a str,
        /// What it is.
        spec: &'a RunSpec,
    },
    /// An attempt failed, and there will be another one.
    AttemptFailed(AttemptFailed<'a>),
    /// The run was recorded as skipped, because another one is running.
    Skipped {
        /// Its id.
        run_id: &'a str,
        /// What it is.
        spec: &'a RunSpec,
        /// The run that is running, where it is known.
        held_by: Option<&'a str>,
    },
    /// The run was refused before it began, and that is recorded.
    Refused {
        /// Its id.
        run_id: &'a str,
        /// What it was, and why it was refused.
        refusal: &'a Refusal,
    },
    /// A run of the id that was asked for has ended before; nothing was started.
    Found {
        /// The run.
        run: &'a Run,
        /// Its terminal event, unless retention has removed it.
        terminal: Option<&'a Terminal>,
    },
    /// The run has ended, and its end is recorded.
    Ended {
        /// Its id.
        run_id: &'a str,
        /// What it was.
        spec: &'a RunSpec,
        /// How it ended, and what was measured.
        terminal: &'a Terminal,
        /// Output of its last attempt.
        output: &'a Path,
    },
    /// Delivery beside the run has finished, to one destination.
    Delivered {
        /// Where to.
        to: &'a DestinationConfig,
        /// What this process delivered, and why not everything.
        report: &'a Report,
        /// Events of all runs that are pending there, counted up to [`COUNTED`](crate::store::COUNTED); or why that is not known.
        pending: Result<u64, &'a StoreError>,
        /// Whether the caller insists on delivery.
        required: bool,
    },
    /// Retention has removed what is older than configured, or could not.
    Pruned(&'a Result<crate::store::retention::Pruned, StoreError>),
}

/// An attempt that failed, before the next one.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFailed<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many there may be in all.
    pub of: u32,
    /// How it failed.
    pub failure: &'a Failure,
    /// How long until the next one.
    pub wait: Duration,
}

/// Sees the events of a run.
pub trait Observer {
    /// Is called once for each event, in order.
    fn observe(&mut self, event: &RunEvent<'_>);
}

impl<T: Observer + ?Sized> Observer for &mut T {
    fn observe(&mut self, event: &RunEvent<'_>) {
        (**self).observe(event);
    }
}

/// Several observers, called one after the other.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "observers are anything")]
pub struct Observers<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Observers<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        for observer in &mut self.0 {
            observer.observe(event);
        }
    }
}
