//! The store as the outbox of each destination: how far its events are delivered there, and which batches are in flight.
//!
//! Each destination has its own cursor, batches, streams, settled rows and circuit, keyed by its name; destinations do not affect each
//! other. The cursor is one mark rather than a flag on every event: all events up to it are settled. Beyond it are the *frozen* batches:
//! their rows and position are committed before anything is sent, so that after any crash the same rows can be resent to the same position.
//! Several may be frozen, one after the other in one stream, and are settled in order. The mark never passes a pending event. Rows that the
//! destination will never accept, or that turned out to be there already, are settled individually.
//!
//! Only the holder of a destination's delivery lock writes to its outbox; any process may read. Knows nothing about the destinations
//! themselves.

mod backlog;
mod batch;
mod circuit;
mod pending_jobs;
#[cfg(test)]
mod properties;
mod stream;
#[cfg(test)]
mod tests;

pub use backlog::{Backlog, COUNTED};
pub(super) use backlog::{delivered_to, pending, refused, uncertain, unsettled, why_uncertain};
pub use batch::{Batch, NewBatch, OutRow, Row, RowDisposition, Suspect, Was};
pub use circuit::Circuit;
pub use pending_jobs::PendingJobs;
pub use stream::Stream;

use super::checksum::Covered;
use super::{Store, StoreError};
use backlog::{UNSETTLED, unsent};
use batch::{BATCH, batch};
use rusqlite::{OptionalExtension, Transaction, params};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

const ROW: &str =
    "SELECT e.n, e.event_id, e.event_type, r.package, r.job, e.schema_ref, e.created_at, e.correlation_id, e.subject_id,
    e.payload, r.run_id, e.attempt, e.checksum FROM events e JOIN runs r ON r.n = e.run";

/// Why a damaged event is not sent.
const DAMAGED: &str = "damaged in the store: its checksum does not match";

/// The outbox of one destination, for the holder of its delivery lock.
#[derive(Debug)]
pub struct Outbox {
    pub(crate) store: Store,
    destination: String,
}

/// Identifies the store's file, to detect a copied or restored state directory. Does not include the device, whose number may change at
/// boot.
fn identity(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    let born = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |at| at.as_nanos());
    Some(format!("{}-{born}", meta.ino()))
}

/// Interval between updates of the time when a destination was last in use, in microseconds.
const SEEN: i64 = 60 * 60 * 1_000_000;

