//! Job package `meltano-ingest`: runs a Singer tap and stores its records as JSON Lines or Parquet in the package's data
//! directory.
//!
//! Two jobs: `run_tap`, and `discover`, which stores a tap's catalog. Data flow:
//!
//! ```text
//! tap (a process) ─► lines (with timeouts) ─► message ─► ingestion: counts and events
//!    └─► batch files ──────────────────────────────────────────────┤
//!                      archive: state.json, locked ◄───────────────┤
//!                         └─► stream (versions) ─► record_file ─┬─► appender (<stream>.jsonl)
//!                                                               └─► parts (<stream>.00001.parquet …) ─► rows, layout
//! ```
//!
//! A STATE message of the tap ends a transaction: the state is stored only after all records before it are on disk, and records
//! after the last stored state are removed. However a run ends, it leaves the records up to a state, and the next run continues
//! from there.
//!
//! Records stay in the files: events, traces and errors contain counts, positions and reasons, but never a value of a record, a
//! state or a config.
#![forbid(unsafe_code)]

mod appender;
mod archive;
mod batch;
mod checkpoint;
mod diagnosis;
mod discover_job;
mod ingestion;
mod layout;
mod message;
mod name;
mod number;
mod parts;
mod record_file;
mod rows;
mod schema;
mod stream;
mod tap;
mod tap_job;

pub use discover_job::discover;
pub use tap_job::run_tap;

lorchestra_plugin_api::plugin! { package = "meltano-ingest", jobs = [discover, run_tap] }
