//! The output and the trace of jobs, in files of bounded size. The supervisor writes the output, the worker's sink the trace, and the
//! command line reads both. Talks only to the file system.
//!
//! ```text
//! <name>             the beginning: up to half of the limit, then never changed
//! <name>.<offset>    the rest, in pieces of a quarter of the limit; only the two newest are kept
//! ```
//!
//! Up to the limit, the log is complete, byte for byte. Beyond it, the beginning and the end are kept, at least three quarters of the limit
//! together. `offset` is the position of a piece in everything written, so the file names alone show what is missing, even after the writer
//! was killed. Bytes lost to a full disk are missing too, and counted.

mod reader;

use crate::secrets::{Mask, MaskedStream};
pub use reader::{LogChunk, LogReader};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The default limit in bytes.
pub const DEFAULT_MAX: u64 = 64 << 20;
/// The smallest limit in bytes.
pub const MIN_MAX: u64 = 4 << 10;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    max: u64,
    file: File,
    /// Offset at which the open file begins.
    from: u64,
    /// Size of the open file in bytes.
    len: u64,
    /// Offsets of the existing pieces, the open one last.
    pieces: Vec<u64>,
    lost: u64,
    /// Masks secrets, if there are any.
    masked: Option<MaskedStream>,
}

/// A file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its path.
    pub path: PathBuf,
    /// Offset of its beginning in everything that was written.
    pub from: u64,
}

impl Part {
    /// Whether it has content.
    pub fn has_content(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.len() > 0)
    }

    /// Opens it for reading. Fails with [`io::ErrorKind::NotFound`] if it is gone or is not a regular file.
    pub fn open(&self) -> io::Result<File> {
        crate::host::files::regular_file(&self.path)
    }
}

impl Log {
    /// Opens a log to append to it; creates it if it is missing.
    pub(crate) fn open(path: &Path, max: u64) -> io::Result<Self> {
        let file = crate::host::files::private_file(path)?;
        let len = file.metadata()?.len();
        let mut log = Self { path: path.to_owned(), max, file, from: 0, len, pieces: Vec::new(), lost: 0, masked: None };
        if len > 0 {
            log.pieces = pieces(path)?;
            if let Some(&from) = log.pieces.last() {
                log.file = crate::host::files::private_file(&piece(path, from))?;
                (log.from, log.len) = (from, log.file.metadata()?.len());
            }
        }
        Ok(log)
    }

    /// Masks secrets in everything written from now on.
    pub(crate) fn mask(&mut self, mask: Option<Mask>) {
        self.masked = mask.map(MaskedStream::new);
    }

    /// Appends bytes. Bytes that the disk refuses are lost, because a job never waits for its log. Bytes that may be the beginning of a
    /// secret are held back until that is known, or until [`finish`](Self::finish).
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match &mut self.masked {
            None => self.append(bytes),
            Some(masked) => {
                let passed = masked.push(bytes);
                self.append(&passed);
            }
        }
    }

    /// Writes what was held back. Nothing may be written afterwards.
    pub(crate) fn finish(&mut self) {
        if let Some(mut masked) = self.masked.take() {
            self.append(&masked.finish());
        }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.room() == 0 && self.turn().is_err() {
                break;
            }
            let now = &bytes[..bytes.len().min(usize::try_from(self.room()).unwrap_or(usize::MAX))];
            match self.file.write(now) {
                Ok(n) if n > 0 => {
                    self.len += n as u64;
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.lost += bytes.len() as u64;
    }

    /// The maximum length for [`write_line`](Self::write_line): a longer line would exceed the limit.
    pub(crate) fn longest_line(&self) -> u64 {
        self.max / 4
    }

    /// Appends one line, which stays in one file.
    pub(crate) fn write_line(&mut self, line: &[u8]) {
        if self.len > 0 && line.len() as u64 > self.room() && self.turn().is_err() {
            self.lost += line.len() as u64;
            return;
        }
        match self.file.write_all(line) {
            Ok(()) => self.len += line.len() as u64,
            Err(_) => self.lost += line.len() as u64,
        }
    }

    /// Number of bytes that could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Number of bytes that still fit into the open file.
    fn room(&self) -> u64 {
        let limit = if self.pieces.is_empty() { self.max / 2 } else { self.max / 4 };
        limit.saturating_sub(self.len)
    }

    /// Begins the next piece; of the earlier ones only the newest is kept.
    fn turn(&mut self) -> io::Result<()> {
        let from = self.from + self.len;
        // Remove the old one first, to free its space.
        while self.pieces.len() > 1 {
            match fs::remove_file(piece(&self.path, self.pieces[0])) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => drop(self.pieces.remove(0)),
            }
        }
        self.file = crate::host::files::private_file(&piece(&self.path, from))?;
        self.pieces.push(from);
        (self.from, self.len) = (from, 0);
        Ok(())
    }
}

