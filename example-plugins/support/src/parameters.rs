//! Parsing of Content-Type and Content-Disposition: a token and parameters (RFC 2045, RFC 2231), including common violations.
//!
//! mail-parser is not used: it decodes each section of a split parameter separately, which breaks split characters, and
//! prefers `filename` to `filename*`.

use crate::{charset, encoded_word};
use std::collections::BTreeMap;

/// A token and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameterized {
    /// The token in lower case.
    pub token: String,
    /// Names in lower case, without duplicates; values decoded.
    pub parameters: Vec<(String, String)>,
}

/// The syntax of a parameter.
#[derive(Default)]
struct Given {
    plain: Option<String>,
    /// `name*`.
    extended: Option<String>,
    /// `name*0`, `name*1*`: whether each is percent-encoded.
    sections: BTreeMap<u32, (String, bool)>,
}

/// Parses a field. Never fails; invalid parameters are dropped.
pub fn parse(value: &[u8]) -> Parameterized {
    let text = charset::guess(value).replace(['\r', '\n'], "");
    let mut pieces = pieces(&text).into_iter();
    let first = pieces.next().unwrap_or_default();
    // `text/html charset=utf-8`: the semicolon is missing.
    let (token, forgotten) = match first.find('=').map(|at| first[..at].trim_end().rfind([' ', '\t'])) {
        Some(Some(at)) => (first[..at].to_owned(), Some(first[at..].to_owned())),
        Some(None) => (String::new(), Some(first)),
        None => (first, None),
    };
    let mut order: Vec<String> = Vec::new();
    let mut given: BTreeMap<String, Given> = BTreeMap::new();
    for piece in forgotten.into_iter().chain(pieces) {
        let Some((name, value)) = piece.split_once('=') else { continue };
        let name = name.trim().to_ascii_lowercase();
        let value = unquoted(value.trim());
        let (base, kind) = name.split_once('*').map_or((name.as_str(), None), |(base, kind)| (base, Some(kind)));
        if base.is_empty() {
            continue;
        }
        if !given.contains_key(base) {
            order.push(base.to_owned());
        }
        let entry = given.entry(base.to_owned()).or_default();
        match kind {
            None => drop(entry.plain.get_or_insert(value)),
            Some("") => drop(entry.extended.get_or_insert(value)),
            Some(kind) => {
                let (number, is_encoded) = kind.strip_suffix('*').map_or((kind, false), |number| (number, true));
                if let Ok(number) = number.parse() {
                    entry.sections.entry(number).or_insert((value, is_encoded));
                }
            }
        }
    }
    let parameters =
        order.into_iter().filter_map(|name| Some((given.remove(&name)?.value()?, name))).map(|(value, name)| (name, value));
    Parameterized { token: token.trim().to_ascii_lowercase(), parameters: parameters.collect() }
}

impl Given {
    fn value(self) -> Option<String> {
        if let Some(extended) = self.extended {
            return Some(decoded([(extended, true)]));
        }
        // Without a first section, the others are ignored if the parameter has another form.
        if self.sections.contains_key(&0) || (self.plain.is_none() && !self.sections.is_empty()) {
            return Some(decoded(self.sections.into_values()));
        }
        self.plain.map(|plain| encoded_word::decode(&plain))
    }
}

/// Joins sections before decoding, because a character may be split between two.
fn decoded(sections: impl IntoIterator<Item = (String, bool)>) -> String {
    let mut label = None;
    let mut bytes = Vec::new();
    for (section, is_encoded) in sections {
        let mut rest = section.as_str();
        if is_encoded && label.is_none() && bytes.is_empty() {
            let mut parts = rest.splitn(3, '\'');
            if let (Some(charset), Some(_), Some(text)) = (parts.next(), parts.next(), parts.next()) {
                label = Some(charset.to_owned());
                rest = text;
            }
        }
        if is_encoded {
            percent_decoded(rest, &mut bytes);
        } else {
            bytes.extend_from_slice(rest.as_bytes());
        }
    }
    match label.filter(|label| !label.is_empty()) {
        Some(label) => charset::decode(&bytes, &label).text,
        None => encoded_word::decode(&charset::guess(&bytes)),
    }
}

fn percent_decoded(text: &str, bytes: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = |i: usize| tail.get(i).and_then(|&b| char::from(b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => bytes.push(byte),
        }
    }
}

/// Returns the value of a quoted string, or the token unchanged.
fn unquoted(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else { return value.to_owned() };
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            // Only escapes that are necessary: some programs write `C:\files`.
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                Some(other) => text.extend(['\\', other]),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    text
}

