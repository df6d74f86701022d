//! Counts what retention would remove, without removing it.

use super::{DeliveryState, NewestEnds, OLD_LOGS, OLD_RUNS, Old, Position, RUNS, START};
use crate::host::state::StateDir;
use crate::store::group::OldGroups;
use crate::store::retention::{FORGOTTEN, Retention};
use crate::store::{Store, StoreError};
use std::collections::BTreeSet;
use std::time::Duration;

/// Counts of runs and logs that are old enough to be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prunable {
    /// Runs, with all their events.
    pub runs: u64,
    /// Log directories that are removed, including those of removed runs.
    pub logs: u64,
    /// Runs that are old enough but are kept because a destination has not received all of their events.
    pub undelivered: u64,
    /// Groups, with the states of their members.
    pub groups: OldGroups,
    /// Runs that [`Store::prune`] examines to find these, each of its calls at most fifty for each kind of data.
    pub examined: u64,
}

impl Store {
    /// Counts what repeated calls of [`Store::prune`] would remove. Examines every run that is old enough.
    pub fn prunable(&self, state: &StateDir, retention: &Retention, now: i64) -> Result<Prunable, StoreError> {
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let waiting = self.waiting(&retention.destinations, before(FORGOTTEN))?;
        let newest = self.newest_run()?;
        let (mut found, mut ends) = (Prunable::default(), NewestEnds::default());
        let mut with_logs = BTreeSet::new();
        let has_logs = |old: &Old| state.run_logs(&old.run_id).is_dir();
        self.each_old(OLD_RUNS, before(retention.runs), |store, old| {
            found.examined += 1;
            if newest == Some(old.n) || ends.contain(store, old.n)? {
                return Ok(());
            }
            match store.delivery_of(old.n, &waiting)? {
                DeliveryState::Settled => {
                    found.runs += 1;
                    if has_logs(old) {
                        with_logs.insert(old.n);
                    }
                }
                DeliveryState::Open | DeliveryState::Pending => found.undelivered += 1,
            }
            Ok(())
        })?;
        self.each_old(OLD_LOGS, before(retention.logs), |_, old| {
            found.examined += 1;
            if has_logs(old) {
                with_logs.insert(old.n);
            }
            Ok(())
        })?;
        found.logs = with_logs.len() as u64;
        found.groups = self.old_groups(before(retention.runs))?;
        Ok(found)
    }

    fn each_old(
        &self,
        sql: &str,
        before: i64,
        mut each: impl FnMut(&Self, &Old) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut from = START;
        loop {
            let old = self.old(sql, from, before)?;
            // The last entry of the previous call is returned again.
            for run in old.iter().filter(|run| (run.ended_at, run.n) != (from.ended_at, from.run)) {
                each(self, run)?;
            }
            match old.last().filter(|_| old.len() == RUNS) {
                Some(last) => from = Position::after(last),
                None => return Ok(()),
            }
        }
    }
}
