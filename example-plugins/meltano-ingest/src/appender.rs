//! A file to which lines are appended, and which can be truncated again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size of the write buffer, in bytes.
const GATHERED: usize = 128 << 10;

/// A file with a buffer of lines to append.
#[derive(Debug)]
pub(crate) struct Appender {
    path: PathBuf,
    /// Open, unless it was [released](Self::release).
    file: Option<File>,
    /// Length of the file, in bytes.
    written: u64,
    buffer: Vec<u8>,
    /// Whether bytes were written that may not be on disk yet.
    unsynced: bool,
    /// Whether a sync has failed. The system reports lost writes only once: a second sync would succeed without them.
    is_lost: bool,
}

impl Appender {
    /// Opens or creates the file (mode 0600), and truncates it to `len` bytes. Also returns the number of removed bytes. The
    /// inner error is the length of a file that is shorter than `len`.
    pub(crate) fn open(path: PathBuf, len: u64) -> io::Result<Result<(Self, u64), u64>> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let found = file.metadata()?.len();
        if found < len {
            return Ok(Err(found));
        }
        if found > len {
            file.set_len(len)?;
        }
        let appender = Self { path, file: Some(file), written: len, buffer: Vec::new(), unsynced: found > len, is_lost: false };
        Ok(Ok((appender, found - len)))
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Updates the path after a rename.
    pub(crate) fn renamed(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Returns the length of the file, including buffered lines.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends a line and a line break.
    pub(crate) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
        if self.buffer.len() >= GATHERED { self.write_out() } else { Ok(()) }
    }

    /// Syncs all lines to disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.is_lost {
            return Err(io::Error::other("an earlier sync to disk failed"));
        }
        self.write_out()?;
        if self.unsynced {
            self.file()?.sync_data().inspect_err(|_| self.is_lost = true)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Truncates the file to `len` bytes.
    pub(crate) fn cut(&mut self, len: u64) -> io::Result<()> {
        if len >= self.written {
            // A buffer fits into memory, so its length fits into usize.
            self.buffer.truncate(usize::try_from(len - self.written).unwrap_or(usize::MAX));
            return Ok(());
        }
        self.buffer.clear();
        self.file()?.set_len(len)?;
        self.written = len;
        self.unsynced = true;
        Ok(())
    }

    /// Closes the file until it is needed again, if everything is on disk: a tap may have more streams than a process may have
    /// open files.
    pub(crate) fn release(&mut self) {
        if !self.unsynced {
            self.file = None;
        }
    }

    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).open(&self.path)?;
            let found = file.metadata()?.len();
            if found != self.written {
                let what = format!("has {found} bytes, but {} were written; another program is writing to it", self.written);
                return Err(io::Error::other(what));
            }
            self.file = Some(file);
        }
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let file = match self.file() {
            Ok(file) => file,
            Err(e) => {
                self.buffer = buffer;
                return Err(e);
            }
        };
        let mut from = 0;
        // Count partial writes on a full disk, so that they can be removed again.
        let result = loop {
            if from == buffer.len() {
                break Ok(());
            }
            match (&*file).write(&buffer[from..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => from += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.unsynced |= from > 0;
        self.written += from as u64;
        buffer.drain(..from);
        self.buffer = buffer;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_added_and_cut_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let (mut appender, cut) = Appender::open(path.clone(), 0).unwrap().unwrap();
        assert_eq!((appender.len(), cut), (0, 0));
        appender.line(b"one").unwrap();
        appender.sync().unwrap();
        appender.line(b"two").unwrap();
        assert_eq!((appender.len(), fs::read(&path).unwrap()), (8, b"one\n".to_vec()));
        appender.cut(6).unwrap();
        appender.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntw");
        appender.line(&vec![b'x'; GATHERED]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 7 + GATHERED as u64, "a full buffer is written");
        appender.line(b"y").unwrap();
        appender.cut(4).unwrap();
        appender.line(b"three").unwrap();
        appender.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\nthree\n");
    }

    #[test]
    fn a_failed_sync_is_not_retried() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        // Accepts all writes, and cannot be synced.
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let (mut appender, _) = Appender::open(path, 0).unwrap().unwrap();
        appender.line(b"one").unwrap();
        appender.sync().unwrap_err();
        appender.file = Some(tempfile::tempfile().unwrap());
        appender.sync().unwrap_err();
    }

    #[test]
    fn a_released_file_is_reopened_if_it_is_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let (mut appender, _) = Appender::open(path.clone(), 0).unwrap().unwrap();
        for line in [b"one", b"two"] {
            appender.line(line).unwrap();
            appender.sync().unwrap();
            appender.release();
            assert!(appender.file.is_none());
        }
        appender.cut(4).unwrap();
        appender.release();
        assert!(appender.file.is_some(), "not synced yet");
        appender.sync().unwrap();
        appender.release();
        assert_eq!(fs::read(&path).unwrap(), b"one\n");
        appender.line(b"three").unwrap();
        fs::write(&path, "other").unwrap();
        assert!(appender.sync().unwrap_err().to_string().contains("has 5 bytes, but 4 were written"));
    }

    #[test]
    fn a_longer_file_is_truncated_and_a_shorter_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "one\ntw").unwrap();
        let (appender, cut) = Appender::open(path.clone(), 4).unwrap().unwrap();
        assert_eq!((appender.len(), cut, fs::read(&path).unwrap()), (4, 2, b"one\n".to_vec()));
        assert_eq!(Appender::open(path, 5).unwrap().err(), Some(4));
    }
}
