//! One line that mail is made of, read back: the message, and what was known of it. Two forms are taken: what ingester writes,
//! which is the exact bytes with their sha256, and the resource `users.messages` of the Gmail API. Talks to [`gmail`] for the
//! second.

use crate::gmail::{self, Labels, Payload};
use crate::key::Key;
use crate::mime::{Part, Refusal};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use lorchestra_plugin_api::serde_json;
use serde::Deserialize;
use std::borrow::Cow;

/// A message as it was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// What the message is known by: sha256 of its bytes; where there are none, of what Gmail calls it.
    pub(crate) key: Key,
    /// The same message has one key more when it came from the Gmail API, in whichever format.
    pub(crate) second_key: Option<Key>,
    pub(crate) content: Content,
    /// When the mail service received it.
    pub(crate) received: Option<DateTime<Utc>>,
    /// Gmail's labels.
    pub(crate) labels: Labels,
    /// Flag letters of a Maildir; `None` for other sources.
    pub(crate) flags: Option<String>,
    /// Gmail's number of the thread, if it came beside the message.
    pub(crate) gmail_thread: Option<u64>,
}

/// What there is of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The exact bytes.
    Bytes(Vec<u8>),
    /// Gmail took it apart.
    Apart(Apart),
}

/// A message that Gmail took apart; its bytes as a whole are not there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Apart {
    /// What Gmail calls it; letters of JMAP's ids only.
    pub(crate) id: String,
    pub(crate) payload: Payload,
    /// Bytes of the message, about.
    pub(crate) size: usize,
    /// The first words, in HTML.
    pub(crate) snippet: Option<String>,
}

/// Why a line is no record. The texts are those of the `set_aside` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// JSON, but none of the two forms: no bytes, a value of another type.
    NotARecord,
    /// The bytes are not those that the sha256 was taken of.
    Damaged,
    /// No bytes.
    Empty,
    /// Gmail's `minimal` format: a message is spoken of, and not there.
    NoContent,
    /// JSON inside of JSON, deeper than it is read.
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

    /// What a line that serde_json does not read is.
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

/// The fields of both forms. `raw` is the message as text in the one, and base64url in the other.
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
    // Those of Gmail. Not flattened: that would copy every line.
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
    /// Reads a line.
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

    /// The message as a tree.
    pub(crate) fn part(&self) -> Result<Part<'_>, Refusal> {
        match &self.content {
            Content::Bytes(raw) => Part::parse(raw),
            Content::Apart(apart) => apart.payload.part(&apart.id),
        }
    }

    /// Bytes of the message; of one that is not there as a whole, about.
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
    fn what_is_no_record_has_its_reason() {
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
