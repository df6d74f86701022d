//! `metrics`: the state of jobs, delivery and the store in Prometheus' text format, for the textfile collector of the node exporter.
//!
//! Reads what `status` reads, so its cost does not grow with the history. There is no server: a timer writes the file.

use super::history_and_unclosed;
use super::status::{self, Judged, Word};
use super::to_file;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use clap::Args;
use lorchestra_core::host::atomic_file::{OutputFile, unless_reader_left};
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::store::{Run, SetAside, Store};
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub(super) const RULE: &str = "\
To feed Prometheus, run this every few minutes from a timer with -o and a file DIRECTORY/NAME.prom, where DIRECTORY is that of the node \
exporter's textfile collector.";

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Write to this file instead of stdout; other users may read it, and a regular file appears only once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(
    command: &Metrics,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let (history, unclosed) = history_and_unclosed(settings, notices, printer)?;
    let store = history.as_ref().map(|(_, store)| store);
    let mut text = Exposition::default();
    text.family("lorchestra_build_info", "gauge", "The version of lorchestra.");
    text.sample("lorchestra_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    jobs(&status::all(settings, (store, &unclosed))?, &mut text);
    delivery(settings, store, &mut text)?;
    space(settings, &mut text);
    match to_file(command.output.as_deref()) {
        None => printer.line(text.0.trim_end()),
        Some(path) => {
            // The node exporter is another user, and must never see a part of the file.
            let written = OutputFile::write_whole(path, Permissions::from_mode(0o644), text.0.as_bytes());
            unless_reader_left(written).map_err(|e| CommandError::not_written(path, &e))?;
        }
    }
    Ok(Code::Success)
}

/// A metric of a job: its name, its meaning, and its value, if it has one.
type JobMetric = (&'static str, &'static str, fn(&Judged) -> Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
const JOBS: [JobMetric; 9] = [
    ("healthy", "1 unless the job is failing or stale.", |job| Some(number(!matches!(job.word, Word::Failing | Word::Stale)))),
    ("running", "1 while a run of the job is running.", |job| Some(number(job.health.running.is_some()))),
    ("failures", "Failed or refused runs since the last success.", |job| Some(job.health.failures as f64)),
    ("last_success_timestamp_seconds", "When the last successful run ended.", |job| job.health.last_success.as_ref().map(end)),
    ("last_run_timestamp_seconds", "When the last run ended.", |job| job.health.last.as_ref().map(end)),
    ("last_run_duration_seconds", "Duration of the last run.", |job| {
        super::runs::duration(job.health.last.as_ref()?).map(|took| took.as_secs_f64())
    }),
    ("usual_duration_seconds", "Median duration of successful runs.", |job| job.health.usual.map(|usual| usual.as_secs_f64())),
    ("expected_interval_seconds", "Longest time between two successes, as configured.", |job| {
        job.expected_every.map(|every| every.as_secs_f64())
    }),
    ("bookmark_timestamp_seconds", "Where the next window starts.", |job| job.bookmark.map(seconds)),
];

fn jobs(jobs: &[Judged], text: &mut Exposition) {
    for (name, help, value) in JOBS {
        let name = format!("lorchestra_job_{name}");
        text.family(&name, "gauge", help);
        for job in jobs {
            let health = &job.health;
            let account = health.account.as_deref().unwrap_or_default();
            if let Some(value) = value(job) {
                text.sample(&name, &[("package", &health.package), ("job", &health.job), ("account", account)], value);
            }
        }
    }
}

/// A metric of a destination: its name, its meaning, and its value.
type DeliveryMetric = (&'static str, &'static str, fn(u64, SetAside) -> u64);

const DELIVERY: [DeliveryMetric; 3] = [
    ("pending", "Events that a destination has not received, counted up to a limit.", |pending, _| pending),
    ("refused", "Events that a destination refused, counted up to a limit.", |_, set_aside| set_aside.refused),
    ("uncertain", "Events that may not have arrived in a destination, counted up to a limit.", |_, set_aside| {
        set_aside.uncertain
    }),
];

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn delivery(settings: &Settings, store: Option<&Store>, text: &mut Exposition) -> Result<(), CommandError> {
    let mut counts = Vec::new();
    for to in &settings.destinations {
        let counted = match store {
            Some(store) => (store.pending(to.name())?, store.set_aside(to.name())?),
            None => (0, SetAside::default()),
        };
        counts.push((to.name(), counted));
    }
    for (name, help, value) in DELIVERY {
        let name = format!("lorchestra_events_{name}");
        text.family(&name, "gauge", help);
        for (to, (pending, set_aside)) in &counts {
            text.sample(&name, &[("destination", to)], value(*pending, *set_aside) as f64);
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn space(settings: &Settings, text: &mut Exposition) {
    let store = settings.state_dir.join("lorchestra.db");
    if let Ok(meta) = std::fs::metadata(&store) {
        text.family("lorchestra_store_bytes", "gauge", "Size of the store.");
        text.sample("lorchestra_store_bytes", &[], meta.len() as f64);
    }
    if let Ok(stat) = rustix::fs::statvfs(&settings.state_dir) {
        text.family("lorchestra_state_free_bytes", "gauge", "Free space on the file system of the state directory.");
        text.sample("lorchestra_state_free_bytes", &[], stat.f_bavail.saturating_mul(stat.f_frsize) as f64);
    }
    text.family("lorchestra_metrics_timestamp_seconds", "gauge", "When these metrics were written.");
    text.sample("lorchestra_metrics_timestamp_seconds", &[], seconds(now_micros()));
}

fn end(run: &Run) -> f64 {
    seconds(run.ended_at.unwrap_or(run.started_at))
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
fn seconds(micros: i64) -> f64 {
    (micros / 1000) as f64 / 1000.0
}

fn number(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Text in Prometheus' format, version 0.0.4.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{name}=\"{value}\"")
            })
            .collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
