//! A frozen batch with its rows, and what was answered about it so far. Only in memory: after a crash, the store has the batch, and its result
//! is unknown.

use crate::delivery::{Row, Slot};
use crate::store::{Batch, OutRow};

/// Approximate size of a row in addition to its payload.
const ENVELOPE: usize = 300;

/// Approximate size of a row in bytes.
pub(super) fn size_of(row: &Row) -> usize {
    row.payload.as_ref().map_or(0, String::len) + ENVELOPE
}

/// A batch in flight.
pub(super) struct Flight {
    pub(super) batch: Batch,
    pub(super) numbers: Vec<i64>,
    pub(super) rows: Vec<Row>,
    /// Every request for it so far got a definite answer.
    pub(super) fresh: bool,
    /// Number of failures that the batch itself may have caused.
    pub(super) stumbles: u32,
    /// Number of times the server refused, without a reason, to close its stream.
    pub(super) fence_refusals: u32,
    /// The server has answered that its stream is finalized.
    pub(super) finalized: bool,
    /// It was sent over the connection that is open.
    pub(super) sent: bool,
    /// Approximate size in bytes.
    pub(super) size: usize,
}

impl Flight {
    /// `fresh`: no request for it was made yet.
    pub(super) fn new(batch: Batch, out: Vec<OutRow>, fresh: bool) -> Self {
        let (numbers, rows): (Vec<i64>, Vec<Row>) = out.into_iter().map(|out| (out.n, out.row)).unzip();
        let size = rows.iter().map(size_of).sum();
        Self { batch, numbers, rows, fresh, stumbles: 0, fence_refusals: 0, finalized: false, sent: false, size }
    }

    pub(super) fn stream(&self) -> Option<&String> {
        self.batch.place.as_ref().map(|(stream, _)| stream)
    }

    /// Its position in its stream.
    pub(super) fn offset(&self) -> i64 {
        self.batch.place.as_ref().map_or(0, |(_, offset)| *offset)
    }

    /// Its end in its stream.
    pub(super) fn end(&self) -> i64 {
        self.offset().saturating_add(self.batch.length)
    }
}

/// The slot of a batch, if it goes to a stream.
pub(super) fn slot(batch: &Batch) -> Option<Slot<'_>> {
    batch.place.as_ref().map(|(stream, offset)| Slot { stream, offset: *offset, length: batch.length })
}
