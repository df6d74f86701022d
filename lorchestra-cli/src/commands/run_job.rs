//! `run-job`: parameters to a plan, the plan to a run, the run's end to words and an exit code.

use super::jobs::unknown_policies;
use super::{bookmarks, delivery, failure_report, find_job, locked_to, second_store, tell_closed, tell_recovered};
use crate::args::{OwnFlags, RunJob};
use crate::bar::Bar;
use crate::config::JobConfig;
use crate::exit::Code;
use crate::failure::Failure;
use crate::flags;
use crate::follow::Follower;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::secrets::{self, Configured};
use crate::settings::Settings;
use crate::show;
use chrono::Utc;
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::{Cause, Outcome};
use lorchestra_core::packages::catalog::{Catalog, Package};
use lorchestra_core::packages::library::Library;
use lorchestra_core::packages::lockfile::Lockfile;
use lorchestra_core::plan::{self, OnOverlap, Plan, Request, Retries};
use lorchestra_core::run::recovery::close_abandoned;
use lorchestra_core::run::supervisor::{Ended, Ran, Retrying, Site, Skipped, Watcher};
use lorchestra_core::secrets::Secrets;
use lorchestra_core::store::bookmark::Key;
use lorchestra_core::text::chain;
use lorchestra_core::text::{self, path_text, printable};
use lorchestra_plugin_api::manifest::JobManifest;
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// Failed attempts that are told before the run's end, which takes four lines at most.
const TOLD: u32 = 3;
/// How long a job has to end when it is told to.
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn run(command: &RunJob, verbose: u8, settings: &Settings, mut notices: Notices<'_>, printer: &mut Printer) -> Code {
    let mut signals = None;
    let result = plan_and_run(command, verbose, settings, &mut signals, &mut notices, printer);
    let code = printer.ended(result);
    // Also where no run was begun: one that a dead supervisor had left may have been closed on the way.
    notices.send(signals.as_mut(), printer);
    code
}

