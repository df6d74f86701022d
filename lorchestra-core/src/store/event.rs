//! Ingests events from a spool, and reads them for people.

use super::checksum::Covered;
use super::own::OwnType;
use super::{Store, StoreError, outbox, results};
use crate::spool::Cursor;
use crate::spool::record::{Final, Mark, Record};
use chrono::{DateTime, SecondsFormat};
use lorchestra_plugin_api::limits;
use lorchestra_plugin_api::results::Results;
use rusqlite::{Row, Transaction, params};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

/// Number of records in one transaction that counts as a flood.
const MANY: usize = 500;

/// One event with the columns of the envelope. `payload` and `subject_id` may be personal data.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Event {
    /// UUIDv7; never changes.
    pub event_id: String,
    /// One of lorchestra's own types, or a type of the job.
    pub event_type: String,
    /// `package/job`.
    pub source: String,
    /// Where to find the schema of the payload.
    pub schema_ref: Option<String>,
    /// When the event was emitted: RFC 3339, UTC, with microseconds; for times outside the years 0001 to 9999, microseconds since 1970 as
    /// text.
    pub created_at: String,
    /// The run id, unless the job sets another one.
    pub correlation_id: String,
    /// The person that the event is about; personal data.
    pub subject_id: Option<String>,
    /// A JSON object of at most 1 MiB and 100 levels; null without `--payload`, or if retention has removed it.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub payload: Option<Box<RawValue>>,
    /// The run that emitted the event.
    pub run_id: String,
    /// The attempt of the run, from 1; 0 for a skipped, refused or claimed run.
    pub attempt: u32,
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Why the server will never accept it, or why its result is unknown; only if the filter selects such events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_error: Option<String>,
    /// Whether the event does not match the checksum with which it was stored, because something else has changed the database.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub damaged: bool,
}

/// Which events to read; `None` means any.
#[derive(Debug, Default, Clone)]
pub struct EventFilter {
    /// Events of the run with this full id.
    pub run_id: Option<String>,
    /// Events of this type.
    pub event_type: Option<String>,
    /// Events emitted at or after this time, in microseconds since 1970.
    pub since: Option<i64>,
    /// Events in this state of delivery at the destination with this name.
    pub delivery: Option<(Undelivered, String)>,
}

impl EventFilter {
    /// Returns the statements that read the events, one after the other. Each uses one index and filters its rows by the other conditions:
    /// a `+` prevents a condition from using another index, and a `CROSS JOIN` keeps the order of the tables.
    fn statements(&self) -> Vec<String> {
        let select = |reason: &str, from: &str, order: &str| {
            // The view `envelope` has no text for a time that is out of range.
            format!(
                "SELECT e.event_id, e.event_type, r.package || '/' || r.job AS source, e.schema_ref, e.created_at,
                    coalesce(e.correlation_id, r.run_id) AS correlation_id, e.subject_id, e.payload, r.run_id, e.attempt, r.package, r.job,
                    e.correlation_id AS own_correlation_id, e.checksum, {reason} AS delivery_error FROM {from} CROSS JOIN runs r ON r.n = e.run
                 WHERE (?1 IS NULL OR r.run_id = ?1) AND (?2 IS NULL OR +e.event_type = ?2) AND (?3 IS NULL OR +e.created_at >= ?3)
                    AND (?4 IS NULL OR TRUE)
                 ORDER BY {order}"
            )
        };
        let delivery = self.delivery.as_ref().map(|(state, _)| *state);
        let mark = outbox::delivered_to("?4");
        if self.run_id.is_some() {
            let (reason, delivery) = match delivery {
                None => ("NULL".to_owned(), "TRUE".to_owned()),
                Some(Undelivered::Pending) => ("NULL".to_owned(), outbox::pending("?4")),
                Some(Undelivered::Refused) => {
                    ("(SELECT reason FROM settled WHERE destination = ?4 AND event = e.n)".to_owned(), outbox::refused("?4"))
                }
                Some(Undelivered::Uncertain) => (outbox::why_uncertain("?4"), outbox::uncertain("?4")),
            };
            let from = format!("(SELECT * FROM events e WHERE run = (SELECT n FROM runs WHERE run_id = ?1) AND {delivery}) e");
            return vec![select(&reason, &from, "e.n")];
        }
        match (delivery, &self.event_type, self.since) {
            // Suspects may be on both sides of the mark.
            (Some(Undelivered::Pending), ..) => vec![
                select(
                    "NULL",
                    &format!(
                        "(SELECT event FROM settled WHERE destination = ?4 AND how = 'suspect' AND event <= {mark}) s
                         CROSS JOIN events e ON e.n = s.event"
                    ),
                    "s.event",
                ),
                select("NULL", &format!("(SELECT * FROM events e WHERE n > {mark} AND {}) e", outbox::pending("?4")), "e.n"),
            ],
            (Some(Undelivered::Refused), ..) => vec![select(
                "s.reason",
                "(SELECT event, reason FROM settled WHERE destination = ?4 AND how = 'refused') s CROSS JOIN events e ON e.n = s.event",
                "s.event",
            )],
            (Some(Undelivered::Uncertain), ..) => vec![select(
                "b.reason",
                &format!(
                    "(SELECT * FROM batches WHERE destination = ?4 AND state = 'uncertain') b
                     CROSS JOIN events e ON e.n BETWEEN b.first AND b.last AND {}",
                    outbox::unsettled("?4")
                ),
                "b.first, e.n",
            )],
            (None, Some(_), None) => vec![select("NULL", "(SELECT * FROM events WHERE event_type = ?2) e", "e.created_at, e.n")],
            (None, Some(_), Some(_)) => {
                vec![select("NULL", "(SELECT * FROM events WHERE event_type = ?2 AND created_at >= ?3) e", "e.created_at, e.n")]
            }
            (None, None, Some(_)) => vec![select("NULL", "(SELECT * FROM events WHERE created_at >= ?3) e", "e.created_at, e.n")],
            (None, None, None) => vec![select("NULL", "events e", "e.created_at, e.n")],
        }
    }
}

