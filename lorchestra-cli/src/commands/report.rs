//! `report`: one self-contained HTML page about the last days, for a browser without a network. Reads the store; [`page`] writes the HTML.
//!
//! The page contains job names, states, causes and times, but no accounts, parameters, messages, output or payloads, so that it can be passed on.

mod page;

use super::fleet::{Fleet, From, RunSource};
use super::history_and_unclosed;
use super::to_file;
use super::unclosed::Unclosed;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use clap::Args;
use lorchestra_core::host::atomic_file::{OutputFile, unless_reader_left};
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::{RunPoint, RunQuery, RunState, Store, short_id};
use lorchestra_core::text::path_text;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Number of intervals into which the reported days are divided.
pub(super) const STRIPS: usize = 120;
/// Number of runs in the lists of the slowest and the largest runs.
const TOP: usize = 10;
const DAY: i64 = 86_400_000_000;

#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// Number of days to report
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = crate::values::number::<u16>(1..=3660))]
    days: u16,
    #[command(flatten)]
    from: From,
    /// Write to this file instead of stdout; a regular file appears only once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The runs of one job.
#[derive(Debug, Default)]
pub(super) struct JobRuns {
    /// Number of runs by state.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Durations of completed runs in microseconds, sorted at the end.
    pub(super) took: Vec<i64>,
    /// For each interval: the number of runs that completed, and of those that failed or were refused.
    pub(super) strips: Vec<[u32; 2]>,
}

/// An entry in the list of the slowest or the largest runs.
#[derive(Debug)]
pub(super) struct TopRun {
    pub(super) job: String,
    pub(super) short_id: String,
    pub(super) started_at: i64,
    pub(super) value: i64,
}

/// The data of the page.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) days: u16,
    pub(super) jobs: BTreeMap<String, JobRuns>,
    pub(super) causes: BTreeMap<String, u64>,
    pub(super) slowest: Vec<TopRun>,
    pub(super) largest: Vec<TopRun>,
    /// Destinations, with their pending events.
    pub(super) delivery: Vec<(&'static str, u64)>,
}

pub(super) fn run(
    command: &ReportCommand,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let until = now_micros();
    let mut summary = Summary { from: until - i64::from(command.days) * DAY, until, days: command.days, ..Summary::default() };
    if command.from.from == RunSource::Bigquery {
        let fleet = Fleet::read(Some(summary.from), settings)?;
        fill(&mut summary, &fleet.history.1, &Unclosed::default())?;
    } else if let (Some((_, store)), unclosed) = &history_and_unclosed(settings, notices, printer)? {
        fill(&mut summary, store, unclosed)?;
        for to in &settings.destinations {
            summary.delivery.push((to.label(), store.pending(to.name())?));
        }
    }
    let html = page::html(&summary);
    match to_file(command.output.as_deref()) {
        None => printer.line(html.trim_end()),
        Some(path) => {
            let written = OutputFile::write_whole(path, Permissions::from_mode(0o600), html.as_bytes());
            // The path may be that of standard output.
            if unless_reader_left(written).map_err(|e| CommandError::not_written(path, &e))? {
                printer.good(format_args!("report written to {}", path_text(path)));
            }
        }
    }
    Ok(Code::Success)
}

fn fill(summary: &mut Summary, store: &Store, unclosed: &Unclosed) -> Result<(), CommandError> {
    let query = RunQuery { since: Some(summary.from), ..RunQuery::default() };
    let (from, width) = (summary.from, (summary.until - summary.from).max(1));
    let strip_of = |at: i64| {
        let strip = (at - from).max(0).saturating_mul(STRIPS as i64) / width;
        usize::try_from(strip).unwrap_or(0).min(STRIPS - 1)
    };
    let lost = unclosed.runs(store)?;
    for key in store.keys(&RunQuery::default())? {
        let name = format!("{}/{}", key.package, key.job);
        let is_bad = matches!(key.state, RunState::Failed | RunState::Refused);
        let is_good = key.state == RunState::Completed;
        let mut points: Vec<RunPoint> = Vec::new();
        store.points(&key, &query, |point| points.push(point))?;
        if key.state == RunState::Running {
            points.retain(|point| lost.iter().all(|run| run.run_id != point.run_id));
        }
        if points.is_empty() {
            continue;
        }
        if is_bad {
            *summary.causes.entry(key.cause.clone()).or_default() += points.len() as u64;
        }
        let job = summary.jobs.entry(name.clone()).or_default();
        job.strips.resize(STRIPS, [0, 0]);
        *job.counts.entry(key.state.as_str()).or_default() += points.len() as u64;
        for point in &points {
            let strip = strip_of(point.started_at);
            job.strips[strip][0] += u32::from(is_good);
            job.strips[strip][1] += u32::from(is_bad);
            let took = point.ended_at.map(|ended| ended - point.started_at);
            job.took.extend(took.filter(|_| is_good));
            let top = |value: i64| TopRun {
                job: name.clone(),
                short_id: short_id(&point.run_id).to_owned(),
                started_at: point.started_at,
                value,
            };
            keep(&mut summary.slowest, took.unwrap_or(0), top);
            keep(&mut summary.largest, point.max_rss_kib.and_then(|kib| i64::try_from(kib).ok()).unwrap_or(0), top);
        }
    }
    for run in lost.iter().filter(|run| run.started_at >= from) {
        *summary.causes.entry(Cause::Abandoned.as_str().to_owned()).or_default() += 1;
        let job = summary.jobs.entry(format!("{}/{}", run.package, run.job)).or_default();
        job.strips.resize(STRIPS, [0, 0]);
        *job.counts.entry(RunState::Failed.as_str()).or_default() += 1;
        job.strips[strip_of(run.started_at)][1] += 1;
    }
    summary.jobs.values_mut().for_each(|job| job.took.sort_unstable());
    Ok(())
}

/// Keeps the runs with the greatest values.
fn keep(list: &mut Vec<TopRun>, value: i64, run: impl Fn(i64) -> TopRun) {
    if value <= 0 || list.len() == TOP && list.last().is_some_and(|last| last.value >= value) {
        return;
    }
    let at = list.partition_point(|other| other.value >= value);
    list.insert(at, run(value));
    list.truncate(TOP);
}
