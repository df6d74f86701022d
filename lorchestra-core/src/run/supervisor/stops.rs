//! Detects stopped processes of a job (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU): the worker and its descendants.
//!
//! A stopped process waits for SIGCONT, and a limit on idle time does not detect it. The dispatcher and a trial call [`Stops::look`] in
//! their loops, which reports each stop once, within seconds. At the time limit they call [`Stops::now`], so that the message mentions the
//! stop. Stops of the worker come from wait(2), immediately. Those of its descendants are read from /proc every two seconds, because the
//! kernel reports them only to their parents. Without /proc only the worker's stops are detected.

use super::child::{StopChange, Worker};
use crate::host::process::{self, Stat};
use crate::host::signals::signal_name;
use crate::run::decision::Stop;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Interval between two scans of the descendants.
const EVERY: Duration = Duration::from_secs(2);
/// Maximum number of descendants to check.
const MOST: usize = 1000;

/// The stops of one worker and its descendants.
#[derive(Debug)]
pub(super) struct Stops {
    look_at: Instant,
    worker: Option<Stop>,
    /// Stopped descendants that have been reported, with their start times, because pids are reused.
    below: BTreeMap<u32, (u64, Stop)>,
}

impl Stops {
    /// Creates the state for a worker that starts now.
    pub(super) fn new(now: Instant) -> Self {
        Self { look_at: now + EVERY, worker: None, below: BTreeMap::new() }
    }

    /// When the next scan of the descendants is due.
    pub(super) fn next(&self) -> Instant {
        self.look_at
    }

    /// Checks all processes, and warns about each new stop.
    pub(super) fn look(&mut self, worker: &Worker, now: Instant) {
        match worker.stop_change() {
            Some(StopChange::Stopped(signal)) => {
                self.worker = Some(Stop { signal: Some(signal), process: None });
                let signal = signal_name(signal);
                // The time limit keeps running.
                tracing::warn!("the job was stopped by {signal}; it continues when it receives SIGCONT");
            }
            Some(StopChange::Continued) => self.worker = None,
            None => {}
        }
        if now < self.look_at {
            return;
        }
        self.look_at = now + EVERY;
        let found = stopped_below(worker);
        for (pid, (start, stop)) in &found {
            if self.below.get(pid).is_none_or(|(known, _)| known != start) {
                let by = stop.signal.map_or_else(|| "a signal".to_owned(), signal_name);
                tracing::warn!("process {pid}, started by the job, was stopped by {by}; it continues when it receives SIGCONT");
            }
        }
        self.below = found;
    }

    /// Returns what is stopped now, the worker before its descendants.
    pub(super) fn now(&mut self, worker: &Worker) -> Option<Stop> {
        match worker.stop_change() {
            Some(StopChange::Stopped(signal)) => self.worker = Some(Stop { signal: Some(signal), process: None }),
            Some(StopChange::Continued) => self.worker = None,
            None => {}
        }
        self.worker.or_else(|| stopped_below(worker).into_values().map(|(_, stop)| stop).next())
    }
}

/// Returns the stopped processes below the worker, and below orphans that this process adopted as a subreaper.
fn stopped_below(worker: &Worker) -> BTreeMap<u32, (u64, Stop)> {
    let mut pending: Vec<u32> = process::children_of(worker.pid());
    pending.extend(worker.orphan_pids());
    let mut stopped = BTreeMap::new();
    let mut looked_at = 0;
    while let Some(pid) = pending.pop() {
        looked_at += 1;
        if looked_at > MOST {
            break;
        }
        // The state of a process traced by a debugger is `t`, not `T`.
        if let Ok(stat) = Stat::of(pid)
            && stat.state == 'T'
        {
            stopped.insert(pid, (stat.start, Stop { signal: stat.stop_signal, process: Some(pid) }));
        }
        pending.extend(process::children_of(pid));
    }
    stopped
}
