//! The parts of lorchestra, as a library. It reads no environment variable and no home directory: everything arrives as
//! values, from the command line's settings.
//!
//! The rooms, from the lowest: a module imports only from rooms that stand before its own in this list.
//!
//! - [`text`], [`outcome`]: vocabulary.
//! - [`host`]: files, locks, processes, signals, the state directory.
//! - [`secrets`]: what must not get out, and the mask over a job's output.
//! - [`plan`]: a run before it exists: checked parameters, absolute times.
//! - [`packages`]: what is in the plugin directories, without running any of it.
//! - [`spool`]: the crash-safe way from the worker to the store.
//! - [`store`]: runs, attempts and events, in SQLite.
//! - [`delivery`]: from the store to each destination.
//! - [`run`]: the life of a run: supervisor, worker, recovery.

pub mod delivery;
pub mod host;
pub mod outcome;
pub mod packages;
pub mod plan;
pub mod run;
pub mod secrets;
pub mod spool;
pub mod store;
pub mod text;
