//! Measures `backfill` of a no-op job, in windows per second, next to `run-job` for each window: from a shell loop, and from `xargs -P`, which
//! keeps as many processes running as there are processors, and from GNU parallel, if it is installed.
//!
//! Each side has a new history. The last row compares the time for a window in a backfill of many windows with that in one of few. Then the
//! same for Slurm, on a cluster of three nodes on this host, next to an array of tasks that run `true`.

use super::Site;
use super::timing::{judged, whole};
use crate::{Result, cargo};
use std::fmt::Write as _;
use std::time::Instant;

/// Number of windows that all sides run.
const WINDOWS: usize = 100;
/// Number of windows of the long backfill; `LORCHESTRA_BENCH_WINDOWS` sets another one.
const MANY: usize = 18_250;
/// Number of windows on Slurm.
const ON_SLURM: usize = 500;
/// How much faster than the others a backfill must be.
const TARGET: f64 = 1.5;
/// The highest accepted ratio of the times for a window of a long and a short backfill.
const GROWTH: f64 = 1.2;
const JOB: [&str; 2] = ["pkg-0000", "refresh_index"];

#[expect(clippy::disallowed_methods, reason = "the size of a long bench")]
pub(super) fn run(site: &Site) -> Result<String> {
    let many = std::env::var("LORCHESTRA_BENCH_WINDOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(MANY);
    let processors = std::thread::available_parallelism()?.get();
    let few = backfill(site, WINDOWS, processors)?;
    let one = shell(site, "while read -r since until; do $RUN --since \"$since\" --until \"$until\"; done", WINDOWS)?;
    let xargs = format!("xargs -P {processors} -L 1 sh -c '$RUN --since \"$0\" --until \"$1\"'");
    let parallel = shell(site, &xargs, WINDOWS)?;
    let gnu = std::process::Command::new("parallel").arg("--version").output().is_ok_and(|version| version.status.success());
    let script = format!("parallel --will-cite -j {processors} --colsep ' ' '$RUN --since {{1}} --until {{2}}'");
    let gnu = if gnu { Some(shell(site, &script, WINDOWS)?) } else { None };
    let long = backfill(site, many, processors)?;
    let mut table = String::from("| | windows/s |\n| --- | ---: |");
    for (name, rate) in [
        (format!("`backfill` of {WINDOWS} windows"), few),
        (format!("`backfill` of {many} windows"), long),
        ("`run-job` in a shell loop".to_owned(), one),
        (format!("`run-job` by `xargs -P {processors}`"), parallel),
    ] {
        write!(table, "\n| {name} | {rate:.1} |")?;
    }
    if let Some(rate) = gnu {
        write!(table, "\n| `run-job` by `parallel -j {processors}` | {rate:.1} |")?;
    }
    for (name, other) in [("shell loop", Some(one)), ("xargs", Some(parallel)), ("GNU parallel", gnu)] {
        let ratio = other.map(|other| few / other);
        let result = ratio.map_or_else(|| "not measured: it is not installed".to_owned(), |ratio| judged(ratio, ratio >= TARGET));
        write!(table, "\n| ratio to {name} (target at least {TARGET}) | {result} |")?;
    }
    let growth = few / long;
    write!(
        table,
        "\n| time for a window, {many} to {WINDOWS} (target at most {GROWTH}) | {} |",
        judged(growth, growth <= GROWTH)
    )?;
    write!(table, "\n\n{}", slurm(site)?)?;
    Ok(table)
}

/// The sentence that `slurm-rate` prints, or why there is none.
fn slurm(site: &Site) -> Result<String> {
    if let Err(why) = lorchestra_test_setup::slurm::ensure(&cargo::target()?) {
        return Ok(format!("Not measured on Slurm: {why}"));
    }
    let output = std::process::Command::new(site.target.join("slurm-rate")).arg(ON_SLURM.to_string()).output()?;
    if !output.status.success() {
        return Err(format!("slurm-rate: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A new history.
fn reset(site: &Site) -> Result {
    if site.sandbox.state().exists() {
        std::fs::remove_dir_all(site.sandbox.state())?;
    }
    Ok(())
}

fn backfill(site: &Site, windows: usize, processors: usize) -> Result<f64> {
    reset(site)?;
    let end = format!("2020-01-01T{:02}:{:02}:00Z", windows / 60 % 24, windows % 60);
    let end = end.replacen("2020-01-01", &format!("2020-01-{:02}", 1 + windows / 60 / 24), 1);
    let jobs = processors.to_string();
    let range = ["--from", "2020-01-01", "--to", &end, "--every", "1min", "-j", &jobs, "-q"];
    let took = whole(&mut site.sandbox.lorchestra(&[&["backfill"][..], &JOB, &range].concat()))?;
    check(site, windows)?;
    Ok(windows as f64 / took * 1e6)
}

/// Runs a shell script that reads windows from stdin and calls `$RUN` for each.
fn shell(site: &Site, script: &str, windows: usize) -> Result<f64> {
    reset(site)?;
    let lines: String = (0..windows)
        .map(|n| {
            let at = |n: usize| format!("2020-01-{:02}T{:02}:{:02}:00Z", 1 + n / 60 / 24, n / 60 % 24, n % 60);
            format!("{} {}\n", at(n), at(n + 1))
        })
        .collect();
    let input = site.sandbox.path().join("windows");
    std::fs::write(&input, lines)?;
    let mut command = site.sandbox.command(std::path::Path::new("sh"));
    // Windows of one account exclude each other without a backfill.
    let run = format!("{} run-job -q --on-overlap allow {} {}", site.target.join("lorchestra").display(), JOB[0], JOB[1]);
    command.args(["-c", script]).env("RUN", run).stdin(std::fs::File::open(&input)?);
    let start = Instant::now();
    let status = command.status()?;
    let took = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{script}: {status}").into());
    }
    check(site, windows)?;
    Ok(windows as f64 / took)
}

/// Every window has completed.
fn check(site: &Site, windows: usize) -> Result {
    let list = ["runs", "list", "--state", "completed", "--limit", "1000000", "--json"];
    let listed = site.sandbox.lorchestra(&list).output()?;
    let completed = String::from_utf8(listed.stdout)?.lines().count();
    if completed == windows { Ok(()) } else { Err(format!("{completed} of {windows} windows have completed").into()) }
}
