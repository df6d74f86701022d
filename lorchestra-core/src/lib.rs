//! The parts of lorchestra, as a library. It reads no environment variable and no home directory: everything arrives as
//! values, from the command line's settings.
//!
//! In the direction of the data:
//!
//! - [`catalog`]: what is in the plugin directories, without running any of it.
//! - [`plan`]: a run before it exists: checked parameters, absolute times.
//! - [`library`]: the bytes of one plugin, sealed, as they will be run.
//! - [`lockfile`]: which bytes of which package may run.
//! - [`install`]: libraries into a plugin directory and out of it; [`changes`]: what a new version changes for its callers.
//! - [`secrets`]: what must not get out, and the mask over what a job says.
//! - [`supervisor`]: the life of a run, in the process a person started. Never loads plugin code.
//! - [`worker`]: inside the child: the only dlopen, the sink, the job.
//! - [`spool`]: the crash-safe way from the worker to the store.
//! - [`store`]: runs, attempts and events, in SQLite.
//! - [`delivery`]: from the store to BigQuery.
//! - [`recovery`]: what a supervisor's death left open, closed by the next command.
//!
//! Below them: [`state`] (where files are), [`locks`] (who may do what now), [`log`] (what jobs print), [`signals`], [`process`] (what the
//! kernel knows of processes), [`backoff`] (how long to wait between two tries).

pub mod backoff;
pub mod catalog;
pub mod changes;
pub mod delivery;
pub mod install;
pub mod library;
pub mod lockfile;
pub mod locks;
pub mod log;
pub mod outcome;
pub mod plan;
pub mod process;
pub mod recovery;
pub mod secrets;
pub mod signals;
pub mod spool;
pub mod state;
pub mod store;
pub mod supervisor;
pub mod worker;

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a file for appending, made with mode 0600 where it is missing. Never waits: a job may have put a FIFO there.
fn private_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Opens a file for reading in a place where a job may have put anything: what keeps whoever opens it waiting (a FIFO), or never comes to
/// an end (a device), is as good as not there.
fn regular_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::NotFound, "it is not a regular file")) }
}

/// An error and its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Removes what is in a place where a job may have put anything; nothing there is fine.
fn remove_whatever(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Microseconds since 1970, now.
fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
