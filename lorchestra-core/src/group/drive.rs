//! Runs the members of a group: decides which one is next, and when no more are started.
//!
//! Only one process drives a group at a time ([`Driver::lock`]). It reads the plan from the store, gives members to the [`Pool`], and
//! reports each step as a [`GroupEvent`]. The state of a member is that in the store, never only what a lane has reported: a lane may die
//! after its run was recorded and before it could report.

use super::interrupt::interrupt;
use super::order::{LaneOrder, LaneReport};
use super::pool::{LaneEvent, Pool};
use crate::host::locks::FileLock;
use crate::host::signals::Signals;
use crate::host::state::StateDir;
use crate::outcome::Cause;
use crate::plan::RunSpec;
use crate::run::event::{Observer, RunEvent};
use crate::run::recovery::{self, RecoveryError};
use crate::store::group::{Group, GroupCounts, Member, MemberState, Selection};
use crate::store::{Store, StoreError};
use rustix::process::Signal;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Interval between looks at members that other processes run, and at a cancellation.
const LOOK: Duration = Duration::from_millis(250);
/// How long another process may have a group's lock that only asks whether someone has it.
const HELD_BRIEFLY: Duration = Duration::from_millis(200);
/// How long to wait before retrying a member that another process seemed to run.
const AGAIN: Duration = Duration::from_secs(2);
/// Number of lanes that may die one after the other before the group is given up: lanes do not die on their own.
const LOST: u32 = 20;

/// Something that happened in a group.
#[derive(Debug)]
pub enum GroupEvent<'a> {
    /// A member was given to a lane.
    Started {
        /// The member.
        member: &'a Member,
    },
    /// A member waits until another run has ended. Reported once for each member.
    Waiting {
        /// The member.
        member: &'a Member,
        /// The other run, if known.
        holder: Option<&'a str>,
    },
    /// A member's run has ended.
    Ended {
        /// The member, with its new state.
        member: &'a Member,
        /// Why it failed.
        cause: Option<Cause>,
        /// The cause for people, or why it was skipped.
        message: Option<&'a str>,
        /// The run that has the record; `None` if it was refused, and that could not be recorded.
        run_id: Option<&'a str>,
    },
    /// Nothing more is started, because of this.
    Stopping(StopReason),
    /// Some time has passed.
    Tick {
        /// Number of members that run now.
        running: usize,
    },
}

/// Why no more members are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// This signal stopped the group.
    Signal(i32),
    /// `backfill cancel`.
    Cancelled,
    /// As many members failed as are allowed.
    Failures,
    /// A member of this stage failed.
    Stage(u32),
}

/// The result of driving a group.
#[derive(Debug, Clone, Copy)]
pub struct Driven {
    /// The members of the group by state.
    pub counts: GroupCounts,
    /// Why not all members were started.
    pub stopped: Option<StopReason>,
}

/// Why a group could not be driven further.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Another process drives it.
    #[error("group {group_id} is already being run by another process")]
    Driven {
        /// The group.
        group_id: String,
    },
    /// A lane could not be started.
    #[error("a process for the runs of the group cannot be started")]
    Lane(#[source] io::Error),
    /// Lanes die before they can run anything.
    #[error("{LOST} supervisors in succession died")]
    Lost,
    /// The spec of a member cannot be read: another program has changed the store.
    #[error("the spec of member {label} cannot be read: {reason}")]
    Spec {
        /// The member.
        label: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A lock could not be taken.
    #[error("{path}", path = path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Runs of dead supervisors could not be closed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// Drives one group.
#[expect(missing_debug_implementations, reason = "observers are anything")]
pub struct Driver<'a> {
    /// The state directory.
    pub state: &'a StateDir,
    /// The store.
    pub store: &'a mut Store,
    /// The group.
    pub group: &'a Group,
    /// The members that run now.
    pub selection: Selection,
    /// Receives what happens in the group.
    pub report: &'a mut dyn FnMut(&GroupEvent<'_>),
    /// Receives the runs of dead supervisors that were closed.
    pub observer: &'a mut dyn Observer,
}

