//! Commands: each takes values and a printer, and returns its exit code.

pub(crate) mod args;
pub(crate) mod backfill;
pub(crate) mod bookmarks;
mod config;
mod delivery;
mod dev;
pub(crate) mod doctor;
mod events;
mod export;
mod fleet;
mod jobs;
mod known;
mod lane;
mod metrics;
mod named_group;
pub(crate) mod new;
mod plugins;
mod report;
mod resolve;
mod run_group;
pub(crate) mod run_job;
mod run_window;
pub(crate) mod runs;
mod schedule;
mod schemas;
mod setup;
mod shell;
mod spec_file;
mod status;
mod unclosed;

use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::GlobalFlags;
use crate::notify::{Hooks, Notices};
use crate::observe::{recovered, refused_outcome};
use crate::printer::Printer;
use crate::settings::{HistoryPlace, Rescued, Settings};
use clap::{Args as _, Subcommand};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::packages::catalog::{Catalog, Package};
use lorchestra_core::packages::lockfile::Lockfile;
use lorchestra_core::run::launch::record_refusal;
use lorchestra_core::run::recovery::{Closed, close_all_abandoned, remove_all_unrecorded};
use lorchestra_core::store::history::NAMED;
use lorchestra_core::store::{Run, RunQuery, RunState, Store, short_id};
use lorchestra_core::text::path_text;
use lorchestra_plugin_api::manifest::{JobManifest, Manifest};
use run_job::refused::Asked;
use std::path::{Path, PathBuf};
use unclosed::Unclosed;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List and inspect jobs
    #[command(subcommand, before_help = "Examples:\n  lorchestra jobs list\n  lorchestra jobs show ingester extract_gmail")]
    Jobs(jobs::Jobs),
    /// Run one job
    #[command(before_help = run_job::EXAMPLES)]
    RunJob(Box<run_job::RunJob>),
    /// Run a job once for each window of a time range, several windows at a time
    #[command(before_help = backfill::EXAMPLES)]
    Backfill(Box<backfill::Backfill>),
    /// Run the jobs of a group file, stage by stage
    #[command(before_help = run_group::EXAMPLES, after_help = run_group::FILE_FORMAT)]
    RunGroup(run_group::RunGroup),
    /// Run one window of a plan file (a workflow engine calls this on each node)
    #[command(before_help = run_window::EXAMPLES, after_help = run_window::EXIT_CODES)]
    RunWindow(run_window::RunWindow),
    /// Run the specs of a group that arrive on stdin
    #[command(hide = true)]
    Lane(lane::LaneFlags),
    /// List, show, stop and rerun runs
    #[command(
        subcommand,
        before_help = "Examples:\n  lorchestra runs list\n  lorchestra runs show last\n  lorchestra runs logs ingester/extract_gmail"
    )]
    Runs(runs::Runs),
    /// Show the health of each job; exit 1 if one is failing or stale
    #[command(
        before_help = "Examples:\n  lorchestra status\n  lorchestra status --stale 26h\n  lorchestra status ingester --json",
        after_help = status::RULE
    )]
    Status(status::Status),
    /// Print the state of jobs and delivery in Prometheus' text format
    #[command(
        before_help = "Examples:\n  lorchestra metrics\n  lorchestra metrics -o /var/lib/node_exporter/lorchestra.prom",
        after_help = metrics::RULE
    )]
    Metrics(metrics::Metrics),
    /// Write a report about the last days as a single HTML page
    #[command(before_help = "Examples:\n  lorchestra report -o report.html\n  lorchestra report --days 7 -o week.html")]
    Report(report::ReportCommand),
    /// Print a completion script for a shell
    #[command(
        before_help = "Examples:\n  lorchestra completions bash > ~/.local/share/bash-completion/completions/lorchestra\n  lorchestra completions fish > ~/.config/fish/completions/lorchestra.fish"
    )]
    Completions(shell::Completions),
    /// Print the manual page, or write a page for each command
    #[command(before_help = "Examples:\n  lorchestra man | man -l -\n  lorchestra man --dir ~/.local/share/man/man1")]
    Man(shell::Man),
    /// Print the JSON Schema of anything that lorchestra prints as JSON
    #[command(before_help = "Examples:\n  lorchestra schemas\n  lorchestra schemas status\n  lorchestra schemas --dir schemas")]
    Schemas(schemas::Schemas),
    /// Show the settings that apply, and every key of config.toml
    #[command(subcommand, before_help = "Examples:\n  lorchestra config show --origin\n  lorchestra config keys")]
    Config(config::ConfigCommand),
    /// Check everything that runs need, from plugins to destinations; exit 1 if something is wrong
    #[command(before_help = "Examples:\n  lorchestra doctor\n  lorchestra doctor --network\n  lorchestra doctor --json")]
    Doctor(doctor::Doctor),
    /// Print schedules for systemd, cron or containers, and list the installed ones
    #[command(subcommand, before_help = schedule::EXAMPLES)]
    Schedule(schedule::Schedule),
    /// Print a Kubernetes or Cloud Run job that runs the windows of a plan file
    #[command(before_help = export::EXAMPLES, after_help = export::RULE)]
    Export(export::Export),
    /// Check, install, remove and lock plugin libraries
    #[command(
        subcommand,
        before_help = "Examples:\n  lorchestra plugins check target/release/libingester.so\n  lorchestra plugins install target/release/libingester.so\n  lorchestra plugins list"
    )]
    Plugins(plugins::Plugins),
    /// List events and deliver them to destinations
    #[command(subcommand, before_help = "Example:\n  lorchestra events list --since -1d --type job.failed")]
    Events(events::Events),
    /// Show or change bookmarks (where `--since last` starts)
    #[command(subcommand, before_help = bookmarks::EXAMPLES, after_help = bookmarks::RULE)]
    Bookmarks(bookmarks::Bookmarks),
    /// Build a job package and run one of its jobs without installing it (for authors)
    #[command(before_help = dev::EXAMPLES)]
    Dev(dev::Dev),
    /// Create a new job package
    #[command(
        before_help = "Examples:\n  lorchestra new words\n  lorchestra new words --dir ~/packages/words\n  lorchestra new fetcher --async"
    )]
    New(new::New),
}

