//! JSON lines as a [`Destination`]: append-only files in one directory, for log shippers and DuckDB.
//!
//! Owns the files that it created, and never removes one. A stream is a file, and an offset a byte in it: a batch is frozen in the store
//! with both before it is written, and has landed when its last byte is synced. A batch that a crash left incomplete is completed from
//! where it ends; it is never written twice and never truncated, because a program that follows the file has already read it. A file that
//! has changed since (removed, moved, truncated, written to by another program) is left alone, and the next batch goes to a new file.
//!
//! Talks only to the file system, and knows nothing about the store. A file's name consists of its day (UTC) and an id, so no two stores
//! write to one file, and sorting by name gives the order in which the files were begun.

mod line;
mod setup;
#[cfg(test)]
mod tests;

pub use setup::{missing, set_up};

use super::{BatchTarget, DeliveryError, DeliveryPolicy, Destination, Landed, Row, Slot};
use crate::host::files::open_regular;
use chrono::Utc;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Maximum number of rows in a batch.
const ROWS: usize = 5000;
/// Approximate maximum size of a batch in bytes.
const BYTES: usize = 1 << 20;
/// Default size at which a new file is begun.
pub const ROTATE_SIZE: u64 = 64 << 20;
/// Prefix of a file's name, before its day.
const PREFIX: &str = "events-";

/// The user's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonlConfig {
    /// The directory for the files.
    pub dir: PathBuf,
    /// Maximum size of a file, unless a single batch is larger.
    pub rotate_size: u64,
    /// When to begin a new file, independent of size.
    pub rotate: Rotate,
}

/// When to begin a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotate {
    /// With the first events written on a new day (UTC).
    #[default]
    Day,
    /// By size only.
    Never,
}

/// A directory of files of JSON lines.
#[derive(Debug)]
pub struct Jsonl {
    config: JsonlConfig,
    name: String,
}

impl Jsonl {
    /// Creates the destination without accessing any file.
    pub fn new(config: JsonlConfig) -> Self {
        let name = config.dir.display().to_string();
        Self { config, name }
    }

    fn about(&self, error: &io::Error) -> DeliveryError {
        refusal(&self.config.dir, error)
    }

    fn create(&self) -> io::Result<PathBuf> {
        let day = Utc::now().format("%Y-%m-%d");
        let path = self.config.dir.join(format!("{PREFIX}{day}-{}.jsonl", uuid::Uuid::now_v7().simple()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Readable by the group, for a log shipper; others must not read payloads.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        File::from(rustix::fs::open(&path, flags, mode)?).sync_all()?;
        File::open(&self.config.dir)?.sync_all()?;
        Ok(path)
    }
}

impl Destination for Jsonl {
    fn name(&self) -> &str {
        &self.name
    }

    fn route(&self) -> String {
        self.name.clone()
    }

    fn uses_streams(&self) -> bool {
        true
    }

    fn policy(&self) -> DeliveryPolicy {
        DeliveryPolicy::new(ROWS, BYTES)
    }

    fn length(&self, rows: &[Row]) -> i64 {
        i64::try_from(line::lines(rows).len()).unwrap_or(i64::MAX)
    }

    fn has_room(&self, slot: Slot<'_>) -> bool {
        let path = Path::new(slot.stream);
        let is_whole = path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == slot.offset.unsigned_abs());
        let fits = slot.offset == 0 || slot.offset.saturating_add(slot.length).unsigned_abs() <= self.config.rotate_size;
        let of_today = || {
            let day = format!("{PREFIX}{}-", Utc::now().format("%Y-%m-%d"));
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&day))
        };
        is_whole && fits && (self.config.rotate == Rotate::Never || of_today())
    }

    fn compares(&self) -> bool {
        true
    }

    /// What another program has written does not count.
    fn is_ahead(&self, slot: Slot<'_>) -> bool {
        let path = Path::new(slot.stream);
        let is_longer = path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() > slot.offset.unsigned_abs());
        is_longer && opened(path).is_ok_and(|file| line::is_event_at(&file, slot.offset.unsigned_abs()))
    }

    async fn connect(&mut self) -> Result<(), DeliveryError> {
        match std::fs::metadata(&self.config.dir) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(DeliveryError::Denied(format!("{} is not a directory", self.name))),
            Err(error) => Err(self.about(&error)),
        }
    }

    async fn create_stream(&mut self) -> Result<String, DeliveryError> {
        let path = self.create().map_err(|error| self.about(&error))?;
        // A name that is not UTF-8 could not be stored, and so not found again.
        path.into_os_string()
            .into_string()
            .map_err(|_| DeliveryError::Denied(format!("{} is not UTF-8: choose another name", self.name)))
    }

    async fn append(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        let BatchTarget::Stream(slot) = place else {
            return Err(DeliveryError::Denied("a batch of JSON lines without a file".into()));
        };
        let path = Path::new(slot.stream);
        let lines = lines_of(slot, rows)?;
        let file = opened(path)?;
        locked(&file, path)?;
        write(&file, path, slot, &lines).map_err(|failed| failed.about(path))?;
        Ok(Landed::Now)
    }

    async fn finalize(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<i64, DeliveryError> {
        let path = Path::new(slot.stream);
        let file = opened(path)?;
        locked(&file, path)?;
        let length = || Ok(file.metadata()?.len());
        let there = length().map_err(|error| refusal(path, &error))?;
        let begin = slot.offset.unsigned_abs();
        if there < begin {
            return Err(shorter(path, there, slot));
        }
        if !rows.is_empty() && there > begin {
            match write(&file, path, slot, &lines_of(slot, rows)?) {
                Ok(()) => {}
                // The file has nothing of the batch, whatever its length: other bytes are in its place.
                Err(Failed::Refused(DeliveryError::StreamDamaged(_))) => return Ok(slot.offset),
                Err(failed) => return Err(failed.about(path)),
            }
        }
        let end = slot.offset.saturating_add(slot.length);
        if !rows.is_empty() && there > begin && !line::is_event_at(&file, end.unsigned_abs()) {
            // What follows, if anything, was written by another program.
            return Ok(end);
        }
        let there = length().map_err(|error| refusal(path, &error))?;
        Ok(i64::try_from(there).unwrap_or(i64::MAX))
    }

    /// Other programs move and remove files, so the remaining ones prove nothing.
    async fn present(&mut self, _: &[Row]) -> Result<HashSet<String>, DeliveryError> {
        Err(DeliveryError::Denied("files that other programs have moved cannot be checked".into()))
    }
}