impl Outbox {
    /// Opens the outbox of the destination with this name. A new destination starts with the oldest event that still has its payload.
    pub fn open(mut store: Store, destination: &str) -> Result<Self, StoreError> {
        if store.missing > 0 {
            store.doubt_deliveries()?;
        }
        let now = crate::host::clock::now_micros();
        let file = identity(&store.path);
        let known = store.read("reading the state of delivery", |db| {
            let mut statement = db.prepare("SELECT seen_at, file FROM outbox WHERE destination = ?1")?;
            statement.query_row([destination], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))).optional()
        })?;
        let is_same = |known: &Option<String>| file.is_none() || *known == file;
        if known.is_none_or(|(seen, known)| (now - seen).abs() > SEEN || !is_same(&known)) {
            store.write("recording a destination", |tx| {
                tx.execute(
                    "INSERT INTO outbox (destination, seen_at, file, delivered_to) VALUES (?1, ?2, ?3, coalesce(
                        (SELECT e.n FROM events e JOIN runs r ON r.n = e.run WHERE r.payloads ORDER BY e.n LIMIT 1) - 1,
                        (SELECT max(n) FROM events), 0))
                     ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at, file = excluded.file,
                        doubtful_to = CASE WHEN file = excluded.file THEN doubtful_to
                            ELSE (SELECT coalesce(max(n), 0) FROM events) END",
                    params![destination, now, file],
                )
                .map(drop)
            })?;
        }
        Ok(Self { store, destination: destination.to_owned() })
    }

    /// The destination's name.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Another store may have delivered the events up to this one: the state directory is a copy, or it or the database was restored, and
    /// already contained them then. 0 if it is the original.
    pub fn doubtful_to(&self) -> Result<i64, StoreError> {
        self.store.read("reading the state of delivery", |db| {
            let sql = "SELECT doubtful_to FROM outbox WHERE destination = ?1";
            db.prepare_cached(sql)?.query_row([&self.destination], |row| row.get(0))
        })
    }

    /// Records that another store may have delivered all events of this one: its stream is longer than this store knows.
    pub fn doubt(&mut self) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("recording that the state is older than its deliveries", |tx| {
            let sql = "UPDATE outbox SET doubtful_to = (SELECT coalesce(max(n), 0) FROM events) WHERE destination = ?1";
            tx.execute(sql, [destination]).map(drop)
        })
    }

    /// Records events that are already in the destination.
    pub fn settle_present(&mut self, events: &[i64]) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("recording a delivery", |tx| {
            events.iter().try_for_each(|event| settle(tx, destination, *event, "present", None))
        })
    }

    /// Returns the next events to send after event number `after` (whose delivery need not be recorded yet), oldest first: at most `rows`
    /// of them, and no more once their payloads reach `bytes`.
    pub fn pending_rows(&self, after: i64, rows: usize, bytes: usize) -> Result<Vec<OutRow>, StoreError> {
        let sql = format!(
            "{ROW} WHERE e.n > max(?2, (SELECT delivered_to FROM outbox WHERE destination = ?1)) AND {UNSETTLED} ORDER BY e.n LIMIT ?3"
        );
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        self.out_rows(&sql, params![self.destination, after, limit], bytes)
    }

    /// Sets aside events that differ from what was stored: they are not sent.
    pub fn set_aside_damaged(&mut self, events: &[i64]) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("recording damaged events", |tx| {
            events.iter().try_for_each(|n| settle(tx, destination, *n, "refused", Some(DAMAGED)))
        })
    }

    /// Moves the delivered mark over events that are all settled individually. Nothing is pending.
    pub fn pass_settled(&mut self) -> Result<(), StoreError> {
        self.store.write("recording a delivery", |tx| {
            tx.execute(
                &format!(
                    "UPDATE outbox SET delivered_to = max(delivered_to, (SELECT coalesce(max(n), 0) FROM events))
                     WHERE destination = ?1 AND NOT EXISTS (SELECT 1 FROM events e WHERE {})",
                    unsent("?1")
                ),
                [&self.destination],
            )
            .map(drop)
        })
    }

    /// Returns the rows of a batch as they were when it was frozen.
    pub fn rows_of(&self, batch: &Batch) -> Result<Vec<OutRow>, StoreError> {
        let sql = format!("{ROW} WHERE e.n BETWEEN ?2 AND ?3 AND {UNSETTLED} ORDER BY e.n");
        self.out_rows(&sql, params![self.destination, batch.first, batch.last], usize::MAX)
    }

    fn out_rows(&self, sql: &str, values: impl rusqlite::Params, bytes: usize) -> Result<Vec<OutRow>, StoreError> {
        self.store.read("reading events to deliver", |db| {
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query(values)?;
            let mut found = Vec::new();
            let mut size = 0;
            while let Some(row) = rows.next()? {
                let (package, job): (String, String) = (row.get(3)?, row.get(4)?);
                let run_id: String = row.get(10)?;
                let payload: Option<String> = row.get(9)?;
                size += payload.as_ref().map_or(0, String::len) + ENVELOPE;
                if size > bytes && !found.is_empty() {
                    break;
                }
                let [event_id, event_type]: [String; 2] = [row.get(1)?, row.get(2)?];
                let [schema_ref, correlation_id, subject_id]: [Option<String>; 3] = [row.get(5)?, row.get(7)?, row.get(8)?];
                let created_at = row.get(6)?;
                let rest = [schema_ref.as_deref(), correlation_id.as_deref(), subject_id.as_deref(), payload.as_deref()];
                let intact = Covered { event_id: &event_id, event_type: &event_type, created_at, rest }.matches(row)?;
                found.push(OutRow {
                    n: row.get(0)?,
                    intact,
                    row: Row {
                        event_id,
                        event_type,
                        source: format!("{package}/{job}"),
                        schema_ref,
                        created_at,
                        correlation_id: Some(correlation_id.unwrap_or_else(|| run_id.clone())),
                        subject_id,
                        payload,
                        run_id: Some(run_id),
                        attempt: row.get(11)?,
                        package: Some(package),
                        job: Some(job),
                    },
                });
            }
            Ok(found)
        })
    }

    /// Returns all frozen batches, oldest first.
    pub fn frozen_batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.store.read("reading batches", |db| {
            let mut statement = db.prepare_cached(&format!("{BATCH} WHERE destination = ?1 AND state = 'frozen' ORDER BY n"))?;
            statement.query_map([&self.destination], batch)?.collect()
        })
    }

    /// Returns the oldest frozen batch, if any.
    #[cfg(test)]
    pub(crate) fn frozen_batch(&self) -> Result<Option<Batch>, StoreError> {
        Ok(self.frozen_batches()?.into_iter().next())
    }

    /// Returns all batches whose arrival could not be determined, oldest first.
    pub fn uncertain_batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.store.read("reading batches", |db| {
            let mut statement = db.prepare(&format!("{BATCH} WHERE destination = ?1 AND state = 'uncertain' ORDER BY n"))?;
            statement.query_map([&self.destination], batch)?.collect()
        })
    }

    /// Returns the first suspect after event number `after`.
    pub fn suspect(&self, after: i64) -> Result<Option<i64>, StoreError> {
        self.store.read("reading suspects", |db| {
            let sql = "SELECT min(event) FROM settled WHERE destination = ?1 AND how = 'suspect' AND event > ?2";
            db.prepare_cached(sql)?.query_row(params![self.destination, after], |row| row.get(0))
        })
    }

    /// Returns the last suspect.
    pub fn last_suspect(&self) -> Result<Option<i64>, StoreError> {
        self.store.read("reading suspects", |db| {
            let sql = "SELECT max(event) FROM settled WHERE destination = ?1 AND how = 'suspect'";
            db.prepare_cached(sql)?.query_row([&self.destination], |row| row.get(0))
        })
    }

    /// Returns the next suspects after event number `after`, oldest first, at most `limit`. They can be sent as one batch: all events between
    /// them are settled individually.
    pub fn suspects(&self, after: i64, limit: usize) -> Result<Vec<Suspect>, StoreError> {
        let Some(first) = self.suspect(after)? else { return Ok(Vec::new()) };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.store.read("reading suspects", |db| {
            let gap = format!("SELECT e.n FROM events e WHERE e.n > ?2 AND {UNSETTLED} ORDER BY e.n LIMIT 1");
            let gap = db.prepare_cached(&gap)?.query_row(params![self.destination, first], |row| row.get(0)).optional()?;
            let mut statement = db.prepare_cached(
                "SELECT event, coalesce(reason, '') FROM settled
                 WHERE destination = ?1 AND event >= ?2 AND event < ?3 AND how = 'suspect' ORDER BY event LIMIT ?4",
            )?;
            let suspect = |row: &rusqlite::Row<'_>| Ok(Suspect { n: row.get(0)?, reason: row.get(1)? });
            let end = gap.unwrap_or(i64::MAX);
            statement.query_map(params![self.destination, first, end, limit], suspect)?.collect()
        })
    }

    /// Returns the reason of each event that was refused: of all suspects, and of those that were set aside after `since` (microseconds
    /// since 1970).
    pub fn refusals(&self, since: i64) -> Result<Vec<String>, StoreError> {
        self.store.read("reading refused events", |db| {
            let mut statement = db.prepare_cached(
                "SELECT reason FROM settled
                 WHERE destination = ?1 AND reason IS NOT NULL AND (how = 'suspect' OR how = 'refused' AND at > ?2)",
            )?;
            statement.query_map(params![self.destination, since], |row| row.get(0))?.collect()
        })
    }

    /// Returns the first refused event after event number `after` that still has its payload.
    pub fn refused_event(&self, after: i64) -> Result<Option<i64>, StoreError> {
        self.store.read("reading refused events", |db| {
            db.query_row(
                "SELECT min(s.event) FROM settled s JOIN events e ON e.n = s.event JOIN runs r ON r.n = e.run
                 WHERE s.destination = ?1 AND s.how = 'refused' AND r.payloads AND s.event > ?2",
                params![self.destination, after],
                |row| row.get(0),
            )
        })
    }

    /// In one transaction, records that `done` is delivered and freezes `next`. After return, `next` may be sent.
    pub fn advance(&mut self, done: Option<&Batch>, next: Option<&NewBatch>) -> Result<Option<Batch>, StoreError> {
        let destination = &self.destination;
        self.store.write("recording a delivery", |tx| {
            if let Some(done) = done {
                remove(tx, done)?;
                let mut mark = done.last;
                if !pending_before(tx, destination, done)?.is_empty() {
                    // A batch before it was taken back, so its rows are settled individually.
                    rest_of(tx, destination, done)?.into_iter().try_for_each(|n| settle(tx, destination, n, "present", None))?;
                    mark = 0;
                }
                tx.prepare_cached("UPDATE outbox SET delivered_to = max(delivered_to, ?2), target = ?3 WHERE destination = ?1")?
                    .execute(params![destination, mark, done.target])?;
                if let Some((stream, _)) = &done.place {
                    // The age of a stream counts from here.
                    tx.prepare_cached("UPDATE streams SET used_at = ?4 WHERE destination = ?1 AND target = ?2 AND stream = ?3")?
                        .execute(params![destination, done.target, stream, crate::host::clock::now_micros()])?;
                }
            }
            next.map(|new| freeze(tx, destination, new, None)).transpose()
        })
    }

    /// Takes back a batch that definitely did not arrive: its position in the stream is free again, and its rows return to their previous
    /// state, except those that are settled individually. Rows that were uncertain become uncertain again, in batches of at most `room`
    /// rows.
    pub fn release(
        &mut self,
        batch: &Batch,
        settled: &[(i64, RowDisposition)],
        batch_limit: usize,
        reason: &str,
    ) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("taking a batch back", |tx| {
            let settle = |n, how, reason| settle(tx, destination, n, how, reason);
            remove(tx, batch)?;
            if let Some((stream, offset)) = &batch.place {
                // The positions of later frozen batches follow its own, so no other batch may use its position.
                let followed = tx
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM batches WHERE destination = ?1 AND state = 'frozen' AND n > ?2)",
                    )?
                    .query_row(params![destination, batch.id], |row| row.get(0))?;
                let sql = if followed {
                    "DELETE FROM streams WHERE destination = ?1 AND target = ?2 AND stream = ?3 AND ?4 IS NOT NULL"
                } else {
                    "UPDATE streams SET next_offset = ?4 WHERE destination = ?1 AND target = ?2 AND stream = ?3"
                };
                tx.execute(sql, params![destination, batch.target, stream, offset])?;
            }
            for (n, how) in settled {
                match how {
                    RowDisposition::Refused(reason) => settle(*n, "refused", Some(reason.as_str()))?,
                    RowDisposition::Suspect(reason) => settle(*n, "suspect", Some(reason.as_str()))?,
                    RowDisposition::Present => settle(*n, "present", None)?,
                }
            }
            match batch.was {
                None => Ok(()),
                Some(was @ (Was::Refused | Was::Suspect)) => {
                    rest_of(tx, destination, batch)?.into_iter().try_for_each(|n| settle(n, was.as_str(), Some(reason)))
                }
                Some(Was::Uncertain) => without_holes(&rest_of(tx, destination, batch)?)
                    .flat_map(|part| part.chunks(batch_limit.max(1)))
                    .try_for_each(|rows| {
                        tx.execute(
                            "INSERT INTO batches (destination, target, first, last, rows, state, reason, made_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, 'uncertain', ?6, ?7)",
                            params![
                                destination,
                                batch.target,
                                rows.first(),
                                rows.last(),
                                i64::try_from(rows.len()).unwrap_or(i64::MAX),
                                reason,
                                crate::host::clock::now_micros()
                            ],
                        )
                        .map(drop)
                    }),
            }
        })
    }

    /// Marks a batch as uncertain because it cannot be determined whether it arrived; later batches are unaffected.
    pub fn give_up(&mut self, batch: &Batch, reason: &str) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("setting a batch aside", |tx| give_up(tx, destination, batch, reason))
    }

    /// Makes pending rows uncertain, or a suspect, that another store may have delivered. They are not sent.
    pub fn set_uncertain(&mut self, new: &NewBatch, was: Option<Was>, reason: &str) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("setting a batch aside", |tx| {
            if was == Some(Was::Suspect) {
                unsettle(tx, destination, new.first)?;
            }
            let batch = freeze(tx, destination, new, was)?;
            give_up(tx, destination, &batch, reason)
        })
    }

    /// Freezes an uncertain batch again at a new position, to be resent although it may have arrived.
    pub fn send_again(&mut self, batch: &Batch, new: &NewBatch) -> Result<Batch, StoreError> {
        let destination = &self.destination;
        self.store.write("sending a batch again", |tx| {
            remove(tx, batch)?;
            freeze(tx, destination, new, Some(Was::Uncertain))
        })
    }

    /// Freezes a batch of these events, which were set aside, as `was` says, to be resent. All events between them are settled individually.
    pub fn send_set_aside_again(&mut self, was: Was, events: &[i64], new: &NewBatch) -> Result<Batch, StoreError> {
        let destination = &self.destination;
        self.store.write("sending events again", |tx| {
            events.iter().try_for_each(|event| unsettle(tx, destination, *event))?;
            freeze(tx, destination, new, Some(was))
        })
    }

    /// Records what became of a suspect without sending it: it is in the destination, or damaged.
    pub fn resolve_suspect(&mut self, event: i64, is_present: bool) -> Result<(), StoreError> {
        let destination = &self.destination;
        let (how, reason) = if is_present { ("present", None) } else { ("refused", Some(DAMAGED)) };
        self.store.write("recording a delivery", |tx| {
            unsettle(tx, destination, event)?;
            settle(tx, destination, event, how, reason)
        })
    }

    /// Removes an uncertain batch whose rows are all settled individually.
    pub fn forget(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.store.write("removing a batch", |tx| remove(tx, batch))
    }

    /// Returns the row of one event, if it still exists.
    pub fn row(&self, event: i64) -> Result<Option<OutRow>, StoreError> {
        Ok(self.out_rows(&format!("{ROW} WHERE e.n = ?1"), [event], usize::MAX)?.pop())
    }

    /// Returns the target of the last batch.
    pub fn delivered_into(&self) -> Result<Option<String>, StoreError> {
        self.store.read("reading the state of delivery", |db| {
            db.query_row("SELECT target FROM outbox WHERE destination = ?1", [&self.destination], |row| row.get(0))
        })
    }

    /// Whether there are events that have not been sent yet. Suspects have been sent.
    pub fn has_unsent(&self) -> Result<bool, StoreError> {
        self.store.read("looking for events to deliver", |db| {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM events e WHERE {})", unsent("?1"));
            db.prepare_cached(&sql)?.query_row([&self.destination], |row| row.get(0))
        })
    }

    /// Whether there are events to send, of one run or in total.
    pub fn has_pending(&self, run_id: Option<&str>) -> Result<bool, StoreError> {
        self.store.read("looking for events to deliver", |db| {
            let run = if run_id.is_some() { "e.run = (SELECT n FROM runs WHERE run_id = ?2)" } else { "?2 IS NULL" };
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM events e WHERE {run} AND {})
                    OR EXISTS (SELECT 1 FROM settled s JOIN events e ON e.n = s.event
                        WHERE s.destination = ?1 AND s.how = 'suspect' AND {run})",
                unsent("?1")
            );
            db.prepare_cached(&sql)?.query_row(params![self.destination, run_id], |row| row.get(0))
        })
    }
}

