//! `run-job`: turns arguments into a spec, passes the spec to [`launch`], and maps its result to an exit code. Observers print what the
//! user sees during the run ([`crate::observe`]).

pub(crate) mod refused;

use super::jobs::unknown_policies;
use super::spec_file;
use super::{bookmarks, delivery, find_job, locked_to, second_store};
use crate::bar::Bar;
use crate::complete;
use crate::config::JobConfig;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags;
use crate::flags::OwnFlags;
use crate::notify::Notices;
use crate::observe::{DiagnosticObserver, JsonObserver, TerminalObserver, Verbosity};
use crate::params;
use crate::printer::Printer;
use crate::secrets::{self, Configured};
use crate::settings::Settings;
use chrono::Utc;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use lorchestra_core::host::signals::Signals;
use lorchestra_core::outcome::{Cause, Outcome};
use lorchestra_core::packages::catalog::{Catalog, Package};
use lorchestra_core::packages::lockfile::Lockfile;
use lorchestra_core::plan::{self, Context, PlanRequest, RequestedBy, RunPolicy, RunSpec};
use lorchestra_core::run::event::Observers;
use lorchestra_core::run::launch::{self, Delivery, Host, Launch, Launched, launch};
use lorchestra_core::run::supervisor::RunResult;
use lorchestra_core::secrets::Secrets;
use lorchestra_core::store::bookmark::Key;
use lorchestra_core::store::short_id;
use lorchestra_core::text;
use lorchestra_plugin_api::manifest::{JobManifest, Manifest};
use refused::Asked;
use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The context of all steps of the command.
struct Invocation<'a, 'b> {
    settings: &'a Settings,
    verbose: u8,
    notices: &'a mut Notices<'b>,
    printer: &'a mut Printer,
    /// The facts about the run that are known so far.
    asked: Asked,
}

/// A run that is ready to start.
struct Planned {
    spec: RunSpec,
    /// The file that contains the package.
    library: PathBuf,
    secrets: Secrets,
    /// Flags before PACKAGE and after JOB.
    own: OwnFlags,
    /// The lock file, if only locked libraries may run.
    lock: Option<Lockfile>,
}

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra run-job ingester extract_gmail --help
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since -7d
  lorchestra run-job --dry-run ingester extract_gmail --source ~/takeout.mbox
  lorchestra run-job -q --timeout 30m canonizer canonicalize_email
  lorchestra run-job --spec spec.json";

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunJob {
    #[command(flatten)]
    pub(crate) own: OwnFlags,

    /// Print help (after PACKAGE and JOB: the job's help)
    // Not clap's own flag, which would print the help of run-job instead of the job's.
    #[arg(short, long, overrides_with = "help")]
    pub(crate) help: bool,

    /// Run a spec printed by `--dry-run --json`, from FILE or `-` for stdin, instead of PACKAGE and JOB
    #[arg(long, value_name = "FILE", conflicts_with_all = ["package", "timeout", "grace", "on_overlap", "retries", "memory_max", "param", "group", "trace_parent", "requested_by"])]
    pub(crate) spec: Option<PathBuf>,

    /// Package name, or PACKAGE/JOB
    #[arg(required_unless_present_any = ["help", "spec"], add = ArgValueCompleter::new(complete::packages_or_pairs))]
    pub(crate) package: Option<String>,

    /// Job name
    #[arg(required_unless_present_any = ["help", "spec"], add = ArgValueCompleter::new(complete::jobs))]
    pub(crate) job: Option<String>,

    /// Flags of the job (see `lorchestra run-job PACKAGE JOB --help`)
    // Only for the help: [`argv::cut`] removes them before clap parses the rest.
    #[arg(value_name = "JOB FLAGS")]
    pub(crate) rest: Vec<OsString>,
}

pub(super) fn run(command: &RunJob, verbose: u8, settings: &Settings, mut notices: Notices<'_>, printer: &mut Printer) -> Code {
    printer.limit_waiting();
    let mut signals = None;
    let mut session = Invocation { settings, verbose, notices: &mut notices, printer, asked: Asked::of(command) };
    let code = match session.plan_and_run(command, &mut signals) {
        Ok(code) => code,
        Err(failure) => {
            session.printer.failure(&failure);
            session.refuse(&failure, &mut signals);
            failure.code
        }
    };
    // Needed even if no run started: a run left by a dead supervisor may have been closed.
    notices.send(signals.as_mut(), printer);
    code
}

