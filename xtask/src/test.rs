//! `cargo xtask test` and `cargo xtask soak`.
//!
//! End-to-end tests run the real binary and real libraries from the target directory; a test never builds. So everything is built
//! first, once, with the features that `cargo test` will use, so that nothing is compiled twice.

use crate::{Result, cargo};
use std::ffi::{OsStr, OsString};

pub(crate) fn run(args: &[OsString]) -> Result {
    cargo::build(&["--workspace"])?;
    let mut test = cargo::cargo("test")?;
    // `--workspace` would win over `-p`.
    if !args.iter().take_while(|arg| *arg != "--").any(|arg| names_package(arg)) {
        test.arg("--workspace");
    }
    // A snapshot that differs is a failure for a machine, and a `.snap.new` to look at for a person.
    if is_ci() {
        test.env("INSTA_UPDATE", "no");
    }
    cargo::run(test.args(args))
}

/// The rounds in which workers and supervisors are killed at random moments, more often than in every test run.
pub(crate) fn soak(rounds: u32) -> Result {
    cargo::build(&["--workspace"])?;
    let mut test = cargo::cargo("test")?;
    test.args(["--workspace", "--test", "killed", "--", "--nocapture"]);
    cargo::run(test.env("LORCHESTRA_TEST_ROUNDS", rounds.to_string()))
}

fn names_package(arg: &OsStr) -> bool {
    arg == "--package" || arg.to_string_lossy().starts_with("--package=") || arg.to_string_lossy().starts_with("-p")
}

#[expect(clippy::disallowed_methods, reason = "CI=true is how a build machine says that it is one")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}
