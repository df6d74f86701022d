//! Files at paths where a job may have created anything: opens them without blocking, and removes any kind of file.

use rustix::fs::{Mode, OFlags};
use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The path is not a regular file. Wrapped in an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("it is not a regular file")]
pub(crate) struct NotRegular(pub(crate) FileType);

/// Opens a regular file; the only place that does. Never waits for the other end of a FIFO, never makes a terminal the controlling
/// terminal, and never passes the descriptor to a child.
///
/// # Errors
/// The system's error, or `NotRegular`, which no system call returns.
pub fn open_regular(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(io::Error::other(NotRegular(kind))) }
}

/// Opens a file for appending; creates it with mode 0600 if it is missing.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    open_regular(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
}

/// Opens a file for reading at a path where a job may have created anything. Treats anything but a regular file as missing.
pub(crate) fn regular_file(path: &Path) -> io::Result<File> {
    open_regular(path, OFlags::RDONLY).map_err(absent_if_not_regular)
}

/// Maps an error so that anything but a regular file counts as missing.
pub(crate) fn absent_if_not_regular(error: io::Error) -> io::Error {
    match error.get_ref() {
        Some(inner) if inner.is::<NotRegular>() => io::Error::new(io::ErrorKind::NotFound, error),
        _ => error,
    }
}

/// Gives the owner all rights to a directory and everything below it, because a job may have taken them away.
fn make_writable(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file of any kind, or a directory, at a path where a job may have created anything. Succeeds if nothing is there.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path).or_else(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => {
                make_writable(path)?;
                std::fs::remove_dir_all(path)
            }
            _ => Err(e),
        }),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}
