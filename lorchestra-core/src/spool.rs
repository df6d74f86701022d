//! The crash-safe hand-over of events from a worker to the store.
//!
//! Owns the files of one attempt, `spool/<run>/<attempt>/<n>`. The worker's sink writes them ([`writer`]). The supervisor reads them
//! ([`reader`]) and commits their records to the store; after the supervisor's death, recovery in the next command does. The two sides have
//! no other communication; their contract is the format of a record ([`record`]):
//!
//! - A record is one line, `crc32c-hex SP json LF`, written by one `write(2)` in append mode. After that write it survives the death of
//!   every process; after a flush (of the file and the directories above it) it also survives power loss.
//! - A line that no writer produces counts as damaged, whatever its checksum: a job can append to these files too.
//! - `seq` numbers the records from 1, in file order, over all segments of the attempt.
//! - The final record is the last one: after it, the writer accepts nothing.
//! - Segments are numbered from 1. The writer begins the next one when a segment has reached [`SEGMENT_BYTES`]; the reader removes a
//!   segment only after the transaction with its last record has committed. A writer that is [`MAX_SEGMENTS`] ahead waits, which bounds the
//!   disk space of an attempt.
//! - A line without its end, or (once the writer is dead) with a wrong checksum at the end of a segment, was torn by the writer's death.
//!   Its `emit` never returned, so skipping it loses nothing.

#[cfg(test)]
mod properties;
pub mod reader;
pub mod record;
pub mod writer;

/// Size at which a segment is full; the record that crosses the limit still goes into it.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Maximum number of segments of one attempt that may wait to be ingested.
pub const MAX_SEGMENTS: u32 = 4;

/// A position in an attempt's spool: everything before it has been ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Byte offset in the segment.
    pub byte: u64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { segment: 1, byte: 0 }
    }
}
