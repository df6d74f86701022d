//! `runs list`, `show`, `logs`, `watch`, `prune`, `rerun`, `stop`.

mod list;
mod logs;
mod prune;
mod rerun;
mod results;
mod show;
mod stop;
mod watch;

use super::fleet::{Fleet, RunSource};
use super::unclosed::Unclosed;
use super::{find_active_run, find_run, history_and_unclosed};
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
pub(crate) use list::{RunList, style, why};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::{Run, RunState, Store, short_id};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest first
    #[command(
        before_help = "Examples:\n  lorchestra runs list\n  lorchestra runs list --state failed --since -7d\n  lorchestra runs list --job ingester/extract_gmail --account anna --limit 100 --json"
    )]
    List(RunList),
    /// Show a run: parameters, outcome, events and log files
    #[command(
        before_help = "Examples:\n  lorchestra runs show last\n  lorchestra runs show 7c41d03f\n  lorchestra runs show ingester/extract_gmail"
    )]
    Show {
        /// Run: id, short id, start or end of an id, `last`, or PACKAGE/JOB for its newest run
        #[arg(add = ArgValueCompleter::new(complete::runs))]
        run: String,
        /// Print one JSON object (schema lorchestra.runs-show/1)
        #[arg(long)]
        json: bool,
        /// Print only the run's spec, ready for `run-job --spec`
        #[arg(long, conflicts_with = "json")]
        spec: bool,
    },
    /// Print the output of a job, byte for byte
    #[command(
        before_help = "Examples:\n  lorchestra runs logs last\n  lorchestra runs logs -f last\n  lorchestra runs logs ingester/extract_gmail --trace"
    )]
    Logs {
        /// Run: id, short id, start or end of an id, `last`, or PACKAGE/JOB (the last two choose a running run first)
        #[arg(add = ArgValueCompleter::new(complete::runs))]
        run: String,
        /// Print the job's trace instead, one JSON object per line
        #[arg(long)]
        trace: bool,
        /// Keep printing what the job writes until the run ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Watch running runs with their progress, memory and last line of output (q or Ctrl-C to quit)
    #[command(before_help = "Examples:\n  lorchestra runs watch\n  lorchestra runs watch --interval 5s")]
    Watch {
        /// Time between updates
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = crate::values::age)]
        interval: Duration,
    },
    /// Remove old runs, logs and payloads at once (retention does so in small steps after each run)
    #[command(
        before_help = "Examples:\n  lorchestra runs prune --dry-run\n  lorchestra runs prune --older-than 7d\n  lorchestra runs prune --keep 10000\n  lorchestra runs prune --max-size 2G\n  lorchestra runs prune --job ingester/extract_gmail --account anna",
        after_help = prune::RULE
    )]
    Prune(prune::Prune),
    /// Run an earlier run again with the same parameters, as a new run
    #[command(
        before_help = "Examples:\n  lorchestra runs rerun 7c41d03f\n  lorchestra runs rerun --failed --since -1d",
        after_help = "The new run has the parameters, window, limits and secret sources of the earlier one. It uses the library that is installed now."
    )]
    Rerun(rerun::Rerun),
    /// Stop a running job and wait for it to end
    #[command(before_help = "Example:\n  lorchestra runs stop 7c41d03f")]
    Stop {
        /// Run: id, short id, start or end of an id, `last`, or PACKAGE/JOB (the last two choose a running run first)
        #[arg(add = ArgValueCompleter::new(complete::runs))]
        run: String,
        /// Print one JSON object (schema lorchestra.runs-stop/1)
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(
    command: &Runs,
    verbose: u8,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    if let Runs::Rerun(wanted) = command {
        return rerun::rerun(wanted, verbose, settings, notices, printer);
    }
    if let Runs::List(wanted) = command
        && wanted.from.from == RunSource::Bigquery
    {
        let fleet = Fleet::read(crate::values::time("--since", wanted.since.as_deref())?, settings)?;
        return list::list(wanted, Some(&fleet.history.1), &Unclosed::default(), settings, printer);
    }
    let opened = history_and_unclosed(settings, notices, printer);
    let (history, unclosed) = if matches!(command, Runs::Prune(_)) { opened.map_err(CommandError::of_prune)? } else { opened? };
    let store = history.as_ref().map(|(_, store)| store);
    match command {
        Runs::List(wanted) => list::list(wanted, store, &unclosed, settings, printer),
        Runs::Show { run, spec: true, .. } => {
            let (_, _, run) = named(history, settings, run)?;
            if run.spec_json.is_empty() {
                let what = format!("run {} has no spec: it was refused before one was created", short_id(&run.run_id));
                return Err(CommandError::new(Code::Failed, what).hint("run the command of the schedule again"));
            }
            printer.line(&run.spec_json);
            Ok(Code::Success)
        }
        Runs::Show { run, json, .. } => {
            let (state, store, run) = named(history, settings, run)?;
            show::show((&state, &store), (&run, unclosed.reason(&run)), &settings.destinations, *json, printer)
        }
        Runs::Logs { run, trace, follow } => {
            let (state, mut store, run) = active(history, settings, run)?;
            if *follow {
                return logs::follow((&state, &mut store), run, *trace, notices, printer);
            }
            logs::logs(&state, &store, &run, *trace, printer)
        }
        Runs::Watch { interval } => watch::watch(*interval, history, settings, notices, printer),
        Runs::Prune(command) => match history {
            Some(history) => prune::prune(command, history, settings, printer).map_err(CommandError::of_prune),
            None => {
                printer.note(list::none(settings));
                prune::print_nothing(command, printer);
                Ok(Code::Success)
            }
        },
        // Handled above.
        Runs::Rerun(_) => Ok(Code::Success),
        Runs::Stop { run, json } => {
            let (state, mut store, run) = active(history, settings, run)?;
            let stopped = stop::stop(notices, &state, &mut store, &run, printer)?;
            stop::print(&stopped, run.state != RunState::Running, *json, printer);
            Ok(Code::Success)
        }
    }
}

/// Returns the run that a user named, with its history.
fn named(history: Option<(StateDir, Store)>, settings: &Settings, text: &str) -> Result<(StateDir, Store, Run), CommandError> {
    let run = find_run(history.as_ref().map(|(_, store)| store), settings, text)?;
    with_history(history, run)
}

/// Like [`named`], but prefers a running run.
fn active(history: Option<(StateDir, Store)>, settings: &Settings, text: &str) -> Result<(StateDir, Store, Run), CommandError> {
    let run = find_active_run(history.as_ref().map(|(_, store)| store), settings, text)?;
    with_history(history, run)
}

fn with_history(history: Option<(StateDir, Store)>, run: Run) -> Result<(StateDir, Store, Run), CommandError> {
    let (state, store) = history.ok_or_else(|| CommandError::new(Code::Internal, "a run was found without a history"))?;
    Ok((state, store, run))
}

/// Returns the duration of a run, if it has ended.
pub(crate) fn duration(run: &Run) -> Option<Duration> {
    Some(Duration::from_micros(u64::try_from(run.ended_at? - run.started_at).unwrap_or(0)))
}