impl Command {
    /// Returns the definition of the command with this name, without help texts, if it is one that schedules, engines or shells start often.
    pub(crate) fn alone(name: &str) -> Option<clap::Command> {
        let command = clap::Command::new(name.to_owned());
        Some(match name {
            "jobs" => jobs::Jobs::augment_subcommands(command),
            "run-job" => run_job::RunJob::augment_args(command),
            "run-window" => run_window::RunWindow::augment_args(command),
            "lane" => lane::LaneFlags::augment_args(command),
            "status" => status::Status::augment_args(command),
            _ => return None,
        })
    }
}

/// Runs a command and prints its error.
pub(crate) fn run(command: &Command, verbose: u8, settings: Settings, printer: &mut Printer) -> Code {
    if let Command::Dev(command) = command {
        return dev::run(command, verbose, settings, printer);
    }
    let settings = &settings;
    // Hooks are called last, after the user has seen the outcome.
    let mut notices = Notices::new(&settings.hooks);
    let result = match command {
        Command::Jobs(command) => jobs::run(command, settings, printer),
        Command::RunJob(command) => return run_job::run(command, verbose, settings, notices, printer),
        Command::Backfill(command) => backfill::run(command, settings, &mut notices, printer),
        Command::RunGroup(command) => run_group::run(command, settings, &mut notices, printer),
        Command::RunWindow(command) => run_window::run(command, verbose, settings, &mut notices, printer),
        Command::Lane(flags) => lane::run(flags, settings, printer),
        Command::Plugins(command) => plugins::run(command, settings, printer),
        Command::Runs(command) => runs::run(command, verbose, settings, &mut notices, printer),
        Command::Metrics(command) => metrics::run(command, settings, &mut notices, printer),
        Command::Report(command) => report::run(command, settings, &mut notices, printer),
        // Handled above, or before the settings are read.
        Command::Dev(_) | Command::Completions(_) | Command::Man(_) | Command::Schemas(_) => Ok(Code::Success),
        Command::Config(command) => config::run(command, settings, printer),
        Command::Doctor(command) => doctor::run(command, settings, &mut notices, printer),
        Command::Schedule(command) => schedule::run(command, settings, &mut notices, printer),
        Command::Export(command) => export::run(command, settings, printer),
        Command::Status(command) => status::run(command, settings, &mut notices, printer),
        Command::Bookmarks(command) => bookmarks::run(command, settings, &mut notices, printer),
        Command::Events(command) => events::run(command, settings, &mut notices, printer),
        Command::New(command) => new::run(command, printer),
    };
    let code = printer.ended(result);
    notices.send(None, printer);
    code
}

