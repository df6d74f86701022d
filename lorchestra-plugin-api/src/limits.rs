//! What an event may be, and what a secret: the one place that says so, for each before it is taken. Pure. Asked by the host and by
//! [`testing`](crate::testing), so that a test refuses what a run would.

mod numbers;

use serde::de::IgnoredAny;
use std::fmt;
use std::ops::RangeInclusive;

/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The longest event type and other texts of an event, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Types that tell of runs: a job's own event of such a type would be taken for one of lorchestra's.
pub const OWN_TYPES: [&str; 4] = ["job.started", "job.completed", "job.failed", "job.skipped"];
/// What is said where a bookmark is set that nothing would read.
pub const NO_BOOKMARK: &str = "this job has no parameter `since: DateTime<Utc>`: no run would begin at its bookmark";
/// What is said of a bookmark that is no time.
pub const BOOKMARK_YEARS: &str = "a bookmark lies in the years 0001 to 9999";
/// The years 0001 to 9999, in microseconds since 1970.
pub const YEARS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
/// Levels of nesting in a payload.
pub const MAX_DEPTH: usize = 100;

/// The shortest secret, in bytes. A shorter one would be found, and masked, in texts that have nothing to do with it.
pub const MIN_SECRET: usize = 6;
/// The longest secret, in bytes.
pub const MAX_SECRET: usize = 64 << 10;

/// Why a text is not taken for a secret. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretError {
    /// Nothing, or only a line break.
    Empty,
    /// Less than [`MIN_SECRET`].
    Short,
    /// More than [`MAX_SECRET`].
    Long,
    /// A NUL byte.
    Nul,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Short => {
                write!(f, "is shorter than {MIN_SECRET} bytes, and could not be masked without masking other texts")
            }
            Self::Long => write!(f, "is longer than {} KiB", MAX_SECRET >> 10),
            Self::Nul => f.write_str("holds a NUL byte"),
        }
    }
}

impl std::error::Error for SecretError {}

/// The secret in a text: all of it but one line break at its end, since files end with one.
///
/// # Errors
/// The text is none that a secret can be.
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

/// Says why an event is not taken. Empty text stands for "none".
///
/// # Errors
/// A sentence for the author.
pub fn check(event_type: &str, payload: &[u8], schema_ref: &str, correlation_id: &str, subject_id: &str) -> Result<(), String> {
    check_texts(event_type, schema_ref, correlation_id, subject_id)?;
    check_size(event_type, payload)?;
    // from_slice would not look at the bytes of strings that it skips.
    let Ok(text) = std::str::from_utf8(payload) else {
        return Err(format!("the payload of `{event_type}` is not UTF-8"));
    };
    if let Err(e) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(format!("the payload of `{event_type}` is not JSON: {e}"));
    }
    check_content(event_type, payload)
}

/// The same of a payload that is known to be JSON, as one is that was read as part of a greater whole: it is not read again.
///
/// # Errors
/// A sentence for the author.
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
            return Err(format!("the event's {what} has {} bytes; at most {MAX_TEXT} are allowed", text.len()));
        }
    }
    if OWN_TYPES.contains(&event_type) {
        return Err(format!("`{event_type}` is emitted by lorchestra itself, once a run: choose another type"));
    }
    Ok(())
}

fn check_size(event_type: &str, payload: &[u8]) -> Result<(), String> {
    if payload.len() > MAX_PAYLOAD {
        return Err(format!(
            "the payload of `{event_type}` has {} bytes; at most {MAX_PAYLOAD} (1 MiB) are allowed: write large results to the data directory and emit their path",
            payload.len()
        ));
    }
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return Err(format!("the payload of `{event_type}` is not a JSON object"));
    }
    Ok(())
}

/// Whether a payload of valid JSON has a number that loses digits where 64 bits are kept: an integer beyond them, or a decimal that a double
/// does not write back. Only asked where that is wished for.
///
/// # Errors
/// A sentence for the author.
pub fn check_exact_numbers(event_type: &str, payload: &[u8]) -> Result<(), String> {
    match numbers::inexact(payload) {
        None => Ok(()),
        Some(number) => Err(format!(
            "the payload of `{event_type}` has the number {}, which no 64-bit integer or double holds exactly, and `events.strict_numbers` is on: emit it as a string",
            beginning(number)
        )),
    }
}

/// A number for a message: it may have a million digits.
fn beginning(number: &str) -> String {
    if number.len() <= 40 { number.to_owned() } else { format!("{}…", &number[..40]) }
}

/// Of valid JSON.
fn check_content(event_type: &str, payload: &[u8]) -> Result<(), String> {
    if payload.contains(&b'\\') && has_half_a_character(payload) {
        return Err(format!(
            "the payload of `{event_type}` has half a character (a \\u escape of a surrogate without the other one)"
        ));
    }
    if let Some(number) = numbers::overflowing(payload) {
        return Err(format!(
            "the payload of `{event_type}` has the number {}, which is beyond what a 64-bit floating point number holds: emit it as a string",
            beginning(number)
        ));
    }
    if depth(payload) > MAX_DEPTH {
        return Err(format!("the payload of `{event_type}` is nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(())
}

/// Whether valid JSON has an escaped surrogate without its other half. Its grammar allows that, and no text can hold it: strict readers, and
/// BigQuery, refuse the whole payload.
fn has_half_a_character(json: &[u8]) -> bool {
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

/// Levels of nesting of valid JSON, or a number that is not below them and small enough. serde_json skips a value without recursion, so it does not limit this by itself; who
/// reads the event later (another serde_json, BigQuery) does.
fn depth(json: &[u8]) -> usize {
    // Nothing is deeper than it has opening brackets, and counting those is what a processor does sixteen at a time; in blocks
    // of which a byte can hold the count.
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
    fn half_a_character_is_refused_and_a_whole_one_is_not() {
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
