//! Which windows start next, and how many in one activity.
//!
//! Short windows are started several at once: an activity costs the server and the worker several milliseconds, whatever it runs. The process
//! of the activity runs its windows one after the other, so they count as one against the limits. A window that has not ended in that way is
//! started again alone, and Temporal retries it.
//!
//! No I/O and no SDK here: the workflow replays this code, so it is deterministic.

use crate::group::{GroupInput, Progress, WindowReport, WindowState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How long the windows of one activity may take together. An activity starts no further window after that.
pub(crate) const BATCH_TIME: Duration = Duration::from_secs(2);
/// Maximum number of windows of one activity.
const BATCH: u32 = 32;
/// Number of windows whose times decide.
const RECENT: usize = 32;

/// The times of the last windows, in milliseconds. The longest of them decides how many are started together: if some are long, each
/// window is started alone, so that none waits for another one while workers are idle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace(VecDeque<u32>);

impl Pace {
    fn add(&mut self, millis: u32) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(millis.max(1));
    }

    /// Whether a window has ended, so that it is known how long they take.
    pub(crate) fn is_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// The number of windows to start together.
    fn batch(&self) -> usize {
        let fits = |longest: &u32| (u32::try_from(BATCH_TIME.as_millis()).unwrap_or(u32::MAX) / longest).clamp(1, BATCH);
        self.0.iter().max().map_or(1, fits) as usize
    }
}

/// Windows that one activity runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The windows, all of one account.
    pub(crate) indexes: Vec<u32>,
    /// Number of earlier starts of these windows.
    pub(crate) earlier: u32,
}

impl Start {
    /// Returns the id of its activity, which [`Start::of_id`] reads.
    pub(crate) fn id(&self) -> String {
        let indexes: Vec<String> = self.indexes.iter().map(u32::to_string).collect();
        format!("{}+{}", indexes.join(","), self.earlier)
    }

    /// Reads the id of an activity.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        let (indexes, earlier) = id.split_once('+')?;
        let indexes = indexes.split(',').map(|index| index.parse().ok()).collect::<Option<_>>()?;
        Some(Self { indexes, earlier: earlier.parse().ok()? })
    }
}

/// Decides which windows start next, in the order of the plan, within the limits.
#[derive(Debug)]
pub(crate) struct Dispatch {
    progress: Progress,
    accounts: Vec<u32>,
    /// The queued windows of each account.
    waiting: Vec<VecDeque<u32>>,
    /// The queued windows that were started with others, and did not end. They are started alone.
    again: BTreeSet<u32>,
    /// The number of activities of each account.
    running: Vec<u32>,
    jobs: u32,
    per_account: u32,
    ended: u32,
    pace: Pace,
}

impl Dispatch {
    /// Starts with the windows that are queued.
    pub(crate) fn new(input: GroupInput) -> Self {
        let GroupInput { limits, accounts, progress, pace, again, .. } = input;
        let number = accounts.iter().max().map_or(0, |last| *last as usize + 1);
        let mut waiting = vec![VecDeque::new(); number];
        for ((index, state), account) in progress.windows().zip(&accounts) {
            if state == WindowState::Queued {
                waiting[*account as usize].push_back(index);
            }
        }
        let per_account = limits.per_account.unwrap_or(u32::MAX);
        let running = vec![0; number];
        Self { progress, accounts, waiting, again, running, jobs: limits.jobs, per_account, ended: 0, pace }
    }

