//! Parsing of one line of a tap's output as a Singer message.
//!
//! Records, schemas and states are not parsed: their text is passed on exactly as the tap wrote it.

use lorchestra_plugin_api::serde_json::{self, value::RawValue};
use serde::Deserialize;
use std::borrow::Cow;

/// A message. Types are case-insensitive.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// A record of a stream.
    Record {
        stream: Cow<'a, str>,
        /// Any JSON value; the caller checks that it is an object.
        record: &'a RawValue,
        /// The version of the stream to which it belongs.
        version: Option<i64>,
        /// Time of extraction, as sent by the tap.
        time_extracted: Option<Cow<'a, str>>,
    },
    /// The schema of a stream's records.
    Schema {
        stream: Cow<'a, str>,
        schema: &'a RawValue,
        key_properties: Option<&'a RawValue>,
        bookmark_properties: Option<&'a RawValue>,
    },
    /// The state to pass to the tap in the next run.
    State(&'a RawValue),
    /// Activates a version of a stream; older versions are deleted.
    ActivateVersion { stream: Cow<'a, str>, version: i64 },
    /// Records in separate files.
    Batch { stream: Cow<'a, str>, version: Option<i64>, encoding: Encoding<'a>, manifest: Vec<Text<'a>> },
    /// A type that is not in the specification, which allows such types.
    Other,
}

/// Why a line is not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("is not JSON")]
    NotJson,
    #[error("is JSON, but not a Singer message (an object with a type)")]
    NotAMessage,
    #[error("is a record with NaN or Infinity, which JSON does not allow")]
    NotANumber,
    #[error("is a record that is not in UTF-8, which JSON requires")]
    NotUtf8,
    #[error("is a {0} message without {1}")]
    Incomplete(&'static str, &'static str),
    #[error("is a SCHEMA message whose schema is nested deeper than {DEEPEST} levels")]
    TooDeep,
}

/// The deepest JSON that is read, in levels.
pub(crate) const DEEPEST: usize = 127;

/// Text that is borrowed if possible; an `Option<Cow>` field would always be owned.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// How the files of a BATCH message are written.
#[derive(Debug, Deserialize)]
pub(crate) struct Encoding<'a> {
    #[serde(borrow)]
    pub(crate) format: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) compression: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    stream: Option<Text<'a>>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    version: Option<i64>,
    #[serde(borrow)]
    time_extracted: Option<Text<'a>>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    #[serde(borrow)]
    key_properties: Option<&'a RawValue>,
    #[serde(borrow)]
    bookmark_properties: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    encoding: Option<Encoding<'a>>,
    #[serde(borrow)]
    manifest: Option<Vec<Text<'a>>>,
}

/// Deserializes a value that is present, even if it is `null`.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Returns a line with `null` for numbers that only Python accepts as JSON, if it is JSON then. Called only for invalid lines,
/// so it may be slow.
pub(crate) fn without_odd_numbers(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?;
    let (mut repaired, mut in_text, mut escaped) = (String::with_capacity(text.len()), false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let odd = ["-Infinity", "Infinity", "NaN"].into_iter().find(|odd| !in_text && rest.starts_with(odd));
        if let Some(odd) = odd {
            repaired.push_str("null");
            rest = &rest[odd.len()..];
            continue;
        }
        in_text ^= c == '"' && !escaped;
        escaped = in_text && c == '\\' && !escaped;
        repaired.push(c);
        rest = &rest[c.len_utf8()..];
    }
    (repaired != text && serde_json::from_str::<&RawValue>(&repaired).is_ok()).then_some(repaired)
}

/// Returns a line that is not valid UTF-8 with replacement characters, if it is JSON then. Called only for invalid lines.
pub(crate) fn in_utf8(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    (text.as_bytes() != line && serde_json::from_str::<&RawValue>(&text).is_ok()).then(|| text.into_owned())
}

