//! The store as an outbox: how far its events are delivered, and what is on its way.
//!
//! Delivered is a mark, not a flag on every event: all events up to it are settled. Beyond it there is at most one batch that
//! is *frozen*: which rows, at which place, committed before anything is sent, so that after any crash the very same rows can
//! be sent to the very same place again. Single rows that the server will never take, or that turned out to be there already, are
//! listed one by one.
//!
//! Only the holder of the delivery lock writes here; anybody may read.

#[cfg(test)]
mod properties;

use super::{Store, StoreError};
use crate::delivery::Row;
use rusqlite::{OptionalExtension, Transaction, params};
use std::time::Duration;

/// An event on its way out, with its number in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRow {
    /// Its number, which orders all events of a store.
    pub n: i64,
    /// What is sent.
    pub row: Row,
}

/// Rows that are sent together: all that are not settled, from `first` to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub id: i64,
    /// The table, as [`crate::delivery::Destination::name`] says it.
    pub destination: String,
    /// Stream and row offset; `None`: into the table, at least once.
    pub place: Option<(String, i64)>,
    /// Number of its first event.
    pub first: i64,
    /// Number of its last event.
    pub last: i64,
    /// How many rows it has.
    pub rows: i64,
    /// What its rows were, if it is sent on request; `None`: pending.
    pub was: Option<Was>,
}

/// What rows were before they were sent once more on request. They lie behind the delivered mark: taken back, they must become that again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Set aside: the server had refused them.
    Refused,
    /// Set aside on suspicion: the server had refused them, and nothing landed after that.
    Suspect,
    /// Of unknown fate.
    Uncertain,
}

/// A batch that is to be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBatch {
    /// The table.
    pub destination: String,
    /// The stream it goes to; its offset is what was given out before.
    pub stream: Option<String>,
    /// Number of its first event.
    pub first: i64,
    /// Number of its last event.
    pub last: i64,
    /// How many rows it has.
    pub rows: i64,
}

/// A row that is settled by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The server will never take it, for this reason.
    Refused(String),
    /// The server refused it, and that may be the server's fault: it counts as pending, and others go before it.
    Suspect(String),
    /// It is in the table already.
    Present,
}

/// What is not delivered, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// To be sent.
    pub pending: u64,
    /// Set aside: the server refused them.
    pub refused: u64,
    /// Sent, and it cannot be found out whether they arrived.
    pub uncertain: u64,
}

/// A destination that did not answer is left alone for a while, by everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circuit {
    /// Until then, in microseconds since 1970.
    pub until: i64,
    /// What had happened.
    pub reason: String,
    /// Which destination, as [`crate::delivery::Destination::route`] says it: another one is not meant.
    pub route: String,
}

/// The longest that a circuit is open: one that seems to be open for longer was opened before the clock was set back.
pub const CIRCUIT: Duration = Duration::from_secs(60);

const ROW: &str =
    "SELECT e.n, e.event_id, e.event_type, r.package, r.job, e.schema_ref, e.created_at, e.correlation_id, e.subject_id,
    e.payload, r.run_id, e.attempt FROM events e JOIN runs r ON r.n = e.run";

impl Store {
    /// The next events to send after event number `after`, whose delivery need not be recorded yet, oldest first: at most `rows` of them,
    /// and no more once `bytes` of payload are reached.
    pub fn pending_rows(&self, after: i64, rows: usize, bytes: usize) -> Result<Vec<OutRow>, StoreError> {
        let sql = format!(
            "{ROW} WHERE e.n > max(?1, (SELECT delivered_to FROM outbox)) AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n)
             ORDER BY e.n LIMIT ?2"
        );
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        self.out_rows(&sql, params![after, limit], bytes)
    }

    /// Moves the delivered mark over events that are all settled by themselves: nothing is pending.
    pub fn pass_settled(&mut self) -> Result<(), StoreError> {
        self.write("recording a delivery", |tx| {
            tx.execute(
                &format!(
                    "UPDATE outbox SET delivered_to = max(delivered_to, (SELECT coalesce(max(n), 0) FROM events))
                     WHERE NOT EXISTS (SELECT 1 FROM events e WHERE {UNSENT})"
                ),
                [],
            )?;
            Ok(())
        })
    }

