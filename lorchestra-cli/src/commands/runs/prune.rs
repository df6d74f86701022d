//! `runs prune`: removes at once everything that retention removes in small steps after each run; by age, by number of runs, or by size.
//! Runs with events that a destination has not received, and active runs, are kept.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show::counted;
use clap::Args;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::Store;
use lorchestra_core::store::retention::{Protected, Pruned, Retention};
use std::path::Path;
use std::time::Duration;

/// Number of consecutive calls without a removal that show that nothing is left: each call examines the next fifty runs.
const IDLE: u32 = 3;
/// Maximum number of rounds for a limit on the size: each removes runs in proportion to what is too much.
const ROUNDS: u32 = 12;

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove everything older than this, instead of using the limits in config.toml
    #[arg(long, value_name = "DURATION", value_parser = crate::values::limit)]
    older_than: Option<Duration>,
    /// Keep the N newest runs and the newest success of each job and account, and remove the others
    #[arg(long, value_name = "N", value_parser = crate::values::number::<u64>(0..), conflicts_with = "older_than")]
    keep: Option<u64>,
    /// Remove the oldest runs until the state directory is smaller than this
    #[arg(long, value_name = "SIZE", value_parser = lorchestra_core::plan::size::parse, conflicts_with_all = ["older_than", "keep"])]
    max_size: Option<u64>,
    /// Print what would be removed without removing it
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn prune(
    command: &Prune,
    (state, mut store): (StateDir, Store),
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let now = now_micros();
    let older_than = |age: Duration| {
        let mut retention = settings.retention.clone();
        (retention.runs, retention.logs) = (age, age.min(retention.logs));
        retention.payloads = age.min(retention.payloads);
        retention
    };
    let retention = match (command.older_than, command.keep, command.max_size) {
        (Some(age), ..) => older_than(age),
        (_, Some(keep), _) => match beyond(&store, keep, now)? {
            Some(age) => older_than(age),
            None => return Ok(nothing(printer)),
        },
        (.., Some(max)) => return to_size(max, command.dry_run, (&state, &mut store, now), &older_than, printer),
        _ => settings.retention.clone(),
    };
    let protected = if command.keep.is_some() { store.newest_successes()? } else { Protected::default() };
    let before = store.prunable(&state, &retention, now, &protected)?;
    kept(before.undelivered, printer);
    if command.dry_run {
        printer.line(format_args!("would remove {} runs and the logs of {}", before.runs, before.logs));
        return Ok(Code::Success);
    }
    let all = remove(&state, &mut store, &retention, (now, &protected))?;
    if command.keep.is_some() && all == Pruned::default() {
        return Ok(nothing(printer));
    }
    printer.good(match all.payloads {
        0 => format!("removed {} runs and the logs of {}", all.runs, all.logs),
        payloads => format!("removed {} runs, the logs of {} and the payloads of {payloads}", all.runs, all.logs),
    });
    Ok(Code::Success)
}

fn nothing(printer: &mut Printer) -> Code {
    printer.line("nothing to remove");
    Code::Success
}

fn kept(undelivered: u64, printer: &mut Printer) {
    if undelivered > 0 {
        let runs = counted(usize::try_from(undelivered).unwrap_or(usize::MAX), "old run");
        printer.note(format_args!("{runs} with undelivered events stay: run lorchestra events flush."));
    }
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
    older_than: &dyn Fn(Duration) -> Retention,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let logs = |state: &StateDir| state.run_logs("x").parent().map_or(0, bytes);
    let mut all = Pruned::default();
    let none = Protected::default();
    let mut size = store.used_bytes()? + logs(state);
    for _ in 0..ROUNDS {
        if size <= max {
            break;
        }
        let runs = store.ended_runs()?;
        let share = u128::from(runs) * u128::from(max) / u128::from(size.max(1));
        let keep = u64::try_from(share).unwrap_or(runs).min(runs.saturating_sub(1));
        let Some(age) = beyond(store, keep, now)? else { break };
        let retention = older_than(age);
        if dry_run {
            let found = store.prunable(state, &retention, now, &none)?;
            kept(found.undelivered, printer);
            printer.line(format_args!("would remove about {} of {runs} runs ({} MiB in use)", found.runs, size >> 20));
            return Ok(Code::Success);
        }
        let Pruned { runs, logs: removed, payloads } = remove(state, store, &retention, (now, &none))?;
        all = Pruned { runs: all.runs + runs, logs: all.logs + removed, payloads: all.payloads + payloads };
        size = store.used_bytes()? + logs(state);
        if runs + removed + payloads == 0 {
            kept(store.prunable(state, &retention, now, &none)?.undelivered, printer);
            break;
        }
    }
    if all == Pruned::default() && size <= max {
        return Ok(nothing(printer));
    }
    let mib = size.div_ceil(1 << 20);
    printer.good(format_args!("removed {} runs and the logs of {}; {mib} MiB are in use", all.runs, all.logs));
    if size > max {
        printer.note("The rest is the newest run, running ones, undelivered events, and the store's own pages.");
    }
    Ok(Code::Success)
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
fn remove(
    state: &StateDir,
    store: &mut Store,
    retention: &Retention,
    (now, protected): (i64, &Protected),
) -> Result<Pruned, CommandError> {
    let before = store.prunable(state, retention, now, protected)?;
    let mut all = Pruned::default();
    // Enough calls to pass over all runs once, plus the calls that remove nothing.
    let mut left = before.examined / 50 + u64::from(IDLE);
    let mut idle = 0;
    while idle < IDLE || left > 0 {
        let Pruned { runs, logs, payloads } = store.prune_except(state, retention, now, protected)?;
        idle = if runs + logs + payloads == 0 { idle + 1 } else { 0 };
        left = left.saturating_sub(1);
        all = Pruned { runs: all.runs + runs, logs: all.logs + logs, payloads: all.payloads + payloads };
    }
    Ok(all)
}
