//! Conversion of canonizer's lines to documents: what is displayed, and what is searched.

use crate::calendar;
use lorchestra_plugin_api::chrono::{DateTime, SecondsFormat, Utc};
use lorchestra_plugin_api::serde_json;
use package_support::html;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Maximum size of a document's indexed text, in bytes. Longer texts are truncated.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// A document in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) id: String,
    /// `email` or `message`.
    pub(crate) kind: &'static str,
    /// RFC 3339 in UTC.
    pub(crate) date: Option<String>,
    /// Sender, for display.
    pub(crate) sender: String,
    /// All people in the document, for search.
    pub(crate) people: String,
    /// Subject or channel.
    pub(crate) title: String,
    /// Text, calendar invitations, and the names of attachments.
    pub(crate) body: String,
    /// Whether the text was truncated to [`MAX_BODY`].
    pub(crate) is_cut: bool,
}

/// Why a line is not a document. The names are those of the `set_aside` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NotJson,
    /// JSON, but neither an Email nor a message of canonizer.
    NotADocument,
    /// The id is empty.
    NoId,
}

impl Fault {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotADocument => "not_a_document",
            Self::NoId => "no_id",
        }
    }
}

/// The fields read from a JMAP Email.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Email {
    id: String,
    body_values: BTreeMap<String, BodyValue>,
    #[serde(default)]
    text_body: Vec<Part>,
    #[serde(default)]
    html_body: Vec<Part>,
    sent_at: Option<DateTime<Utc>>,
    received_at: Option<DateTime<Utc>>,
    from: Option<Vec<Address>>,
    to: Option<Vec<Address>>,
    cc: Option<Vec<Address>>,
    bcc: Option<Vec<Address>>,
    reply_to: Option<Vec<Address>>,
    /// Who sent it for those in `from`.
    #[serde(rename = "sender")]
    on_behalf: Option<Vec<Address>>,
    subject: Option<String>,
    #[serde(default)]
    attachments: Vec<Named>,
}

#[derive(Deserialize)]
struct BodyValue {
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    part_id: Option<String>,
    #[serde(rename = "type", default)]
    media_type: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    name: Option<String>,
    #[serde(default)]
    email: String,
}

/// The fields read from a chat message.
#[derive(Deserialize)]
struct Message {
    id: String,
    text: String,
    sent_at: DateTime<Utc>,
    channel: Named,
    sender: Named,
    #[serde(default)]
    files: Vec<Named>,
    #[serde(default)]
    attachments: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "partId")]
    part_id: Option<String>,
    #[serde(rename = "type")]
    media_type: Option<String>,
    id: Option<String>,
    name: Option<String>,
    title: Option<String>,
    text: Option<String>,
    author: Option<String>,
}

impl Document {
    /// Parses a line.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, Fault> {
        let document = match serde_json::from_slice::<Email>(line) {
            Ok(email) => Self::of_email(email),
            Err(error) if !error.is_data() => return Err(Fault::NotJson),
            Err(_) => Self::of_message(serde_json::from_slice(line).map_err(|_| Fault::NotADocument)?),
        };
        if document.id.is_empty() { Err(Fault::NoId) } else { Ok(document) }
    }

    fn of_email(mut email: Email) -> Self {
        let mut body = String::new();
        let mut is_cut = false;
        // Many programs leave the plain text alternative empty.
        for parts in [&email.text_body, &email.html_body] {
            for part in parts {
                let Some(value) = part.part_id.as_ref().and_then(|id| email.body_values.remove(id)) else { continue };
                let text = if part.media_type == "text/html" { html::beginning(&value.value, MAX_BODY + 1) } else { value.value };
                is_cut |= add(&mut body, &text);
            }
            if !body.trim().is_empty() {
                break;
            }
        }
        for attachment in email.attachments.iter().filter(|attachment| attachment.media_type.as_deref() == Some("text/calendar"))
        {
            if let Some(value) = attachment.part_id.as_ref().and_then(|id| email.body_values.remove(id)) {
                is_cut |= add(&mut body, &calendar::text(&value.value));
            }
        }
        // Of parts that are shown in the text as well, such as images; a part may be in several lists.
        let shown_parts = email.text_body.iter().chain(&email.html_body).filter_map(|part| part.name.as_deref());
        let mut names: Vec<&str> = email.attachments.iter().filter_map(|attachment| attachment.name.as_deref()).collect();
        for name in shown_parts {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        for name in names {
            is_cut |= add(&mut body, name);
        }
        let sender = email.from.as_ref().and_then(|from| from.first()).map(shown).unwrap_or_default();
        let lists = [&email.from, &email.to, &email.cc, &email.bcc, &email.reply_to, &email.on_behalf];
        let mut people: Vec<String> = Vec::new();
        for person in lists.into_iter().flatten().flatten().map(shown) {
            if !people.contains(&person) {
                people.push(person);
            }
        }
        Self {
            id: email.id,
            kind: "email",
            date: email.sent_at.or(email.received_at).map(rfc3339),
            sender,
            people: people.join("\n"),
            title: email.subject.unwrap_or_default(),
            body,
            is_cut,
        }
    }

    fn of_message(message: Message) -> Self {
        let mut body = String::new();
        let mut is_cut = add(&mut body, &message.text);
        for named in message.files.iter().chain(&message.attachments) {
            for text in [&named.name, &named.author, &named.title, &named.text].into_iter().flatten() {
                is_cut |= add(&mut body, text);
            }
        }
        let sender = message.sender.name.or(message.sender.id).unwrap_or_default();
        Self {
            id: message.id,
            kind: "message",
            date: Some(rfc3339(message.sent_at)),
            people: sender.clone(),
            sender,
            title: message.channel.name.or(message.channel.id).map(|name| format!("#{name}")).unwrap_or_default(),
            body,
            is_cut,
        }
    }
}

