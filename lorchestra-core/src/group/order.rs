//! What the driving process and a lane send each other: one JSON object a line, an order to the lane and messages back, of which the last is
//! the report.

use crate::outcome::Cause;
use crate::plan::RunSpec;
use crate::store::group::MemberState;
use serde::{Deserialize, Serialize};

/// A run for a lane.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaneOrder {
    /// The run's id.
    pub run_id: String,
    /// Its spec.
    pub spec: RunSpec,
}

/// A line from a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneMessage {
    /// An order waits for a run that is not of this order.
    Waiting {
        /// The order's run.
        run_id: String,
        /// The other run, if known.
        holder: Option<String>,
    },
    /// An order is done.
    Done(LaneReport),
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    /// The run's id.
    pub run_id: String,
    /// Its state; [`MemberState::Running`] if another run excludes it for now: the driving process gives it again.
    pub state: MemberState,
    /// The run that has the record: for a refused one, which can be given again with the same id, another id, or none if it could not be
    /// recorded.
    pub recorded_as: Option<String>,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// The cause for people.
    pub message: Option<String>,
    /// The signal that stopped it, if one did.
    pub signal: Option<i32>,
}
