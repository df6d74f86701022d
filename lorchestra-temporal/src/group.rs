//! What a group is to Temporal: the input and the result of its workflow, and which window starts next.
//!
//! No I/O and no SDK here: the workflow replays this code, so it is deterministic.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

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

/// Limits of a group. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Maximum number of windows at once.
    pub(crate) jobs: u32,
    /// Maximum number of windows of an account at once.
    pub(crate) per_account: Option<u32>,
    /// Maximum number of starts of a window.
    pub(crate) max_attempts: u32,
    /// Longest time between two starts of a window.
    pub(crate) max_backoff: u64,
    /// Time without a heartbeat after which a worker is considered lost.
    pub(crate) heartbeat_timeout: u64,
    /// Longest time that a start of a window may take.
    pub(crate) window_timeout: u64,
    /// Number of windows after which the workflow continues with an empty history.
    pub(crate) windows_per_history: u32,
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
}

impl WindowState {
    const ALL: [(Self, char); 6] = [
        (Self::Queued, 'q'),
        (Self::Running, 'r'),
        (Self::Completed, 'c'),
        (Self::Superseded, 's'),
        (Self::Failed, 'f'),
        (Self::Cancelled, 'x'),
    ];

    fn letter(self) -> char {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or('q', |(_, letter)| *letter)
    }

    fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == letter).map(|(state, _)| *state)
    }

    /// Whether the window need not run again.
    pub(crate) fn is_complete(self) -> bool {
        matches!(self, Self::Completed | Self::Superseded)
    }

    /// Its name in the output of `watch`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
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
    fn is_ordinary(&self) -> bool {
        self.exit_code == Some(0) && self.attempt == Some(1)
    }

    /// The end of most windows, which is not stored.
    pub(crate) fn ordinary() -> Self {
        Self { exit_code: Some(0), attempt: Some(1), message: None }
    }
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

    /// Returns the number of windows in a state.
    pub(crate) fn count(&self, wanted: WindowState) -> usize {
        self.states.0.iter().filter(|state| **state == wanted).count()
    }

    /// Returns how the last start of a window ended.
    pub(crate) fn end(&self, index: u32) -> WindowEnd {
        let is_complete = self.states.0.get(index as usize).is_some_and(|state| state.is_complete());
        self.ends.get(&index).cloned().unwrap_or_else(|| if is_complete { WindowEnd::ordinary() } else { WindowEnd::default() })
    }

    /// Queues everything that is not complete.
    pub(crate) fn restart(&mut self) {
        for state in self.states.0.iter_mut().filter(|state| !state.is_complete()) {
            *state = WindowState::Queued;
        }
        let states = &self.states.0;
        self.ends.retain(|index, _| states.get(*index as usize).is_some_and(|state| state.is_complete()));
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
        let complete = self.states.0.iter().filter(|state| state.is_complete()).count();
        let mut text = format!("{complete} of {} windows complete", self.states.0.len());
        for state in [WindowState::Failed, WindowState::Cancelled, WindowState::Running, WindowState::Queued] {
            match self.count(state) {
                0 => {}
                some => text.push_str(&format!(", {some} {}", state.name())),
            }
        }
        text
    }
}

/// Decides which window starts next, in the order of the plan, within the limits.
#[derive(Debug)]
pub(crate) struct Dispatch {
    progress: Progress,
    accounts: Vec<u32>,
    /// The queued windows of each account.
    waiting: Vec<VecDeque<u32>>,
    /// The number of running windows of each account.
    running: Vec<u32>,
    jobs: u32,
    per_account: u32,
    ended: u32,
}

impl Dispatch {
    pub(crate) fn new(input: GroupInput) -> Self {
        let GroupInput { limits, accounts, mut progress, .. } = input;
        progress.restart();
        let number = accounts.iter().max().map_or(0, |last| *last as usize + 1);
        let mut waiting = vec![VecDeque::new(); number];
        for (index, (account, state)) in (0..).zip(accounts.iter().zip(&progress.states.0)) {
            if *state == WindowState::Queued {
                waiting[*account as usize].push_back(index);
            }
        }
        let per_account = limits.per_account.unwrap_or(u32::MAX);
        Self { progress, accounts, waiting, running: vec![0; number], jobs: limits.jobs, per_account, ended: 0 }
    }