/// Returns the text between semicolons, without comments.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut is_quoted, mut comments, mut is_escaped) = (false, 0_usize, false);
    // An unclosed parenthesis is not a comment.
    let mut closing = text.matches(')').count();
    for c in text.chars() {
        closing -= usize::from(c == ')');
        let is_token = !is_quoted && comments == 0;
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' if comments == 0 => is_quoted = !is_quoted,
            '(' if comments > 0 || (is_token && closing > 0 && is_comment_start(pieces.last())) => {
                comments += 1;
                continue;
            }
            ')' if comments > 0 => {
                comments -= 1;
                continue;
            }
            ';' if is_token => {
                pieces.push(String::new());
                continue;
            }
            _ => {}
        }
        if comments == 0
            && let Some(piece) = pieces.last_mut()
        {
            piece.push(c);
        }
    }
    pieces
}

/// `filename=plan(2).pdf` has no comment, despite RFC 2045.
fn is_comment_start(piece: Option<&String>) -> bool {
    piece.is_none_or(|piece| piece.is_empty() || piece.ends_with([' ', '\t', '"']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(field: &str, name: &str) -> Option<String> {
        let parsed = parse(field.as_bytes());
        parsed.parameters.into_iter().find(|(its, _)| its == name).map(|(_, value)| value)
    }

    #[test]
    fn tokens() {
        for (field, token) in [
            ("TEXT/Html; charset=x\r\n", "text/html"),
            (" attachment ", "attachment"),
            ("text/html charset=utf-8", "text/html"),
            ("(a comment) text/plain (another; one)", "text/plain"),
            ("", ""),
            ("; charset=x", ""),
            ("charset=x", ""),
        ] {
            assert_eq!(parse(field.as_bytes()).token, token, "{field}");
        }
        assert_eq!(parameter("text/html charset=utf-8", "charset").as_deref(), Some("utf-8"));
    }

    #[test]
    fn file_names() {
        for (field, expected) in [
            ("a; filename=plain.pdf", "plain.pdf"),
            ("a; filename=two words.pdf ; x=y", "two words.pdf"),
            ("a; filename=plan(2).pdf", "plan(2).pdf"),
            ("a; filename=\"semi;colon \\\"q\\\".pdf\"", "semi;colon \"q\".pdf"),
            ("a; filename=\"C:\\files\\x.pdf\"", "C:\\files\\x.pdf"),
            ("a; filename=\"never closed.pdf", "never closed.pdf"),
            ("a; filename=\"=?utf-8?B?QsO8Y2hlci5wZGY?=\"", "Bücher.pdf"),
            ("a; filename*=utf-8''B%C3%BCcher.pdf", "Bücher.pdf"),
            ("a; filename*=iso-8859-1'de'B%FCcher.pdf", "Bücher.pdf"),
            ("a; filename*=\"utf-8''B%C3%BCcher.pdf\"", "Bücher.pdf"),
            // The better form is used, in any order.
            ("a; filename*=utf-8''B%C3%BCcher.pdf; filename=Bucher.pdf", "Bücher.pdf"),
            ("a; filename=Bucher.pdf; filename*=utf-8''B%C3%BCcher.pdf", "Bücher.pdf"),
            ("a; filename*0*=UTF-8''B%C3;\n filename*1*=%BCcher.pdf", "Bücher.pdf"),
            ("a; filename*1=cher.pdf; filename*0*=utf-8''B%C3%BC", "Bücher.pdf"),
            ("a; filename*0=\"long \"; filename*1=\"name.pdf\"", "long name.pdf"),
            ("a; filename*0=\"=?utf-8?Q?B=C3\"; filename*1=\"=BCcher.pdf?=\"", "Bücher.pdf"),
            ("a; filename*=B%C3%BCcher.pdf", "Bücher.pdf"),
            ("a; filename*=koi8-r''%F0%D2.txt", "Пр.txt"),
            ("a; FileName = \"x.pdf\" (a comment)", "x.pdf"),
            ("a; filename=100%25.pdf", "100%25.pdf"),
        ] {
            assert_eq!(parameter(field, "filename").as_deref(), Some(expected), "{field}");
        }
        let latin_1 = parse(b"a; filename=\"B\xfccher.pdf\"");
        assert_eq!(latin_1.parameters, [("filename".to_owned(), "Bücher.pdf".to_owned())]);
        assert_eq!(parameter("a; filename", "filename"), None);
    }
}
