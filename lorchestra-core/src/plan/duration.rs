//! Durations as people write them: `90s`, `1h30m`, `2w`, `1.5s`, `500ms`. Owns parsing and formatting ([`parse`], [`show`]); pure.
//!
//! One or more whole numbers, each with a unit of `w d h m s ms`, largest first, each unit once, without spaces. Seconds may have up to
//! three decimals. A day has 24 hours and a week seven days. Months and years are refused because they have no fixed length.

use super::unit::{Unit, split_digits};
use std::time::Duration;
use thiserror::Error;

/// The longest accepted duration: 36500 days, a hundred years. Adding it to a time does not overflow.
pub const MAX: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// Maximum length of a text in bytes. Corrections happen one at a time, each by fixing a fault and parsing again, so their number must be
/// bounded.
const MAX_TEXT: usize = 64;

/// Why a text is not a duration, and what to write instead. Does not repeat the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Nothing, or only spaces.
    #[error("is empty; write a duration such as 90s, 5m or 1h30m")]
    Empty,
    /// The meaning is clear, but the form is not accepted.
    #[error("{reason}; write {write}")]
    Form {
        /// What is wrong with the form.
        reason: &'static str,
        /// The same duration in an accepted form.
        write: String,
    },
    /// A number without a unit.
    #[error("its unit is missing; write {seconds} for seconds or {minutes} for minutes")]
    NoUnit {
        /// The number as seconds.
        seconds: String,
        /// The number as minutes.
        minutes: String,
    },
    /// Months or years.
    #[error("months and years have no fixed length; write days, such as 30d")]
    Calendar,
    /// Smaller than a millisecond.
    #[error("the smallest unit is the millisecond; write 1ms or more")]
    TooFine,
    /// More than [`MAX`].
    #[error("is too long; write at most 36500d")]
    TooLong,
    /// Anything else.
    #[error("is not a duration; write numbers with the units w d h m s ms, such as 90s, 5m or 1h30m")]
    Unknown,
}

/// Parses a duration.
///
/// # Errors
/// See [`DurationError`]. The result is never longer than [`MAX`].
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.trim().is_empty() {
        return Err(DurationError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(DurationError::Unknown);
    }
    if text.contains(char::is_whitespace) {
        let words: Vec<&str> = text.split_whitespace().collect();
        // `5 5` is not 55.
        let apart = words.windows(2).any(|w| w[0].ends_with(is_digit) && w[1].starts_with(is_digit));
        return Err(if apart { DurationError::Unknown } else { instead("contains spaces", words.concat()) });
    }
    if let Some(unsigned) = text.strip_prefix(['-', '+', '\u{2212}', '\u{2013}']) {
        return Err(instead("a duration has no sign", unsigned.to_owned()));
    }
    let mut total = 0_u64;
    let mut last: Option<Unit> = None;
    let mut in_order = true;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = split_digits(rest);
        let (decimals, tail) = match tail.strip_prefix('.') {
            Some(tail) => split_digits(tail),
            None => ("", tail),
        };
        let (word, after) = tail.split_at(tail.find(is_digit).unwrap_or(tail.len()));
        if number.is_empty() {
            return Err(DurationError::Unknown);
        }
        if word.starts_with(',') || (decimals.is_empty() != (number.len() + tail.len() == rest.len())) {
            return Err(fraction(text).unwrap_or(DurationError::Unknown));
        }
        let before = &text[..text.len() - tail.len()];
        let unit = unit(word, last, before, after)?;
        if !decimals.is_empty() && (unit != Unit::Second || decimals.len() > 3 || !after.is_empty()) {
            let fine = if unit == Unit::Second && after.is_empty() { DurationError::TooFine } else { DurationError::Unknown };
            return Err(fraction(text).unwrap_or(fine));
        }
        in_order &= last.is_none_or(|last| unit < last);
        last = Some(unit);
        // A number that exceeds 64 bits is too long a duration.
        total = number
            .parse::<u64>()
            .ok()
            .zip(unit.milliseconds())
            .and_then(|(n, milliseconds)| n.checked_mul(milliseconds))
            .and_then(|milliseconds| milliseconds.checked_add(thousandths(decimals)))
            .and_then(|milliseconds| milliseconds.checked_add(total))
            .filter(|total| u128::from(*total) <= MAX.as_millis())
            .ok_or(DurationError::TooLong)?;
        rest = after;
    }
    let duration = Duration::from_millis(total);
    if in_order {
        Ok(duration)
    } else {
        Err(DurationError::Form { reason: "the largest unit comes first, each unit once", write: show(duration) })
    }
}

