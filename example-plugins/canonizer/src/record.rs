//! Parsing of one input line for mail: the message and its metadata. Two formats are supported: the output of ingester, which
//! contains the exact bytes and their sha256, and the `users.messages` resource of the Gmail API, parsed by [`gmail`].

use crate::gmail::{self, Labels, Payload};
use crate::key::Key;
use crate::mime::{Part, Refusal};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use lorchestra_plugin_api::serde_json;
use serde::Deserialize;
use std::borrow::Cow;

/// A message with its metadata.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Identity of the message: the sha256 of its bytes, or of Gmail's id if the bytes are not available.
    pub(crate) key: Key,
    /// A second key for messages from the Gmail API, independent of the format.
    pub(crate) second_key: Option<Key>,
    pub(crate) content: Content,
    /// When the mail service received it.
    pub(crate) received: Option<DateTime<Utc>>,
    /// Gmail's labels.
    pub(crate) labels: Labels,
    /// Flag letters of a Maildir; `None` for other sources.
    pub(crate) flags: Option<String>,
    /// Gmail's thread number, if it is not in the message itself.
    pub(crate) gmail_thread: Option<u64>,
}

/// The available form of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The exact bytes.
    Bytes(Vec<u8>),
    /// Parsed by Gmail.
    Apart(Apart),
}

/// A message parsed by Gmail, whose bytes are not available.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Apart {
    /// Gmail's id, with characters valid in JMAP ids only.
    pub(crate) id: String,
    pub(crate) payload: Payload,
    /// Approximate size of the message, in bytes.
    pub(crate) size: usize,
    /// The preview, in HTML.
    pub(crate) snippet: Option<String>,
}

/// Why a line is not a record. The names are those of the `set_aside` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// JSON, but neither format: no bytes, or a value of the wrong type.
    NotARecord,
    /// The bytes do not match the sha256.
    Damaged,
    /// No bytes.
    Empty,
    /// Gmail's `minimal` format, which has no content.
    NoContent,
    /// JSON nested deeper than the parser allows.
    NestedTooDeep,
}

impl RecordFault {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotARecord => "not_a_record",
            Self::Damaged => "damaged",
            Self::Empty => "empty",
            Self::NoContent => "no_content",
            Self::NestedTooDeep => "nested_too_deep",
        }
    }

    /// Classifies a line that serde_json cannot parse.
    pub(crate) fn of(error: &serde_json::Error) -> Self {
        if error.is_data() {
            Self::NotARecord
        } else if error.to_string().starts_with("recursion limit exceeded") {
            Self::NestedTooDeep
        } else {
            Self::NotJson
        }
    }
}

/// The fields of both formats. `raw` is the message as text in one, and as base64url in the other.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    sha256: Option<Cow<'a, str>>,
    received: Option<DateTime<Utc>>,
    labels: Option<Vec<String>>,
    flags: Option<String>,
    raw: Option<String>,
    #[serde(borrow)]
    raw_base64: Option<Cow<'a, str>>,
    // Gmail's fields. Not flattened, because that would copy every line.
    id: Option<String>,
    #[serde(rename = "threadId")]
    thread_id: Option<String>,
    #[serde(rename = "labelIds")]
    label_ids: Option<Vec<String>>,
    #[serde(rename = "internalDate", default, deserialize_with = "gmail::internal_date")]
    internal_date: Option<DateTime<Utc>>,
    #[serde(rename = "sizeEstimate")]
    size_estimate: Option<usize>,
    snippet: Option<String>,
    payload: Option<Payload>,
}

