//! The life of a group on an engine: submit what is open, watch until everything has ended, record each end in the store.
//!
//! A window is complete when its claim exists and the engine no longer knows the window: until then its process may still deliver the run's
//! last event. A window that has left the engine without a claim has failed; the result that `run-window` left says why, and without one
//! its process was killed or its node is lost.

use super::super::drive::{DriveFlags, FailedMembers, GroupView, Resume, pin_libraries, summary};
use super::{AnyEngine, GroupFiles, Seen, read_result};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use lorchestra_core::group::drive::{Driven, Driver, GroupEvent, StopReason};
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::signals::signal_name;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::group::{Group, GroupEngine, Member, MemberState};
use lorchestra_core::store::{Store, short_id};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Intervals between two looks at the engine: the shortest, and the longest.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A look at the engine may take this share of the time.
const SHARE: u32 = 10;
/// Number of looks that must miss a window before it counts as ended: the claim may become visible later than the end.
const MISSED: u32 = 2;
/// Maximum number of times that a window is submitted again after a temporary failure.
const RESUBMISSIONS: u32 = 3;
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
    resubmissions: u32,
}

/// What is known about a window now.
enum WindowVerdict {
    Open(MemberState),
    Completed(Option<String>),
    Failed {
        cause: Option<Cause>,
        message: String,
        is_temporary: bool,
    },
    /// It left the engine without a result.
    Lost,
}

/// What the shared directory and the engine show at one moment.
struct Look {
    seen: BTreeMap<u32, Seen>,
    claimed: BTreeSet<u32>,
    results: BTreeMap<u32, PathBuf>,
}

impl Look {
    fn take(files: &GroupFiles<'_>, engine: &mut AnyEngine<'_>) -> Result<Self, CommandError> {
        // First the engine: a window that it no longer knows has left its claim before.
        let seen = engine.look()?;
        Ok(Self { seen, claimed: files.claimed(), results: files.results_by_place() })
    }

    fn judge(&self, files: &GroupFiles<'_>, place: u32) -> WindowVerdict {
        let failed = |code: Option<i32>| match code {
            None => WindowVerdict::Lost,
            Some(code) => WindowVerdict::Failed { cause: None, message: format!("exit code {code}"), is_temporary: false },
        };
        match self.seen.get(&place) {
            Some(Seen::Waiting) => return WindowVerdict::Open(MemberState::Pending),
            Some(Seen::Running) => return WindowVerdict::Open(MemberState::Running),
            Some(Seen::Complete) => return WindowVerdict::Completed(files.holder(place)),
            Some(Seen::Ended(_)) | None => {}
        }
        if self.claimed.contains(&place) {
            return WindowVerdict::Completed(files.holder(place));
        }
        let Some(result) = self.results.get(&place).and_then(|path| read_result(path)) else {
            return match self.seen.get(&place) {
                Some(Seen::Ended(code)) => failed(*code),
                _ => WindowVerdict::Lost,
            };
        };
        let is_temporary =
            [Code::Undelivered, Code::NotWritable, Code::Overlap].iter().any(|code| code.number() == result.exit_code);
        let message = result.message.unwrap_or_else(|| format!("exit code {}", result.exit_code));
        WindowVerdict::Failed { cause: result.cause, message, is_temporary }
    }
}