    /// The rows of a batch, as they were when it was frozen.
    pub fn rows_of(&self, batch: &Batch) -> Result<Vec<OutRow>, StoreError> {
        let sql =
            format!("{ROW} WHERE e.n BETWEEN ?1 AND ?2 AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n) ORDER BY e.n");
        self.out_rows(&sql, params![batch.first, batch.last], usize::MAX)
    }

    fn out_rows(&self, sql: &str, values: impl rusqlite::Params, bytes: usize) -> Result<Vec<OutRow>, StoreError> {
        self.read("reading events to deliver", |db| {
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
                found.push(OutRow {
                    n: row.get(0)?,
                    row: Row {
                        event_id: row.get(1)?,
                        event_type: row.get(2)?,
                        source: format!("{package}/{job}"),
                        schema_ref: row.get(5)?,
                        created_at: row.get(6)?,
                        correlation_id: Some(row.get::<_, Option<String>>(7)?.unwrap_or_else(|| run_id.clone())),
                        subject_id: row.get(8)?,
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

    /// The batch that is frozen, if there is one.
    pub fn frozen_batch(&self) -> Result<Option<Batch>, StoreError> {
        self.read("reading batches", |db| {
            let mut statement = db.prepare_cached(&format!("{BATCH} WHERE state = 'frozen' ORDER BY n LIMIT 1"))?;
            statement.query_row([], batch).optional()
        })
    }

    /// All batches of which it cannot be found out whether they arrived, oldest first.
    pub fn uncertain_batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.read("reading batches", |db| {
            let mut statement = db.prepare(&format!("{BATCH} WHERE state = 'uncertain' ORDER BY n"))?;
            statement.query_map([], batch)?.collect()
        })
    }

    /// The first suspect after event number `after`.
    pub fn suspect(&self, after: i64) -> Result<Option<i64>, StoreError> {
        self.read("reading suspects", |db| {
            let mut statement = db.prepare_cached("SELECT min(event) FROM settled WHERE how = 'suspect' AND event > ?1")?;
            statement.query_row([after], |row| row.get(0))
        })
    }

    /// The first event after event number `after` that the server refused and whose payload is still there.
    pub fn refused_event(&self, after: i64) -> Result<Option<i64>, StoreError> {
        self.read("reading refused events", |db| {
            db.query_row(
                "SELECT min(s.event) FROM settled s JOIN events e ON e.n = s.event JOIN runs r ON r.n = e.run
                 WHERE s.how = 'refused' AND r.payloads AND s.event > ?1",
                [after],
                |row| row.get(0),
            )
        })
    }

    /// In one transaction: `done` is delivered, and `next` is frozen. After return, `next` may be sent.
    pub fn advance(&mut self, done: Option<&Batch>, next: Option<&NewBatch>) -> Result<Option<Batch>, StoreError> {
        self.write("recording a delivery", |tx| {
            if let Some(done) = done {
                remove(tx, done)?;
                tx.prepare_cached("UPDATE outbox SET delivered_to = max(delivered_to, ?1), destination = ?2")?
                    .execute(params![done.last, done.destination])?;
            }
            next.map(|new| freeze(tx, new, None)).transpose()
        })
    }

    /// The batch did not arrive, for certain: its place in the stream is free again, and its rows are what they were before it, but for
    /// those that are settled by themselves. Rows that were uncertain are so again in batches of `room` rows at most.
    pub fn release(&mut self, batch: &Batch, settled: &[(i64, Settled)], room: usize, reason: &str) -> Result<(), StoreError> {
        self.write("taking a batch back", |tx| {
            remove(tx, batch)?;
            if let Some((stream, offset)) = &batch.place {
                tx.execute(
                    "UPDATE streams SET next_offset = ?3 WHERE destination = ?1 AND stream = ?2",
                    params![batch.destination, stream, offset],
                )?;
            }
            for (n, how) in settled {
                match how {
                    Settled::Refused(reason) => settle(tx, *n, "refused", Some(reason))?,
                    Settled::Suspect(reason) => settle(tx, *n, "suspect", Some(reason))?,
                    Settled::Present => settle(tx, *n, "present", None)?,
                }
            }
            match batch.was {
                None => Ok(()),
                Some(was @ (Was::Refused | Was::Suspect)) => {
                    unsettled(tx, batch)?.into_iter().try_for_each(|n| settle(tx, n, was.as_str(), Some(reason)))
                }
                Some(Was::Uncertain) => unsettled(tx, batch)?.chunks(room.max(1)).try_for_each(|rows| {
                    tx.execute(
                        "INSERT INTO batches (destination, first, last, rows, state, reason, made_at)
                         VALUES (?1, ?2, ?3, ?4, 'uncertain', ?5, ?6)",
                        params![
                            batch.destination,
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

    /// It cannot be found out whether the batch arrived: it is kept as uncertain, and what follows goes on.
    pub fn give_up(&mut self, batch: &Batch, reason: &str) -> Result<(), StoreError> {
        self.write("setting a batch aside", |tx| {
            tx.execute("UPDATE batches SET state = 'uncertain', reason = ?2 WHERE n = ?1", params![batch.id, reason])?;
            tx.execute("UPDATE outbox SET delivered_to = max(delivered_to, ?1)", [batch.last])?;
            Ok(())
        })
    }

    /// Makes an uncertain batch the frozen one again, at a new place: to be sent although it may be there.
    pub fn send_again(&mut self, batch: &Batch, destination: &str, stream: Option<&str>) -> Result<(), StoreError> {
        self.write("sending a batch again", |tx| {
            remove(tx, batch)?;
            let new = NewBatch {
                destination: destination.to_owned(),
                stream: stream.map(str::to_owned),
                first: batch.first,
                last: batch.last,
                rows: batch.rows,
            };
            freeze(tx, &new, Some(Was::Uncertain)).map(drop)
        })
    }

    /// Makes a frozen batch of one event that was set aside, as `was` says: to be sent once more.
    pub fn send_one_again(&mut self, event: i64, was: Was, destination: &str, stream: Option<&str>) -> Result<(), StoreError> {
        self.write("sending an event again", |tx| {
            tx.execute("DELETE FROM settled WHERE event = ?1", [event])?;
            let (destination, stream) = (destination.to_owned(), stream.map(str::to_owned));
            freeze(tx, &NewBatch { destination, stream, first: event, last: event, rows: 1 }, Some(was)).map(drop)
        })
    }

    /// The stream of a table that was used after `since` (microseconds since 1970).
    pub fn stream(&self, destination: &str, since: i64) -> Result<Option<String>, StoreError> {
        self.read("reading streams", |db| {
            db.query_row(
                "SELECT stream FROM streams WHERE destination = ?1 AND used_at > ?2",
                params![destination, since],
                |row| row.get(0),
            )
            .optional()
        })
    }

    /// From now on, batches for this table go to this new, empty stream.
    pub fn use_stream(&mut self, destination: &str, stream: &str) -> Result<(), StoreError> {
        self.write("recording a stream", |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO streams (destination, stream, next_offset, used_at) VALUES (?1, ?2, 0, ?3)",
                params![destination, stream, crate::host::clock::now_micros()],
            )?;
            Ok(())
        })
    }

    /// No batch goes to the table's stream any more.
    pub fn leave_stream(&mut self, destination: &str) -> Result<(), StoreError> {
        self.write("leaving a stream", |tx| {
            tx.execute("DELETE FROM streams WHERE destination = ?1", [destination])?;
            Ok(())
        })
    }

    /// The circuit of `route`, if it is open at `now` (microseconds since 1970).
    pub fn circuit(&self, route: &str, now: i64) -> Result<Option<Circuit>, StoreError> {
        let latest = now.saturating_add(i64::try_from(CIRCUIT.as_micros()).unwrap_or(i64::MAX));
        self.read("reading the state of delivery", |db| {
            db.query_row(
                "SELECT closed_until, closed_reason, closed_route FROM outbox
                 WHERE closed_route = ?1 AND closed_until > ?2 AND closed_until <= ?3",
                params![route, now, latest],
                |row| Ok(Circuit { until: row.get(0)?, reason: row.get(1)?, route: row.get(2)? }),
            )
            .optional()
        })
    }

    /// Opens the circuit, or closes it.
    pub fn set_circuit(&mut self, circuit: Option<&Circuit>) -> Result<(), StoreError> {
        self.write("recording the state of delivery", |tx| {
            tx.execute(
                "UPDATE outbox SET closed_until = ?1, closed_reason = ?2, closed_route = ?3",
                params![circuit.map_or(0, |c| c.until), circuit.map(|c| &c.reason), circuit.map(|c| &c.route)],
            )?;
            Ok(())
        })
    }

    /// The table that the last batch went to.
    pub fn delivered_into(&self) -> Result<Option<String>, StoreError> {
        self.read("reading the state of delivery", |db| db.query_row("SELECT destination FROM outbox", [], |row| row.get(0)))
    }

    /// Whether there is anything that was not sent yet: suspects have been.
    pub fn has_unsent(&self) -> Result<bool, StoreError> {
        self.read("looking for events to deliver", |db| {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM events e WHERE {UNSENT})");
            db.prepare_cached(&sql)?.query_row([], |row| row.get(0))
        })
    }

    /// Whether there is anything to send; of one run, or at all.
    pub fn has_pending(&self, run_id: Option<&str>) -> Result<bool, StoreError> {
        self.read("looking for events to deliver", |db| {
            let run = if run_id.is_some() { "e.run = (SELECT n FROM runs WHERE run_id = ?1)" } else { "?1 IS NULL" };
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM events e WHERE {run} AND {UNSENT})
                    OR EXISTS (SELECT 1 FROM settled s JOIN events e ON e.n = s.event WHERE s.how = 'suspect' AND {run})"
            );
            db.prepare_cached(&sql)?.query_row([run_id], |row| row.get(0))
        })
    }

    /// All that is not delivered; of one run, or of all.
    pub fn backlog(&self, run_id: Option<&str>) -> Result<Backlog, StoreError> {
        self.read("counting what is not delivered", |db| {
            let run = if run_id.is_some() { "e.run = (SELECT n FROM runs WHERE run_id = ?1)" } else { "?1 IS NULL" };
            let count = |sql: &str| {
                let count = db.prepare_cached(sql)?.query_row([run_id], |row| row.get::<_, i64>(0));
                count.map(i64::unsigned_abs)
            };
            let events = |beyond: &str| count(&format!("SELECT count(*) FROM events e WHERE {run} AND {beyond}"));
            Ok(Backlog {
                pending: events(UNSENT)? + events(SUSPECT)?,
                refused: events(SET_ASIDE)?,
                // By the batches, which are few, and not by all events there are.
                uncertain: count(&format!(
                    "SELECT count(*) FROM batches b CROSS JOIN events e ON e.n BETWEEN b.first AND b.last
                     WHERE b.state = 'uncertain' AND {run} AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n)"
                ))?,
            })
        })
    }
}

/// Conditions on an event `e` of which few are looked at, by its delivery.
pub(super) const PENDING: &str =
    "(e.n > (SELECT delivered_to FROM outbox) AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n)
    OR EXISTS (SELECT 1 FROM settled WHERE event = e.n AND how = 'suspect'))";
pub(super) const REFUSED: &str = "EXISTS (SELECT 1 FROM settled WHERE event = e.n AND how = 'refused')";
pub(super) const UNCERTAIN: &str =
    "EXISTS (SELECT 1 FROM batches b WHERE b.state = 'uncertain' AND e.n BETWEEN b.first AND b.last)
    AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n)";
/// Why it is of unknown fate.
pub(super) const WHY_UNCERTAIN: &str =
    "(SELECT reason FROM batches b WHERE b.state = 'uncertain' AND e.n BETWEEN b.first AND b.last)";
/// Not settled by itself.
pub(super) const UNSETTLED: &str = "NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n)";
/// The kinds of events that are not delivered, each fast to find.
const UNSENT: &str = "e.n > (SELECT delivered_to FROM outbox) AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n)";
const SUSPECT: &str = "e.n IN (SELECT event FROM settled WHERE how = 'suspect')";
const SET_ASIDE: &str = "e.n IN (SELECT event FROM settled WHERE how = 'refused')";

/// Bytes that a row has beside its payload, about.
const ENVELOPE: usize = 300;

fn remove(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let removed = tx.prepare_cached("DELETE FROM batches WHERE n = ?1")?.execute([batch.id])?;
    // Only the holder of the delivery lock gets here: a batch that is gone was somebody else's, and so is its outcome.
    if removed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}

impl Was {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Suspect => "suspect",
            Self::Uncertain => "uncertain",
        }
    }

    fn read(text: &str) -> Self {
        match text {
            "refused" => Self::Refused,
            "suspect" => Self::Suspect,
            _ => Self::Uncertain,
        }
    }
}

/// What [`batch`] reads.
const BATCH: &str = "SELECT n, destination, stream, row_offset, first, last, rows, was FROM batches";

fn batch(row: &rusqlite::Row<'_>) -> rusqlite::Result<Batch> {
    let was: Option<String> = row.get(7)?;
    Ok(Batch {
        id: row.get(0)?,
        destination: row.get(1)?,
        place: row.get::<_, Option<String>>(2)?.zip(row.get(3)?),
        first: row.get(4)?,
        last: row.get(5)?,
        rows: row.get(6)?,
        was: was.as_deref().map(Was::read),
    })
}

/// Commits a batch to its rows and to its place, the next one of its stream.
fn freeze(tx: &Transaction<'_>, new: &NewBatch, was: Option<Was>) -> rusqlite::Result<Batch> {
    let place = match &new.stream {
        None => None,
        Some(stream) => {
            let offset: i64 = tx
                .prepare_cached(
                    "UPDATE streams SET next_offset = next_offset + ?3, used_at = ?4 WHERE destination = ?1 AND stream = ?2
                     RETURNING next_offset - ?3",
                )?
                .query_row(params![new.destination, stream, new.rows, crate::host::clock::now_micros()], |row| row.get(0))?;
            Some((stream.clone(), offset))
        }
    };
    tx.prepare_cached(
        "INSERT INTO batches (destination, stream, row_offset, first, last, rows, state, was, made_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'frozen', ?7, ?8)",
    )?
    .execute(params![
        new.destination,
        place.as_ref().map(|(stream, _)| stream),
        place.as_ref().map(|(_, offset)| offset),
        new.first,
        new.last,
        new.rows,
        was.map(Was::as_str),
        crate::host::clock::now_micros()
    ])?;
    Ok(Batch {
        id: tx.last_insert_rowid(),
        destination: new.destination.clone(),
        place,
        first: new.first,
        last: new.last,
        rows: new.rows,
        was,
    })
}

fn settle(tx: &Transaction<'_>, event: i64, how: &str, reason: Option<&str>) -> rusqlite::Result<()> {
    let mut statement =
        tx.prepare_cached("INSERT INTO settled (event, how, reason, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?;
    statement.execute(params![event, how, reason, crate::host::clock::now_micros()]).map(drop)
}

/// The rows of a batch that are not settled by themselves.
fn unsettled(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<Vec<i64>> {
    let mut statement = tx.prepare_cached(
        "SELECT e.n FROM events e WHERE e.n BETWEEN ?1 AND ?2 AND NOT EXISTS (SELECT 1 FROM settled WHERE event = e.n) ORDER BY e.n",
    )?;
    statement.query_map([batch.first, batch.last], |row| row.get(0))?.collect()
}
