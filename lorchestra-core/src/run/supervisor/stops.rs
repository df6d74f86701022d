//! What of a job is stopped (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU): its worker, and the processes below it.
//!
//! A stopped process waits until somebody sends SIGCONT, and a limit on idle time does not see it. The dispatcher and a trial ask
//! [`Stops::look`] in their loops and report each stop once, within seconds; at the time limit they ask [`Stops::now`], so that the message
//! names the stop. The worker's own stops come from wait(2), at once. Those of its descendants are read from /proc every two seconds: the kernel
//! reports them to their parents only. Without /proc only the worker's are seen.

use super::child::{StopChange, Worker};
use crate::host::process::{self, Stat};
use crate::host::signals::signal_name;
use crate::run::decision::Stop;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two looks at the descendants.
const EVERY: Duration = Duration::from_secs(2);
/// Descendants that are looked at, at most.
const MOST: usize = 1000;

/// The stops of one worker and what it started.
#[derive(Debug)]
pub(super) struct Stops {
    look_at: Instant,
    worker: Option<Stop>,
    /// Stopped descendants that were reported, with their starts: a pid may be another process's later.
    below: BTreeMap<u32, (u64, Stop)>,
}

impl Stops {
    /// A worker that starts now.
    pub(super) fn new(now: Instant) -> Self {
        Self { look_at: now + EVERY, worker: None, below: BTreeMap::new() }
    }

    /// When the descendants are looked at next.
    pub(super) fn next(&self) -> Instant {
        self.look_at
    }

    /// Looks, and warns of each stop that is new.
    pub(super) fn look(&mut self, worker: &Worker, now: Instant) {
        match worker.stop_change() {
            Some(StopChange::Stopped(signal)) => {
                self.worker = Some(Stop { signal: Some(signal), process: None });
                let signal = signal_name(signal);
                // The time limit goes on.
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

    /// What is stopped at this moment, the worker before its descendants.
    pub(super) fn now(&mut self, worker: &Worker) -> Option<Stop> {
        match worker.stop_change() {
            Some(StopChange::Stopped(signal)) => self.worker = Some(Stop { signal: Some(signal), process: None }),
            Some(StopChange::Continued) => self.worker = None,
            None => {}
        }
        self.worker.or_else(|| stopped_below(worker).into_values().map(|(_, stop)| stop).next())
    }
}

/// Stopped processes below the worker, and below what it left to this process as a subreaper.
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
        // One that a debugger holds is `t`, not `T`.
        if let Ok(stat) = Stat::of(pid)
            && stat.state == 'T'
        {
            stopped.insert(pid, (stat.start, Stop { signal: stat.stop_signal, process: Some(pid) }));
        }
        pending.extend(process::children_of(pid));
    }
    stopped
}
