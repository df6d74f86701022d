//! Messages of the TOML reader in the terms of the file: keys, tables and lists.

use lorchestra_core::text;

/// Rewrites serde's message in the terms of the file: tables, lists and keys instead of structs, sequences and fields.
pub(super) fn plain(message: &str) -> String {
    let message = message.replace("unknown field ", "unknown key ").replace("unknown variant ", "unknown value ");
    if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") {
        return "the text in quotes is not valid; check its closing quote".to_owned();
    }
    let Some((found, expected)) = message.split_once(", expected ").filter(|_| message.starts_with("invalid type: ")) else {
        return message;
    };
    let found = found.trim_start_matches("invalid type: ");
    let expected = match expected {
        "a sequence" => "a list: [\"…\"]",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text in quotes",
        "u32" | "u64" | "i64" => "a whole number",
        // A table whose type has a name only in the source.
        other if other.starts_with("struct ") || other == "a map" => "a table: [name], with keys below it",
        other => other,
    };
    format!("is {found}, but must be {expected}")
}

/// Adds to a message the key at its position in the file. The value is not repeated because it may be a secret.
pub(super) fn of_key(text: &str, at: usize, message: &str) -> String {
    let line = text[..at].rsplit('\n').next().unwrap_or_default().len();
    let line = text[at - line..].lines().next().unwrap_or_default();
    let key = line.split_once('=').map_or("", |(key, _)| key.trim());
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"/".contains(c));
    match message {
        _ if !is_key || message.contains(&format!("`{key}`")) => message.to_owned(),
        _ if message.starts_with("is ") => format!("{key} {message}"),
        _ => format!("{key}: {message}"),
    }
}

/// Returns the key of the table that is most similar to the unknown one. serde's message lists them: "unknown field `x`, expected one of
/// `a`, `b`".
pub(super) fn nearest(message: &str) -> Option<&str> {
    let (unknown, expected) = message.strip_prefix("unknown key `")?.split_once("`, expected ")?;
    text::nearest(unknown, expected.split('`').skip(1).step_by(2)).first().copied()
}
