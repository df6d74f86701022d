//! `run-window --indexes`: runs several windows in one process, one after the other, and prints a [`WindowReport`] as each ends. An engine
//! starts short windows together, because starting a process for each takes longer than they do.
//!
//! What all windows need alike is done once: libraries are sealed, runs of dead supervisors are closed, destinations are connected, old data is
//! removed. If some of that fails, each window is refused for that reason, as one alone would be, unless it has ended or is claimed. Each window
//! still waits for the delivery of its own events before it takes its claim, and is reported when it is claimed. After the last one, the process
//! waits for the terminal events. A window whose terminal event is not delivered in time gets a second report, with
//! exit code 69, which replaces the first.

use super::{EngineWindow, RunWindow};
use crate::commands::delivery;
use crate::commands::lane::{LaunchOrCommand, SpecRunner, has_begun};
use crate::commands::run_job::code_of_result;
use crate::commands::run_job::refused::Asked;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::OwnFlags;
use crate::notify::Notices;
use crate::observe::DiagnosticObserver;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use crate::wire::{WindowReport, WindowResult};
use lorchestra_core::host::signals::{Signals, signal_name};
use lorchestra_core::outcome::{Cause, Outcome};
use lorchestra_core::run::error::RunError;
use lorchestra_core::run::event::Observers;
use lorchestra_core::run::launch::{Delivery, Host, Lane, LaunchError};
use lorchestra_core::run::supervisor::RunResult;
use lorchestra_core::store::RunState;
use lorchestra_core::text;
use std::time::Instant;
use uuid::Uuid;

/// Longest message in a report, in characters: an engine keeps the reports of all windows.
const MESSAGE: usize = 300;

/// How a window ended in this process.
struct EngineWindowEnd {
    code: Code,
    state: Option<RunState>,
    cause: Option<Cause>,
    message: Option<String>,
    /// The run whose events have to be delivered.
    delivers: Option<String>,
    /// Whether this process has to end, so that the next command can close the run.
    is_last: bool,
}

pub(super) fn run(
    command: &RunWindow,
    windows: Vec<EngineWindow<'_>>,
    (verbose, settings, signals): (u8, &Settings, Option<Signals>),
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Code, CommandError> {
    let begun = Instant::now();
    let mut batch = WindowBatch { command, printer, begun, windows: windows.len(), reports: 0 };
    let required = !command.no_require_delivery;
    let timeout = command.delivery_timeout.unwrap_or(settings.delivery_timeout);
    let mut signals = Some(signals.map_or_else(crate::commands::handle_signals, Ok)?);
    let host = settings.host(Delivery { to: &settings.destinations, required, timeout })?;
    let (mut runner, mut lane) = match prepare(command, (settings, &mut signals), &host, notices) {
        Ok(prepared) => prepared,
        Err(failure) => return Ok(batch.refuse((windows, &failure), (verbose, settings, &mut signals), notices)),
    };
    let mut reported = Vec::new();
    let mut code = Code::Success;
    for window in windows {
        if batch.is_over() {
            break;
        }
        if let Some(signal) = runner.signals.received() {
            code = batch.interrupted(signal);
            break;
        }
        let started = Instant::now();
        let (index, attempt, run_id) = (window.index, window.attempt, window.run_id);
        let mut end = run_one(&mut runner, &mut lane, window, settings, (&mut *notices, &mut *batch.printer));
        if end.code != Code::Success {
            WindowResult::new(run_id, attempt, end.code, end.cause, end.message.clone()).write(command, index);
        }
        let (ended, delivers, is_last) = (end.code, end.delivers.take(), end.is_last);
        let report = batch.report(index, run_id, end, started);
        // With the run that delivers.
        reported.extend(delivers.map(|delivers| (delivers, report, (run_id, attempt))));
        // A process that was stopped starts nothing more.
        if is_last || matches!(ended, Code::Interrupted(_)) {
            code = ended;
            break;
        }
    }
    let run_ids: Vec<String> = reported.iter().map(|(delivers, ..)| delivers.clone()).collect();
    let undelivered = lane.finish(&run_ids, &mut runner.signals, &mut Observers(vec![&mut DiagnosticObserver, notices]))?;
    for ((_, report, (run_id, attempt)), undelivered) in reported.into_iter().zip(undelivered) {
        if undelivered && report.exit_code == Code::Success.number() {
            let message = Some("its last event was not delivered in time".to_owned());
            WindowResult::new(run_id, attempt, Code::Undelivered, None, message.clone()).write(command, report.index);
            batch.print(&WindowReport { exit_code: Code::Undelivered.number(), message, ..report });
        }
    }
    Ok(code)
}

/// The reports of one process.
struct WindowBatch<'a> {
    command: &'a RunWindow,
    printer: &'a mut Printer,
    begun: Instant,
    windows: usize,
    reports: usize,
}

