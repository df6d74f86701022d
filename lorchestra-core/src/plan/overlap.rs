//! What to do if another run of the same job and account is running: the values of `--on-overlap`. Pure functions only.

use super::duration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What to do if another run of the same job and account is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOverlap {
    /// Fail with an error; no run is recorded.
    #[default]
    Fail,
    /// Do not run; a skipped run is recorded.
    Skip,
    /// Wait for the other run to end, with an optional time limit.
    Wait(Option<Duration>),
    /// Run concurrently.
    Allow,
}

impl FromStr for OnOverlap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            "wait" => Ok(Self::Wait(None)),
            "allow" => Ok(Self::Allow),
            _ => match text.strip_prefix("wait=") {
                Some(limit) => duration::parse(limit).map(|limit| Self::Wait(Some(limit))).map_err(|e| e.to_string()),
                None => Err("write fail, skip, wait, wait=DURATION or allow".into()),
            },
        }
    }
}

impl fmt::Display for OnOverlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("fail"),
            Self::Skip => f.write_str("skip"),
            Self::Wait(None) => f.write_str("wait"),
            Self::Wait(Some(limit)) => write!(f, "wait={}", duration::show(*limit)),
            Self::Allow => f.write_str("allow"),
        }
    }
}

impl Serialize for OnOverlap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnOverlap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_parsed_as_formatted() {
        for text in ["fail", "skip", "wait", "wait=1m30s", "allow"] {
            assert_eq!(text.parse::<OnOverlap>().unwrap().to_string(), text);
        }
        assert_eq!("wait=90s".parse(), Ok(OnOverlap::Wait(Some(Duration::from_secs(90)))));
        for (bad, what) in
            [("", "write fail"), ("Wait", "write fail"), ("wait=", "empty"), ("wait=5", "unit"), ("wait 5s", "write fail")]
        {
            assert!(bad.parse::<OnOverlap>().unwrap_err().contains(what), "{bad}");
        }
    }
}