/// Submits the open windows of a group and waits for their end.
pub(in crate::commands::backfill) fn drive(
    (group, engine): (&Group, &GroupEngine),
    plan: Resume,
    (flags, detach): (&DriveFlags, bool),
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Code, CommandError> {
    let (state, mut store) = super::super::known(settings, notices, printer)?;
    let lock = Driver::lock(&state, &group.group_id)?;
    let mut signals = crate::commands::handle_signals()?;
    let files = GroupFiles::new(group, engine);
    let mut client = AnyEngine::open(&files, settings)?;
    let pending = store.members(group.n, MemberState::Pending, u64::MAX)?;
    if !plan.is_new {
        settle_all((&files, &mut client), &mut store)?;
        store.resume_group(group, plan.retry)?;
        pin_libraries(group, &mut store, (settings, flags.quiet), printer)?;
    }
    let left_out: BTreeSet<u32> = if plan.pending { BTreeSet::new() } else { pending.iter().map(|m| m.place).collect() };
    let mut open = BTreeMap::new();
    for of in [MemberState::Pending, MemberState::Running] {
        for member in store.members(group.n, of, u64::MAX)?.into_iter().filter(|member| !left_out.contains(&member.place)) {
            open.insert(member.place, Open { member, missed: 0, resubmissions: 0 });
        }
    }
    let known = if plan.is_new { BTreeMap::new() } else { client.look()? };
    let places: Vec<u32> =
        open.keys().copied().filter(|place| !matches!(known.get(place), Some(Seen::Waiting | Seen::Running))).collect();
    // Cancelled by another command before anything was submitted.
    let stopped = store.is_cancelled(group.n)?.then_some(StopReason::Cancelled);
    if !places.is_empty() && stopped.is_none() {
        files.write_plan(&store)?;
        submit(&files, &mut client, &store, &places)?;
    }
    let counts = store.group_counts(group.n)?;
    let id = short_id(&group.group_id);
    if !flags.quiet && !flags.json {
        let (n, all) = (open.len(), counts.all());
        let of = if n as u64 == all { String::new() } else { format!(" of {all}") };
        printer.note(format_args!("{}: {n}{of} windows on {} (group {id})", group.name, label(&engine.name)));
    }
    if detach && stopped.is_none() {
        Driver::unlock(&state, &group.group_id, lock);
        printer.note(format_args!("  lorchestra backfill show {id}"));
        return Ok(Code::Success);
    }
    let started = Instant::now();
    let mut watch = Watch { files: &files, client, store: &mut store, open, stopped: None, unreachable: None, failures: 0 };
    let printer_cell = RefCell::new(&mut *printer);
    let mut view = GroupView::new(group, counts, flags.quiet);
    let watched = match stopped {
        Some(reason) => Ok(Some(reason)),
        None => watch.run(&mut signals, &mut |event| view.event(event, &printer_cell), &printer_cell),
    };
    let unprinted = view.finish();
    drop(watch);
    let stopped = watched?;
    store.move_group_bookmarks(group, now_micros())?;
    Driver::unlock(&state, &group.group_id, lock);
    if let Some(StopReason::Signal(signal)) = stopped {
        printer.note(format_args!("{}: the windows run on, on {}", signal_name(signal), label(&engine.name)));
        printer.note(format_args!("  lorchestra backfill resume {id}"));
        printer.note(format_args!("  lorchestra backfill cancel {id}"));
        return Ok(Code::Interrupted(signal));
    }
    let driven = Driven { counts: store.group_counts(group.n)?, stopped };
    Ok(summary(
        (group, &driven, started.elapsed(), false),
        &FailedMembers { unprinted, ..FailedMembers::default() },
        flags,
        printer,
    ))
}

/// Submits windows, and cancels them if the group was cancelled in the meantime: `backfill cancel` may have looked at the engine before they
/// were there.
fn submit(files: &GroupFiles<'_>, client: &mut AnyEngine<'_>, store: &Store, places: &[u32]) -> Result<(), CommandError> {
    files.forget_results(places);
    client.submit(places)?;
    if store.is_cancelled(files.group.n)? { client.cancel(false) } else { Ok(()) }
}

fn label(engine: &str) -> &'static str {
    if engine == "slurm" { "Slurm" } else { "Temporal" }
}

/// The windows that are watched.
struct Watch<'a, 'b> {
    files: &'a GroupFiles<'a>,
    client: AnyEngine<'a>,
    store: &'b mut Store,
    open: BTreeMap<u32, Open>,
    stopped: Option<StopReason>,
    /// Since when the engine does not answer.
    unreachable: Option<Instant>,
    failures: u32,
}

