//! Which ends of an attempt are worth another one, and how many there may be. Pure.

use crate::outcome::{Cause, Failure};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Attempts after the first, at most. With the longest wait between them, half a week.
pub const MOST: u32 = 1000;
/// The longest wait between two attempts.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// Causes that another attempt may fix. Not among them: what loading refuses is refused again; who cancels does not want another one;
/// and after a fault of the spool events may be missing, which a person has to look at.
pub const RETRYABLE: [Cause; 5] = [Cause::Error, Cause::Panic, Cause::Signal, Cause::Exit, Cause::Timeout];

/// How a job is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Attempts after the first, at most.
    pub limit: u32,
    /// Causes after which there is another attempt; each of [`RETRYABLE`].
    pub on: Vec<Cause>,
    /// The wait before the second attempt; it doubles with each, up to [`LONGEST_WAIT`].
    #[serde(with = "super::spec::seconds")]
    pub wait: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { limit: 0, on: RETRYABLE.to_vec(), wait: Duration::from_secs(1) }
    }
}

impl Retries {
    /// Whether there is another attempt after this one (from 1) has failed so.
    pub fn allows_retry(&self, attempt: u32, failure: &Failure) -> bool {
        attempt <= self.limit && !failure.permanent && self.on.contains(&failure.cause) && RETRYABLE.contains(&failure.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(cause: Cause, permanent: bool) -> Failure {
        Failure { cause, message: String::new(), permanent, job_result: None, signal: None, exit_code: None }
    }

    #[test]
    fn what_may_be_mended_is_tried_as_often_as_was_asked() {
        let twice = Retries { limit: 2, ..Retries::default() };
        let tries =
            |cause, permanent| (1..5).take_while(|attempt| twice.allows_retry(*attempt, &failure(cause, permanent))).count();
        for cause in RETRYABLE {
            assert_eq!(tries(cause, false), 2, "{cause:?}");
            assert_eq!(tries(cause, true), 0, "{cause:?}, permanent");
            assert!(!Retries::default().allows_retry(1, &failure(cause, false)), "nobody asked");
        }
        for cause in [Cause::Cancelled, Cause::Load, Cause::Spool, Cause::Abandoned] {
            assert_eq!(tries(cause, false), 0, "{cause:?}");
        }
        let only = Retries { limit: 2, on: vec![Cause::Timeout, Cause::Load], ..Retries::default() };
        assert!(only.allows_retry(1, &failure(Cause::Timeout, false)) && !only.allows_retry(1, &failure(Cause::Error, false)));
        assert!(!only.allows_retry(1, &failure(Cause::Load, false)), "whatever was asked");
    }
}