impl Record {
    /// Parses a line.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, RecordFault> {
        let fields: Fields<'_> = serde_json::from_slice(line).map_err(|e| RecordFault::of(&e))?;
        match fields.sha256 {
            Some(_) => Self::of_ingester(fields),
            None => Self::of_gmail(fields),
        }
    }

    fn of_ingester(fields: Fields<'_>) -> Result<Self, RecordFault> {
        let raw = match (fields.raw, fields.raw_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => STANDARD.decode(text.as_bytes()).map_err(|_| RecordFault::NotARecord)?,
            _ => return Err(RecordFault::NotARecord),
        };
        let key = Key::of(&raw);
        if fields.sha256.is_none_or(|sha256| key.to_string() != sha256) {
            return Err(RecordFault::Damaged);
        }
        if raw.is_empty() {
            return Err(RecordFault::Empty);
        }
        Ok(Self {
            key,
            second_key: None,
            content: Content::Bytes(raw),
            received: fields.received,
            labels: Labels::Takeout(fields.labels.unwrap_or_default()),
            flags: fields.flags,
            gmail_thread: None,
        })
    }

    fn of_gmail(fields: Fields<'_>) -> Result<Self, RecordFault> {
        let id = fields.id.filter(|id| gmail::is_id(id)).ok_or(RecordFault::NotARecord)?;
        let key_of_id = Key::of(format!("gmail:{id}").as_bytes());
        let (key, content) = match (fields.raw, fields.payload) {
            (Some(raw), _) => {
                let bytes = gmail::base64url(&raw).ok_or(RecordFault::NotARecord)?;
                if bytes.is_empty() {
                    return Err(RecordFault::Empty);
                }
                (Key::of(&bytes), Content::Bytes(bytes))
            }
            (None, Some(payload)) => {
                let size = fields.size_estimate.unwrap_or_else(|| payload.size());
                (key_of_id, Content::Apart(Apart { id, payload, size, snippet: fields.snippet }))
            }
            (None, None) => return Err(RecordFault::NoContent),
        };
        Ok(Self {
            key,
            second_key: Some(key_of_id),
            content,
            received: fields.internal_date,
            labels: Labels::Api(fields.label_ids.unwrap_or_default()),
            flags: None,
            gmail_thread: fields.thread_id.as_deref().and_then(gmail::thread_number),
        })
    }

    /// Returns the message as a tree.
    pub(crate) fn part(&self) -> Result<Part<'_>, Refusal> {
        match &self.content {
            Content::Bytes(raw) => Part::parse(raw),
            Content::Apart(apart) => apart.payload.part(&apart.id),
        }
    }

    /// Returns the size of the message in bytes, approximate if the bytes are not available.
    pub(crate) fn size(&self) -> usize {
        match &self.content {
            Content::Bytes(raw) => raw.len(),
            Content::Apart(apart) => apart.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::serde_json::json;

    #[test]
    fn text_base64_and_gmails_raw_are_the_same_message() {
        let key = Key::of(b"A: 1\n").to_string();
        let text = json!({"sha256": key, "raw": "A: 1\n", "labels": ["x"], "received": "2024-01-01T00:00:00Z", "more": [1]});
        let base64 = json!({"sha256": key, "raw_base64": "QTogMQo=", "flags": null});
        let gmail =
            json!({"id": "18c", "threadId": "10", "raw": "QTogMQo", "labelIds": ["INBOX"], "internalDate": "1704067200000"});
        let [text, base64, gmail] = [text, base64, gmail].map(|line| Record::parse(line.to_string().as_bytes()).unwrap());
        for other in [&base64, &gmail] {
            assert_eq!((&text.content, text.key), (&other.content, other.key));
        }
        assert_eq!(text.labels, Labels::Takeout(vec!["x".into()]));
        assert_eq!(gmail.labels, Labels::Api(vec!["INBOX".into()]));
        assert_eq!((gmail.received, gmail.gmail_thread), (text.received, Some(16)));
    }

    #[test]
    fn an_invalid_record_is_refused_with_a_reason() {
        let key = Key::of(b"A: 1\n").to_string();
        let deep = (0..80).fold(json!({"mimeType": "text/plain"}), |part, _| json!({"parts": [part]}));
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
            (json!({"raw": "A: 1\n"}).to_string(), RecordFault::NotARecord),
            (json!({"id": "18c", "raw": "A: 1\n"}).to_string(), RecordFault::NotARecord),
            (json!({"id": "18 c", "raw": "QTogMQo"}).to_string(), RecordFault::NotARecord),
            (json!({"id": "18c", "raw": ""}).to_string(), RecordFault::Empty),
            (json!({"id": "18c", "raw": "QTogMQo", "internalDate": "soon"}).to_string(), RecordFault::NotARecord),
            (json!({"id": "18c", "payload": {"body": {"data": "%"}}}).to_string(), RecordFault::NotARecord),
            (json!({"id": "18c", "threadId": "18c", "labelIds": ["INBOX"]}).to_string(), RecordFault::NoContent),
            (json!({"id": "18c", "payload": deep}).to_string(), RecordFault::NestedTooDeep),
        ] {
            assert_eq!(Record::parse(line.as_bytes()), Err(fault), "{line}");
        }
        assert_eq!(Record::parse(b"{\"sha256\":\"\xff\"}"), Err(RecordFault::NotJson));
    }
}
