//! Observers of a run: the terminal output, the output of `--json`, and diagnostics. The failure hook is another one ([`crate::notify`]).
//! Each reads the one stream of [`RunEvent`]s; none affects a run.

mod output;
pub(crate) mod recovered;
pub(crate) mod undelivered;

use crate::bar::Bar;
use crate::follow::Follower;
use crate::printer::Printer;
use crate::show;
use crate::wire::RunOutcome;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::{Cause, Failure};
use lorchestra_core::plan::{OnOverlap, RunSpec};
use lorchestra_core::run::event::{AttemptFailed, Observer, RunEvent};
use lorchestra_core::store::{Refusal, Terminal, short_id};
use lorchestra_core::text;
use lorchestra_core::text::chain;
use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

/// Maximum number of failed attempts to report before the run's end, which takes up to four lines.
const MAX_REPORTED: u32 = 3;

/// Prints for the terminal: warnings during the run, the outcome at the end.
pub(crate) struct TerminalObserver<'a> {
    pub(crate) printer: &'a RefCell<&'a mut Printer>,
    pub(crate) state_dir: &'a Path,
    pub(crate) verbose: u8,
    pub(crate) quiet: bool,
    /// Whether another observer prints the outcome.
    pub(crate) json: bool,
    /// Whether to show a progress bar.
    pub(crate) progress: bool,
    /// Whether to print the job's output at the end.
    pub(crate) show_output: bool,
    follower: Option<Follower>,
    bar: Option<Bar>,
    /// Number of attempts reported so far.
    reported: u32,
}

/// What [`TerminalObserver`] shows of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verbosity {
    pub(crate) verbose: u8,
    pub(crate) quiet: bool,
    pub(crate) json: bool,
    pub(crate) progress: bool,
    pub(crate) show_output: bool,
}

impl<'a> TerminalObserver<'a> {
    pub(crate) fn new(printer: &'a RefCell<&'a mut Printer>, state_dir: &'a Path, verbosity: Verbosity) -> Self {
        let Verbosity { verbose, quiet, json, progress, show_output } = verbosity;
        Self { printer, state_dir, verbose, quiet, json, progress, show_output, follower: None, bar: None, reported: 0 }
    }

    fn waiting(&self, spec: &RunSpec, holder: &str) {
        if !self.quiet && matches!(spec.on_overlap, OnOverlap::Wait(_)) {
            let RunSpec { package, job, .. } = spec;
            let mut printer = self.printer.borrow_mut();
            printer.note(format_args!("{package}/{job} is already running: waiting for run {} to end", short_id(holder)));
        }
    }

    fn started(&mut self, run_id: &str, spec: &RunSpec) {
        // The worker waits for its order while this runs.
        if self.verbose == 0 && !self.progress {
            return;
        }
        let Ok(Some(state)) = StateDir::existing(self.state_dir) else { return };
        if self.verbose > 0 {
            self.follower = Follower::start(state.trace(run_id));
        }
        if self.progress {
            self.bar = Bar::start(&state, run_id, format!("{}/{}", spec.package, spec.job));
        }
    }

    fn attempt_failed(&mut self, failed: &AttemptFailed<'_>) {
        let AttemptFailed { attempt, of, failure, wait, .. } = *failed;
        // With -q, a run that succeeds in the end prints nothing, and one that fails prints the number of attempts.
        if self.quiet || (self.reported >= MAX_REPORTED && self.verbose == 0) {
            return;
        }
        self.reported += 1;
        let is_last = self.reported == MAX_REPORTED && self.verbose == 0 && attempt + 1 < of;
        let rest = if is_last { "; see runs show for later attempts" } else { "" };
        let message = text::shortened(&text::first_line(&failure.message), 200);
        let (cause, wait) = (failure.cause.as_str(), show::elapsed(wait));
        let print = || {
            let mut printer = self.printer.borrow_mut();
            printer.warning(format_args!("attempt {attempt} of {of} failed ({cause}): {message}; next attempt in {wait}{rest}"));
        };
        match &self.bar {
            Some(bar) => bar.aside(print),
            None => print(),
        }
    }

