//! A lane of a group: runs the specs that arrive on stdin, one after the other, and prints a report about each on stdout, after a message if it
//! waits for another run (`lorchestra_core::group::order`). Started by `backfill` and `run-group`; not a command for people.
//!
//! Finds libraries and secrets as `run-job --spec` does. Ends when stdin ends: the process that drives the group has nothing more to run, or
//! is dead.

use super::locked_to;
use super::run_job::find_job_of;
use super::run_job::refused::Asked;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::OwnFlags;
use crate::notify::Notices;
use crate::observe::DiagnosticObserver;
use crate::printer::Printer;
use crate::secrets::{self, Configured};
use crate::settings::Settings;
use clap::Args;
use lorchestra_core::group::order::{LaneMessage, LaneOrder, LaneReport};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::outcome::{Failure, Outcome};
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::packages::lockfile::Lockfile;
use lorchestra_core::plan::{OnOverlap, OverlapKey, RunSpec};
use lorchestra_core::run::error::{Overlap, RunError};
use lorchestra_core::run::event::{Observer, Observers, RunEvent};
use lorchestra_core::run::launch::{Delivery, Lane, Launch, LaunchError, record_refusal};
use lorchestra_core::run::supervisor::RunResult;
use lorchestra_core::store::group::MemberState;
use lorchestra_core::store::{Refusal, Store, Terminal, short_id};
use std::io::BufRead;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Args)]
pub(crate) struct LaneFlags {
    /// Refuse a library whose bytes differ from plugins.lock
    #[arg(long)]
    pub(crate) locked: bool,
}

/// Launches specs in a lane, with the libraries and secrets of this host.
pub(super) struct SpecRunner<'a> {
    settings: &'a Settings,
    catalog: Catalog,
    lock: Option<Lockfile>,
    pub(super) signals: Signals,
}

pub(super) fn run(flags: &LaneFlags, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    let signals = crate::commands::handle_signals()?;
    let mut runner = SpecRunner::with(settings, SpecRunner::lock(settings, flags.locked)?, signals);
    let host = settings.host(Delivery { to: &[], required: false, timeout: Duration::ZERO })?;
    let mut lane = Lane::open(&host, &mut Observers(vec![&mut DiagnosticObserver]))?;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let order: LaneOrder = serde_json::from_str(&line)
            .map_err(|error| CommandError::new(Code::Usage, format!("standard input has no order of a group: {error}")))?;
        let report = run_order(&mut runner, &mut lane, order, printer)?;
        send(&LaneMessage::Done(report), printer);
        if printer.is_broken() {
            break;
        }
    }
    Ok(Code::Success)
}

fn send(message: &LaneMessage, printer: &mut Printer) {
    printer.json(message);
    printer.flush();
}

/// Reports that a run waits for another one.
struct WaitObserver<'a> {
    run_id: &'a str,
    printer: &'a mut Printer,
}

impl Observer for WaitObserver<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        if let RunEvent::Waiting { holder, .. } = event {
            let (run_id, holder) = (self.run_id.to_owned(), Some((*holder).to_owned()));
            send(&LaneMessage::Waiting { run_id, holder }, self.printer);
        }
    }
}

/// Whether a member that another run excludes is given again later. A run of the same window does the member's work, and may complete it; a
/// run of the same group ends while the group is driven. For any other run, the member's overlap policy decides, as for `run-job`.
fn is_given_again(lane: &Lane<'_>, spec: &RunSpec, overlap: &Overlap) -> bool {
    if spec.overlap_key == OverlapKey::Window {
        return true;
    }
    let fails = matches!(spec.on_overlap, OnOverlap::Fail | OnOverlap::Wait(_));
    let Some(holder) = overlap.holder.as_ref().filter(|_| fails) else { return false };
    let run = Store::open(lane.state()).and_then(|store| store.run(holder)).ok().flatten();
    let group = run.and_then(|run| run.spec().ok()?.group);
    group.is_some() && group == spec.group
}

