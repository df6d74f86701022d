//! What stays undelivered until someone decides: events that a destination refused or may have received; and when a destination was last
//! configured. Counts for people, whose cost does not grow with the history. Reads only.

use super::outbox::{COUNTED, unsettled};
use super::{Store, StoreError};
use rusqlite::{OptionalExtension, params};

/// Numbers of events of one destination that are resent only on request; each is at most one more than [`COUNTED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAside {
    /// Refused by the destination.
    pub refused: u64,
    /// Sent, but it could not be determined whether they arrived.
    pub uncertain: u64,
}

impl Store {
    /// Counts the events of a destination that were set aside.
    pub fn set_aside(&self, destination: &str) -> Result<SetAside, StoreError> {
        self.read("counting what is not delivered", |db| {
            let most = COUNTED.cast_signed() + 1;
            let count = |sql: &str| db.prepare_cached(sql)?.query_row(params![destination, most], |row| row.get::<_, i64>(0));
            // Uses the batches, which are few, rather than all events.
            let uncertain = format!(
                "SELECT count(*) FROM (SELECT 1 FROM batches b CROSS JOIN events e ON e.n BETWEEN b.first AND b.last
                 WHERE b.destination = ?1 AND b.state = 'uncertain' AND {} LIMIT ?2)",
                unsettled("?1")
            );
            let refused = "SELECT count(*) FROM (SELECT 1 FROM settled WHERE destination = ?1 AND how = 'refused' LIMIT ?2)";
            Ok(SetAside { refused: count(refused)?.unsigned_abs(), uncertain: count(&uncertain)?.unsigned_abs() })
        })
    }

    /// Returns when a command last had a destination configured, in microseconds since 1970; accurate to an hour. `None` if none ever had.
    pub fn last_configured(&self, destination: &str) -> Result<Option<i64>, StoreError> {
        self.read("reading the state of delivery", |db| {
            let mut statement = db.prepare_cached("SELECT seen_at FROM outbox WHERE destination = ?1")?;
            statement.query_row([destination], |row| row.get(0)).optional()
        })
    }
}
