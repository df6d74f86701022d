//! `runs prune`: removes at once everything that retention removes in small steps after each run; by age, by number of runs, by size, or all
//! runs of a job. Runs with events that a destination has not received, and active runs, are kept.

mod held;

use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show::counted;
use crate::values;
use crate::wire::PruneObject;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::group::OldGroups;
use lorchestra_core::store::retention::{Forgotten, Prunable, Pruned, Retention};
use lorchestra_core::store::{RunQuery, Store};
use lorchestra_core::text::{printable, quote};
use std::path::Path;
use std::time::Duration;

/// Number of consecutive calls without a removal that show that nothing is left: each call examines the next fifty runs.
const IDLE: u32 = 3;
/// Maximum number of rounds for a limit on the size: each removes runs in proportion to what is too much.
const ROUNDS: u32 = 12;

/// What is true of removed groups whose members have not all completed.
const REMOVED_RESUMABLE: &str = "cannot be resumed any more";
/// The text if nothing is old enough.
const NOTHING: &str = "nothing to remove";

pub(super) const RULE: &str = "\
Running runs, and runs with events that a destination has not received, are always kept. So are, of each job and account, the newest success, the \
newest failure after it and the newest run that ended: status reports a job that died as long as one of its runs is there. Of runs that are old \
enough, but kept, the logs are removed. \
Use --job to remove them too. The bookmark stays: run lorchestra bookmarks reset to remove it.

A backfill or a group of run-group goes with its last run, unless some of its windows are running or have never run. If some have failed, it cannot \
be resumed after that: --dry-run counts such groups.";

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove everything older than this, instead of using the limits in config.toml
    #[arg(long, value_name = "DURATION", value_parser = values::age)]
    older_than: Option<Duration>,
    /// Keep the N newest runs, and remove older ones
    #[arg(long, value_name = "N", value_parser = values::number::<u64>(0..), conflicts_with = "older_than")]
    keep: Option<u64>,
    /// Remove the oldest runs until the state directory is smaller than this
    #[arg(long, value_name = "SIZE", value_parser = lorchestra_core::plan::size::parse, conflicts_with_all = ["older_than", "keep"])]
    max_size: Option<u64>,
    /// Forget a job that no longer exists: remove all of its runs, of any age
    #[arg(long, value_name = "PACKAGE/JOB", conflicts_with_all = ["older_than", "keep", "max_size"], add = ArgValueCompleter::new(complete::pairs_with_runs))]
    job: Option<String>,
    /// With --job: forget only this account ('' for runs without one)
    #[arg(long, value_name = "ACCOUNT", requires = "job", add = ArgValueCompleter::new(complete::accounts))]
    account: Option<String>,
    /// Print what would be removed without removing it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object (schema lorchestra.runs-prune/1)
    #[arg(long)]
    json: bool,
}

/// What was removed, as it is printed.
#[derive(Default)]
struct PruneReport {
    object: PruneObject,
    /// What to print on stdout, unless the object is printed.
    text: String,
    notes: Vec<String>,
}

impl PruneReport {
    /// Counts the groups, and notes those that a person may miss.
    fn count_groups(&mut self, groups: OldGroups, what: &str) {
        (self.object.groups, self.object.resumable_groups) = (groups.groups, groups.resumable);
        if groups.resumable > 0 {
            let resumable = counted(groups.resumable, "group");
            self.notes.push(format!("{resumable} with members that have not completed {what}."));
        }
    }
}

pub(super) fn prune(
    command: &Prune,
    (state, mut store): (StateDir, Store),
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let now = now_micros();
    let mut report = match (&command.job, command.max_size) {
        (Some(job), _) => forget(command, job, (&state, &mut store), (&settings.retention, now))?,
        (None, Some(max)) => to_size(max, command.dry_run, (&state, &mut store, now), &settings.retention)?,
        (None, None) => by_age(command, (&state, &mut store, now), &settings.retention)?,
    };
    report.notes.splice(0..0, held::notes(report.object.undelivered, &store, settings, now)?);
    print(command, report, printer);
    Ok(Code::Success)
}

/// Prints what a history that does not exist has lost.
pub(super) fn print_nothing(command: &Prune, printer: &mut Printer) {
    if command.json {
        print(command, PruneReport::default(), printer);
    }
}