    fn skipped(&self, run_id: &str, spec: &RunSpec, held_by: Option<&str>) {
        if self.json || self.quiet {
            return;
        }
        let held_by = held_by.map(|held_by| format!(" as run {}", short_id(held_by))).unwrap_or_default();
        let name = format!("{}/{}", spec.package, spec.job);
        self.printer.borrow_mut().line(format_args!("- {name} skipped: already running{held_by} (run {})", short_id(run_id)));
    }

    fn ended(&mut self, run_id: &str, spec: &RunSpec, terminal: &Terminal, output: &Path) {
        if let Some(follower) = self.follower.take() {
            follower.finish();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        if self.show_output {
            output::print(output, &mut self.printer.borrow_mut());
        }
        let name = format!("{}/{}", spec.package, spec.job);
        self.outcome(&name, run_id, terminal, std::fs::metadata(output).is_ok_and(|meta| meta.len() > 0));
        let mut printer = self.printer.borrow_mut();
        if terminal.output_lost > 0 {
            let lost = terminal.output_lost;
            printer.warning(format_args!("{lost} bytes of the job's output were lost: the disk was full"));
        }
        if terminal.processes_left > 0 {
            let left = match terminal.processes_left {
                1 => "1 process".to_owned(),
                left => format!("{left} processes"),
            };
            printer.warning(format_args!("{left} started by the job could not be stopped"));
        }
        // The caller has the outcome now; later steps must not change it.
        printer.flush();
    }

    fn outcome(&self, name: &str, run_id: &str, terminal: &Terminal, has_log: bool) {
        let mut printer = self.printer.borrow_mut();
        let in_attempt = if terminal.attempt > 1 { format!(" in attempt {}", terminal.attempt) } else { String::new() };
        let Some(failure) = &terminal.failure else {
            if !self.quiet && !self.json {
                printer.good(format_args!("{name} completed{in_attempt} (run {})", short_id(run_id)));
            }
            return;
        };
        if failure.cause == Cause::Superseded {
            if !self.quiet && !self.json {
                printer.line(format_args!("- {name} superseded: {} (run {})", failure.message, short_id(run_id)));
            }
            return;
        }
        let took = show::elapsed(Duration::from_millis(terminal.duration_ms));
        printer.bad(format_args!("{name} failed: {}", text::first_line(&failure.message)));
        printer.note(format_args!("  cause: {} after {took}{in_attempt}", failure.cause.as_str()));
        let run_id = short_id(run_id);
        printer.note(format_args!("  lorchestra runs show {run_id}"));
        if has_log {
            printer.note(format_args!("  lorchestra runs logs {run_id}"));
        }
    }
}

impl Observer for TerminalObserver<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Recovered(closed) => recovered::show(closed, &mut self.printer.borrow_mut()),
            RunEvent::Waiting { spec, holder } => self.waiting(spec, holder),
            RunEvent::Started { run_id, spec } => self.started(run_id, spec),
            RunEvent::AttemptFailed(failed) => self.attempt_failed(failed),
            RunEvent::Skipped { run_id, spec, held_by } => self.skipped(run_id, spec, *held_by),
            RunEvent::Found { run, terminal } => {
                let name = format!("{}/{}", run.package, run.job);
                if !self.quiet {
                    let ended = show::time(run.ended_at.unwrap_or(run.started_at));
                    self.printer
                        .borrow_mut()
                        .note(format_args!("run {} has already ended ({ended}); nothing was started", short_id(&run.run_id)));
                }
                if let Some(terminal) = terminal {
                    self.outcome(&name, &run.run_id, terminal, false);
                }
            }
            RunEvent::Claimed { spec, holder } => {
                if !self.quiet && !self.json {
                    let (name, run) = (format!("{}/{}", spec.package, spec.job), short_id(holder));
                    self.printer
                        .borrow_mut()
                        .line(format_args!("- {name}: run {run} has completed this window; nothing was started"));
                }
            }
            RunEvent::Ended { run_id, spec, terminal, output } => self.ended(run_id, spec, terminal, output),
            RunEvent::Delivered { to, report, pending, required } => {
                undelivered::after_run(to, report, *pending, [*required, self.quiet], &mut self.printer.borrow_mut());
            }
            RunEvent::Pruned(Err(error)) => {
                self.printer.borrow_mut().warning(format_args!("cannot remove old runs: {}", chain(error)));
            }
            // The command has printed why.
            RunEvent::Refused { .. } | RunEvent::Pruned(Ok(_)) => {}
        }
    }
}