/// The value of up to three decimals.
fn thousandths(decimals: &str) -> u64 {
    format!("{decimals:0<3}").parse().unwrap_or_default()
}

/// Formats `duration` so that [`parse`] accepts it: `1h30m`, `14d`, `1.5s`, `500ms`, `0s`. Drops fractions of a millisecond.
pub fn show(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let milliseconds = duration.subsec_millis();
    let mut text = String::new();
    // Without weeks: 10d is clearer than 1w3d.
    for (seconds, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        let n = rest / seconds;
        rest %= seconds;
        if n > 0 {
            text.push_str(&format!("{n}{unit}"));
        }
    }
    match (rest, milliseconds) {
        (0, 0) if text.is_empty() => "0s".to_owned(),
        (0, 0) => text,
        (_, 0) => format!("{text}{rest}s"),
        (0, _) => format!("{text}{milliseconds}ms"),
        (..) => {
            let decimals = format!("{milliseconds:03}");
            format!("{text}{rest}.{}s", decimals.trim_end_matches('0'))
        }
    }
}

/// Parses the unit of one part. `before` is the text up to the unit, `tail` the rest.
fn unit(word: &str, last: Option<Unit>, before: &str, tail: &str) -> Result<Unit, DurationError> {
    Ok(match word {
        "ms" => Unit::Millisecond,
        "s" => Unit::Second,
        "m" => Unit::Minute,
        "h" => Unit::Hour,
        "d" => Unit::Day,
        "w" => Unit::Week,
        "" => {
            // `1h30`: the number after the hours means minutes.
            let Some(last) = last else {
                let (seconds, minutes) = (format!("{before}s"), format!("{before}m"));
                // If the number is too large for minutes, it must mean seconds.
                return Err(match parse(&minutes) {
                    Ok(_) => DurationError::NoUnit { seconds, minutes },
                    Err(_) => instead("its unit is missing", seconds),
                });
            };
            let next = match last {
                Unit::Second | Unit::Millisecond => return Err(DurationError::Unknown),
                Unit::Minute => 's',
                Unit::Hour => 'm',
                _ => 'h',
            };
            return Err(instead("its last number has no unit", format!("{before}{next}")));
        }
        "us" | "µs" | "ns" => return Err(DurationError::TooFine),
        _ => {
            let short = match Unit::meant(word) {
                Some(Unit::Month | Unit::Year) => return Err(DurationError::Calendar),
                Some(Unit::Millisecond) => "ms",
                Some(Unit::Second) => "s",
                Some(Unit::Minute) => "m",
                Some(Unit::Hour) => "h",
                Some(Unit::Day) => "d",
                Some(Unit::Week) => "w",
                None if word == "M" => "m",
                None => return Err(DurationError::Unknown),
            };
            return Err(instead("the units are w d h m s ms", format!("{before}{short}{tail}")));
        }
    })
}

