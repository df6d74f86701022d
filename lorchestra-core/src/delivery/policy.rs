//! How much is sent at once, and how long is waited. Values only.

use super::destination::Destination;
use crate::store::CIRCUIT;
use std::time::Duration;

/// Sizes and times of delivery.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Rows in a batch, at most.
    pub rows: usize,
    /// Bytes of a batch, about.
    pub bytes: usize,
    /// The first wait after a failure.
    pub first_wait: Duration,
    /// The longest.
    pub longest_wait: Duration,
    /// Failures in a row after which the circuit opens, and everybody leaves the destination alone.
    pub failures: u32,
    /// How long it stays open.
    pub circuit: Duration,
    /// How long a stream may have been idle and still be trusted to be there: Google keeps them three days.
    pub stream_idle: Duration,
}

impl Policy {
    /// For streams (few, large requests), or for single requests of the recommended 500 rows.
    pub fn of(destination: &impl Destination) -> Self {
        Self {
            rows: if destination.uses_streams() { 5000 } else { 500 },
            bytes: 4 << 20,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
            failures: 6,
            circuit: CIRCUIT,
            stream_idle: Duration::from_secs(60 * 60 * 60),
        }
    }
}
