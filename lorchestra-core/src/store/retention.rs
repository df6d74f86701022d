//! What the store forgets, and when. Called at the end of a run, after its outcome is known to whoever waits for it.

use super::{Store, StoreError};
use crate::state::StateDir;
use rusqlite::params;
use std::time::Duration;

/// How long things are kept after the run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// What jobs printed and traced.
    pub logs: Duration,
    /// Runs with their events.
    pub runs: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { logs: 30 * DAY, runs: 365 * DAY }
    }
}

/// Runs, and log directories, that one call removes at most: a run does not wait for a year's worth of cleaning.
const AT_ONCE: i64 = 50;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Runs, with all their events.
    pub runs: usize,
    /// Log directories.
    pub logs: usize,
}

impl Store {
    /// Removes some of what is older than `retention` allows, measured at `now` (microseconds since 1970). What is left over
    /// is removed by the next calls. Running runs are never touched. Also moves the log of a flood of events into the database.
    pub fn prune(&mut self, state: &StateDir, retention: &Retention, now: i64) -> Result<Pruned, StoreError> {
        self.end_flood()?;
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let runs = self.ended_before(
            "SELECT run_id FROM runs WHERE started_at < ?1 AND ended_at < ?1 ORDER BY started_at LIMIT ?2",
            before(retention.runs),
        )?;
        self.remove(state, &runs, "DELETE FROM runs WHERE run_id = ?1")?;
        let logs = self.ended_before(
            "SELECT run_id FROM runs WHERE logs AND ended_at < ?1 ORDER BY ended_at LIMIT ?2",
            before(retention.logs),
        )?;
        self.remove(state, &logs, "UPDATE runs SET logs = 0 WHERE run_id = ?1")?;
        Ok(Pruned { runs: runs.len(), logs: logs.len() })
    }

    fn ended_before(&self, sql: &str, limit: i64) -> Result<Vec<String>, StoreError> {
        self.read("looking for old runs", |db| {
            let mut statement = db.prepare(sql)?;
            let rows = statement.query_map(params![limit, AT_ONCE], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Removes the logs of runs, then changes their rows. In this order: killed between the two, the next call finds them again.
    fn remove(&mut self, state: &StateDir, runs: &[String], sql: &str) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        for run_id in runs {
            remove_dir(&state.run_logs(run_id))?;
        }
        self.write("removing old runs", |tx| {
            let mut statement = tx.prepare(sql)?;
            runs.iter().try_for_each(|run_id| statement.execute([run_id]).map(drop))
        })
    }
}

fn remove_dir(dir: &std::path::Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io { path: dir.to_owned(), source }),
        _ => Ok(()),
    }
}