/// Runs a command that needs no settings, and works however broken the configuration is. `definition` is the whole command line.
pub(crate) fn before_settings(
    command: &Command,
    definition: fn() -> clap::Command,
    printer: &mut Printer,
) -> Option<Result<Code, CommandError>> {
    match command {
        Command::Completions(command) => Some(shell::completions(command, printer)),
        Command::Schemas(command) => Some(schemas::run(command, printer)),
        Command::Man(command) => Some(shell::man(command, definition, printer)),
        _ => None,
    }
}

/// Handles a command when the configuration cannot be read: some commands need none, some need only the history, and a refused run is
/// recorded.
pub(crate) fn without_settings(
    command: &Command,
    verbose: u8,
    global: &GlobalFlags,
    failure: &CommandError,
    printer: &mut Printer,
) -> Code {
    match command {
        Command::Doctor(command) => return doctor::without_settings(command, global, failure, printer),
        Command::Config(config::ConfigCommand::Keys { json }) => return config::keys(*json, printer),
        _ => {}
    }
    let lists_schedules = matches!(command, Command::Schedule(schedule::Schedule::List(_)));
    if (lists_schedules || needs_only_history(command))
        && let Some((settings, place)) = Settings::without_config(global)
        && (lists_schedules || place != HistoryPlace::Unknown)
    {
        let fix = failure.hints.first().map(|hint| format!("; {hint}")).unwrap_or_default();
        let assumed = if place == HistoryPlace::Assumed && !lists_schedules {
            format!(", and reads the history in {}", path_text(&settings.state_dir))
        } else {
            String::new()
        };
        printer.warning(format_args!("{}{fix}; this command ignores the file{assumed}", failure.message));
        let code = run(command, verbose, settings, printer);
        // Monitoring must not see a host as healthy on which no run can start.
        let is_monitoring = matches!(command, Command::Status(_) | Command::Metrics(_));
        return if is_monitoring && code == Code::Success { failure.code } else { code };
    }
    printer.failure(failure);
    refused_without_settings(command, global, failure, printer);
    failure.code
}

/// Whether a command shows or stops runs, and reads of the settings only where the history is. `runs prune` also needs the retention, and
/// the destinations that must have received what it removes.
fn needs_only_history(command: &Command) -> bool {
    match command {
        Command::Status(_)
        | Command::Metrics(_)
        | Command::Report(_)
        | Command::Events(events::Events::List(_) | events::Events::Export(_))
        | Command::Bookmarks(bookmarks::Bookmarks::Show { .. }) => true,
        Command::Runs(command) => !matches!(command, runs::Runs::Prune(_) | runs::Runs::Rerun(_)),
        Command::Backfill(command) => command.needs_only_history(),
        _ => false,
    }
}