/// Runs a spec that another command has made, as `run-job --spec` does. `signals` is set once signals are handled; a caller that runs several
/// specs passes the same one each time. `unready`: why no run can start on this host now, if that is known.
pub(super) fn run_spec(
    spec: RunSpec,
    own: &OwnFlags,
    (verbose, settings, unready): (u8, &Settings, Option<&CommandError>),
    signals: &mut Option<Signals>,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> SpecEnd {
    let mut asked = Asked::default();
    asked.own(own);
    let mut session = Invocation { settings, verbose, notices, printer, asked };
    let result = CommandError::unless_files_suffice().and_then(|()| match (session.of_spec(spec, own, signals)?, unready) {
        // It has ended, or another run has its claim: that does not depend on what this host lacks.
        (Err(code), _) => Ok(code),
        (Ok(_), Some(failure)) => Err(failure.clone()),
        (Ok(planned), None) => session.start(planned, signals),
    });
    match result {
        Ok(code) => {
            // Of a run that has ended the store has the message, but not of one whose claim was found.
            let message = (code == Code::Undelivered).then(|| "its events were not delivered in time".to_owned());
            SpecEnd { code, cause: None, message }
        }
        Err(failure) => {
            session.printer.failure(&failure);
            session.refuse(&failure, signals);
            SpecEnd { code: failure.code, cause: failure.refusal(), message: Some(failure.message) }
        }
    }
}

/// The end of [`run_spec`].
pub(super) struct SpecEnd {
    pub(super) code: Code,
    /// The cause of a refusal.
    pub(super) cause: Option<Cause>,
    /// Why no run started, its end was not recorded, or its events were not delivered.
    pub(super) message: Option<String>,
}

impl Invocation<'_, '_> {
    /// `signals` is set once signals are handled here.
    fn plan_and_run(&mut self, command: &RunJob, signals: &mut Option<Signals>) -> Result<Code, CommandError> {
        CommandError::unless_files_suffice()?;
        let planned = match &command.spec {
            Some(file) => self.of_spec(spec_file::read(file)?, &command.own, signals)?,
            None => self.plan(command, signals)?,
        };
        match planned {
            Ok(planned) => self.start(planned, signals),
            Err(code) => Ok(code),
        }
    }

    /// Runs what is planned; or prints it, for a dry run.
    fn start(&mut self, planned: Planned, signals: &mut Option<Signals>) -> Result<Code, CommandError> {
        let settings = self.settings;
        let Planned { spec, library, secrets, own, lock } = planned;
        if own.dry_run {
            return dry_run(spec, &library, lock.as_ref(), own.json, self.printer);
        }
        // An engine gives each node a store of its own, and asks for quiet.
        if !own.quiet {
            second_store(settings, self.printer);
        }
        if own.require_delivery {
            delivery::check(settings, own.delivery_timeout.unwrap_or(settings.delivery_timeout))?;
        }
        if !own.quiet && !settings.destinations.is_empty() {
            delivery::warn_once(settings, self.printer);
        }
        let what = Launch { spec, run_id: own.run_id, library: &library, lock: lock.as_ref(), secrets: &secrets };
        let launched = self.observed(&own, signals, |host, signals, observer| launch(what, host, signals, observer))?;
        Ok(code(&launched))
    }

    /// Whether the run has a progress bar, which would conflict with a followed trace on the same terminal.
    fn has_bar(&self, own: &OwnFlags) -> bool {
        self.verbose == 0 && !own.quiet && Bar::is_seen()
    }

    /// Returns the exit code of an ended run with the id that the caller chose, if there is one.
    fn ended(&mut self, own: &OwnFlags, key: Key<'_>, signals: &mut Option<Signals>) -> Result<Option<Code>, CommandError> {
        let Some(run_id) = own.run_id.filter(|_| !own.dry_run) else { return Ok(None) };
        let found = self.observed(own, signals, |host, signals, observer| launch::find(run_id, key, host, signals, observer))?;
        Ok(found.as_ref().map(code))
    }

    /// Returns the exit code if another run has the claim of the window: it is complete, so running it again would be for nothing.
    fn claimed(&mut self, spec: &RunSpec, own: &OwnFlags, signals: &mut Option<Signals>) -> Result<Option<Code>, CommandError> {
        let Some(run_id) = own.run_id.filter(|_| !own.dry_run && spec.claim.is_some()) else { return Ok(None) };
        let found =
            self.observed(own, signals, |host, signals, observer| launch::find_claimed(spec, run_id, host, signals, observer))?;
        Ok(found.map(|undelivered| if undelivered { Code::Undelivered } else { Code::Success }))
    }

    /// Does `work` on this host, with signals handled and observers attached.
    fn observed<T>(
        &mut self,
        own: &OwnFlags,
        signals: &mut Option<Signals>,
        work: impl FnOnce(&Host<'_>, &mut Signals, &mut Observers<'_>) -> Result<T, launch::LaunchError>,
    ) -> Result<T, CommandError> {
        let settings = self.settings;
        let timeout = own.delivery_timeout.unwrap_or(settings.delivery_timeout);
        let progress = self.has_bar(own);
        // From now on a signal stops the run in an orderly way instead of killing this process.
        let installed = match signals.take() {
            Some(installed) => installed,
            None => crate::commands::handle_signals()?,
        };
        let handled = signals.insert(installed);
        let host = settings.host(Delivery { to: &settings.destinations, required: own.require_delivery, timeout })?;
        let printer = RefCell::new(&mut *self.printer);
        let verbosity =
            Verbosity { verbose: self.verbose, quiet: own.quiet, json: own.json, progress, show_output: own.show_output };
        let mut terminal = TerminalObserver::new(&printer, &settings.state_dir, verbosity);
        let mut json = JsonObserver { printer: &printer };
        let mut diagnostics = DiagnosticObserver;
        let mut observers = Observers(vec![&mut diagnostics, &mut *self.notices]);
        if own.json {
            observers.0.push(&mut json);
        }
        observers.0.push(&mut terminal);
        Ok(work(&host, handled, &mut observers)?)
    }

    /// Returns the run that the arguments describe; or the exit code of a command that ends without one.
    fn plan(&mut self, command: &RunJob, signals: &mut Option<Signals>) -> Result<Result<Planned, Code>, CommandError> {
        let settings = self.settings;
        let (Some(package_name), Some(job_name)) = (command.package.as_deref(), command.job.as_deref()) else {
            // Only for help, which crate::help has already printed.
            return Err(CommandError::new(Code::Usage, "missing arguments PACKAGE and JOB").hint("see lorchestra run-job --help"));
        };
        let catalog = Catalog::scan(&settings.plugin_dirs);
        let (package, manifest, job) = &find_job(&catalog, package_name, job_name)?;
        unknown_policies(&catalog, settings, false, self.printer);
        let help = command.help.then(|| "--help".into());
        let rest: Vec<OsString> = help.into_iter().chain(command.rest.iter().cloned()).collect();
        let parsed = match flags::parse(package_name, job, &rest) {
            flags::ParseOutcome::Parsed(parsed) => parsed,
            flags::ParseOutcome::Failed(failure) => return Err(failure),
            flags::ParseOutcome::Clap(error) => return Ok(Err(self.printer.clap(&error))),
        };
        let own = command.own.merged(parsed.own);
        self.asked.own(&own);
        let mut values = parsed.given;
        values.extend(flags::named(&own.param)?);
        let typed: Vec<String> = values.iter().map(|given| given.name.clone()).collect();
        values.extend(params::configured(package_name, job, &values, settings)?);
        params::expand_home(job, &mut values, settings);
        let bookmark = match plan::last::requested_bookmark(job, &values) {
            Some(asked) => {
                let key = Key { package: package_name, job: job_name, account: asked.account.as_deref() };
                bookmarks::for_plan(key, own.dry_run, settings, self.notices, self.printer)?
            }
            None => None,
        };
        let configured = Configured::of(package_name, job, &values, settings)?;
        values.extend(configured.values(settings));
        let config = settings.jobs.get(&format!("{package_name}/{job_name}")).map(JobConfig::policy).unwrap_or_default();
        let mut spec = plan::resolve(PlanRequest {
            package: package_name,
            version: &manifest.version,
            job,
            values,
            now: Utc::now(),
            bookmark,
            limits: plan::policy::limits(flag_policy(&own), config, job),
            context: context(&own, settings),
        })
        .map_err(|error| bad_parameters(package_name, job, &error, settings))?;
        self.asked.spec(&spec);
        // Before checking anything on this host: a run that has ended needs nothing.
        let key = Key { package: package_name, job: job_name, account: spec.account.as_deref() };
        if let Some(code) = self.ended(&own, key, signals)? {
            return Ok(Err(code));
        }
        configured.place(&mut spec, settings);
        if !own.quiet {
            warn_deprecated(job, &spec, &typed, self.printer);
        }
        // Before the run starts, and also for a dry run, which must not plan a run that would be refused.
        let secrets = secrets::find(&spec, &configured, settings)?;
        let lock = self.lock(&own)?;
        Ok(Ok(Planned { spec, library: package.path.clone(), secrets, own, lock }))
    }

    /// Returns the run that a spec describes.
    fn of_spec(
        &mut self,
        spec: RunSpec,
        own: &OwnFlags,
        signals: &mut Option<Signals>,
    ) -> Result<Result<Planned, Code>, CommandError> {
        let settings = self.settings;
        self.asked.spec(&spec);
        let key = Key { package: &spec.package, job: &spec.job, account: spec.account.as_deref() };
        if let Some(code) = self.ended(own, key, signals)? {
            return Ok(Err(code));
        }
        if let Some(code) = self.claimed(&spec, own, signals)? {
            return Ok(Err(code));
        }
        let catalog = Catalog::scan(&settings.plugin_dirs);
        let (package, _, job) = &find_job_of(&catalog, &spec)?;
        // Check the spec against the job first, so that no secret is read that the job does not have.
        spec.check(job).map_err(|error| CommandError::from(launch::LaunchError::Spec(error)))?;
        let secrets = secrets::find(&spec, &Configured::default(), settings)?;
        let own = own.clone();
        let lock = self.lock(&own)?;
        Ok(Ok(Planned { spec, library: package.path.clone(), secrets, own, lock }))
    }

    /// Records that the run could not start, prints it for `--json`, and delivers the event that reports it. Errors of this are only traced,
    /// because the failure itself has been printed.
    fn refuse(&mut self, failure: &CommandError, signals: &mut Option<Signals>) {
        let Some(refusal) = self.asked.refusal(failure, self.settings) else { return };
        let quiet = OwnFlags { quiet: true, require_delivery: false, ..self.asked.own.clone() };
        let shown = failure.has_room();
        match self.observed(&quiet, signals, |host, signals, observer| launch::refuse(&refusal, host, signals, observer)) {
            Ok(run_id) if shown => self.printer.note(format_args!("  lorchestra runs show {}", short_id(&run_id))),
            Ok(_) => {}
            Err(error) => tracing::info!("the refused run is not recorded: {}", error.message),
        }
    }

    fn lock(&self, own: &OwnFlags) -> Result<Option<Lockfile>, CommandError> {
        if own.locked || self.settings.locked { locked_to(self.settings).map(Some) } else { Ok(None) }
    }
}

/// Finds the job of a spec.
pub(super) fn find_job_of<'a>(
    catalog: &'a Catalog,
    spec: &RunSpec,
) -> Result<(&'a Package, Manifest, JobManifest), CommandError> {
    find_job(catalog, &spec.package, &spec.job).map_err(|failure| match spec.requested_by {
        // A window was planned with this job: it is missing on this node, for every window alike.
        RequestedBy::Engine(_) => CommandError { code: Code::Plugin, ..failure },
        _ => failure,
    })
}