    /// Starts the next windows; `None` if there are none, or no room.
    pub(crate) fn start(&mut self) -> Option<Start> {
        if self.running() >= self.jobs {
            return None;
        }
        let open = |(account, queue): (usize, &VecDeque<u32>)| {
            let first = *queue.front()?;
            (self.running[account] < self.per_account).then_some((first, account))
        };
        let (first, account) = self.waiting.iter().enumerate().filter_map(open).min()?;
        let queue = &mut self.waiting[account];
        queue.pop_front();
        let mut indexes = vec![first];
        let is_again = self.again.remove(&first);
        while !is_again
            && indexes.len() < self.pace.batch()
            && let Some(next) = queue.pop_front_if(|next| !self.again.contains(next))
        {
            indexes.push(next);
        }
        self.running[account] += 1;
        for index in &indexes {
            self.progress.states.0[*index as usize] = WindowState::Running;
        }
        Some(Start { indexes, earlier: u32::from(is_again) })
    }

    /// Records the end of an activity. A window without a report was not started.
    pub(crate) fn end(&mut self, start: &Start, reports: Vec<WindowReport>) {
        let account = self.accounts[start.indexes[0] as usize] as usize;
        self.running[account] -= 1;
        self.ended += 1;
        let mut open: BTreeSet<u32> = start.indexes.iter().copied().collect();
        for WindowReport { index, state, end, millis } in reports {
            let Some(state) = state else {
                self.again.insert(index);
                continue;
            };
            open.remove(&index);
            if millis > 0 {
                self.pace.add(millis);
            }
            self.progress.states.0[index as usize] = state;
            if !end.is_ordinary() || !state.is_complete() {
                self.progress.ends.insert(index, end);
            }
        }
        for index in open.into_iter().rev() {
            self.progress.states.0[index as usize] = WindowState::Queued;
            self.waiting[account].push_front(index);
        }
    }

    /// The number of activities that run.
    pub(crate) fn running(&self) -> u32 {
        self.running.iter().sum()
    }

    /// The number of activities that have ended.
    pub(crate) fn ended(&self) -> u32 {
        self.ended
    }