/// Prints the object of `--json` (schema `lorchestra.run-job/1`).
pub(crate) struct JsonObserver<'a> {
    pub(crate) printer: &'a RefCell<&'a mut Printer>,
}

/// The outcome of a run that is not skipped.
fn outcome(run_id: &str, [package, job]: [&str; 2], state: &'static str, failure: Option<&Failure>) -> RunOutcome {
    RunOutcome {
        schema: "lorchestra.run-job/1",
        run_id: run_id.to_owned(),
        package: package.to_owned(),
        job: job.to_owned(),
        state,
        cause: failure.map(|failure| failure.cause),
        message: failure.map(|failure| failure.message.clone()),
        attempts: 0,
        duration_ms: 0,
        result: None,
        held_by: None,
    }
}

/// The outcome of a refused run.
pub(crate) fn refused_outcome(run_id: &str, refusal: &Refusal) -> RunOutcome {
    let refused = outcome(run_id, [&refusal.package, &refusal.job], "refused", None);
    RunOutcome { cause: Some(refusal.cause), message: Some(refusal.message.clone()), ..refused }
}

impl Observer for JsonObserver<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Skipped { run_id, spec, held_by } => {
                let held_by = Some(held_by.unwrap_or_default().to_owned());
                let skipped = outcome(run_id, [&spec.package, &spec.job], "skipped", None);
                self.printer.borrow_mut().json(&RunOutcome { held_by, ..skipped });
            }
            RunEvent::Ended { run_id, spec, terminal, .. } => {
                let state = match terminal.failure.as_ref().map(|failure| failure.cause) {
                    None => "completed",
                    Some(Cause::Superseded) => "superseded",
                    Some(_) => "failed",
                };
                let ended = outcome(run_id, [&spec.package, &spec.job], state, terminal.failure.as_ref());
                let (attempts, duration_ms, result) = (terminal.attempt, terminal.duration_ms, terminal.result.clone());
                self.printer.borrow_mut().json(&RunOutcome { attempts, duration_ms, result, ..ended });
            }
            RunEvent::Claimed { spec, holder } => {
                let claimed = outcome(holder, [&spec.package, &spec.job], "completed", None);
                self.printer.borrow_mut().json(&claimed);
            }
            RunEvent::Found { run, terminal } => {
                let failure = terminal.and_then(|terminal| terminal.failure.as_ref());
                let found = outcome(&run.run_id, [&run.package, &run.job], run.state.as_str(), failure);
                let duration_ms = terminal.map_or(0, |terminal| terminal.duration_ms);
                let result = terminal.and_then(|terminal| terminal.result.clone());
                self.printer.borrow_mut().json(&RunOutcome { attempts: run.attempts, duration_ms, result, ..found });
            }
            RunEvent::Refused { run_id, refusal } => self.printer.borrow_mut().json(&refused_outcome(run_id, refusal)),
            _ => {}
        }
    }
}

/// Logs lorchestra's own diagnostics (`-v`).
pub(crate) struct DiagnosticObserver;

impl Observer for DiagnosticObserver {
    fn observe(&mut self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Started { run_id, .. } => tracing::info!(run_id, "run started"),
            RunEvent::AttemptFailed(AttemptFailed { run_id, attempt, failure, .. }) => {
                tracing::info!(run_id, attempt, cause = failure.cause.as_str(), "attempt failed");
            }
            RunEvent::Ended { run_id, terminal, .. } => {
                tracing::info!(run_id, took = show::elapsed(Duration::from_millis(terminal.duration_ms)), "run ended");
            }
            RunEvent::Pruned(Ok(pruned)) => tracing::debug!(pruned.runs, pruned.logs, "retention"),
            _ => {}
        }
    }
}
