//! Formats and parses one spool record. Pure: bytes in, bytes out.

use crate::secrets::Mask;
use lorchestra_plugin_api::invoke::JobReturn;
use lorchestra_plugin_api::limits;
use lorchestra_plugin_api::results::Results;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Bytes before the JSON: the checksum as eight hexadecimal digits, and a space.
const PREFIX: usize = 9;

/// A parsed record.
#[derive(Debug, Deserialize)]
pub struct Record<'a> {
    /// Position in the attempt, from 1.
    pub seq: u64,
    /// An event of the job.
    #[serde(borrow)]
    pub event: Option<EventRecord<'a>>,
    /// A step that the worker has reached.
    pub mark: Option<Mark>,
    /// All results that the job has reported so far.
    pub results: Option<Results>,
    /// The end of the attempt.
    #[serde(rename = "final")]
    pub end: Option<Final>,
}

/// An event as the sink accepted it.
#[derive(Debug, Deserialize)]
pub struct EventRecord<'a> {
    /// The event's UUIDv7.
    pub id: &'a str,
    /// When it was emitted, in microseconds since 1970.
    pub at: i64,
    /// Kind of event.
    #[serde(borrow, rename = "type")]
    pub event_type: Cow<'a, str>,
    /// Reference to the payload's schema.
    pub schema_ref: Option<String>,
    /// Correlation id; the run's id if not set.
    pub correlation_id: Option<String>,
    /// The person that the event is about.
    pub subject_id: Option<String>,
    /// A JSON object, as the job wrote it.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

/// A step that the worker has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// The library is loaded and checked; the job is about to be called. A death before this is a failure to load.
    Entered,
}

/// The end of an attempt as the worker observed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum Final {
    /// The job was called and returned.
    Returned {
        /// What it returned.
        returned: JobReturn,
        /// The worker's peak memory in KiB.
        max_rss_kib: Option<u64>,
        /// The bookmark that the job set, in microseconds since 1970.
        #[serde(default)]
        bookmark: Option<i64>,
    },
    /// The library could not be loaded, or does not match its manifest.
    NotLoaded {
        /// One sentence.
        message: String,
    },
    /// The sink failed; events may be missing.
    SpoolFault {
        /// One sentence.
        message: String,
    },
}

/// Maximum size of all texts in a final record. Escaped as JSON they may grow to six times this size, and still fit into the longest record
/// that a reader accepts.
const MAX_TEXTS: usize = 64 << 10;

impl Final {
    /// Returns the bookmark that the job set, in microseconds since 1970.
    pub fn bookmark(&self) -> Option<i64> {
        match self {
            Self::Returned { bookmark, .. } => *bookmark,
            Self::NotLoaded { .. } | Self::SpoolFault { .. } => None,
        }
    }

    /// Truncates the texts so that they fit into a record. A job may return a text of any length, and a record that no reader accepts would
    /// leave the attempt without an end.
    #[must_use]
    pub fn fitting(mut self) -> Self {
        let texts = self.texts();
        let mut room = MAX_TEXTS;
        for text in texts {
            if text.len() > room {
                let cut = text.floor_char_boundary(room);
                let more = text.len() - cut;
                text.truncate(cut);
                text.push_str(&format!(" … ({more} bytes more)"));
                room = 0;
            } else {
                room -= text.len();
            }
        }
        self
    }

    /// Masks secrets in the texts.
    #[must_use]
    pub(crate) fn masked(mut self, mask: &Mask) -> Self {
        for text in self.texts() {
            if let Cow::Owned(masked) = mask.text(text) {
                *text = masked;
            }
        }
        self
    }

    /// The texts of the job or the worker, the most informative first.
    fn texts(&mut self) -> Vec<&mut String> {
        match self {
            Self::Returned { returned, .. } => match returned {
                JobReturn::Ok => Vec::new(),
                JobReturn::Error { messages, .. } => messages.iter_mut().collect(),
                JobReturn::Panic { message, location } => vec![location, message],
                JobReturn::Refused { message } => vec![message],
            },
            Self::NotLoaded { message } | Self::SpoolFault { message } => vec![message],
        }
    }
}