/// Records a run that cannot start because the configuration cannot be read. Only an existing history is used; it is located by the keys of
/// the file that can be read.
fn refused_without_settings(command: &Command, global: &GlobalFlags, failure: &CommandError, printer: &mut Printer) {
    let Command::RunJob(command) = command else { return };
    let asked = Asked::of(command);
    let Some(refusal) = asked.unchecked(failure) else { return };
    let Some(Rescued { state_dir, on_failure, .. }) = Rescued::read(global) else { return };
    let recorded = StateDir::existing(&state_dir).ok().flatten().filter(|state| state.store().exists()).and_then(|state| {
        let mut store = Store::open(&state).ok()?;
        record_refusal(&mut store, &refusal, env!("CARGO_PKG_VERSION")).ok()
    });
    let Some(run_id) = recorded else { return };
    if asked.own.json {
        printer.json(&refused_outcome(&run_id, &refusal));
    }
    printer.note(format_args!("  lorchestra runs show {}", short_id(&run_id)));
    let hooks = Hooks::on_failure(on_failure);
    let mut notices = Notices::new(&hooks);
    notices.add_refused(&run_id, &refusal);
    notices.send(None, printer);
}

/// Returns the catalog for this user: with `locked = true`, everything that plugins.lock does not allow is a problem.
fn catalog(settings: &Settings) -> Result<Catalog, CommandError> {
    let mut catalog = Catalog::scan(&settings.plugin_dirs);
    if settings.locked {
        apply_lockfile(&mut catalog, &locked_to(settings)?);
    }
    Ok(catalog)
}

/// From now on, signals are read from a pipe instead of ending this process.
fn handle_signals() -> Result<Signals, CommandError> {
    Signals::install().map_err(|e| CommandError::new(Code::Internal, format!("cannot install signal handlers: {e}")))
}

/// Reads plugins.lock. A missing file is an error, because it is required.
fn locked_to(settings: &Settings) -> Result<Lockfile, CommandError> {
    Lockfile::read(&settings.lockfile)?.ok_or_else(|| {
        CommandError::new(
            Code::Config,
            format!("only locked plugins may run, but {} does not exist", path_text(&settings.lockfile)),
        )
        .hint("run lorchestra plugins lock to create it for the installed libraries")
    })
}

/// Finds a job that a user named: returns its package, the complete manifest, and the job in it.
fn find_job<'a>(catalog: &'a Catalog, package: &str, job: &str) -> Result<(&'a Package, Manifest, JobManifest), CommandError> {
    let found = catalog.find(package).map_err(|lookup| CommandError::lookup(catalog, package, None, &lookup))?;
    catalog.find_job(package, job).map_err(|lookup| CommandError::lookup(catalog, package, Some(job), &lookup))?;
    let manifest = found.manifest().map_err(|problem| CommandError::unusable(package, &[&problem]))?;
    let job = manifest.job(job).cloned().ok_or_else(|| CommandError::replaced(&found.path))?;
    Ok((found, manifest, job))
}

fn apply_lockfile(catalog: &mut Catalog, lock: &Lockfile) {
    catalog.apply_lockfile(|package| lock.allows_file(package));
}

