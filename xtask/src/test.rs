//! `cargo xtask test` and `cargo xtask soak`.
//!
//! End-to-end tests use the real binary and real libraries in the target directory; tests never build. So everything is built first, once,
//! with the features that `cargo test` uses, so that nothing is compiled twice; then what else the chosen topics need ([`needs`]).
//!
//! Prints first what it builds and downloads and how long that takes ([`steps`]), then the time of each step and the total. With
//! `--no-fail-fast`, the remaining steps run even if one fails.

mod needs;
mod progress;
mod steps;
pub(crate) mod temporal;
mod topics;

use crate::{Result, cargo};
use clap::Args;
use std::ffi::OsString;
use steps::Steps;
use topics::Topics;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only these topics: modules of tests/tests/e2e (`run`, `stopping`, …), packages (`lorchestra-core`, …), or `temporal`, which
    /// runs only when it is named
    topics: Vec<String>,
    /// Run the remaining steps if one fails
    #[arg(long)]
    no_fail_fast: bool,
    /// Arguments for the test programs
    #[arg(last = true, value_name = "TEST ARGS")]
    rest: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result {
    let topics = Topics::read()?;
    let (own, named): (Vec<String>, Vec<String>) = options.topics.iter().cloned().partition(|topic| topic == temporal::TOPIC);
    let chosen = topics.choose(&named)?;
    let all = options.topics.is_empty();
    let end_to_end = all || !chosen.modules.is_empty();
    let (downloads, builds) = if end_to_end { needs::of(&topics.sources(&chosen.modules)?) } else { (Vec::new(), Vec::new()) };
    let missing = needs::missing(&downloads)?;
    let built = cargo::is_tested_built()?;

    // The downloads mostly wait for the network, so they run while the compiler has the processors.
    let fetching = std::cell::Cell::new(None);
    let mut steps = Steps::new(!options.no_fail_fast)?;
    // Always `--workspace`: with `-p`, dependencies would be built again with other features.
    let what =
        if built { "what changed in the workspace" } else { "the whole workspace; cargo downloads crates that are missing" };
    let fetched = downloads.clone();
    steps.add("build", what, if built { 60 } else { 480 }, || {
        fetching.set(Some(std::thread::spawn(move || needs::set_up(&fetched))));
        cargo::build(&cargo::TESTED)
    });
    for need in builds {
        steps.add("build", need.name, need.seconds, || Ok(need.set_up(&cargo::target()?)?));
    }
    if !downloads.is_empty() {
        let there = downloads.len() - missing.len();
        let mut what: Vec<String> = missing.iter().map(|need| format!("{} ({})", need.name, need.download)).collect();
        if there > 0 {
            what.push(format!("{there} of {} are there", downloads.len()));
        }
        let seconds = missing.iter().map(|need| need.seconds).sum();
        steps.add("set up", what.join(", "), seconds, || {
            let Some(thread) = fetching.take() else { return Ok(()) };
            Ok(thread.join().unwrap_or_else(|_| Err("it panicked".to_owned()))?)
        });
    }
    if all {
        let own = topics.own_programs();
        steps.add("test", "packages of the workspace", 150, move || {
            cargo::run(test(&["--lib", "--bins"])?.args(own.iter().flat_map(|name| ["--test", name])).args(rest(options)))
        });
    }
    if !own.is_empty() {
        temporal::add(&mut steps, &options.rest);
    }
    for package in &chosen.packages {
        steps.add("test", package, 60, || cargo::run(cargo::cargo("test")?.args(["-p", package]).args(rest(options))));
    }
    if end_to_end {
        let what = if all { "end to end".to_owned() } else { format!("end to end: {}", chosen.modules.join(", ")) };
        let seconds = if all { 400 } else { 30 };
        steps.add("test", what, seconds, || progress::end_to_end(&chosen.modules, &options.rest));
    }
    if all {
        steps.add("test", "examples in documentation", 60, || cargo::run(test(&["--doc"])?.args(rest(options))));
        steps.add("test", "async jobs", 40, async_jobs);
    }
    steps.run()
}

/// `cargo test` for the workspace.
fn test(args: &[&str]) -> Result<std::process::Command> {
    let mut test = cargo::cargo("test")?;
    test.args(cargo::TESTED).arg("--no-fail-fast").args(args);
    // In CI a changed snapshot is a failure; for a person it becomes a `.snap.new` to review.
    if is_ci() {
        test.env("INSTA_UPDATE", "no");
    }
    Ok(test)
}

/// The arguments after `--`, in the form that cargo expects.
fn rest(options: &Options) -> Vec<OsString> {
    if options.rest.is_empty() { Vec::new() } else { [&[OsString::from("--")], &*options.rest].concat() }
}

/// Tests the feature `async`, including the guide: no member of the workspace enables it, so that everything else is tested without it.
fn async_jobs() -> Result {
    for what in ["--doc", "--test=testing_async"] {
        let mut test = cargo::cargo("test")?;
        cargo::run(test.args(["-p", "lorchestra-plugin-api", "--features", "async", what]))?;
    }
    Ok(())
}

/// The tests that `cargo xtask soak` repeats: those that use LORCHESTRA_TEST_ROUNDS, the one that waits longest, and those that are too large for
/// every run.
const SOAKED: [&str; 11] = [
    "crash::killed::nothing_acknowledged",
    "crash::remains",
    "delivery::bigquery::kills_among",
    "delivery::bigquery::a_server_restarted",
    "delivery::sending::a_kill_during_delivery",
    "delivery::second_emulator",
    "delivery::jsonl::no_kill_loses",
    "catalog::locked::swapping",
    "crash::trouble::a_store_that_is_locked_for_longer",
    "operator::browser",
    "operator::runbooks::backlog_of_a_million_events",
];

/// Runs a group of many windows on Temporal, with everything killed in between.
pub(crate) fn soak_temporal(soak: temporal::Soak) -> Result {
    if soak.is_release {
        cargo::build(&["--release", "-p", "lorchestra-cli", "-p", "misbehave", "-p", "lorchestra-tests"])?;
    } else {
        cargo::build(&cargo::TESTED)?;
    }
    temporal::soak(soak)
}

/// Kills workers and supervisors at random moments, and swaps libraries while they run, in more rounds than a normal test run.
pub(crate) fn soak(rounds: u32) -> Result {
    cargo::build(&cargo::TESTED)?;
    // Only here: it is large, and needs a newer Python than everything else.
    if let Err(why) = lorchestra_test_setup::venv::ensure_second_emulator(&cargo::target()?) {
        println!("without the second BigQuery emulator: {why}");
    }
    let mut test = test(&["--test", "e2e", "--", "--nocapture"])?;
    test.env("LORCHESTRA_TEST_BACKLOG", "1000000").env("LORCHESTRA_TEST_REPORTED", "100000");
    cargo::run(test.args(SOAKED).env("LORCHESTRA_TEST_ROUNDS", rounds.to_string()))
}

/// Runs a group of many windows on Slurm, with nodes killed and frozen, then measures windows per second next to an array of `true`.
pub(crate) fn soak_slurm(windows: u32) -> Result {
    cargo::build(&cargo::TESTED)?;
    let mut test = test(&["--test", "e2e", "--", "--nocapture", "engines::slurm::every_window"])?;
    cargo::run(test.env("LORCHESTRA_TEST_WINDOWS", windows.to_string()))?;
    cargo::run(std::process::Command::new(cargo::built("debug")?.join("slurm-rate")).arg(windows.to_string()))
}

#[expect(clippy::disallowed_methods, reason = "build machines set CI=true")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}
