//! File locks: they decide who may run a job now, and show whether a worker is alive.
//!
//! The kernel releases both kinds when their holder dies, however it dies. Lock files are never unlinked, because a lock on an unlinked
//! file protects nothing. The exception are the files of single windows, of which there may be thousands: their holder removes the file
//! before it releases the lock, and a process that takes the lock checks that the file is still there ([`FileLock::try_take_at`]).
//!
//! - [`FileLock`]: flock, close-on-exec, so no worker inherits it. A supervisor holds two, from before its run is recorded until after its
//!   end is. One, in the run's spool directory, shows that the supervisor is alive; the other shows that it runs this job for this account
//!   ([`overlap_name`]). The latter uses two files. An exclusive run locks the first exclusively and checks that no run shares the second
//!   ([`shared_name`]); a run with overlap policy `allow` takes a shared lock on the second.
//! - [`AttemptLock`]: a POSIX record lock that the worker itself takes. Unlike flock, the job's children do not inherit it, so a leftover
//!   daemon cannot hold it; and the kernel reports its holder.

use super::files::{absent_if_not_regular, open_regular};
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{Flock, FlockType, Pid};
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Maximum number of bytes to read of a holder's name, which is a run id.
const LONGEST_NAME: u64 = 100;

/// A lock on a file, until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock if it is free; `None` if someone else holds or shares it.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Like [`try_take`](Self::try_take), for a file that its holder removes: takes the lock of the file that has this path now.
    pub fn try_take_at(path: &Path) -> io::Result<Option<Self>> {
        loop {
            match Self::try_take(path)? {
                Some(lock) if !lock.is_at(path) => {}
                taken => return Ok(taken),
            }
        }
    }

    /// Takes the lock, and waits for it.
    pub fn take(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes the lock if its file exists and is free; does not create the file.
    pub(crate) fn try_take_existing(path: &Path) -> io::Result<Option<Self>> {
        Self::lock(open_with(path, OFlags::empty())?, FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether the locked file still has this path. A lock on a removed file protects nothing.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let same = |a: Metadata, b: Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.file.metadata().is_ok_and(|held| std::fs::symlink_metadata(path).is_ok_and(|there| same(held, there)))
    }

    /// Takes a shared lock; `None` while someone holds it exclusively.
    pub fn try_share(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockShared)
    }

    fn attempt(path: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        Self::lock(open(path)?, operation)
    }

    fn lock(file: File, operation: FlockOperation) -> io::Result<Option<Self>> {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes the holder's name into the file. If that fails, [`read_holder`](Self::read_holder) returns an earlier holder.
    pub fn write_holder(&self, holder: &str) {
        if let Err(error) = self.file.write_all_at(holder.as_bytes(), 0).and_then(|()| self.file.set_len(holder.len() as u64)) {
            tracing::debug!(%error, "cannot write the holder's name into a lock");
        }
    }

    /// Returns the name written last: the holder's, or an earlier one if the holder has not written its name yet.
    pub fn read_holder(path: &Path) -> Option<String> {
        let mut holder = String::new();
        crate::host::files::regular_file(path).ok()?.take(LONGEST_NAME).read_to_string(&mut holder).ok()?;
        Some(holder).filter(|holder| !holder.is_empty())
    }
}

/// Whether someone holds the lock of an existing file, also for a process that may only read the file.
pub(crate) fn is_held(path: &Path) -> bool {
    let file = open_regular(path, OFlags::RDONLY);
    file.is_ok_and(|file| matches!(FileLock::lock(file, FlockOperation::NonBlockingLockShared), Ok(None)))
}

/// Name of the lock file that concurrent runs of one key share (overlap policy `allow`). No package name contains a `+`.
pub fn shared_name(overlap_name: &str) -> String {
    format!("shared+{overlap_name}")
}

/// Name of the lock file of one window: that of job and account, and a hash of what distinguishes the window. No account is written with
/// `%window`.
pub(crate) fn window_name(overlap_name: &str, window: &str) -> String {
    let hash = hex(&Sha256::digest(window));
    format!("{overlap_name}%window-{}", &hash[..32])
}

/// Name of the overlap lock's file: `<package>.<job>.<account or ->`.
///
/// An account is any text. Bytes other than letters, digits and `_@.+-` are written as `%XX`; an account too long for a file name is
/// replaced by its SHA-256. Package and job names have no dot, so two keys never share a file.
pub fn overlap_name(package: &str, job: &str, account: Option<&str>) -> String {
    let account = match account {
        None => "-".to_owned(),
        Some("-") => "%2D".to_owned(),
        Some(text) => {
            let mut name = String::new();
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() || b"_@.+-".contains(&byte) {
                    name.push(byte.into());
                } else {
                    name.push_str(&format!("%{byte:02X}"));
                }
            }
            if name.len() > 100 { format!("%sha256-{}", hex(&Sha256::digest(text))) } else { name }
        }
    };
    format!("{package}.{job}.{account}")
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Shows that a worker is alive: held until its process ends.
#[derive(Debug)]
pub struct AttemptLock {
    _file: File,
}

impl AttemptLock {
    /// Takes the lock for this process. Fails if another process holds it: an attempt has one worker.
    pub fn take(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { _file: file })
    }

    /// Returns the process that holds the lock, if any.
    pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
        let file = match open_with(path, OFlags::empty()) {
            Ok(file) => file,
            Err(e) if means_unlocked(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let wanted = Flock::from(FlockType::WriteLock);
        let held = rustix::process::fcntl_getlk(&file, &wanted)?;
        Ok(held.map(|held| held.pid.map_or(Holder::Elsewhere, Holder::Process)))
    }
}

/// Who holds an [`AttemptLock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process(Pid),
    /// A process of another PID namespace, which has no pid here.
    Elsewhere,
}

