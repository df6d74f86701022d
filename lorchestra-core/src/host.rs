//! The operating system: files, locks, processes, signals, time, and the state directory.
//!
//! The lowest layer. Nothing here knows about packages, jobs or runs, except for the names of their files.

pub mod atomic_file;
pub mod backoff;
pub mod clock;
pub mod files;
pub mod limits;
pub mod locks;
pub mod process;
pub mod rights;
pub mod signals;
pub mod state;
