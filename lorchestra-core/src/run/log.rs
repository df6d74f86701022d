//! What a job prints and what it traces: files that do not grow without end. Written by the supervisor (output) and by the worker's sink
//! (trace), read by the command line. Talks to the file system only.
//!
//! ```text
//! <name>             the beginning: up to half of the limit, never touched again
//! <name>.<offset>    what followed, in pieces of a quarter of the limit; the two newest are there
//! ```
//!
//! Up to the limit everything is there, byte for byte. Beyond it the beginning and the end are, at least three quarters of the limit
//! together; `offset` is where a piece begins in all that was written, so that the names alone tell what is missing, also after the writer
//! was killed. What a full disk did not take is missing too, and counted.

use crate::secrets::{Mask, MaskedStream};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The limit unless another is configured, in bytes.
pub const DEFAULT_MAX: u64 = 64 << 20;
/// The smallest limit, in bytes.
pub const MIN_MAX: u64 = 4 << 10;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    max: u64,
    file: File,
    /// Where the open file begins.
    from: u64,
    /// Bytes in the open file.
    len: u64,
    /// Where the pieces begin that are there, the open one last.
    pieces: Vec<u64>,
    lost: u64,
    /// Where secrets are kept out.
    masked: Option<MaskedStream>,
}

/// A file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file.
    pub path: PathBuf,
    /// Where it begins in all that was written.
    pub from: u64,
}

impl Part {
    /// Whether there is anything in it.
    pub fn has_content(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.len() > 0)
    }

    /// Opens it for reading. [`io::ErrorKind::NotFound`] where it is gone, or no regular file.
    pub fn open(&self) -> io::Result<File> {
        crate::host::files::regular_file(&self.path)
    }
}

impl Log {
    /// Opens a log for going on at its end; made where it is missing.
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

    /// Keeps secrets out of what is written from here on.
    pub(crate) fn mask(&mut self, mask: Option<Mask>) {
        self.masked = mask.map(MaskedStream::new);
    }

    /// Appends bytes. What the disk does not take is lost: a job never waits for its log. What may be the beginning of a secret is held
    /// until it is known, or until [`finish`](Self::finish).
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match &mut self.masked {
            None => self.append(bytes),
            Some(masked) => {
                let passed = masked.push(bytes);
                self.append(&passed);
            }
        }
    }

    /// Nothing more is written.
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

    /// The longest line that [`write_line`](Self::write_line) is meant for, in bytes: one that is longer takes more than the limit.
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

    /// Bytes that were not taken by the disk.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// What the open file may still take.
    fn room(&self) -> u64 {
        let limit = if self.pieces.is_empty() { self.max / 2 } else { self.max / 4 };
        limit.saturating_sub(self.len)
    }

    /// Begins the next piece; of those before it the newest stays.
    fn turn(&mut self) -> io::Result<()> {
        let from = self.from + self.len;
        // The old one first: it makes the room.
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

/// The files of a log, in order; none where there is no log. One may be gone by the time it is opened: its run goes on. What has the name
/// of one and is no file is left out: a job may write where its logs are.
pub fn parts(path: &Path) -> io::Result<Vec<Part>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let pieces = pieces(path)?.into_iter().map(|from| Part { path: piece(path, from), from });
    let all = [Part { path: path.to_owned(), from: 0 }].into_iter().chain(pieces);
    Ok(all.filter(|part| fs::metadata(&part.path).is_ok_and(|meta| meta.is_file())).collect())
}

/// The last bytes of a log, `most` at most: of the newest file, and of the one before it where the newest has just begun.
pub(crate) fn tail(path: &Path, most: usize) -> io::Result<Vec<u8>> {
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

/// Removes the pieces of a log that is to begin anew.
pub(crate) fn remove_pieces(path: &Path) -> io::Result<()> {
    pieces(path)?.into_iter().try_for_each(|from| crate::host::files::remove_whatever(&piece(path, from)))
}

fn piece(path: &Path, from: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{from}"));
    name.into()
}

/// Where the pieces begin that are there.
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

    /// What is there of each part: where it begins, and its bytes.
    fn read(path: &Path) -> Vec<(u64, Vec<u8>)> {
        parts(path).unwrap().into_iter().map(|part| (part.from, fs::read(part.path).unwrap())).collect()
    }

    fn numbered(bytes: usize) -> Vec<u8> {
        (0u32..).flat_map(|n| format!("{n}\n").into_bytes()).take(bytes).collect()
    }

    #[test]
    fn up_to_the_limit_everything_is_there_and_one_byte_more_costs_a_quarter() {
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
    fn a_line_stays_in_one_file_however_long() {
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
    fn what_the_disk_does_not_take_is_counted() {
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
        fn what_is_there_is_what_was_written_there(writes in prop::collection::vec((0_usize..3000, any::<bool>()), 0..12)) {
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