/// Approximate size of a row in addition to its payload.
const ENVELOPE: usize = 300;

fn remove(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let removed = tx.prepare_cached("DELETE FROM batches WHERE n = ?1")?.execute([batch.id])?;
    // Only the holder of the delivery lock gets here: if the batch is gone, another process has settled it.
    if removed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}

/// Freezes a batch: commits its rows and its position, the next one in its stream.
fn freeze(tx: &Transaction<'_>, destination: &str, new: &NewBatch, was: Option<Was>) -> rusqlite::Result<Batch> {
    let (place, boot) = match &new.stream {
        None => (None, None),
        Some(stream) => {
            let (offset, boot): (i64, Option<String>) = tx
                .prepare_cached(
                    "UPDATE streams SET next_offset = next_offset + ?4
                     WHERE destination = ?1 AND target = ?2 AND stream = ?3 RETURNING next_offset - ?4, boot",
                )?
                .query_row(params![destination, new.target, stream, new.length], |row| Ok((row.get(0)?, row.get(1)?)))?;
            (Some((stream.clone(), offset)), boot)
        }
    };
    tx.prepare_cached(
        "INSERT INTO batches (destination, target, stream, start, length, first, last, rows, state, was, made_at, boot)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'frozen', ?9, ?10, ?11)",
    )?
    .execute(params![
        destination,
        new.target,
        place.as_ref().map(|(stream, _)| stream),
        place.as_ref().map(|(_, offset)| offset),
        new.length,
        new.first,
        new.last,
        new.rows,
        was.map(Was::as_str),
        crate::host::clock::now_micros(),
        boot
    ])?;
    Ok(Batch {
        id: tx.last_insert_rowid(),
        target: new.target.clone(),
        place,
        length: new.length,
        first: new.first,
        last: new.last,
        rows: new.rows,
        was,
        boot,
    })
}

