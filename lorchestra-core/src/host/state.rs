//! The state directory: the paths in it, and the checks that it can be used.
//!
//! ```text
//! <state>/lorchestra.db                      the store
//! <state>/spool/<run>/<attempt>/<n>          segments of an attempt ([`crate::spool`])
//! <state>/spool/<run>/lock                   held by the run's supervisor while it is alive
//! <state>/spool/<run>/<attempt>.lock         held by the attempt's worker ([`crate::host::locks`])
//! <state>/spool/<run>/<attempt>.end          the supervisor's note on how the attempt ended, for recovery
//! <state>/spool/<run>/<attempt>.tmp/         the job's temporary files
//! <state>/spool/<run>/progress               the job's progress, once it has reported some
//! <state>/logs/<run>/<attempt>.out           what the job printed ([`crate::run::log`])
//! <state>/logs/<run>/trace.jsonl             what the job traced ([`crate::run::log`])
//! <state>/locks/<package>.<job>.<account>    the overlap lock, held by the run's supervisor; names the run
//! <state>/locks/shared+<package>.<job>.…     shared by supervisors whose overlap policy allows concurrent runs
//! <state>/locks/store                        held while the store is created or migrated
//! <state>/locks/delivery+<destination>       held by the process that delivers to it
//! ```
//!
//! Directories have mode 0700, files 0600. This module knows paths and modes, not the contents of the files.

use crate::host::files::check_writable;
use crate::host::rights;
use rustix::io::Errno;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A state directory that has been checked.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
    /// Device and inode. A copy of the directory has different ones.
    id: String,
}

/// Why a directory cannot hold the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another user owns it: locks and files of the two users would conflict.
    #[error("{path} belongs to user {owner}, and this is user {user}", path = path.display())]
    OtherUser {
        /// The directory.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// Our uid.
        user: u32,
    },
    /// It is on a network file system, where neither locks nor SQLite's shared memory work.
    #[error("{path} is on a network file system ({kind})", path = path.display())]
    Network {
        /// The directory.
        path: PathBuf,
        /// The type of the file system.
        kind: &'static str,
    },
    /// It exists and is not a directory.
    #[error("{path} is not a directory", path = path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Runs cannot be recorded in it, although it may be readable.
    #[error("{root} cannot be written", root = root.display())]
    NotWritable {
        /// The directory.
        root: PathBuf,
        /// The directory or file in it that this process may not write to, or a parent in which it cannot be created.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It cannot be created or read.
    #[error("{path} cannot be used", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl StateDir {
    /// Creates the directory if it is missing, and checks that it can hold the state.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        make_dir(root)?;
        let this = Self::check(root)?;
        for dir in ["spool", "logs", "locks"].map(|name| root.join(name)) {
            make_dir(&dir)?;
            make_private(&dir, &look(&dir)?)?;
        }
        Ok(this)
    }

    /// Returns the directory if it exists; creates nothing.
    pub fn existing(root: &Path) -> Result<Option<Self>, StateError> {
        match fs::metadata(root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(root).map(Some),
        }
    }

    /// Checks that runs can be recorded: that this process may write to everything of the state that exists.
    ///
    /// # Errors
    /// [`StateError::NotWritable`] with the first directory or file that it may not write to.
    pub fn check_writable(&self) -> Result<(), StateError> {
        let store = self.store();
        let journals = ["db-wal", "db-shm", "newest"].map(|end| store.with_extension(end));
        let dirs = [self.root.clone(), self.spools(), self.root.join("logs"), self.root.join("locks")];
        for path in dirs.into_iter().chain([store]).chain(journals) {
            match check_writable(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::NotWritable { root: self.root.clone(), path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks that a missing directory can be created with its parents.
    ///
    /// # Errors
    /// [`StateError::NotWritable`] if this process may not write to the nearest parent that exists.
    pub fn check_creatable(root: &Path) -> Result<(), StateError> {
        let parent = root.ancestors().skip(1).find(|at| at.exists()).unwrap_or(Path::new("/"));
        check_writable(parent).map_err(|source| StateError::NotWritable { root: root.to_owned(), path: root.to_owned(), source })
    }

    /// Identifies this directory on this host. It survives a rename; a copy has another id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn check(root: &Path) -> Result<Self, StateError> {
        let path = || root.to_owned();
        let meta = look(root)?;
        if !meta.is_dir() {
            return Err(StateError::NotADirectory { path: path() });
        }
        let user = rustix::process::geteuid().as_raw();
        if meta.uid() != user {
            return Err(StateError::OtherUser { path: path(), owner: meta.uid(), user });
        }
        // Not `/tmp`, which the user may have named: there only the directories that we create in it are ours.
        if rights::is_ours(root) || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none()) {
            make_private(root, &meta)?;
        }
        let fs = rustix::fs::statfs(root).map_err(|e| StateError::Io { path: path(), source: e.into() })?;
        match network(fs.f_type) {
            Some(kind) => Err(StateError::Network { path: path(), kind }),
            None => Ok(Self { root: path(), id: format!("{:x}.{:x}", meta.dev(), meta.ino()) }),
        }
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.root.join("lorchestra.db")
    }

    /// Parent directory of the spools of all runs.
    pub fn spools(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Directory of a run's spools.
    pub fn run_spool(&self, run_id: &str) -> PathBuf {
        self.spools().join(run_id)
    }

    /// The lock that a run's supervisor holds.
    pub fn run_lock(&self, run_id: &str) -> PathBuf {
        self.run_spool(run_id).join("lock")
    }

    /// Spool of an attempt.
    pub fn attempt_spool(&self, run_id: &str, attempt: u32) -> PathBuf {
        self.run_spool(run_id).join(attempt.to_string())
    }

    /// The lock that an attempt's worker holds.
    pub fn attempt_lock(&self, run_id: &str, attempt: u32) -> PathBuf {
        self.run_spool(run_id).join(format!("{attempt}.lock"))
    }

    /// The supervisor's note on how an attempt ended.
    pub fn attempt_note(&self, run_id: &str, attempt: u32) -> PathBuf {
        self.run_spool(run_id).join(format!("{attempt}.end"))
    }

    /// The directory for an attempt's temporary files.
    pub fn attempt_temp(&self, run_id: &str, attempt: u32) -> PathBuf {
        self.run_spool(run_id).join(format!("{attempt}.tmp"))
    }

    /// The file with the progress of a run's job.
    pub fn progress(&self, run_id: &str) -> PathBuf {
        self.run_spool(run_id).join("progress")
    }

    /// Directory of a run's logs.
    pub fn run_logs(&self, run_id: &str) -> PathBuf {
        self.root.join("logs").join(run_id)
    }

    /// The file with an attempt's output, stdout and stderr combined.
    pub fn output(&self, run_id: &str, attempt: u32) -> PathBuf {
        self.run_logs(run_id).join(format!("{attempt}.out"))
    }

    /// The file with a run's trace, one JSON object per line.
    pub fn trace(&self, run_id: &str) -> PathBuf {
        self.run_logs(run_id).join("trace.jsonl")
    }

    /// The path of a lock file.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }
}

/// Creates a directory and its parents with mode 0700. Succeeds if it exists.
pub(crate) fn make_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        if source.raw_os_error() == Some(Errno::EXIST.raw_os_error()) {
            StateError::NotADirectory { path: path.to_owned() }
        } else {
            StateError::Io { path: path.to_owned(), source }
        }
    })
}

