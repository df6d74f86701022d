//! Diagnoses times that are not in an accepted form: other date formats, and timestamps of other tools. [`super::time`] calls it with text
//! that it could not parse; it determines what was probably meant and how to write it. It never accepts a value: it does not guess if a
//! text has two readings.

use super::time::{Precision, TimeError, TimeParser};
use super::unit::split_digits;
use super::{date, last, relative};
use crate::text::nearest;
use chrono::{DateTime, Days, Utc};

/// Returns the error for `text`, with a correction if the meaning is clear.
pub(super) fn diagnose(text: &str, reader: TimeParser) -> TimeError {
    last::misplaced(text)
        .or_else(|| ahead(text, reader))
        .or_else(|| without_minus(text, reader))
        .or_else(|| number(text, reader))
        .or_else(|| other_date(text, reader))
        .or_else(|| mail_date(text, reader))
        .or_else(|| word(text, reader))
        .unwrap_or_else(|| reader.unknown())
}

/// `−7d`: a minus sign as inserted by word processors and web pages; `None` if there is none. Checked before all other forms, because the
/// text after the wrong minus is usually correct.
pub(super) fn dash(text: &str, reader: TimeParser) -> Option<TimeError> {
    let dashes = ['\u{2212}', '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{fe63}', '\u{ff0d}'];
    let found = text.chars().find(|c| dashes.contains(c))?;
    let reason = format!("its minus is the character U+{:04X}, use a plain -", u32::from(found));
    Some(reader.instead(reason, text.replace(dashes, "-")))
}

/// `+7d`, `tomorrow`, and years with more than four digits, which ISO 8601 writes with a plus.
fn ahead(text: &str, reader: TimeParser) -> Option<TimeError> {
    let reason = "only times in the past are written relative to now";
    if text.eq_ignore_ascii_case("tomorrow") {
        return Some(reader.instead(reason, reader.now.date_naive().checked_add_days(Days::new(1))?.to_string()));
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (digits, rest) = split_digits(unsigned);
    if digits.len() > 4 && rest.starts_with('-') {
        return Some(TimeError::Range);
    }
    if unsigned == text {
        return None;
    }
    Some(match relative::read(unsigned, reader) {
        Ok(span) => span.after(reader.now).map_or(TimeError::Range, |time| reader.instead_at(reason, time)),
        Err(_) => return None,
    })
}

/// `7d`, `7 days ago`.
fn without_minus(text: &str, reader: TimeParser) -> Option<TimeError> {
    let (digits, word) = split_digits(text.strip_suffix(" ago").unwrap_or(text));
    let word = word.trim();
    let is_span = !digits.is_empty() && !word.is_empty() && word.chars().all(char::is_alphabetic);
    is_span.then(|| reader.instead("a time in the past begins with a minus", format!("-{digits}{word}")))
}

/// Digits only: a date without dashes, a year, or a Unix timestamp.
fn number(text: &str, reader: TimeParser) -> Option<TimeError> {
    let (digits, rest) = split_digits(text);
    let fraction = rest.strip_prefix('.').filter(|fraction| fraction.bytes().all(|b| b.is_ascii_digit()));
    if digits.is_empty() || !(rest.is_empty() || fraction.is_some()) {
        return None;
    }
    if rest.is_empty() && digits.len() == 4 {
        return Some(reader.instead("a year alone is not a time", format!("{digits}-01-01")));
    }
    if rest.is_empty() && digits.len() == 8 {
        let (year, day) = digits.split_at(4);
        let (month, day) = day.split_at(2);
        return Some(reader.instead("a date needs dashes", format!("{year}-{month}-{day}")));
    }
    let number = digits.parse::<i64>().ok()?;
    let nanos = fraction.and_then(|digits| format!("{digits:0<9}")[..9].parse().ok()).unwrap_or(0);
    let (name, time) = match digits.len() {
        9..=11 => ("seconds", DateTime::from_timestamp(number, nanos)),
        12..=14 => ("milliseconds", DateTime::from_timestamp_millis(number)),
        15..=17 => ("microseconds", DateTime::from_timestamp_micros(number)),
        18..=19 => ("nanoseconds", Some(DateTime::from_timestamp_nanos(number))),
        _ => return None,
    };
    Some(reader.instead_at(format!("{name} since 1970 are not supported; use RFC 3339"), time?))
}

/// `2024-1-5`, `2024/01/31`, `31.01.2024`, `01/31/2024`, `2024-01`.
fn other_date(text: &str, reader: TimeParser) -> Option<TimeError> {
    let separator = text.chars().find(|c| !c.is_ascii_digit()).filter(|c| matches!(c, '-' | '/' | '.'))?;
    let fields: Vec<&str> = text.split(separator).collect();
    if !fields.iter().all(|field| (1..=4).contains(&field.len()) && field.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let form = "a date is year-month-day with four, two and two digits";
    match fields[..] {
        [year, month] if year.len() == 4 => Some(reader.instead("a month alone is not a time", format!("{year}-{month:0>2}-01"))),
        [year, month, day] if year.len() == 4 && month.len() <= 2 && day.len() <= 2 => {
            Some(reader.instead(form, format!("{year}-{month:0>2}-{day:0>2}")))
        }
        [a, b, year] if year.len() == 4 && a.len() <= 2 && b.len() <= 2 => {
            let [a_number, b_number, year_number] = [a, b, year].map(|digits| digits.parse::<u16>().unwrap_or(0));
            let day_first = format!("{year}-{b:0>2}-{a:0>2}");
            let month_first = format!("{year}-{a:0>2}-{b:0>2}");
            let one = date::of(year_number, b_number, a_number).is_some();
            let other = date::of(year_number, a_number, b_number).is_some();
            Some(match (one, other) {
                // With dots, the day comes first; with slashes and dashes the order is ambiguous.
                (true, true) if separator != '.' && a_number != b_number => reader.either(form, day_first, month_first),
                (false, true) if separator != '.' => reader.instead(form, month_first),
                _ => reader.instead(form, day_first),
            })
        }
        [a, b, c] if [a, b, c].iter().all(|field| field.len() <= 2) => {
            Some(TimeError::Field("its year does not have four digits; write year-month-day, as in 2024-01-31".into()))
        }
        _ => None,
    }
}

/// `Wed, 31 Jan 2024 10:00:00 +0000`, as in email headers and printed by `date -R`.
fn mail_date(text: &str, reader: TimeParser) -> Option<TimeError> {
    let time: DateTime<Utc> = DateTime::parse_from_rfc2822(text).ok()?.to_utc();
    Some(reader.instead_at("the date format of email is not supported", time))
}

/// `yesteday`, `NOW`.
fn word(text: &str, reader: TimeParser) -> Option<TimeError> {
    let words: &[&str] = match reader.wanted {
        Precision::Instant => &["now", "today", "yesterday"],
        Precision::Day => &["today", "yesterday"],
    };
    let meant = *nearest(&text.to_lowercase(), words.iter().copied()).first()?;
    Some(reader.instead("it is not a known word", meant))
}
