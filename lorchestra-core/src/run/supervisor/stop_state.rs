//! The course of one attempt as the dispatcher sees it: what each thing that happens makes of those before it, and what is to be done.
//! Pure: time is a value, signals are numbers, and what is to be done is an answer.
//!
//! What it knows at the worker's death is half of the evidence ([`crate::run::decision`]); the tests below go through every order in which
//! things can happen.

use crate::run::decision::{Ending, Stop};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::time::{Duration, Instant};

/// How long a worker may stay after its final record.
const LINGER: Duration = Duration::from_secs(2);
/// Signals within this time are one wish to end: a terminal that closes, or a service manager, may send several.
const TOGETHER: Duration = Duration::from_secs(1);

/// Limits of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptLimits {
    /// From the start of the attempt; `None`: as long as it takes.
    pub(super) timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Note this ending, then send SIGTERM to the group.
    Terminate(Ending),
    /// Send SIGKILL.
    Kill,
}

/// Where an attempt is.
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
    /// An attempt that starts now.
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

    /// Why the job was told to end, if it was.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The first signal that asked for an end, also one that came too late to be the ending: there is to be no other attempt.
    pub(super) fn stop_signal(&self) -> Option<i32> {
        self.stop_signal
    }

    /// Whether the final record was seen.
    pub(super) fn lingers(&self) -> bool {
        self.lingers
    }

    /// When there is something to do by itself.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.deadline(), self.kill_at].into_iter().flatten().min()
    }

    fn deadline(&self) -> Option<Instant> {
        self.limits.timeout.filter(|_| self.ending.is_none() && !self.lingers).map(|timeout| self.started + timeout)
    }

    /// Whether the time limit has passed and the job was not ended yet.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| now >= at)
    }

    /// What of the job is stopped now: part of the ending when the time limit has passed.
    pub(super) fn stopped(&mut self, stopped: Option<Stop>) {
        self.stopped = stopped;
    }

    /// These signals came, the most telling first.
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

    /// These signals came with the worker's death.
    pub(super) fn signals_at_death(&mut self, signals: &[i32]) {
        self.stop_signal = self.stop_signal.or_else(|| signals.first().copied());
    }

    /// The final record was seen.
    pub(super) fn final_seen(&mut self, now: Instant) {
        if !self.lingers {
            self.lingers = true;
            self.kill_at = Some(self.kill_at.map_or(now + LINGER, |at| at.min(now + LINGER)));
        }
    }

    /// The time has come to look what time it is.
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

    /// Whether signals after the first ending ask for the kill at once.
    fn is_impatient(&self, stop_signal: &[i32], now: Instant) -> bool {
        // Ctrl-C after Ctrl-C, or after the job was told to end by its deadline, is a person who does not want to wait.
        let by_person = matches!(self.ending, Some(Ending::Cancelled { signal: SIGINT } | Ending::Timeout { .. }));
        let later = now - self.ended_at >= TOGETHER;
        (by_person && stop_signal.contains(&SIGINT))
            || (later && (stop_signal.contains(&SIGINT) || stop_signal.contains(&SIGTERM)))
    }
}

#[cfg(test)]
mod tests;
