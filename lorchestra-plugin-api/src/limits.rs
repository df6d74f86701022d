//! Limits of events and secrets. Pure functions, used by the host and by [`testing`](crate::testing), so that a test refuses exactly what
//! a run refuses.

mod numbers;

use serde::de::IgnoredAny;
use std::fmt;
use std::ops::RangeInclusive;

/// Maximum size of a payload, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Maximum length of an event's type, schema reference and ids, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Event types that only lorchestra emits. A job's event of such a type could be mistaken for one of them.
pub const RESERVED_TYPES: [&str; 7] =
    ["job.started", "job.completed", "job.failed", "job.superseded", "job.skipped", "job.refused", "job.claimed"];
/// Error message for a bookmark that nothing would read.
pub const NO_BOOKMARK: &str =
    "cannot set a bookmark: no run would start at it, because the job has no parameter `since: DateTime<Utc>`";
/// Error message for a bookmark outside of [`YEARS`].
pub const BOOKMARK_YEARS: &str = "a bookmark must be in the years 0001 to 9999";
/// The years 0001 to 9999, in microseconds since 1970.
pub const YEARS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
/// Maximum nesting depth of a payload.
pub const MAX_DEPTH: usize = 100;

/// Minimum length of a secret, in bytes. A shorter one would match, and mask, unrelated text.
pub const MIN_SECRET: usize = 6;
/// Maximum length of a secret, in bytes.
pub const MAX_SECRET: usize = 64 << 10;

/// Why a text is not a valid secret. The message does not contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretError {
    /// Empty, or only a line break.
    Empty,
    /// Shorter than [`MIN_SECRET`].
    Short,
    /// Longer than [`MAX_SECRET`].
    Long,
    /// Contains a NUL byte.
    Nul,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Short => {
                write!(f, "is shorter than {MIN_SECRET} bytes: masking it would mask unrelated text")
            }
            Self::Long => write!(f, "is longer than {} KiB", MAX_SECRET >> 10),
            Self::Nul => f.write_str("contains a NUL byte"),
        }
    }
}

impl std::error::Error for SecretError {}

/// Returns the secret in a text, without one trailing line break, because files end with one.
///
/// # Errors
/// Fails if the text is too short, too long, or contains a NUL byte.
pub fn secret(text: &str) -> Result<&str, SecretError> {
    let value = text.strip_suffix('\n').unwrap_or(text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    match value.len() {
        0 => Err(SecretError::Empty),
        1..MIN_SECRET => Err(SecretError::Short),
        n if n > MAX_SECRET => Err(SecretError::Long),
        _ if value.contains('\0') => Err(SecretError::Nul),
        _ => Ok(value),
    }
}

/// Checks an event. An empty string means "none".
///
/// # Errors
/// Returns a message for the author of the job.
pub fn check(event_type: &str, payload: &[u8], schema_ref: &str, correlation_id: &str, subject_id: &str) -> Result<(), String> {
    check_texts(event_type, schema_ref, correlation_id, subject_id)?;
    check_size(event_type, payload)?;
    // from_slice does not validate the UTF-8 of strings that it skips.
    let Ok(text) = std::str::from_utf8(payload) else {
        return Err(format!("the payload of `{event_type}` is not UTF-8"));
    };
    if let Err(e) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(format!("the payload of `{event_type}` is not JSON: {e}"));
    }
    check_content(event_type, payload)
}

/// Checks an event whose payload is known to be valid JSON, because it was parsed as part of a larger document.
///
/// # Errors
/// Returns a message for the author of the job.
pub fn check_json(event_type: &str, json: &str, schema_ref: &str, correlation_id: &str, subject_id: &str) -> Result<(), String> {
    check_texts(event_type, schema_ref, correlation_id, subject_id)?;
    check_size(event_type, json.as_bytes())?;
    check_content(event_type, json.as_bytes())
}

fn check_texts(event_type: &str, schema_ref: &str, correlation_id: &str, subject_id: &str) -> Result<(), String> {
    if event_type.is_empty() {
        return Err("an event needs a type".into());
    }
    for (what, text) in
        [("type", event_type), ("schema_ref", schema_ref), ("correlation_id", correlation_id), ("subject_id", subject_id)]
    {
        if text.len() > MAX_TEXT {
            return Err(format!("the event's {what} has {} bytes, but at most {MAX_TEXT} are allowed", text.len()));
        }
    }
    if RESERVED_TYPES.contains(&event_type) {
        return Err(format!("`{event_type}` is reserved for lorchestra, which emits it once per run: choose another type"));
    }
    Ok(())
}

