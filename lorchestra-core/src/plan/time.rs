//! Times and days as people write them, resolved relative to a given `now`. Owns the accepted forms and the only way to parse them
//! ([`parse`], [`parse_date`]); pure.
//!
//! | form | meaning |
//! | --- | --- |
//! | `2024-01-31T10:00:00Z`, `2024-01-31t11:00:00.5+01:00`, `2024-01-31 10:00:00z` | RFC 3339 with any offset |
//! | `2024-01-31` | midnight UTC at the beginning of the day |
//! | `-90s` `-30min` `-12h` `-7d` `-2w` `-1mo` `-1y` | this long before now; months and years follow the calendar, a day is 24 hours |
//! | `now` `today` `yesterday` | the instant; the last two midnights, UTC |
//!
//! Times are truncated to the microsecond, the resolution of the event table. `plan::relative`, `plan::date` and `plan::instant` parse the
//! forms; `plan::diagnose` determines what was meant by any other text.

use super::{date, diagnose, instant, relative};
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, SecondsFormat, Utc};
use thiserror::Error;

/// Maximum length of a text in bytes; see the note in [`super::duration`].
const MAX_TEXT: usize = 64;

/// Why a text is not a time or a day, and what to write instead. Does not repeat the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TimeError {
    /// Nothing, or only spaces.
    #[error("is empty; write a time such as 2024-01-31, -7d or yesterday")]
    Empty,
    /// The meaning is clear, but the form is not accepted.
    #[error("{reason}; write {write}")]
    Form {
        /// What is wrong with the form.
        reason: String,
        /// The same time in an accepted form.
        write: String,
    },
    /// It could mean either of two times.
    #[error("{reason}; write {first} or {second}")]
    Ambiguous {
        /// What makes it ambiguous.
        reason: String,
        /// One of them, in an accepted form.
        first: String,
        /// The other.
        second: String,
    },
    /// The form is correct, but a part of it is out of range. The text contains the correction.
    #[error("{0}")]
    Field(String),
    /// `last`, where only a plain time is accepted.
    #[error("means the job's bookmark, and only its `since` accepts it; write a time such as -7d or 2024-01-31")]
    Last,
    /// Before year 1 or after year 9999.
    #[error("is outside the years 0001 to 9999; write a time within them, such as -7d")]
    Range,
    /// It is not a time.
    #[error("is not a time; write 2024-01-31, 2024-01-31T10:00:00Z, -7d (units s min h d w mo y), now, today or yesterday")]
    NotATime,
    /// It is not a day.
    #[error("is not a day; write 2024-01-31, -7d (units d w mo y), today or yesterday")]
    NotADay,
}

/// Parses a time, to the microsecond.
///
/// # Errors
/// See [`TimeError`]. The time is in the years 1 to 9999.
pub fn parse(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, TimeError> {
    TimeParser { now, wanted: Precision::Instant }.read(text)
}

/// Parses a day, in UTC: a date, `today`, `yesterday`, or a number of days, weeks, months or years before today.
///
/// # Errors
/// See [`TimeError`]. The day is in the years 1 to 9999.
pub fn parse_date(text: &str, now: DateTime<Utc>) -> Result<NaiveDate, TimeError> {
    TimeParser { now, wanted: Precision::Day }.read(text).map(|time| time.date_naive())
}

/// Formats `time` as the job and events have it: RFC 3339 in UTC with `Z`, with as many groups of three fractional digits as needed.
pub fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Truncates `time` to the microsecond. A leap second becomes the second after it, as everywhere in Unix.
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// The precision that is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Instant,
    Day,
}

/// One parse: the required precision, and the current time. The modules of the forms use it to try out their corrections.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeParser {
    pub(super) now: DateTime<Utc>,
    pub(super) wanted: Precision,
}

impl TimeParser {
    fn read(self, text: &str) -> Result<DateTime<Utc>, TimeError> {
        if text.trim().is_empty() {
            return Err(TimeError::Empty);
        }
        if text.len() > MAX_TEXT {
            return Err(self.unknown());
        }
        if text.trim() != text {
            return Err(self.instead("it has spaces around it", text.trim()));
        }
        if let Some(error) = diagnose::dash(text, self) {
            return Err(error);
        }
        let today = self.now.date_naive();
        let day = |day: NaiveDate| Some(day.and_time(NaiveTime::MIN).and_utc());
        match text {
            "now" if self.wanted == Precision::Day => Err(self.instead("a day is required, not a time", "today")),
            "now" => fits(Some(self.now)),
            "today" => fits(day(today)),
            "yesterday" => fits(today.checked_sub_days(Days::new(1)).and_then(day)),
            _ => {
                if let Some(back) = text.strip_prefix('-') {
                    fits(relative::read(back, self)?.before(self.now))
                } else if date::has_form(text) {
                    fits(day(date::read(text)?))
                } else if let Some(instant) = instant::read(text, self) {
                    fits(Some(instant?))
                } else {
                    Err(diagnose::diagnose(text, self))
                }
            }
        }
    }

    /// The error for a text whose meaning is unknown.
    pub(super) fn unknown(self) -> TimeError {
        match self.wanted {
            Precision::Instant => TimeError::NotATime,
            Precision::Day => TimeError::NotADay,
        }
    }

    /// Returns the error that proposes `write`. If that is invalid too, returns its error instead, so every correction is accepted.
    pub(super) fn instead(self, reason: impl Into<String>, write: impl Into<String>) -> TimeError {
        let write = write.into();
        match self.read(&write) {
            Ok(_) => TimeError::Form { reason: reason.into(), write },
            Err(error) => error,
        }
    }

    /// Like [`instead`](Self::instead), for a text with two meanings.
    pub(super) fn either(self, reason: impl Into<String>, first: String, second: String) -> TimeError {
        match self.read(&first).and_then(|_| self.read(&second)) {
            Ok(_) => TimeError::Ambiguous { reason: reason.into(), first, second },
            Err(error) => error,
        }
    }

    /// Like [`instead`](Self::instead), with `time` formatted in the required precision.
    pub(super) fn instead_at(self, reason: impl Into<String>, time: DateTime<Utc>) -> TimeError {
        let write = match self.wanted {
            Precision::Instant => show(to_micros(time)),
            Precision::Day => time.date_naive().to_string(),
        };
        self.instead(reason, write)
    }
}

/// Returns `time` to the microsecond if it exists and can be stored.
fn fits(time: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, TimeError> {
    time.map(to_micros).filter(|time| (1..=9999).contains(&time.year())).ok_or(TimeError::Range)
}
