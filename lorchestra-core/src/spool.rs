//! The crash-safe hand-over from a worker to the store.
//!
//! Owns the files of one attempt, `spool/<run>/<attempt>/<n>`. The worker's sink writes them ([`writer`]); the supervisor, or
//! after its death the recovery of the next command, reads them ([`reader`]) and puts what it read into the store. The two
//! never talk otherwise; what they promise each other is the form of a record ([`record`]):
//!
//! - A record is one line, `crc32c-hex SP json LF`, and reaches the file by one `write(2)` in append mode. After that write
//!   it survives the death of every process; after a flush (file and the directories above it) also power loss.
//! - A line that no writer writes is damaged, whatever its checksum: a job can append to these files too.
//! - Records are numbered by `seq` from 1, in the order of the file, over all segments of the attempt.
//! - The final record is the last: after it, the writer accepts nothing.
//! - Segments are numbered from 1. The next one is begun when a segment has reached [`SEGMENT_BYTES`]; the reader removes a
//!   segment only after the transaction that took its last record in has committed. A writer that is
//!   [`MAX_SEGMENTS`] ahead waits: the disk never holds more than that of one attempt.
//! - A line without its end, or (once the writer is dead) with a wrong checksum at the end of a segment, was torn by the
//!   writer's death. Its `emit` never returned: it is left out, and nothing is lost.

#[cfg(test)]
mod properties;
pub mod reader;
pub mod record;
pub mod writer;

/// Bytes after which a segment is full; the record that crosses the line still goes into it.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Segments of one attempt that may wait to be taken in.
pub const MAX_SEGMENTS: u32 = 4;

/// A place in an attempt's spool: everything before it has been taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Byte in it.
    pub byte: u64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { segment: 1, byte: 0 }
    }
}