fn look(path: &Path) -> Result<Metadata, StateError> {
    fs::metadata(path).map_err(|source| StateError::Io { path: path.to_owned(), source })
}

/// Makes a directory of ours private. It was created before lorchestra used it, or a job opened it to others, who could read personal data
/// or replace the files in it.
fn make_private(path: &Path, meta: &Metadata) -> Result<(), StateError> {
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 == 0 || meta.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let private = fs::Permissions::from_mode(mode & !0o077);
    fs::set_permissions(path, private).map_err(|source| StateError::Io { path: path.to_owned(), source })
}

/// The network file system with this magic number in statfs(2); `None` for a local file system.
fn network(f_type: rustix::fs::FsWord) -> Option<&'static str> {
    Some(match f_type {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xfe53_4d42 => "SMB2",
        0xff53_4d42 => "CIFS",
        0x5346_414f => "AFS",
        0x00c3_6400 => "Ceph",
        0x0102_1997 => "9P",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of the kernel's headers (linux/magic.h; for the last but one fs/smb).
    #[test]
    fn network_file_systems_are_recognized() {
        let local = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x2fc1_2fc1, 0x794c_7630, 0x8584_58f6];
        assert!(local.iter().all(|f_type| network(*f_type).is_none()));
        let found: Vec<_> = [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x5346_414f, 0x00c3_6400, 0x0102_1997]
            .iter()
            .filter_map(|f_type| network(*f_type))
            .collect();
        assert_eq!(found, ["NFS", "SMB", "SMB2", "CIFS", "AFS", "Ceph", "9P"]);
    }

    #[test]
    fn the_directory_is_created_for_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        let state = StateDir::open(&root).unwrap();
        for dir in [root.clone(), state.spools(), root.join("locks")] {
            assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700, "{}", dir.display());
        }
    }

    /// A directory that existed before, or that a job has opened to everyone.
    #[test]
    fn a_directory_open_to_others_is_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("state");
        let dirs = || ["", "spool", "logs", "locks"].map(|name| root.join(name));
        StateDir::open(&root).unwrap();
        for mode in [0o777, 0o755, 0o750, 0o1777] {
            for dir in dirs() {
                fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            }
            StateDir::existing(&root).unwrap();
            for dir in dirs() {
                let now = fs::metadata(&dir).unwrap().permissions().mode() & 0o7777;
                assert_eq!(now, mode & !0o077, "{}", dir.display());
            }
        }
    }

    /// The user named a directory that others use: its mode stays, and lorchestra's directories in it are private.
    #[test]
    fn a_shared_directory_keeps_its_mode() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("shared");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("notes.txt"), "").unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o1777)).unwrap();
        for _ in 0..2 {
            StateDir::open(&root).unwrap();
            let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(["", "spool", "logs", "locks"].map(mode), [0o1777, 0o700, 0o700, 0o700]);
        }
    }

    #[test]
    fn the_error_names_a_file_in_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateDir::open(file.path()).unwrap_err();
        assert!(matches!(error, StateError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn reading_creates_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("state");
        assert!(StateDir::existing(&root).unwrap().is_none());
        assert!(!root.exists());
    }
}
