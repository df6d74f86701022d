//! The time span that a run covers. Owns its construction: [`Window::of`] takes the two resolved ends and checks that there is time between
//! them. Called by [`super::resolve`].

use super::fault::PlanFault;
use super::time;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// From `since` (inclusive) to `until` (exclusive). `since`, if any, is before `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The beginning; `None` for no lower bound.
    #[schemars(with = "Option<String>")]
    pub since: Option<DateTime<Utc>>,
    /// The end; the start of the run unless specified.
    #[schemars(with = "String")]
    pub until: DateTime<Utc>,
}

/// One end and its origin.
#[derive(Debug, Clone)]
pub(super) struct WindowEnd {
    pub(super) at: DateTime<Utc>,
    /// Description for the message about an empty window: `--since -7d`.
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
