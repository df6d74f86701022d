//! Redacts a server's message for people and logs. Pure functions only. Guarantees one short line without any part of an event's payload or
//! subject.

use crate::delivery::Row;
use serde_json::Value;

/// Maximum length of a message in characters.
const LONGEST: usize = 240;

/// Words of error messages, which reveal nothing even if a payload contains them too. Lower case, sorted.
const PLAIN: &[&str] = &[
    "a",
    "access",
    "after",
    "all",
    "an",
    "and",
    "append",
    "are",
    "array",
    "as",
    "at",
    "bad",
    "be",
    "been",
    "bigquery",
    "bool",
    "boolean",
    "bytes",
    "cannot",
    "code",
    "column",
    "convert",
    "could",
    "data",
    "date",
    "datetime",
    "denied",
    "does",
    "error",
    "exceeds",
    "expected",
    "failed",
    "field",
    "fields",
    "float",
    "for",
    "format",
    "found",
    "from",
    "has",
    "have",
    "in",
    "index",
    "input",
    "int64",
    "integer",
    "internal",
    "invalid",
    "is",
    "it",
    "json",
    "length",
    "limit",
    "long",
    "maximum",
    "message",
    "missing",
    "must",
    "no",
    "not",
    "null",
    "number",
    "object",
    "of",
    "offset",
    "on",
    "or",
    "out",
    "parse",
    "parser",
    "parsing",
    "please",
    "projects",
    "range",
    "reason",
    "record",
    "request",
    "required",
    "row",
    "rows",
    "schema",
    "size",
    "stopped",
    "stream",
    "string",
    "such",
    "table",
    "tables",
    "than",
    "that",
    "the",
    "this",
    "time",
    "timestamp",
    "to",
    "too",
    "type",
    "unable",
    "unexpected",
    "unknown",
    "value",
    "values",
    "was",
    "while",
    "with",
    "write",
];

/// Returns one line of at most [`LONGEST`] characters, without control characters.
pub(super) fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if crate::text::is_invisible(c) { ' ' } else { c }).collect();
    let line = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    crate::text::shortened(&line, LONGEST)
}

/// Returns one line in which every word that occurs in a payload or subject of these rows is replaced by `…`.
///
/// Servers quote values that they could not parse. The quote may be truncated, unescaped or split, so words are compared, not whole texts.
pub(super) fn without<'a>(text: &str, rows: impl IntoIterator<Item = &'a Row>) -> String {
    let line = one_line(text);
    if line.is_empty() {
        return line;
    }
    let mut private = String::new();
    for row in rows {
        for text in [&row.subject_id, &row.payload].into_iter().flatten() {
            private.push_str(text);
            private.push('\n');
        }
        // A server may quote the unescaped text, which differs from what was sent.
        if let Some(payload) = row.payload.as_ref().filter(|payload| payload.contains('\\'))
            && let Ok(value) = serde_json::from_str(payload)
        {
            unescaped(&value, &mut private);
        }
    }
    if private.is_empty() {
        return line;
    }
    let private = private.to_lowercase();
    let mut shown = String::new();
    let mut rest = line.as_str();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let end = rest.find(|c| word(c) != word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        let lower = run.to_lowercase();
        if word(first) && PLAIN.binary_search(&lower.as_str()).is_err() && private.contains(&lower) {
            if !shown.ends_with('…') {
                shown.push('…');
            }
        } else {
            shown.push_str(run);
        }
    }
    shown
}

fn unescaped(value: &Value, into: &mut String) {
    match value {
        Value::String(text) => {
            into.push_str(text);
            into.push('\n');
        }
        Value::Array(values) => values.iter().for_each(|value| unescaped(value, into)),
        Value::Object(fields) => {
            for (name, value) in fields {
                into.push_str(name);
                into.push('\n');
                unescaped(value, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::{bare, full};
    use super::*;

    #[test]
    fn plain_words_are_sorted_for_binary_search() {
        assert!(PLAIN.is_sorted());
    }

    #[test]
    fn messages_are_one_line_of_limited_length() {
        assert_eq!(one_line(" a\n\tb\u{1b}[31m  c "), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(240)), "x".repeat(240));
        assert_eq!(one_line(&"ü".repeat(241)), "ü".repeat(240) + " …");
    }

    #[test]
    fn contents_are_hidden() {
        let row = Row {
            subject_id: Some("alice@corp.example".to_owned()),
            payload: Some(r#"{"iban":"DE89 3704","name":"Zo\u00eb","note":"value of\nthe field"}"#.to_owned()),
            ..full()
        };
        let shown = |text: &str| without(text, [&row]);
        assert_eq!(shown("Invalid value: DE89 3704 in field payload"), "Invalid value: … … in field payload");
        assert_eq!(shown("Cannot parse 'alice@corp.example'"), "Cannot parse '…@….…'");
        // Truncated, unescaped, in another case, as a key.
        assert_eq!(shown("bad value (Zoë, ALI, iban"), "bad value (…, …, …");
        assert_eq!(shown("no such field: run_id."), "no such field: run_id.");
        assert_eq!(without("Invalid value: DE89", [&bare()]), "Invalid value: DE89");
        assert_eq!(without("Invalid value: DE89", [&bare(), &row]), "Invalid value: …");
    }
}