/// Appends a record: `write` appends the JSON to `out`, this function adds the frame.
pub fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(b"00000000 ");
    write(out);
    let crc = crc32c::crc32c(&out[start + PREFIX..]);
    for (digit, shift) in out[start..start + 8].iter_mut().zip((0..8).rev()) {
        *digit = b"0123456789abcdef"[(crc >> (4 * shift)) as usize & 15];
    }
    out.push(b'\n');
}

/// Why a line is not a record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The frame or the checksum is wrong: the line is torn, or damaged on disk.
    #[error("checksum does not match")]
    Checksum,
    /// The checksum is correct but the content is not: a program other than a worker, or another version of lorchestra, wrote it.
    #[error("unrecognized content: {0}")]
    Content(String),
}

impl Record<'_> {
    /// Returns why no writer can have written this record. A job can append lines with a correct checksum: they must not get into the
    /// store, least of all as events about runs.
    fn check(&self) -> Result<(), String> {
        match (&self.event, self.mark, &self.results, &self.end) {
            (Some(event), None, None, None) => event.check(),
            (None, Some(_), None, None) => Ok(()),
            (None, None, Some(results), None) => results.check(),
            (None, None, None, Some(end)) => match end.bookmark() {
                Some(at) if !limits::YEARS.contains(&at) => Err(limits::BOOKMARK_YEARS.into()),
                _ => Ok(()),
            },
            _ => Err("it is not one of event, mark, results and final".into()),
        }
    }
}

impl EventRecord<'_> {
    fn check(&self) -> Result<(), String> {
        let small = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-');
        let id = if self.id.len() == 36 && self.id.bytes().all(small) { uuid::Uuid::try_parse(self.id).ok() } else { None };
        if id.is_none_or(|id| id.get_version_num() != 7) {
            return Err("its id is not a UUIDv7".into());
        }
        // A worker whose clock is before 1970 writes 0.
        if self.at < 0 || !limits::YEARS.contains(&self.at) {
            return Err("its time is invalid".into());
        }
        let texts = [&self.schema_ref, &self.correlation_id, &self.subject_id].map(Option::as_deref);
        if texts.contains(&Some("")) {
            return Err("it has an empty text instead of none".into());
        }
        let [schema_ref, correlation_id, subject_id] = texts.map(Option::unwrap_or_default);
        // Parsing the record has already shown that the payload is JSON.
        limits::check_json(&self.event_type, self.payload.get(), schema_ref, correlation_id, subject_id)
    }
}