    /// Whether windows are queued.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|queue| !queue.is_empty())
    }

    /// Marks the windows that are queued as cancelled.
    pub(crate) fn cancel(&mut self) {
        for index in self.waiting.iter_mut().flat_map(std::mem::take) {
            self.progress.states.0[index as usize] = WindowState::Cancelled;
        }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Returns the input of the next execution of the workflow.
    pub(crate) fn next_input(&self, input: GroupInput) -> GroupInput {
        GroupInput { progress: self.progress.clone(), pace: self.pace.clone(), again: self.again.clone(), ..input }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{Limits, WindowCommand, WindowEnd};

    fn input(accounts: &[u32], jobs: u32, per_account: Option<u32>) -> GroupInput {
        let command = WindowCommand { lorchestra: None, plan: "p".into(), claims: "c".into(), flags: Vec::new() };
        let second = Duration::from_secs(1);
        let limits = Limits {
            jobs,
            per_account,
            max_attempts: 3,
            max_backoff: second,
            heartbeat_timeout: second,
            window_timeout: second,
            starts_per_history: 10,
        };
        let progress = Progress::new(accounts.len());
        GroupInput {
            group: "g".into(),
            command,
            limits,
            accounts: accounts.into(),
            progress,
            pace: Pace::default(),
            again: BTreeSet::new(),
        }
    }

    fn report(index: u32, state: Option<WindowState>, millis: u32) -> WindowReport {
        WindowReport { index, state, end: WindowEnd::ordinary(), millis }
    }

    fn one(index: u32) -> Start {
        Start { indexes: vec![index], earlier: 0 }
    }

    #[test]
    fn windows_start_in_order_within_the_limits_of_each_account() {
        let mut dispatch = Dispatch::new(input(&[0, 0, 0, 1, 1, 0], 3, Some(2)));
        let started: Vec<Start> = std::iter::from_fn(|| dispatch.start()).collect();
        assert_eq!(started, [one(0), one(1), one(3)], "the account 0 has two");
        dispatch.end(&one(3), vec![report(3, Some(WindowState::Completed), 5000)]);
        assert_eq!(dispatch.start(), Some(one(4)));
        assert_eq!(dispatch.start(), None);
        let failure = WindowEnd { exit_code: Some(1), attempt: Some(1), message: Some("no".into()) };
        let failed = WindowReport { end: failure.clone(), ..report(0, Some(WindowState::Failed), 1) };
        dispatch.end(&one(0), vec![failed]);
        assert_eq!(dispatch.start(), Some(one(2)), "the failure of a window does not stop its account");
        dispatch.cancel();
        assert!(!dispatch.has_waiting());
        let progress = dispatch.progress();
        assert_eq!(String::from(progress.states.clone()), "frrcrx");
        assert_eq!((progress.end(0), progress.end(3), progress.end(1)), (failure, WindowEnd::ordinary(), WindowEnd::default()));
        assert_eq!(progress.summary(), "1 of 6 windows complete, 1 failed, 1 cancelled, 3 running");
    }

    #[test]
    fn short_windows_are_started_together_and_again_by_themselves() {
        let mut dispatch = Dispatch::new(input(&[0; 40], 3, None));
        assert_eq!(dispatch.start(), Some(one(0)), "nothing is known about them");
        dispatch.end(&one(0), vec![report(0, Some(WindowState::Completed), 500)]);
        let together = dispatch.start().unwrap();
        assert_eq!(together, Start { indexes: vec![1, 2, 3, 4], earlier: 0 });
        assert_eq!(Start::of_id(&together.id()), Some(together.clone()));
        // 2 has to start again, and 4 was not started.
        let ended = [report(1, Some(WindowState::Completed), 300), report(2, None, 0), report(3, Some(WindowState::Failed), 300)];
        dispatch.end(&together, ended.into());
        assert_eq!(dispatch.start(), Some(Start { indexes: vec![2], earlier: 1 }));
        assert_eq!(dispatch.start(), Some(Start { indexes: vec![4, 5, 6, 7], earlier: 0 }), "the longest one decides");
        assert_eq!(dispatch.running(), 2, "windows that run one after the other count as one");
        let mut pace = Pace::default();
        (0..RECENT).for_each(|_| pace.add(1));
        assert_eq!(pace.batch(), BATCH as usize);
        pace.add(60_000);
        assert_eq!(pace.batch(), 1);
        (0..RECENT).for_each(|_| pace.add(100));
        assert_eq!(pace.batch(), 20);
    }

    #[test]
    fn every_window_ends_once_over_several_executions_of_the_workflow() {
        let accounts: Vec<u32> = (0..400).map(|index| index % 7).collect();
        let mut next = input(&accounts, 5, Some(2));
        let mut seen = vec![0; accounts.len()];
        let mut executions = 0;
        while next.progress.count(WindowState::Queued) > 0 {
            executions += 1;
            assert!(executions < 100, "{}", next.progress.summary());
            let mut dispatch = Dispatch::new(next.clone());
            while dispatch.ended() < 13 {
                let Some(start) = dispatch.start() else { break };
                let state = |index: u32| match index % 5 {
                    // The first start of each of these has not ended.
                    0 if start.earlier == 0 && start.indexes.len() > 1 => None,
                    0 | 1 => Some(WindowState::Superseded),
                    // A window that has failed does not start again, in no execution.
                    2 => Some(WindowState::Failed),
                    _ => Some(WindowState::Completed),
                };
                let reports: Vec<_> = start.indexes.iter().map(|index| report(*index, state(*index), 400)).collect();
                reports.iter().filter(|report| report.state.is_some()).for_each(|report| seen[report.index as usize] += 1);
                dispatch.end(&start, reports);
            }
            let text = serde_json::to_string(&dispatch.next_input(next)).unwrap();
            next = serde_json::from_str(&text).unwrap();
        }
        assert!(executions > 3, "{executions}");
        assert!(seen.iter().all(|times| *times == 1), "{seen:?}");
        assert_eq!((next.progress.complete(), next.progress.count(WindowState::Failed)), (320, 80));
    }
}
