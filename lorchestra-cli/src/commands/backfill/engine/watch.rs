//! The life of a group on an engine: submit what is open, watch until everything has ended, record each end in the store.
//!
//! A window is complete when its claim exists and the engine no longer knows the window: until then its process may still deliver the run's
//! last event. The run that has the claim is recorded as claimed (`lorchestra_core::run::claim`, step 5). A window that has left the engine
//! without a claim has failed; the result that `run-window` left says why, and without one its process was killed or its node is lost.
//!
//! A group may be cancelled while it is submitted. Both sides make sure that nothing stays: this process looks at the cancellation after
//! each submission and then stops what it has submitted, and `cancel` stops what it finds after it has recorded the cancellation.

use super::super::drive::{DriveFlags, FailedMembers, GroupView, Resume, delivering, of_all, summary};
use super::super::libraries;
use super::files::GroupFiles;
use super::look::{Look, RetryKind, WindowReason, WindowVerdict};
use super::{Engine, Submission};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use lorchestra_core::group::drive::{Driven, Driver, GroupEvent, StopReason};
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::signals::{Signals, signal_name};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::group::{Group, GroupEngine, Member, MemberState, SettledMember};
use lorchestra_core::store::{Store, short_id};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Intervals between two looks at the engine: the shortest, and the longest.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A look at the engine may take this share of the time.
const SHARE: u32 = 10;
/// Number of looks that must miss a window before it counts as ended: the claim may become visible later than the end.
const MISSED: u32 = 2;
/// Number of consecutive looks that must find a claim unreadable before its window fails.
const UNDECIDED: u32 = 20;
/// How long a window waits that is submitted again after a temporary failure, each time.
const DELAYS: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(300)];
/// Maximum number of times that a window is submitted again for a reason that is on its node.
const ELSEWHERE: usize = 2;
/// How long the engine may fail to answer before this process gives up. The windows run on.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Interval in which `cancel` repeats the request, while windows have not ended.
const REPEAT: Duration = Duration::from_secs(5);
/// How long `cancel` waits for the windows to end.
const STOPPING: Duration = Duration::from_secs(90);

/// A window that has not ended yet.
struct Open {
    member: Member,
    missed: u32,
    /// How many times it was submitted again.
    resubmissions: usize,
}

