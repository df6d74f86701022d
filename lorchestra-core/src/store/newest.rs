//! The number of the newest committed event, in a file next to the database.
//!
//! SQLite treats damage in a write-ahead log as the end of the log: all commits after it are lost without an error. A database that is
//! older than this file has lost commits, either by a damaged log or because only the database was restored. [`super::Store::open`]
//! compares the two.
//!
//! The file is written after a commit has reached the disk, and is not synced: after a power loss it may be older than the database, but
//! never newer. Several processes write it, so it may also be some commits behind. A missing or unreadable file proves nothing.

use crate::host::files::{open_regular, regular_file};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Size of a number and its checksum.
const SIZE: usize = 12;

/// The file of one store.
#[derive(Debug)]
pub(super) struct Newest {
    path: PathBuf,
    file: Option<File>,
    written: i64,
}

impl Newest {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, file: None, written: 0 }
    }

    /// Returns the number, if the file has a valid one.
    pub(super) fn read(&self) -> Option<i64> {
        let mut bytes = [0; SIZE];
        regular_file(&self.path).ok()?.read_exact(&mut bytes).ok()?;
        let (number, sum) = bytes.split_first_chunk::<8>()?;
        (crc32c::crc32c(number).to_le_bytes() == *sum).then(|| i64::from_le_bytes(*number))
    }

    /// Sets the newest event at the time of opening: only later commits are written. So a process that commits no event does not change a
    /// number that shows a loss.
    pub(super) fn begin(&mut self, number: i64) {
        self.written = number;
    }

    /// Writes the number if it is higher than before. A failure costs only the comparison.
    pub(super) fn write(&mut self, number: i64) {
        if number > self.written {
            self.reset(number);
        }
    }

    /// Writes the number, even a lower one.
    pub(super) fn reset(&mut self, number: i64) {
        if self.file.is_none() {
            self.file = open_regular(&self.path, OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW).ok();
        }
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&crc32c::crc32c(&number.to_le_bytes()).to_le_bytes());
        if self.file.as_ref().is_some_and(|file| file.write_all_at(&bytes, 0).is_ok()) {
            self.written = number;
        }
    }
}