/// See [`Outbox::give_up`].
fn give_up(tx: &Transaction<'_>, destination: &str, batch: &Batch, reason: &str) -> rusqlite::Result<()> {
    // They stay pending, and the mark passes them, as it does suspects.
    pending_before(tx, destination, batch)?
        .into_iter()
        .try_for_each(|n| settle(tx, destination, n, "suspect", Some("it is not known whether a batch after it arrived")))?;
    let rest = rest_of(tx, destination, batch)?;
    let mut parts = without_holes(&rest);
    let head = parts.next().unwrap_or_default();
    let (first, last) = head.first().zip(head.last()).unwrap_or((&batch.first, &batch.last));
    tx.execute(
        "UPDATE batches SET state = 'uncertain', reason = ?2, first = ?3, last = ?4, rows = ?5 WHERE n = ?1",
        params![batch.id, reason, first, last, last - first + 1],
    )?;
    for part in parts {
        let ([first, ..], [.., last]) = (part, part) else { continue };
        tx.prepare_cached(
            "INSERT INTO batches (destination, target, stream, start, length, first, last, rows, state, was, reason, made_at, boot)
             SELECT destination, target, stream, start, length, ?2, ?3, ?4, 'uncertain', was, ?5, made_at, boot
             FROM batches WHERE n = ?1",
        )?
        .execute(params![batch.id, first, last, last - first + 1, reason])?;
    }
    tx.execute("UPDATE outbox SET delivered_to = max(delivered_to, ?2) WHERE destination = ?1", params![destination, batch.last])
        .map(drop)
}

