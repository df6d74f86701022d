//! The result files: two JSON Lines files that are replaced at the end of a run, and the schema of the first.
//!
//! They are written under temporary names, synced to disk, then renamed: readers see the old or the new files. A killed run
//! changes nothing and leaves its temporary files, which the next run removes. A lock file ensures one run at a time.

use crate::kind::Kind;
use lorchestra_plugin_api::{serde_json, tracing};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Suffix of temporary files: `.<name>.<random>.unfinished`.
const UNFINISHED: &str = ".unfinished";

/// Why the results could not be written. The previous results are unchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("{}: another run is writing to this directory; wait for it to end, then run the job again", .0.display())]
    Busy(PathBuf),
    #[error("{}: {doing} failed; the previous results are unchanged", .path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
}

/// The files of a run. They are removed if this is dropped before [`commit`](Self::commit).
pub(crate) struct Output {
    dir: PathBuf,
    kind: &'static Kind,
    results: BufWriter<NamedTempFile>,
    set_aside: BufWriter<NamedTempFile>,
    /// Held until the end.
    _lock: File,
}

impl Output {
    /// Creates the files of a run in an existing directory.
    pub(crate) fn begin(dir: &Path, kind: &'static Kind) -> Result<Self, OutputError> {
        let lock = lock(&dir.join(kind.lock))?;
        remove_unfinished(dir, kind).map_err(|source| failed(dir, "removing the files of a killed run", source))?;
        let (results, set_aside) = (start(dir, kind.results)?, start(dir, kind.set_aside)?);
        Ok(Self { dir: dir.to_owned(), kind, results, set_aside, _lock: lock })
    }

    /// Appends an object.
    pub(crate) fn result(&mut self, object: &impl Serialize) -> Result<(), OutputError> {
        line(&mut self.results, object).map_err(|source| failed(&self.dir.join(self.kind.results), "writing", source))
    }

    /// Appends an object that is already JSON.
    pub(crate) fn result_json(&mut self, object: &[u8]) -> Result<(), OutputError> {
        let written = self.results.write_all(object).and_then(|()| self.results.write_all(b"\n"));
        written.map_err(|source| failed(&self.dir.join(self.kind.results), "writing", source))
    }

    /// Appends a line that was set aside.
    pub(crate) fn set_aside(&mut self, row: &impl Serialize) -> Result<(), OutputError> {
        line(&mut self.set_aside, row).map_err(|source| failed(&self.dir.join(self.kind.set_aside), "writing", source))
    }

    /// Returns whether there are objects of an earlier run.
    pub(crate) fn replaces_something(&self) -> bool {
        fs::metadata(self.dir.join(self.kind.results)).is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Puts the files in place, durably. Returns the path of the objects.
    ///
    /// The objects come last, so that they never appear without their schema and the lines set aside. Everything that can fail
    /// for lack of disk space is done before the first rename.
    pub(crate) fn commit(self) -> Result<PathBuf, OutputError> {
        let Self { dir, kind, results, set_aside, _lock } = self;
        let mut schema = start(&dir, kind.schema_file)?;
        schema.write_all(kind.schema.as_bytes()).map_err(|source| failed(&dir.join(kind.schema_file), "writing", source))?;
        let finish = |writer: BufWriter<NamedTempFile>, name: &str| {
            let path = dir.join(name);
            let file = writer.into_inner().map_err(|e| failed(&path, "writing", e.into_error()))?;
            file.as_file().sync_all().map_err(|source| failed(&path, "syncing it to disk", source))?;
            Ok((file, path))
        };
        let finished = [finish(schema, kind.schema_file)?, finish(set_aside, kind.set_aside)?, finish(results, kind.results)?];
        for (file, path) in finished {
            file.persist(&path).map_err(|e| failed(&path, "replacing it", e.error))?;
        }
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|source| failed(&dir, "syncing it to disk", source))?;
        Ok(dir.join(kind.results))
    }
}

fn start(dir: &Path, name: &str) -> Result<BufWriter<NamedTempFile>, OutputError> {
    // tempfile creates files with mode 0600.
    let file = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(UNFINISHED).tempfile_in(dir);
    Ok(BufWriter::with_capacity(256 << 10, file.map_err(|source| failed(&dir.join(name), "making it", source))?))
}

fn failed(path: &Path, doing: &'static str, source: io::Error) -> OutputError {
    OutputError::Io { path: path.to_owned(), doing, source }
}

fn line(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

fn lock(path: &Path) -> Result<File, OutputError> {
    let file = package_support::lock::open(path).map_err(|source| failed(path, "opening it", source))?;
    match package_support::lock::acquire(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(OutputError::Busy(path.to_owned())),
        Err(source) => Err(failed(path, "locking it", source)),
    }
}

/// Safe because of the lock: the process that wrote them is dead.
fn remove_unfinished(dir: &Path, kind: &Kind) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = [kind.results, kind.set_aside, kind.schema_file];
        if name.ends_with(UNFINISHED) && ours.iter().any(|ours| name.starts_with(&format!(".{ours}."))) {
            fs::remove_file(entry.path())?;
            tracing::warn!("removed a temporary file left by a killed run");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{EMAIL, MESSAGE};
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_atomically_with_private_modes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(EMAIL.results), "old\n").unwrap();
        let mut output = Output::begin(dir.path(), &EMAIL).unwrap();
        output.result(&1).unwrap();
        output.set_aside(&"x").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(EMAIL.results)).unwrap(), "old\n");
        let path = output.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(dir.path().join(EMAIL.set_aside)).unwrap(), "\"x\"\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), [".canonicalize_email.lock", "email.jsonl", "email.schema.json", "set_aside.jsonl"]);
    }

    #[test]
    fn a_run_that_fails_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(EMAIL.results), "old\n").unwrap();
        let mut output = Output::begin(dir.path(), &EMAIL).unwrap();
        output.result(&1).unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(dir.path().join(EMAIL.results)).unwrap(), "old\n");
        assert_eq!(names(dir.path()), [".canonicalize_email.lock", "email.jsonl"]);
    }

    #[test]
    fn only_temporary_files_of_killed_runs_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            ".email.jsonl.abc.unfinished",
            ".email.schema.json.x.unfinished",
            ".message.jsonl.x.unfinished",
            ".other.unfinished",
            ".set_aside.jsonl.x.unfinished",
            "email.jsonl.unfinished",
        ] {
            fs::write(dir.path().join(name), "half").unwrap();
        }
        Output::begin(dir.path(), &EMAIL).unwrap().commit().unwrap();
        assert_eq!(
            names(dir.path()),
            [
                ".canonicalize_email.lock",
                ".message.jsonl.x.unfinished",
                ".other.unfinished",
                "email.jsonl",
                "email.jsonl.unfinished",
                "email.schema.json",
                "set_aside.jsonl"
            ]
        );
    }

    #[test]
    fn a_second_run_fails() {
        let dir = tempfile::tempdir().unwrap();
        let first = Output::begin(dir.path(), &EMAIL).unwrap();
        assert!(matches!(Output::begin(dir.path(), &EMAIL).err().unwrap(), OutputError::Busy(_)));
        assert!(Output::begin(dir.path(), &MESSAGE).is_ok(), "the other job has its own lock");
        first.commit().unwrap();
        assert!(Output::begin(dir.path(), &EMAIL).is_ok());
    }
}
