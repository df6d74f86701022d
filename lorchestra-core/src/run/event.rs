//! The one stream of typed events about a run, for all observers: terminal, JSON, progress bar, failure hook, diagnostics.
//!
//! [`super::launch`] sends them from the thread that called it: `Recovered` (if there was anything to close, and again right before the run
//! if a run of its own job was closed), `Waiting`, then either `Skipped`, `Found`, `Claimed`, `Refused`, or `Started` with its `AttemptFailed`s and `Ended`; then
//! a `Delivered` for each destination and `Pruned`. Progress is not in the stream ([`super::supervisor::progress`]): observers read it when
//! they need it. Observers receive values and change nothing: neither their actions nor their failures affect the run. (These are not the
//! job's own events, which go to the store.)

use super::recovery::Closed;
use crate::delivery::{DestinationConfig, Report};
use crate::outcome::Failure;
use crate::plan::RunSpec;
use crate::store::{Refusal, Run, StoreError, Terminal};
use std::path::Path;
use std::time::Duration;

/// Something that happened to or around a run.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// Runs of dead supervisors were closed, or could not be closed for now.
    Recovered(&'a Closed),
    /// The run waits for another run to end.
    Waiting {
        /// The run that waits.
        spec: &'a RunSpec,
        /// The id of the run that it waits for.
        holder: &'a str,
    },
    /// The run is recorded; its worker has not started the job yet.
    Started {
        /// The run's id.
        run_id: &'a str,
        /// Its spec.
        spec: &'a RunSpec,
    },
    /// An attempt failed, and another one follows.
    AttemptFailed(AttemptFailed<'a>),
    /// The run was recorded as skipped because another one is running.
    Skipped {
        /// The run's id.
        run_id: &'a str,
        /// Its spec.
        spec: &'a RunSpec,
        /// The other run, if known.
        held_by: Option<&'a str>,
    },
    /// The run was refused before it started, and the refusal is recorded.
    Refused {
        /// Its id.
        run_id: &'a str,
        /// The run and the cause of its refusal.
        refusal: &'a Refusal,
    },
    /// A run with the requested id has already ended; nothing was started.
    Found {
        /// The run.
        run: &'a Run,
        /// Its terminal event, unless retention has removed it.
        terminal: Option<&'a Terminal>,
    },
    /// Another run has the claim of the window; nothing was started.
    Claimed {
        /// The spec that would have run.
        spec: &'a RunSpec,
        /// The id of the other run.
        holder: &'a str,
    },
    /// The run has ended, and its end is recorded.
    Ended {
        /// The run's id.
        run_id: &'a str,
        /// Its spec.
        spec: &'a RunSpec,
        /// How it ended, and the measurements.
        terminal: &'a Terminal,
        /// Path of the output of its last attempt.
        output: &'a Path,
    },
    /// Delivery to one destination during the run has finished.
    Delivered {
        /// The destination.
        to: &'a DestinationConfig,
        /// What this process delivered, and why not everything.
        report: &'a Report,
        /// Number of pending events of all runs for that destination, counted up to [`COUNTED`](crate::store::COUNTED); or why it is
        /// unknown.
        pending: Result<u64, &'a StoreError>,
        /// Whether the caller requires delivery.
        required: bool,
    },
    /// Retention has removed what is older than configured, or has failed.
    Pruned(&'a Result<crate::store::retention::Pruned, StoreError>),
}

/// A failed attempt that another one follows.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFailed<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The maximum number of attempts.
    pub of: u32,
    /// How it failed.
    pub failure: &'a Failure,
    /// The delay before the next attempt.
    pub wait: Duration,
}

/// Receives the events of a run.
pub trait Observer {
    /// Called once for each event, in order.
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
