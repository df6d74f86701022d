//! The circuit breaker of each destination, which all processes share.

use super::{Outbox, StoreError};
use rusqlite::{OptionalExtension, params};
use std::time::Duration;

/// An open circuit: all processes leave a destination that did not respond alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circuit {
    /// When the circuit closes, in microseconds since 1970.
    pub until: i64,
    /// What had failed.
    pub reason: String,
    /// The destination's address: the circuit does not apply to another one.
    pub route: String,
}

impl Outbox {
    /// Returns the circuit of `route` if it is open at `now` (microseconds since 1970). If it seems to be open for longer than `longest`,
    /// the clock was set back after it opened, and it counts as closed.
    pub fn circuit(&self, route: &str, now: i64, longest: Duration) -> Result<Option<Circuit>, StoreError> {
        let latest = now.saturating_add(i64::try_from(longest.as_micros()).unwrap_or(i64::MAX));
        self.store.read("reading the state of delivery", |db| {
            db.query_row(
                "SELECT closed_until, closed_reason, closed_route FROM outbox
                 WHERE destination = ?1 AND closed_route = ?2 AND closed_until > ?3 AND closed_until <= ?4",
                params![self.destination, route, now, latest],
                |row| Ok(Circuit { until: row.get(0)?, reason: row.get(1)?, route: row.get(2)? }),
            )
            .optional()
        })
    }

    /// Opens or closes the circuit.
    pub fn set_circuit(&mut self, circuit: Option<&Circuit>) -> Result<(), StoreError> {
        let destination = &self.destination;
        self.store.write("recording the state of delivery", |tx| {
            tx.execute(
                "UPDATE outbox SET closed_until = ?2, closed_reason = ?3, closed_route = ?4 WHERE destination = ?1",
                params![destination, circuit.map_or(0, |c| c.until), circuit.map(|c| &c.reason), circuit.map(|c| &c.route)],
            )
            .map(drop)
        })
    }
}
