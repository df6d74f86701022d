//! Counts what retention would remove, without removing it.

use super::{DeliveryState, OLD_LOGS, OLD_RUNS, Position, RUNS, START};
use crate::store::retention::{FORGOTTEN, Retention};
use crate::store::{Store, StoreError};
use std::time::Duration;

/// Counts of runs and logs that are old enough to be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prunable {
    /// Runs, with all their events.
    pub runs: u64,
    /// Runs whose logs are removed, including runs that are removed completely.
    pub logs: u64,
    /// Runs that are old enough but are kept because a destination has not received all of their events.
    pub undelivered: u64,
}

impl Store {
    /// Counts what repeated calls of [`Store::prune`] would remove. Examines every run that is old enough.
    pub fn prunable(&self, retention: &Retention, now: i64) -> Result<Prunable, StoreError> {
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let waiting = self.waiting(&retention.destinations, before(FORGOTTEN))?;
        let newest = self.newest_run()?;
        let mut found = Prunable::default();
        self.each_old(OLD_RUNS, before(retention.runs), |store, n| {
            match store.delivery_of(n, &waiting)? {
                DeliveryState::Settled if newest == Some(n) => {}
                DeliveryState::Settled => found.runs += 1,
                DeliveryState::Open | DeliveryState::Pending => found.undelivered += 1,
            }
            Ok(())
        })?;
        self.each_old(OLD_LOGS, before(retention.logs), |_, _| {
            found.logs += 1;
            Ok(())
        })?;
        Ok(found)
    }

    fn each_old(
        &self,
        sql: &str,
        before: i64,
        mut each: impl FnMut(&Self, i64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut from = START;
        loop {
            let old = self.old(sql, from, before)?;
            // The last entry of the previous call is returned again.
            for run in old.iter().filter(|run| (run.ended_at, run.n) != (from.ended_at, from.run)) {
                each(self, run.n)?;
            }
            match old.last().filter(|_| old.len() == RUNS) {
                Some(last) => from = Position::after(last),
                None => return Ok(()),
            }
        }
    }
}
