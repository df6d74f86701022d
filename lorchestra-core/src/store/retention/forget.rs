//! Forgets a job or an account that no longer exists: removes all of its runs that have ended and whose events are delivered.
//!
//! The run that has the newest event of the store cannot be removed: the number of that event must not be reused, or the next event would
//! count as delivered. It is marked instead (`retention`, under [`FORGOTTEN_RUN`]): [`Store::health`] ignores it, and [`Store::prune`] removes
//! it once there is a newer event.

use super::{DeliveryState, FORGOTTEN, Old, Retention};
use crate::host::state::StateDir;
use crate::store::history::RunQuery;
use crate::store::{RunState, Store, StoreError};
use rusqlite::{OptionalExtension, params};

/// The row of `retention` that has the run to remove as soon as possible.
const FORGOTTEN_RUN: &str = "forgotten";

/// What was forgotten, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Runs, with all their events.
    pub runs: u64,
    /// Log directories of these runs.
    pub logs: u64,
    /// Runs that have ended but are kept because a destination has not received all of their events.
    pub undelivered: u64,
    /// Runs that are running.
    pub running: u64,
    /// Whether one of `runs` remains in the store until there is a newer event.
    pub is_last_marked: bool,
}

impl Store {
    /// Removes every run that a query for a job, or for a job and an account, admits, has ended and is delivered. `dry_run`: only counts
    /// them. Returns `None` if there is no run at all.
    pub fn forget(
        &mut self,
        state: &StateDir,
        query: &RunQuery,
        (retention, now): (&Retention, i64),
        dry_run: bool,
    ) -> Result<Option<Forgotten>, StoreError> {
        let keys = self.keys(query)?;
        if keys.is_empty() {
            return Ok(None);
        }
        let seen_after = now.saturating_sub(i64::try_from(FORGOTTEN.as_micros()).unwrap_or(i64::MAX));
        let waiting = self.waiting(&retention.destinations, seen_after)?;
        if !dry_run {
            self.remove_forgotten(state, &waiting)?;
        }
        let mut found = Forgotten::default();
        for key in keys {
            let runs = self.newest(&key, &RunQuery::default(), u64::MAX)?;
            if key.state == RunState::Running {
                found.running += runs.len() as u64;
                continue;
            }
            for run in runs {
                let Some(old) = self.old_run(run.n)? else { continue };
                if !matches!(self.delivery_of(old.n, &waiting)?, DeliveryState::Settled) {
                    found.undelivered += 1;
                    continue;
                }
                found.runs += 1;
                found.logs += u64::from(state.run_logs(&old.run_id).is_dir());
                if dry_run {
                    continue;
                }
                self.remove_files(state, &old)?;
                if self.newest_run()? == Some(old.n) {
                    self.mark_forgotten(&old)?;
                    found.is_last_marked = true;
                } else {
                    self.remove_rows(old.n, &mut { usize::MAX })?;
                }
            }
        }
        Ok(Some(found))
    }

    /// Returns the number of the run that was forgotten and is still in the store.
    pub(in crate::store) fn forgotten_run(&self) -> Result<Option<i64>, StoreError> {
        self.read("looking for old runs", |db| {
            let mut statement = db.prepare_cached("SELECT run FROM retention WHERE what = ?1")?;
            statement.query_row([FORGOTTEN_RUN], |row| row.get(0)).optional()
        })
    }

    /// Removes the run that was forgotten, if there is a newer event by now.
    pub(super) fn remove_forgotten(&mut self, state: &StateDir, waiting: &[String]) -> Result<(), StoreError> {
        let Some(run) = self.forgotten_run()? else { return Ok(()) };
        if self.newest_run()? == Some(run) {
            return Ok(());
        }
        if let Some(old) = self.old_run(run)? {
            if !matches!(self.delivery_of(run, waiting)?, DeliveryState::Settled) {
                return Ok(());
            }
            self.remove_files(state, &old)?;
            self.remove_rows(run, &mut { usize::MAX })?;
        }
        self.write("recording what was removed", |tx| {
            tx.prepare_cached("DELETE FROM retention WHERE what = ?1 AND run = ?2")?.execute(params![FORGOTTEN_RUN, run])
        })?;
        Ok(())
    }

    fn mark_forgotten(&mut self, old: &Old) -> Result<(), StoreError> {
        self.write("recording what was removed", |tx| {
            tx.prepare_cached("INSERT OR REPLACE INTO retention (what, ended_at, run, event) VALUES (?1, ?2, ?3, 0)")?
                .execute(params![FORGOTTEN_RUN, old.ended_at, old.n])
        })?;
        Ok(())
    }

    fn old_run(&self, run: i64) -> Result<Option<Old>, StoreError> {
        self.read("looking for old runs", |db| {
            let mut statement =
                db.prepare_cached("SELECT n, run_id, ended_at FROM runs WHERE n = ?1 AND ended_at IS NOT NULL")?;
            let old = |row: &rusqlite::Row<'_>| Ok(Old { n: row.get(0)?, run_id: row.get(1)?, ended_at: row.get(2)? });
            statement.query_row([run], old).optional()
        })
    }
}
