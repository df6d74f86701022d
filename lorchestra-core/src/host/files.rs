//! Files at paths where a job may have created anything: opens them without blocking, and removes any kind of file. Checks whether a path can
//! be written.

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
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

/// Checks that this process may write to a file, or create files in a directory. Creates nothing that has a name.
///
/// # Errors
/// The system's error, for the effective user: no permission, a read-only file system or mount, an immutable file, no space for a file.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let is_dir = std::fs::metadata(path)?.is_dir();
    let wanted = if is_dir { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
    match rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
        // Before Linux 5.8, if effective and real user differ.
        Err(Errno::NOSYS) => rustix::fs::access(path, wanted)?,
        other => other?,
    }
    if !is_dir {
        return Ok(());
    }
    // What no mode shows: quotas, inodes, security modules. The file never has a name, and is gone when it is closed.
    match rustix::fs::open(path, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        // The file system has no such files.
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_for_writing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [dir.path(), &file] {
            check_writable(path).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(check_writable(&dir.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
