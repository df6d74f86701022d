//! Runs a stored group with the terminal attached: progress with the time left, a line for each failure, a summary. Delivery and retention
//! are done once for the group.

use super::{KIND, libraries};
use crate::bar::{Bar, GroupBar};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::observe::{DiagnosticObserver, TerminalObserver, Verbosity};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use crate::values;
use crate::wire::{GroupLine, GroupObject};
use clap::Args;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::group::drive::{Driven, Driver, GroupError, GroupEvent, StopReason};
use lorchestra_core::group::pool::{LaneCommand, Pool};
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::signals::{Signals, signal_name};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::event::{Observer, Observers, RunEvent};
use lorchestra_core::run::launch::{self, Delivery};
use lorchestra_core::run::recovery::Closed;
use lorchestra_core::store::group::{Group, GroupCounts, MemberState, Selection};
use lorchestra_core::store::{Store, short_id};
use lorchestra_core::text;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Maximum number of failures to print as they happen. At the end, the others are counted, and the summary names the command that shows all.
const SHOWN: u64 = 3;
/// Maximum number of characters of the names of failed jobs.
const NAMES: usize = 400;
/// Interval between two lines of progress if stderr is not a terminal.
const LINES: Duration = Duration::from_secs(30);

/// Flags of every command that runs a group.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct DriveFlags {
    /// Exit with 69 unless every destination has received all events in time
    #[arg(long)]
    pub(crate) require_delivery: bool,
    /// Wait up to this long for the last events to be delivered (0s: do not wait) [default: 10s]
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub(crate) delivery_timeout: Option<Duration>,
    /// Refuse a library whose bytes differ from plugins.lock
    #[arg(long)]
    pub(crate) locked: bool,
    /// Print one JSON object about the group at the end (schema lorchestra.group/1)
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but failures
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// What a command does with a stored group.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Resume {
    /// The members that run now.
    pub(in crate::commands) selection: Selection,
    /// Whether the group was stored just now.
    pub(in crate::commands) is_new: bool,
}

/// Runs the members of a group and prints the result.
pub(in crate::commands) fn drive(
    group: &Group,
    plan: Resume,
    flags: &DriveFlags,
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Code, CommandError> {
    CommandError::unless_files_suffice()?;
    let started = Instant::now();
    let destinations = (settings.destinations.as_slice(), flags);
    let (done, undelivered) =
        delivering(destinations, settings, (notices, &mut *printer), |(state, store), signals, observer, printer| {
            GroupWork { group, plan, flags, settings, printer }.run((state, store), signals, observer)
        })?;
    let (driven, failed) = done?;
    Ok(summary((group, &driven, started.elapsed(), undelivered), &failed, flags, printer))
}

/// Does `work` while events are delivered to `to`, then delivers the rest and applies retention. Returns whether a required delivery failed.
pub(super) fn delivering<T>(
    (to, flags): (&[DestinationConfig], &DriveFlags),
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
    work: impl FnOnce((&StateDir, &mut Store), &mut Signals, &mut dyn Observer, &RefCell<&mut Printer>) -> T,
) -> Result<(T, bool), CommandError> {
    let timeout = flags.delivery_timeout.unwrap_or(settings.delivery_timeout);
    // A command that only submits delivers nothing, but a destination must be configured all the same.
    if flags.require_delivery && (!to.is_empty() || settings.destinations.is_empty()) {
        crate::commands::delivery::check(settings, timeout)?;
    }
    if !flags.quiet && !to.is_empty() {
        crate::commands::delivery::warn_once(settings, printer);
    }
    let mut signals = crate::commands::handle_signals()?;
    let host = settings.host(Delivery { to, required: flags.require_delivery, timeout })?;
    let printer = RefCell::new(&mut *printer);
    let verbosity = Verbosity { verbose: 0, quiet: flags.quiet, json: true, progress: false, show_output: false };
    let mut terminal = DeliveryOnly(TerminalObserver::new(&printer, &settings.state_dir, verbosity));
    let mut diagnostics = DiagnosticObserver;
    let mut observers = Observers(vec![&mut diagnostics, notices, &mut terminal]);
    let done = launch::around(&host, &mut signals, &mut observers, |state, store, signals, observer| {
        Ok(work((state, store), signals, observer, &printer))
    });
    Ok(done?)
}

/// What the terminal shows besides the members: delivery, retention, and what the store has lost. Runs of this group that recovery closes are
/// reported as members.
struct DeliveryOnly<'a>(TerminalObserver<'a>);