fn flag_policy(own: &OwnFlags) -> RunPolicy {
    RunPolicy {
        timeout: own.timeout,
        grace: own.grace,
        on_overlap: own.on_overlap,
        retries: own.retries,
        memory_max: own.memory_max,
        ..RunPolicy::default()
    }
}

fn context(own: &OwnFlags, settings: &Settings) -> Context {
    Context {
        directory: settings.directory.clone(),
        group: own.group.clone(),
        trace_parent: own.trace_parent.clone().or_else(|| settings.trace_parent.clone()),
        requested_by: own.requested_by.clone().unwrap_or_default(),
    }
}

/// Warns about deprecated jobs and parameters.
fn warn_deprecated(job: &JobManifest, spec: &RunSpec, typed: &[String], printer: &mut Printer) {
    if let Some(instead) = &job.deprecated {
        printer.warning(format_args!("{}/{} is deprecated: {}", spec.package, job.name, text::one_line(instead)));
    }
    for param in &job.params {
        if let Some(instead) = &param.deprecated
            && typed.iter().any(|name| name.replace('-', "_") == param.name.replace('-', "_"))
            && (spec.params.contains_key(&param.name) || spec.secrets.contains_key(&param.name))
        {
            printer.warning(format_args!("--{} is deprecated: {}", param.flag(), text::one_line(instead)));
        }
    }
}

