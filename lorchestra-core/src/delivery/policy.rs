//! How much is sent at once, and how long is waited. Values only; sizes are the destinations' own.

use std::time::Duration;

/// How long nobody sends to a destination after it failed several times in a row.
pub const CIRCUIT: Duration = Duration::from_secs(60);

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
    /// Retries, in a row, when the target is missing or laid out differently than when connecting: what was just created may not be
    /// visible to every server yet.
    pub patience: u32,
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
            patience: 0,
            stream_idle: Duration::MAX,
        }
    }
}