impl Observer for DeliveryOnly<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Recovered(closed) => {
                self.0.observe(&RunEvent::Recovered(&Closed { missing: closed.missing, ..Closed::default() }));
            }
            event => self.0.observe(event),
        }
    }
}

/// One drive of a group, with what it needs besides the store.
struct GroupWork<'a, 'b> {
    group: &'a Group,
    plan: Resume,
    flags: &'a DriveFlags,
    settings: &'a Settings,
    printer: &'a RefCell<&'b mut Printer>,
}

impl GroupWork<'_, '_> {
    fn run(
        &mut self,
        (state, store): (&StateDir, &mut Store),
        signals: &mut Signals,
        observer: &mut dyn Observer,
    ) -> Result<(Driven, FailedMembers), CommandError> {
        let group = self.group;
        let lock = Driver::lock(state, &group.group_id)?;
        let selection = self.plan.selection;
        let selected = store.selected_members(group.n, selection)?;
        if !self.plan.is_new {
            let printer = (!self.flags.quiet).then(|| self.printer.borrow_mut());
            libraries::resume(group, (store, &selected), self.settings, printer)?;
        }
        let counts = store.group_counts(group.n)?;
        self.begin(counts, selected.len() as u64);
        let retried = selected.iter().filter(|member| member.state.can_retry()).count() as u64;
        let mut progress = GroupView::new(group, counts, (retried, self.flags.quiet));
        let printer = self.printer;
        let mut report = |event: &GroupEvent<'_>| progress.event(event, printer);
        let command = LaneCommand { executable: "/proc/self/exe".into(), args: self.lane() };
        let size = usize::try_from(group.settings.parallel).unwrap_or(1);
        let mut driver = Driver { state, store, group, selection, report: &mut report, observer };
        let driven = driver.run(Pool::new(command, size), signals);
        let unprinted = progress.finish();
        let driven = driven?;
        let moved = store.move_group_bookmarks(group, now_micros())?;
        if let Some(range) = group.settings.moves_bookmark.filter(|_| !self.flags.quiet) {
            super::bookmarks::report(&moved, range, &mut self.printer.borrow_mut());
        }
        Driver::unlock(state, &group.group_id, lock);
        let mut failed = Vec::new();
        if group.kind != KIND {
            for state in MemberState::ALL.into_iter().filter(|state| state.is_failure()) {
                failed.extend(store.members(group.n, state, u64::MAX)?.into_iter().map(|member| member.label));
            }
        }
        Ok((driven, FailedMembers { names: failed, unprinted, failures: store.group_failures(group.n)? }))
    }

    fn begin(&self, counts: GroupCounts, selected: u64) {
        if self.flags.quiet || self.flags.json {
            return;
        }
        let Group { name, group_id, settings, .. } = self.group;
        self.printer.borrow_mut().note(format_args!(
            "{name}: {}, up to {} at once (group {})",
            of_all(selected, counts.all(), noun(self.group)),
            settings.parallel,
            short_id(group_id)
        ));
    }

    fn lane(&self) -> Vec<std::ffi::OsString> {
        let mut words = self.settings.global_flags.clone();
        words.push("lane".into());
        if self.flags.locked {
            words.push("--locked".into());
        }
        words
    }
}

/// The members that failed.
#[derive(Debug, Default)]
pub(super) struct FailedMembers {
    /// Their names; empty for a backfill.
    pub(super) names: Vec<String>,
    /// Number of failures that were not printed as they happened.
    pub(super) unprinted: u64,
    /// Number of members that failed on their own.
    pub(super) failures: u64,
}