pub(super) fn bad_parameters(package: &str, job: &JobManifest, error: &plan::PlanError, settings: &Settings) -> CommandError {
    let text = error.to_string();
    let mut lines = text.lines();
    let code = match error {
        // An invalid default is a bug of the plugin, not of the caller.
        error if error.is_of_plugin() => Code::Plugin,
        // A schedule that does not run because of it must be in the history.
        error if error.is_configured => Code::Config,
        _ => Code::Usage,
    };
    let failure = CommandError::new(code, lines.next().unwrap_or_default());
    let mut failure = lines.take(5).fold(failure, |failure, line| failure.hint(line.trim()));
    if code == Code::Config {
        let table = format!("[job.{:?}]", format!("{package}/{}", job.name));
        failure = failure.hint(format!("fix it in {}, {table}", text::path_text(&settings.config_path)));
    }
    failure.hint(format!("lorchestra run-job {package} {} --help", job.name))
}

/// Prints the spec of the run with the current library, and starts nothing.
fn dry_run(
    mut spec: RunSpec,
    path: &Path,
    lock: Option<&Lockfile>,
    as_json: bool,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let library = launch::seal(path, &spec.package, lock)?;
    launch::fit(&spec, &library)?;
    spec.sha256 = Some(library.sha256().to_owned());
    if as_json {
        printer.json(&spec);
    } else {
        spec_file::print(&spec, path, printer);
    }
    Ok(Code::Success)
}

