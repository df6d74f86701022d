//! Parsing of the header fields that are needed to select a message.
//!
//! Fields are split here before mail-parser parses their values, because its own header parser lets a damaged field (for
//! example a date that ends in `UT`) swallow the next one.

use lorchestra_plugin_api::chrono::{DateTime, Utc};
use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;
use package_support::{date, encoded_word, header as header_start};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Length of the start of a message in which the header is searched. Mail servers refuse headers of half this size.
const MAX_HEADER: usize = 1 << 20;

/// The parsed header fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Message-ID, without angle brackets.
    pub(crate) message_id: Option<String>,
    /// Date; `None` if it is missing or invalid.
    pub(crate) date: Option<DateTime<Utc>>,
    /// X-Gmail-Labels, decoded, split, without duplicates.
    pub(crate) labels: Vec<String>,
}

impl Summary {
    /// Parses the header of a message. Never fails: missing or invalid fields are `None`.
    pub(crate) fn of(raw: &[u8]) -> Self {
        let header = header(raw);
        Self {
            message_id: parsed(header, "Message-ID", |s| s.parse_id())
                .and_then(|v| Some(v.as_text_list()?.first()?.clone().into_owned())),
            date: field(header, "Date").and_then(|value| catch_unwind(|| date::parse(&value)).ok()?).map(|date| date.to_utc()),
            labels: parsed(header, "X-Gmail-Labels", |s| s.parse_unstructured())
                .and_then(|v| Some(split_labels(v.as_text()?)))
                .unwrap_or_default(),
        }
    }
}

/// Returns the lines from the first field to the first empty line, or to a line that is not part of a field, as canonizer does.
fn header(raw: &[u8]) -> &[u8] {
    let raw = &raw[header_start::start(raw)..];
    let raw = &raw[..raw.len().min(MAX_HEADER)];
    let mut end = 0;
    for line in raw.split_inclusive(|&b| b == b'\n') {
        let is_folded = end > 0 && matches!(line[0], b' ' | b'\t');
        let is_separator = line.starts_with(b"From ") || line.starts_with(b">From ");
        if matches!(line, b"\n" | b"\r\n") || !(is_folded || is_separator || header_start::field_name(line).is_some()) {
            break;
        }
        end += line.len();
    }
    &raw[..end]
}

/// Returns the last field with this name (as RFC 8621 requires of JMAP), including folded lines, ending in a line feed as the parser
/// expects.
fn field(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    let mut is_open = false;
    for line in header.split_inclusive(|&b| b == b'\n') {
        if matches!(line[0], b' ' | b'\t') {
            if let Some(value) = value.as_mut().filter(|_| is_open) {
                value.extend_from_slice(line);
            }
            continue;
        }
        let colon = line.iter().position(|&b| b == b':');
        let matching = colon.filter(|&colon| line[..colon].trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()));
        is_open = matching.is_some();
        if let Some(colon) = matching {
            value = Some(line[colon + 1..].to_vec());
        }
    }
    let mut value = value?;
    if value.last() != Some(&b'\n') {
        value.push(b'\n');
    }
    Some(value)
}

/// Parses a field with mail-parser. A panic in the parser makes this field invalid and does not end the run.
fn parsed(
    header: &[u8],
    name: &str,
    parse: for<'x> fn(&mut MessageStream<'x>) -> HeaderValue<'x>,
) -> Option<HeaderValue<'static>> {
    let value = encoded_word::normalize(&field(header, name)?).into_owned();
    catch_unwind(AssertUnwindSafe(|| parse(&mut MessageStream::new(&value)).into_owned())).ok()
}

