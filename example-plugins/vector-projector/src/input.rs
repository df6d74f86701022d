//! The input: finds the files and reads their lines one at a time.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Maximum length of a line, in bytes: more than canonizer writes.
pub(crate) const MAX_LINE: u64 = 128 << 20;

/// The files of canonizer that are read by default.
const DEFAULTS: [&str; 2] = ["email.jsonl", "message.jsonl"];

/// Why the input cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("there is nothing to index in {}; run canonizer/canonicalize_email first, or set --input to a file", .0.display())]
    NothingCanonical(PathBuf),
    #[error("{}: no such file; set --input to a JSON Lines file written by canonizer", .0.display())]
    Missing(PathBuf),
    #[error("{}: is not a file; set --input to JSON Lines files written by canonizer", .0.display())]
    Kind(PathBuf),
    #[error("{}: cannot open it; check that the user running the job may read it", .path.display())]
    Denied { path: PathBuf, source: io::Error },
    #[error("{}: reading failed; run the job again to continue", .path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl InputError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Read { .. })
    }

    fn at(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing(path),
            io::ErrorKind::PermissionDenied => Self::Denied { path, source: error },
            _ => Self::Read { path, source: error },
        }
    }
}

/// Returns the real paths of the files to read, without duplicates: the given ones, or those of canonizer.
pub(crate) fn find(named: &[PathBuf], canonizer: &Path) -> Result<Vec<PathBuf>, InputError> {
    let mut files = Vec::new();
    if named.is_empty() {
        for path in DEFAULTS.map(|name| canonizer.join(name)) {
            match fs::metadata(&path).map_err(|e| InputError::at(&path, e)) {
                Ok(metadata) if metadata.is_file() => files.push(path),
                Ok(_) | Err(InputError::Missing(_)) => {}
                // Not "there is nothing": it may be in a directory that this user cannot search.
                Err(error) => return Err(error),
            }
        }
        if files.is_empty() {
            return Err(InputError::NothingCanonical(canonizer.to_owned()));
        }
    }
    for path in named {
        let kind = fs::metadata(path).map_err(|e| InputError::at(path, e))?.file_type();
        if !kind.is_file() {
            // Opening a pipe without a writer would block forever.
            return Err(InputError::Kind(path.clone()));
        }
        files.push(path.clone());
    }
    let mut real = Vec::new();
    for path in files {
        let path = fs::canonicalize(&path).map_err(|e| InputError::at(&path, e))?;
        if !real.contains(&path) {
            real.push(path);
        }
    }
    Ok(real)
}

/// Returns the real path of a file that may not exist.
pub(crate) fn real(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().map(fs::canonicalize), path.file_name()) {
        (Some(Ok(dir)), Some(name)) => dir.join(name),
        _ => path,
    }
}

/// The lines of a file. One is in memory at a time.
pub(crate) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// Number of the last line, from 1.
    pub(crate) number: u64,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    /// Number of bytes read.
    pub(crate) at: u64,
}

/// State of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineState {
    Whole,
    /// The file ends in this line: its writer was killed, or is still writing.
    Torn,
    /// Longer than [`MAX_LINE`]; the buffer is empty.
    TooLong,
}

impl Lines {
    /// Opens the lines of a file.
    pub(crate) fn open(path: &Path) -> Result<Self, InputError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.map_err(|e| InputError::at(path, e))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::with_capacity(256 << 10, file), number: 0, size, at: 0 })
    }

    /// Reads the next line into `line`. Returns `None` at the end.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> Result<Option<LineState>, InputError> {
        line.clear();
        let failed = |source| InputError::Read { path: self.path.clone(), source };
        let mut n = self.reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', line).map_err(failed)? as u64;
        if n == 0 {
            return Ok(None);
        }
        let state = if line.ends_with(b"\n") {
            line.pop();
            LineState::Whole
        } else if n <= MAX_LINE {
            LineState::Torn
        } else {
            line.clear();
            n += self.reader.skip_until(b'\n').map_err(failed)? as u64;
            LineState::TooLong
        };
        self.number += 1;
        self.at += n;
        Ok(Some(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_or_given_files_without_duplicates() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(&[], dir.path()).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("run canonizer/canonicalize_email first"), "{error}");
        for name in ["email.jsonl", "message.jsonl", "set_aside.jsonl"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names = |files: Vec<PathBuf>| -> Vec<_> { files.iter().map(|f| f.file_name().unwrap().to_owned()).collect() };
        assert_eq!(names(find(&[], dir.path()).unwrap()), ["email.jsonl", "message.jsonl"]);
        let twice = [dir.path().join("set_aside.jsonl"), dir.path().join("./set_aside.jsonl")];
        assert_eq!(names(find(&twice, dir.path()).unwrap()), ["set_aside.jsonl"]);
        fs::remove_file(dir.path().join("message.jsonl")).unwrap();
        std::os::unix::fs::symlink("message.jsonl", dir.path().join("message.jsonl")).unwrap();
        let error = find(&[], dir.path()).unwrap_err();
        assert!(error.to_string().contains("message.jsonl: reading failed"), "{error}");
        for (path, text) in [(dir.path().join("no"), "no such file"), (dir.path().to_owned(), "is not a file")] {
            let error = find(&[path], dir.path()).unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn lines_and_an_incomplete_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "one\n\nend").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        let mut line = Vec::new();
        let mut found = Vec::new();
        while let Some(state) = lines.next(&mut line).unwrap() {
            found.push((lines.number, state, lines.at, String::from_utf8(line.clone()).unwrap()));
        }
        let expected = [(1, LineState::Whole, 4, "one"), (2, LineState::Whole, 5, ""), (3, LineState::Torn, 8, "end")];
        assert_eq!(found, expected.map(|(n, state, at, text)| (n, state, at, text.to_owned())));
    }
}
