//! The archive of an account: one JSON Lines file. [`Archive`] owns the file during a run, under an exclusive lock, and knows
//! the keys of all lines. Uses only the file system.
//!
//! Appending a line is atomic: if a run is killed while writing one, the line is the last in the file and has no line break,
//! and the next run removes it before it reads the keys. The archive keeps only the keys in memory, 32 bytes per message.

use crate::key::Key;
use base64::display::Base64Display;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use lorchestra_plugin_api::{serde_json, tracing};
use serde::{Serialize, Serializer};
use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The start of each line, so that the key can be found without parsing the line.
const LINE_START: &[u8] = br#"{"sha256":""#;

/// A message in the archive. The order of the fields is their order in the line.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    /// sha256 of the bytes, in hexadecimal. Must be first, see [`LINE_START`].
    pub(crate) sha256: Key,
    /// Message-ID without angle brackets.
    pub(crate) message_id: Option<&'a str>,
    /// Date of the message, RFC 3339 in UTC; `null` if it has no valid date.
    pub(crate) date: Option<String>,
    /// When it was received, RFC 3339 in UTC; `null` in a Maildir.
    pub(crate) received: Option<String>,
    /// Gmail's labels; for other servers, the folder and user-defined flags.
    pub(crate) labels: &'a [String],
    /// Flag letters as in a Maildir; `null` for an mbox.
    pub(crate) flags: Option<&'a str>,
    /// Size of the message in bytes.
    pub(crate) size: usize,
    /// Account of the mail.
    pub(crate) account: &'a str,
    /// Content of the message.
    #[serde(flatten)]
    pub(crate) raw: Raw<'a>,
}

/// The exact bytes of a message in the shorter of two encodings: JSON needs six bytes for a control character.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Raw<'a> {
    #[serde(rename = "raw")]
    Text(&'a str),
    /// For bytes that are not UTF-8, or shorter in base64.
    #[serde(rename = "raw_base64", serialize_with = "base64")]
    Base64(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// Chooses the encoding for these bytes.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let escapes: usize = bytes
            .iter()
            .map(|b| match b {
                b'\n' | b'\r' | b'\t' | b'"' | b'\\' | 8 | 12 => 1,
                0..0x20 => 5,
                _ => 0,
            })
            .sum();
        match std::str::from_utf8(bytes) {
            Ok(text) if escapes <= bytes.len() / 3 => Self::Text(text),
            _ => Self::Base64(bytes),
        }
    }
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::<GeneralPurpose>::new(bytes, &STANDARD))
}

/// Why an account's file cannot be used. No data was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("{}: another run is writing to this file; wait for it to end, then run the job again", .0.display())]
    Busy(PathBuf),
    #[error(
        "{}: line {line} was not written by this job; move the file away and run the job again to start a new file",
        .path.display()
    )]
    Foreign { path: PathBuf, line: u64 },
    #[error("{}: {doing} failed; messages already read are saved, run the job again to continue", .path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
}

impl ArchiveError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Foreign { .. })
    }
}

/// The file of an account, locked until this value is dropped.
pub(crate) struct Archive {
    path: PathBuf,
    file: BufWriter<File>,
    keys: HashSet<Key>,
    /// Set after a failed sync: the system would not report the lost data again.
    is_lost: bool,
}

