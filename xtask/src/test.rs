//! `cargo xtask test` and `cargo xtask soak`.
//!
//! End-to-end tests run the real binary and real libraries from the target directory; a test never builds. So everything is built
//! first, once, with the features that `cargo test` will use, so that nothing is compiled twice; then the plugins of other builds
//! (docs/compatibility.md). The BigQuery emulator, a Singer tap and an embedding model are set up the first time, each in a directory of
//! its own below the target directory; and Dovecot, out of Debian's packages.

use crate::{Result, cargo};
use std::ffi::{OsStr, OsString};

pub(crate) fn run(args: &[OsString]) -> Result {
    cargo::build(&["--workspace"])?;
    other_builds()?;
    from_pypi()?;
    dovecot()?;
    let mut test = cargo::cargo("test")?;
    // `--workspace` would win over `-p`.
    let whole = !args.iter().take_while(|arg| *arg != "--").any(|arg| names_package(arg));
    if whole {
        test.arg("--workspace");
    }
    // A snapshot that differs is a failure for a machine, and a `.snap.new` to look at for a person.
    if is_ci() {
        test.env("INSTA_UPDATE", "no");
    }
    let tested = cargo::run(test.args(args));
    // Both are told, also where the first has failed.
    let of_async = if whole { async_jobs() } else { Ok(()) };
    tested.and(of_async)
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
const SOAKED: [&str; 4] = [
    "crash::killed::nothing_acknowledged",
    "delivery::sending::a_kill_during_delivery",
    "catalog::locked::swapping",
    "crash::trouble::a_store_that_is_kept_for_longer",
];

/// The rounds in which workers and supervisors are killed at random moments, and libraries are swapped while they are run, more often
/// than in every test run; and what takes minutes.
pub(crate) fn soak(rounds: u32) -> Result {
    cargo::build(&["--workspace"])?;
    let mut test = cargo::cargo("test")?;
    test.args(["-p", "lorchestra-tests", "--test", "e2e", "--", "--nocapture", "--include-ignored"]);
    test.args(SOAKED);
    cargo::run(test.env("LORCHESTRA_TEST_ROUNDS", rounds.to_string()))
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
    println!("the BigQuery emulator, a Singer tap, an embedding model: set up once, below the target directory");
    let target = cargo::target()?;
    crate::venv::ensure(&target)?;
    crate::venv::ensure_tap(&target)?;
    crate::venv::ensure_model(&target)?;
    Ok(())
}

/// What the tests in `imap` start: forty megabytes and some seconds, once.
fn dovecot() -> Result {
    println!("Dovecot: unpacked once, below the target directory");
    crate::dovecot::ensure(&cargo::target()?)?;
    Ok(())
}

fn names_package(arg: &OsStr) -> bool {
    arg == "--package" || arg.to_string_lossy().starts_with("--package=") || arg.to_string_lossy().starts_with("-p")
}

#[expect(clippy::disallowed_methods, reason = "CI=true is how a build machine says that it is one")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}
