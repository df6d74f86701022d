//! Undelivered events of a destination, for people: SQL conditions on events, and counts. Reads only. For a destination that the store does
//! not know, everything is pending.

use super::super::{Store, StoreError};
use rusqlite::params;

/// Numbers of events that are not delivered to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// To be sent.
    pub pending: u64,
    /// Set aside because the destination refused them.
    pub refused: u64,
    /// Sent, but it could not be determined whether they arrived.
    pub uncertain: u64,
}

/// Condition: event `e` is not settled individually at destination `?1`.
pub(super) const UNSETTLED: &str = "NOT EXISTS (SELECT 1 FROM settled WHERE destination = ?1 AND event = e.n)";

/// The number of the last event that is delivered to a destination. `destination` is a parameter of the statement, such as `?1`.
pub(in super::super) fn delivered_to(destination: &str) -> String {
    format!("coalesce((SELECT delivered_to FROM outbox WHERE destination = {destination}), 0)")
}

/// Condition on an event `e`, like all below: it is not settled individually.
pub(in super::super) fn unsettled(destination: &str) -> String {
    format!("NOT EXISTS (SELECT 1 FROM settled WHERE destination = {destination} AND event = e.n)")
}

/// Condition: it has not been sent yet.
pub(super) fn unsent(destination: &str) -> String {
    format!("e.n > {} AND {}", delivered_to(destination), unsettled(destination))
}

fn settled_as(destination: &str, how: &str) -> String {
    format!("EXISTS (SELECT 1 FROM settled WHERE destination = {destination} AND event = e.n AND how = '{how}')")
}

/// Condition: it must be sent. Only for statements that examine few events, as for those below.
pub(in super::super) fn pending(destination: &str) -> String {
    format!("({} OR {})", unsent(destination), settled_as(destination, "suspect"))
}

/// Condition: the destination refused it.
pub(in super::super) fn refused(destination: &str) -> String {
    settled_as(destination, "refused")
}

/// Condition: it is unknown whether it arrived.
pub(in super::super) fn uncertain(destination: &str) -> String {
    format!("{} IS NOT NULL AND {}", why_uncertain(destination), unsettled(destination))
}

/// Expression: why that is unknown.
pub(in super::super) fn why_uncertain(destination: &str) -> String {
    format!(
        "(SELECT reason FROM batches b WHERE b.destination = {destination} AND b.state = 'uncertain'
            AND e.n BETWEEN b.first AND b.last)"
    )
}

/// Maximum number of pending events to count after each run, so that the cost of a run does not grow with the backlog.
pub const COUNTED: u64 = 10_000;

impl Store {
    /// Returns the names of the destinations that the store knows, in alphabetical order: those with delivered or pending events.
    pub fn destinations(&self) -> Result<Vec<String>, StoreError> {
        self.read("reading the state of delivery", |db| {
            let mut statement = db.prepare_cached("SELECT destination FROM outbox ORDER BY destination")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Returns the number of pending events of a destination, at most one more than [`COUNTED`]. May include events that are settled
    /// individually.
    pub fn pending(&self, destination: &str) -> Result<u64, StoreError> {
        self.read("counting what is not delivered", |db| {
            let sql = format!("SELECT count(*) FROM (SELECT 1 FROM events e WHERE {} LIMIT ?2)", unsent("?1"));
            let most = COUNTED.cast_signed() + 1;
            let unsent: i64 = db.prepare_cached(&sql)?.query_row(params![destination, most], |row| row.get(0))?;
            let suspects = "SELECT count(*) FROM (SELECT 1 FROM settled WHERE destination = ?1 AND how = 'suspect' LIMIT ?2)";
            let suspects: i64 = db.prepare_cached(suspects)?.query_row(params![destination, most], |row| row.get(0))?;
            Ok((unsent + suspects).min(most).unsigned_abs())
        })
    }

    /// Returns the numbers of all undelivered events of a destination, of one run or in total.
    pub fn backlog(&self, destination: &str, run_id: Option<&str>) -> Result<Backlog, StoreError> {
        self.read("counting what is not delivered", |db| {
            let run = if run_id.is_some() { "e.run = (SELECT n FROM runs WHERE run_id = ?2)" } else { "?2 IS NULL" };
            let count = |sql: &str| {
                let count = db.prepare_cached(sql)?.query_row(params![destination, run_id], |row| row.get::<_, i64>(0));
                count.map(i64::unsigned_abs)
            };
            let events = |beyond: &str| count(&format!("SELECT count(*) FROM events e WHERE {run} AND {beyond}"));
            let settled =
                |how: &str| events(&format!("e.n IN (SELECT event FROM settled WHERE destination = ?1 AND how = '{how}')"));
            Ok(Backlog {
                pending: events(&unsent("?1"))? + settled("suspect")?,
                refused: settled("refused")?,
                // Uses the batches, which are few, rather than all events.
                uncertain: count(&format!(
                    "SELECT count(*) FROM batches b CROSS JOIN events e ON e.n BETWEEN b.first AND b.last
                     WHERE b.destination = ?1 AND b.state = 'uncertain' AND {run} AND {UNSETTLED}"
                ))?,
            })
        })
    }
}