/// Why an event is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// To be sent.
    Pending,
    /// The server will never accept it.
    Refused,
    /// It was sent, and it could not be determined whether it arrived.
    Uncertain,
}

/// The contents of an attempt's spool that the store has ingested.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IngestState {
    /// Where the next read starts.
    pub cursor: Cursor,
    /// Whether the job was called.
    pub entered: bool,
    /// Its final record.
    pub end: Option<Final>,
    /// Number of complete lines that are not valid records.
    pub damaged: u64,
    /// What the job reported.
    pub results: Results,
}

impl IngestState {
    /// Updates the state with records other than events.
    pub(crate) fn note(&mut self, records: &[Record<'_>]) {
        for record in records {
            self.entered |= record.mark == Some(Mark::Entered);
            if let Some(end) = &record.end {
                self.end = Some(end.clone());
            }
            if let Some(results) = &record.results {
                self.results = results.clone();
            }
        }
    }
}

/// Some of a spool's records, to be ingested together.
#[derive(Debug, Clone, Copy)]
pub struct Portion<'a> {
    /// The records, in order.
    pub records: &'a [Record<'a>],
    /// Where the store must be for it: the position after the portion before.
    pub after: Cursor,
    /// Where the next portion starts.
    pub end: Cursor,
    /// Number of lines among them that are not valid records.
    pub damaged: u64,
}

impl Store {
    /// Returns what has been ingested of an attempt.
    pub fn ingested(&self, run_id: &str, attempt: u32) -> Result<IngestState, StoreError> {
        self.read("reading an attempt", |db| {
            db.query_row(
                "SELECT cursor_segment, cursor_byte, entered, final, damaged, results FROM attempts
                 WHERE run = (SELECT n FROM runs WHERE run_id = ?1) AND attempt = ?2",
                params![run_id, attempt],
                |row| {
                    let end: Option<String> = row.get(3)?;
                    let results: Option<String> = row.get(5)?;
                    Ok(IngestState {
                        cursor: Cursor { segment: row.get(0)?, byte: row.get::<_, i64>(1)?.unsigned_abs() },
                        entered: row.get(2)?,
                        end: end.and_then(|json| serde_json::from_str(&json).ok()),
                        damaged: row.get::<_, i64>(4)?.unsigned_abs(),
                        results: results.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
                    })
                },
            )
        })
    }

    /// Inserts the events of a portion and moves the cursor in one transaction. `ingested` is the state so far, and is updated after the
    /// commit. Returns `false`, and changes nothing, if the store has another cursor: it was restored to an earlier state in the meantime.
    pub fn ingest(
        &mut self,
        run_id: &str,
        attempt: u32,
        portion: Portion<'_>,
        ingested: &mut IngestState,
    ) -> Result<bool, StoreError> {
        let Portion { records, after, end, damaged } = portion;
        let mut next = ingested.clone();
        next.cursor = end;
        next.damaged += damaged;
        next.note(records);
        if records.len() > MANY {
            self.expect_flood()?;
        }
        let is_next = self.write("ingesting events", |tx| {
            let run: i64 = tx.query_row("SELECT n FROM runs WHERE run_id = ?1", [run_id], |row| row.get(0))?;
            let json = next.end.as_ref().and_then(|end| serde_json::to_string(end).ok());
            let moved = tx
                .prepare_cached(
                    "UPDATE attempts SET cursor_segment = ?3, cursor_byte = ?4, entered = ?5, final = ?6, damaged = ?7
                     WHERE run = ?1 AND attempt = ?2 AND cursor_segment = ?8 AND cursor_byte = ?9",
                )?
                .execute(params![
                    run,
                    attempt,
                    end.segment,
                    end.byte.cast_signed(),
                    next.entered,
                    json,
                    next.damaged.cast_signed(),
                    after.segment,
                    after.byte.cast_signed(),
                ])?;
            if moved == 0 {
                return Ok(false);
            }
            insert(tx, run, attempt, records)?;
            if records.iter().any(|record| record.results.is_some()) {
                results::keep(tx, run, attempt, &next.results)?;
            }
            Ok(true)
        })?;
        if is_next {
            *ingested = next;
            self.taken_in = self.taken_in.saturating_add(records.len());
        }
        Ok(is_next)
    }

