//! End-to-end tests: a real Temporal server, real workers and real `lorchestra run-window` processes, killed, frozen and restarted.
//!
//! `cargo xtask test temporal` builds what they need and runs them; they are not part of `.ci/run`.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod backfill;
mod endings;
mod harness;
mod large;
mod lost;
mod messages;
mod schedules;
