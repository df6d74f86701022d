//! Header fields. They are split here and parsed one by one with mail-parser, so that a damaged field affects only itself.

use super::{MAX_HEADER, Refusal};
use lorchestra_plugin_api::chrono::{DateTime, FixedOffset, Utc};
use mail_parser::parsers::MessageStream;
use mail_parser::{Addr, Address, HeaderValue};
use package_support::header::field_name;
use package_support::{date, encoded_word, parameters};
use std::borrow::Cow;

/// Maximum size of a field with parameters, in bytes; a longer one is ignored.
const MAX_PARAMETERS: usize = 16 << 10;

/// The fields of a message or part, in order.
#[derive(Debug, Default)]
pub(crate) struct Headers<'a> {
    /// Name and value, including folds and the last line ending.
    fields: Vec<(&'a [u8], &'a [u8])>,
}

/// A person or a mailing list in an address field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailbox {
    pub(crate) name: Option<String>,
    pub(crate) email: String,
}

/// The value of Content-Type or Content-Disposition: a token in lower case, and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MediaType {
    name: String,
    parameters: Vec<(String, String)>,
}

impl<'a> Headers<'a> {
    /// Splits bytes into header and body. Without any field, everything is body.
    ///
    /// The header ends at the first empty line or, in damaged mail, at the first line that cannot be part of a header. A line
    /// `From …` is skipped: old mailboxes contain it inside messages.
    pub(crate) fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Refusal> {
        let mut fields: Vec<(&[u8], &[u8])> = Vec::new();
        let mut value_start = 0;
        let mut offset = 0;
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            let end = offset + line.len();
            if matches!(line, b"\n" | b"\r\n") {
                return Ok((Self { fields }, &bytes[end..]));
            }
            if matches!(line[0], b' ' | b'\t') && !fields.is_empty() {
                if let Some((_, value)) = fields.last_mut() {
                    *value = &bytes[value_start..end];
                }
            } else if let Some(name) = field_name(line) {
                value_start = offset + line.iter().position(|&b| b == b':').map_or(0, |colon| colon + 1);
                fields.push((name, &bytes[value_start..end]));
            } else if !line.starts_with(b"From ") && !line.starts_with(b">From ") {
                return Ok((Self { fields }, &bytes[offset..]));
            }
            if end > MAX_HEADER {
                return Err(Refusal::HeaderTooLarge);
            }
            offset = end;
        }
        Ok((Self { fields }, &bytes[offset..]))
    }

    /// Creates a header from fields that are already split into names and values.
    pub(crate) fn of(fields: Vec<(&'a [u8], &'a [u8])>) -> Result<Self, Refusal> {
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len() + ": \n".len()).sum();
        if bytes > MAX_HEADER { Err(Refusal::HeaderTooLarge) } else { Ok(Self { fields }) }
    }

    /// Returns all fields as a parser would provide them: unfolded, without spaces around the value.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = (String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.fields.iter().map(move |(name, value)| {
            (text(name).trim().to_owned(), text(value).replace("\r\n", "\n").replace('\n', "").trim().to_owned())
        })
    }

    /// Returns the last field with this name, as RFC 8621 requires, ending in a line feed as mail-parser expects.
    fn last(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let (_, value) = self.fields.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(if value.ends_with(b"\n") { Cow::Borrowed(*value) } else { Cow::Owned([value, &b"\n"[..]].concat()) })
    }

    fn read<T>(
        &self,
        name: &str,
        parse: for<'x> fn(&mut MessageStream<'x>) -> HeaderValue<'x>,
        map: impl FnOnce(HeaderValue<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.last(name)?;
        map(parse(&mut MessageStream::new(&encoded_word::normalize(&value))))
    }

    /// Returns a field as text, with encoded words decoded.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.read(name, |s| s.parse_unstructured(), |v| Some(v.into_text()?.into_owned()))
    }

    /// Returns a field unchanged except for unfolding.
    pub(crate) fn raw(&self, name: &str) -> Option<String> {
        Some(MessageStream::new(&self.last(name)?).parse_raw().into_text()?.into_owned())
    }

    /// Returns message ids without angle brackets.
    pub(crate) fn ids(&self, name: &str) -> Option<Vec<String>> {
        self.read(name, |s| s.parse_id(), |v| Some(v.into_text_list()?.into_iter().map(Cow::into_owned).collect()))
    }

    /// Returns comma-separated words.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<String>> {
        self.read(name, |s| s.parse_comma_separared(), |v| Some(v.into_text_list()?.into_iter().map(Cow::into_owned).collect()))
    }

    /// Returns addresses, with groups flattened. `Some` and empty: the field exists but is empty.
    pub(crate) fn addresses(&self, name: &str) -> Option<Vec<Mailbox>> {
        self.last(name)?;
        let mailboxes = self.read(
            name,
            |s| s.parse_address(),
            |v| {
                let all = match v.into_address()? {
                    Address::List(list) => list,
                    Address::Group(groups) => groups.into_iter().flat_map(|group| group.addresses).collect(),
                };
                Some(all.into_iter().filter_map(mailbox).collect())
            },
        );
        Some(mailboxes.unwrap_or_default())
    }

    /// Returns a date with its time zone.
    pub(crate) fn date(&self, name: &str) -> Option<DateTime<FixedOffset>> {
        date::parse(&self.last(name)?)
    }

    /// Returns when the last server received the message: the date of the topmost Received field.
    pub(crate) fn received(&self) -> Option<DateTime<Utc>> {
        let (_, value) = self.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"Received"))?;
        let at = value.iter().rposition(|&b| b == b';')?;
        Some(date::parse(&value[at + 1..])?.to_utc())
    }

    /// Returns a media type or disposition with its parameters.
    pub(crate) fn media_type(&self, name: &str) -> Option<MediaType> {
        if self.last(name)?.len() > MAX_PARAMETERS {
            return None;
        }
        let parsed = parameters::parse(&self.last(name)?);
        let name = match parsed.token.split_once('/') {
            Some((kind, subtype)) => format!("{}/{}", kind.trim(), subtype.trim()),
            None if name == "Content-Disposition" => parsed.token,
            // RFC 2045, section 5.2: an invalid type is read as text/plain.
            None => return None,
        };
        Some(MediaType { name, parameters: parsed.parameters })
    }
}

