//! The harness of the end-to-end tests: real parts, each test in a directory of its own.
//!
//! - [`corrupt`]: libraries that are not what they should be, made of a good one.
//! - [`bigquery`]: the servers events are delivered to: a strict fake with faults on demand, and a real emulator.
//! - [`built`]: the binary and the fixture libraries, as `cargo xtask test` built them. Tests never run cargo.
//! - [`dovecot`]: a real mail server; [`flaky_proxy`]: a way to a server that breaks half way.
//! - [`sandbox`]: a home directory, a plugin directory, a clean environment; starts `lorchestra` in it.
//! - [`running`]: a started command: signals, and waiting with a deadline that fails instead of hanging.
//! - [`ended`]: what a command that has ended left: status and both streams, with the rules that hold for all of them.
//! - [`history`]: runs and events as the store shows them.
//! - [`processes`]: what the kernel knows of processes.
//! - [`slack`]: the Web API of Slack, with faults on demand.
//! - [`small_disk`]: disks that can be full or read-only.
//! - [`lorchestra_test_setup`]: what comes from PyPI: the emulator, a Singer tap, a Singer target, an embedding model.
//!
//! Rules that every command is held to, wherever it is started from ([`ended::Ended::check`]): a failure is told in at most
//! eight lines, no escape sequence reaches a pipe, and nothing looks like a crash of lorchestra itself.

pub mod bigquery;
pub mod built;
pub mod corrupt;
pub mod dovecot;
pub mod ended;
pub mod flaky_proxy;
pub mod history;
pub mod jsonl;
pub mod processes;
pub mod running;
pub mod sandbox;
pub mod slack;
pub mod small_disk;
pub mod terminal;

pub use built::Fixture;
pub use ended::Ended;
pub use history::{Event, Run};
pub use running::Running;
pub use sandbox::Sandbox;

use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far more than it ever takes, also on a machine that is busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `done`, and fails after [`DEADLINE`].
///
/// # Panics
/// With `what`, if it did not come true.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
