//! Values of the configuration file, and errors for those that cannot be used. The reader adds line and key.

use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::retries::{MOST, RETRYABLE};
use lorchestra_core::plan::{OnOverlap, duration, size};
use lorchestra_core::run::log;
use serde::de::{IntoDeserializer, value};
use serde::{Deserialize, Deserializer};
use std::time::Duration;

pub(super) fn overlap<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OnOverlap>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

pub(super) fn tries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if number > MOST { Err(serde::de::Error::custom(format!("at most {MOST} retries"))) } else { Ok(Some(number)) }
}

/// Causes that another attempt may fix.
pub(super) fn causes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Cause>>, D::Error> {
    let known = RETRYABLE.map(Cause::as_str).join(", ");
    let cause = |text: String| {
        let cause: Result<Cause, value::Error> = Cause::deserialize(text.as_str().into_deserializer());
        let refused = match cause {
            Ok(cause) if RETRYABLE.contains(&cause) => return Ok(cause),
            Ok(cause) => format!("a job is never retried after {}", cause.as_str()),
            Err(_) => format!("unknown value `{text}`"),
        };
        Err(serde::de::Error::custom(format!("{refused}; valid causes are {known}")))
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().map(cause).collect::<Result<_, _>>().map(Some)
}

pub(super) fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::values::memory(&text).map(Some).map_err(serde::de::Error::custom)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

pub(super) fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::values::limit(&text).map(Some).map_err(serde::de::Error::custom)
}

pub(super) fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let is_url = |rest: &str| !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(|c| c.is_ascii_graphic());
    // Not repeated: who knows the URL can report successes.
    match text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
        Some(rest) if is_url(rest) => Ok(Some(text)),
        _ => Err(serde::de::Error::custom("write the URL of the check, which starts with https://")),
    }
}

pub(super) fn every<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match duration(deserializer)? {
        Some(Duration::ZERO) => Err(serde::de::Error::custom("a job cannot be expected every 0s; set a duration such as 1d")),
        every => Ok(every),
    }
}

/// The delay before another attempt: without one, the cause of a failure would still be there at the next attempt.
pub(super) fn wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match duration(deserializer)? {
        Some(Duration::ZERO) => {
            Err(serde::de::Error::custom("a wait of 0 would retry without a pause; set a duration, or omit it for 1s"))
        }
        wait => Ok(wait),
    }
}

/// How long runs are kept. 0 is refused, because no one could ever see a run.
pub(super) fn kept<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match duration(deserializer)? {
        Some(Duration::ZERO) => Err(serde::de::Error::custom(
            "a retention of 0 would remove every run as it ends; set a duration, or omit it for 365d",
        )),
        kept => Ok(kept),
    }
}

pub(super) fn log_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match size::parse(&text) {
        Ok(bytes) if bytes < log::MIN_MAX => {
            Err(serde::de::Error::custom(format!("a log of {text} is too small; use {} or more", size::show(log::MIN_MAX))))
        }
        parsed => parsed.map(Some).map_err(|why| serde::de::Error::custom(format!("{text:?}: {why}"))),
    }
}

pub(super) fn rotate_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    size::parse(&text).map(Some).map_err(|why| serde::de::Error::custom(format!("{text:?}: {why}")))
}
