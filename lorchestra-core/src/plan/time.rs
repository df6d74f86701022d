//! Times and days as people write them, resolved against a `now` that is handed in. Owns the forms that are taken and the
//! one way in for both ([`parse`], [`parse_date`]); pure.
//!
//! | form | is |
//! | --- | --- |
//! | `2024-01-31T10:00:00Z`, `2024-01-31t11:00:00.5+01:00`, `2024-01-31 10:00:00z` | RFC 3339 with any offset |
//! | `2024-01-31` | the midnight, UTC, with which the day begins |
//! | `-90s` `-30min` `-12h` `-7d` `-2w` `-1mo` `-1y` | that long before now; months and years by the calendar, a day is 24 hours |
//! | `now` `today` `yesterday` | the instant; the last two midnights, UTC |
//!
//! Times are kept to the microsecond, as the event table keeps them; what is finer is cut off. The forms themselves are
//! read by `plan::relative`, `plan::date` and `plan::instant`; what is none of them goes to `plan::diagnose`,
//! which finds out what was meant.

use super::{date, diagnose, instant, relative};
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, SecondsFormat, Utc};
use thiserror::Error;

/// Bytes of the longest text that is looked at; see the note in [`super::duration`].
const MAX_TEXT: usize = 64;

/// Why a text is not a time or a day, and what to write instead. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TimeError {
    /// Nothing, or only spaces.
    #[error("is empty; write 2024-01-31, -7d, yesterday or the like")]
    Empty,
    /// A person can read it, but it is not in a form that is taken; `write` is.
    #[error("{reason}; write {write}")]
    Form {
        /// What is wrong with the form.
        reason: String,
        /// The same time in the right form.
        write: String,
    },
    /// It could be either of two times.
    #[error("{reason}; write {first} or {second}")]
    Ambiguous {
        /// What is missing to tell.
        reason: String,
        /// One of them, in the right form.
        first: String,
        /// The other.
        second: String,
    },
    /// The form is right, but a part of it has a value that does not exist. The text says what would.
    #[error("{0}")]
    Field(String),
    /// `last`, where it is not a job's `since` that is asked for.
    #[error("means the job's bookmark, and only its `since` accepts it; write a time such as -7d or 2024-01-31")]
    Last,
    /// Before year 1 or after year 9999.
    #[error("is outside the years 0001 to 9999; write a time within them, such as -7d")]
    Range,
    /// Nothing of the above, where a time was asked for.
    #[error("is not a time; write 2024-01-31, 2024-01-31T10:00:00Z, -7d (units s min h d w mo y), now, today or yesterday")]
    NotATime,
    /// Nothing of the above, where a day was asked for.
    #[error("is not a day; write 2024-01-31, -7d (units d w mo y), today or yesterday")]
    NotADay,
}

/// The time that `text` says, to the microsecond.
///
/// # Errors
/// See [`TimeError`]. The time lies in the years 1 to 9999.
pub fn parse(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, TimeError> {
    TimeParser { now, wanted: Precision::Instant }.read(text)
}

/// The day, in UTC, that `text` says: a date, `today`, `yesterday`, or so many days, weeks, months or years before today.
///
/// # Errors
/// See [`TimeError`]. The day lies in the years 1 to 9999.
pub fn parse_date(text: &str, now: DateTime<Utc>) -> Result<NaiveDate, TimeError> {
    TimeParser { now, wanted: Precision::Day }.read(text).map(|time| time.date_naive())
}

/// `time` in the form in which it crosses to a job and into events: RFC 3339 in UTC with `Z`, and as many digits of the
/// second as it has, in groups of three.
pub fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// `time` cut to the microsecond. A leap second becomes the second after it, as everywhere in Unix.
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// What the text is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Instant,
    Day,
}

/// One reading: what for, and against which now. The modules of the forms use it to try out what they propose.
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
            return Err(self.instead("there are spaces around it", text.trim()));
        }
        if let Some(error) = diagnose::dash(text, self) {
            return Err(error);
        }
        let today = self.now.date_naive();
        let day = |day: NaiveDate| Some(day.and_time(NaiveTime::MIN).and_utc());
        match text {
            "now" if self.wanted == Precision::Day => Err(self.instead("a day is asked for, not an instant", "today")),
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

    /// The error for a text of which nothing is known.
    pub(super) fn unknown(self) -> TimeError {
        match self.wanted {
            Precision::Instant => TimeError::NotATime,
            Precision::Day => TimeError::NotADay,
        }
    }

    /// The error that proposes `write`, unless that is wrong itself: then what is wrong with it. So whatever is proposed
    /// is taken.
    pub(super) fn instead(self, reason: impl Into<String>, write: impl Into<String>) -> TimeError {
        let write = write.into();
        match self.read(&write) {
            Ok(_) => TimeError::Form { reason: reason.into(), write },
            Err(error) => error,
        }
    }

    /// As [`instead`](Self::instead), for a text with two meanings.
    pub(super) fn either(self, reason: impl Into<String>, first: String, second: String) -> TimeError {
        match self.read(&first).and_then(|_| self.read(&second)) {
            Ok(_) => TimeError::Ambiguous { reason: reason.into(), first, second },
            Err(error) => error,
        }
    }

    /// As [`instead`](Self::instead), with `time` written as what is wanted.
    pub(super) fn instead_at(self, reason: impl Into<String>, time: DateTime<Utc>) -> TimeError {
        let write = match self.wanted {
            Precision::Instant => show(to_micros(time)),
            Precision::Day => time.date_naive().to_string(),
        };
        self.instead(reason, write)
    }
}

/// `time` to the microsecond, if there is one and it can be stored.
fn fits(time: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, TimeError> {
    time.map(to_micros).filter(|time| (1..=9999).contains(&time.year())).ok_or(TimeError::Range)
}