/// Why a batch was not written.
enum Failed {
    Refused(DeliveryError),
    Io(io::Error),
}

impl Failed {
    fn about(self, path: &Path) -> DeliveryError {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Io(error) => refusal(path, &error),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Formats the rows of a batch. Fails if the result is not as long as its slot.
fn lines_of(slot: Slot<'_>, rows: &[Row]) -> Result<Vec<u8>, DeliveryError> {
    let lines = line::lines(rows);
    if i64::try_from(lines.len()).ok() == Some(slot.length) {
        return Ok(lines);
    }
    // The existing part of the batch can be neither completed nor recognized.
    Err(DeliveryError::StreamGone(format!("{}: another version of lorchestra started this batch", slot.stream)))
}

/// Locks the file until it is closed: a copy of the state directory may refer to the same file.
fn locked(file: &File, path: &Path) -> Result<(), DeliveryError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(later(format!("{}: another process is writing to it", path.display()))),
        Err(error) => Err(refusal(path, &error.into())),
    }
}

/// Writes the missing part of a batch, and syncs the file, which is locked.
fn write(file: &File, path: &Path, slot: Slot<'_>, lines: &[u8]) -> Result<(), Failed> {
    let begin = slot.offset.unsigned_abs();
    let length = file.metadata()?.len();
    if length < begin {
        return Err(Failed::Refused(shorter(path, length, slot)));
    }
    let there = usize::try_from(length - begin).unwrap_or(usize::MAX);
    let mut have = vec![0; there.min(lines.len())];
    file.read_exact_at(&mut have, begin)?;
    let same = have.iter().zip(lines).take_while(|(a, b)| a == b).count();
    // After a power loss, unsynced bytes are zeros.
    let is_ours = same == have.len() || there <= lines.len() && have[same..].iter().all(|byte| *byte == 0);
    if !is_ours {
        return Err(Failed::Refused(DeliveryError::StreamDamaged(format!(
            "{}: the bytes after byte {begin} were not written by lorchestra",
            path.display()
        ))));
    }
    file.write_all_at(&lines[same..], begin + same as u64)?;
    file.sync_data()?;
    if file.metadata()?.nlink() == 0 {
        return Err(Failed::Refused(DeliveryError::StreamGone(format!(
            "{} was removed while lorchestra wrote to it",
            path.display()
        ))));
    }
    Ok(())
}

/// Opens an existing file for reading and writing.
fn opened(path: &Path) -> Result<File, DeliveryError> {
    open_regular(path, OFlags::RDWR | OFlags::NOFOLLOW).map_err(|error| match Errno::from_io_error(&error) {
        None => DeliveryError::StreamGone(format!("{} is no longer a regular file", path.display())),
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => DeliveryError::StreamGone(format!("{} is gone", path.display())),
        Some(_) => refusal(path, &error),
    })
}

fn shorter(path: &Path, length: u64, slot: Slot<'_>) -> DeliveryError {
    DeliveryError::StreamGone(format!("{} was truncated: it has {length} of {} bytes", path.display(), slot.offset))
}

fn later(reason: String) -> DeliveryError {
    DeliveryError::Later { reason, after: None, perhaps_request: false }
}

/// Classifies an error of the file system.
fn refusal(path: &Path, error: &io::Error) -> DeliveryError {
    let text = format!("{}: {error}", path.display());
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => DeliveryError::TargetMissing(format!("{} does not exist", path.display())),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
            DeliveryError::Denied(text)
        }
        // Full or failing disks, servers that are down: all of these may recover.
        _ => later(text),
    }
}
