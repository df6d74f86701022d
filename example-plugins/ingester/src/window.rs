//! The time window of a run.

use lorchestra_plugin_api::chrono::{DateTime, Utc};

/// The window `[since, until)`. A missing bound is open.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    pub(crate) since: Option<DateTime<Utc>>,
    pub(crate) until: Option<DateTime<Utc>>,
}

/// Whether a message is in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Inside,
    Outside,
    /// The message has no valid date, but the window needs one.
    Undated,
}

impl Window {
    /// Classifies a message by its date.
    ///
    /// Only `since` makes the window need a date: every run has an `until` (its start by default), and "all mail up to now"
    /// includes messages without a date.
    pub(crate) fn judge(&self, date: Option<DateTime<Utc>>) -> Verdict {
        match date {
            Some(date) if self.since.is_some_and(|since| date < since) => Verdict::Outside,
            Some(date) if self.until.is_some_and(|until| date >= until) => Verdict::Outside,
            Some(_) => Verdict::Inside,
            None if self.since.is_some() => Verdict::Undated,
            None => Verdict::Inside,
        }
    }

    /// Returns whether the window has a time from `from` to `to`.
    pub(crate) fn touches(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
        self.since.is_none_or(|since| to >= since) && self.until.is_none_or(|until| from < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: u32) -> Option<DateTime<Utc>> {
        Some(format!("2024-01-{n:02}T00:00:00Z").parse().unwrap())
    }

    #[test]
    fn since_is_inclusive_and_until_is_exclusive() {
        let window = Window { since: day(2), until: day(4) };
        let verdicts: Vec<_> = (1..=5).map(|n| window.judge(day(n))).collect();
        use Verdict::{Inside, Outside};
        assert_eq!(verdicts, [Outside, Inside, Inside, Outside, Outside]);
    }

    #[test]
    fn without_a_date_only_since_excludes() {
        assert_eq!(Window::default().judge(None), Verdict::Inside);
        assert_eq!(Window { since: None, until: day(4) }.judge(None), Verdict::Inside);
        assert_eq!(Window { since: day(1), until: None }.judge(None), Verdict::Undated);
    }
}
