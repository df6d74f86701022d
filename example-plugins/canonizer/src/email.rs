//! A message as a JMAP Email object (RFC 8621, section 4.1), with the property names of the RFC. [`body_lists`] selects the
//! displayed parts, [`mailboxes`] converts Gmail's labels and Maildir flags.
//!
//! Where JMAP leaves the choice to the server:
//! - `id` is `m` and the sha256 of the message, `blobId` is `b` and the sha256 of the blob: the same message has the same ids
//!   on every machine, and equal attachments share a blob.
//! - If the bytes are not available, because the message comes from the Gmail API in parsed form, `id` is `mg` and Gmail's
//!   message id, its `blobId` is `bg` and the same id, and an attachment that was not fetched has `bg`, that id, `_` and
//!   Gmail's part id. `size` is then Gmail's estimate.
//! - `threadId` is Gmail's thread (`X-GM-THRID`, or `threadId` of its API) if available; otherwise it is derived from the
//!   first message id in References or In-Reply-To, or of the message itself. A reply that names only its parent, and not the
//!   first message of its thread, gets its own thread.
//! - `receivedAt` comes from ingester, the topmost Received field, or the Date field, in this order; otherwise it is `null`,
//!   which JMAP does not allow.
//! - Body values are truncated at [`MAX_BODY_VALUE`].

use crate::key::Key;
use crate::mime::header::{Headers, Mailbox, MediaType};
use crate::mime::{Body, Part, Refusal};
use crate::record::{Content, Record};
use body_lists::BodyLists;
use lorchestra_plugin_api::chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use package_support::html;
use serde::Serialize;
use std::collections::BTreeMap;

mod body_lists;
mod mailboxes;

/// Maximum size of a body value, in bytes. The message contains the full text.
const MAX_BODY_VALUE: usize = 4 << 20;
/// Maximum length of a preview in characters (RFC 8621: at most 256).
const PREVIEW: usize = 256;
/// Number of bytes of a text that its preview uses, without most of the blanks between words. A character has at most four.
const PREVIEW_SOURCE: usize = PREVIEW * 8;

/// JMAP's Email object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Email {
    id: String,
    blob_id: String,
    thread_id: String,
    mailbox_ids: BTreeMap<String, bool>,
    keywords: BTreeMap<String, bool>,
    size: usize,
    received_at: Option<String>,
    message_id: Option<Vec<String>>,
    in_reply_to: Option<Vec<String>>,
    references: Option<Vec<String>>,
    sender: Option<Vec<EmailAddress>>,
    from: Option<Vec<EmailAddress>>,
    to: Option<Vec<EmailAddress>>,
    cc: Option<Vec<EmailAddress>>,
    bcc: Option<Vec<EmailAddress>>,
    reply_to: Option<Vec<EmailAddress>>,
    subject: Option<String>,
    sent_at: Option<String>,
    has_attachment: bool,
    preview: String,
    body_structure: EmailBodyPart,
    body_values: BTreeMap<String, EmailBodyValue>,
    text_body: Vec<EmailBodyPart>,
    html_body: Vec<EmailBodyPart>,
    attachments: Vec<EmailBodyPart>,
}

/// JMAP's EmailAddress.
#[derive(Debug, Serialize)]
struct EmailAddress {
    name: Option<String>,
    email: String,
}

/// JMAP's EmailBodyPart.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct EmailBodyPart {
    /// `null` for a multipart.
    part_id: Option<String>,
    /// `null` for a multipart.
    blob_id: Option<String>,
    /// Size after decoding, in bytes.
    size: usize,
    name: Option<String>,
    #[serde(rename = "type")]
    media_type: String,
    charset: Option<String>,
    disposition: Option<String>,
    cid: Option<String>,
    language: Option<Vec<String>>,
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_parts: Option<Vec<EmailBodyPart>>,
}

/// JMAP's EmailBodyValue.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EmailBodyValue {
    value: String,
    is_encoding_problem: bool,
    is_truncated: bool,
}

