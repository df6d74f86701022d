//! What is not delivered to a destination, for people: conditions on events, and their number. Reads only; of a destination that the store
//! does not know, everything is pending.

use super::super::{Store, StoreError};
use rusqlite::params;

/// What is not delivered to one destination, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// To be sent.
    pub pending: u64,
    /// Set aside: the destination refused them.
    pub refused: u64,
    /// Sent, and it cannot be found out whether they arrived.
    pub uncertain: u64,
}

/// An event `e` is not settled by itself, at the destination `?1`.
pub(super) const UNSETTLED: &str = "NOT EXISTS (SELECT 1 FROM settled WHERE destination = ?1 AND event = e.n)";

/// The number of the last event that is delivered to a destination, a parameter of the statement such as `?1`.
pub(in super::super) fn delivered_to(destination: &str) -> String {
    format!("coalesce((SELECT delivered_to FROM outbox WHERE destination = {destination}), 0)")
}

/// Condition on an event `e`, as all that follow: it is not settled by itself.
pub(in super::super) fn unsettled(destination: &str) -> String {
    format!("NOT EXISTS (SELECT 1 FROM settled WHERE destination = {destination} AND event = e.n)")
}

/// It was not sent yet.
pub(super) fn unsent(destination: &str) -> String {
    format!("e.n > {} AND {}", delivered_to(destination), unsettled(destination))
}

fn settled_as(destination: &str, how: &str) -> String {
    format!("EXISTS (SELECT 1 FROM settled WHERE destination = {destination} AND event = e.n AND how = '{how}')")
}

/// It is to be sent; of events of which few are looked at, as in what follows.
pub(in super::super) fn pending(destination: &str) -> String {
    format!("({} OR {})", unsent(destination), settled_as(destination, "suspect"))
}

/// The destination refused it.
pub(in super::super) fn refused(destination: &str) -> String {
    settled_as(destination, "refused")
}

/// Whether it arrived is not known.
pub(in super::super) fn uncertain(destination: &str) -> String {
    format!("{} IS NOT NULL AND {}", why_uncertain(destination), unsettled(destination))
}

/// Why that is not known.
pub(in super::super) fn why_uncertain(destination: &str) -> String {
    format!(
        "(SELECT reason FROM batches b WHERE b.destination = {destination} AND b.state = 'uncertain'
            AND e.n BETWEEN b.first AND b.last)"
    )
}

/// Pending events that are counted after each run. What a run costs does not grow with what is left to be delivered.
pub const COUNTED: u64 = 10_000;

impl Store {
    /// Names of the destinations that the store knows, in alphabetical order: those that something was or is to be delivered to.
    pub fn destinations(&self) -> Result<Vec<String>, StoreError> {
        self.read("reading the state of delivery", |db| {
            let mut statement = db.prepare_cached("SELECT destination FROM outbox ORDER BY destination")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Pending events of a destination, at most one more than [`COUNTED`]. Events that a destination could not accept by themselves are among them.
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

    /// All that is not delivered to a destination; of one run, or of all.
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
                // By the batches, which are few, and not by all events there are.
                uncertain: count(&format!(
                    "SELECT count(*) FROM batches b CROSS JOIN events e ON e.n BETWEEN b.first AND b.last
                     WHERE b.destination = ?1 AND b.state = 'uncertain' AND {run} AND {UNSETTLED}"
                ))?,
            })
        })
    }
}
