//! The state of one attempt as the dispatcher sees it: how each event changes it, and which action follows. Pure: time is a parameter,
//! signals are numbers, actions are return values.
//!
//! Its state at the worker's death is one half of the evidence ([`crate::run::decision`]). The tests go through every order in which events
//! can happen.

use crate::run::decision::{Ending, Stop};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::time::{Duration, Instant};

/// How long a worker may stay alive after its final record.
const LINGER: Duration = Duration::from_secs(2);
/// Signals within this time count as one request to stop: a closing terminal or a service manager may send several.
const TOGETHER: Duration = Duration::from_secs(1);

/// The limits of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptLimits {
    /// Time limit, from the start of the attempt; `None` for no limit.
    pub(super) timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
}

/// An action that the dispatcher must take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Record this reason in the note, then send SIGTERM to the group.
    Terminate(Ending),
    /// Send SIGKILL.
    Kill,
}

/// The state of an attempt.
#[derive(Debug, Clone)]
pub(super) struct StopState {
    limits: AttemptLimits,
    started: Instant,
    ending: Option<Ending>,
    ended_at: Instant,
    kill_at: Option<Instant>,
    lingers: bool,
    stop_signal: Option<i32>,
    stopped: Option<Stop>,
}

impl StopState {
    /// Creates the state of an attempt that starts now.
    pub(super) fn new(limits: AttemptLimits, now: Instant) -> Self {
        Self {
            limits,
            started: now,
            ending: None,
            ended_at: now,
            kill_at: None,
            lingers: false,
            stop_signal: None,
            stopped: None,
        }
    }

    /// Why the job was stopped, if it was.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The first signal that asked to stop, even if it came too late to be the reason: it rules out another attempt.
    pub(super) fn stop_signal(&self) -> Option<i32> {
        self.stop_signal
    }

    /// Whether the final record was ingested and the worker is still alive.
    pub(super) fn lingers(&self) -> bool {
        self.lingers
    }

    /// When the next action is due without further events.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.deadline(), self.kill_at].into_iter().flatten().min()
    }

    fn deadline(&self) -> Option<Instant> {
        self.limits.timeout.filter(|_| self.ending.is_none() && !self.lingers).map(|timeout| self.started + timeout)
    }

    /// Whether the time limit has passed and the job has not been stopped yet.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| now >= at)
    }

    /// Sets which process of the job is stopped now, for the message about the time limit.
    pub(super) fn stopped(&mut self, stopped: Option<Stop>) {
        self.stopped = stopped;
    }

    /// Handles signals that arrived, the most significant first.
    pub(super) fn signals(&mut self, signals: &[i32], now: Instant) -> Option<Action> {
        let signal = signals.first().copied()?;
        self.stop_signal.get_or_insert(signal);
        if self.lingers {
            self.kill_at = Some(now);
        } else if self.ending.is_none() {
            return Some(self.end(Ending::Cancelled { signal }, now));
        } else if self.is_impatient(signals, now) {
            self.kill_at = Some(now);
        }
        None
    }

    /// Handles signals that arrived together with the worker's death.
    pub(super) fn signals_at_death(&mut self, signals: &[i32]) {
        self.stop_signal = self.stop_signal.or_else(|| signals.first().copied());
    }

    /// Handles the arrival of the final record.
    pub(super) fn final_seen(&mut self, now: Instant) {
        if !self.lingers {
            self.lingers = true;
            self.kill_at = Some(self.kill_at.map_or(now + LINGER, |at| at.min(now + LINGER)));
        }
    }

    /// Handles the passing of time.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Action> {
        if self.is_overdue(now)
            && let Some(after) = self.limits.timeout
        {
            return Some(self.end(Ending::Timeout { after, stopped: self.stopped }, now));
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            return Some(Action::Kill);
        }
        None
    }

    fn end(&mut self, ending: Ending, now: Instant) -> Action {
        self.ending = Some(ending);
        self.ended_at = now;
        self.kill_at = Some(now + self.limits.grace);
        Action::Terminate(ending)
    }

    /// Whether signals after the first stop ask for an immediate kill.
    fn is_impatient(&self, stop_signal: &[i32], now: Instant) -> bool {
        // Ctrl-C after Ctrl-C or after the time limit comes from a person who does not want to wait.
        let by_person = matches!(self.ending, Some(Ending::Cancelled { signal: SIGINT } | Ending::Timeout { .. }));
        let later = now - self.ended_at >= TOGETHER;
        (by_person && stop_signal.contains(&SIGINT))
            || (later && (stop_signal.contains(&SIGINT) || stop_signal.contains(&SIGTERM)))
    }
}

#[cfg(test)]
mod tests;
