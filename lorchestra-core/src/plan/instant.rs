//! Parses an instant of RFC 3339: date, time of day, offset. Called by [`super::time`].
//!
//! chrono parses the instant; this module decides what to pass to it. Its parser accepts more than we want to document (a real minus sign
//! in the offset), and its errors do not say enough to fix a text.

use super::date;
use super::time::{Precision, TimeError, TimeParser};
use chrono::{DateTime, Timelike, Utc};

/// Parses an instant; `None` if the text is not a date followed by `T`, `t` or a space and more text.
pub(super) fn read(text: &str, reader: TimeParser) -> Option<Result<DateTime<Utc>, TimeError>> {
    let (day, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    date::has_form(day).then(|| read_parts(day, rest, reader))
}

fn read_parts(day: &str, rest: &str, reader: TimeParser) -> Result<DateTime<Utc>, TimeError> {
    date::read(day)?;
    if reader.wanted == Precision::Day {
        return Err(reader.instead("only a day is expected, without a time", day));
    }
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(rest.len());
    let (typed_clock, typed_offset) = rest.split_at(end);
    let clock = clock(typed_clock)?;
    let Some(offset) = offset(typed_offset)? else {
        let reason = "it has no offset from UTC";
        return Err(reader.either(reason, format!("{day}T{clock}Z"), format!("{day}T{clock}+01:00")));
    };
    let canonical = format!("{day}T{clock}{offset}");
    if clock != typed_clock {
        return Err(reader.instead("its seconds are missing", canonical));
    }
    if !offset.eq_ignore_ascii_case(typed_offset) {
        return Err(reader.instead("an offset is Z or has the form +01:00, directly after the time", canonical));
    }
    let time = DateTime::parse_from_rfc3339(&canonical).map_err(|_| reader.unknown())?.to_utc();
    // A leap second is the last second of a day in UTC; chrono accepts it at any time.
    let leaps = time.nanosecond() >= 1_000_000_000;
    if leaps && (time.hour(), time.minute()) != (23, 59) { Err(no_such_time_of_day()) } else { Ok(time) }
}

/// Returns the time of day with its seconds.
fn clock(typed: &str) -> Result<String, TimeError> {
    let form = || TimeError::Field("its time of day is incomplete; write hours, minutes and seconds, as in T10:00:00Z".into());
    let (whole, fraction) = match typed.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit()) => (whole, fraction),
        Some(_) => return Err(form()),
        None => (typed, ""),
    };
    let mut fields = whole.split(':').map(|digits| if digits.len() == 2 { digits.parse::<u8>().ok() } else { None });
    let (Some(Some(hour)), Some(Some(minute)), second, None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(form());
    };
    let second = match second {
        Some(Some(second)) => second,
        None if fraction.is_empty() => 0,
        Some(None) | None => return Err(form()),
    };
    // Second 60 may be a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return Err(no_such_time_of_day());
    }
    let dot = if fraction.is_empty() { "" } else { "." };
    Ok(format!("{hour:02}:{minute:02}:{second:02}{dot}{fraction}"))
}

fn no_such_time_of_day() -> TimeError {
    TimeError::Field("the time of day does not exist; write hours from 00 to 23, minutes and seconds from 00 to 59".into())
}

/// Returns the offset in the form of RFC 3339; `None` if there is none.
fn offset(typed: &str) -> Result<Option<String>, TimeError> {
    // `+01:00[Europe/Berlin]`: the offset is sufficient.
    let trimmed = typed.split_once('[').map_or(typed, |(offset, _)| offset).trim();
    if trimmed.is_empty() && typed.is_empty() {
        return Ok(None);
    }
    if ["Z", "UTC", "GMT"].iter().any(|utc| trimmed.eq_ignore_ascii_case(utc)) {
        return Ok(Some("Z".into()));
    }
    let zone = || TimeError::Field("time zone names are not supported; write Z for UTC or an offset such as +01:00".into());
    let sign = trimmed.chars().next().filter(|c| matches!(c, '+' | '-')).ok_or_else(zone)?;
    let (hours, minutes) = match &trimmed[1..] {
        digits if digits.len() == 5 && digits.as_bytes()[2] == b':' => digits.split_at(2),
        digits if digits.len() == 4 && digits.is_char_boundary(2) => digits.split_at(2),
        digits => (digits, "00"),
    };
    let field = |digits: &str| {
        (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse::<u8>().ok()).flatten()
    };
    match (field(hours), field(minutes.trim_start_matches(':'))) {
        (Some(hours), Some(minutes)) if hours <= 23 && minutes <= 59 => Ok(Some(format!("{sign}{hours:02}:{minutes:02}"))),
        (Some(_), Some(_)) => Err(TimeError::Field("the offset does not exist; write one from -23:59 to +23:59, or Z".into())),
        _ => Err(zone()),
    }
}