fn print(command: &Prune, report: PruneReport, printer: &mut Printer) {
    let PruneReport { object, text, notes } = report;
    notes.iter().for_each(|note| printer.note(note));
    if command.json {
        printer.json(&PruneObject { schema: "lorchestra.runs-prune/1", dry_run: command.dry_run, ..object });
    } else if command.dry_run || text == NOTHING {
        printer.line(text);
    } else {
        printer.good(text);
    }
}

/// Limits of the same age for runs, logs and payloads.
fn older_than(age: Duration, configured: &Retention) -> Retention {
    let (logs, payloads) = (age.min(configured.logs), age.min(configured.payloads));
    Retention { runs: age, logs, payloads, ..configured.clone() }
}

fn by_age(
    command: &Prune,
    (state, store, now): (&StateDir, &mut Store, i64),
    configured: &Retention,
) -> Result<PruneReport, CommandError> {
    let retention = match (command.older_than, command.keep) {
        (Some(age), _) => older_than(age, configured),
        (None, Some(keep)) => match beyond(store, keep, now)? {
            // The logs of what stays are kept, except of older runs that stay only for `status` or for a destination.
            Some(age) => Retention { runs: age, logs: age.min(configured.logs), ..configured.clone() },
            None => return Ok(PruneReport { text: NOTHING.to_owned(), ..PruneReport::default() }),
        },
        (None, None) => configured.clone(),
    };
    let Prunable { runs, logs, undelivered, groups, .. } = store.prunable(state, &retention, now)?;
    let mut report = PruneReport::default();
    report.object.undelivered = undelivered;
    if command.dry_run {
        report.text = format!("would remove {} and the logs of {logs}{}", counted(runs, "run"), and_groups(groups));
        (report.object.runs, report.object.logs) = (runs, logs);
        report.count_groups(groups, "could still be resumed");
        return Ok(report);
    }
    let all = remove(state, store, &retention, now)?;
    report.text = match all {
        _ if command.keep.is_some() && all == Pruned::default() => NOTHING.to_owned(),
        Pruned { payloads: 0, runs, logs, groups } => {
            format!("removed {} and the logs of {logs}{}", counted(runs, "run"), and_groups(groups))
        }
        Pruned { payloads, runs, logs, groups } => {
            let groups = and_groups(groups);
            format!("removed {}, the logs of {logs} and the payloads of {payloads}{groups}", counted(runs, "run"))
        }
    };
    report.object.count(all);
    report.count_groups(all.groups, REMOVED_RESUMABLE);
    Ok(report)
}

/// Removes all runs of a job, or of a job and an account.
fn forget(
    command: &Prune,
    job: &str,
    (state, store): (&StateDir, &mut Store),
    limits: (&Retention, i64),
) -> Result<PruneReport, CommandError> {
    let Some((package, name)) = job.split_once('/').filter(|(package, name)| !package.is_empty() && !name.is_empty()) else {
        return Err(
            CommandError::new(Code::Usage, format!("--job {} is not the name of a job", quote(job))).hint("give PACKAGE/JOB")
        );
    };
    let query = RunQuery {
        package: Some(package.to_owned()),
        job: Some(name.to_owned()),
        account: command.account.clone(),
        ..RunQuery::default()
    };
    let Some(forgotten) = store.forget(state, &query, limits, command.dry_run)? else {
        return Err(unknown(&query, store)?);
    };
    let Forgotten { runs, logs, undelivered, running, is_last_marked } = forgotten;
    let would = if command.dry_run { "would remove" } else { "removed" };
    let mut notes = Vec::new();
    if running > 0 {
        let running = counted(usize::try_from(running).unwrap_or(usize::MAX), "running run");
        notes.push(format!("{running} of {} cannot be removed: wait, or run lorchestra runs stop.", printable(job)));
    }
    if is_last_marked {
        notes.push(
            "One of them has the newest event: it is no longer in status, and the end of the next run removes it.".to_owned(),
        );
    }
    let object = PruneObject { runs, logs, undelivered, running: Some(running), ..PruneObject::default() };
    Ok(PruneReport { object, text: format!("{would} {} and the logs of {logs}", counted(runs, "run")), notes })
}

