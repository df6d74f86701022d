//! `runs list`: the runs in the history, newest first, as a table or as JSON lines.
//!
//! The table fits a terminal with 80 columns: one line for each run, and a second one with the reason if it did not succeed.

use super::duration;
use crate::cells;
use crate::commands::fleet::{From, RunSource};
use crate::commands::known::require_known_of;
use crate::commands::named_group;
use crate::commands::unclosed::Unclosed;
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::{BAD, Printer, WARNING};
use crate::settings::Settings;
use crate::show;
use crate::values;
use crate::wire::{RunLine, RunObject};
use anstyle::Style;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
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

/// Filters and format of `runs list`.
#[derive(Debug, Args)]
pub(crate) struct RunList {
    /// Show only runs of this package
    #[arg(long, value_name = "PACKAGE", add = ArgValueCompleter::new(complete::packages))]
    pub(crate) package: Option<String>,
    /// Show only runs of this job (JOB or PACKAGE/JOB)
    #[arg(long, value_name = "JOB", add = ArgValueCompleter::new(complete::pairs))]
    pub(crate) job: Option<String>,
    /// Show only runs for this account
    #[arg(long, value_name = "ACCOUNT", add = ArgValueCompleter::new(complete::accounts))]
    pub(crate) account: Option<String>,
    /// Show only runs in this state
    #[arg(long, value_name = "STATE", value_parser = RunState::ALL.map(RunState::as_str))]
    pub(crate) state: Option<String>,
    /// Show only runs that failed or were refused for this reason
    #[arg(long, value_name = "CAUSE", value_parser = Cause::ALL.map(Cause::as_str))]
    pub(crate) cause: Option<String>,
    /// Show only runs of this group: id, short id, start or end of an id, `last`, or the name given with `run-job --group`
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
    unclosed: &Unclosed,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let mut query = wanted.query()?;
    if let (Some(query), Some(text)) = (&mut query, &wanted.group) {
        query.group = Some(match store.filter(|_| wanted.from.from == RunSource::Bigquery) {
            Some(fleet) => named_group::of_fleet(fleet, text)?,
            None => named_group::of_runs(store, text)?,
        });
    }
    let runs = match (store, &query) {
        (None, _) => Vec::new(),
        (Some(store), None) => store.runs(&RunFilter { running: false, limit: Some(wanted.limit) })?,
        (Some(store), Some(query)) => unclosed.find(store, query, wanted.limit)?,
    };
    if let Some(query) = query.as_ref().filter(|_| runs.is_empty() && wanted.from.from == RunSource::Store) {
        require_known_of(query.package.as_deref(), query.job.as_deref(), settings, store)?;
    }
    if wanted.json {
        for run in &runs {
            printer.json(&RunLine {
                schema: "lorchestra.run/1",
                run: RunObject::of(run),
                group: run.group_name(),
                attempts: run.attempts,
                unclosed: unclosed.reason(run).map(str::to_owned),
            });
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
    let now = now_micros();
    let rows: Vec<RunRow> = runs.iter().map(|run| RunRow::of(run, unclosed.reason(run), now)).collect();
    lines(&rows, printer.width()).iter().for_each(|line| printer.line(line));
    Ok(Code::Success)
}

/// Names the searched directory and the user: a person and cron often have different histories.
pub(super) fn none(settings: &Settings) -> String {
    format!("No runs yet (state directory {}, {}).", path_text(&settings.state_dir), settings.user())
}

/// A run as it is printed.
struct RunRow {
    short_id: String,
    age: String,
    state: &'static str,
    style: Style,
    took: String,
    name: String,
    account: String,
    why: Option<String>,
}

impl RunRow {
    fn of(run: &Run, unclosed: Option<&str>, now: i64) -> Self {
        let name = escaped(&text::one_line(&format!("{}/{}", run.package, run.job)));
        Self {
            short_id: short_id(&run.run_id).to_owned(),
            age: show::age(now, run.started_at),
            state: state(run, unclosed),
            style: if unclosed.is_some() { BAD } else { style(run.state) },
            took: duration(run).map(show::elapsed).unwrap_or_default(),
            name,
            account: run.account.as_deref().map(|account| escaped(&text::one_line(account))).unwrap_or_default(),
            why: unclosed.map(self::unclosed).or_else(|| why(run)),
        }
    }
}

/// The state of a run as it is printed. A run that cannot be closed, for this reason, is still running in the store.
pub(super) fn state(run: &Run, unclosed: Option<&str>) -> &'static str {
    if unclosed.is_some() { "abandoned" } else { run.state.as_str() }
}

/// Explains that state.
pub(super) fn unclosed(why: &str) -> String {
    format!("its supervisor died, and the run cannot be closed yet: {why}")
}

/// Formats the table for a terminal of this width: lines with the style of a part of them. A name that is cut names nothing: without room for
/// the longest job and account, they have lines of their own.
fn lines(rows: &[RunRow], width: Option<usize>) -> Vec<String> {
    // Without RUN, AGE, STATE and TOOK.
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(INDENT + 6 + 11 + 9));
    let longest = cells::widest(rows.iter().map(|row| row.name.as_str())).max(NAME);
    let has_account = rows.iter().any(|row| !row.account.is_empty());
    let names: Vec<String> =
        rows.iter().map(|row| format!("{}  {}", cells::padded(&row.name, longest), row.account).trim_end().to_owned()).collect();
    let is_narrow = cells::widest(names.iter().map(String::as_str)) > room;
    let header = if has_account { format!("{:longest$}  ACCOUNT", "JOB") } else { "JOB".to_owned() };
    let header = if is_narrow { String::new() } else { cells::fitted(&header, room) };
    let mut lines = vec![format!("{:<8}  {:>4}  {:<9}  {:>7}  {header}", "RUN", "AGE", "STATE", "TOOK").trim_end().to_owned()];
    for (row, what) in rows.iter().zip(&names) {
        let RunRow { short_id, age, state, style, took, name, account, why } = row;
        let what = if is_narrow { "" } else { what };
        lines.push(format!("{short_id:<8}  {age:>4}  {style}{state:<9}{style:#}  {took:>7}  {what}").trim_end().to_owned());
        if let Some(width) = width.filter(|_| is_narrow) {
            let below = cells::folded(&format!("{name} {account}"), width.saturating_sub(NARROW).max(1));
            lines.extend(below.iter().map(|line| format!("{:NARROW$}{line}", "")));
        }
        if let Some(why) = why {
            let indent = if is_narrow { NARROW } else { INDENT };
            let width = width.map_or(text::LINE, |width| width.saturating_sub(indent));
            lines.push(format!("{:indent$}{style}{}{style:#}", "", cells::fitted(why, width)));
        }
    }
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, account: &str) -> RunRow {
        RunRow {
            short_id: "7c41d03f".into(),
            age: "2h".into(),
            state: "failed",
            style: Style::new(),
            took: "1.25s".into(),
            name: name.into(),
            account: account.into(),
            why: Some(format!("error: {}", "x".repeat(300))),
        }
    }

    #[test]
    fn names_are_whole_at_every_width() {
        let long = "anna.with-a-rather-long-name@a-rather-long-domain.example.org";
        let rows = [row("ingester/extract_gmail", long), row("p/j", "📬 メール box")];
        for width in (12..200).map(Some).chain([None]) {
            let lines = lines(&rows, width);
            let text = lines.concat().replace(' ', "");
            for name in ["ingester/extract_gmail", long, "p/j", "📬メールbox"] {
                assert!(text.contains(name), "{width:?}: {lines:#?}");
            }
            // The columns of a run need 36 cells.
            let fits = |line: &String| width.is_none_or(|width| cells::width(line) <= width.max(36));
            assert!(lines.iter().all(fits), "{width:?}: {lines:#?}");
        }
        let eighty = lines(&rows, Some(80));
        assert_eq!(
            eighty[..3],
            [
                "RUN        AGE  STATE         TOOK".to_owned(),
                "7c41d03f    2h  failed       1.25s".to_owned(),
                "  ingester/extract_gmail".to_owned(),
            ]
        );
        assert_eq!(eighty[3], format!("  {long}"));
        assert_eq!(lines(&rows, None)[1], format!("7c41d03f    2h  failed       1.25s  ingester/extract_gmail  {long}"));
    }
}