fn settle(tx: &Transaction<'_>, destination: &str, event: i64, how: &str, reason: Option<&str>) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO settled (destination, event, how, reason, at) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    statement.execute(params![destination, event, how, reason, crate::host::clock::now_micros()]).map(drop)
}

fn unsettle(tx: &Transaction<'_>, destination: &str, event: i64) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM settled WHERE destination = ?1 AND event = ?2", params![destination, event]).map(drop)
}

/// Returns the pending events before the oldest frozen batch: a batch before it was taken back. `batch` is the oldest one, or was.
fn pending_before(tx: &Transaction<'_>, destination: &str, batch: &Batch) -> rusqlite::Result<Vec<i64>> {
    debug_assert!(is_oldest(tx, destination, batch)?, "a batch before it is in flight, and its rows are not pending");
    let sql = format!("SELECT e.n FROM events e WHERE e.n < ?2 AND {} ORDER BY e.n", unsent("?1"));
    tx.prepare_cached(&sql)?.query_map(params![destination, batch.first], |row| row.get(0))?.collect()
}

/// Whether no frozen batch is older.
fn is_oldest(tx: &Transaction<'_>, destination: &str, batch: &Batch) -> rusqlite::Result<bool> {
    let sql = "SELECT NOT EXISTS (SELECT 1 FROM batches WHERE destination = ?1 AND state = 'frozen' AND n < ?2)";
    tx.prepare_cached(sql)?.query_row(params![destination, batch.id], |row| row.get(0))
}

/// Returns the rows of a batch that are not settled individually.
fn rest_of(tx: &Transaction<'_>, destination: &str, batch: &Batch) -> rusqlite::Result<Vec<i64>> {
    let sql = format!("SELECT e.n FROM events e WHERE e.n BETWEEN ?2 AND ?3 AND {UNSETTLED} ORDER BY e.n");
    let mut statement = tx.prepare_cached(&sql)?;
    statement.query_map(params![destination, batch.first, batch.last], |row| row.get(0))?.collect()
}

/// Splits the rows of a batch at individually settled rows. Such a row may be resent on its own, if it was refused. So the range of an
/// uncertain batch must not include it: no event may be in two batches.
fn without_holes(rows: &[i64]) -> impl Iterator<Item = &[i64]> {
    rows.chunk_by(|one, next| next - one == 1)
}
