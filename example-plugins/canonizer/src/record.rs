//! One line of ingester's files, read back: the exact bytes of a message and what was known of it. Talks to nobody.

use crate::key::Key;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use lorchestra_plugin_api::serde_json;
use serde::Deserialize;
use std::borrow::Cow;

/// A message as ingester left it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// sha256 of the bytes.
    pub(crate) key: Key,
    /// The exact bytes.
    pub(crate) raw: Vec<u8>,
    /// When the mail service received it.
    pub(crate) received: Option<DateTime<Utc>>,
    /// Gmail's labels.
    pub(crate) labels: Vec<String>,
    /// Flag letters of a Maildir; `None` for other sources.
    pub(crate) flags: Option<String>,
}

/// Why a line is no record. The texts are those of the `set_aside` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// JSON, but not what ingester writes: no sha256, no bytes, a value of another type.
    NotARecord,
    /// The bytes are not those that the sha256 was taken of.
    Damaged,
    /// No bytes.
    Empty,
}

impl RecordFault {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotARecord => "not_a_record",
            Self::Damaged => "damaged",
            Self::Empty => "empty",
        }
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    sha256: Cow<'a, str>,
    received: Option<DateTime<Utc>>,
    #[serde(default)]
    labels: Vec<String>,
    flags: Option<String>,
    raw: Option<String>,
    raw_base64: Option<Cow<'a, str>>,
}

impl Record {
    /// Reads a line.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, RecordFault> {
        let fields: Fields<'_> =
            serde_json::from_slice(line).map_err(|e| if e.is_data() { RecordFault::NotARecord } else { RecordFault::NotJson })?;
        let raw = match (fields.raw, fields.raw_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => STANDARD.decode(text.as_bytes()).map_err(|_| RecordFault::NotARecord)?,
            _ => return Err(RecordFault::NotARecord),
        };
        let key = Key::of(&raw);
        if key.to_string() != fields.sha256 {
            return Err(RecordFault::Damaged);
        }
        if raw.is_empty() {
            return Err(RecordFault::Empty);
        }
        Ok(Self { key, raw, received: fields.received, labels: fields.labels, flags: fields.flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::serde_json::json;

    #[test]
    fn text_and_base64_are_the_same_message() {
        let key = Key::of(b"A: 1\n").to_string();
        let text = json!({"sha256": key, "raw": "A: 1\n", "labels": ["x"], "received": "2024-01-01T00:00:00Z", "more": [1]});
        let base64 = json!({"sha256": key, "raw_base64": "QTogMQo=", "flags": null});
        let text = Record::parse(text.to_string().as_bytes()).unwrap();
        let base64 = Record::parse(base64.to_string().as_bytes()).unwrap();
        assert_eq!((&text.raw, text.key), (&base64.raw, base64.key));
        assert_eq!((text.labels.len(), base64.labels.len()), (1, 0));
    }

    #[test]
    fn what_is_no_record_has_its_reason() {
        let key = Key::of(b"A: 1\n").to_string();
        for (line, fault) in [
            (String::new(), RecordFault::NotJson),
            ("{\"sha256\":\"".into(), RecordFault::NotJson),
            ("[]".into(), RecordFault::NotARecord),
            ("{}".into(), RecordFault::NotARecord),
            (json!({"sha256": key}).to_string(), RecordFault::NotARecord),
            (json!({"sha256": key, "raw": "A: 1\n", "raw_base64": ""}).to_string(), RecordFault::NotARecord),
            (json!({"sha256": key, "raw_base64": "%"}).to_string(), RecordFault::NotARecord),
            (json!({"sha256": key, "raw": "A: 1\n", "received": "soon"}).to_string(), RecordFault::NotARecord),
            (json!({"sha256": key, "raw": "A: 2\n"}).to_string(), RecordFault::Damaged),
            (json!({"sha256": Key::of(b"").to_string(), "raw": ""}).to_string(), RecordFault::Empty),
        ] {
            assert_eq!(Record::parse(line.as_bytes()), Err(fault), "{line}");
        }
        assert_eq!(Record::parse(b"{\"sha256\":\"\xff\"}"), Err(RecordFault::NotJson));
    }
}