/// `signals` is set once they are handled here.
fn plan_and_run(
    command: &RunJob,
    verbose: u8,
    settings: &Settings,
    signals: &mut Option<Signals>,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, Failure> {
    let (Some(package_name), Some(job_name)) = (command.package.as_deref(), command.job.as_deref()) else {
        // Only for help, which crate::help has answered.
        return Err(Failure::new(Code::Usage, "PACKAGE and JOB are missing").mend("lorchestra run-job --help"));
    };
    let catalog = Catalog::scan(&settings.plugin_dirs);
    let (package, manifest, job) = &find_job(&catalog, package_name, job_name)?;

    unknown_policies(&catalog, settings, false, printer);
    let help = command.help.then(|| "--help".into());
    let rest: Vec<OsString> = help.into_iter().chain(command.rest.iter().cloned()).collect();
    let parsed = match flags::parse(package_name, job, &rest) {
        flags::Outcome::Parsed(parsed) => parsed,
        flags::Outcome::Failed(failure) => return Err(failure),
        flags::Outcome::Clap(error) => return Ok(printer.clap(&error)),
    };
    let own = command.own.merged(parsed.own);
    let mut values = parsed.given;
    values.extend(flags::named(&own.param)?);
    let bookmark = match plan::last::asked_by(job, &values) {
        Some(asked) => {
            let key = Key { package: package_name, job: job_name, account: asked.account.as_deref() };
            bookmarks::asked_for(key, own.dry_run, settings, notices, printer)?
        }
        None => None,
    };
    let policy = settings.jobs.get(&format!("{package_name}/{job_name}"));
    let typed: Vec<String> = values.iter().map(|given| given.name.clone()).collect();
    let configured = Configured::of(package_name, job, &values, settings)?;
    values.extend(configured.values());
    let defaults = Defaults::of(job);
    let mut plan = plan::resolve(Request {
        package: package_name,
        version: &manifest.version,
        job,
        values,
        now: Utc::now(),
        bookmark,
        timeout: own.timeout.or(policy.and_then(|p| p.timeout)).or(defaults.timeout),
        grace: own.grace.or(policy.and_then(|p| p.grace)).unwrap_or(GRACE),
        on_overlap: own.on_overlap.or(policy.and_then(|p| p.overlap)).or(defaults.overlap).unwrap_or_default(),
        retries: retries(&own, policy, job),
        memory_max: own.memory_max.or(policy.and_then(|p| p.memory_max)),
    })
    .map_err(|error| bad_parameters(package_name, job, &error))?;

    configured.place(&mut plan, settings);
    if !own.quiet {
        tell_deprecated(package_name, job, &plan, &typed, printer);
    }
    // Before anything begins, and also for a dry run: what would not be run is not planned.
    let secrets = secrets::find(&plan, &configured, settings)?;
    let lock = if own.locked || settings.locked { Some(locked_to(settings)?) } else { None };
    if own.dry_run {
        if lock.is_some() {
            sealed(package, lock.as_ref())?;
        }
        dry_run(package, &plan, own.json, printer);
        return Ok(Code::Success);
    }
    second_store(settings, printer);
    if own.require_delivery {
        delivery::check(settings, own.delivery_timeout.unwrap_or(settings.delivery_timeout))?;
    }
    // From here on a signal ends the run in order, not this process.
    let handled = Signals::install().map_err(|e| Failure::new(Code::Internal, format!("signals cannot be handled: {e}")))?;
    let site = Running { settings, verbose, own: &own, lock, secrets };
    site.execute(package, job, &plan, signals.insert(handled), notices, printer)
}

/// What the job's own source says of how it is run. The catalog has seen to it that it can be read.
struct Defaults {
    timeout: Option<Duration>,
    overlap: Option<OnOverlap>,
}

impl Defaults {
    fn of(job: &JobManifest) -> Self {
        Self {
            timeout: job.timeout.as_deref().and_then(|text| plan::duration::parse(text).ok()),
            overlap: job.overlap.as_deref().and_then(|text| text.parse().ok()),
        }
    }
}

/// Tells that what is used is not to be used any more.
fn tell_deprecated(package: &str, job: &JobManifest, plan: &Plan, typed: &[String], printer: &mut Printer) {
    if let Some(instead) = &job.deprecated {
        printer.warning(format_args!("{package}/{} is deprecated: {}", job.name, text::one_line(instead)));
    }
    for param in &job.params {
        if let Some(instead) = &param.deprecated
            && typed.iter().any(|name| name.replace('-', "_") == param.name.replace('-', "_"))
            && (plan.params.contains_key(&param.name) || plan.secrets.contains_key(&param.name))
        {
            printer.warning(format_args!("--{} is deprecated: {}", param.flag(), text::one_line(instead)));
        }
    }
}

fn retries(own: &OwnFlags, policy: Option<&JobConfig>, job: &JobManifest) -> Retries {
    let default = Retries::default();
    Retries {
        limit: own.retries.or(policy.and_then(|p| p.retries)).or(job.retries).unwrap_or(default.limit),
        on: policy.and_then(|p| p.retry_on.clone()).unwrap_or(default.on),
        wait: policy.and_then(|p| p.retry_wait).unwrap_or(default.wait),
    }
}

/// The bytes that will run: those that are compared with plugins.lock, where they must be.
fn sealed(package: &Package, lock: Option<&Lockfile>) -> Result<Library, Failure> {
    Library::open(&package.path)
        .and_then(|library| lock.map_or(Ok(()), |lock| lock.allows(&library)).map(|()| library))
        .map_err(|fault| Failure::unusable(&package.outline.package, &[&fault.at(package.path.clone())]))
}

fn bad_parameters(package: &str, job: &JobManifest, error: &plan::PlanError) -> Failure {
    let text = error.to_string();
    let mut lines = text.lines();
    // A default that cannot be read is the plugin's fault, not the caller's.
    let code = if error.is_of_plugin() { Code::Plugin } else { Code::Usage };
    let failure = Failure::new(code, lines.next().unwrap_or_default());
    lines
        .take(6)
        .fold(failure, |failure, line| failure.mend(line.trim()))
        .mend(format!("lorchestra run-job {package} {} --help", job.name))
}

fn dry_run(package: &Package, plan: &Plan, as_json: bool, printer: &mut Printer) {
    if as_json {
        printer.json(&json!({
            "schema": "lorchestra.plan/1",
            "path": package.path.display().to_string(),
            "plan": plan,
        }));
        return;
    }
    // What the plugin says of itself, and what was typed.
    let mut line = |text: String| printer.line(printable(&text));
    line(format!("{}/{} (dry run: nothing was started)", plan.package, plan.job));
    line(format!("  plugin: {} {} ({})", plan.package, plan.version, path_text(&package.path)));
    if let Some(window) = &plan.window {
        let since = window.since.map_or_else(|| "the beginning".to_owned(), plan::time::show);
        let last = if plan.since_last { " (last)" } else { "" };
        line(format!("  window: from {since}{last} until {} (not included)", plan::time::show(window.until)));
    }
    for (name, value) in &plan.params {
        line(format!("  {name} = {value}"));
    }
    for (name, source) in &plan.secrets {
        line(format!("  {name} = (secret from {source})"));
    }
    let timeout = plan.timeout.map_or_else(|| "none".to_owned(), plan::duration::show);
    line(format!("  timeout: {timeout}, grace: {}", plan::duration::show(plan.grace)));
    let memory = plan.memory_max.map_or_else(|| "not limited".to_owned(), plan::size::show);
    line(format!("  on overlap: {}, retries: {}, memory: {memory}", plan.on_overlap, plan.retries.limit));
}

/// What was asked for beside the job.
struct Running<'a> {
    settings: &'a Settings,
    verbose: u8,
    own: &'a OwnFlags,
    /// Where only locked libraries may run: those.
    lock: Option<Lockfile>,
    secrets: Secrets,
}

