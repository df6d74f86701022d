//! Parses the date `2024-01-31`, alone or at the beginning of an instant. Called by [`super::time`] and [`super::instant`].

use super::time::TimeError;
use chrono::NaiveDate;

/// Whether `text` is four digits, two and two, joined by `-`.
pub(super) fn has_form(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10 && bytes.iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() })
}

/// Parses a text that [has the form](has_form) of a date.
pub(super) fn read(text: &str) -> Result<NaiveDate, TimeError> {
    let field = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<u16>().ok());
    let (Some(year), Some(month), Some(day)) = (field(0..4), field(5..7), field(8..10)) else {
        return Err(TimeError::NotATime);
    };
    if year == 0 {
        return Err(TimeError::Range);
    }
    if let Some(date) = of(year, month, day) {
        return Ok(date);
    }
    if !(1..=12).contains(&month) {
        let reason = format!("there is no month {month:02}: a date is year-month-day");
        return Err(match of(year, day, month) {
            Some(swapped) => TimeError::Form { reason, write: swapped.to_string() },
            None => TimeError::Field(format!("{reason}; write a month from 01 to 12")),
        });
    }
    let last = (28..=31).rev().find_map(|day| of(year, month, day)).map(|date| date.to_string()).unwrap_or_default();
    let reason = format!("the month has no day {day:02}");
    Err(TimeError::Field(if day == 0 {
        format!("{reason}; write {year:04}-{month:02}-01 or another day to {last}")
    } else {
        format!("{reason}; write {last}, its last day, or an earlier one")
    }))
}

/// The day, if there is one.
pub(super) fn of(year: u16, month: u16, day: u16) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(year.into(), month.into(), day.into())
}