/// Parses one line, without its line end. Returns only records that a [`Writer`](super::writer::Writer) could have written.
pub fn parse(line: &[u8]) -> Result<Record<'_>, RecordError> {
    let (prefix, json) = line.split_at_checked(PREFIX).ok_or(RecordError::Checksum)?;
    // Exactly the output of `frame`: from_str_radix alone would accept capitals and a sign.
    let hex = prefix[..8].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let crc = std::str::from_utf8(&prefix[..8]).ok().and_then(|hex| u32::from_str_radix(hex, 16).ok());
    if !hex || prefix[8] != b' ' || crc != Some(crc32c::crc32c(json)) {
        return Err(RecordError::Checksum);
    }
    let record: Record<'_> = serde_json::from_slice(json).map_err(|e| RecordError::Content(e.to_string()))?;
    record.check().map_err(RecordError::Content)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn framed(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        frame(&mut out, |out| out.extend_from_slice(json.as_bytes()));
        out
    }

    #[test]
    fn a_framed_record_can_be_parsed() {
        let line = framed(
            r#"{"seq":7,"event":{"id":"01890a5d-ac96-774b-bcce-b302099a8057","at":5,"type":"a\"b","payload":{"n":1e30}}}"#,
        );
        let record = parse(&line[..line.len() - 1]).unwrap();
        let event = record.event.unwrap();
        assert_eq!((record.seq, &*event.event_type, event.payload.get()), (7, "a\"b", r#"{"n":1e30}"#));
    }

    /// Lines with a correct checksum that no worker writes: a job can append them.
    #[test]
    fn lines_that_no_writer_writes_are_refused() {
        let whole = json!({"id": "01890a5d-ac96-774b-bcce-b302099a8057", "at": 5, "type": "t", "payload": {}});
        let with = |key: &str, value: serde_json::Value| {
            let mut event = whole.clone();
            event[key] = value;
            json!({"seq": 1, "event": event})
        };
        let end = |bookmark: i64| {
            let end = Final::Returned { returned: JobReturn::Ok, max_rss_kib: None, bookmark: Some(bookmark) };
            json!({"seq": 1, "final": end})
        };
        let deep = (0..limits::MAX_DEPTH).fold(json!({}), |inner, _| json!({"a": inner}));
        let long = "x".repeat(limits::MAX_TEXT + 1);
        let (first, last) = limits::YEARS.into_inner();
        let good = [
            with("at", json!(0)),
            with("at", json!(last)),
            with("type", json!("job.other")),
            with("schema_ref", json!(&long[1..])),
            json!({"seq": 1, "mark": "entered"}),
            json!({"seq": 1, "results": {"result": {"rows": 1}, "counters": {"rows": 1}, "progress": [1, 0]}}),
            end(first),
            end(last),
        ];
        let bad = [
            with("at", json!(i64::MIN)),
            with("at", json!(-1)),
            with("at", json!(last + 1)),
            with("id", json!("x")),
            with("id", json!("01890A5D-AC96-774B-BCCE-B302099A8057")),
            with("id", json!("01890a5dac96774bbcceb302099a8057")),
            with("id", json!("01890a5d-ac96-474b-bcce-b302099a8057")),
            with("type", json!("job.completed")),
            with("type", json!("job.skipped")),
            with("type", json!("")),
            with("type", json!(long)),
            with("schema_ref", json!(long)),
            with("correlation_id", json!(long)),
            with("subject_id", json!("")),
            with("payload", json!([1])),
            with("payload", json!(null)),
            with("payload", deep),
            with("payload", json!({"a": "x".repeat(limits::MAX_PAYLOAD)})),
            end(i64::MAX),
            end(first - 1),
            json!({"seq": 1}),
            json!({"seq": 1, "results": {"result": [1]}}),
            json!({"seq": 1, "results": {"counters": {"Rows": 1}}}),
            json!({"seq": 1, "results": {"artifacts": [{"path": "a", "bytes": 1, "version": [1, 1]}]}}),
            json!({"seq": 1, "mark": "entered", "event": whole}),
        ];
        for json in good.map(|json| json.to_string()) {
            let line = framed(&json);
            assert!(parse(&line[..line.len() - 1]).is_ok(), "{json}");
        }
        let half =
            r#"{"seq":1,"event":{"id":"01890a5d-ac96-774b-bcce-b302099a8057","at":5,"type":"t","payload":{"a":"\ud83d"}}}"#;
        for json in bad.map(|json| json.to_string()).into_iter().chain([half.to_owned()]) {
            let line = framed(&json);
            let parsed = parse(&line[..line.len() - 1]);
            assert!(matches!(parsed, Err(RecordError::Content(_))), "{}", &json[..json.len().min(200)]);
        }
    }

    #[test]
    fn an_end_with_long_texts_fits_into_a_record() {
        let long = "\u{1b}\u{20ac}".repeat(1 << 20);
        let error = JobReturn::Error { messages: vec!["short".into(), long.clone(), long.clone()], permanent: true };
        for returned in [
            error,
            JobReturn::Panic { message: long.clone(), location: long.clone() },
            JobReturn::Refused { message: long.clone() },
        ] {
            let end = Final::Returned { returned, max_rss_kib: None, bookmark: None }.fitting();
            assert!(serde_json::to_string(&end).unwrap().len() < 7 * MAX_TEXTS);
        }
        let Final::NotLoaded { message } = (Final::NotLoaded { message: long.clone() }).fitting() else { unreachable!() };
        assert!(message.starts_with("\u{1b}\u{20ac}") && message.ends_with("bytes more)"), "{}", &message[message.len() - 40..]);
        let short = Final::SpoolFault { message: "a word".into() };
        assert_eq!(short.clone().fitting(), short);
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_detected() {
        let line = framed(r#"{"seq":7,"mark":"entered"}"#);
        let line = &line[..line.len() - 1];
        for cut in 0..line.len() {
            assert_eq!(parse(&line[..cut]).unwrap_err(), RecordError::Checksum, "cut at {cut}");
        }
        for bit in 0..line.len() * 8 {
            let mut line = line.to_vec();
            line[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&line).is_err(), "bit {bit}");
        }
    }
}