/// What is shown while a group runs.
pub(super) struct GroupView {
    bar: Option<GroupBar>,
    quiet: bool,
    done: u64,
    failed: u64,
    /// How many waits of members are still printed: one range may overlap with that of a backfill that is running.
    waits_left: u64,
    all: u64,
    /// When this command started, and how many had ended by then.
    begun: (Instant, u64),
    printed: Instant,
}

impl GroupView {
    /// `retried`: number of members that have failed and run again now.
    pub(super) fn new(group: &Group, counts: GroupCounts, (retried, quiet): (u64, bool)) -> Self {
        let all = counts.all();
        let done = all - counts.of(MemberState::Pending) - counts.of(MemberState::Running) - retried;
        let bar = (!quiet && Bar::is_seen()).then(|| GroupBar::start(group.name.clone(), done, all));
        let waits_left = if group.kind == KIND { SHOWN } else { u64::MAX };
        let now = Instant::now();
        Self { bar, quiet, done, failed: 0, waits_left, all, begun: (now, done), printed: now }
    }

    pub(super) fn event(&mut self, event: &GroupEvent<'_>, printer: &RefCell<&mut Printer>) {
        match event {
            GroupEvent::Started { member } => tracing::info!(run_id = member.run_id, label = member.label, "member started"),
            GroupEvent::Ended { member, cause, message, run_id } => {
                self.done += 1;
                let run = run_id.map(|run_id| format!(" (run {})", short_id(run_id))).unwrap_or_default();
                if member.state == MemberState::Skipped && !self.quiet {
                    let message = message.unwrap_or_default();
                    self.print(|| printer.borrow_mut().note(format_args!("- {} skipped: {message}{run}", member.label)));
                }
                if !member.state.is_failure() {
                    return;
                }
                self.failed += 1;
                if self.failed <= SHOWN {
                    let why = cause.map_or_else(|| member.state.as_str().to_owned(), |cause| cause.as_str().to_owned());
                    let message = message.map(text::first_line).unwrap_or_default();
                    self.print(|| printer.borrow_mut().bad(format_args!("{}: {why}: {message}{run}", member.label)));
                }
            }
            GroupEvent::Waiting { member, holder } => {
                if self.waits_left > 0 && !self.quiet {
                    self.waits_left -= 1;
                    let holder = holder.map_or_else(|| "another run".to_owned(), |run| format!("run {}", short_id(run)));
                    self.print(|| printer.borrow_mut().note(format_args!("{}: waiting for {holder} to end", member.label)));
                }
            }
            GroupEvent::Stopping(reason) => {
                let why = match reason {
                    StopReason::Signal(signal) => format!("{}: stopping the runs in progress", signal_name(*signal)),
                    StopReason::Cancelled => "cancelled: waiting for the runs in progress to stop".to_owned(),
                    StopReason::Failures => "too many failures: waiting for the runs in progress".to_owned(),
                    StopReason::Stage(stage) => format!("stage {} failed: later stages are not started", stage + 1),
                };
                self.print(|| printer.borrow_mut().note(why));
            }
            GroupEvent::Tick { .. } => self.tick(printer),
        }
    }

    fn tick(&mut self, printer: &RefCell<&mut Printer>) {
        if let Some(bar) = &self.bar {
            bar.update(self.done);
        } else if !self.quiet && self.printed.elapsed() >= LINES {
            self.printed = Instant::now();
            let left = self.left().map(|left| format!(", {} left", show::elapsed(left))).unwrap_or_default();
            let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
            printer.borrow_mut().note(format_args!("{} of {} ended{failed}{left}", self.done, self.all));
        }
    }

    /// Estimates the time left from the rate so far.
    fn left(&self) -> Option<Duration> {
        let (begun, before) = self.begun;
        let ended = self.done.checked_sub(before).filter(|ended| *ended > 0)?;
        let left = self.all.saturating_sub(self.done);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let factor = left as f64 / ended as f64;
        Duration::try_from_secs_f64(begun.elapsed().as_secs_f64() * factor).ok()
    }

