//! The input: finds the files and reads their lines one at a time.

use crate::kind::Kind;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Maximum length of a line, in bytes. The longest line of ingester contains a message of 64 MiB in base64, and fields from a
/// header of 1 MiB.
pub(crate) const MAX_LINE: usize = 104 << 20;

/// Why the input cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error(
        "there is no {} to canonicalize in {}; run {} first, or set --input to a file", .kind.subject, .path.display(), .kind.extractor
    )]
    NothingExtracted { path: PathBuf, kind: &'static Kind },
    #[error("{}: no such file or directory; set --input to a JSON Lines file", .0.display())]
    Missing(PathBuf),
    #[error("{}: is neither a file nor a directory; set --input to a JSON Lines file", .0.display())]
    Kind(PathBuf),
    #[error(
        "{}: there is no *.jsonl file in this directory; set --input to a file written by {}", .path.display(), .kind.extractor
    )]
    EmptyDirectory { path: PathBuf, kind: &'static Kind },
    #[error("{}: cannot open it; check that the user running the job may read it", .path.display())]
    Denied { path: PathBuf, source: io::Error },
    #[error("{}: reading failed; the previous results are unchanged", .path.display())]
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

/// Returns the files to read, sorted: `input`, or the files in it, or those in `default`.
pub(crate) fn find(kind: &'static Kind, input: Option<&Path>, default: &Path) -> Result<Vec<PathBuf>, InputError> {
    let Some(input) = input else {
        return match list(default) {
            Ok(files) if files.is_empty() => Err(InputError::NothingExtracted { path: default.to_owned(), kind }),
            Err(InputError::Missing(path)) => Err(InputError::NothingExtracted { path, kind }),
            other => other,
        };
    };
    let file_type = fs::metadata(input).map_err(|e| InputError::at(input, e))?.file_type();
    if file_type.is_file() {
        return Ok(vec![input.to_owned()]);
    }
    if !file_type.is_dir() {
        // Opening a pipe without a writer would block forever.
        return Err(InputError::Kind(input.to_owned()));
    }
    let files = list(input)?;
    if files.is_empty() { Err(InputError::EmptyDirectory { path: input.to_owned(), kind }) } else { Ok(files) }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, InputError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|e| InputError::at(directory, e))? {
        let path = entry.map_err(|e| InputError::at(directory, e))?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|e| e == "jsonl") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The lines of a file. One is in memory at a time, up to the limit.
pub(crate) struct Lines<R> {
    path: PathBuf,
    reader: BufReader<R>,
    number: u64,
    offset: u64,
    max: usize,
}

/// A line. Its bytes, without the line ending, are in the buffer passed by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// Line number, from 1.
    pub(crate) number: u64,
    /// Offset in the file, in bytes.
    pub(crate) offset: u64,
    /// Whether the line is complete.
    pub(crate) state: LineState,
}

/// State of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineState {
    Whole,
    /// The file ends in this line: its writer was killed, or is still writing.
    Torn,
    /// Longer than the limit; the buffer is empty.
    TooLong,
}

impl Lines<File> {
    /// Opens the lines of a file.
    pub(crate) fn open(path: &Path) -> Result<Self, InputError> {
        let file = File::open(path).map_err(|e| InputError::at(path, e))?;
        Ok(Self::with(path, file, MAX_LINE))
    }
}

impl<R: Read> Lines<R> {
    fn with(path: &Path, reader: R, max: usize) -> Self {
        Self { path: path.to_owned(), reader: BufReader::with_capacity(256 << 10, reader), number: 0, offset: 0, max }
    }

    /// Reads the next line into `line`. Returns `None` at the end.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> Result<Option<Line>, InputError> {
        line.clear();
        let failed = |path: &Path, source| InputError::Read { path: path.to_owned(), source };
        let limit = self.max as u64 + 1;
        let mut n = self.reader.by_ref().take(limit).read_until(b'\n', line).map_err(|e| failed(&self.path, e))? as u64;
        if n == 0 {
            return Ok(None);
        }
        let state = if line.ends_with(b"\n") {
            line.pop();
            LineState::Whole
        } else if n < limit {
            LineState::Torn
        } else {
            line.clear();
            n += self.reader.skip_until(b'\n').map_err(|e| failed(&self.path, e))? as u64;
            LineState::TooLong
        };
        self.number += 1;
        let offset = self.offset;
        self.offset += n;
        Ok(Some(Line { number: self.number, offset, state }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{EMAIL, MESSAGE};

    #[test]
    fn lines_of_all_kinds() {
        let text = b"one\n\n12345678\n123456789\nend\xff";
        let mut lines = Lines::with(Path::new("x"), &text[..], 8);
        let mut buffer = b"left over".to_vec();
        let mut found = Vec::new();
        while let Some(line) = lines.next(&mut buffer).unwrap() {
            found.push((line.number, line.offset, line.state, buffer.clone()));
        }
        use LineState::{TooLong, Torn, Whole};
        let expected = [
            (1, 0, Whole, b"one".to_vec()),
            (2, 4, Whole, vec![]),
            (3, 5, Whole, b"12345678".to_vec()),
            (4, 14, TooLong, vec![]),
            (5, 24, Torn, b"end\xff".to_vec()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn only_input_files_are_found_in_sorted_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.jsonl", ".hidden.jsonl", "c.json", "d.jsonl.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("e.jsonl")).unwrap();
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            files.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(find(&EMAIL, None, dir.path()).unwrap()), ["a.jsonl", "b.jsonl"]);
        assert_eq!(names(find(&EMAIL, Some(dir.path()), Path::new("/nowhere")).unwrap()), ["a.jsonl", "b.jsonl"]);
        assert_eq!(names(find(&EMAIL, Some(&dir.path().join("c.json")), dir.path()).unwrap()), ["c.json"]);
    }

    #[test]
    fn a_missing_input_names_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("mail");
        for default in [dir.path(), &missing] {
            for (kind, text) in [(&EMAIL, "no mail"), (&MESSAGE, "no chat")] {
                let error = find(kind, None, default).unwrap_err();
                let run = format!("run {} first", kind.extractor);
                assert!(error.is_permanent() && error.to_string().contains(&run) && error.to_string().contains(text), "{error}");
            }
        }
        for (input, text) in
            [(missing.as_path(), "no such file"), (dir.path(), "no *.jsonl file"), (Path::new("/dev/null"), "neither")]
        {
            let error = find(&EMAIL, Some(input), dir.path()).unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains(text), "{error}");
        }
    }
}
