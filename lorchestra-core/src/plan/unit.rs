//! Units of time and their names. Shared by [`super::duration`] and [`super::relative`], which differ only in the minute: `m` in a
//! duration, `min` in a time, where `m` might also mean month.

/// A unit of time, smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Unit {
    /// Milliseconds in the unit; `None` for a calendar unit, whose length depends on the date.
    pub(super) const fn milliseconds(self) -> Option<u64> {
        match self {
            Self::Millisecond => Some(1),
            _ => match self.seconds() {
                Some(seconds) => Some(seconds * 1000),
                None => None,
            },
        }
    }

    /// Whole seconds in the unit; `None` for a calendar unit, whose length depends on the date, and for a millisecond.
    pub(super) const fn seconds(self) -> Option<u64> {
        match self {
            Self::Second => Some(1),
            Self::Minute => Some(60),
            Self::Hour => Some(60 * 60),
            Self::Day => Some(24 * 60 * 60),
            Self::Week => Some(7 * 24 * 60 * 60),
            Self::Millisecond | Self::Month | Self::Year => None,
        }
    }

    /// Returns the unit meant by a word that is not one of the short forms. `m` is ambiguous: see the module.
    pub(super) fn meant(word: &str) -> Option<Self> {
        Some(match word.trim().to_lowercase().as_str() {
            "millis" | "millisecond" | "milliseconds" => Self::Millisecond,
            "s" | "sec" | "secs" | "second" | "seconds" => Self::Second,
            "min" | "mins" | "minute" | "minutes" => Self::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Self::Hour,
            "d" | "day" | "days" => Self::Day,
            "w" | "wk" | "wks" | "week" | "weeks" => Self::Week,
            "mo" | "mos" | "mon" | "month" | "months" => Self::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Self::Year,
            _ => return None,
        })
    }
}

/// Splits off the leading ASCII digits.
pub(super) fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units() {
        assert_eq!(Unit::meant("Days"), Some(Unit::Day));
        assert_eq!(Unit::meant(" minutes "), Some(Unit::Minute));
        for nobodys in ["", "m", "M", "ms", "fortnight"] {
            assert_eq!(Unit::meant(nobodys), None, "{nobodys}");
        }
    }

    #[test]
    fn digits_are_ascii() {
        assert_eq!(split_digits("30min"), ("30", "min"));
        assert_eq!(split_digits("٣d"), ("", "٣d"));
        assert_eq!(split_digits(""), ("", ""));
    }
}