    /// Reads events oldest first, one at a time, so that memory does not depend on their number. Events of one run, and undelivered events,
    /// are ordered by ingestion, which for one run is the order of emission.
    pub fn events<E>(
        &self,
        filter: &EventFilter,
        mut each: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        self.read("reading events", |db| {
            let destination = filter.delivery.as_ref().map(|(_, destination)| destination);
            for sql in filter.statements() {
                let mut statement = db.prepare(&sql)?;
                let mut rows = statement.query(params![filter.run_id, filter.event_type, filter.since, destination])?;
                while let Some(row) = rows.next()? {
                    if let Err(e) = each(event(row)?) {
                        return Ok(Err(e));
                    }
                }
            }
            Ok(Ok(()))
        })
    }

    /// Returns the number of events of each type in a run, most frequent first.
    pub fn event_counts(&self, run_id: &str) -> Result<Vec<(String, u64)>, StoreError> {
        self.read("counting events", |db| {
            let mut statement = db.prepare(
                "SELECT event_type, count(*) FROM events WHERE run = (SELECT n FROM runs WHERE run_id = ?1)
                 GROUP BY event_type ORDER BY count(*) DESC, event_type",
            )?;
            let rows = statement.query_map([run_id], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
            rows.collect()
        })
    }
}

fn insert(tx: &Transaction<'_>, run: i64, attempt: u32, records: &[Record<'_>]) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO events (event_id, run, attempt, event_type, schema_ref, created_at, correlation_id, subject_id, payload,
            checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?;
    for event in records.iter().filter_map(|record| record.event.as_ref()) {
        let covered = Covered {
            event_id: event.id,
            event_type: &event.event_type,
            created_at: event.at,
            rest: [
                event.schema_ref.as_deref(),
                event.correlation_id.as_deref(),
                event.subject_id.as_deref(),
                Some(event.payload.get()),
            ],
        };
        statement.execute(params![
            event.id,
            run,
            attempt,
            event.event_type,
            event.schema_ref,
            event.at,
            event.correlation_id,
            event.subject_id,
            event.payload.get(),
            covered.sum(),
        ])?;
    }
    Ok(())
}

/// One of lorchestra's own events about a run.
pub(super) struct OwnEvent {
    pub(super) run: i64,
    /// 0 if the run was skipped.
    pub(super) attempt: u32,
    pub(super) event_type: OwnType,
    pub(super) at: i64,
    /// Whether it ends its run.
    pub(super) terminal: bool,
}

pub(super) fn insert_own(tx: &Transaction<'_>, event: &OwnEvent, payload: &impl serde::Serialize) -> rusqlite::Result<()> {
    let payload = serde_json::to_string(payload).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    let event_id = uuid::Uuid::now_v7().to_string();
    let covered = Covered {
        event_id: &event_id,
        event_type: event.event_type.as_str(),
        created_at: event.at,
        rest: [None, None, None, Some(&payload)],
    };
    tx.execute(
        "INSERT INTO events (event_id, run, attempt, event_type, created_at, payload, terminal, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![event_id, event.run, event.attempt, event.event_type.as_str(), event.at, payload, event.terminal, covered.sum()],
    )?;
    Ok(())
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let payload: Option<String> = row.get("payload")?;
    let [event_id, event_type]: [String; 2] = [row.get("event_id")?, row.get("event_type")?];
    let [schema_ref, correlation_id, subject_id]: [Option<String>; 3] =
        [row.get("schema_ref")?, row.get("own_correlation_id")?, row.get("subject_id")?];
    let created_at = row.get("created_at")?;
    let rest = [schema_ref.as_deref(), correlation_id.as_deref(), subject_id.as_deref(), payload.as_deref()];
    let intact = Covered { event_id: &event_id, event_type: &event_type, created_at, rest }.matches(row)?;
    Ok(Event {
        event_id,
        event_type,
        source: row.get("source")?,
        schema_ref,
        created_at: time(created_at),
        correlation_id: row.get("correlation_id")?,
        subject_id,
        payload: payload.and_then(|json| RawValue::from_string(json).ok()),
        run_id: row.get("run_id")?,
        attempt: row.get("attempt")?,
        package: row.get("package")?,
        job: row.get("job")?,
        delivery_error: row.get("delivery_error")?,
        damaged: !intact,
    })
}

/// Formats a time in RFC 3339 with microseconds, or as the number if its year does not have four digits.
fn time(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).filter(|_| limits::YEARS.contains(&micros));
    time.map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}
