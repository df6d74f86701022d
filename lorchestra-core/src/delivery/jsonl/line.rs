//! Formats an event as a line: the columns of the envelope as JSON, with the payload as an object. Always produces the same bytes for the
//! same row, because resending a batch means writing its missing bytes.

use crate::store::Row;
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

/// Longer than any event: a payload has at most 1 MiB.
const LONGEST: u64 = 4 << 20;

#[derive(Serialize)]
struct JsonLine<'a> {
    event_id: &'a str,
    event_type: &'a str,
    source: &'a str,
    schema_ref: Option<&'a str>,
    created_at: String,
    correlation_id: Option<&'a str>,
    subject_id: Option<&'a str>,
    payload: Option<&'a RawValue>,
    run_id: Option<&'a str>,
    attempt: Option<i64>,
    package: Option<&'a str>,
    job: Option<&'a str>,
}

/// Formats rows, one per line.
pub(super) fn lines(rows: &[Row]) -> Vec<u8> {
    let mut lines = Vec::new();
    for row in rows {
        // Line breaks in JSON are between tokens: in a string they are escaped.
        let payload = row.payload.as_ref().map(|json| json.replace(['\n', '\r'], " "));
        let line = JsonLine {
            event_id: &row.event_id,
            event_type: &row.event_type,
            source: &row.source,
            schema_ref: row.schema_ref.as_deref(),
            created_at: time(row.created_at),
            correlation_id: row.correlation_id.as_deref(),
            subject_id: row.subject_id.as_deref(),
            // The store accepted it only after parsing it.
            payload: payload.as_deref().and_then(|json| serde_json::from_str(json).ok()),
            run_id: row.run_id.as_deref(),
            attempt: row.attempt,
            package: row.package.as_deref(),
            job: row.job.as_deref(),
        };
        // Serializing strings and numbers to memory does not fail.
        if serde_json::to_writer(&mut lines, &line).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

/// Whether a complete line with an event begins at this byte. Examines at most [`LONGEST`] bytes.
pub(super) fn is_event_at(file: &File, offset: u64) -> bool {
    #[derive(Deserialize)]
    struct Id {
        event_id: String,
    }
    let mut file = file;
    let mut line = Vec::new();
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| BufReader::new(file.take(LONGEST)).read_until(b'\n', &mut line));
    read.is_ok()
        && line.ends_with(b"\n")
        && serde_json::from_slice::<Id>(&line).is_ok_and(|id| uuid::Uuid::try_parse(&id.event_id).is_ok())
}

/// RFC 3339 with microseconds. Times out of the calendar's range are clamped.
fn time(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros);
    let end = if micros < 0 { DateTime::UNIX_EPOCH } else { DateTime::from_timestamp_nanos(i64::MAX) };
    time.unwrap_or(end).to_rfc3339_opts(SecondsFormat::Micros, true)
}
