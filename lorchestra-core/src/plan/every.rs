//! The windows of a backfill: a time range cut into steps of one length. Owns the notation of steps ([`Every`]) and the cuts ([`tile`]). Pure.
//!
//! Guarantees: the windows cover the range exactly, in order, without a gap and without an overlap; the last one ends with the range, so it
//! may be shorter. Each cut is counted from the beginning of the range and not from the cut before, so that monthly windows from
//! January 31 are cut at February 28 (or 29), March 31 and April 30. Everything is in UTC, where every day has 24 hours.

use super::unit::{Unit, split_digits};
use chrono::{DateTime, Months, TimeDelta, Utc};
use std::fmt;
use std::str::FromStr;

/// Maximum number of windows of one range.
pub const MAX_WINDOWS: usize = 100_000;

/// The length of a window, such as `6h`, `1d`, `1w`, `1mo` or `1y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// A fixed number of seconds.
    Seconds(u32),
    /// A number of calendar months.
    Months(u32),
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write a number and a unit of min h d w mo y, such as 1d, 1w, 1mo or 6h".to_owned();
        let (digits, unit) = split_digits(text);
        if digits.is_empty() {
            return Err(wrong());
        }
        // Only digits: one that does not fit is larger than any window.
        let number: u32 = digits.parse().unwrap_or(u32::MAX);
        if number == 0 {
            return Err("a window cannot be empty; write 1d or more".into());
        }
        let seconds = |unit: Unit| {
            let seconds = unit.seconds().and_then(|seconds| seconds.checked_mul(number.into()));
            seconds.and_then(|seconds| u32::try_from(seconds).ok()).map(Self::Seconds)
        };
        let months = |each: u32| number.checked_mul(each).filter(|months| *months < 12 * 1000).map(Self::Months);
        let read = match unit {
            "min" => seconds(Unit::Minute),
            "h" => seconds(Unit::Hour),
            "d" => seconds(Unit::Day),
            "w" => seconds(Unit::Week),
            "mo" => months(1),
            "y" => months(12),
            "m" => return Err(format!("m could mean minutes or months; write {digits}min or {digits}mo")),
            _ => return Err(wrong()),
        };
        read.ok_or_else(|| "is too long for a window; write at most 100y".into())
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Months(months) if months % 12 == 0 => write!(f, "{}y", months / 12),
            Self::Months(months) => write!(f, "{months}mo"),
            Self::Seconds(seconds) => {
                let units = [("w", 604_800), ("d", 86_400), ("h", 3600)];
                match units.into_iter().find(|(_, unit)| seconds % unit == 0) {
                    Some((name, unit)) => write!(f, "{}{name}", seconds / unit),
                    None => write!(f, "{}min", seconds / 60),
                }
            }
        }
    }
}

/// A range of time, `[since, until)`.
pub type TimeRange = (DateTime<Utc>, DateTime<Utc>);

/// Why a range has no windows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// It ends before it begins, or is empty.
    #[error("the range is empty: its end is not after its beginning")]
    Empty,
    /// More than [`MAX_WINDOWS`].
    #[error("the range has more than {MAX_WINDOWS} windows; choose longer ones, or a shorter range")]
    TooMany,
    /// A cut is after the year 9999.
    #[error("the range is outside the years 0001 to 9999")]
    Range,
}

