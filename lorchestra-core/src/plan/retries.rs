//! Which attempts to retry, and how many times. Pure functions only.

use crate::outcome::{Cause, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Maximum number of retries. With the longest delay between attempts they take half a week.
pub const MOST: u32 = 1000;
/// The longest delay between two attempts.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// Causes that another attempt may fix. Not included: a library that cannot be loaded will fail again; a user who cancels a run does not
/// want another attempt; and after a spool fault events may be missing, which a person has to check.
pub const RETRYABLE: [Cause; 5] = [Cause::Error, Cause::Panic, Cause::Signal, Cause::Exit, Cause::Timeout];

/// How to retry a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Maximum number of retries.
    pub limit: u32,
    /// Causes to retry, each one of [`RETRYABLE`].
    pub on: Vec<Cause>,
    /// Delay before the second attempt; it doubles with each attempt, up to [`LONGEST_WAIT`].
    #[serde(with = "super::spec::seconds")]
    #[schemars(with = "f64")]
    pub wait: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { limit: 0, on: RETRYABLE.to_vec(), wait: Duration::from_secs(1) }
    }
}

impl Retries {
    /// Whether to retry after this attempt (counted from 1) has failed this way.
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
    fn fixable_failures_are_retried_up_to_the_limit() {
        let twice = Retries { limit: 2, ..Retries::default() };
        let tries =
            |cause, permanent| (1..5).take_while(|attempt| twice.allows_retry(*attempt, &failure(cause, permanent))).count();
        for cause in RETRYABLE {
            assert_eq!(tries(cause, false), 2, "{cause:?}");
            assert_eq!(tries(cause, true), 0, "{cause:?}, permanent");
            assert!(!Retries::default().allows_retry(1, &failure(cause, false)), "no retries by default");
        }
        for cause in [Cause::Cancelled, Cause::Load, Cause::Spool, Cause::Abandoned] {
            assert_eq!(tries(cause, false), 0, "{cause:?}");
        }
        let only = Retries { limit: 2, on: vec![Cause::Timeout, Cause::Load], ..Retries::default() };
        assert!(only.allows_retry(1, &failure(Cause::Timeout, false)) && !only.allows_retry(1, &failure(Cause::Error, false)));
        assert!(!only.allows_retry(1, &failure(Cause::Load, false)), "with any --retry-on");
    }
}