/// Returns the files of a log, in order; empty if there is no log. A file may be gone by the time it is opened, because its run continues.
/// Skips anything that is not a file: a job may write to the directory of its logs.
pub fn parts(path: &Path) -> io::Result<Vec<Part>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let pieces = pieces(path)?.into_iter().map(|from| Part { path: piece(path, from), from });
    let all = [Part { path: path.to_owned(), from: 0 }].into_iter().chain(pieces);
    Ok(all.filter(|part| fs::metadata(&part.path).is_ok_and(|meta| meta.is_file())).collect())
}

/// Returns the last bytes of a log, at most `most`: from the newest file, and from the one before it if the newest has just begun.
pub fn tail(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let parts = parts(path)?;
    for part in &parts[parts.len().saturating_sub(2)..] {
        let mut file = part.open()?;
        let from = file.metadata()?.len().saturating_sub(most as u64);
        file.seek(SeekFrom::Start(from))?;
        file.take(most as u64).read_to_end(&mut tail)?;
    }
    tail.drain(..tail.len().saturating_sub(most));
    Ok(tail)
}

/// Removes the pieces of a log that is about to be started over.
pub(crate) fn remove_pieces(path: &Path) -> io::Result<()> {
    pieces(path)?.into_iter().try_for_each(|from| crate::host::files::remove_any(&piece(path, from)))
}

fn piece(path: &Path, from: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{from}"));
    name.into()
}

/// Returns the offsets of the existing pieces.
fn pieces(path: &Path) -> io::Result<Vec<u64>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?.file_name();
        let from = entry.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.'));
        found.extend(from.and_then(|from| from.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u64 = MIN_MAX;

    /// Returns the offset and the bytes of each part.
    fn read(path: &Path) -> Vec<(u64, Vec<u8>)> {
        parts(path).unwrap().into_iter().map(|part| (part.from, fs::read(part.path).unwrap())).collect()
    }

    fn numbered(bytes: usize) -> Vec<u8> {
        (0u32..).flat_map(|n| format!("{n}\n").into_bytes()).take(bytes).collect()
    }

    #[test]
    fn a_log_is_complete_up_to_the_limit_and_one_byte_more_removes_a_quarter() {
        for (bytes, from) in [(0, vec![0]), (1, vec![0]), (2048, vec![0]), (2049, vec![0, 2048]), (4096, vec![0, 2048, 3072])] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("1.out");
            let all = numbered(bytes);
            let mut log = Log::open(&path, MAX).unwrap();
            log.write(&all);
            let parts = read(&path);
            assert_eq!(parts.iter().map(|(from, _)| *from).collect::<Vec<_>>(), from, "{bytes} bytes");
            assert_eq!(parts.concat_bytes(), all);
            if bytes == 4096 {
                log.write(b"x");
                let parts = read(&path);
                assert_eq!(parts.iter().map(|(from, _)| *from).collect::<Vec<_>>(), [0, 3072, 4096]);
                assert_eq!(parts.concat_bytes(), [&all[..2048], &all[3072..], b"x"].concat());
            }
        }
    }

    trait Bytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl Bytes for Vec<(u64, Vec<u8>)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
        }
    }

    #[test]
    fn a_line_of_any_length_stays_in_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        let mut log = Log::open(&path, MAX).unwrap();
        let lines: Vec<Vec<u8>> = (0..40).map(|n| format!("{n} {}\n", "x".repeat(n * 37)).into_bytes()).collect();
        let long = [vec![b'y'; 9000], b"\n".to_vec()].concat();
        lines.iter().chain([&long]).for_each(|line| log.write_line(line));
        for (_, bytes) in read(&path) {
            assert_eq!(bytes.last(), Some(&b'\n'));
            assert!(bytes.split_inclusive(|&b| b == b'\n').all(|line| line == long || lines.iter().any(|known| known == line)));
        }
    }

    #[test]
    fn bytes_that_the_disk_refuses_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("1.out"), MAX).unwrap();
        log.file = File::options().append(true).open("/dev/full").unwrap();
        log.write(b"12345");
        log.write_line(b"67\n");
        assert_eq!(log.lost(), 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_part_has_the_bytes_written_at_its_offset(writes in prop::collection::vec((0_usize..3000, any::<bool>()), 0..12)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("1.out");
            let all = numbered(writes.iter().map(|(n, _)| n).sum());
            let mut log = Log::open(&path, MAX).unwrap();
            let mut at = 0;
            for (n, reopened) in writes {
                log.write(&all[at..at + n]);
                at += n;
                if reopened {
                    log = Log::open(&path, MAX).unwrap();
                }
            }
            let parts = read(&path);
            let kept: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert!(kept as u64 <= MAX && kept >= all.len().min(MAX as usize * 3 / 4));
            prop_assert!(all.len() as u64 > MAX || kept == all.len());
            for (from, bytes) in &parts {
                let from = *from as usize;
                prop_assert_eq!(bytes, &all[from..from + bytes.len()]);
            }
            let (from, last) = &parts[parts.len() - 1];
            prop_assert_eq!(*from as usize + last.len(), all.len(), "the end is there");
        }
    }
}
