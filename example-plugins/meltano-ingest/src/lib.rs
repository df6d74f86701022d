//! Job package `meltano-ingest`: runs a Singer tap and keeps what it sends, as JSON Lines in the package's data directory.
//!
//! Two jobs: `run_tap`, and `discover`, which asks a tap for its catalog. The way of the data:
//!
//! ```text
//! tap (a process) ─► output (lines, and idle_time) ─► message ─► ingestion: counts and events
//!                                                                  │
//!                      archive: state.json, locked ◄───────────────┤
//!                         └─► stream (versions) ─► appender (<stream>.jsonl)
//! ```
//!
//! A STATE of the tap is the end of a transaction: it is kept only when all records before it are on the disk, and what was
//! written after the last kept one is cut off again. So a run that ends in any way leaves the records up to a state, and the
//! next one goes on from there.
//!
//! Records stay in the files: events, traces and errors carry counts, places and reasons, never a value of a record, a state
//! or a config.
#![forbid(unsafe_code)]

mod appender;
mod archive;
mod checkpoint;
mod diagnosis;
mod discover_job;
mod ingestion;
mod message;
mod name;
mod output;
mod schema;
mod stream;
mod tap;
mod tap_job;

pub use discover_job::discover;
pub use tap_job::run_tap;

lorchestra_plugin_api::plugin! { package = "meltano-ingest", jobs = [discover, run_tap] }