/// `1.5h` means `1h30m`; `None` if the result is not a whole number of milliseconds.
fn fraction(text: &str) -> Option<DurationError> {
    let (whole, tail) = split_digits(text);
    let (digits, word) = split_digits(tail.strip_prefix(['.', ','])?);
    if digits.is_empty() {
        return None;
    }
    let unit = if word == "m" { Unit::Minute } else { Unit::meant(word)? };
    let reason = match unit {
        _ if tail.starts_with(',') => "the decimal separator is a point",
        Unit::Second => "seconds have at most three decimals",
        _ => "only seconds have decimals",
    };
    let scale = 10_u64.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let scaled = format!("{whole}{digits}").parse::<u64>().ok()?.checked_mul(unit.milliseconds()?)?;
    (scaled.is_multiple_of(scale)).then(|| instead(reason, show(Duration::from_millis(scaled / scale))))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// Returns the error that proposes `write`. If that is invalid too, returns its error instead.
fn instead(reason: &'static str, write: String) -> DurationError {
    match parse(&write) {
        Ok(_) => DurationError::Form { reason, write },
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_durations() {
        for (text, seconds) in [
            ("90s", 90),
            ("0s", 0),
            ("5m", 300),
            ("1h30m", 5400),
            ("1h30m5s", 5405),
            ("2d", 172_800),
            ("2w", 1_209_600),
            ("1w1d1h1m1s", 694_861),
            ("007s", 7),
            ("36500d", 3_153_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for (text, milliseconds) in [
            ("500ms", 500),
            ("0ms", 0),
            ("1500ms", 1500),
            ("1s500ms", 1500),
            ("1m1ms", 60_001),
            ("1.5s", 1500),
            ("0.001s", 1),
            ("1h0.25s", 3_600_250),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn formatted_durations() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (5400, "1h30m"), (86_400, "1d"), (1_209_600, "14d"), (90_061, "1d1h1m1s")]
        {
            assert_eq!(show(Duration::from_secs(seconds)), text);
        }
        for (milliseconds, text) in [(1_999, "1.999s"), (500, "500ms"), (60_040, "1m40ms"), (61_100, "1m1.1s")] {
            assert_eq!(show(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(show(Duration::from_micros(1_000_999)), "1s");
    }

    #[test]
    fn refused_durations_and_their_corrections() {
        for (text, hint) in [
            ("", "write a duration such as 90s"),
            (" \t", "write a duration such as 90s"),
            ("90", "write 90s for seconds or 90m for minutes"),
            ("99999999", "its unit is missing; write 99999999s"),
            ("1h30", "write 1h30m"),
            ("1m30", "write 1m30s"),
            ("1d12", "write 1d12h"),
            ("1s5", "such as 90s"),
            ("5min", "write 5m"),
            ("5 minutes", "write 5m"),
            ("5M", "write 5m"),
            ("1H30M", "write 1h30m"),
            ("1hour30min", "write 1h30m"),
            ("1h 30m", "write 1h30m"),
            (" 5m", "write 5m"),
            ("-5m", "has no sign; write 5m"),
            ("+5m", "has no sign; write 5m"),
            ("\u{2212}5m", "has no sign; write 5m"),
            ("30m1h", "write 1h30m"),
            ("1m1m", "write 2m"),
            ("1.5h", "write 1h30m"),
            ("0,5m", "write 30s"),
            ("0.0001s", "write 1ms or more"),
            ("1,5s", "is a point; write 1.5s"),
            ("0.0005m", "write 30ms"),
            ("1.5s1ms", "such as 90s"),
            ("1.s", "such as 90s"),
            (".5s", "such as 90s"),
            ("1.5ms", "such as 90s"),
            ("1ms1s", "write 1.001s"),
            ("5 milliseconds", "write 5ms"),
            ("1mo", "write days, such as 30d"),
            ("1y", "write days, such as 30d"),
            ("500us", "write 1ms or more"),
            ("s", "such as 90s"),
            ("1h-5m", "such as 90s"),
            ("PT1H", "such as 90s"),
            ("1:30:00", "such as 90s"),
            ("forever", "such as 90s"),
            ("5 5", "such as 90s"),
            (&"1hour".repeat(10_000), "such as 90s"),
            ("36501d", "at most 36500d"),
            ("36500d1s", "at most 36500d"),
            ("99999999999999999999s", "at most 36500d"),
            ("99999999999999999999", "at most 36500d"),
            ("18446744073709551615w", "at most 36500d"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text:?}: {message}");
        }
    }
}
