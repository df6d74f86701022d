//! Times relative to now: parses the text after the minus of `-7d`. Called by [`super::time`].

use super::date;
use super::time::{Precision, TimeError, TimeParser};
use super::unit::{Unit, split_digits};
use chrono::{DateTime, Months, TimeDelta, Utc};

/// A number of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    count: u64,
    unit: Unit,
}

/// A span in the form that calendar arithmetic needs.
enum RelativeStep {
    Fixed(TimeDelta),
    Calendar(Months),
}

/// Parses `7d`, the text after the minus.
pub(super) fn read(text: &str, reader: TimeParser) -> Result<Span, TimeError> {
    let (digits, word) = split_digits(text);
    if digits.is_empty() {
        return Err(reader.unknown());
    }
    let unit = match word {
        "s" => Unit::Second,
        "min" => Unit::Minute,
        "h" => Unit::Hour,
        "d" => Unit::Day,
        "w" => Unit::Week,
        "mo" => Unit::Month,
        "y" => Unit::Year,
        _ => return Err(misspelt(digits, word, text, reader)),
    };
    if reader.wanted == Precision::Day && unit < Unit::Day {
        return Err(TimeError::Field("a day accepts only the units d, w, mo and y; write -1d, for example".into()));
    }
    // A number that exceeds 64 bits is out of range for any calendar.
    let count = digits.parse().map_err(|_| TimeError::Range)?;
    Ok(Span { count, unit })
}

impl Span {
    /// The instant this long before `now`; `None` if it is out of range. A month before the 31st is the last day of the previous month.
    pub(super) fn before(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.step()? {
            RelativeStep::Fixed(delta) => now.checked_sub_signed(delta),
            RelativeStep::Calendar(months) => now.checked_sub_months(months),
        }
    }

    /// The instant this long after `now`.
    pub(super) fn after(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.step()? {
            RelativeStep::Fixed(delta) => now.checked_add_signed(delta),
            RelativeStep::Calendar(months) => now.checked_add_months(months),
        }
    }

    fn step(self) -> Option<RelativeStep> {
        match self.unit.seconds() {
            Some(seconds) => {
                let seconds = i64::try_from(self.count.checked_mul(seconds)?).ok()?;
                TimeDelta::try_seconds(seconds).map(RelativeStep::Fixed)
            }
            None => {
                let months = self.count.checked_mul(if self.unit == Unit::Year { 12 } else { 1 })?;
                u32::try_from(months).ok().map(|months| RelativeStep::Calendar(Months::new(months)))
            }
        }
    }
}

fn misspelt(digits: &str, word: &str, text: &str, reader: TimeParser) -> TimeError {
    match word {
        "m" | "M" => {
            return match reader.wanted {
                Precision::Instant => {
                    reader.either("m may be minutes or months", format!("-{digits}min"), format!("-{digits}mo"))
                }
                Precision::Day => reader.instead("months are written mo", format!("-{digits}mo")),
            };
        }
        "" => return reader.instead("its unit is missing", format!("-{digits}d")),
        _ => {}
    }
    if date::has_form(text) || word.starts_with('-') {
        return reader.instead("a date does not begin with a minus", text);
    }
    if let Some(word) = word.strip_prefix(' ') {
        return reader.instead("it contains a space", format!("-{digits}{word}"));
    }
    if word.starts_with(|c: char| !c.is_alphabetic()) || word.contains(|c: char| c.is_ascii_digit()) {
        return TimeError::Field("use one whole number with one unit; write -90min, for example".into());
    }
    let short = match Unit::meant(word) {
        Some(Unit::Second) => "s",
        Some(Unit::Minute) => "min",
        Some(Unit::Hour) => "h",
        Some(Unit::Day) => "d",
        Some(Unit::Week) => "w",
        Some(Unit::Month) => "mo",
        Some(Unit::Year) => "y",
        Some(Unit::Millisecond) | None => {
            return TimeError::Field("its unit is unknown; write one of s min h d w mo y, as in -7d".into());
        }
    };
    reader.instead("the units are s min h d w mo y", format!("-{digits}{short}"))
}
