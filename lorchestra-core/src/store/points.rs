//! Runs as points in time: only the values that a report needs. Reads the index of [`super::history`], so that its cost
//! grows with the number of runs in the reported days.

use super::history::{RunKey, RunQuery};
use super::{RunState, Store, StoreError};
use rusqlite::params;

/// A run as a point in time. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPoint {
    /// Its id.
    pub run_id: String,
    /// When it started.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Highest peak memory of its attempts, if measured.
    pub max_rss_kib: Option<u64>,
}

impl Store {
    /// Reads the runs of a key within the times of a query, oldest first.
    pub fn points(&self, key: &RunKey, query: &RunQuery, mut each: impl FnMut(RunPoint)) -> Result<(), StoreError> {
        let RunKey { package, job, account, state, cause } = key;
        let (since, until) = (query.since.unwrap_or(i64::MIN), query.until.unwrap_or(i64::MAX));
        // Active runs have no end time.
        let ended = key.state != RunState::Running;
        self.read("reading runs", |db| {
            let mut statement = db.prepare_cached(
                "SELECT run_id, started_at, ended_at, max_rss_kib FROM runs
                 WHERE package = ?1 AND job = ?2 AND account_key = ?3 AND state = ?4 AND cause_key = ?5
                    AND started_at >= ?6 AND started_at < ?7 ORDER BY started_at",
            )?;
            let mut rows = statement.query(params![package, job, account, state.as_str(), cause, since, until])?;
            while let Some(row) = rows.next()? {
                each(RunPoint {
                    run_id: row.get(0)?,
                    started_at: row.get(1)?,
                    ended_at: if ended { row.get(2)? } else { None },
                    max_rss_kib: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
                });
            }
            Ok(())
        })
    }
}