fn mailbox(addr: Addr<'_>) -> Option<Mailbox> {
    let name = addr.name.map(Cow::into_owned);
    match addr.address {
        Some(email) => Some(Mailbox { name, email: email.into_owned() }),
        // "To: Anna": JMAP requires an email in every address, even an empty one.
        None => name.map(|name| Mailbox { name: Some(name), email: String::new() }),
    }
}

impl MediaType {
    /// A type without parameters.
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), parameters: Vec::new() }
    }

    /// The default type of a part.
    pub(crate) fn text_plain() -> Self {
        Self::of("text/plain")
    }

    /// Adds a parameter unless it exists.
    pub(crate) fn or_parameter(mut self, name: &str, value: &str) -> Self {
        if self.parameter(name).is_none() {
            self.parameters.retain(|(n, _)| n != name);
            self.parameters.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// `text/plain`, or `attachment`; lower case.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    pub(crate) fn is_multipart(&self) -> bool {
        self.name.starts_with("multipart/")
    }

    pub(crate) fn is_text(&self) -> bool {
        self.name.starts_with("text/")
    }

    /// Returns a parameter, decoded (RFC 2231 or, as many programs write it, RFC 2047). An empty one counts as missing.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> Headers<'_> {
        Headers::split(text.as_bytes()).unwrap().0
    }

    fn body(text: &str) -> &[u8] {
        Headers::split(text.as_bytes()).unwrap().1
    }

    #[test]
    fn the_end_of_the_header() {
        for (text, fields, rest) in [
            ("A: 1\n\nbody", 1, "body"),
            ("A: 1\r\nB: 2\r\n\r\nbody", 2, "body"),
            ("\nbody", 0, "body"),
            ("", 0, ""),
            ("A: 1", 1, ""),
            ("A: 1\n", 1, ""),
            ("A: 1\n folded\n\tagain\nB: 2\n\n\nbody", 2, "\nbody"),
            ("no header here\n\nbody", 0, "no header here\n\nbody"),
            ("A: 1\nno field\nB: 2\n\nbody", 1, "no field\nB: 2\n\nbody"),
            (">From a\nFrom b Thu\nA: 1\n\nbody", 1, "body"),
            (" folded first\nA: 1\n", 0, " folded first\nA: 1\n"),
            ("two words: 1\n\nbody", 0, "two words: 1\n\nbody"),
        ] {
            assert_eq!(headers(text).fields.len(), fields, "{text:?}");
            assert_eq!(body(text), rest.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn values_are_cut_exactly() {
        let headers = headers("A : 1: x\n y\nb:\r\n z\r\nC:\n\n");
        assert_eq!(headers.fields, [(&b"A"[..], &b" 1: x\n y\n"[..]), (b"b", b"\r\n z\r\n"), (b"C", b"\n")]);
        assert_eq!(headers.raw("B").as_deref(), Some("z"));
        assert_eq!(headers.text("c"), None);
    }

    #[test]
    fn the_last_of_a_name_counts_and_the_first_received() {
        let headers = headers("Subject: a\nReceived: x; 1 Jan 2024 00:00:00 +0100\nReceived: y; nonsense\nsubject: b");
        assert_eq!(headers.text("Subject").as_deref(), Some("b"));
        assert_eq!(headers.received().unwrap().to_rfc3339(), "2023-12-31T23:00:00+00:00");
    }

    #[test]
    fn dates_keep_their_zone() {
        let date = |text: &str| headers(&format!("Date: {text}\nX: y\n")).date("Date").map(|d| d.to_rfc3339());
        for (text, expected) in [
            ("Mon, 1 Jan 2024 12:00:00 +0200", Some("2024-01-01T12:00:00+02:00")),
            ("Fri, 1 Jan 2024 12:00:00 -0330", Some("2024-01-01T12:00:00-03:30")),
            ("2 Feb 24 08:15 EST", Some("2024-02-02T08:15:00-05:00")),
            ("Mon, 1 Jan 2024 12:00:00 UT", Some("2024-01-01T12:00:00+00:00")),
            ("Mon, 01 Jan 2024 10:00:00", Some("2024-01-01T10:00:00+00:00")),
            ("Monday, 1 January 2024 10:00:00 GMT", Some("2024-01-01T10:00:00+00:00")),
            ("Monday, 1 January 2024 10:00:00 -0330", Some("2024-01-01T10:00:00-03:30")),
            ("Mon Jan  1 10:00:00 2024", Some("2024-01-01T10:00:00+00:00")),
            ("Mon Jan  1 10:00:00 2024 +0200", Some("2024-01-01T10:00:00+02:00")),
            ("Mon Jan  1 10:00:00 EST 2024", Some("2024-01-01T10:00:00-05:00")),
            ("Sat Feb 31 10:00:00 2024", None),
            ("Mon Jan  1 10:00:00", None),
            ("Janus, 1 Jane 2024 10:00:00", None),
            ("Sat, 31 Feb 2024 12:00:00 +0000", None),
            ("Thu, 32 Foo 2024 99:99:99 +9999", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(date(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn media_types() {
        let of = |value: &str| headers(&format!("Content-Type: {value}\n")).media_type("Content-Type");
        assert!(of("TEXT/Html; Charset=\"UTF-8\"").unwrap().is("text/html"));
        assert_eq!(of("text/html; Charset=\"UTF-8\"").unwrap().parameter("charset"), Some("UTF-8"));
        assert_eq!(of("text"), None);
        assert_eq!(of(""), None);
        assert!(of(&format!("x/y; a={}", "a".repeat(16_000))).is_some());
        assert_eq!(of(&format!("x/y; a={}", "a".repeat(17_000))), None);
        assert_eq!(of("x/y; name*=utf-8''%E2%82%AC.txt").unwrap().parameter("name"), Some("€.txt"));
        let disposition = headers("Content-Disposition: Attachment;\n filename=\"a b\"\n").media_type("Content-Disposition");
        assert_eq!(
            (disposition.as_ref().unwrap().name(), disposition.as_ref().unwrap().parameter("filename")),
            ("attachment", Some("a b"))
        );
    }

    #[test]
    fn addresses_of_all_forms() {
        let of = |value: &str| headers(&format!("To: {value}\n")).addresses("To").unwrap();
        let mailbox = |name: Option<&str>, email: &str| Mailbox { name: name.map(str::to_owned), email: email.to_owned() };
        assert_eq!(of("a@example.org"), [mailbox(None, "a@example.org")]);
        assert_eq!(
            of("\"B, A\" <a@example.org>, x@example.org"),
            [mailbox(Some("B, A"), "a@example.org"), mailbox(None, "x@example.org")]
        );
        assert_eq!(of("undisclosed-recipients:;"), []);
        assert_eq!(of(""), []);
        assert_eq!(headers("X: y\n").addresses("To"), None);
    }

    #[test]
    fn an_endless_header_is_refused() {
        let long = format!("Subject: {}\n\nbody", "x".repeat(MAX_HEADER));
        assert_eq!(Headers::split(long.as_bytes()).unwrap_err(), Refusal::HeaderTooLarge);
        let many = "A:\n".repeat(MAX_HEADER / 3 + 1);
        assert_eq!(Headers::split(many.as_bytes()).unwrap_err(), Refusal::HeaderTooLarge);
        let body = format!("Subject: x\n\n{}", "x".repeat(2 * MAX_HEADER));
        assert!(Headers::split(body.as_bytes()).is_ok());
        let text = "no header ".repeat(MAX_HEADER / 5);
        assert_eq!(Headers::split(text.as_bytes()).unwrap().1.len(), text.len());
    }
}
