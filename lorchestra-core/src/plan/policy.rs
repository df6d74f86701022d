//! Limits and retries of a run: each setting comes from a flag, or else from the configuration, or else from the job's own attributes, or
//! else from a default. Owns that precedence; pure.

use super::{OnOverlap, Retries, duration};
use crate::outcome::Cause;
use lorchestra_plugin_api::manifest::JobManifest;
use std::time::Duration;

/// How long a job may run after SIGTERM, unless set otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// The settings of one source (the flags, the configuration, a job's attributes); `None` if not set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "documented at RunSpec and Retries")]
pub struct RunPolicy {
    pub timeout: Option<Duration>,
    pub grace: Option<Duration>,
    pub on_overlap: Option<OnOverlap>,
    pub retries: Option<u32>,
    pub retry_on: Option<Vec<Cause>>,
    pub retry_wait: Option<Duration>,
    pub memory_max: Option<u64>,
}

/// The effective settings of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at RunSpec")]
pub struct RunLimits {
    pub timeout: Option<Duration>,
    pub grace: Duration,
    pub on_overlap: OnOverlap,
    pub retries: Retries,
    pub memory_max: Option<u64>,
}

impl RunPolicy {
    /// Returns the settings in the job's own attributes. The catalog has checked that they are valid.
    pub fn of_job(job: &JobManifest) -> Self {
        Self {
            timeout: job.timeout.as_deref().and_then(|text| duration::parse(text).ok()),
            on_overlap: job.overlap.as_deref().and_then(|text| text.parse().ok()),
            retries: job.retries,
            ..Self::default()
        }
    }

    /// Returns these settings, with those of `lower` where this source sets nothing.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            timeout: self.timeout.or(lower.timeout),
            grace: self.grace.or(lower.grace),
            on_overlap: self.on_overlap.or(lower.on_overlap),
            retries: self.retries.or(lower.retries),
            retry_on: self.retry_on.or(lower.retry_on),
            retry_wait: self.retry_wait.or(lower.retry_wait),
            memory_max: self.memory_max.or(lower.memory_max),
        }
    }

    /// Returns the limits, with defaults for settings that no source sets.
    pub fn limits(self) -> RunLimits {
        let default = Retries::default();
        RunLimits {
            timeout: self.timeout,
            grace: self.grace.unwrap_or(GRACE),
            on_overlap: self.on_overlap.unwrap_or_default(),
            retries: Retries {
                limit: self.retries.unwrap_or(default.limit),
                on: self.retry_on.unwrap_or(default.on),
                wait: self.retry_wait.unwrap_or(default.wait),
            },
            memory_max: self.memory_max,
        }
    }
}

/// Returns the limits of a run of `job`: flags take precedence over the configuration, and that over the job's own attributes.
pub fn limits(flags: RunPolicy, config: RunPolicy, job: &JobManifest) -> RunLimits {
    flags.or(config).or(RunPolicy::of_job(job)).limits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::manifest::JobOutline;
    use serde_json::json;

    fn job() -> JobManifest {
        let outline: JobOutline =
            serde_json::from_value(json!({"name": "j", "timeout": "3s", "retries": 3, "overlap": "skip"})).unwrap();
        outline.into()
    }

    /// Sets everything, each value derived from `n`.
    fn all(n: u32) -> RunPolicy {
        let seconds = Duration::from_secs(n.into());
        RunPolicy {
            timeout: Some(seconds),
            grace: Some(seconds),
            on_overlap: Some(OnOverlap::Wait(Some(seconds))),
            retries: Some(n),
            retry_on: Some(vec![Cause::Timeout; n as usize]),
            retry_wait: Some(seconds),
            memory_max: Some(n.into()),
        }
    }

    #[test]
    fn flag_then_config_then_job_then_default() {
        assert_eq!(limits(all(1), all(2), &job()), all(1).limits());
        assert_eq!(limits(RunPolicy::default(), all(2), &job()), all(2).limits());
        let of_job = limits(RunPolicy::default(), RunPolicy::default(), &job());
        assert_eq!((of_job.timeout, of_job.retries.limit, of_job.on_overlap), (Some(Duration::from_secs(3)), 3, OnOverlap::Skip));
        assert_eq!((of_job.grace, of_job.memory_max), (GRACE, None));
    }

    #[test]
    fn each_setting_falls_back_independently() {
        let flags = RunPolicy { timeout: Some(Duration::from_secs(9)), ..RunPolicy::default() };
        let config = RunPolicy { retries: Some(7), memory_max: Some(1), ..RunPolicy::default() };
        let limits = limits(flags, config, &job());
        assert_eq!((limits.timeout, limits.retries.limit, limits.memory_max), (Some(Duration::from_secs(9)), 7, Some(1)));
        assert_eq!((limits.on_overlap, limits.retries.on), (OnOverlap::Skip, Retries::default().on));
    }
}