impl Email {
    /// Converts a message.
    pub(crate) fn of(record: &Record) -> Result<Self, Refusal> {
        let message = record.part()?;
        let headers = &message.headers;
        let mut leaves = Vec::new();
        let body_structure = describe(&message, &mut leaves);
        let lists = BodyLists::of(&body_structure);
        let body_values = body_values(&lists, &leaves);
        let (mailbox_ids, keywords) = mailboxes::of(&record.labels, record.flags.as_deref());
        let sent_at = headers.date("Date");
        let received_at = record.received.or_else(|| headers.received()).or_else(|| Some(sent_at?.to_utc()));
        let message_id = headers.ids("Message-ID");
        let in_reply_to = headers.ids("In-Reply-To");
        let references = headers.ids("References");
        let thread_root = [&references, &in_reply_to, &message_id].into_iter().find_map(|ids| ids.as_ref()?.first());
        let (name, snippet) = match &record.content {
            Content::Bytes(_) => (record.key.to_string(), None),
            Content::Apart(apart) => (format!("g{}", apart.id), apart.snippet.as_deref()),
        };
        let gmail_thread = record.gmail_thread.or_else(|| gmail_thread(headers));
        Ok(Self {
            id: format!("m{name}"),
            blob_id: format!("b{name}"),
            thread_id: thread_id(gmail_thread, thread_root.map(String::as_str), record.key),
            mailbox_ids,
            keywords,
            size: record.size(),
            received_at: received_at.map(utc_date),
            sender: addresses(headers, "Sender"),
            from: addresses(headers, "From"),
            to: addresses(headers, "To"),
            cc: addresses(headers, "Cc"),
            bcc: addresses(headers, "Bcc"),
            reply_to: addresses(headers, "Reply-To"),
            subject: headers.text("Subject"),
            sent_at: sent_at.map(zoned_date),
            has_attachment: lists.attachments.iter().any(|part| part.disposition.as_deref() != Some("inline")),
            preview: preview(&lists, &body_values, snippet),
            message_id,
            in_reply_to,
            references,
            text_body: owned(&lists.text),
            html_body: owned(&lists.html),
            attachments: owned(&lists.attachments),
            body_values,
            body_structure,
        })
    }
}

fn owned(parts: &[&EmailBodyPart]) -> Vec<EmailBodyPart> {
    parts.iter().map(|part| (*part).clone()).collect()
}

