//! Batch sizes and delays. Only values; destinations choose their own sizes.

use std::time::Duration;

/// How long no process sends to a destination after it failed several times in a row.
pub const CIRCUIT: Duration = Duration::from_secs(60);

/// Batch sizes and delays of delivery.
#[derive(Debug, Clone)]
pub struct DeliveryPolicy {
    /// Maximum number of rows in a batch.
    pub rows: usize,
    /// Approximate maximum size of a batch in bytes.
    pub bytes: usize,
    /// The delay after the first failure.
    pub first_wait: Duration,
    /// The longest delay.
    pub longest_wait: Duration,
    /// Number of consecutive failures after which the circuit opens, and all processes leave the destination alone.
    pub failures: u32,
    /// How long the circuit stays open.
    pub circuit: Duration,
    /// Maximum number of consecutive retries if the target is missing or its layout has changed since connecting: some servers may not see
    /// recent changes yet.
    pub patience: u32,
    /// How long a stream may be idle and still be expected to exist.
    pub stream_idle: Duration,
}

impl DeliveryPolicy {
    /// Creates a policy with these maximum batch sizes, streams that do not expire, and delays suited to a server or a disk.
    pub fn new(rows: usize, bytes: usize) -> Self {
        Self {
            rows,
            bytes,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
            failures: 6,
            circuit: CIRCUIT,
            patience: 0,
            stream_idle: Duration::MAX,
        }
    }
}