/// Whether an error when opening a lock file means that no lock is held: the file is missing, or something else, which a job may have put
/// in its place and on which no one holds a lock.
pub(crate) fn means_unlocked(error: &io::Error) -> bool {
    let kind = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory);
    // A socket, or a device that does not exist.
    kind || error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::CREATE)
}

/// Fails at once for a file that would block, or for another process's terminal: neither is a lock file.
fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    open_regular(path, flags | OFlags::RDWR).map_err(absent_if_not_regular)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.b.-");
        let held = FileLock::try_take(&path).unwrap().unwrap();
        assert!(FileLock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_seen_by_a_process_that_cannot_take_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(!is_held(&path) && !path.exists(), "no file, and none is made");
        let held = FileLock::try_take(&path).unwrap().unwrap();
        assert!(is_held(&path));
        drop(held);
        assert!(!is_held(&path));
        assert!(FileLock::try_take(&path).unwrap().is_some(), "looking left no lock");
    }

    #[test]
    fn a_shared_lock_excludes_an_exclusive_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let share = || FileLock::try_share(&path).unwrap();
        let (one, two) = (share().unwrap(), share().unwrap());
        drop(one);
        assert!(FileLock::try_take(&path).unwrap().is_none());
        drop(two);
        let taken = FileLock::try_take(&path).unwrap();
        assert!(taken.is_some() && share().is_none());
    }

    /// A job may have created anything in place of the lock file.
    #[test]
    fn a_path_that_is_not_a_file_is_not_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("dir")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        std::os::unix::fs::symlink("/dev/tty", at("tty")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for name in ["dir", "fifo", "tty", "nothing", "file/below"] {
            assert!(matches!(AttemptLock::holder(&at(name)), Ok(None)), "{name}");
        }
        for name in ["dir", "fifo"] {
            assert!(FileLock::try_take(&at(name)).is_err_and(|error| means_unlocked(&error)), "{name}");
        }
    }

    #[test]
    fn the_holder_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(FileLock::read_holder(&path), None);
        for name in ["a long name", "short"] {
            FileLock::try_take(&path).unwrap().unwrap().write_holder(name);
            assert_eq!(FileLock::read_holder(&path).as_deref(), Some(name));
        }
    }

    /// A process that a job leaves behind has all of its worker's descriptors, and must not be taken for that worker.
    #[test]
    fn a_child_that_has_the_descriptor_does_not_hold_an_attempts_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.lock");
        let lock = AttemptLock::take(&path).unwrap();
        let shared = lock._file.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep").arg("300").stdin(shared).spawn().unwrap();
        drop(lock);
        let held = (AttemptLock::holder(&path).unwrap(), AttemptLock::take(&path).map(drop));
        let lives = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(lives, "it was held all the time");
        assert!(matches!(held, (None, Ok(()))), "{held:?}");
    }

    #[test]
    fn different_accounts_never_share_a_file() {
        let long = "x".repeat(300);
        let longer = "x".repeat(301);
        let accounts =
            [None, Some("-"), Some(""), Some("a/b"), Some("a%2Fb"), Some(".."), Some("ä"), Some(&*long), Some(&*longer)];
        let names: std::collections::BTreeSet<_> = accounts.iter().map(|a| overlap_name("p", "j", *a)).collect();
        assert_eq!(names.len(), accounts.len(), "{names:?}");
        assert!(names.iter().all(|n| n.len() < 255 && !n.contains('/')), "{names:?}");
    }
}
