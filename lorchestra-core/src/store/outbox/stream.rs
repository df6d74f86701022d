//! The stream of each target that batches go to: its name, and the offset of the next batch. What a stream is, and which states it has, is in
//! `delivery::destination`.

use super::{Batch, Outbox, StoreError};
use crate::host::process::boot_id;
use rusqlite::{OptionalExtension, params};

/// A stream that batches go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// The offset of the next batch.
    pub offset: i64,
}

impl Outbox {
    /// Returns the stream of a target if a batch landed in it, or it was created, after `since` (microseconds since 1970).
    pub fn stream(&self, target: &str, since: i64) -> Result<Option<Stream>, StoreError> {
        self.store.read("reading streams", |db| {
            db.query_row(
                "SELECT stream, next_offset FROM streams WHERE destination = ?1 AND target = ?2 AND used_at > ?3",
                params![self.destination, target, since],
                |row| Ok(Stream { name: row.get(0)?, offset: row.get(1)? }),
            )
            .optional()
        })
    }

    /// Sends batches for this target to this new, empty stream from now on.
    pub fn use_stream(&mut self, target: &str, stream: &str) -> Result<(), StoreError> {
        let (destination, boot) = (&self.destination, boot_id().ok());
        self.store.write("recording a stream", |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO streams (destination, target, stream, next_offset, used_at, boot) VALUES (?1, ?2, ?3, 0, ?4, ?5)",
                params![destination, target, stream, crate::host::clock::now_micros(), boot],
            )
            .map(drop)
        })
    }

    /// Whether the stream of this batch was created since the host was booted. The disk of a host that was booted since may have been cloned,
    /// and then another host has the same stream.
    pub fn is_from_this_boot(&self, batch: &Batch) -> bool {
        batch.boot.is_some() && batch.boot == boot_id().ok()
    }

    /// Stops using the target's stream.
    pub fn leave_stream(&mut self, target: &str) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("leaving a stream", |tx| {
            tx.execute("DELETE FROM streams WHERE destination = ?1 AND target = ?2", params![destination, target]).map(drop)
        })
    }

    /// Records that this stream is about to be finalized: from now on, it is not another store that has done so.
    pub fn close_stream(&mut self, target: &str, stream: &str) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("closing a stream", |tx| {
            tx.execute(
                "UPDATE streams SET closing = 1 WHERE destination = ?1 AND target = ?2 AND stream = ?3",
                params![destination, target, stream],
            )
            .map(drop)
        })
    }

    /// Whether this stream is in use, and this store has not begun to finalize it.
    pub fn is_open(&self, target: &str, stream: &str) -> Result<bool, StoreError> {
        self.store.read("reading streams", |db| {
            let sql =
                "SELECT EXISTS (SELECT 1 FROM streams WHERE destination = ?1 AND target = ?2 AND stream = ?3 AND NOT closing)";
            db.prepare_cached(sql)?.query_row(params![self.destination, target, stream], |row| row.get(0))
        })
    }
}