impl Watch<'_, '_> {
    /// Returns when all windows have ended, or a signal stops this process.
    fn run(
        &mut self,
        signals: &mut lorchestra_core::host::signals::Signals,
        report: &mut dyn FnMut(&GroupEvent<'_>),
        printer: &RefCell<&mut Printer>,
    ) -> Result<Option<StopReason>, CommandError> {
        while !self.open.is_empty() {
            let begun = Instant::now();
            if self.stopped.is_none() && self.store.is_cancelled(self.files.group.n)? {
                self.stop(StopReason::Cancelled, report);
            }
            match Look::take(self.files, &mut self.client) {
                Ok(look) => {
                    self.unreachable = None;
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
        let (id, engine, open) = (short_id(&group.group_id), label(&engine.name), self.open.len());
        let what = format!(
            "{engine} does not know group {id} any more (its server has lost its database, or has removed the group): \
             {open} windows have no claim"
        );
        CommandError::new(Code::Failed, what).hint(format!("lorchestra backfill resume {id} submits them"))
    }

    fn stop(&mut self, reason: StopReason, report: &mut dyn FnMut(&GroupEvent<'_>)) {
        if self.stopped.is_none() {
            self.stopped = Some(reason);
            report(&GroupEvent::Stopping(reason));
        }
    }

    /// Takes what one look shows into account.
    fn apply(&mut self, look: &Look, report: &mut dyn FnMut(&GroupEvent<'_>)) -> Result<(), CommandError> {
        let mut settled = Vec::new();
        let mut again = Vec::new();
        let mut ended = Vec::new();
        let has_lost_group = self.has_lost_group();
        for (place, open) in &mut self.open {
            let verdict = look.judge(self.files, *place);
            if let WindowVerdict::Open(now) = verdict {
                open.missed = 0;
                if open.member.state != now {
                    open.member.state = now;
                    settled.push((*place, now, None));
                }
                continue;
            }
            open.missed += 1;
            let is_complete = matches!(verdict, WindowVerdict::Completed(_));
            if !is_complete && (open.missed < MISSED || has_lost_group) {
                continue;
            }
            let may_repeat = self.client.resubmits() && self.stopped.is_none() && open.resubmissions < RESUBMISSIONS;
            let (to, run_id, cause, message) = match verdict {
                WindowVerdict::Completed(run_id) => (MemberState::Completed, run_id, None, None),
                WindowVerdict::Failed { is_temporary: true, .. } | WindowVerdict::Lost if may_repeat => {
                    open.missed = 0;
                    open.resubmissions += 1;
                    again.push(*place);
                    continue;
                }
                // Cancelled before it began.
                WindowVerdict::Lost if self.stopped.is_some() => (MemberState::Pending, None, None, None),
                WindowVerdict::Lost => {
                    let message = format!("it left no result: see {}", self.files.dir.display());
                    (MemberState::Failed, None, None, Some(message))
                }
                WindowVerdict::Failed { cause, message, .. } => (MemberState::Failed, None, cause, Some(message)),
                WindowVerdict::Open(_) => continue,
            };
            open.member.state = to;
            if let Some(run_id) = &run_id {
                open.member.run_id.clone_from(run_id);
            }
            settled.push((*place, to, run_id));
            ended.push((*place, cause, message));
        }
        // Before anything is reported: what was reported is known to the next command.
        if !settled.is_empty() {
            self.store.settle_members(self.files.group.n, &settled)?;
        }
        for (place, cause, message) in ended {
            let Some(Open { member, .. }) = self.open.remove(&place) else { continue };
            if member.state == MemberState::Pending {
                continue;
            }
            report(&GroupEvent::Ended { member: &member, cause, message: message.as_deref() });
            if member.state.is_failure() && cause != Some(Cause::Cancelled) {
                self.failures += 1;
            }
        }
        if self.stopped.is_none() && self.files.group.settings.max_failures.is_some_and(|most| self.failures >= most) {
            self.client.cancel(true)?;
            self.stop(StopReason::Failures, report);
        }
        if !again.is_empty() {
            submit(self.files, &mut self.client, self.store, &again)?;
        }
        Ok(())
    }
}

/// Records the windows that have ended since the last time. Returns how many the engine still knows.
fn settle_all((files, client): (&GroupFiles<'_>, &mut AnyEngine<'_>), store: &mut Store) -> Result<usize, CommandError> {
    let look = Look::take(files, client)?;
    let mut settled = Vec::new();
    for of in [MemberState::Pending, MemberState::Running, MemberState::Failed] {
        for member in store.members(files.group.n, of, u64::MAX)? {
            let (to, run_id) = match look.judge(files, member.place) {
                WindowVerdict::Open(now) => (now, None),
                WindowVerdict::Completed(run_id) => (MemberState::Completed, run_id),
                WindowVerdict::Failed { .. } => (MemberState::Failed, None),
                // Never submitted, or cancelled while it waited.
                WindowVerdict::Lost if of == MemberState::Running => (MemberState::Failed, None),
                WindowVerdict::Lost => continue,
            };
            if to != of {
                settled.push((member.place, to, run_id));
            }
        }
    }
    store.settle_members(files.group.n, &settled)?;
    Ok(look.seen.values().filter(|seen| matches!(seen, Seen::Waiting | Seen::Running)).count())
}

/// Records what has happened since the last command. Returns the message of each window that left a result.
pub(in crate::commands::backfill) fn refresh(
    (group, engine): (&Group, &GroupEngine),
    store: &mut Store,
    settings: &Settings,
) -> Result<BTreeMap<u32, String>, CommandError> {
    let files = GroupFiles::new(group, engine);
    let mut client = AnyEngine::open(&files, settings)?;
    settle_all((&files, &mut client), store)?;
    let message = |path: &PathBuf| read_result(path).and_then(|result| result.message);
    Ok(files.results_by_place().iter().filter_map(|(place, path)| Some((*place, message(path)?))).collect())
}

/// Cancels all windows, and waits for those that run, and for the command that watches the group: it may be submitting windows. The caller has
/// marked the group as cancelled.
pub(in crate::commands::backfill) fn cancel(
    (group, engine): (&Group, &GroupEngine),
    (state, store): (&StateDir, &mut Store),
    settings: &Settings,
) -> Result<(), CommandError> {
    let files = GroupFiles::new(group, engine);
    let mut client = AnyEngine::open(&files, settings)?;
    let until = Instant::now() + STOPPING;
    client.cancel(false)?;
    let (mut quiet, mut repeat_at) = (0, Instant::now() + REPEAT);
    // Once more at the end: a claim may become visible after the end of its window.
    while quiet < 2 {
        let is_driven = Driver::is_driven(state, &group.group_id)?;
        let is_over = settle_all((&files, &mut client), store)? == 0 && !is_driven;
        quiet = if is_over { quiet + 1 } else { 0 };
        if Instant::now() > until {
            let id = short_id(&group.group_id);
            let what =
                format!("group {id} is cancelled, but some of its windows have not ended after {}", show::elapsed(STOPPING));
            return Err(CommandError::new(Code::Failed, what).hint(format!("lorchestra backfill show {id}")));
        }
        // A command that was submitting windows cancels them itself, unless it was killed.
        if !is_over && Instant::now() > repeat_at {
            client.cancel(false)?;
            repeat_at = Instant::now() + REPEAT;
        }
        std::thread::sleep(LOOK.0);
    }
    Ok(())
}
