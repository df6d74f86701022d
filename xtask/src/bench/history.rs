//! Measures years of history: the time of commands in stores with a thousand, a hundred thousand and a million runs, and how the file
//! shrinks.

use super::Site;
use super::timing::{Median, inside, judged, whole, whole_ending};
use crate::Result;
use crate::cargo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Number of runs in each store, with three events each.
const RUNS: [u32; 3] = [1000, 100_000, 1_000_000];
/// Each round removes 50 runs of the smallest store.
const ROUNDS: usize = 15;
const TARGET: f64 = 1.5;
/// Rounds of the commands that read many runs, which take seconds.
const LONG_ROUNDS: usize = 3;
/// The highest accepted ratio of the times for a run in the largest store and in the one before it.
const LINEAR: f64 = 1.5;
/// Number of runs in the store that is emptied.
const DRAINED: u32 = 100_000;

struct Size {
    runs: u32,
    state: PathBuf,
    /// The newest of its runs.
    run: String,
    took: [Vec<f64>; NAMES.len()],
}

const NAMES: [&str; 10] = [
    "`run-job` of a no-op",
    "`status`",
    "`runs list`",
    "`runs show`",
    "`events list --type`, 24 events",
    "`events list --run`, 3 events",
    "`bookmarks show`",
    "`metrics`",
    "retention: 50 runs with 150 events removed",
    "open, with 10 000 undelivered events",
];

/// Commands that read every run, or those of a part of the time: of twenty days, the stores have the same number of runs on each.
const READING_ALL: [(&str, &[&str]); 4] = [
    // More days than the stores have.
    ("`report`, all runs", &["report", "--days", "3650"]),
    ("`doctor`, which checks the whole store", &["doctor"]),
    ("`events export` of one day", &["events", "export", "--format", "jsonl", "--since", "-1d"]),
    ("`runs prune --dry-run` of ten days", &["runs", "prune", "--dry-run", "--older-than", "10d"]),
];

pub(super) fn run(site: &Site) -> Result<String> {
    let mut sizes = RUNS.into_iter().map(|runs| fill(site, runs)).collect::<Result<Vec<_>>>()?;
    // The first round reads data for the first time, and does not count.
    for round in 0..=ROUNDS {
        for size in &mut sizes {
            let took = size.round(site)?;
            if round > 0 {
                size.took.iter_mut().zip(took).for_each(|(all, one)| all.push(one));
            }
        }
    }
    let mut table = String::from("| ms |");
    sizes.iter().for_each(|size| table.push_str(&format!(" {} runs |", size.runs)));
    table.push_str(&format!(" largest to smallest (target at most {TARGET}) |\n| --- |{}", " ---: |".repeat(RUNS.len() + 1)));
    for (at, name) in NAMES.iter().enumerate() {
        let medians: Vec<Median> = sizes.iter().map(|size| Median::of(&size.took[at])).collect();
        table.push_str(&format!("\n| {name} |"));
        medians.iter().for_each(|median| table.push_str(&format!(" {} |", median.in_thousands())));
        let ratio = medians[medians.len() - 1].middle / medians[0].middle;
        table.push_str(&format!(" {} |", judged(ratio, ratio <= TARGET)));
    }
    table.push_str("\n\n");
    table.push_str(&linear(site, &sizes)?);
    sizes.iter().try_for_each(|size| std::fs::remove_dir_all(&size.state))?;
    table.push_str("\n\n");
    table.push_str(&drained(site)?);
    Ok(table)
}

fn fill(site: &Site, runs: u32) -> Result<Size> {
    let state = site.sandbox.path().join(format!("history-{runs}"));
    cargo::run(site.part("bench-history").arg("fill").arg(state.join("lorchestra")).arg(runs.to_string()))?;
    let list = at(site, &state, &["runs", "list", "--limit", "2", "--json"]).output()?;
    // The newest run is the one with undelivered events.
    let run: Value = serde_json::from_slice(list.stdout.split(|b| *b == b'\n').nth(1).unwrap_or_default())?;
    let run = run["run_id"].as_str().ok_or("runs list has no two runs")?.to_owned();
    Ok(Size { runs, state, run, took: Default::default() })
}

/// A lorchestra command for one of the stores.
fn at(site: &Site, state: &Path, args: &[&str]) -> Command {
    let mut command = site.sandbox.lorchestra(args);
    command.env("XDG_STATE_HOME", state);
    command
}

impl Size {
    /// Runs each command once, and returns the times in microseconds.
    fn round(&self, site: &Site) -> Result<[f64; NAMES.len()]> {
        let command = |args: &[&str]| whole(&mut at(site, &self.state, args));
        let part = |what: &str| inside(site.part("bench-history").arg(what).arg(self.state.join("lorchestra")));
        Ok([
            command(&["run-job", "-q", "pkg-0000", "noop"])?,
            // 1 if a job fails or is stale, which is correct too.
            whole_ending(&mut at(site, &self.state, &["status"]), &[0, 1])?,
            command(&["runs", "list"])?,
            command(&["runs", "show", &self.run])?,
            command(&["events", "list", "--type", "bench.rare"])?,
            command(&["events", "list", "--run", &self.run])?,
            command(&["bookmarks", "show"])?,
            command(&["metrics"])?,
            part("prune")?,
            part("open")?,
        ])
    }
}

/// The commands whose time grows with the number of runs.
fn linear(site: &Site, sizes: &[Size]) -> Result<String> {
    let mut table = String::from("| s, and µs per run of the store |");
    sizes.iter().for_each(|size| table.push_str(&format!(" {} runs |", size.runs)));
    let [.., many, most] = RUNS;
    table.push_str(&format!(" for a run, of {most} to {many} (linear: at most {LINEAR}) |"));
    table.push_str(&format!("\n| --- |{}", " ---: |".repeat(RUNS.len() + 1)));
    for (name, args) in READING_ALL {
        table.push_str(&format!("\n| {name} |"));
        let mut each = Vec::new();
        for size in sizes {
            // 1 if `doctor` finds an error on this machine.
            let once = || whole_ending(&mut at(site, &size.state, args), &[0, 1]);
            let took = Median::of(&(0..LONG_ROUNDS).map(|_| once()).collect::<Result<Vec<_>>>()?).middle;
            let per_run = took / f64::from(size.runs);
            table.push_str(&format!(" {:.2} ({per_run:.1}) |", took / 1e6));
            each.push(per_run);
        }
        // A command over few runs is mostly the start of a process.
        let ratio = each[each.len() - 1] / each[each.len() - 2];
        table.push_str(&format!(" {} |", judged(ratio, ratio <= LINEAR)));
    }
    Ok(table)
}

fn drained(site: &Site) -> Result<String> {
    let state = site.sandbox.path().join("drained");
    cargo::run(site.part("bench-history").arg("fill").arg(&state).arg(DRAINED.to_string()))?;
    let output = site.part("bench-history").arg("drain").arg(&state).output()?;
    let output: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| output[name].as_f64().ok_or_else(|| format!("no {name}: {output}"));
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    Ok(format!(
        "{DRAINED} runs, of which {:.0} are removed by retention, 50 after each run: the file goes from {:.0} MiB to {:.0} MiB; {:.0} calls, the slowest of them {:.1} ms.",
        number("runs")?,
        mib(number("full")?),
        mib(number("left")?),
        number("calls")?,
        number("slowest_ms")?,
    ))
}
