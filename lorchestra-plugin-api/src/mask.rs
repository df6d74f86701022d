//! Masking of secrets in text.
//!
//! Owns the list of encodings in which host and packages search for a secret. The host masks everything it captures from a job. A
//! package uses [`Mask`] for the output of another program to which it passed secrets.
//!
//! A secret is found verbatim, line by line (programs often log a key one line at a time), and in each of these forms as JSON, Python
//! or Rust escape it and as URLs encode it. Values derived from it (base64, a hash, a part of it) are not found.

use crate::limits::MIN_SECRET;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use zeroize::Zeroizing;

/// The text that replaces a secret.
pub const STARS: &str = "***";

/// Returns the texts to search for to find these values, longest first. Values shorter than 6 bytes are skipped, because they would
/// match unrelated text.
#[must_use]
pub fn forms<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Zeroizing<String>> {
    let mut forms: BTreeSet<String> = BTreeSet::new();
    for value in values {
        for form in [value, value.trim()].into_iter().chain(value.lines().map(str::trim)) {
            if form.len() >= MIN_SECRET {
                add_forms(form, &mut forms);
            }
        }
    }
    let mut forms: Vec<Zeroizing<String>> = forms.into_iter().map(Zeroizing::new).collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms
}

fn add_forms(value: &str, forms: &mut BTreeSet<String>) {
    forms.insert(value.to_owned());
    // Most tokens have only these characters, and no other encoding.
    if value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~')) {
        return;
    }
    let json = json(value);
    // JSON inside a JSON string, as loggers write a server's response.
    forms.insert(self::json(&json));
    // Python's json module escapes all non-ASCII characters; its repr escapes one kind of quote or none.
    let ascii = ascii(&json);
    forms.insert(ascii);
    forms.insert(json.replace("\\\"", "\""));
    forms.insert(json.replace("\\\"", "\"").replace('\'', "\\'"));
    forms.insert(json);
    forms.insert(value.escape_debug().to_string());
    for kept in ["", "/", "!'()*"] {
        let upper = percent(value, kept, false);
        forms.insert(upper.replace("%20", "+"));
        forms.insert(upper);
        let lower = percent(value, kept, true);
        forms.insert(lower.replace("%20", "+"));
        forms.insert(lower);
    }
}

/// Encodes as a JSON string, without the quotes.
fn json(value: &str) -> String {
    let json = Value::from(value).to_string();
    json[1..json.len() - 1].to_owned()
}

fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

fn percent(value: &str, kept: &str, lower: bool) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || kept.as_bytes().contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = if lower { write!(text, "%{byte:02x}") } else { write!(text, "%{byte:02X}") };
        }
    }
    text
}

/// Replaces secrets with `***`, for the output of a program that a package starts.
///
/// ```
/// use lorchestra_plugin_api::mask::Mask;
///
/// let mask = Mask::of(["p@ss word"]);
/// assert_eq!(mask.text("GET /?key=p%40ss%20word"), "GET /?key=***");
/// ```
#[derive(Clone, Default)]
pub struct Mask {
    forms: Vec<Zeroizing<String>>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    /// Creates a mask for these secrets.
    #[must_use]
    pub fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self { forms: forms(values) }
    }

    /// Returns the text with all secrets replaced.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        self.forms.iter().fold(text.to_owned(), |text, form| {
            if text.contains(form.as_str()) { text.replace(form.as_str(), STARS) } else { text }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_encoding() {
        let key = "-----BEGIN KEY-----\nab+/cd \"x\" y's=é\n-----END KEY-----\n";
        let mask = Mask::of([key, "1234567", "p@ss word/1"]);
        for (text, masked) in [
            (key.to_owned(), "***"),
            (format!("{}", Value::from(key)), "\"***\""),
            (Value::from(Value::from(key).to_string()).to_string(), "\"\\\"***\\\"\""),
            (format!("{key:?}"), "\"***\""),
            // Python: json.dumps, and repr of a text with both quotes and of one with double quotes.
            (r#"ab+/cd \"x\" y's=\u00e9"#.to_owned(), "***"),
            (r#"'-----BEGIN KEY-----\nab+/cd "x" y\'s=é\n-----END KEY-----\n'"#.to_owned(), "'***'"),
            ("one line: ab+/cd \"x\" y's=é!".to_owned(), "one line: ***!"),
            ("for url: /?k=p%40ss%20word%2F1&k=p%40ss+word/1&k=p%40ss%20word%2f1".to_owned(), "for url: /?k=***&k=***&k=***"),
            ("{'pin': 1234567}".to_owned(), "{'pin': ***}"),
            ("nothing".to_owned(), "nothing"),
        ] {
            assert_eq!(mask.text(&text), masked, "{text}");
        }
    }

    #[test]
    fn short_values_are_not_searched_for() {
        assert!(forms(["12345", "", "a\nb\nc"]).iter().all(|form| form.len() >= MIN_SECRET - 1));
        assert!(forms(["12345"]).is_empty());
    }
}