/// Submits the open windows of a group and waits for their end.
pub(in crate::commands::backfill) fn drive(
    (group, engine): (&Group, &GroupEngine),
    plan: Resume,
    (flags, detach): (&DriveFlags, bool),
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Code, CommandError> {
    let started = Instant::now();
    let files = GroupFiles::new(group, engine);
    // Not if it only submits: what it records is delivered by the next command.
    let destinations = if detach { &[][..] } else { settings.destinations.as_slice() };
    let (done, undelivered) =
        delivering((destinations, flags), settings, (notices, &mut *printer), |(state, store), signals, _, printer| {
            let mut work = EngineWork { files: &files, plan, flags, detach, settings, printer };
            work.run((state, store), signals)
        })?;
    let id = short_id(&group.group_id);
    let Some((driven, failed)) = done? else {
        printer.note(format_args!("  lorchestra backfill show {id}"));
        return Ok(Code::Success);
    };
    if let Some(StopReason::Signal(signal)) = driven.stopped {
        printer.note(format_args!("{}: the windows run on, on {}", signal_name(signal), engine.name.label()));
        printer.note(format_args!("  lorchestra backfill resume {id}"));
        printer.note(format_args!("  lorchestra backfill cancel {id}"));
        return Ok(Code::Interrupted(signal));
    }
    Ok(summary((group, &driven, started.elapsed(), undelivered), &failed, flags, printer))
}

/// One drive of a group on an engine, with what it needs besides the store.
struct EngineWork<'a, 'b> {
    files: &'a GroupFiles<'a>,
    plan: Resume,
    flags: &'a DriveFlags,
    detach: bool,
    settings: &'a Settings,
    printer: &'a RefCell<&'b mut Printer>,
}

impl EngineWork<'_, '_> {
    /// Returns how the group ended, and what failed; `None` if it was only submitted.
    fn run(
        &mut self,
        (state, store): (&StateDir, &mut Store),
        signals: &mut Signals,
    ) -> Result<Option<(Driven, FailedMembers)>, CommandError> {
        let &mut EngineWork { files, plan, flags, settings, printer, .. } = self;
        let group = files.group;
        let lock = Driver::lock(state, &group.group_id)?;
        let mut client = super::open(files, settings)?;
        let mut retried = Vec::new();
        let mut known = BTreeMap::new();
        if !plan.is_new {
            // Without a plan, nothing was submitted yet.
            if files.plan().exists() {
                settle_all((files, &mut *client), store)?;
            }
            known = client.look()?;
            let selected = store.selected_members(group.n, plan.selection)?;
            libraries::resume(group, (store, &selected), settings, (!flags.quiet).then(|| printer.borrow_mut()))?;
            retried.extend(selected.into_iter().filter(|member| member.state.can_retry()));
            store.start_attempts(group, &retried)?;
        }
        let mut open = BTreeMap::new();
        let running = store.members(group.n, MemberState::Running, u64::MAX)?;
        for member in store.selected_members(group.n, plan.selection)?.into_iter().chain(running) {
            // One that has failed in the meantime is not run again.
            if !member.state.can_retry() {
                open.insert(member.place, Open { member, missed: 0, resubmissions: 0 });
            }
        }
        let places: Vec<u32> = open.keys().copied().filter(|place| !known.get(place).is_some_and(super::Seen::is_open)).collect();
        if !places.is_empty() {
            let submission = Submission { places, ..Submission::default() };
            let submitted = files.write_plan(store).and_then(|()| submit((files, &mut *client), store, &submission));
            if submitted.is_err() {
                // What the engine has got nevertheless, the next command finds there.
                store.withdraw_attempts(group, &retried)?;
            }
            submitted?;
        }
        let counts = store.group_counts(group.n)?;
        if !flags.quiet && !flags.json {
            let windows = of_all(open.len() as u64, counts.all(), "window");
            let (name, id) = (&group.name, short_id(&group.group_id));
            printer.borrow_mut().note(format_args!("{name}: {windows} on {} (group {id})", files.engine.name.label()));
        }
        if self.detach {
            Driver::unlock(state, &group.group_id, lock);
            return Ok(None);
        }
        let mut watch = Watch {
            files,
            client,
            store,
            open,
            stopped: None,
            unreachable: None,
            failures: 0,
            avoid: BTreeSet::new(),
            reported: BTreeSet::new(),
        };
        let mut view = GroupView::new(group, counts, (0, flags.quiet));
        let stopped = watch.run(signals, &mut |event| view.event(event, printer), printer);
        let unprinted = view.finish();
        drop(watch);
        let stopped = stopped?;
        // After a signal, the engine has them still.
        if !matches!(stopped, Some(StopReason::Signal(_))) {
            store.withdraw_attempts(group, &retried)?;
        }
        let moved = store.move_group_bookmarks(group, now_micros())?;
        if let Some(range) = group.settings.moves_bookmark.filter(|_| !flags.quiet) {
            crate::commands::backfill::bookmarks::report(&moved, range, &mut printer.borrow_mut());
        }
        Driver::unlock(state, &group.group_id, lock);
        let failed = FailedMembers { unprinted, failures: store.group_failures(group.n)?, ..FailedMembers::default() };
        Ok(Some((Driven { counts: store.group_counts(group.n)?, stopped }, failed)))
    }
}

/// Submits windows. If the group was cancelled in the meantime, stops them again.
fn submit(
    (files, client): (&GroupFiles<'_>, &mut dyn Engine),
    store: &Store,
    submission: &Submission,
) -> Result<(), CommandError> {
    let mut is_cancelled = || -> Result<bool, CommandError> { Ok(store.is_cancelled(files.group.n)?) };
    files.forget_results(&submission.places)?;
    client.submit(submission, &mut is_cancelled)?;
    if is_cancelled()? { client.cancel(false) } else { Ok(()) }
}

/// The windows that are watched.
struct Watch<'a, 'b> {
    files: &'a GroupFiles<'a>,
    client: Box<dyn Engine + 'a>,
    store: &'b mut Store,
    open: BTreeMap<u32, Open>,
    stopped: Option<StopReason>,
    /// Since when the engine does not answer.
    unreachable: Option<Instant>,
    failures: u32,
    /// Nodes that failed to run a window.
    avoid: BTreeSet<String>,
    /// Why windows are held, as far as it was printed.
    reported: BTreeSet<String>,
}

/// What one look changes.
#[derive(Default)]
struct WindowChanges {
    settled: Vec<SettledMember>,
    ended: Vec<(u32, Option<WindowReason>)>,
    /// The windows to submit again, by their delay.
    again: BTreeMap<Duration, Vec<u32>>,
}

impl Watch<'_, '_> {
    /// Returns when all windows have ended, or a signal stops this process.
    fn run(
        &mut self,
        signals: &mut Signals,
        report: &mut dyn FnMut(&GroupEvent<'_>),
        printer: &RefCell<&mut Printer>,
    ) -> Result<Option<StopReason>, CommandError> {
        while !self.open.is_empty() {
            let begun = Instant::now();
            if self.stopped.is_none() && self.store.is_cancelled(self.files.group.n)? {
                self.stop(StopReason::Cancelled, report);
            }
            match Look::take(self.files, &mut *self.client) {
                Ok(look) => {
                    self.unreachable = None;
                    for (why, windows) in look.held() {
                        if self.reported.insert(why.to_owned()) {
                            let windows = show::counted(windows, "window");
                            printer.borrow_mut().warning(format_args!("{windows} cannot start: {why}"));
                        }
                    }
                    self.apply(&look, report)?;
                    if self.has_lost_group() && !self.open.is_empty() {
                        return Err(self.lost());
                    }
                }
                Err(failure) => {
                    if self.unreachable.is_none() {
                        printer.borrow_mut().warning(format_args!("{}: trying again, the windows run on", failure.message));
                    }
                    if self.unreachable.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(failure);
                    }
                }
            }
            report(&GroupEvent::Tick { running: self.open.len() });
            if self.open.is_empty() {
                break;
            }
            let pause = (begun.elapsed() * SHARE).clamp(LOOK.0, LOOK.1);
            if let Some(signal) = signals.wait(pause) {
                return Ok(Some(StopReason::Signal(signal)));
            }
        }
        Ok(self.stopped)
    }

    /// Whether the engine has lost a group that was submitted. A cancelled one may have been cancelled before that.
    fn has_lost_group(&self) -> bool {
        self.stopped.is_none() && self.client.has_lost_group()
    }

    fn lost(&self) -> CommandError {
        let GroupFiles { group, engine, .. } = self.files;
        let (id, engine, open) = (short_id(&group.group_id), engine.name.label(), show::counted(self.open.len(), "window"));
        let what = format!(
            "{engine} does not know group {id} any more (its server has lost its database, or has removed the group): \
             {open} without a claim"
        );
        CommandError::new(Code::Failed, what).hint(format!("lorchestra backfill resume {id} submits what has no claim"))
    }

    fn stop(&mut self, reason: StopReason, report: &mut dyn FnMut(&GroupEvent<'_>)) {
        if self.stopped.is_none() {
            self.stopped = Some(reason);
            report(&GroupEvent::Stopping(reason));
        }
    }

    /// Takes what one look shows into account.
    fn apply(&mut self, look: &Look, report: &mut dyn FnMut(&GroupEvent<'_>)) -> Result<(), CommandError> {
        let WindowChanges { settled, ended, again } = self.changes(look);
        // Before anything is reported: what was reported is known to the next command.
        if !settled.is_empty() {
            self.store.settle_members(self.files.group.n, &settled)?;
        }
        for (place, reason) in ended {
            let Some(Open { member, .. }) = self.open.remove(&place) else { continue };
            if member.state == MemberState::Pending {
                continue;
            }
            let cause = reason.as_ref().and_then(|reason| reason.cause);
            let message = reason.as_ref().map(|reason| reason.message.as_str());
            report(&GroupEvent::Ended { member: &member, cause, message, run_id: Some(&member.run_id) });
            if member.state.is_failure() && cause != Some(Cause::Cancelled) {
                self.failures += 1;
            }
        }
        if self.stopped.is_none() && self.files.group.settings.max_failures.is_some_and(|most| self.failures >= most) {
            self.client.cancel(true)?;
            self.stop(StopReason::Failures, report);
        }
        for (delay, places) in again {
            let submission = Submission { places, delay, avoid: self.avoid.clone() };
            submit((self.files, &mut *self.client), self.store, &submission)?;
        }
        Ok(())
    }

    fn changes(&mut self, look: &Look) -> WindowChanges {
        let mut changes = WindowChanges::default();
        let has_lost_group = self.has_lost_group();
        for (place, open) in &mut self.open {
            let place = *place;
            let verdict = look.judge(self.files, place);
            if let WindowVerdict::Open(state) = verdict {
                open.missed = 0;
                if open.member.state != state {
                    open.member.state = state;
                    changes.settled.push(SettledMember { place, state, run_id: None, claimed_on: None });
                }
                continue;
            }
            open.missed += 1;
            let needed = match verdict {
                WindowVerdict::Completed(_) => 1,
                WindowVerdict::Undecided(_) => UNDECIDED,
                _ => MISSED,
            };
            if open.missed < needed || (has_lost_group && !matches!(verdict, WindowVerdict::Completed(_))) {
                continue;
            }
            if self.stopped.is_none()
                && self.client.resubmits()
                && let Some(delay) = delay(&verdict, open.resubmissions)
            {
                if let WindowVerdict::Failed {
                    retry: RetryKind::LaterElsewhere | RetryKind::Elsewhere,
                    result: Some(result),
                    ..
                } = &verdict
                {
                    self.avoid.extend(result.attempt.as_deref().and_then(|attempt| self.client.node(attempt)));
                }
                open.missed = 0;
                open.resubmissions += 1;
                changes.again.entry(delay).or_default().push(place);
                continue;
            }
            let (settled, reason) = settled(self.files, place, verdict, self.stopped.is_some());
            open.member.state = settled.state;
            if let Some(run_id) = &settled.run_id {
                open.member.run_id.clone_from(run_id);
            }
            changes.settled.push(settled);
            changes.ended.push((place, reason));
        }
        changes
    }
}

/// Returns how long a window waits that is submitted again; `None` if it is not. `before`: how many times it was.
fn delay(verdict: &WindowVerdict, before: usize) -> Option<Duration> {
    match verdict {
        WindowVerdict::Failed { retry: RetryKind::Elsewhere, .. } if before < ELSEWHERE => Some(Duration::ZERO),
        WindowVerdict::Failed { retry: RetryKind::Later | RetryKind::LaterElsewhere, .. } | WindowVerdict::Lost => {
            DELAYS.get(before).copied()
        }
        _ => None,
    }
}

/// Returns the state of a window that is not submitted again, and why it is not complete.
fn settled(
    files: &GroupFiles<'_>,
    place: u32,
    verdict: WindowVerdict,
    is_stopped: bool,
) -> (SettledMember, Option<WindowReason>) {
    let member = |state| SettledMember { place, state, run_id: None, claimed_on: None };
    let reason = |message| Some(WindowReason { cause: None, message });
    match verdict {
        WindowVerdict::Open(state) => (member(state), None),
        WindowVerdict::Completed(None) => (member(MemberState::Completed), None),
        WindowVerdict::Completed(Some(holder)) => {
            let (run_id, claimed_on) = (Some(holder.run_id), Some(holder.host));
            (SettledMember { run_id, claimed_on, ..member(MemberState::Completed) }, None)
        }
        // Cancelled before it began.
        WindowVerdict::Lost if is_stopped => (member(MemberState::Pending), None),
        WindowVerdict::Lost => (member(MemberState::Failed), reason(format!("it left no result: see {}", files.dir.display()))),
        WindowVerdict::Failed { reason, result, .. } => {
            let run_id = result.map(|result| result.run_id).filter(|run_id| !run_id.is_empty());
            (SettledMember { run_id, ..member(MemberState::Failed) }, Some(reason))
        }
        WindowVerdict::Undecided(why) => {
            let hint = "if no run of this window has completed on any host, remove it, and resume the group";
            (member(MemberState::Failed), reason(format!("{why}: {hint}")))
        }
    }
}

/// Records what the engine and the shared directory show now. Returns how many windows the engine still runs or will run, and why windows
/// are not complete.
fn settle_all(
    (files, client): (&GroupFiles<'_>, &mut dyn Engine),
    store: &mut Store,
) -> Result<(usize, BTreeMap<u32, WindowReason>), CommandError> {
    let look = Look::take(files, client)?;
    let (mut changed, mut reasons) = (Vec::new(), BTreeMap::new());
    for (place, seen) in &look.seen {
        if let super::Seen::Held(why) = seen {
            reasons.insert(*place, WindowReason { cause: None, message: why.clone() });
        }
    }
    for of in [MemberState::Pending, MemberState::Running, MemberState::Failed] {
        for member in store.members(files.group.n, of, u64::MAX)? {
            let verdict = look.judge(files, member.place);
            // Never submitted, or cancelled while it waited.
            if matches!(verdict, WindowVerdict::Lost) && of == MemberState::Pending {
                continue;
            }
            let (settled, reason) = settled(files, member.place, verdict, false);
            reasons.extend(reason.map(|reason| (member.place, reason)));
            if settled.state != of {
                changed.push(settled);
            }
        }
    }
    store.settle_members(files.group.n, &changed)?;
    Ok((look.open(), reasons))
}

/// Records what has happened since the last command. Returns why windows are not complete.
pub(in crate::commands::backfill) fn refresh(
    (group, engine): (&Group, &GroupEngine),
    store: &mut Store,
    settings: &Settings,
) -> Result<BTreeMap<u32, WindowReason>, CommandError> {
    let files = GroupFiles::new(group, engine);
    let mut client = super::open(&files, settings)?;
    Ok(settle_all((&files, &mut *client), store)?.1)
}

/// Cancels all windows, and waits for those that run and for the command that watches them. The caller has marked the group as cancelled.
pub(in crate::commands::backfill) fn cancel(
    (group, engine): (&Group, &GroupEngine),
    (state, store): (&StateDir, &mut Store),
    settings: &Settings,
) -> Result<(), CommandError> {
    let files = GroupFiles::new(group, engine);
    let mut client = super::open(&files, settings)?;
    let until = Instant::now() + STOPPING;
    client.cancel(false)?;
    let mut open = || match files.plan().exists() {
        true => settle_all((&files, &mut *client), store).map(|(open, _)| open),
        // Nothing was submitted yet.
        false => Ok(0),
    };
    let mut repeat_at = Instant::now() + REPEAT;
    // The command that submits them may have submitted more, which it stops itself.
    while Driver::is_driven(state, &group.group_id)? || open()? > 0 {
        // Unless it was killed.
        if Instant::now() > repeat_at {
            super::open(&files, settings)?.cancel(false)?;
            repeat_at = Instant::now() + REPEAT;
        }
        if Instant::now() > until {
            let id = short_id(&group.group_id);
            let what =
                format!("group {id} is cancelled, but some of its windows have not ended after {}", show::elapsed(STOPPING));
            return Err(CommandError::new(Code::Failed, what).hint(format!("lorchestra backfill show {id}")));
        }
        std::thread::sleep(LOOK.0);
    }
    // Once more: a claim may become visible after the end.
    std::thread::sleep(LOOK.0);
    open().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_submitted_again_later_and_not_for_ever() {
        let failed =
            |retry| WindowVerdict::Failed { reason: WindowReason { cause: None, message: String::new() }, retry, result: None };
        let delays = |verdict: &WindowVerdict| -> Vec<u64> {
            (0..10).map_while(|before| delay(verdict, before)).map(|delay| delay.as_secs()).collect()
        };
        assert_eq!(delays(&failed(RetryKind::Later)), [5, 60, 300]);
        assert_eq!(delays(&failed(RetryKind::LaterElsewhere)), [5, 60, 300]);
        assert_eq!(delays(&WindowVerdict::Lost), [5, 60, 300]);
        assert_eq!(delays(&failed(RetryKind::Elsewhere)), [0, 0]);
        assert!(delays(&failed(RetryKind::Never)).is_empty());
        assert!(delays(&WindowVerdict::Completed(None)).is_empty());
    }
}