/// Cuts `[from, to)` into windows `[since, until)`.
///
/// # Errors
/// If the range is empty or has too many windows.
pub fn tile(from: DateTime<Utc>, to: DateTime<Utc>, every: Every) -> Result<Vec<TimeRange>, TileError> {
    if from >= to {
        return Err(TileError::Empty);
    }
    let mut windows = Vec::new();
    let mut since = from;
    for n in 1_u32.. {
        let cut = match every {
            Every::Seconds(seconds) => {
                i64::from(seconds).checked_mul(n.into()).and_then(|all| from.checked_add_signed(TimeDelta::seconds(all)))
            }
            Every::Months(months) => months.checked_mul(n).and_then(|all| from.checked_add_months(Months::new(all))),
        };
        let until = cut.ok_or(TileError::Range)?.min(to);
        if windows.len() == MAX_WINDOWS {
            return Err(TileError::TooMany);
        }
        windows.push((since, until));
        if until == to {
            break;
        }
        since = until;
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn cuts(from: &str, to: &str, every: &str) -> Vec<String> {
        let windows = tile(at(from), at(to), every.parse().unwrap()).unwrap();
        windows.iter().map(|(_, until)| until.format("%F").to_string()).collect()
    }

    #[test]
    fn months_and_leap_days() {
        assert_eq!(
            cuts("2024-01-31T00:00:00Z", "2024-05-31T00:00:00Z", "1mo"),
            ["2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31"]
        );
        assert_eq!(cuts("2023-01-31T00:00:00Z", "2023-03-31T00:00:00Z", "1mo"), ["2023-02-28", "2023-03-31"]);
        assert_eq!(cuts("2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2y"), ["2026-02-28", "2028-02-29"]);
        assert_eq!(cuts("2024-02-28T00:00:00Z", "2024-03-02T00:00:00Z", "1d"), ["2024-02-29", "2024-03-01", "2024-03-02"]);
        assert_eq!(cuts("2024-01-01T00:00:00Z", "2024-01-10T00:00:00Z", "1w"), ["2024-01-08", "2024-01-10"], "the rest");
        assert_eq!(tile(at("2024-01-01T00:00:00Z"), at("2025-01-01T00:00:00Z"), Every::Seconds(86_400)).unwrap().len(), 366);
        // No day is longer or shorter because of daylight saving time.
        assert_eq!(tile(at("2024-03-31T00:00:00Z"), at("2024-04-01T00:00:00Z"), "6h".parse().unwrap()).unwrap().len(), 4);
    }

    #[test]
    fn steps_are_read_as_written() {
        for text in ["1min", "6h", "1d", "2w", "1mo", "1y", "90min", "36h"] {
            assert_eq!(text.parse::<Every>().unwrap().to_string(), text);
        }
        assert_eq!("24h".parse::<Every>().unwrap().to_string(), "1d");
        for (bad, what) in
            [("0d", "empty"), ("1m", "1min or 1mo"), ("d", "a number"), ("1 d", "a number"), ("1s", "unit"), ("", "a number")]
        {
            assert!(bad.parse::<Every>().unwrap_err().contains(what), "{bad}");
        }
        for text in ["99999999y", "9999999w", "18446744073709551615y", "4294967296min"] {
            assert_eq!(text.parse::<Every>().unwrap_err(), "is too long for a window; write at most 100y", "{text}");
        }
        assert!("99999999999s".parse::<Every>().unwrap_err().contains("unit"));
    }

    #[test]
    fn a_range_without_windows_is_an_error() {
        let (from, to) = (at("2024-01-01T00:00:00Z"), at("2024-01-02T00:00:00Z"));
        assert_eq!(tile(to, from, Every::Months(1)), Err(TileError::Empty));
        assert_eq!(tile(from, from, Every::Months(1)), Err(TileError::Empty));
        assert_eq!(tile(from, at("2400-01-01T00:00:00Z"), Every::Seconds(60)), Err(TileError::TooMany));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Windows tile the range exactly: each begins where the one before ends, none is empty, and none is longer than a step.
        #[test]
        fn windows_tile_the_range(from in -60_000_000_000_i64..200_000_000_000, length in 1_i64..400_000_000, step in 1_u32..500, months: bool) {
            let from = DateTime::from_timestamp(from, 0).unwrap();
            let to = from + TimeDelta::seconds(length);
            let every = if months { Every::Months(step.div_ceil(20)) } else { Every::Seconds(step * 86_400) };
            let windows = tile(from, to, every).unwrap();
            prop_assert_eq!(windows[0].0, from);
            prop_assert_eq!(windows[windows.len() - 1].1, to);
            for pair in windows.windows(2) {
                prop_assert_eq!(pair[0].1, pair[1].0);
            }
            for (since, until) in &windows {
                prop_assert!(since < until);
                let longest = match every {
                    Every::Seconds(seconds) => *since + TimeDelta::seconds(seconds.into()),
                    // A window that begins on the 28th because February ended may be up to three days longer than a month from there.
                    Every::Months(months) => since.checked_add_months(Months::new(months)).unwrap() + TimeDelta::days(3),
                };
                prop_assert!(*until <= longest, "{} to {}", since, until);
            }
        }
    }
}
