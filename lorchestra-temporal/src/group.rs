//! What a group is to Temporal: the input and the result of its workflow, and the states of its windows. `dispatch` decides what starts next.
//!
//! No I/O and no SDK here: the workflow replays this code, so it is deterministic.

use crate::dispatch::Pace;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Returns the id of the workflow of a group.
pub(crate) fn workflow_id(group: &str) -> String {
    format!("lorchestra-{group}")
}

/// The input of the workflow of a group. Paths are those on the workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupInput {
    /// The id of the group.
    pub(crate) group: String,
    /// The command that each window runs.
    pub(crate) command: WindowCommand,
    /// Limits.
    pub(crate) limits: Limits,
    /// The account of each window.
    pub(crate) accounts: Vec<u32>,
    /// What earlier executions of the workflow have done.
    pub(crate) progress: Progress,
    /// How long the windows took that they have started last.
    pub(crate) pace: Pace,
    /// The queued windows that were started with others, and did not end.
    pub(crate) again: BTreeSet<u32>,
}

/// What is the same for all windows of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WindowCommand {
    /// The `lorchestra` that was named at submission. A worker may have its own.
    pub(crate) lorchestra: Option<String>,
    /// The plan.
    pub(crate) plan: String,
    /// The directory of the claims.
    pub(crate) claims: String,
    /// More flags of `run-window`.
    pub(crate) flags: Vec<String>,
}

/// Limits of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Maximum number of windows at once.
    pub(crate) jobs: u32,
    /// Maximum number of windows of an account at once.
    pub(crate) per_account: Option<u32>,
    /// Maximum number of starts of a window.
    pub(crate) max_attempts: u32,
    /// Longest time between two starts of a window.
    pub(crate) max_backoff: Duration,
    /// Time without a heartbeat after which a worker is considered lost.
    pub(crate) heartbeat_timeout: Duration,
    /// Longest time that a start of a window may take.
    pub(crate) window_timeout: Duration,
    /// Number of activities after which the workflow continues with an empty history.
    pub(crate) starts_per_history: u32,
}

/// The state of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WindowState {
    /// It has not started.
    Queued,
    /// It was given to a task queue, and may be running.
    Running,
    /// It is complete, by the run of its last start.
    Completed,
    /// It is complete, by another run.
    Superseded,
    /// It has failed.
    Failed,
    /// The group was cancelled.
    Cancelled,
    /// It was not submitted (`submit --windows`), and what became of it before is not known.
    Omitted,
}

impl WindowState {
    /// All states, each with its letter and its name in the output of `watch`.
    const ALL: [(Self, char, &str); 7] = [
        (Self::Queued, 'q', "queued"),
        (Self::Running, 'r', "running"),
        (Self::Completed, 'c', "completed"),
        (Self::Superseded, 's', "superseded"),
        (Self::Failed, 'f', "failed"),
        (Self::Cancelled, 'x', "cancelled"),
        (Self::Omitted, 'o', "omitted"),
    ];

    fn letter(self) -> char {
        Self::ALL.iter().find(|(state, ..)| *state == self).map_or('q', |(_, letter, _)| *letter)
    }

    fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == letter).map(|(state, ..)| *state)
    }

    /// Whether the window need not run again.
    pub(crate) fn is_complete(self) -> bool {
        matches!(self, Self::Completed | Self::Superseded)
    }

    /// Its name in the output of `watch`.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, ..)| *state == self).map_or("", |(.., name)| *name)
    }
}

/// The states of all windows, one letter each: 18,250 windows are 18 kB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct States(pub(crate) Vec<WindowState>);

impl From<States> for String {
    fn from(states: States) -> Self {
        states.0.iter().map(|state| state.letter()).collect()
    }
}

impl TryFrom<String> for States {
    type Error = String;

    fn try_from(letters: String) -> Result<Self, String> {
        let state = |letter| WindowState::from_letter(letter).ok_or_else(|| format!("no state has the letter {letter:?}"));
        letters.chars().map(state).collect::<Result<_, _>>().map(Self)
    }
}

/// How the last start of a window ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WindowEnd {
    /// Exit code of `run-window`; `None` if it was not seen.
    pub(crate) exit_code: Option<i32>,
    /// Which start it was, from 1; `None` if that is not known.
    pub(crate) attempt: Option<u32>,
    /// Why it failed.
    pub(crate) message: Option<String>,
}

impl WindowEnd {
    /// Whether it is what a window is expected to end with.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.exit_code == Some(0) && self.attempt == Some(1)
    }

    /// The end of most windows, which is not stored.
    pub(crate) fn ordinary() -> Self {
        Self { exit_code: Some(0), attempt: Some(1), message: None }
    }
}

