//! The `users.messages` resource of the Gmail API: parses its values, and converts its `payload` to the same tree of parts
//! that [`mime`](crate::mime) builds from bytes.
//!
//! In the format `full`, Gmail has decoded the transfer encoding of every part and converted texts to UTF-8 without changing
//! their headers. It does not include the bytes of the whole message and of large attachments. Those must be fetched
//! separately, with an `attachmentId` that changes with every request, so such a blob is named after message and part instead.

use crate::mime::content::Content;
use crate::mime::header::{Headers, MediaType};
use crate::mime::{Body, Limits, Part, Refusal};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::borrow::Cow;

/// Maximum length of an id, in bytes. Gmail's have 16.
const MAX_ID: usize = 100;

/// Gmail writes padding, but some of its clients do not.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Labels, by Takeout's names or by the API's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Labels {
    Takeout(Vec<String>),
    Api(Vec<String>),
}

/// A message or part as parsed by Gmail.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payload {
    part_id: Option<String>,
    mime_type: Option<String>,
    filename: Option<String>,
    headers: Option<Vec<Field>>,
    body: Option<Data>,
    parts: Option<Vec<Payload>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Data {
    size: Option<usize>,
    /// Decoded content.
    #[serde(default, deserialize_with = "data")]
    data: Option<Vec<u8>>,
}

/// Returns whether the text is valid in a JMAP id, including the prefix and suffix added to it.
pub(crate) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Returns the number in `X-GM-THRID` of Takeout and IMAP, which the API writes in hexadecimal.
pub(crate) fn thread_number(thread_id: &str) -> Option<u64> {
    u64::from_str_radix(thread_id, 16).ok()
}

/// Decodes base64url; `None` if it is invalid.
pub(crate) fn base64url(text: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(text).ok()
}

/// Parses milliseconds since 1970, as a string (how the API encodes 64-bit integers) or as a number.
pub(crate) fn internal_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Millis {
        Text(String),
        Number(i64),
    }
    let millis = match Option::<Millis>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Millis::Number(millis)) => Some(millis),
        Some(Millis::Text(text)) => text.parse().ok(),
    };
    let date = millis.and_then(DateTime::from_timestamp_millis);
    // Rounded to seconds, as in Takeout and IMAP, so that the same message becomes the same object.
    let date = date.and_then(|date| DateTime::from_timestamp(date.timestamp(), 0));
    date.map(Some).ok_or_else(|| D::Error::custom("not a time in milliseconds"))
}

fn data<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    let Some(text) = Option::<Cow<'_, str>>::deserialize(deserializer)? else { return Ok(None) };
    base64url(&text).map(Some).ok_or_else(|| D::Error::custom("not base64url"))
}

impl Payload {
    /// Converts the message to a tree. `id` is Gmail's message id.
    pub(crate) fn part(&self, id: &str) -> Result<Part<'_>, Refusal> {
        self.part_within(id, &mut Limits::default(), 0)
    }

    /// Total size of all parts, in bytes.
    pub(crate) fn size(&self) -> usize {
        let own = self.body.as_ref().map_or(0, |body| body.data.as_ref().map_or(body.size.unwrap_or(0), Vec::len));
        own + self.parts.iter().flatten().map(Self::size).sum::<usize>()
    }

    fn part_within(&self, id: &str, limits: &mut Limits, depth: usize) -> Result<Part<'_>, Refusal> {
        limits.enter()?;
        let fields = self.headers.iter().flatten().map(|field| (field.name.as_bytes(), field.value.as_bytes()));
        let headers = Headers::of(fields.collect())?;
        let media_type = self.media_type(&headers);
        if media_type.is_multipart() {
            Limits::descend(depth)?;
            // The format `metadata` has no parts.
            let parts = self.parts.iter().flatten().map(|part| part.part_within(id, limits, depth + 1));
            let parts = parts.collect::<Result<_, _>>()?;
            return Ok(Part { headers, media_type, body: Body::Parts(parts) });
        }
        // A nested message is a leaf, even if Gmail has parsed it.
        let body = match &self.body {
            Some(Data { data: Some(data), .. }) => Body::Leaf(Content::undone(data)),
            // An empty part has no data.
            Some(Data { size: None | Some(0), .. }) => Body::Leaf(Content::undone(&[])),
            Some(Data { size: Some(size), .. }) => Body::Elsewhere { size: *size, blob_id: self.blob_id(id) },
            None => Body::Elsewhere { size: 0, blob_id: self.blob_id(id) },
        };
        Ok(Part { headers, media_type, body })
    }

    fn media_type(&self, headers: &Headers<'_>) -> MediaType {
        let declared = headers.media_type("Content-Type");
        let mime_type = self.mime_type.as_deref().filter(|name| name.contains('/')).map(str::to_ascii_lowercase);
        let media_type = match (declared, mime_type) {
            (Some(declared), Some(name)) if !declared.is(&name) => MediaType::of(&name),
            (Some(declared), _) => declared,
            (None, Some(name)) => MediaType::of(&name),
            (None, None) => MediaType::text_plain(),
        };
        // Gmail's version of the file name; the one in the header takes precedence.
        match self.filename.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => media_type.or_parameter("name", name),
            None => media_type,
        }
    }

    /// Builds a JMAP id from message and part.
    fn blob_id(&self, id: &str) -> String {
        let part: String = self.part_id.iter().flat_map(|part| part.chars()).take(MAX_ID).collect();
        let part = part.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        format!("bg{id}_{part}")
    }
}

#[cfg(test)]
mod tests;