/// The members, while they are run.
#[derive(Debug, Default)]
struct GroupProgress {
    /// Not started yet, in the order in which they start.
    waiting: VecDeque<Member>,
    /// In lanes, by run id.
    given: HashMap<String, Member>,
    /// Run by other processes, or excluded by another run.
    elsewhere: Vec<Elsewhere>,
    /// Runs in lanes that wait for another run, if that is known.
    blocked: HashMap<String, Option<String>>,
    /// Runs whose wait was reported.
    reported: HashSet<String>,
    /// Members that had failed, as they were before this process gave them their next attempt.
    retried: Vec<Member>,
    failures: u32,
    lost: u32,
    stopped: Option<StopReason>,
    /// Whether the runs in progress are stopped too, perhaps after it had stopped for another reason.
    is_ending: bool,
    looked: Option<Instant>,
}

/// A member that this process cannot run now.
#[derive(Debug)]
struct Elsewhere {
    member: Member,
    /// When to try it again.
    again: Instant,
    /// The run that excludes it, if known.
    holder: Option<String>,
}

impl GroupProgress {
    /// Tries the members that a run of this group has excluded again, now that it has ended.
    fn release(&mut self, holder: &str) {
        for excluded in self.elsewhere.iter_mut().filter(|excluded| excluded.holder.as_deref() == Some(holder)) {
            excluded.again = Instant::now();
            self.looked = None;
        }
    }

    /// The number of members that run in lanes of an earlier process, which was killed.
    fn left_running(&self) -> usize {
        self.elsewhere.iter().filter(|elsewhere| elsewhere.member.state == MemberState::Running).count()
    }
}

/// How a member has ended, as in [`GroupEvent::Ended`].
#[derive(Debug, Clone, Copy, Default)]
struct MemberEnd<'a> {
    cause: Option<Cause>,
    message: Option<&'a str>,
    run_id: Option<&'a str>,
}