impl WindowBatch<'_> {
    /// Refuses each window that has not ended and is not claimed.
    fn refuse(
        &mut self,
        (windows, failure): (Vec<EngineWindow<'_>>, &CommandError),
        (verbose, settings, signals): (u8, &Settings, &mut Option<Signals>),
        notices: &mut Notices<'_>,
    ) -> Code {
        let own = self.command.own(true);
        for window in windows {
            if self.is_over() {
                break;
            }
            // It may have arrived while the destinations were asked, or while the refusal before was delivered.
            if let Some(signal) = signals.as_mut().and_then(Signals::received) {
                return self.interrupted(signal);
            }
            let (index, run_id, started) = (window.index, window.run_id, Instant::now());
            let context = (verbose, settings, Some(failure));
            let end = window.end((self.command, &own), context, signals, (&mut *notices, &mut *self.printer));
            let (code, cause, message) = (end.code, end.cause, end.message);
            let end = EngineWindowEnd { code, state: None, cause, message, delivers: None, is_last: false };
            self.report(index, run_id, end, started);
        }
        Code::Success
    }

    /// Whether no further window may start.
    fn is_over(&self) -> bool {
        self.reports > 0 && self.command.stop_after.is_some_and(|limit| self.begun.elapsed() >= limit)
    }

    fn interrupted(&mut self, signal: i32) -> Code {
        let (code, left) = (Code::Interrupted(signal), self.windows - self.reports);
        let what = format!("stopped by {}: {} not started", signal_name(signal), show::counted(left, "window"));
        self.printer.failure(&CommandError::new(code, what));
        code
    }

    fn report(&mut self, index: usize, run_id: Uuid, end: EngineWindowEnd, started: Instant) -> WindowReport {
        let report = WindowReport {
            schema: "lorchestra.window-report/1",
            index,
            run_id: run_id.to_string(),
            exit_code: end.code.number(),
            state: end.state.map(RunState::as_str),
            message: end.message.map(|message| text::shortened(&message, MESSAGE)),
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.reports += 1;
        self.print(&report);
        report
    }

    fn print(&mut self, report: &WindowReport) {
        self.printer.json(report);
        self.printer.flush();
    }
}

/// Does what all windows need alike. `signals` stays if it fails.
fn prepare<'a>(
    command: &RunWindow,
    (settings, signals): (&'a Settings, &mut Option<Signals>),
    host: &'a Host<'a>,
    notices: &mut Notices<'_>,
) -> Result<(SpecRunner<'a>, Lane<'a>), CommandError> {
    CommandError::unless_files_suffice()?;
    let lock = SpecRunner::lock(settings, command.locked)?;
    if host.delivery.required {
        delivery::check(settings, host.delivery.timeout)?;
    }
    let lane = Lane::delivering(host, &mut Observers(vec![&mut DiagnosticObserver, notices]))?;
    let signals = signals.take().map_or_else(crate::commands::handle_signals, Ok)?;
    Ok((SpecRunner::with(settings, lock, signals), lane))
}

/// Runs a window, unless another run has its claim.
fn run_one(
    runner: &mut SpecRunner<'_>,
    lane: &mut Lane<'_>,
    window: EngineWindow<'_>,
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> EngineWindowEnd {
    let EngineWindow { index, run_id, spec, .. } = window;
    let mut asked = Asked::default();
    asked.own(&OwnFlags { run_id: Some(run_id), ..OwnFlags::default() });
    asked.spec(&spec);
    let claimed = lane.find_claimed(&spec, run_id, &mut Observers(vec![&mut DiagnosticObserver, notices]));
    let launched = match claimed {
        Ok(Some(holder)) => {
            let (cause, message) = (None, None);
            return EngineWindowEnd { code: Code::Success, state: None, cause, message, delivers: Some(holder), is_last: false };
        }
        Ok(None) => runner.launch(lane, Some(run_id), spec, notices),
        Err(error) => Err(error.into()),
    };
    let (failure, is_last) = match launched {
        Ok(result) => {
            let end = EngineWindowEnd::of(&result);
            if let (true, Some(message)) = (end.code != Code::Success, &end.message) {
                printer.bad(format_args!("window {index}: {message}"));
            }
            return end;
        }
        Err(LaunchOrCommand::Command(failure)) => (failure, false),
        // The run has begun, and is open.
        Err(LaunchOrCommand::Launch(error)) => {
            let is_last = !matches!(*error, LaunchError::Run(RunError::Running { .. })) && has_begun(lane, &run_id.to_string());
            ((*error).into(), is_last)
        }
    };
    printer.failure(&failure);
    let refusal = asked.refusal(&failure, settings).filter(|_| !is_last);
    let delivers = runner.record_refusal(lane, refusal.as_ref(), notices);
    let (code, cause) = (failure.code, failure.refusal());
    EngineWindowEnd { code, state: None, cause, message: Some(failure.message), delivers, is_last }
}

impl EngineWindowEnd {
    fn of(result: &RunResult) -> Self {
        let (state, cause, message) = match result {
            RunResult::Ended(ended) => match ended.terminal.outcome() {
                Outcome::Completed => (RunState::Completed, None, None),
                Outcome::Failed(failure) => {
                    let is_superseded = failure.cause == Cause::Superseded;
                    let state = if is_superseded { RunState::Superseded } else { RunState::Failed };
                    (state, Some(failure.cause), Some(failure.message))
                }
            },
            RunResult::Found { run, .. } => (run.state, run.cause, run.message.clone()),
            RunResult::Skipped { .. } => (RunState::Skipped, None, None),
        };
        let delivers = Some(result.run_id().to_owned());
        Self { code: code_of_result(result), state: Some(state), cause, message, delivers, is_last: false }
    }
}
