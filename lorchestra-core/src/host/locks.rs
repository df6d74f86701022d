//! The locks: who may run a job now, and whether a worker is still there.
//!
//! Both kinds are released by the kernel at the holder's death, whatever kills it; lock files are never unlinked (a lock on
//! an unlinked file protects nothing).
//!
//! - [`FileLock`]: flock, and close-on-exec: no worker inherits it. A supervisor holds two from before its run is recorded until
//!   after its end is: one says that it lives, in its run's spool directory, and one that it runs this job for this account
//!   ([`overlap_name`]). Of the latter there are two files: a run that excludes others takes the one for itself, and looks that
//!   nobody shares the other ([`beside_name`]); a run that was allowed beside others shares the other.
//! - [`AttemptLock`]: POSIX record lock, taken by the worker itself. Unlike flock it is not inherited by what the job forks,
//!   so that a daemon left behind cannot hold it; and it tells who holds it.

use super::files::{absent_if_not_regular, open_regular};
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{Flock, FlockType, Pid};
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Bytes of a holder's name that are read, at most: it is the id of a run.
const LONGEST_NAME: u64 = 100;

/// A lock on a file, until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock if it is free; `None` if somebody else holds or shares it.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock, waiting for it.
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

    /// Takes the lock if its file is there and free; makes none.
    pub(crate) fn try_take_existing(path: &Path) -> io::Result<Option<Self>> {
        Self::lock(open_with(path, OFlags::empty())?, FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether the file that is locked still has this name. One that was removed protects nothing.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let same = |a: Metadata, b: Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.file.metadata().is_ok_and(|held| std::fs::symlink_metadata(path).is_ok_and(|there| same(held, there)))
    }

    /// Shares the lock; `None` while somebody holds it for himself.
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

    /// Writes into the file who holds it. Should that fail, [`named`](Self::named) names somebody who is gone.
    pub fn name(&self, holder: &str) {
        if let Err(error) = self.file.write_all_at(holder.as_bytes(), 0).and_then(|()| self.file.set_len(holder.len() as u64)) {
            tracing::debug!(%error, "a lock does not name its holder");
        }
    }

    /// Who wrote its name last: the holder, or one that is gone where the holder has not come to it yet.
    pub fn named(path: &Path) -> Option<String> {
        let mut holder = String::new();
        crate::host::files::regular_file(path).ok()?.take(LONGEST_NAME).read_to_string(&mut holder).ok()?;
        Some(holder).filter(|holder| !holder.is_empty())
    }
}

/// Name of the file that runs share which were allowed beside others of their key. No package's name has a `+`.
pub fn beside_name(package: &str, job: &str, account: Option<&str>) -> String {
    format!("beside+{}", overlap_name(package, job, account))
}

/// Name of the overlap lock's file: `<package>.<job>.<account or ->`.
///
/// An account is any text: what is not a letter, a digit or one of `_@.+-` is written as `%XX`, and one that would not fit
/// into a file name is its sha256. Package and job names have no dot, so two keys never share a file.
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

/// A worker's sign of life, until its process ends.
#[derive(Debug)]
pub struct AttemptLock {
    _file: File,
}

impl AttemptLock {
    /// Takes the lock for this process. Fails if another process has it: there is one worker to an attempt.
    pub fn take(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { _file: file })
    }

    /// Who holds the lock, if anybody does.
    pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
        let file = match open_with(path, OFlags::empty()) {
            Ok(file) => file,
            Err(e) if is_none(&e) => return Ok(None),
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
    /// A process of another PID namespace, which has no number here.
    Elsewhere,
}

/// Whether an error of a lock's file says that there is none: nothing, or what is no file, which a job may have put in its place and on
/// which nobody holds anything.
pub(crate) fn is_none(error: &io::Error) -> bool {
    let kind = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory);
    // A socket, or a device that is not there.
    kind || error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

fn open(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::CREATE)
}

/// Also what keeps whoever opens it waiting, or is another process's terminal, is told at once: it is no file.
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
    fn those_who_share_keep_out_who_does_not() {
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

    /// A job may put anything in the place of a lock.
    #[test]
    fn what_is_no_file_is_nobodys_lock() {
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
            assert!(FileLock::try_take(&at(name)).is_err_and(|error| is_none(&error)), "{name}");
        }
    }

    #[test]
    fn a_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(FileLock::named(&path), None);
        for name in ["a long name", "short"] {
            FileLock::try_take(&path).unwrap().unwrap().name(name);
            assert_eq!(FileLock::named(&path).as_deref(), Some(name));
        }
    }

    /// What a job leaves behind has all the descriptors of its worker, and must not seem to be that worker.
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
        assert!(lives, "it was there all the time");
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