fn check_size(event_type: &str, payload: &[u8]) -> Result<(), String> {
    if payload.len() > MAX_PAYLOAD {
        return Err(format!(
            "the payload of `{event_type}` has {} bytes, but at most {MAX_PAYLOAD} (1 MiB) are allowed: write large results to the data directory and emit the path",
            payload.len()
        ));
    }
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return Err(format!("the payload of `{event_type}` is not a JSON object"));
    }
    Ok(())
}

/// Checks that no number in a valid JSON payload loses digits in 64 bits: an integer that is too large, or a decimal that does not
/// round-trip through a double. Used only with `events.strict_numbers`.
///
/// # Errors
/// Returns a message for the author of the job.
pub fn check_exact_numbers(event_type: &str, payload: &[u8]) -> Result<(), String> {
    match numbers::inexact(payload) {
        None => Ok(()),
        Some(number) => Err(format!(
            "the payload of `{event_type}` has the number {}, which a 64-bit integer or double cannot represent exactly (`events.strict_numbers` is on): emit it as a string",
            abbreviated(number)
        )),
    }
}

/// Truncates a number for a message. It may have a million digits.
fn abbreviated(number: &str) -> String {
    if number.len() <= 40 { number.to_owned() } else { format!("{}…", &number[..40]) }
}

/// Checks the content of a payload that is valid JSON.
fn check_content(event_type: &str, payload: &[u8]) -> Result<(), String> {
    if payload.contains(&b'\\') && has_lone_surrogate(payload) {
        return Err(format!("the payload of `{event_type}` has a lone surrogate: a \\u escape of one half of a surrogate pair"));
    }
    if let Some(number) = numbers::overflowing(payload) {
        return Err(format!(
            "the payload of `{event_type}` has the number {}, which is too large for a 64-bit floating point number: emit it as a string",
            abbreviated(number)
        ));
    }
    if depth(payload) > MAX_DEPTH {
        return Err(format!("the payload of `{event_type}` is nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(())
}

/// Returns whether valid JSON has an escaped surrogate without its other half. The JSON grammar allows it, but it is not valid Unicode:
/// strict parsers and BigQuery reject the whole payload.
fn has_lone_surrogate(json: &[u8]) -> bool {
    let unit = |at: usize| {
        let escape = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(escape).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(next) = json[at..].iter().position(|&b| b == b'\\') {
        at += next;
        at += match unit(at) {
            None => 2,
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => return true,
            Some(_) => 6,
        };
    }
    false
}

/// Returns an upper bound of the nesting depth of valid JSON, exact above [`MAX_DEPTH`]. serde_json skips values without recursion, so it
/// does not limit the depth here, but later readers of the event (serde_json, BigQuery) do.
fn depth(json: &[u8]) -> usize {
    // The depth is at most the number of opening brackets. Counting those in blocks of 255, so that a u8 can hold the count, lets the
    // compiler use SIMD.
    let opening = |block: &[u8]| block.iter().map(|b| u8::from(matches!(b, b'{' | b'['))).sum::<u8>();
    let brackets = json.chunks(255).map(|block| usize::from(opening(block))).sum();
    if brackets <= MAX_DEPTH {
        return brackets;
    }
    let (mut depth, mut deepest) = (0, 0);
    let (mut in_text, mut escaped) = (false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(payload: &str) -> bool {
        check("e", payload.as_bytes(), "", "", "").is_err()
    }

    #[test]
    fn a_lone_surrogate_is_refused_and_a_pair_is_not() {
        for bad in [r#"{"a":"\ud83d"}"#, r#"{"a":"\uDE00\ud83d"}"#, r#"{"\ud83dx\ude00":1}"#, r#"{"a":"\\\ud83d\\ude00"}"#] {
            assert!(serde_json::from_str::<serde_json::Value>(bad).is_err(), "{bad}");
            assert!(refused(bad), "{bad}");
        }
        for good in [r#"{"a":"\ud83d\uDE00 \u00e9"}"#, r#"{"a":"\\ud83d"}"#, r#"{"a":"\"\\"}"#, "{\"a\":\"\u{1f600}\"}"] {
            assert!(serde_json::from_str::<serde_json::Value>(good).is_ok(), "{good}");
            assert!(!refused(good), "{good}");
        }
    }
}