/// # Errors
/// If the end of the run could not be recorded: this process must end, so that the next command can do that.
fn run_order(
    runner: &mut SpecRunner<'_>,
    lane: &mut Lane<'_>,
    order: LaneOrder,
    printer: &mut Printer,
) -> Result<LaneReport, CommandError> {
    let LaneOrder { run_id, spec } = order;
    let mut asked = Asked::default();
    asked.spec(&spec);
    asked.own(&OwnFlags { run_id: Uuid::parse_str(&run_id).ok(), ..OwnFlags::default() });
    let mut notices = Notices::new(&runner.settings.hooks);
    let mut waits = WaitObserver { run_id: &run_id, printer: &mut *printer };
    let mut observers = Observers(vec![&mut notices, &mut waits]);
    let launched = runner.launch(lane, asked.own.run_id, spec.clone(), &mut observers);
    let refused = |failure: &CommandError, notices: &mut Notices<'_>| {
        let refusal = asked.unchecked(failure);
        let recorded_as = runner.record_refusal(lane, refusal.as_ref(), notices);
        let message = failure.hints.iter().take(1).fold(failure.message.clone(), |text, hint| format!("{text}; {hint}"));
        let cause = refusal.map(|refusal| refusal.cause);
        LaneReport { recorded_as, cause, message: Some(message), ..state(run_id.clone(), MemberState::Refused) }
    };
    let report = match launched {
        Ok(result) => ended(run_id, &result),
        Err(LaunchOrCommand::Launch(error)) => match *error {
            LaunchError::Run(RunError::Running { .. }) => state(run_id, MemberState::Running),
            LaunchError::Run(RunError::Overlap(overlap)) if is_given_again(lane, &spec, &overlap) => {
                send(&LaneMessage::Waiting { run_id: run_id.clone(), holder: overlap.holder }, printer);
                state(run_id, MemberState::Running)
            }
            LaunchError::Run(RunError::Interrupted { signal }) => {
                LaneReport { signal: Some(signal), ..state(run_id, MemberState::Pending) }
            }
            LaunchError::Run(RunError::GroupCancelled { .. }) => state(run_id, MemberState::Pending),
            LaunchError::Run(error @ RunError::NotRecorded { .. }) => return Err(error.into()),
            // The run has begun, and is open: only the end of this process lets recovery close it.
            error if has_begun(lane, &run_id) => return Err(error.into()),
            error => refused(&error.into(), &mut notices),
        },
        Err(LaunchOrCommand::Command(failure)) => refused(&failure, &mut notices),
    };
    notices.send(Some(&mut runner.signals), printer);
    Ok(report)
}

impl<'a> SpecRunner<'a> {
    /// Scans the plugin directories.
    pub(super) fn with(settings: &'a Settings, lock: Option<Lockfile>, signals: Signals) -> Self {
        Self { settings, catalog: Catalog::scan(&settings.plugin_dirs), lock, signals }
    }

    /// Reads the lock file, if only locked libraries may run.
    pub(super) fn lock(settings: &Settings, locked: bool) -> Result<Option<Lockfile>, CommandError> {
        if locked || settings.locked { locked_to(settings).map(Some) } else { Ok(None) }
    }

    /// Runs a spec and waits for its end.
    pub(super) fn launch(
        &mut self,
        lane: &mut Lane<'_>,
        run_id: Option<Uuid>,
        spec: RunSpec,
        observer: &mut dyn Observer,
    ) -> Result<RunResult, LaunchOrCommand> {
        let (package, _, job) = &find_job_of(&self.catalog, &spec)?;
        spec.check(job).map_err(LaunchError::Spec)?;
        let secrets = secrets::find(&spec, &Configured::default(), self.settings)?;
        let what = Launch { spec, run_id, library: &package.path, lock: self.lock.as_ref(), secrets: &secrets };
        let mut diagnostics = DiagnosticObserver;
        let mut observers = Observers(vec![&mut diagnostics, observer]);
        Ok(lane.run(what, &mut self.signals, &mut observers)?)
    }

    /// Records that a run could not start. Returns the id of the record.
    pub(super) fn record_refusal(&self, lane: &Lane<'_>, refusal: Option<&Refusal>, notices: &mut Notices<'_>) -> Option<String> {
        let refusal = refusal?;
        let mut store = Store::open(lane.state()).ok()?;
        let run_id = record_refusal(&mut store, refusal, env!("CARGO_PKG_VERSION")).ok()?;
        notices.add_refused(&run_id, refusal);
        Some(run_id)
    }
}

/// Whether the store has the run, or cannot be asked.
pub(super) fn has_begun(lane: &Lane<'_>, run_id: &str) -> bool {
    !matches!(Store::open(lane.state()).and_then(|store| store.run(run_id)), Ok(None))
}

/// Why a spec was not launched, or its end not recorded.
pub(super) enum LaunchOrCommand {
    Launch(Box<LaunchError>),
    Command(CommandError),
}

impl From<LaunchError> for LaunchOrCommand {
    fn from(error: LaunchError) -> Self {
        Self::Launch(Box::new(error))
    }
}

impl From<CommandError> for LaunchOrCommand {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

fn state(run_id: String, state: MemberState) -> LaneReport {
    LaneReport { recorded_as: Some(run_id.clone()), run_id, state, cause: None, message: None, signal: None }
}

fn ended(run_id: String, result: &RunResult) -> LaneReport {
    let of = |run_id: String, terminal: &Terminal| match terminal.outcome() {
        Outcome::Completed => state(run_id, MemberState::Completed),
        Outcome::Failed(Failure { cause, message, signal, .. }) => {
            LaneReport { cause: Some(cause), message: Some(message), signal, ..state(run_id, MemberState::Failed) }
        }
    };
    match result {
        RunResult::Ended(ended) => of(run_id, &ended.terminal),
        RunResult::Found { terminal: Some(terminal), .. } => of(run_id, terminal),
        RunResult::Found { run, terminal: None } => match run.cause {
            None => state(run_id, MemberState::Completed),
            cause => LaneReport { cause, message: run.message.clone(), ..state(run_id, MemberState::Failed) },
        },
        RunResult::Skipped { held_by, .. } => {
            let held_by = held_by.as_ref().map(|held_by| format!(" as run {}", short_id(held_by))).unwrap_or_default();
            LaneReport { message: Some(format!("already running{held_by}")), ..state(run_id, MemberState::Skipped) }
        }
    }
}
