//! The parts of lorchestra, as a library. It reads no environment variable and no home directory: the command line passes its settings as
//! values. One dependency does: for credentials of an external account, `google-cloud-auth` reads `AWS_*` and
//! `GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES` itself, and has no other way to be given them.
//!
//! The modules, lowest layer first. A module imports only from modules that come before it in this list.
//!
//! - [`text`], [`outcome`]: vocabulary.
//! - [`host`]: files, locks, processes, signals and the state directory.
//! - [`secrets`]: secret values, and the mask that removes them from a job's output.
//! - [`plan`]: a run before it starts: validated parameters and absolute times.
//! - [`packages`]: the contents of the plugin directories, read without running any of it.
//! - [`spool`]: the crash-safe path from the worker to the store.
//! - [`store`]: runs, attempts and events, in SQLite.
//! - [`delivery`]: from the store to each destination.
//! - [`run`]: the life of a run: supervisor, worker, recovery.
//! - [`group`]: many runs as one: which member runs when, in which process.

pub mod delivery;
pub mod group;
pub mod host;
pub mod outcome;
pub mod packages;
pub mod plan;
pub mod run;
pub mod secrets;
pub mod spool;
pub mod store;
pub mod text;
