//! Values that both flags and the configuration file accept: durations, limits, sizes, counts. Each parser returns the reason why a text is
//! invalid.

use crate::exit::Code;
use crate::failure::CommandError;
use chrono::Utc;
use lorchestra_core::plan::{duration as durations, retries as policy, size, time as times};
use lorchestra_core::text::quote;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;
use uuid::Uuid;

/// A whole number in a range.
pub(crate) fn number<T: TryFrom<u64>>(
    range: impl RangeBounds<u64> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let least = match range.start_bound() {
            Bound::Included(least) => *least,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let refused = || match range.end_bound() {
            Bound::Included(most) => format!("write a whole number from {least} to {most}"),
            Bound::Excluded(after) => format!("write a whole number from {least} to {}", after - 1),
            Bound::Unbounded => format!("write a whole number, {least} or more"),
        };
        let number = text.parse::<u64>().ok().filter(|number| range.contains(number)).ok_or_else(refused)?;
        T::try_from(number).map_err(|_| "is too large".to_owned())
    }
}

/// The number of retries.
pub(crate) fn retries() -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    number(0..=u64::from(policy::MOST))
}

/// The id of a run that the caller chose.
pub(crate) fn run_id(text: &str) -> Result<Uuid, String> {
    let wrong = |_| "write a UUID, such as 0190a5d2-7c1e-7000-8000-000000000001, or omit the flag for a new id".to_owned();
    Uuid::parse_str(text).map_err(wrong)
}

/// A memory limit with which a worker can at least start.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let least = size::LEAST;
    match size::parse(text)? {
        bytes if bytes < least => Err(format!("is too small to load a plugin; use {} or more", size::show(least))),
        bytes => Ok(bytes),
    }
}

/// A duration that can be a time limit: with 0, no job could run.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a limit of 0 would stop every job at once; omit it for no limit".into()),
        limit => Ok(limit),
    }
}

/// How long a command may take for something that it would not begin with 0.
pub(crate) fn patience(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("with 0 there would be no time for anything; omit it for the default".into()),
        patience => Ok(patience),
    }
}

/// The age of something, or an interval: with 0, all or nothing would match.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than 0; write a duration such as 1s, 36h or 30d".into()),
        age => Ok(age),
    }
}

/// A duration, such as 90s, 30m or 2h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    durations::parse(text).map_err(|e| e.to_string())
}

/// Parses a flag's time, such as 2024-01-31 or -7d, in microseconds since 1970.
pub(crate) fn time(flag: &str, text: Option<&str>) -> Result<Option<i64>, CommandError> {
    let read = |text: &str| {
        times::parse(text, Utc::now()).map_err(|e| CommandError::new(Code::Usage, format!("{flag} {}: {e}", quote(text))))
    };
    text.map(read).transpose().map(|time| time.map(|time| time.timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_refused_with_its_range() {
        assert_eq!(retries()("1000"), Ok(1000));
        assert_eq!(number::<u64>(1..)("7"), Ok(7));
        for bad in ["x", "", "-1", "1001", "1.5", "99999999999999999999"] {
            assert_eq!(retries()(bad), Err("write a whole number from 0 to 1000".to_owned()), "{bad}");
        }
        assert_eq!(number::<u32>(1..)("0"), Err("write a whole number, 1 or more".to_owned()));
        assert_eq!(number::<u32>(1..)("4294967296"), Err("is too large".to_owned()));
        assert!(age("0s").unwrap_err().starts_with("must be more than 0") && age("1s").is_ok());
        assert!(patience("0s").unwrap_err().contains("no time") && patience("1s").is_ok());
        assert!(run_id("5").unwrap_err().starts_with("write a UUID"));
    }
}