impl Running<'_> {
    fn execute(
        &self,
        package: &Package,
        job: &JobManifest,
        plan: &Plan,
        signals: &mut Signals,
        notices: &mut Notices<'_>,
        printer: &mut Printer,
    ) -> Result<Code, Failure> {
        let Self { settings, verbose, own, .. } = *self;
        let library = sealed(package, self.lock.as_ref())?;
        // The parameters were checked against this job: it must be the one that will run.
        if library.manifest().job(&plan.job) != Some(job) {
            return Err(Failure::replaced(&package.path));
        }
        let state = StateDir::open(&settings.state_dir)?;
        tell_closed(close_abandoned(&state)?, notices, printer);
        let live = delivery::start(settings, &state, own.quiet, printer)?;

        let site = Site {
            state: &state,
            data_root: settings.data_root()?,
            worker: Path::new("/proc/self/exe"),
            version: env!("CARGO_PKG_VERSION"),
            trace_level: settings.trace_level,
            log_max: settings.log_max,
            strict_numbers: settings.strict_numbers,
            secrets: &self.secrets,
            // What follows the trace writes to the same terminal.
            progress: verbose == 0 && !own.quiet && Bar::is_seen(),
        };
        let mut recovered = Vec::new();
        let mut watch = Watch {
            plan,
            state: &state,
            verbose,
            quiet: own.quiet,
            follower: None,
            bar: None,
            progress: site.progress,
            told: 0,
            printer: &mut *printer,
        };
        let ran = lorchestra_core::run::supervisor::run(&site, plan, &library, signals, &mut recovered, &mut watch);
        if let Some(follower) = watch.follower.take() {
            follower.finish();
        }
        if let Some(bar) = watch.bar.take() {
            bar.finish();
        }
        tell_recovered(&recovered, notices, printer);
        let (code, run_id, mut store) = match ran? {
            Ran::Ended(ended) => {
                let code = tell(plan, &ended, own, printer);
                if let Some(lost) = ended.payload["output_lost"].as_u64() {
                    printer.warning(format_args!("{lost} bytes of what the job printed are lost: the disk did not take them"));
                }
                if let Some(left) = ended.payload["processes_left"].as_u64() {
                    printer.warning(format_args!("{left} processes that the job started could not be ended"));
                }
                if let Outcome::Failed(failure) = &ended.outcome {
                    let host = lorchestra_core::host::process::host();
                    let report = failure_report(&ended.run_id, &plan.package, &plan.job, plan.account.as_deref(), &host, failure);
                    notices.add(report);
                }
                (code, ended.run_id, ended.store)
            }
            Ran::Skipped(skipped) => (tell_skipped(plan, &skipped, own, printer), skipped.run_id, skipped.store),
        };
        // The caller knows the outcome by now; cleaning up must not change it.
        printer.flush();
        let undelivered = live.map(|live| {
            let last = delivery::Last {
                run_id: &run_id,
                require: own.require_delivery,
                timeout: own.delivery_timeout.unwrap_or(settings.delivery_timeout),
                quiet: own.quiet,
            };
            delivery::finish(live, &last, signals, &store, printer)
        });
        match store.prune(&state, &settings.retention, Utc::now().timestamp_micros()) {
            Ok(pruned) => tracing::debug!(pruned.runs, pruned.logs, "retention"),
            Err(error) => printer.warning(format_args!("old runs could not be removed: {}", chain(&error))),
        }
        // The job's own outcome goes first.
        Ok(match undelivered {
            Some(true) if code == Code::Success => Code::Undelivered,
            _ => code,
        })
    }
}

/// Tells what happens while the run goes on: one line each, and no more than leave room for what is said of its end.
struct Watch<'a> {
    plan: &'a Plan,
    state: &'a StateDir,
    verbose: u8,
    quiet: bool,
    follower: Option<Follower>,
    bar: Option<Bar>,
    /// Whether there is to be a bar.
    progress: bool,
    /// Attempts that were told.
    told: u32,
    printer: &'a mut Printer,
}