/// Opens the state directory and its store, after closing runs of dead supervisors. Returns `None` if there is no history yet; creates
/// nothing.
fn history(
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Option<(StateDir, Store)>, CommandError> {
    second_store(settings, printer);
    open_and_recover(settings, notices, printer)
}

/// Like [`history`], for a command that shows runs which could not be closed as what they are.
fn history_and_unclosed(
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<(Option<(StateDir, Store)>, Unclosed), CommandError> {
    second_store(settings, printer);
    open_with_unclosed(settings, notices, printer)
}

/// Like [`history`], for a command that warns of a second history itself.
fn open_and_recover(
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Option<(StateDir, Store)>, CommandError> {
    Ok(open_with_unclosed(settings, notices, printer)?.0)
}

fn open_with_unclosed(
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<(Option<(StateDir, Store)>, Unclosed), CommandError> {
    let Some(state) = StateDir::existing(&settings.state_dir)? else { return Ok((None, Unclosed::default())) };
    if !state.store().exists() {
        report_recovered(&remove_all_unrecorded(&state)?, notices, printer);
        return Ok((None, Unclosed::default()));
    }
    let mut store = Store::open(&state)?;
    let closed = close_all_abandoned(&state, &mut store)?;
    report_recovered(&closed, notices, printer);
    Ok((Some((state, store)), Unclosed::of(&closed)))
}

/// Like [`history`] for a command that looks again and again while there is no history: prints nothing.
fn open_again(settings: &Settings, notices: &mut Notices<'_>) -> Result<Option<(StateDir, Store)>, CommandError> {
    let Some(state) = StateDir::existing(&settings.state_dir)?.filter(|state| state.store().exists()) else { return Ok(None) };
    let mut store = Store::open(&state)?;
    notices.add_recovered(&close_all_abandoned(&state, &mut store)?);
    Ok(Some((state, store)))
}

fn second_store(settings: &Settings, printer: &mut Printer) {
    if let Some(other) = &settings.second_store {
        printer.warning(format_args!(
            "{} also contains a run history; this command uses {}",
            other.display(),
            settings.state_dir.display()
        ));
    }
}

/// Reports the runs that were closed: to the terminal, and failed ones to `on_failure`.
fn report_recovered(closed: &Closed, notices: &mut Notices<'_>, printer: &mut Printer) {
    notices.add_recovered(closed);
    recovered::show(closed, printer);
}

/// Like [`find_run`], for a command about a run that may still be running: `last` and PACKAGE/JOB name the newest running run if there is one. A
/// newer run that was refused or skipped because of it must not hide it.
fn find_active_run(store: Option<&Store>, settings: &Settings, text: &str) -> Result<Run, CommandError> {
    let running = RunQuery { state: Some(RunState::Running), ..RunQuery::default() };
    let query = match text.split_once('/') {
        Some((package, job)) => Some(RunQuery { package: Some(package.into()), job: Some(job.into()), ..running }),
        None if text == "last" => Some(running),
        None => None,
    };
    let active = match (store, query) {
        (Some(store), Some(query)) => store.find_runs(&query, 1)?.pop(),
        _ => None,
    };
    active.map_or_else(|| find_run(store, settings, text), Ok)
}

/// Returns the run that a user named.
fn find_run(store: Option<&Store>, settings: &Settings, text: &str) -> Result<Run, CommandError> {
    let unknown = || CommandError { bare: true, ..CommandError::new(Code::Failed, format!("Unknown run: {text}")) };
    let none = || {
        unknown()
            .hint(format!("looked in {}", path_text(&settings.state_dir)))
            .hint("run lorchestra runs list to see the newest runs")
    };
    if text.chars().count() < NAMED {
        return Err(unknown().hint(format!(
            "give an id, at least {NAMED} characters of its end or start, last, or PACKAGE/JOB for its newest run"
        )));
    }
    let Some(store) = store else { return Err(none()) };
    match store.find_run(text)? {
        Ok(run) => Ok(run),
        Err(found) if found.is_empty() => Err(none()),
        Err(found) => {
            let failure = CommandError::new(Code::Failed, format!("{text} matches several runs: give the short id of one"));
            Err(found.iter().take(5).fold(failure, |failure, run| {
                let started = crate::show::time(run.started_at);
                failure.hint(format!("{}  {started}  {}/{}", short_id(&run.run_id), run.package, run.job))
            }))
        }
    }
}

/// Returns the file that a command writes to; `None` for stdout, also as `-o -`.
fn to_file(output: Option<&Path>) -> Option<&Path> {
    output.filter(|path| *path != Path::new("-"))
}

/// The path of this binary, for commands that others start.
pub(crate) fn executable() -> Result<PathBuf, CommandError> {
    std::env::current_exe()
        .map_err(|error| CommandError::new(Code::Internal, format!("the path of this binary is unknown: {error}")))
}