    /// Starts the next window; `None` if there is none, or no room.
    pub(crate) fn start(&mut self) -> Option<u32> {
        if self.running.iter().sum::<u32>() >= self.jobs {
            return None;
        }
        let open = |(account, queue): (usize, &VecDeque<u32>)| {
            let first = *queue.front()?;
            (self.running[account] < self.per_account).then_some((first, account))
        };
        let (index, account) = self.waiting.iter().enumerate().filter_map(open).min()?;
        self.waiting[account].pop_front();
        self.running[account] += 1;
        self.progress.states.0[index as usize] = WindowState::Running;
        Some(index)
    }

    /// Records the end of a window.
    pub(crate) fn end(&mut self, index: u32, state: WindowState, end: WindowEnd) {
        self.running[self.accounts[index as usize] as usize] -= 1;
        self.ended += 1;
        self.progress.states.0[index as usize] = state;
        if !end.is_ordinary() || !state.is_complete() {
            self.progress.ends.insert(index, end);
        }
    }

    /// The number of windows that have ended.
    pub(crate) fn ended(&self) -> u32 {
        self.ended
    }

    /// Whether windows have not started.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|queue| !queue.is_empty())
    }

    /// Marks the windows that have not started as cancelled.
    pub(crate) fn cancel(&mut self) {
        for index in self.waiting.iter_mut().flat_map(std::mem::take) {
            self.progress.states.0[index as usize] = WindowState::Cancelled;
        }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(accounts: &[u32], jobs: u32, per_account: Option<u32>) -> GroupInput {
        let command = WindowCommand { lorchestra: None, plan: "p".into(), claims: "c".into(), flags: Vec::new() };
        let limits = Limits {
            jobs,
            per_account,
            max_attempts: 3,
            max_backoff: 1000,
            heartbeat_timeout: 1000,
            window_timeout: 1000,
            windows_per_history: 10,
        };
        GroupInput { group: "g".into(), command, limits, accounts: accounts.into(), progress: Progress::new(accounts.len()) }
    }

    #[test]
    fn windows_start_in_order_within_the_limits_of_each_account() {
        let mut dispatch = Dispatch::new(input(&[0, 0, 0, 1, 1, 0], 3, Some(2)));
        let started: Vec<u32> = std::iter::from_fn(|| dispatch.start()).collect();
        assert_eq!(started, [0, 1, 3], "the account 0 has two");
        dispatch.end(3, WindowState::Completed, WindowEnd::ordinary());
        assert_eq!(dispatch.start(), Some(4));
        assert_eq!(dispatch.start(), None);
        let failure = WindowEnd { exit_code: Some(1), attempt: Some(1), message: Some("no".into()) };
        dispatch.end(0, WindowState::Failed, failure.clone());
        assert_eq!(dispatch.start(), Some(2), "the failure of a window does not stop its account");
        dispatch.cancel();
        assert!(!dispatch.has_waiting());
        let progress = dispatch.progress();
        assert_eq!(String::from(progress.states.clone()), "frrcrx");
        assert_eq!((progress.end(0), progress.end(3), progress.end(1)), (failure, WindowEnd::ordinary(), WindowEnd::default()));
        assert_eq!(progress.summary(), "1 of 6 windows complete, 1 failed, 1 cancelled, 3 running");
    }

    #[test]
    fn every_window_runs_once_over_several_executions_of_the_workflow() {
        let accounts: Vec<u32> = (0..200).map(|index| index % 7).collect();
        let mut next = input(&accounts, 5, Some(2));
        let mut seen = vec![0; accounts.len()];
        for _ in 0..50 {
            let mut dispatch = Dispatch::new(next.clone());
            while dispatch.ended() < 13 {
                let Some(index) = dispatch.start() else { break };
                seen[index as usize] += 1;
                dispatch.end(
                    index,
                    if index % 3 == 0 { WindowState::Superseded } else { WindowState::Completed },
                    WindowEnd::ordinary(),
                );
            }
            let text = serde_json::to_string(dispatch.progress()).unwrap();
            assert!(text.len() < 300, "{text}");
            next.progress = serde_json::from_str(&text).unwrap();
        }
        assert!(seen.iter().all(|times| *times == 1), "{seen:?}");
        assert!(next.progress.states.0.iter().all(|state| state.is_complete()));
    }

    #[test]
    fn what_has_failed_or_was_cancelled_is_queued_again() {
        let mut progress = Progress::new(5);
        progress.states = States::try_from("csfxr".to_owned()).unwrap();
        progress.ends = [(1, WindowEnd { attempt: Some(2), ..WindowEnd::ordinary() }), (2, WindowEnd::default())].into();
        progress.restart();
        assert_eq!(String::from(progress.states.clone()), "csqqq");
        assert_eq!(progress.ends.keys().copied().collect::<Vec<_>>(), [1]);
        States::try_from("cz".to_owned()).unwrap_err();
    }
}
