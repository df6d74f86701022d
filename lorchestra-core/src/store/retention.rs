//! What the store forgets, and when. Called at the end of a run, after its outcome is known to whoever waits for it.

use super::{Store, StoreError};
use crate::host::state::StateDir;
use rusqlite::params;
use std::time::Duration;

/// How long things are kept after the run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// What jobs printed and traced.
    pub logs: Duration,
    /// Payloads and subjects of events that were delivered, or refused by the server; the rest of the event stays.
    pub payloads: Duration,
    /// Runs with their events.
    pub runs: Duration,
    /// Keeps runs of which an event is still to be delivered, however old they are.
    pub undelivered: bool,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { logs: 30 * DAY, payloads: 30 * DAY, runs: 365 * DAY, undelivered: false }
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
    /// Runs whose payloads went.
    pub payloads: usize,
}

impl Store {
    /// Removes some of what is older than `retention` allows, measured at `now` (microseconds since 1970). What is left over
    /// is removed by the next calls. Running runs are never touched. Also moves the log of a flood of events into the database.
    pub fn prune(&mut self, state: &StateDir, retention: &Retention, now: i64) -> Result<Pruned, StoreError> {
        self.end_flood()?;
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        // The newest event stays: its number must not be given out again, or the next one would count as delivered.
        let sql = format!(
            "SELECT run_id FROM runs WHERE started_at < ?1 AND ended_at < ?1 {}
             AND n <> (SELECT run FROM events ORDER BY n DESC LIMIT 1) ORDER BY started_at LIMIT ?2",
            if retention.undelivered { SETTLED } else { "" }
        );
        let runs = self.ended_before(&sql, before(retention.runs))?;
        self.remove(state, &runs, "DELETE FROM runs WHERE run_id = ?1")?;
        let logs = self.ended_before(
            "SELECT run_id FROM runs WHERE logs AND ended_at < ?1 ORDER BY ended_at LIMIT ?2",
            before(retention.logs),
        )?;
        self.remove(state, &logs, "UPDATE runs SET logs = 0 WHERE run_id = ?1")?;
        let sql = format!("SELECT run_id FROM runs WHERE payloads AND ended_at < ?1 {SETTLED} ORDER BY ended_at LIMIT ?2");
        let payloads = self.ended_before(&sql, before(retention.payloads))?;
        if !payloads.is_empty() {
            self.write("removing old payloads", |tx| {
                let mut events = tx.prepare(
                    "UPDATE events SET payload = NULL, subject_id = NULL WHERE run = (SELECT n FROM runs WHERE run_id = ?1)",
                )?;
                let mut run = tx.prepare("UPDATE runs SET payloads = 0 WHERE run_id = ?1")?;
                payloads.iter().try_for_each(|id| events.execute([id]).and_then(|_| run.execute([id])).map(drop))
            })?;
        }
        Ok(Pruned { runs: runs.len(), logs: logs.len(), payloads: payloads.len() })
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

/// Runs whose events are all delivered, or refused for good: none is pending or of unknown fate. Where nothing was ever delivered, there is
/// none, and none is looked at.
const SETTLED: &str = "AND (SELECT delivered_to FROM outbox) > 0
    AND NOT EXISTS (SELECT 1 FROM events e WHERE e.run = runs.n AND (e.n > (SELECT delivered_to FROM outbox)
    OR e.n IN (SELECT event FROM settled WHERE how = 'suspect') OR EXISTS (SELECT 1 FROM batches b WHERE e.n BETWEEN b.first AND b.last)))";

fn remove_dir(dir: &std::path::Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io { path: dir.to_owned(), source }),
        _ => Ok(()),
    }
}