impl Archive {
    /// Opens or creates the file (mode 0600, in a directory with mode 0700), removes an incomplete last line, and reads the
    /// keys.
    pub(crate) fn open(directory: &Path, file_name: &str) -> Result<Self, ArchiveError> {
        let path = directory.join(file_name);
        let failed = |doing| move |source| ArchiveError::Io { path: path.clone(), doing, source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed.clone()("creating its directory"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(directory.join(file_name))
            .map_err(failed.clone()("opening it"))?;
        let path = directory.join(file_name);
        lock(&file, &path)?;
        let torn = remove_incomplete_line(&mut file).map_err(failed.clone()("repairing its last line"))?;
        if torn > 0 {
            tracing::warn!(bytes = torn, "removed an incomplete last line left by a killed run");
        }
        let keys = read_keys(&mut file, &path)?;
        tracing::debug!(messages = keys.len(), "messages known from earlier runs");
        Ok(Self { path, file: BufWriter::with_capacity(256 << 10, file), keys, is_lost: false })
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the archive contains a message.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    /// Returns the number of messages.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Appends a message. It is durable only after [`finish`](Self::finish) has returned. The serialized record must start
    /// with its key, as [`Record`] does.
    pub(crate) fn append(&mut self, key: Key, record: &impl Serialize) -> Result<(), ArchiveError> {
        let written = serde_json::to_writer(&mut self.file, record).map_err(io::Error::from);
        written.and_then(|()| self.file.write_all(b"\n")).map_err(|source| self.failed("writing to it", source))?;
        self.keys.insert(key);
        Ok(())
    }

    /// Syncs appended messages to disk. After a failure, all later calls fail too, because a second `fsync` would succeed
    /// without having written the lost data.
    pub(crate) fn finish(&mut self) -> Result<(), ArchiveError> {
        const DOING: &str = "syncing it to disk";
        if self.is_lost {
            return Err(self.failed(DOING, io::Error::other("it failed earlier in this run")));
        }
        self.file.flush().map_err(|source| self.failed(DOING, source))?;
        let synced = self.file.get_ref().sync_data();
        self.is_lost = synced.is_err();
        synced.map_err(|source| self.failed(DOING, source))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> ArchiveError {
        ArchiveError::Io { path: self.path.clone(), doing, source }
    }
}

fn lock(file: &File, path: &Path) -> Result<(), ArchiveError> {
    match package_support::lock::acquire(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ArchiveError::Busy(path.to_owned())),
        Err(source) => Err(ArchiveError::Io { path: path.to_owned(), doing: "locking it", source }),
    }
}

/// Truncates the file after its last line break. Returns the number of removed bytes.
fn remove_incomplete_line(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let len = file.metadata()?.len();
    let mut end = len;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|&b| b == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < len {
        file.set_len(end)?;
    }
    Ok(len - end)
}

/// Reads the key of each line from its first bytes.
fn read_keys(file: &mut File, path: &Path) -> Result<HashSet<Key>, ArchiveError> {
    let failed = |source| ArchiveError::Io { path: path.to_owned(), doing: "reading it", source };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut keys = HashSet::new();
    let mut start = Vec::with_capacity(LINE_START.len() + Key::TEXT_LEN);
    for line in 1.. {
        start.clear();
        let n = reader.by_ref().take(start.capacity() as u64).read_until(b'\n', &mut start).map_err(failed)?;
        if n == 0 {
            break;
        }
        let key = start.strip_prefix(LINE_START).and_then(Key::parse);
        keys.insert(key.ok_or_else(|| ArchiveError::Foreign { path: path.to_owned(), line })?);
        reader.skip_until(b'\n').map_err(failed)?;
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn record(raw: &[u8]) -> Record<'_> {
        Record {
            sha256: Key::of(raw),
            message_id: Some("a@example.org"),
            date: None,
            received: None,
            labels: &[],
            flags: None,
            size: raw.len(),
            account: "default",
            raw: Raw::of(raw),
        }
    }

    fn archive(dir: &tempfile::TempDir, messages: &[&[u8]]) -> PathBuf {
        let mut archive = Archive::open(&dir.path().join("mail"), "a.jsonl").unwrap();
        for raw in messages {
            archive.append(Key::of(raw), &record(raw)).unwrap();
        }
        archive.finish().unwrap();
        archive.path().to_owned()
    }

    #[test]
    fn lines_hold_the_exact_bytes_in_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(&dir, &["Subject: ä\r\n\nNUL \0 and text.\n".as_bytes(), b"Subject: \xe4\n"]);
        insta::assert_snapshot!(fs::read_to_string(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn control_characters_do_not_make_a_line_six_times_as_long() {
        assert!(matches!(Raw::of(b"usual text\nwith \"quotes\", and a NUL\0\n"), Raw::Text(_)));
        let zeros = [0; 3000];
        assert!(serde_json::to_string(&Raw::of(&zeros)).unwrap().len() < 4100);
    }

    #[test]
    fn keys_are_found_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        archive(&dir, &[b"one", b"two"]);
        let archive = Archive::open(&dir.path().join("mail"), "a.jsonl").unwrap();
        assert_eq!([&b"one"[..], b"two", b"three"].map(|raw| archive.contains(&Key::of(raw))), [true, true, false]);
    }

    #[test]
    fn every_incomplete_last_line_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(&dir, &[b"one", b"two"]);
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let archive = Archive::open(path.parent().unwrap(), "a.jsonl").unwrap();
            let kept = if cut >= first { first } else { 0 };
            assert_eq!(fs::read(&path).unwrap(), whole[..kept], "cut at {cut}");
            assert_eq!((archive.contains(&Key::of(b"one")), archive.contains(&Key::of(b"two"))), (kept > 0, false));
        }
    }

    #[test]
    fn an_incomplete_line_longer_than_a_block_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(&dir, &[b"one"]);
        let whole = fs::read(&path).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&vec![b'x'; 200_000]).unwrap();
        assert!(Archive::open(path.parent().unwrap(), "a.jsonl").unwrap().contains(&Key::of(b"one")));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_foreign_line_is_reported_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(&dir, &[b"one"]);
        for foreign in ["\n", "{}\n", "{\"sha256\":\"12\"}\n", "{\"sha256\":\"\n"] {
            let mut text = fs::read_to_string(&path).unwrap();
            text.truncate(text.find('\n').unwrap() + 1);
            text.push_str(foreign);
            fs::write(&path, &text).unwrap();
            let error = Archive::open(path.parent().unwrap(), "a.jsonl").err().unwrap();
            assert!(error.is_permanent() && error.to_string().contains("line 2"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    /// The system reports lost writes once, and reports success after that.
    #[test]
    fn a_failed_sync_is_not_retried() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(dir.path(), "a.jsonl").unwrap();
        let good = archive.file.get_ref().try_clone().unwrap();
        // A pipe can be written to, but not synced.
        let (_reader, pipe) = io::pipe().unwrap();
        archive.file = BufWriter::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        assert!(archive.finish().is_err());
        archive.file = BufWriter::new(good);
        let error = archive.finish().expect_err("what was lost stays lost");
        assert!(!error.is_permanent() && error.to_string().contains("syncing it to disk"), "{error}");
    }

    #[test]
    fn a_second_writer_fails() {
        let dir = tempfile::tempdir().unwrap();
        let first = Archive::open(dir.path(), "a.jsonl").unwrap();
        let error = Archive::open(dir.path(), "a.jsonl").err().unwrap();
        assert!(matches!(error, ArchiveError::Busy(_)) && !error.is_permanent());
        assert!(Archive::open(dir.path(), "b.jsonl").is_ok(), "another account is not locked");
        drop(first);
        assert!(Archive::open(dir.path(), "a.jsonl").is_ok());
    }
}