/// Appends a paragraph; returns whether it had to be truncated.
fn add(body: &mut String, text: &str) -> bool {
    if !body.is_empty() {
        body.push('\n');
    }
    let room = MAX_BODY.saturating_sub(body.len());
    body.push_str(&text[..text.floor_char_boundary(room)]);
    text.len() > room
}

fn shown(address: &Address) -> String {
    match &address.name {
        Some(name) if !name.is_empty() => format!("{name} <{}>", address.email),
        _ => address.email.clone(),
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::serde_json::json;

    #[test]
    fn an_email_and_a_message() {
        let email = json!({
            "id": "m1", "sentAt": "2024-01-01T12:00:00+02:00", "receivedAt": null, "subject": "Contract",
            "from": [{"name": "Anna", "email": "a@example.org"}], "to": [{"name": null, "email": "b@example.org"}], "cc": null,
            "textBody": [{"partId": "1", "type": "text/plain"}, {"partId": "2", "type": "text/html"}],
            "bodyValues": {"1": {"value": "see below"}, "2": {"value": "<p>with <b>markup</b></p>"}, "3": {"value": "not shown"}},
            "attachments": [{"name": "contract.pdf"}, {"name": null}], "sender": [{"name": "x", "email": "y"}],
            "bcc": [{"name": "Clara", "email": "c@example.org"}], "replyTo": [{"name": "Anna", "email": "a@example.org"}],
        });
        let email = Document::parse(email.to_string().as_bytes()).unwrap();
        assert_eq!(
            (email.kind, email.date.as_deref(), &*email.sender),
            ("email", Some("2024-01-01T10:00:00Z"), "Anna <a@example.org>")
        );
        assert_eq!(
            (&*email.people, &*email.title),
            ("Anna <a@example.org>\nb@example.org\nClara <c@example.org>\nx <y>", "Contract")
        );
        assert!(
            email.body.starts_with("see below\n") && email.body.contains("with markup") && email.body.ends_with("\ncontract.pdf")
        );
        assert!(!email.body.contains('<') && !email.body.contains("not shown") && !email.is_cut);

        let message = json!({
            "id": "slack:a:C1:1.0", "sent_at": "2024-01-01T12:00:00Z", "channel": {"id": "C1", "name": "general"},
            "sender": {"id": "U1", "name": "bert", "is_bot": false}, "text": "hello", "files": [{"name": "plan.png"}],
            "attachments": [{"title": "News", "text": "of today", "author": "Clara"}], "subtype": null,
        });
        let message = Document::parse(message.to_string().as_bytes()).unwrap();
        assert_eq!((message.kind, &*message.sender, &*message.title), ("message", "bert", "#general"));
        assert_eq!(message.body, "hello\nplan.png\nClara\nNews\nof today");
    }

    #[test]
    fn html_is_indexed_where_the_plain_text_is_empty() {
        let email = json!({
            "id": "m1", "textBody": [{"partId": "1", "type": "text/plain"}], "htmlBody": [{"partId": "2", "type": "text/html"}],
            "bodyValues": {"1": {"value": " \n"}, "2": {"value": "<div>Your payment of 4711</div><div>was received</div>"}},
        });
        let email = Document::parse(email.to_string().as_bytes()).unwrap();
        assert!(email.body.ends_with("Your payment of 4711\nwas received"), "{}", email.body);
    }

    #[test]
    fn names_of_inline_parts_are_indexed() {
        let email = json!({
            "id": "m1", "bodyValues": {"1": {"value": "<p>see</p>"}}, "textBody": [],
            "htmlBody": [{"partId": "1", "type": "text/html"}, {"partId": "2", "type": "image/png", "name": "floorplan.png"}],
            "attachments": [{"name": "contract.pdf"}, {"name": "floorplan.png"}],
        });
        let email = Document::parse(email.to_string().as_bytes()).unwrap();
        assert!(email.body.ends_with("see\ncontract.pdf\nfloorplan.png"), "{}", email.body);
    }

    #[test]
    fn an_invalid_document_is_refused_with_a_reason() {
        for (line, fault) in [
            ("", Fault::NotJson),
            ("{\"id\":", Fault::NotJson),
            ("[]", Fault::NotADocument),
            ("{\"id\":\"x\"}", Fault::NotADocument),
            ("{\"id\":1,\"bodyValues\":{}}", Fault::NotADocument),
            ("{\"id\":\"\",\"bodyValues\":{}}", Fault::NoId),
        ] {
            assert_eq!(Document::parse(line.as_bytes()), Err(fault), "{line}");
        }
    }

    #[test]
    fn a_huge_text_is_cut_between_characters() {
        let email = json!({
            "id": "m1", "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": "ä".repeat(MAX_BODY)}},
        });
        let email = Document::parse(email.to_string().as_bytes()).unwrap();
        assert!(email.is_cut && email.body.len() == MAX_BODY);
    }
}