/// Splits at commas, except in double quotes: Gmail quotes labels that contain a comma.
fn split_labels(text: &str) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    let mut label = String::new();
    let mut quoted = false;
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let trimmed = label.trim();
                if !trimmed.is_empty() && !labels.iter().any(|known| known == trimmed) {
                    labels.push(trimmed.to_owned());
                }
                label.clear();
            }
            c => label.push(c),
        }
    }
    // A quote that is never closed: one long label is better than none.
    let rest = label.trim().trim_end_matches(',');
    if !rest.is_empty() {
        labels.push(rest.to_owned());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Option<String> {
        Summary::of(format!("Date: {text}\nSubject: x\n\nbody").as_bytes()).date.map(|d| d.to_rfc3339())
    }

    #[test]
    fn dates_that_can_be_read() {
        for (text, expected) in [
            ("Mon, 1 Jan 2024 12:00:00 +0200", "2024-01-01T10:00:00+00:00"),
            ("1 Jan 24 12:00 EST", "2024-01-01T17:00:00+00:00"),
            ("Thu, 29 Feb 2024 23:59:60 +0000 (leap)", "2024-02-29T23:59:59+00:00"),
            ("Fri, 1 Jan 2024 12:00:00 GMT (a Monday)", "2024-01-01T12:00:00+00:00"),
            ("Mon, 1 Jan 2024 12:00:00 +0000 (CET) with more", "2024-01-01T12:00:00+00:00"),
            ("Mon, 01 Jan 2024 10:00:00", "2024-01-01T10:00:00+00:00"),
            ("Monday, 1 January 2024 10:00:00 GMT", "2024-01-01T10:00:00+00:00"),
            ("Mon Jan  1 10:00:00 2024", "2024-01-01T10:00:00+00:00"),
            ("Mon Jan  1 10:00:00 2024 +0200", "2024-01-01T08:00:00+00:00"),
        ] {
            assert_eq!(date(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn dates_that_cannot() {
        for text in ["", "yesterday", "Thu, 32 Foo 2024 99:99:99 +0000", "Sat, 31 Feb 2024 10:00:00 +0000", "\u{0}\u{1}", "-----"]
        {
            assert_eq!(date(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_date_does_not_swallow_the_next_field() {
        let summary = Summary::of(b"Date: Mon, 1 Jan 2024 12:00:00 UT\nMessage-ID: <a@example.org>\n\n");
        assert!(summary.date.is_some());
        assert_eq!(summary.message_id.as_deref(), Some("a@example.org"));
    }

    #[test]
    fn fields_are_found_folded_in_any_case_with_crlf_and_without_a_last_line_end() {
        let summary =
            Summary::of(b"message-id:\r\n <a@example.org>\r\nDATE : Mon,\r\n\t1 Jan 2024 12:00:00 +0000\r\n\r\nDate: no");
        assert_eq!(summary.message_id.as_deref(), Some("a@example.org"));
        assert_eq!(summary.date.unwrap().to_rfc3339(), "2024-01-01T12:00:00+00:00");
        assert_eq!(Summary::of(b"Message-ID: <b@example.org>").message_id.as_deref(), Some("b@example.org"));
    }

    #[test]
    fn the_body_is_not_the_header() {
        assert_eq!(Summary::of(b"Subject: x\n\nDate: Mon, 1 Jan 2024 12:00:00 +0000\n"), Summary::default());
        assert_eq!(Summary::of(b""), Summary::default());
        assert_eq!(Summary::of(b"\n"), Summary::default());
    }

    /// As canonizer reads them: of repeated fields the last one, and nothing behind a line that is not part of a field.
    #[test]
    fn repeated_fields_and_broken_lines_are_read_as_canonizer_reads_them() {
        let date = |header: &str| Summary::of(header.as_bytes()).date.map(|date| date.to_rfc3339());
        let (first, last) = ("Date: Mon, 1 Jan 2024 12:00:00 +0000\n", "Date: Tue, 2 Jan 2024\n 12:00:00 +0000\n");
        assert_eq!(date(&format!("{first}Subject: x\n{last}\n")).as_deref(), Some("2024-01-02T12:00:00+00:00"));
        assert_eq!(date(&format!("{first}no field\n{last}\n")).as_deref(), Some("2024-01-01T12:00:00+00:00"));
        assert_eq!(
            date(&format!("{first}>From a@example.org Mon Jan  1\n{last}\n")).as_deref(),
            Some("2024-01-02T12:00:00+00:00")
        );
    }

    fn labels(value: &str) -> Vec<String> {
        Summary::of(format!("X-Gmail-Labels: {value}\n\n").as_bytes()).labels
    }

    #[test]
    fn labels_are_decoded_and_split() {
        assert_eq!(labels("Inbox,Unread,Category Updates"), ["Inbox", "Unread", "Category Updates"]);
        assert_eq!(labels("=?UTF-8?Q?Posteingang,Wichtig,B=C3=BCcher?="), ["Posteingang", "Wichtig", "Bücher"]);
        assert_eq!(
            labels("=?UTF-8?Q?Ouvert,Cat=C3=A9gorie?=\n =?UTF-8?Q?_perso,\"Culture,_arts\"?="),
            ["Ouvert", "Catégorie perso", "Culture, arts"]
        );
        assert_eq!(labels(" a ,, b,a,"), ["a", "b"]);
        assert_eq!(labels("x,\"never closed, y"), ["x", "never closed, y"]);
        assert!(labels("").is_empty());
    }
}