/// What became of a window in one start of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WindowReport {
    /// The window.
    pub(crate) index: u32,
    /// Its state, for good; `None` if it has to be started again.
    pub(crate) state: Option<WindowState>,
    /// How it ended.
    #[serde(default = "WindowEnd::ordinary", skip_serializing_if = "WindowEnd::is_ordinary")]
    pub(crate) end: WindowEnd,
    /// Its duration in milliseconds; 0 if that is not known.
    pub(crate) millis: u32,
}

/// How far a group is: what `watch` asks for, the result of the workflow, and what one execution hands to the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The state of each window.
    pub(crate) states: States,
    /// The ends that are not ordinary.
    pub(crate) ends: BTreeMap<u32, WindowEnd>,
}

impl Progress {
    /// Nothing has run.
    pub(crate) fn new(windows: usize) -> Self {
        Self { states: States(vec![WindowState::Queued; windows]), ends: BTreeMap::new() }
    }

    /// Returns the windows by index, with their states.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (u32, WindowState)> {
        (0..).zip(self.states.0.iter().copied())
    }

    /// Returns the number of windows.
    pub(crate) fn len(&self) -> usize {
        self.states.0.len()
    }

    /// Returns the number of windows in a state.
    pub(crate) fn count(&self, wanted: WindowState) -> usize {
        self.states.0.iter().filter(|state| **state == wanted).count()
    }

    /// Returns the number of windows that need not run again.
    pub(crate) fn complete(&self) -> usize {
        self.states.0.iter().filter(|state| state.is_complete()).count()
    }

    /// Whether no window needs to run again.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete() == self.len()
    }

    /// Returns how the last start of a window ended.
    pub(crate) fn end(&self, index: u32) -> WindowEnd {
        let is_complete = self.states.0.get(index as usize).is_some_and(|state| state.is_complete());
        self.ends.get(&index).cloned().unwrap_or_else(|| if is_complete { WindowEnd::ordinary() } else { WindowEnd::default() })
    }

    /// Queues what is to run now: what is not complete, and in `only` if that is given. A window that has a claim is complete.
    pub(crate) fn queue(&mut self, claimed: &BTreeSet<u32>, only: Option<&BTreeSet<u32>>) {
        for (index, state) in (0..).zip(&mut self.states.0).filter(|(_, state)| !state.is_complete()) {
            let new = if claimed.contains(&index) {
                WindowState::Completed
            } else if only.is_none_or(|only| only.contains(&index)) {
                WindowState::Queued
            } else if matches!(state, WindowState::Queued | WindowState::Running) {
                WindowState::Omitted
            } else {
                continue;
            };
            *state = new;
            self.ends.remove(&index);
        }
    }

    /// What it becomes when the workflow is ended from outside: nothing more runs.
    pub(crate) fn abandoned(mut self) -> Self {
        for state in &mut self.states.0 {
            if matches!(state, WindowState::Queued | WindowState::Running) {
                *state = WindowState::Cancelled;
            }
        }
        self
    }

    /// Describes it in a few words.
    pub(crate) fn summary(&self) -> String {
        let mut text = format!("{} of {} windows complete", self.complete(), self.len());
        let others =
            [WindowState::Failed, WindowState::Cancelled, WindowState::Omitted, WindowState::Running, WindowState::Queued];
        for state in others {
            match self.count(state) {
                0 => {}
                some => text.push_str(&format!(", {some} {}", state.name())),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_failed_or_was_cancelled_is_queued_again_unless_it_is_left_out() {
        let mut progress = Progress::new(7);
        progress.states = States::try_from("csfxrqf".to_owned()).unwrap();
        let failure = WindowEnd { exit_code: Some(1), attempt: Some(1), message: Some("no".into()) };
        progress.ends =
            [(1, WindowEnd { attempt: Some(2), ..WindowEnd::ordinary() }), (2, failure.clone()), (6, failure.clone())].into();
        let mut all = progress.clone();
        all.queue(&[6].into(), None);
        assert_eq!(String::from(all.states.clone()), "csqqqqc", "the last one has a claim");
        assert_eq!((all.ends.keys().copied().collect::<Vec<_>>(), all.end(6)), (vec![1], WindowEnd::ordinary()));
        let mut failed = progress.clone();
        failed.queue(&BTreeSet::new(), Some(&[2].into()));
        assert_eq!(String::from(failed.states.clone()), "csqxoof");
        assert_eq!((failed.end(2), failed.end(6)), (WindowEnd::default(), failure));
        let mut missing = progress;
        missing.queue(&BTreeSet::new(), Some(&[3, 4, 5].into()));
        assert_eq!(String::from(missing.states.clone()), "csfqqqf");
        assert_eq!(missing.summary(), "2 of 7 windows complete, 2 failed, 3 queued");
        States::try_from("cz".to_owned()).unwrap_err();
    }
}
