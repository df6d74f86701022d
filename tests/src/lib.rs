//! The harness of the end-to-end tests: real parts, each test in its own directory.
//!
//! - [`corrupt`]: damaged libraries, made from a good one.
//! - [`bigquery`]: servers to deliver events to: a strict fake with faults on demand, and a real emulator.
//! - [`browser`]: a headless browser, on screens of any size.
//! - [`built`]: the binary and the fixture libraries, as `cargo xtask test` built them. Tests never run cargo.
//! - [`dovecot`]: a real mail server; [`flaky_proxy`]: a proxy that fails halfway.
//! - [`sandbox`]: a home directory, a plugin directory, a clean environment; starts `lorchestra` in it.
//! - [`running`]: a started command: signals, and waiting with a deadline that fails instead of hanging.
//! - [`ended`]: the result of a command: status and both streams, with the rules that hold for all of them.
//! - [`history`]: runs and events as the store shows them.
//! - [`processes`]: information about processes.
//! - [`schema`]: results of packages against their JSON Schema.
//! - [`slack`]: the Web API of Slack, with faults on demand.
//! - [`slurm`]: a real cluster of three nodes on this host.
//! - [`small_disk`]: disks that can be full or read-only.
//! - [`lorchestra_test_setup`]: packages from PyPI: the emulator, a Singer tap, a Singer target, an embedding model.
//!
//! Rules for every command ([`ended::Ended::check`]): a failure is reported in at most eight lines, no escape sequence reaches a pipe, and
//! nothing looks like a crash of lorchestra itself.

pub mod bigquery;
pub mod browser;
pub mod built;
pub mod corrupt;
pub mod dovecot;
pub mod ended;
pub mod flaky_proxy;
pub mod history;
pub mod jsonl;
pub mod pages;
pub mod parquet;
pub mod processes;
pub mod receiver;
pub mod running;
pub mod sandbox;
pub mod schema;
pub mod slack;
pub mod slurm;
pub mod small_disk;
pub mod terminal;

pub use built::Fixture;
pub use ended::Ended;
pub use history::{Event, Run};
pub use running::Running;
pub use sandbox::Sandbox;

use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far more than needed, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Returns the number of rounds of a test: `normally`, or LORCHESTRA_TEST_ROUNDS in a soak.
///
/// # Panics
/// If the variable is not a number.
#[expect(clippy::disallowed_methods, reason = "the environment sets the duration of a soak")]
#[must_use]
pub fn rounds(normally: u32) -> u32 {
    std::env::var("LORCHESTRA_TEST_ROUNDS").map_or(normally, |rounds| rounds.parse().expect("LORCHESTRA_TEST_ROUNDS is a number"))
}

/// Waits until `done`, and fails after [`DEADLINE`].
///
/// # Panics
/// With `what`, if it did not happen.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
