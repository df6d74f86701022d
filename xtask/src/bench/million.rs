//! Measures a job that emits five million events as fast as it can: the supervisor's memory and the spool's size during the run, and
//! whether all events are in the store.

use super::Site;
use super::timing::met;
use crate::Result;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const EVENTS: u64 = 5_000_000;
const MEMORY_KIB: u64 = 64 << 10;
/// Four segments of 64 MiB, and the records that cross their ends.
const SPOOL_BYTES: u64 = 260 << 20;
const SAMPLE: Duration = Duration::from_millis(50);

pub(super) fn run(site: &Site) -> Result<String> {
    let count = EVENTS.to_string();
    let mut command = site.sandbox.lorchestra(&["run-job", "-q", "pkg-0000", "flood", "--count", &count]);
    let start = Instant::now();
    let mut supervisor = command.stdin(Stdio::null()).spawn()?;
    let status_file = format!("/proc/{}/status", supervisor.id());
    let spool = site.sandbox.state().join("spool");
    let mut rss = Vec::new();
    let (mut peak, mut most) = (0, 0);
    let status = loop {
        if let Some(status) = supervisor.try_wait()? {
            break status;
        }
        let text = std::fs::read_to_string(&status_file).unwrap_or_default();
        rss.extend(kib(&text, "VmRSS:"));
        peak = kib(&text, "VmHWM:").unwrap_or(0).max(peak);
        most = size(&spool).max(most);
        std::thread::sleep(SAMPLE);
    };
    let took = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("run-job flood failed ({status})").into());
    }
    let stored = stored(site)?;
    let (early, late) = (mean(&rss, 1), mean(&rss, 3));
    let bytes = std::fs::metadata(site.sandbox.state().join("lorchestra.db"))?.len();
    let mut table = String::from("| | |\n| --- | ---: |");
    let mut row = |name: &str, text: String| table.push_str(&format!("\n| {name} | {text} |"));
    row("events emitted, payloads of 200 bytes", EVENTS.to_string());
    row("events in the store", format!("{stored} {}", met(stored == EVENTS)));
    row("seconds, from start to exit", format!("{took:.1}"));
    row("events per second into the store", format!("{:.0}", stored as f64 / took));
    row("supervisor's peak memory (target under 64 MiB)", memory(peak));
    row(
        "its memory in the second quarter of the run, and in the last",
        format!("{:.1} MiB, {:.1} MiB", early / 1024.0, late / 1024.0),
    );
    row("most bytes of spool on disk (bound 256 MiB)", format!("{} MiB {}", most >> 20, met(most <= SPOOL_BYTES)));
    row("store on disk at the end", format!("{} MiB", bytes >> 20));
    Ok(table)
}

fn memory(peak: u64) -> String {
    format!("{:.1} MiB {}", peak as f64 / 1024.0, met(peak < MEMORY_KIB))
}

/// Mean of a quarter of the samples; 0 is the first quarter.
fn mean(samples: &[u64], quarter: usize) -> f64 {
    let part = &samples[samples.len() * quarter / 4..samples.len() * (quarter + 1) / 4];
    part.iter().sum::<u64>() as f64 / part.len().max(1) as f64
}

fn kib(status: &str, key: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// Size of all files below a directory; ignores files that disappear in the meantime.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Number of the flood's events in the store, as counted by lorchestra.
fn stored(site: &Site) -> Result<u64> {
    let list = site.sandbox.lorchestra(&["runs", "list", "--json"]).output()?;
    let run: Value = serde_json::from_slice(list.stdout.split(|b| *b == b'\n').next().unwrap_or_default())?;
    let id = run["run_id"].as_str().ok_or("runs list has no run")?;
    let show = site.sandbox.lorchestra(&["runs", "show", id, "--json"]).output()?;
    let show: Value = serde_json::from_slice(&show.stdout)?;
    show["events"]["bench.flood"].as_u64().ok_or_else(|| "the run has no events".into())
}