impl Watcher for Watch<'_> {
    fn waiting(&mut self, holder: &str) {
        if !self.quiet && matches!(self.plan.on_overlap, OnOverlap::Wait(_)) {
            let Plan { package, job, .. } = self.plan;
            self.printer.note(format_args!("{package}/{job} is running already: waiting for run {holder} to end"));
        }
    }

    fn begun(&mut self, run_id: &str) {
        tracing::info!(run_id, "run begins");
        if self.verbose > 0 {
            self.follower = Follower::start(self.state.trace(run_id));
        }
        if self.progress {
            self.bar = Bar::start(self.state, run_id, format!("{}/{}", self.plan.package, self.plan.job));
        }
    }

    fn retrying(&mut self, retrying: &Retrying<'_>) {
        let Retrying { run_id, attempt, of, failure, wait } = retrying;
        tracing::info!(run_id, attempt, cause = failure.cause.as_str(), "attempt failed");
        // With -q a run that comes to a good end says nothing, and one that does not says how many attempts there were.
        if self.quiet || (self.told >= TOLD && self.verbose == 0) {
            return;
        }
        self.told += 1;
        let rest = if self.told == TOLD && self.verbose == 0 && attempt + 1 < *of { "; later ones are in runs show" } else { "" };
        let message = text::shortened(&text::first_line(&failure.message), 200);
        let (cause, wait) = (failure.cause.as_str(), show::elapsed(*wait));
        let printer = &mut *self.printer;
        let mut tell = || {
            printer.warning(format_args!("attempt {attempt} of {of} failed ({cause}): {message}; the next one in {wait}{rest}"));
        };
        match &self.bar {
            Some(bar) => bar.aside(tell),
            None => tell(),
        }
    }
}

fn tell_skipped(plan: &Plan, skipped: &Skipped, own: &OwnFlags, printer: &mut Printer) -> Code {
    if own.json {
        printer.json(&json!({
            "schema": "lorchestra.run-job/1",
            "run_id": skipped.run_id,
            "package": plan.package,
            "job": plan.job,
            "state": "skipped",
            "cause": null,
            "message": null,
            "attempts": 0,
            "duration_ms": 0,
            "held_by": skipped.held_by,
        }));
    } else if !own.quiet {
        let held_by = match &skipped.held_by {
            Some(held_by) => format!("run {held_by}"),
            None => "in a run that is not known".to_owned(),
        };
        printer.line(format_args!("- {}/{} skipped: it is running already ({held_by})", plan.package, plan.job));
    }
    Code::Success
}

fn tell(plan: &Plan, ended: &Ended, own: &OwnFlags, printer: &mut Printer) -> Code {
    tracing::info!(run_id = ended.run_id, took = show::elapsed(ended.duration), "run ended");
    let name = format!("{}/{}", plan.package, plan.job);
    let in_attempt = if ended.attempt > 1 { format!(" in attempt {}", ended.attempt) } else { String::new() };
    if own.json {
        let (state, cause, message) = match &ended.outcome {
            Outcome::Completed => ("completed", None, None),
            Outcome::Failed(failure) => ("failed", Some(failure.cause.as_str()), Some(&failure.message)),
        };
        printer.json(&json!({
            "schema": "lorchestra.run-job/1",
            "run_id": ended.run_id,
            "package": plan.package,
            "job": plan.job,
            "state": state,
            "cause": cause,
            "message": message,
            "attempts": ended.attempt,
            "duration_ms": u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
        }));
    }
    match &ended.outcome {
        Outcome::Completed => {
            if !own.quiet && !own.json {
                printer.good(format_args!("{name} completed{in_attempt}"));
            }
            Code::Success
        }
        Outcome::Failed(failure) => {
            printer.bad(format_args!("{name} failed: {}", text::first_line(&failure.message)));
            printer.note(format_args!("  cause: {} after {}{in_attempt}", failure.cause.as_str(), show::elapsed(ended.duration)));
            printer.note(format_args!("  lorchestra runs show {}", ended.run_id));
            if std::fs::metadata(&ended.output).is_ok_and(|meta| meta.len() > 0) {
                printer.note(format_args!("  lorchestra runs logs {}", ended.run_id));
            }
            match failure.cause {
                Cause::Load => Code::Plugin,
                Cause::Timeout => Code::Timeout,
                Cause::Cancelled => Code::Interrupted(failure.signal.unwrap_or(15)),
                _ => Code::Failed,
            }
        }
    }
}
