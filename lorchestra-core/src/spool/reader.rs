//! The reading side of a spool: in the supervisor while the worker lives, in recovery when nobody does.
//!
//! Reads forward from a [`Cursor`] in chunks of about [`CHUNK_BYTES`]; the caller commits what a chunk holds together with
//! the chunk's end, then tells [`Reader::taken`], which removes the segments that are done with.
//!
//! A job can put what it likes beside its segments and into them. A segment is done with when it is full and has a successor; one that is
//! not full is left only when the worker is dead, and only once: a writer that faulted has its last word in a segment of its own. The
//! segment that has the final record is left for none.

use super::record::{self, Record, RecordError};
use super::writer::segment_path;
use super::{Cursor, SEGMENT_BYTES};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read at once; a longer record is read whole.
pub const CHUNK_BYTES: usize = 1 << 20;
/// No record is longer: a payload of 1 MiB, four texts, the frame.
const MAX_RECORD: usize = 2 << 20;

/// Whether more can still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// The worker lives: an incomplete line may yet be completed.
    Alive,
    /// The worker is dead: what is there is all there will be.
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
    /// Whether the chunk that was read last leaves a segment that is not full, and whether one was left.
    leaves_short: bool,
    left_short: bool,
    /// Whether the final record was read.
    ended: bool,
}

/// What one read found.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The records, in order.
    pub records: Vec<Record<'a>>,
    /// Where the next read begins, once these are committed.
    pub end: Cursor,
    /// Whole lines that were not records although nothing can complete them any more.
    pub damaged: u64,
    /// Whether there may be more to read at once.
    pub more: bool,
}

impl Reader {
    /// A reader of the attempt directory `dir`, from `cursor` on. Touches no file yet.
    pub fn new(dir: &Path, cursor: Cursor) -> Self {
        Self::with_segments_of(dir, cursor, SEGMENT_BYTES)
    }

    /// Of a spool with segments of another size: for tests.
    pub fn with_segments_of(dir: &Path, cursor: Cursor, segment_bytes: u64) -> Self {
        let dir = dir.to_owned();
        Self { dir, cursor, file: None, buffer: Vec::new(), segment_bytes, leaves_short: false, left_short: false, ended: false }
    }

    /// The final record was read before, by another reader.
    pub(crate) fn end_was_read(&mut self) {
        self.ended = true;
    }

    /// The next records, at most about [`CHUNK_BYTES`] of them. Does not advance: [`taken`](Self::taken) does.
    pub fn read(&mut self, writing: Writing) -> io::Result<Chunk<'_>> {
        // The successor is looked for before the segment is read: when it is there, the segment was complete by then.
        let next = std::fs::metadata(segment_path(&self.dir, self.cursor.segment + 1));
        let len = self.fill()?;
        if len < self.cursor.byte {
            // Somebody cut it. What is there is read anew: the store has the events that it has already.
            let end = Cursor { byte: 0, ..self.cursor };
            return Ok(Chunk { records: Vec::new(), end, damaged: 1, more: true });
        }
        self.leaves_short = len < self.segment_bytes;
        let may_follow = !self.leaves_short || (writing == Writing::Dead && !self.left_short);
        // What is no file was not put there by the writer, which will not get past it.
        let has_next = may_follow && next.is_ok_and(|meta| meta.is_file());
        let complete = has_next || writing == Writing::Dead;
        let mut chunk = Chunk { records: Vec::new(), end: self.cursor, damaged: 0, more: false };
        let mut at = 0;
        while let Some(end) = memchr_newline(&self.buffer[at..]) {
            match record::parse(&self.buffer[at..at + end]) {
                Ok(record) => chunk.records.push(record),
                // While the worker lives, this may be a write that is being cut back: look again later.
                Err(RecordError::Checksum) if !complete => break,
                Err(error) => {
                    // Counted, and told once with the end of the run: a job can write as many of these as it likes.
                    tracing::debug!(dir = %self.dir.display(), segment = self.cursor.segment, byte = self.cursor.byte + at as u64, %error, "spool record left out");
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
            // No record is that long: the end of one was lost on the disk. What follows is not.
            tracing::warn!(dir = %self.dir.display(), segment = self.cursor.segment, byte = self.cursor.byte, "no record is as long as this line");
            chunk.damaged += 1;
            chunk.end.byte = next;
            chunk.more = true;
        } else if !read_all && at > 0 {
            chunk.more = true;
        } else if has_next && !self.ended && (read_all || at == 0) {
            // What is left behind the last line's end was torn.
            chunk.end = Cursor { segment: self.cursor.segment + 1, byte: 0 };
            chunk.more = true;
        }
        Ok(chunk)
    }

    /// Everything before `end` is committed: go on from there, and remove the segments before it.
    pub fn taken(&mut self, end: Cursor) -> io::Result<()> {
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

    /// Reads from the cursor until a chunk is full or holds at least one line, or the file ends. Answers with the length of the segment.
    fn fill(&mut self) -> io::Result<u64> {
        self.buffer.clear();
        if self.file.is_none() {
            match crate::host::files::regular_file(&segment_path(&self.dir, self.cursor.segment)) {
                Ok(file) => self.file = Some(file),
                // Nothing there, or not even a directory to look in: what was cut is told by its length.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(self.cursor.byte);
                }
                Err(e) => return Err(e),
            }
        }
        let Some(file) = &self.file else { return Ok(self.cursor.byte) };
        let len = file.metadata()?.len();
        // No more than there is: a run with three events must not pay for the pages of a whole chunk.
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

/// The byte behind the next end of a line, from `byte` on.
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
