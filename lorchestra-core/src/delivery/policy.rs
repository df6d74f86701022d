//! How much is sent at once, and how long is waited. Values only; sizes are the destinations' own.

use crate::store::CIRCUIT;
use std::time::Duration;

/// Sizes and times of delivery.
#[derive(Debug, Clone)]
pub struct DeliveryPolicy {
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
    /// How long a stream may have been idle and still be trusted to be there.
    pub stream_idle: Duration,
}

impl DeliveryPolicy {
    /// With batches of at most so many rows and about so many bytes, streams that last, and waits that suit a server or a disk.
    pub fn new(rows: usize, bytes: usize) -> Self {
        Self {
            rows,
            bytes,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
            failures: 6,
            circuit: CIRCUIT,
            stream_idle: Duration::MAX,
        }
    }
}
