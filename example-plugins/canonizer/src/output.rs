//! What a run leaves: two files of JSON Lines that are replaced as a whole when all is done. Talks to the file system only.
//!
//! They are written beside the old ones under other names, brought to the disk, then renamed: whoever reads sees the old or
//! the new, and a run that is killed changes nothing but leaves its unfinished file behind, which the next run takes away.
//! One run at a time, by a lock on a file of its own.

use lorchestra_plugin_api::{serde_json, tracing};
use serde::Serialize;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use tempfile::NamedTempFile;

/// Name of the file with the Email objects.
pub(crate) const EMAIL: &str = "email.jsonl";
/// Name of the file with what could not be made one.
pub(crate) const SET_ASIDE: &str = "set_aside.jsonl";

/// Names of unfinished files: `.<name>.<random>.unfinished`.
const UNFINISHED: &str = ".unfinished";

/// Why nothing was left. The files of the last run are untouched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("{}: another run is writing here; let that one end, then run this one again", .0.display())]
    Busy(PathBuf),
    #[error("{}: {doing} failed; the results of the last run are untouched", .path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
}

/// The files of a run. Dropped before [`commit`](Self::commit), they are gone.
pub(crate) struct Output {
    dir: PathBuf,
    email: BufWriter<NamedTempFile>,
    set_aside: BufWriter<NamedTempFile>,
    /// Held until the end.
    _lock: File,
}

impl Output {
    /// Starts the files of a run in an existing directory.
    pub(crate) fn begin(dir: &Path) -> Result<Self, OutputError> {
        let lock = lock(&dir.join(".canonicalize_email.lock"))?;
        remove_unfinished(dir).map_err(|source| failed(dir, "taking away what a killed run left", source))?;
        let start = |name: &str| {
            // tempfile makes files of mode 0600.
            let file = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(UNFINISHED).tempfile_in(dir);
            Ok(BufWriter::with_capacity(256 << 10, file.map_err(|source| failed(dir, "making a file", source))?))
        };
        Ok(Self { dir: dir.to_owned(), email: start(EMAIL)?, set_aside: start(SET_ASIDE)?, _lock: lock })
    }

    /// Adds a line to the Email objects.
    pub(crate) fn email(&mut self, email: &impl Serialize) -> Result<(), OutputError> {
        line(&mut self.email, email).map_err(|source| failed(&self.dir.join(EMAIL), "writing", source))
    }

    /// Adds a line to what was set aside.
    pub(crate) fn set_aside(&mut self, row: &impl Serialize) -> Result<(), OutputError> {
        line(&mut self.set_aside, row).map_err(|source| failed(&self.dir.join(SET_ASIDE), "writing", source))
    }

    /// Puts the files in their places. After this they survive power loss. Answers with where the Email objects are.
    ///
    /// What was set aside goes first: no Email object is there without the account of those that are missing.
    pub(crate) fn commit(self) -> Result<PathBuf, OutputError> {
        let Self { dir, email, set_aside, _lock } = self;
        let finish = |writer: BufWriter<NamedTempFile>, name: &str| {
            let path = dir.join(name);
            let file = writer.into_inner().map_err(|e| failed(&path, "writing", e.into_error()))?;
            file.as_file().sync_all().map_err(|source| failed(&path, "bringing it to the disk", source))?;
            Ok((file, path))
        };
        for (file, path) in [finish(set_aside, SET_ASIDE)?, finish(email, EMAIL)?] {
            file.persist(&path).map_err(|e| failed(&path, "replacing it", e.error))?;
        }
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|source| failed(&dir, "bringing it to the disk", source))?;
        Ok(dir.join(EMAIL))
    }
}

fn failed(path: &Path, doing: &'static str, source: io::Error) -> OutputError {
    OutputError::Io { path: path.to_owned(), doing, source }
}

fn line(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

/// Waits a moment, not longer: a run that is just ending, or a process that was just started and still has our files open,
/// gives the lock back at once; a run at work keeps it for long.
fn lock(path: &Path) -> Result<File, OutputError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|source| failed(path, "opening it", source))?;
    for wait in [0, 10, 40, 150, 300] {
        sleep(Duration::from_millis(wait));
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(failed(path, "locking it", source)),
        }
    }
    Err(OutputError::Busy(path.to_owned()))
}

/// Under the lock, so that whoever wrote them is dead.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(UNFINISHED) && [EMAIL, SET_ASIDE].iter().any(|ours| name.starts_with(&format!(".{ours}."))) {
            fs::remove_file(entry.path())?;
            tracing::warn!("took away an unfinished file that a killed run had left");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_whole_private_and_at_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(EMAIL), "old\n").unwrap();
        let mut output = Output::begin(dir.path()).unwrap();
        output.email(&1).unwrap();
        output.set_aside(&"x").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(EMAIL)).unwrap(), "old\n");
        let path = output.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(dir.path().join(SET_ASIDE)).unwrap(), "\"x\"\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), [".canonicalize_email.lock", EMAIL, SET_ASIDE]);
    }

    #[test]
    fn a_run_that_fails_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(EMAIL), "old\n").unwrap();
        let mut output = Output::begin(dir.path()).unwrap();
        output.email(&1).unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(dir.path().join(EMAIL)).unwrap(), "old\n");
        assert_eq!(names(dir.path()), [".canonicalize_email.lock", EMAIL]);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            [".email.jsonl.abc.unfinished", ".set_aside.jsonl.x.unfinished", ".other.unfinished", "email.jsonl.unfinished"]
        {
            fs::write(dir.path().join(name), "half").unwrap();
        }
        Output::begin(dir.path()).unwrap().commit().unwrap();
        assert_eq!(
            names(dir.path()),
            [".canonicalize_email.lock", ".other.unfinished", EMAIL, "email.jsonl.unfinished", SET_ASIDE]
        );
    }

    #[test]
    fn a_second_run_is_told_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let first = Output::begin(dir.path()).unwrap();
        assert!(matches!(Output::begin(dir.path()).err().unwrap(), OutputError::Busy(_)));
        first.commit().unwrap();
        assert!(Output::begin(dir.path()).is_ok());
    }
}