/// Fields that Takeout and IMAP add to the header.
fn gmail_thread(headers: &Headers<'_>) -> Option<u64> {
    headers.raw("X-GM-THRID").filter(|id| id.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn thread_id(gmail: Option<u64>, root: Option<&str>, key: Key) -> String {
    match (gmail, root) {
        (Some(number), _) => format!("tg{number}"),
        (_, Some(root)) => format!("t{}", Key::of(root.as_bytes())),
        (_, None) => format!("t{key}"),
    }
}

fn utc_date(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn zoned_date(at: DateTime<FixedOffset>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn addresses(headers: &Headers<'_>, name: &str) -> Option<Vec<EmailAddress>> {
    let mailboxes = headers.addresses(name)?;
    Some(mailboxes.into_iter().map(|Mailbox { name, email }| EmailAddress { name, email }).collect())
}

/// Describes a part and its subparts. Numbers the leaves from 1, in order, and collects them.
fn describe<'p, 'a>(part: &'p Part<'a>, leaves: &mut Vec<&'p Part<'a>>) -> EmailBodyPart {
    let Part { headers, media_type, body } = part;
    let disposition = headers.media_type("Content-Disposition");
    let file_name = disposition.as_ref().and_then(|d| d.parameter("filename")).or_else(|| media_type.parameter("name"));
    let mut described = EmailBodyPart {
        part_id: None,
        blob_id: None,
        size: 0,
        name: file_name.map(str::to_owned),
        media_type: media_type.name().to_owned(),
        charset: media_type.is_text().then(|| media_type.parameter("charset").unwrap_or("us-ascii").to_owned()),
        disposition: disposition.map(|d| d.name().to_owned()).filter(|d| !d.is_empty()),
        cid: headers.ids("Content-ID").and_then(|ids| ids.into_iter().next()),
        language: headers.list("Content-Language"),
        location: headers.text("Content-Location"),
        sub_parts: None,
    };
    match body {
        Body::Leaf(content) => {
            leaves.push(part);
            let decoded = content.decode().value;
            described.part_id = Some(leaves.len().to_string());
            described.blob_id = Some(format!("b{}", Key::of(&decoded)));
            described.size = decoded.len();
        }
        Body::Elsewhere { size, blob_id } => {
            leaves.push(part);
            described.part_id = Some(leaves.len().to_string());
            described.blob_id = Some(blob_id.clone());
            described.size = *size;
        }
        Body::Parts(parts) => described.sub_parts = Some(parts.iter().map(|part| describe(part, leaves)).collect()),
    }
    described
}

/// Returns the texts of all displayed parts, and of calendar invitations, which mail programs display as well.
fn body_values(lists: &BodyLists<'_>, leaves: &[&Part<'_>]) -> BTreeMap<String, EmailBodyValue> {
    let mut values = BTreeMap::new();
    let calendars = lists.attachments.iter().filter(|part| part.media_type == "text/calendar");
    for shown in lists.text.iter().chain(&lists.html).chain(calendars) {
        let Some(id) = &shown.part_id else { continue };
        if values.contains_key(id) {
            continue;
        }
        let leaf = id.parse::<usize>().ok().and_then(|n| leaves.get(n.checked_sub(1)?));
        let Some(Part { media_type, body, .. }) = leaf.filter(|leaf| leaf.media_type.is_text()) else { continue };
        if let Body::Leaf(content) = body {
            let text = content.text(media_type.parameter("charset"));
            let (value, is_truncated) = truncated(text.value, media_type, MAX_BODY_VALUE);
            values.insert(id.clone(), EmailBodyValue { value, is_encoding_problem: text.problem, is_truncated });
        } else {
            // There is a text, but its bytes are not available.
            let value = EmailBodyValue { value: String::new(), is_encoding_problem: false, is_truncated: true };
            values.insert(id.clone(), value);
        }
    }
    values
}

/// Truncates a text to at most `max` bytes, without splitting a character or, in HTML, a tag.
fn truncated(mut text: String, media_type: &MediaType, max: usize) -> (String, bool) {
    if text.len() <= max {
        return (text, false);
    }
    text.truncate(text.floor_char_boundary(max));
    if media_type.is("text/html")
        && let Some(open) = text.rfind('<')
        && !text[open..].contains('>')
    {
        text.truncate(open);
    }
    (text, true)
}

/// Returns the start of the text, as shown in a list of messages. `snippet` is Gmail's preview, for messages without a text.
fn preview(lists: &BodyLists<'_>, values: &BTreeMap<String, EmailBodyValue>, snippet: Option<&str>) -> String {
    let text_of = |part: &&EmailBodyPart| {
        let value = &values.get(part.part_id.as_ref()?)?.value;
        let is_shown = |c: char| !c.is_whitespace() && !c.is_control();
        let text = if part.media_type == "text/html" {
            html::beginning(value, PREVIEW_SOURCE)
        } else {
            let text = &value[value.find(is_shown)?..];
            text[..text.floor_char_boundary(64 << 10)].to_owned()
        };
        Some(text).filter(|text| text.contains(is_shown))
    };
    // Many programs leave the plain text alternative empty.
    let shown = lists.text.iter().chain(&lists.html).find_map(text_of);
    let Some(text) = shown.or_else(|| snippet.map(html::text)) else { return String::new() };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut preview = String::new();
    for word in words {
        if !preview.is_empty() {
            preview.push(' ');
        }
        preview.push_str(word);
        if preview.len() >= PREVIEW * 4 {
            break;
        }
    }
    preview.chars().take(PREVIEW).collect()
}

#[cfg(test)]
pub(crate) mod tests;
