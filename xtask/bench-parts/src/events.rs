//! The events that benches deliver: generated from their number alone, so that a store, a client in memory and Python's client
//! (`insert_rows.py`, next to the bench) have the same ones. Pure functions only.

use lorchestra_core::delivery::Row;
use lorchestra_core::spool::record;

/// The package of their run.
pub const PACKAGE: &str = "pkg-0000";
/// The job of their run.
pub const JOB: &str = "extract_mail";
/// Time of event 0 in microseconds since 1970; the others follow one per millisecond.
pub const BEGIN: i64 = 1_767_225_600_000_000;
const EVENT_TYPE: &str = "email.extracted";
const SCHEMA: &str = "email/1";

/// The id of the run, which is always the same.
pub fn run_id() -> String {
    id(0xffff_ffff)
}

/// Event number `n`, with every column of the envelope.
pub fn row(n: u64) -> Row {
    Row {
        event_id: id(n),
        event_type: EVENT_TYPE.into(),
        source: format!("{PACKAGE}/{JOB}"),
        schema_ref: Some(SCHEMA.into()),
        created_at: at(n),
        correlation_id: Some(run_id()),
        subject_id: Some(subject(n)),
        payload: Some(payload(n)),
        run_id: Some(run_id()),
        attempt: Some(1),
        package: Some(PACKAGE.into()),
        job: Some(JOB.into()),
    }
}

/// The same event in the form of the spool, without the line end.
pub fn record(n: u64) -> Vec<u8> {
    let json = format!(
        r#"{{"seq":{},"event":{{"id":"{}","at":{},"type":"{EVENT_TYPE}","schema_ref":"{SCHEMA}","subject_id":"{}","payload":{}}}}}"#,
        n + 1,
        id(n),
        at(n),
        subject(n),
        payload(n),
    );
    let mut line = Vec::with_capacity(json.len() + 16);
    record::frame(&mut line, |out| out.extend_from_slice(json.as_bytes()));
    line.pop();
    line
}

/// The id of event number `n`.
pub fn id(n: u64) -> String {
    format!("019b7a3c-{:04x}-7000-8000-{n:012x}", n >> 16 & 0xffff)
}

fn at(n: u64) -> i64 {
    BEGIN + n.cast_signed() * 1000
}

fn subject(n: u64) -> String {
    format!("person-{:03}@example.com", n % 1000)
}

/// 200 bytes, with as many quotes as a small object with several types of values: insertAll escapes each of them.
fn payload(n: u64) -> String {
    let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        r#"{{"message":"<{n:012}@mail.example.com>","thread":{},"folder":"archive/2026","labels":["inbox","unread"],"bytes":{},"attachments":[],"is_reply":{},"digest":"{hash:016x}{:06x}"}}"#,
        // Always with the same number of digits.
        1_000_000_000 + n / 4,
        100_000 + (hash >> 48),
        // An additional space if the word is one letter shorter.
        if n.is_multiple_of(2) { "false" } else { " true" },
        hash.rotate_left(21) >> 40,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_and_its_record_are_one_event() {
        for n in [0, 1, 99_999, 123_456_789] {
            let (row, line) = (row(n), record(n));
            let event = record::parse(&line).unwrap().event.unwrap();
            assert_eq!((event.id, event.at, &*event.event_type), (&*row.event_id, row.created_at, &*row.event_type));
            assert_eq!((event.schema_ref, event.subject_id), (row.schema_ref, row.subject_id));
            assert_eq!(Some(event.payload.get()), row.payload.as_deref());
            assert_eq!(event.payload.get().len(), 200);
        }
    }
}
