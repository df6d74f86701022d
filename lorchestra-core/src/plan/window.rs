//! The span of time a run is about. Owns what makes one: [`Window::of`] takes the two ends as they were resolved and says
//! whether there is anything between them. Called by [`super::resolve`].

use super::fault::PlanFault;
use super::time;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// From `since`, included, to `until`, excluded. Where there is a `since`, it lies before `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The beginning; `None`: as far back as there is anything.
    pub since: Option<DateTime<Utc>>,
    /// The end; the run's start, unless another was asked for.
    pub until: DateTime<Utc>,
}

/// One end, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct WindowEnd {
    pub(super) at: DateTime<Utc>,
    /// In words, for the message when the ends do not fit: `--since -7d`.
    pub(super) origin: String,
}

impl Window {
    pub(super) fn of(since: Option<&WindowEnd>, until: &WindowEnd) -> Result<Self, PlanFault> {
        match since {
            Some(since) if since.at >= until.at => Err(PlanFault::Window {
                since: time::show(since.at),
                since_origin: since.origin.clone(),
                until: time::show(until.at),
                until_origin: until.origin.clone(),
            }),
            since => Ok(Self { since: since.map(|end| end.at), until: until.at }),
        }
    }
}