/// The error for a job or an account that has no run: a misspelt one must not look as if it was forgotten.
fn unknown(query: &RunQuery, store: &Store) -> Result<CommandError, CommandError> {
    let name = format!("{}/{}", query.package.as_deref().unwrap_or_default(), query.job.as_deref().unwrap_or_default());
    let keys = store.keys(&RunQuery { account: None, ..query.clone() })?;
    let mut accounts: Vec<String> = keys.into_iter().map(|key| format!("{:?}", key.account)).collect();
    accounts.dedup();
    Ok(match &query.account {
        Some(account) if !accounts.is_empty() => {
            let message = format!("{} has no run for account {account:?}", printable(&name));
            let (more, shown) = (accounts.len() > 8, accounts.iter().take(8).cloned().collect::<Vec<_>>().join(", "));
            CommandError::new(Code::Failed, message).hint(format!("accounts: {shown}{}", if more { ", …" } else { "" }))
        }
        _ => CommandError::new(Code::Failed, format!("{} has no run", printable(&name)))
            .hint("run lorchestra status to see the jobs that have run"),
    })
}

fn and_groups(groups: OldGroups) -> String {
    if groups.groups == 0 { String::new() } else { format!(", and {}", counted(groups.groups, "group")) }
}

/// Returns the age from which runs are not among the `keep` newest ones.
fn beyond(store: &Store, keep: u64, now: i64) -> Result<Option<Duration>, CommandError> {
    let end = store.end_beyond(keep)?;
    // A run is old enough if it ended before that time, so one that ended just then must be before it.
    Ok(end.map(|end| Duration::from_micros(u64::try_from(now - end - 1).unwrap_or(0))))
}

/// Removes the oldest runs in several rounds until the rest is small enough.
fn to_size(
    max: u64,
    dry_run: bool,
    (state, store, now): (&StateDir, &mut Store, i64),
    configured: &Retention,
) -> Result<PruneReport, CommandError> {
    let logs = |state: &StateDir| state.run_logs("x").parent().map_or(0, bytes);
    let (mut all, mut report) = (Pruned::default(), PruneReport::default());
    let mut size = store.used_bytes()? + logs(state);
    for _ in 0..ROUNDS {
        if size <= max {
            break;
        }
        let runs = store.ended_runs()?;
        let share = u128::from(runs) * u128::from(max) / u128::from(size.max(1));
        let keep = u64::try_from(share).unwrap_or(runs).min(runs.saturating_sub(1));
        let Some(age) = beyond(store, keep, now)? else { break };
        let retention = older_than(age, configured);
        if dry_run {
            let found = store.prunable(state, &retention, now)?;
            report.text = format!(
                "would remove about {} of {} and the logs of {}{} ({} in use, {} of them logs)",
                found.runs,
                counted(runs, "run"),
                found.logs,
                and_groups(found.groups),
                mebibytes(size),
                mebibytes(logs(state))
            );
            let Prunable { runs, logs, undelivered, groups, .. } = found;
            report.object = PruneObject { runs, logs, undelivered, used_bytes: Some(size), ..PruneObject::default() };
            report.count_groups(groups, "could still be resumed");
            return Ok(report);
        }
        let removed = remove(state, store, &retention, now)?;
        all += removed;
        size = store.used_bytes()? + logs(state);
        if removed == Pruned::default() {
            report.object.undelivered = store.prunable(state, &retention, now)?.undelivered;
            break;
        }
    }
    report.object.count(all);
    report.object.used_bytes = Some(size);
    if all == Pruned::default() && size <= max {
        report.text = NOTHING.to_owned();
        return Ok(report);
    }
    report.count_groups(all.groups, REMOVED_RESUMABLE);
    let (runs, groups) = (counted(all.runs, "run"), and_groups(all.groups));
    report.text = format!("removed {runs} and the logs of {}{groups}; {} are in use", all.logs, mebibytes(size));
    if size > max {
        let rest =
            "The rest is the newest runs of each job and account, running ones, undelivered events, and the store's own pages.";
        report.notes.push(rest.to_owned());
    }
    Ok(report)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Size of all files below a directory.
fn bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { bytes(&entry.path()) } else { meta.len() })
    });
    sizes.sum()
}

/// Removes everything that is old enough.
fn remove(state: &StateDir, store: &mut Store, retention: &Retention, now: i64) -> Result<Pruned, CommandError> {
    let before = store.prunable(state, retention, now)?;
    let mut all = Pruned::default();
    // Enough calls to pass over all runs once, plus the calls that remove nothing.
    let mut left = before.examined / 50 + u64::from(IDLE);
    let mut idle = 0;
    while idle < IDLE || left > 0 {
        let removed = store.prune(state, retention, now)?;
        idle = if removed == Pruned::default() { idle + 1 } else { 0 };
        left = left.saturating_sub(1);
        all += removed;
    }
    Ok(all)
}