impl<'a> Message<'a> {
    /// Parses a line without its line ending.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, Fault> {
        let is_record = |text: String| matches!(Message::parse_strictly(text.as_bytes()), Ok(Message::Record { .. }));
        match Self::parse_strictly(line) {
            Err(Fault::NotJson) if without_odd_numbers(line).is_some_and(is_record) => Err(Fault::NotANumber),
            Err(Fault::NotJson) if in_utf8(line).is_some_and(is_record) => Err(Fault::NotUtf8),
            parsed => parsed,
        }
    }

    fn parse_strictly(line: &'a [u8]) -> Result<Self, Fault> {
        let envelope: Envelope<'a> =
            serde_json::from_slice(line).map_err(|e| if e.is_data() { Fault::NotAMessage } else { Fault::NotJson })?;
        let kind = ["RECORD", "STATE", "SCHEMA", "ACTIVATE_VERSION", "BATCH"]
            .into_iter()
            .find(|kind| envelope.kind.eq_ignore_ascii_case(kind));
        let Some(kind) = kind else { return Ok(Self::Other) };
        let without = |what| move || Fault::Incomplete(kind, what);
        let stream = envelope.stream.map(|text| text.0).ok_or_else(without("stream"));
        Ok(match kind {
            "RECORD" => Self::Record {
                stream: stream?,
                record: envelope.record.ok_or_else(without("record"))?,
                version: envelope.version,
                time_extracted: envelope.time_extracted.map(|text| text.0),
            },
            "STATE" => Self::State(envelope.value.ok_or_else(without("value"))?),
            "SCHEMA" => Self::Schema {
                stream: stream?,
                schema: envelope.schema.ok_or_else(without("schema"))?,
                key_properties: envelope.key_properties,
                bookmark_properties: envelope.bookmark_properties,
            },
            "ACTIVATE_VERSION" => {
                Self::ActivateVersion { stream: stream?, version: envelope.version.ok_or_else(without("version"))? }
            }
            _ => Self::Batch {
                stream: stream?,
                version: envelope.version,
                encoding: envelope.encoding.ok_or_else(without("encoding"))?,
                manifest: envelope.manifest.ok_or_else(without("manifest"))?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_in_any_case_with_extra_fields() {
        let line = br#"{"type":"record","stream":"a\u00e4","record":{"id": 1.10, "x":"\ud83d"},"version":7,"time_extracted":"2024-01-01T00:00:00Z","more":[1]}"#;
        let Message::Record { stream, record, version, time_extracted } = Message::parse(line).unwrap() else { panic!() };
        assert_eq!((&*stream, version, time_extracted.as_deref()), ("aä", Some(7), Some("2024-01-01T00:00:00Z")));
        assert_eq!(record.get(), r#"{"id": 1.10, "x":"\ud83d"}"#, "byte for byte, even half of a surrogate pair");

        let line = br#"{"type":"SCHEMA","stream":"a","schema":{"type":"object"},"key_properties":["id"],"version":null}"#;
        let Message::Schema { schema, key_properties, bookmark_properties, .. } = Message::parse(line).unwrap() else { panic!() };
        assert_eq!((schema.get(), key_properties.unwrap().get()), (r#"{"type":"object"}"#, r#"["id"]"#));
        assert!(bookmark_properties.is_none());

        let Message::State(value) = Message::parse(br#" { "type" : "State", "value": {"a":1} } "#).unwrap() else { panic!() };
        assert_eq!(value.get(), r#"{"a":1}"#);
        let line = br#"{"type":"ACTIVATE_VERSION","stream":"a","version":-1}"#;
        assert!(matches!(Message::parse(line), Ok(Message::ActivateVersion { version: -1, .. })));
        let line =
            br#"{"type":"BATCH","stream":"a","encoding":{"format":"jsonl","compression":"gzip"},"manifest":["file:///b"]}"#;
        let Message::Batch { encoding, manifest, .. } = Message::parse(line).unwrap() else { panic!() };
        assert_eq!((&*encoding.format, &*encoding.compression.unwrap().0, &*manifest[0].0), ("jsonl", "gzip", "file:///b"));
        assert!(matches!(Message::parse(br#"{"type":"PROGRESS"}"#), Ok(Message::Other)));
    }

    #[test]
    fn an_invalid_message_is_refused_with_a_reason() {
        for (line, fault) in [
            (&b""[..], Fault::NotJson),
            (b"Traceback (most recent call last):", Fault::NotJson),
            (br#"{"type":"RECORD","stream":"a","record":{"id":NaN}}"#, Fault::NotANumber),
            (br#"{"type":"RECORD","stream":"a","record":{"x":"a \" b","y":[-Infinity,Infinity]}}"#, Fault::NotANumber),
            (br#"{"type":"RECORD","stream":"a","record":{"x":"NaN",}}"#, Fault::NotJson),
            (br#"{"type":"STATE","value":NaN}"#, Fault::NotJson),
            (br#"{"type":"RECORD","stream":"a","rec"#, Fault::NotJson),
            (b"{\"type\":\"RECORD\",\"stream\":\"a\",\"record\":{\"id\":\"\xff\"}}", Fault::NotUtf8),
            (b"{\"type\":\"STATE\",\"value\":\"\xff\"}", Fault::NotJson),
            (b"{\"type\":\"RECORD\",\"stream\":\"a\",\"record\":{\"id\":\"\xff", Fault::NotJson),
            (b"[]", Fault::NotAMessage),
            (b"{}", Fault::NotAMessage),
            (br#"{"type":7}"#, Fault::NotAMessage),
            (br#"{"type":"RECORD","stream":1,"record":{}}"#, Fault::NotAMessage),
            (br#"{"type":"RECORD","stream":"a","record":{},"version":"x"}"#, Fault::NotAMessage),
            (br#"{"type":"RECORD","record":{}}"#, Fault::Incomplete("RECORD", "stream")),
            (br#"{"type":"RECORD","stream":"a"}"#, Fault::Incomplete("RECORD", "record")),
            (br#"{"type":"SCHEMA","stream":"a"}"#, Fault::Incomplete("SCHEMA", "schema")),
            (br#"{"type":"STATE"}"#, Fault::Incomplete("STATE", "value")),
            (br#"{"type":"BATCH","stream":"a","manifest":[]}"#, Fault::Incomplete("BATCH", "encoding")),
            (br#"{"type":"ACTIVATE_VERSION","stream":"a"}"#, Fault::Incomplete("ACTIVATE_VERSION", "version")),
        ] {
            assert_eq!(Message::parse(line).err(), Some(fault), "{}", String::from_utf8_lossy(line));
        }
    }
}
