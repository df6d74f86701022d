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

/// Runs and log directories that one call removes at most: a run does not wait for a year's worth of cleaning.
const AT_ONCE: usize = 50;

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
        let mut pruned = Pruned::default();
        let old = self.read("looking for old runs", |db| {
            let mut statement = db.prepare_cached(
                "SELECT run_id FROM runs WHERE started_at < ?1 AND ended_at < ?1 AND state <> 'running' ORDER BY started_at LIMIT ?2",
            )?;
            let rows = statement.query_map(params![before(retention.runs), AT_ONCE.cast_signed() as i64], |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        if !old.is_empty() {
            // Logs first: killed between the two, the run is still known and the next call finds it again.
            for run_id in &old {
                remove_dir(&state.run_logs(run_id))?;
            }
            pruned.runs = self.write("removing old runs", |tx| {
                let mut statement = tx.prepare("DELETE FROM runs WHERE run_id = ?1")?;
                old.iter().try_fold(0, |n, run_id| Ok(n + statement.execute([run_id])?))
            })?;
        }
        pruned.logs = prune_logs(state, before(retention.logs))?;
        Ok(pruned)
    }
}

/// Removes log directories of runs that began before `limit`. A run's id is a UUIDv7 and holds that time, so that the names
/// of a readdir are all that is looked at for those that stay.
fn prune_logs(state: &StateDir, limit: i64) -> Result<usize, StoreError> {
    let logs = state.root().join("logs");
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { path, source }
    };
    let mut old = Vec::new();
    for entry in std::fs::read_dir(&logs).map_err(io(&logs))? {
        let entry = entry.map_err(io(&logs))?;
        let name = entry.file_name();
        let Some(began) = name.to_str().and_then(began_at) else { continue };
        if began >= limit {
            continue;
        }
        // A run that began long ago may still be open, or have ended just now.
        let ended = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let ended = ended.map_or(i64::MAX, |t| i64::try_from(t.as_micros()).unwrap_or(i64::MAX));
        if ended < limit && !name.to_str().is_some_and(|run_id| state.run_spool(run_id).exists()) {
            old.push(entry.path());
        }
        if old.len() == AT_ONCE {
            break;
        }
    }
    for dir in &old {
        remove_dir(dir)?;
    }
    Ok(old.len())
}

/// Microseconds since 1970 in a UUIDv7.
fn began_at(run_id: &str) -> Option<i64> {
    let (seconds, nanos) = uuid::Uuid::parse_str(run_id).ok()?.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos) / 1000)
}

fn remove_dir(dir: &std::path::Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io { path: dir.to_owned(), source }),
        _ => Ok(()),
    }
}
