//! Files in a place where a job may have put anything: opened without waiting, removed whatever they are.

use rustix::fs::{Mode, OFlags};
use std::fs::{File, FileType};
use std::io;
use std::path::Path;

/// What has the name is no regular file. Inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("it is not a regular file")]
pub(crate) struct NotRegular(pub(crate) FileType);

/// Opens a regular file. The one place where this is done: never waits for whoever is at the other end of a FIFO, never makes a terminal the
/// process's own, never passes the file on.
///
/// # Errors
/// The system's; or it is no regular file, which is an error that no system call makes.
pub fn open_regular(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(io::Error::other(NotRegular(kind))) }
}

/// Opens a file for appending, made with mode 0600 where it is missing.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    open_regular(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
}

/// Opens a file for reading in a place where a job may have put anything: what is no regular file is as good as not there.
pub(crate) fn regular_file(path: &Path) -> io::Result<File> {
    open_regular(path, OFlags::RDONLY).map_err(absent_if_not_regular)
}

/// The error, with what is no regular file as good as not there.
pub(crate) fn absent_if_not_regular(error: io::Error) -> io::Error {
    match error.get_ref() {
        Some(inner) if inner.is::<NotRegular>() => io::Error::new(io::ErrorKind::NotFound, error),
        _ => error,
    }
}

/// Removes what is in a place where a job may have put anything; nothing there is fine.
pub(crate) fn remove_whatever(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}