impl Driver<'_> {
    /// Takes the lock that shows that this process drives the group.
    ///
    /// # Errors
    /// If another process does.
    pub fn lock(state: &StateDir, group_id: &str) -> Result<FileLock, GroupError> {
        let until = Instant::now() + HELD_BRIEFLY;
        loop {
            match Self::try_lock(state, group_id) {
                // Whoever only asks whether the group is driven has the lock for a moment.
                Err(GroupError::Driven { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                result => return result,
            }
        }
    }

    fn try_lock(state: &StateDir, group_id: &str) -> Result<FileLock, GroupError> {
        let path = state.lock(&format!("group+{group_id}"));
        match FileLock::try_take_at(&path) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(GroupError::Driven { group_id: group_id.to_owned() }),
            Err(source) => Err(GroupError::Io { path, source }),
        }
    }

    /// Releases that lock, and removes its file.
    pub fn unlock(state: &StateDir, group_id: &str, lock: FileLock) {
        let _ = std::fs::remove_file(state.lock(&format!("group+{group_id}")));
        drop(lock);
    }

    /// Whether a process drives the group.
    ///
    /// # Errors
    /// If the lock cannot be looked at.
    pub fn is_driven(state: &StateDir, group_id: &str) -> Result<bool, GroupError> {
        match Self::try_lock(state, group_id) {
            Ok(lock) => {
                Self::unlock(state, group_id, lock);
                Ok(false)
            }
            Err(GroupError::Driven { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Runs the selected members, and waits for those that other processes run. A signal ends both; members that had failed and are not
    /// reached have failed as before. The caller holds the group's lock.
    ///
    /// # Errors
    /// If the store fails, or no lane can be started. Runs in progress end on their own.
    pub fn run(&mut self, mut pool: Pool, signals: &mut Signals) -> Result<Driven, GroupError> {
        let mut progress = self.plan()?;
        let driven = self.drive(&mut pool, signals, &mut progress);
        pool.end();
        // No lane has one of them any more.
        let withdrawn = self.store.withdraw_attempts(self.group, &progress.retried);
        driven?;
        withdrawn?;
        Ok(Driven { counts: self.store.group_counts(self.group.n)?, stopped: progress.stopped })
    }

    fn drive(&mut self, pool: &mut Pool, signals: &mut Signals, progress: &mut GroupProgress) -> Result<(), GroupError> {
        loop {
            self.start_members(pool, progress)?;
            if pool.busy() == 0 && progress.elsewhere.is_empty() {
                return Ok(());
            }
            for event in pool.wait(signals, LOOK) {
                self.ended(event, progress)?;
            }
            for signal in signals.endings() {
                pool.signal(signal);
                self.stop(StopReason::Signal(signal), progress);
                self.signal_elsewhere(signal, progress)?;
            }
            if progress.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                progress.looked = Some(Instant::now());
                if progress.stopped.is_none() && self.store.is_cancelled(self.group.n)? {
                    // The command that cancels stops the runs too.
                    self.stop(StopReason::Cancelled, progress);
                }
                if progress.stopped == Some(StopReason::Cancelled) {
                    self.interrupt_blocked(pool, progress)?;
                }
                self.look_elsewhere(progress)?;
                (self.report)(&GroupEvent::Tick { running: pool.busy() });
            }
        }
    }

    fn plan(&self) -> Result<GroupProgress, GroupError> {
        let mut waiting = self.store.selected_members(self.group.n, self.selection)?;
        let running = self.store.members(self.group.n, MemberState::Running, u64::MAX)?;
        if self.group.settings.newest_first {
            waiting.reverse();
        }
        // Stable: within a stage the order stays.
        waiting.sort_by_key(|member| member.stage);
        // Of a killed process of this group: its lanes finish what they have begun.
        let elsewhere = running.into_iter().map(|member| Elsewhere { member, again: Instant::now(), holder: None }).collect();
        Ok(GroupProgress { waiting: waiting.into(), elsewhere, ..GroupProgress::default() })
    }

    /// Gives members to lanes while there is room.
    fn start_members(&mut self, pool: &mut Pool, progress: &mut GroupProgress) -> Result<(), GroupError> {
        let parallel = self.group.settings.parallel as usize;
        while progress.stopped.is_none() && pool.has_room() && pool.busy() + progress.left_running() < parallel {
            let Some(next) = progress.waiting.front() else { return Ok(()) };
            let earlier = |member: &Member| member.stage < next.stage;
            if progress.given.values().any(earlier) || progress.elsewhere.iter().any(|elsewhere| earlier(&elsewhere.member)) {
                return Ok(());
            }
            if !self.group.settings.keep_going && next.stage > 0 && self.has_failure_before(next.stage)? {
                self.stop(StopReason::Stage(next.stage - 1), progress);
                return Ok(());
            }
            let Some(member) = progress.waiting.pop_front() else { return Ok(()) };
            let member = self.next_attempt(member, progress)?;
            // A run outside the group has completed it since it failed.
            if member.state == MemberState::Completed {
                self.count(&member, MemberEnd { run_id: Some(&member.run_id), ..MemberEnd::default() }, progress);
                continue;
            }
            let wrong = |reason: String| GroupError::Spec { label: member.label.clone(), reason };
            let text = self.store.member_spec(self.group.n, member.place)?.ok_or_else(|| wrong("it is missing".into()))?;
            let spec = RunSpec::from_json(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
            pool.give(&LaneOrder { run_id: member.run_id.clone(), spec }).map_err(GroupError::Lane)?;
            (self.report)(&GroupEvent::Started { member: &member });
            progress.given.insert(member.run_id.clone(), member);
        }
        Ok(())
    }

    /// Returns a member as it is now. One that had failed when it was selected, and has not changed since, gets its next attempt.
    fn next_attempt(&mut self, member: Member, progress: &mut GroupProgress) -> Result<Member, GroupError> {
        let read = |store: &Store| store.member(self.group.n, member.place);
        let now = read(self.store)?.unwrap_or_else(|| member.clone());
        if !member.state.can_retry() || now != member {
            return Ok(now);
        }
        self.store.start_attempts(self.group, std::slice::from_ref(&member))?;
        let now = read(self.store)?.unwrap_or(now);
        progress.retried.push(member);
        Ok(now)
    }

    fn has_failure_before(&self, stage: u32) -> Result<bool, GroupError> {
        for state in MemberState::ALL.into_iter().filter(|state| state.is_failure()) {
            if self.store.members(self.group.n, state, u64::MAX)?.iter().any(|member| member.stage < stage) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn stop(&mut self, reason: StopReason, progress: &mut GroupProgress) {
        if progress.stopped.is_none() {
            progress.stopped = Some(reason);
            (self.report)(&GroupEvent::Stopping(reason));
        }
        progress.is_ending |= matches!(reason, StopReason::Signal(_) | StopReason::Cancelled);
        match reason {
            // The command that cancels waits for the runs of other processes.
            StopReason::Cancelled => progress.elsewhere.clear(),
            StopReason::Signal(_) => progress.elsewhere.retain(|elsewhere| elsewhere.member.state == MemberState::Running),
            StopReason::Failures | StopReason::Stage(_) => {}
        }
    }

    /// Passes a signal on to the supervisors of other processes, and waits only for members that it reaches.
    fn signal_elsewhere(&mut self, signal: i32, progress: &mut GroupProgress) -> Result<(), GroupError> {
        // Also closes the runs of those that are dead.
        self.look_elsewhere(progress)?;
        let Some(signal) = Signal::from_named_raw(signal).filter(|_| !progress.elsewhere.is_empty()) else { return Ok(()) };
        let own = progress.given.keys().cloned().collect();
        let reached = interrupt(self.store, self.group, signal, &own)?.reached;
        progress.elsewhere.retain(|elsewhere| reached.contains(&elsewhere.member.run_id));
        Ok(())
    }

    /// Interrupts lanes that wait for another run, so that the group ends before that run does. The command that cancels the group sees only
    /// runs. A lane that it does not reach in time, or of a killed process, cannot begin its run ([`Store::begin_run`]).
    fn interrupt_blocked(&self, pool: &Pool, progress: &mut GroupProgress) -> Result<(), GroupError> {
        for member in std::mem::take(&mut progress.blocked).keys().filter_map(|run_id| progress.given.get(run_id)) {
            // Otherwise it no longer waits, and a second signal would kill its job.
            if self.store.member(self.group.n, member.place)?.is_some_and(|now| now.state == MemberState::Pending) {
                pool.interrupt(&member.run_id);
            }
        }
        Ok(())
    }

    fn ended(&mut self, event: LaneEvent, progress: &mut GroupProgress) -> Result<(), GroupError> {
        match event {
            LaneEvent::Waiting { run_id, holder } => {
                let Some(member) = progress.given.get(&run_id) else { return Ok(()) };
                if progress.reported.insert(run_id.clone()) {
                    (self.report)(&GroupEvent::Waiting { member, holder: holder.as_deref() });
                }
                progress.blocked.insert(run_id, holder);
            }
            LaneEvent::Ended(report) => {
                progress.lost = 0;
                let holder = progress.blocked.remove(&report.run_id).flatten();
                let Some(mut member) = progress.given.remove(&report.run_id) else { return Ok(()) };
                let LaneReport { run_id, state, recorded_as, cause, message, signal } = report;
                if state == MemberState::Running {
                    if progress.is_ending {
                        return Ok(());
                    }
                    progress.elsewhere.push(Elsewhere { member, again: Instant::now() + AGAIN, holder });
                    return Ok(());
                }
                progress.release(&run_id);
                // Stopped before the run was recorded: it is still to be run.
                if state == MemberState::Pending {
                    tracing::info!(run_id = member.run_id, ?signal, "a signal reached a supervisor between two runs");
                    if self.store.is_cancelled(self.group.n)? {
                        self.stop(StopReason::Cancelled, progress);
                    } else if progress.stopped.is_none() {
                        // Meant for the run before (`runs stop`), and too late for it. It stops neither this member nor the group.
                        progress.waiting.push_front(member);
                    }
                    return Ok(());
                }
                if state == MemberState::Refused {
                    self.store.refuse_member(&member.run_id)?;
                }
                if cause == Some(Cause::Cancelled) && progress.stopped.is_none() && self.store.is_cancelled(self.group.n)? {
                    // Before the next member starts, which would be cancelled too.
                    self.stop(StopReason::Cancelled, progress);
                }
                member.state = state;
                let end = MemberEnd { cause, message: message.as_deref(), run_id: recorded_as.as_deref() };
                self.count(&member, end, progress);
            }
            LaneEvent::Lost { run_id, status } => {
                tracing::info!(run_id, ?status, "the supervisor of a run died");
                progress.blocked.remove(&run_id);
                let Some(member) = progress.given.remove(&run_id) else { return Ok(()) };
                progress.lost += 1;
                if progress.lost >= LOST {
                    return Err(GroupError::Lost);
                }
                self.close()?;
                progress.release(&run_id);
                self.settle(Elsewhere { member, again: Instant::now(), holder: None }, progress)?;
            }
        }
        Ok(())
    }

    /// Reads the state of a member whose run this process did not see end.
    fn settle(&mut self, elsewhere: Elsewhere, progress: &mut GroupProgress) -> Result<(), GroupError> {
        let Elsewhere { member, again, holder } = elsewhere;
        let Some(now) = self.store.member(self.group.n, member.place)? else { return Ok(()) };
        match now.state {
            MemberState::Pending if Instant::now() >= again => progress.waiting.push_front(now),
            MemberState::Pending | MemberState::Running => progress.elsewhere.push(Elsewhere { member: now, again, holder }),
            _ => {
                let run = self.store.run(&now.run_id)?;
                let (cause, message) = run.map_or((None, None), |run| (run.cause, run.message));
                self.count(&now, MemberEnd { cause, message: message.as_deref(), run_id: Some(&now.run_id) }, progress);
            }
        }
        Ok(())
    }

    fn look_elsewhere(&mut self, progress: &mut GroupProgress) -> Result<(), GroupError> {
        if progress.elsewhere.is_empty() {
            return Ok(());
        }
        self.close()?;
        for elsewhere in std::mem::take(&mut progress.elsewhere) {
            self.settle(elsewhere, progress)?;
        }
        Ok(())
    }

    /// Closes the runs of dead supervisors.
    fn close(&mut self) -> Result<(), GroupError> {
        let closed = recovery::close_abandoned(self.state)?;
        if !closed.is_empty() {
            self.observer.observe(&RunEvent::Recovered(&closed));
        }
        Ok(())
    }

    fn count(&mut self, member: &Member, end: MemberEnd<'_>, progress: &mut GroupProgress) {
        let MemberEnd { cause, message, run_id } = end;
        (self.report)(&GroupEvent::Ended { member, cause, message, run_id });
        if member.state.is_failure() && cause != Some(Cause::Cancelled) {
            progress.failures += 1;
            if self.group.settings.max_failures.is_some_and(|most| progress.failures >= most) {
                self.stop(StopReason::Failures, progress);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_releases_those_that_it_has_excluded() {
        let member = |run_id: &str| Member {
            place: 0,
            stage: 0,
            label: "one".into(),
            attempt: 1,
            run_id: run_id.into(),
            state: MemberState::Pending,
            completed_by: None,
        };
        let later = Instant::now() + AGAIN;
        let excluded = |run_id: &str, holder: Option<&str>| Elsewhere {
            member: member(run_id),
            again: later,
            holder: holder.map(str::to_owned),
        };
        let mut progress = GroupProgress { looked: Some(Instant::now()), ..GroupProgress::default() };
        progress.elsewhere = vec![excluded("b", Some("a")), excluded("c", Some("other")), excluded("d", None)];
        progress.release("unrelated");
        assert!(progress.looked.is_some());
        progress.release("a");
        assert!(progress.looked.is_none(), "the next look is at once");
        let waits: Vec<bool> = progress.elsewhere.iter().map(|elsewhere| elsewhere.again == later).collect();
        assert_eq!(waits, [false, true, true]);
    }
}
