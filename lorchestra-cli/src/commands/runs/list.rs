//! `runs list`: the runs in the history, newest first, as a table or as JSON lines.
//!
//! The table fits a terminal with 80 columns: one line for each run, and a second one with the reason if it did not succeed.

use super::duration;
use crate::cells;
use crate::commands::fleet::From;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::{BAD, Printer, WARNING};
use crate::settings::Settings;
use crate::show;
use crate::values;
use crate::wire::{RunLine, RunObject};
use anstyle::Style;
use clap::Args;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::{Run, RunFilter, RunQuery, RunState, Store, short_id};
use lorchestra_core::text::{self, escaped, path_text};

/// Indentation of a run's second line.
const INDENT: usize = 10;
/// The same on a narrow terminal.
const NARROW: usize = 2;
/// Minimum width of a job's name.
const NAME: usize = 20;
/// Width of name and account together if the line is not limited.
const WIDE: usize = 120;

/// Filters and format of `runs list`.
#[derive(Debug, Args)]
pub(crate) struct RunList {
    /// Show only runs of this package
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) package: Option<String>,
    /// Show only runs of this job (JOB or PACKAGE/JOB)
    #[arg(long, value_name = "JOB")]
    pub(crate) job: Option<String>,
    /// Show only runs for this account
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// Show only runs in this state
    #[arg(long, value_name = "STATE", value_parser = RunState::ALL.map(RunState::as_str))]
    pub(crate) state: Option<String>,
    /// Show only runs that failed or were refused for this reason
    #[arg(long, value_name = "CAUSE", value_parser = Cause::ALL.map(Cause::as_str))]
    pub(crate) cause: Option<String>,
    /// Show only runs of this group (a backfill's id, or the name given with `run-job --group`)
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Show only runs that are still running
    #[arg(long, conflicts_with = "state")]
    pub(crate) running: bool,
    /// Show only runs started at or after this time (2024-01-31, -7d, yesterday, …)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Show only runs started before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    #[command(flatten)]
    pub(crate) from: From,
    /// Maximum number of runs to show
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = crate::values::number::<u64>(1..))]
    pub(crate) limit: u64,
    /// Print one JSON object per line (schema lorchestra.run/1)
    #[arg(long)]
    pub(crate) json: bool,
}

impl RunList {
    /// Returns the query for the store; `None` if only the number of runs is limited.
    pub(crate) fn query(&self) -> Result<Option<RunQuery>, CommandError> {
        let state = self.state.as_deref().and_then(|name| RunState::ALL.into_iter().find(|state| state.as_str() == name));
        let (package, job) = match self.job.as_deref().and_then(|job| job.split_once('/')) {
            Some((package, job)) => match &self.package {
                Some(other) if other != package => {
                    return Err(CommandError::new(
                        Code::Usage,
                        format!("--package {other} and --job {package}/{job} contradict each other"),
                    )
                    .hint("omit --package"));
                }
                _ => (Some(package.to_owned()), Some(job.to_owned())),
            },
            None => (self.package.clone(), self.job.clone()),
        };
        let query = RunQuery {
            package,
            job,
            account: self.account.clone(),
            state: if self.running { Some(RunState::Running) } else { state },
            cause: self.cause.as_deref().and_then(Cause::from_name),
            group: self.group.clone(),
            since: values::time("--since", self.since.as_deref())?,
            until: values::time("--until", self.until.as_deref())?,
        };
        Ok((query != RunQuery::default()).then_some(query))
    }
}

pub(super) fn list(
    wanted: &RunList,
    store: Option<&Store>,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let query = wanted.query()?;
    let runs = match (store, &query) {
        (None, _) => Vec::new(),
        (Some(store), None) => store.runs(&RunFilter { running: false, limit: Some(wanted.limit) })?,
        (Some(store), Some(query)) => store.find_runs(query, wanted.limit)?,
    };
    if wanted.json {
        for run in &runs {
            printer.json(&RunLine { schema: "lorchestra.run/1", run: RunObject::of(run), attempts: run.attempts });
        }
        return Ok(Code::Success);
    }
    if runs.is_empty() {
        printer.note(match query {
            Some(_) if wanted.running => "No run is running.".to_owned(),
            Some(_) => "No run matches.".to_owned(),
            None => none(settings),
        });
        return Ok(Code::Success);
    }
    table(&runs, printer);
    Ok(Code::Success)
}

/// Names the searched directory and the user: a person and cron often have different histories.
pub(super) fn none(settings: &Settings) -> String {
    format!("No runs yet (state directory {}, {}).", path_text(&settings.state_dir), settings.user())
}

fn table(runs: &[Run], printer: &mut Printer) {
    let names: Vec<String> = runs.iter().map(|run| escaped(&text::one_line(&format!("{}/{}", run.package, run.job)))).collect();
    let has_account = runs.iter().any(|run| run.account.is_some());
    // RUN, AGE, STATE and TOOK.
    let room = printer.width().unwrap_or(WIDE).saturating_sub(INDENT + 6 + 11 + 9);
    let longest = cells::widest(names.iter().map(String::as_str));
    // A name that is cut names nothing: without room for the longest one, each has a line of its own.
    let is_narrow = printer.width().is_some() && room < longest;
    let longest = longest.max(NAME);
    let header = if has_account { format!("{:longest$}  ACCOUNT", "JOB") } else { "JOB".to_owned() };
    let header = if is_narrow { String::new() } else { cells::fitted(&header, room) };
    printer.line(format!("{:<8}  {:>4}  {:<9}  {:>7}  {header}", "RUN", "AGE", "STATE", "TOOK").trim_end());
    let now = now_micros();
    for (run, name) in runs.iter().zip(&names) {
        let style = style(run.state);
        let took = duration(run).map(show::elapsed).unwrap_or_default();
        let account = run.account.as_deref().map(|account| escaped(&text::one_line(account))).unwrap_or_default();
        let what = cells::fitted(format!("{}  {account}", cells::padded(name, longest)).trim_end(), room);
        let what = if is_narrow { "" } else { &what };
        let (id, age, state) = (short_id(&run.run_id), show::age(now, run.started_at), run.state.as_str());
        printer.line(format!("{id:<8}  {age:>4}  {style}{state:<9}{style:#}  {took:>7}  {what}").trim_end());
        if let Some(width) = printer.width().filter(|_| is_narrow) {
            for line in cells::folded(&format!("{name} {account}"), width.saturating_sub(NARROW)) {
                printer.line(format_args!("{:NARROW$}{line}", ""));
            }
        }
        if let Some(why) = why(run) {
            let indent = if is_narrow { NARROW } else { INDENT };
            let width = printer.width().map_or(text::LINE, |width| width.saturating_sub(indent));
            printer.line(format_args!("{:indent$}{style}{}{style:#}", "", cells::fitted(&why, width)));
        }
    }
}

/// Formats `error: the message`.
pub(crate) fn why(run: &Run) -> Option<String> {
    let cause = run.cause?.as_str();
    let message = run.message.as_deref().map(text::first_line).filter(|message| !message.is_empty());
    Some(message.map_or_else(|| cause.to_owned(), |message| format!("{cause}: {message}")))
}

/// The style of a state, if colour is used.
pub(crate) fn style(state: RunState) -> Style {
    match state {
        RunState::Failed | RunState::Refused => BAD,
        RunState::Running => WARNING,
        _ => Style::new(),
    }
}
