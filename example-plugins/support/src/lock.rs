//! The lock of a data directory: one run writes, and others fail.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Opens a lock file (0600), creating it if needed. Does not lock it.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Locks a file exclusively, and returns whether it succeeded. The lock lasts until the file is closed.
///
/// Waits for at most half a second: a run that is ending, or a process that was just started and still has our files open,
/// releases the lock quickly; a working run keeps it for hours.
pub fn acquire(file: &File) -> io::Result<bool> {
    for wait in [0, 10, 40, 150, 300] {
        sleep(Duration::from_millis(wait));
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(source),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let first = open(&path).unwrap();
        assert!(acquire(&first).unwrap());
        let second = open(&path).unwrap();
        assert!(!acquire(&second).unwrap());
        drop(first);
        assert!(acquire(&second).unwrap());
    }
}
