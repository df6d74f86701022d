//! What the driving process and a lane send each other: one JSON object a line, an order to the lane and a report back.

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

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    /// The run's id.
    pub run_id: String,
    /// Its state; [`MemberState::Running`] if another process runs it.
    pub state: MemberState,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// The cause for people.
    pub message: Option<String>,
    /// The signal that stopped it, if one did.
    pub signal: Option<i32>,
}
