//! JSON lines as a [`Destination`]: append-only files in one directory, for log shippers and DuckDB.
//!
//! Owns the files that it made, and never removes one. A stream is a file, and an offset a byte in it: a batch is frozen in the store with
//! both before it is written, and is there when its last byte is synced. What a crash left of it is completed from where it ends, never
//! written a second time and never cut: whoever follows the file has read it. A file that is not as it was left (removed, moved, cut, written to
//! by somebody else) is left alone, and the next batch goes to a new one.
//!
//! Talks to the file system only, and knows nothing of the store. A file's name is its day (UTC) and an id: no two stores write to one file, and
//! by name they are in the order in which they were begun.

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

/// Rows of a batch.
const ROWS: usize = 5000;
/// Bytes of a batch, about.
const BYTES: usize = 1 << 20;
/// Files of this size are followed by a new one, unless another one is configured.
pub const ROTATE_SIZE: u64 = 64 << 20;
/// What a file's name begins with, before its day.
const PREFIX: &str = "events-";

/// What a person configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonlConfig {
    /// Where the files are.
    pub dir: PathBuf,
    /// No file is larger, but for one with a single batch that is.
    pub rotate_size: u64,
    /// When a new file begins, whatever the size of the last one.
    pub rotate: Rotate,
}

/// When a new file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotate {
    /// With the first events that are written on a new day (UTC).
    #[default]
    Day,
    /// By size only.
    Never,
}

/// A directory of JSON lines.
#[derive(Debug)]
pub struct Jsonl {
    config: JsonlConfig,
    name: String,
}

impl Jsonl {
    /// Looks at nothing.
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
        // Readable by the group, which a shipper may be in; payloads are nobody else's business.
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

    async fn connect(&mut self) -> Result<(), DeliveryError> {
        match std::fs::metadata(&self.config.dir) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(DeliveryError::Denied(format!("{} is not a directory", self.name))),
            Err(error) => Err(self.about(&error)),
        }
    }

    async fn create_stream(&mut self) -> Result<String, DeliveryError> {
        let path = self.create().map_err(|error| self.about(&error))?;
        // A name that is not UTF-8 could not be found again.
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
                // Nothing of the batch is there, whatever the file's length: something else is in its place.
                Err(Failed::Refused(DeliveryError::StreamDamaged(_))) => return Ok(slot.offset),
                Err(failed) => return Err(failed.about(path)),
            }
        }
        let there = length().map_err(|error| refusal(path, &error))?;
        Ok(i64::try_from(there).unwrap_or(i64::MAX))
    }

    /// Files are moved away and removed by others: nothing can be learned from those that are left.
    async fn present(&mut self, _: &[Row]) -> Result<HashSet<String>, DeliveryError> {
        Err(DeliveryError::Denied("whoever took the file knows".into()))
    }
}

/// Why a batch is not written.
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

/// The lines of a batch, as long as its slot.
fn lines_of(slot: Slot<'_>, rows: &[Row]) -> Result<Vec<u8>, DeliveryError> {
    let lines = line::lines(rows);
    if i64::try_from(lines.len()).ok() == Some(slot.length) {
        return Ok(lines);
    }
    // What is there of the batch can be neither completed nor recognized.
    Err(DeliveryError::StreamGone(format!("{}: another version of lorchestra began this batch", slot.stream)))
}

/// Locks the file, until it is closed: a copy of the state directory may have the same file.
fn locked(file: &File, path: &Path) -> Result<(), DeliveryError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(later(format!("{}: another process is writing to it", path.display()))),
        Err(error) => Err(refusal(path, &error.into())),
    }
}

/// Writes what is not there yet of a batch, and syncs it. The file is locked.
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
    // What a power loss leaves of bytes that were not synced are zeros.
    let is_ours = same == have.len() || there <= lines.len() && have[same..].iter().all(|byte| *byte == 0);
    if !is_ours {
        return Err(Failed::Refused(DeliveryError::StreamDamaged(format!(
            "{}: after byte {begin} is something that lorchestra has not written there",
            path.display()
        ))));
    }
    file.write_all_at(&lines[same..], begin + same as u64)?;
    file.sync_data()?;
    if file.metadata()?.nlink() == 0 {
        return Err(Failed::Refused(DeliveryError::StreamGone(format!(
            "{} was removed while it was written to",
            path.display()
        ))));
    }
    Ok(())
}

/// A file that was begun before, to be read and written.
fn opened(path: &Path) -> Result<File, DeliveryError> {
    open_regular(path, OFlags::RDWR | OFlags::NOFOLLOW).map_err(|error| match Errno::from_io_error(&error) {
        None => DeliveryError::StreamGone(format!("{} is not a regular file any more", path.display())),
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => DeliveryError::StreamGone(format!("{} is gone", path.display())),
        Some(_) => refusal(path, &error),
    })
}

fn shorter(path: &Path, length: u64, slot: Slot<'_>) -> DeliveryError {
    DeliveryError::StreamGone(format!("{} was cut: it has {length} bytes of {}", path.display(), slot.offset))
}

fn later(reason: String) -> DeliveryError {
    DeliveryError::Later { reason, after: None, perhaps_request: false }
}

/// What an error of the file system means.
fn refusal(path: &Path, error: &io::Error) -> DeliveryError {
    let text = format!("{}: {error}", path.display());
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => DeliveryError::TargetMissing(format!("{} does not exist", path.display())),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
            DeliveryError::Denied(text)
        }
        // Full disks, failing ones, servers that are gone: all of them may be well again.
        _ => later(text),
    }
}
