//! The reading side of a spool, used by the supervisor while the worker is alive, and by recovery after both are dead.
//!
//! Reads forward from a [`Cursor`] in chunks of about [`CHUNK_BYTES`]. The caller commits the contents of a chunk together with the chunk's
//! end, then calls [`Reader::advance`], which removes finished segments.
//!
//! A job can put any files next to its segments and any bytes into them. A segment is finished when it is full and has a successor. A
//! segment that is not full is left only when the worker is dead, and only once: a writer that faulted has written its final record to a
//! segment of its own. The segment with the final record is never left.

use super::record::{self, Record, RecordError};
use super::writer::segment_path;
use super::{Cursor, SEGMENT_BYTES};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Number of bytes to read at once; a longer record is read completely.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Maximum size of a record: a payload of 1 MiB, four texts, the frame.
const MAX_RECORD: usize = 2 << 20;

/// Whether more records can still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// The worker is alive: an incomplete line may still be completed.
    Alive,
    /// The worker is dead: nothing more will be written.
    Dead,
}

/// A reader of one attempt's spool.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    cursor: Cursor,
    file: Option<File>,
    buffer: Vec<u8>,
    segment_bytes: u64,
    /// Whether the last chunk leaves a segment that is not full, and whether one was left before.
    leaves_short: bool,
    left_short: bool,
    /// Whether the final record has been read.
    ended: bool,
}

/// The result of one read.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The records, in order.
    pub records: Vec<Record<'a>>,
    /// Where the next read begins once these records are committed.
    pub end: Cursor,
    /// Number of complete lines that are not records.
    pub damaged: u64,
    /// Whether there may be more to read immediately.
    pub more: bool,
}

impl Reader {
    /// Creates a reader of the attempt directory `dir` that starts at `cursor`. Does not access any file yet.
    pub fn new(dir: &Path, cursor: Cursor) -> Self {
        Self::with_segments_of(dir, cursor, SEGMENT_BYTES)
    }

    /// Like [`new`](Self::new), for a spool with segments of another size; for tests.
    pub fn with_segments_of(dir: &Path, cursor: Cursor, segment_bytes: u64) -> Self {
        let dir = dir.to_owned();
        Self { dir, cursor, file: None, buffer: Vec::new(), segment_bytes, leaves_short: false, left_short: false, ended: false }
    }

    /// Records that another reader has already read the final record.
    pub(crate) fn end_was_read(&mut self) {
        self.ended = true;
    }

    /// Returns the next records, up to about [`CHUNK_BYTES`]. Does not advance: [`advance`](Self::advance) does.
    pub fn read(&mut self, writing: Writing) -> io::Result<Chunk<'_>> {
        // Look for the successor before reading the segment: if it exists, the segment was complete by then.
        let next = std::fs::metadata(segment_path(&self.dir, self.cursor.segment + 1));
        let len = self.fill()?;
        if len < self.cursor.byte {
            // Something truncated the segment. Read it again from the start: the store recognizes the events that it already has.
            let end = Cursor { byte: 0, ..self.cursor };
            return Ok(Chunk { records: Vec::new(), end, damaged: 1, more: true });
        }
        self.leaves_short = len < self.segment_bytes;
        let may_follow = !self.leaves_short || (writing == Writing::Dead && !self.left_short);
        // If it is not a regular file, the writer did not create it, and cannot continue past it.
        let has_next = may_follow && next.is_ok_and(|meta| meta.is_file());
        let complete = has_next || writing == Writing::Dead;
        let mut chunk = Chunk { records: Vec::new(), end: self.cursor, damaged: 0, more: false };
        let mut at = 0;
        while let Some(end) = memchr_newline(&self.buffer[at..]) {
            match record::parse(&self.buffer[at..at + end]) {
                Ok(record) => chunk.records.push(record),
                // While the worker is alive, this may be a partial write that is about to be truncated: read it again later.
                Err(RecordError::Checksum) if !complete => break,
                Err(error) => {
                    // Counted, and reported once at the end of the run: a job can write any number of these.
                    tracing::debug!(dir = %self.dir.display(), segment = self.cursor.segment, byte = self.cursor.byte + at as u64, %error, "skipped a spool record");
                    chunk.damaged += 1;
                }
            }
            at += end + 1;
        }
        self.ended |= chunk.records.iter().any(|record| record.end.is_some());
        chunk.end.byte += at as u64;
        let read_all = self.buffer.len() < CHUNK_BYTES;
        if at == 0
            && complete
            && self.buffer.len() == MAX_RECORD
            && let Some(next) = next_line(self.file.as_ref(), self.cursor.byte + MAX_RECORD as u64)?
        {
            // No record is that long: a line end was lost on the disk. The lines after it are intact.
            tracing::warn!(dir = %self.dir.display(), segment = self.cursor.segment, byte = self.cursor.byte, "skipped a line longer than any record");
            chunk.damaged += 1;
            chunk.end.byte = next;
            chunk.more = true;
        } else if !read_all && at > 0 {
            chunk.more = true;
        } else if has_next && !self.ended && (read_all || at == 0) {
            // The bytes after the end of the last line are a torn record.
            chunk.end = Cursor { segment: self.cursor.segment + 1, byte: 0 };
            chunk.more = true;
        }
        Ok(chunk)
    }

    /// Continues from `end`, before which everything is committed, and removes the segments before it.
    pub fn advance(&mut self, end: Cursor) -> io::Result<()> {
        let from = self.cursor.segment;
        self.cursor = end;
        if from != end.segment {
            self.file = None;
            self.left_short |= self.leaves_short;
            for segment in from..end.segment {
                remove(&segment_path(&self.dir, segment))?;
            }
        }
        Ok(())
    }

    /// Reads from the cursor until the buffer has a full chunk or at least one line, or the file ends. Returns the length of the segment.
    fn fill(&mut self) -> io::Result<u64> {
        self.buffer.clear();
        if self.file.is_none() {
            match crate::host::files::regular_file(&segment_path(&self.dir, self.cursor.segment)) {
                Ok(file) => self.file = Some(file),
                // The file or its directory is missing. A truncated segment is recognized by its length.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(self.cursor.byte);
                }
                Err(e) => return Err(e),
            }
        }
        let Some(file) = &self.file else { return Ok(self.cursor.byte) };
        let len = file.metadata()?.len();
        // Not more than there is: a run with three events must not pay for the memory of a full chunk.
        let left = len.saturating_sub(self.cursor.byte);
        let mut want = CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES)).max(1);
        let mut have = 0;
        loop {
            self.buffer.resize(want, 0);
            let n = match file.read_at(&mut self.buffer[have..], self.cursor.byte + have as u64) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            have += n;
            if n == 0 || (have == want && (want != CHUNK_BYTES || memchr_newline(&self.buffer).is_some())) {
                break;
            }
            if have == want {
                want = MAX_RECORD;
            }
        }
        self.buffer.truncate(have);
        Ok(len)
    }
}

/// Returns the offset after the next line end at or after `byte`.
fn next_line(file: Option<&File>, mut byte: u64) -> io::Result<Option<u64>> {
    let Some(file) = file else { return Ok(None) };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read_at(&mut buffer, byte) {
            Ok(0) => return Ok(None),
            Ok(n) => match memchr_newline(&buffer[..n]) {
                Some(at) => return Ok(Some(byte + at as u64 + 1)),
                None => byte += n as u64,
            },
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == b'\n')
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