    fn print(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.aside(print),
            None => print(),
        }
    }

    /// Returns the number of failures that were not printed.
    pub(super) fn finish(self) -> u64 {
        if let Some(bar) = self.bar {
            bar.finish();
        }
        self.failed.saturating_sub(SHOWN)
    }
}

/// Prints the result and returns the exit code.
pub(super) fn summary(
    (group, driven, took, undelivered): (&Group, &Driven, Duration, bool),
    failed_members: &FailedMembers,
    flags: &DriveFlags,
    printer: &mut Printer,
) -> Code {
    let Driven { counts, stopped } = driven;
    let (all, completed, failed) = (counts.all(), counts.of(MemberState::Completed), counts.failed());
    let skipped = counts.of(MemberState::Skipped);
    let and_skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    let (name, id) = (&group.name, short_id(&group.group_id));
    let code = match stopped {
        Some(StopReason::Signal(signal)) => Code::Interrupted(*signal),
        _ if completed + skipped < all => Code::Failed,
        _ if undelivered => Code::Undelivered,
        _ => Code::Success,
    };
    let show = match usize::try_from(failed_members.unprinted).unwrap_or(usize::MAX) {
        0 => format!("  lorchestra backfill show {id}"),
        more => format!("  and {}: lorchestra backfill show {id}", show::counted(more, "more failure")),
    };
    if flags.json {
        if failed_members.unprinted > 0 {
            printer.note(show);
        }
        printer.json(&GroupLine {
            schema: "lorchestra.group/1",
            group: GroupObject::of(group, *counts, failed_members.failures, false),
        });
    } else if completed + skipped == all {
        if !flags.quiet {
            let (completed, took) = (show::counted(completed, noun(group)), show::elapsed(took));
            printer.good(format_args!("{name}: {completed} completed{and_skipped} in {took} (group {id})"));
        }
    } else {
        let numbers = [(counts.of(MemberState::Running), "still running"), (counts.of(MemberState::Pending), "not run")];
        let open: String =
            numbers.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!(", {number} {what}")).collect();
        let completed = format!("{completed} of {}", show::counted(all, noun(group)));
        printer.bad(format_args!("{name}: {completed} completed, {failed} failed{and_skipped}{open} (group {id})"));
        if group.kind == KIND {
            printer.note(show);
            printer.note(format_args!("  lorchestra backfill resume {id}"));
        } else {
            if !failed_members.names.is_empty() {
                printer.note(format_args!("  failed: {}", text::shortened(&failed_members.names.join(", "), NAMES)));
            }
            printer.note(format_args!("  lorchestra runs list --group {}", group.group_id));
            printer.note("  run it again with --rerun-failed to run what failed or did not run");
        }
    }
    code
}

/// What the members of a group are called.
pub(super) fn noun(group: &Group) -> &'static str {
    if group.kind == KIND { "window" } else { "job" }
}

/// `3 windows`, `1 of 3 windows`.
pub(super) fn of_all(n: u64, all: u64, noun: &str) -> String {
    if n == all { show::counted(all, noun) } else { format!("{n} of {}", show::counted(all, noun)) }
}

impl From<GroupError> for CommandError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Driven { ref group_id } => Self::new(Code::Overlap, error.to_string())
                .hint(format!("run lorchestra backfill show {} to see its state", short_id(group_id))),
            GroupError::Lane(ref source) => Self::not_started(&error.to_string(), source),
            GroupError::Lost => Self::new(Code::Internal, error.to_string())
                .hint("check the memory of this host (dmesg shows processes that the kernel killed)")
                .hint("run the group again with resume: nothing that has completed is run twice"),
            GroupError::Spec { .. } => Self::new(Code::Config, error.to_string()).hint("create the group again"),
            GroupError::Io { path, source } => Self::refused(Code::NotWritable, &text::path_text(&path), &path, &source),
            GroupError::Store(error) => error.into(),
            GroupError::Recovery(error) => error.into(),
        }
    }
}
