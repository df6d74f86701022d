//! Values that both flags and the configuration file accept: durations, limits, sizes, counts. Each parser returns the reason why a text is
//! invalid.

use crate::exit::Code;
use crate::failure::CommandError;
use chrono::Utc;
use lorchestra_core::plan::{duration as durations, retries as policy, size, time as times};
use std::time::Duration;

/// The number of retries.
pub(crate) fn retries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(..=i64::from(policy::MOST))
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

/// A duration, such as 90s, 30m or 2h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    durations::parse(text).map_err(|e| e.to_string())
}

/// Parses a flag's time, such as 2024-01-31 or -7d, in microseconds since 1970.
pub(crate) fn time(flag: &str, text: Option<&str>) -> Result<Option<i64>, CommandError> {
    let read =
        |text: &str| times::parse(text, Utc::now()).map_err(|e| CommandError::new(Code::Usage, format!("{flag} {text:?}: {e}")));
    text.map(read).transpose().map(|time| time.map(|time| time.timestamp_micros()))
}