/// Returns the exit code. A failed required delivery counts only if the job succeeded.
fn code(launched: &Launched) -> Code {
    let code = code_of_result(&launched.result);
    if code == Code::Success && launched.undelivered { Code::Undelivered } else { code }
}

/// Returns the exit code if delivery is left aside.
pub(super) fn code_of_result(result: &RunResult) -> Code {
    let of_outcome = |outcome: &Outcome| match outcome {
        Outcome::Completed => Code::Success,
        Outcome::Failed(failure) => of_failure(failure.cause, failure.signal),
    };
    match result {
        RunResult::Ended(ended) => of_outcome(&ended.terminal.outcome()),
        RunResult::Skipped { .. } => Code::Success,
        // A refused run never has an id that a caller chose.
        RunResult::Found { run, terminal } => {
            let signal = terminal.as_ref().and_then(|terminal| terminal.failure.as_ref()?.signal);
            run.cause.map_or(Code::Success, |cause| of_failure(cause, signal))
        }
    }
}

fn of_failure(cause: Cause, signal: Option<i32>) -> Code {
    match cause {
        Cause::Load => Code::Plugin,
        // The window is complete.
        Cause::Superseded => Code::Success,
        // The job succeeded, and its window was not claimed because its events were not delivered.
        Cause::Claim => Code::Undelivered,
        Cause::Timeout => Code::Timeout,
        Cause::Cancelled => Code::Interrupted(signal.unwrap_or(15)),
        _ => Code::Failed,
    }
}
