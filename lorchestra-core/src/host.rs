//! What the operating system gives: files, locks, processes, signals, time, and the state directory.
//!
//! The lowest room. Nothing here knows a package, a job or a run except by the names of their files.

pub mod backoff;
pub mod clock;
pub mod files;
pub mod limits;
pub mod locks;
pub mod process;
pub mod rights;
pub mod signals;
pub mod state;
