//! Health of each job and account: last success, failures since then and usual duration. Read-only. Retention keeps the runs that it reads
//! (`Store::newest_of`).
//!
//! "Since then" is the order in which runs were recorded, not the time at which they started: a clock that was ahead for an hour must not
//! hide the failures of that hour. The index `runs_by_order` has the keys of [`super::history`] in that order, so the cost grows with the
//! number of jobs and accounts, not with the number of runs.

use super::history::{RunKey, RunQuery, RunTimes};
use super::{Run, RunState, Store, StoreError};
use crate::host::clock::now_micros;
use crate::outcome::Cause;
use rusqlite::{OptionalExtension, params};
use std::collections::BTreeSet;
use std::time::Duration;

/// Number of completed runs from which the usual duration is calculated.
const USUAL: u64 = 15;
/// How far a success may be ahead of the clock, in microseconds: clocks are corrected by some seconds every day.
const AHEAD: i64 = 600_000_000;
/// Maximum number of consecutive failures that are counted.
pub const MAX_FAILURES: u64 = 1000;

/// A job for one account.
#[derive(Debug, Clone, PartialEq)]
pub struct JobHealth {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// The account; `None`: runs without one.
    pub account: Option<String>,
    /// The newest run that completed.
    pub last_success: Option<Run>,
    /// The newest run that has ended, with any outcome.
    pub last: Option<Run>,
    /// The oldest run that is running: the one that hangs, if one does.
    pub running: Option<Run>,
    /// The newest run that failed or was refused since the last success. Runs refused because another one was running do not count.
    pub failure: Option<Run>,
    /// Number of these failures, counted up to [`MAX_FAILURES`].
    pub failures: u64,
    /// Median duration of the last completed runs.
    pub usual: Option<Duration>,
}

impl JobHealth {
    /// Creates the entry of a job that has never run.
    pub fn never_run(package: &str, job: &str) -> Self {
        Self {
            package: package.to_owned(),
            job: job.to_owned(),
            account: None,
            last_success: None,
            last: None,
            running: None,
            failure: None,
            failures: 0,
            usual: None,
        }
    }
}

/// The newest runs of a job for one account, by which its health is judged.
#[derive(Debug)]
struct NewestRuns {
    /// The last completed runs.
    completed: Vec<RunTimes>,
    success: Option<RunTimes>,
    last: Option<RunTimes>,
    failure: Option<RunTimes>,
    failures: u64,
}

impl Store {
    /// Returns the health of each job that matches a query, ordered by package, job and account.
    pub fn health(&self, query: &RunQuery) -> Result<Vec<JobHealth>, StoreError> {
        let forgotten = self.forgotten_run()?;
        let keys = self.keys(query)?;
        let same_job = |a: &RunKey, b: &RunKey| (&a.package, &a.job, &a.account) == (&b.package, &b.job, &b.account);
        keys.chunk_by(same_job).filter_map(|keys| self.health_of(keys, forgotten).transpose()).collect()
    }

    /// Returns the numbers of the runs by which the health of a job for an account is judged: the newest success, the newest failure after
    /// it, and the newest end.
    pub(super) fn newest_of(&self, [package, job, account]: &[String; 3]) -> Result<BTreeSet<i64>, StoreError> {
        let [package, job, account] = [package, job, account].map(|text| Some(text.clone()));
        let keys = self.keys(&RunQuery { package, job, account, ..RunQuery::default() })?;
        let NewestRuns { success, last, failure, .. } = self.newest_runs(&keys)?;
        Ok([success, last, failure].into_iter().flatten().map(|run| run.n).collect())
    }

    /// Checks the whole database for damage and returns at most a few lines that describe it.
    pub fn quick_check(&self) -> Result<Vec<String>, StoreError> {
        self.read("checking the store", |db| {
            let mut statement = db.prepare("PRAGMA quick_check(3)")?;
            let lines = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
            Ok(lines.into_iter().filter(|line| line != "ok").collect())
        })
    }

    fn newest_runs(&self, keys: &[RunKey]) -> Result<NewestRuns, StoreError> {
        let newest = |keys: &mut dyn Iterator<Item = &RunKey>, until: i64| -> Result<Option<RunTimes>, StoreError> {
            let mut newest = None;
            for key in keys {
                newest = later(newest, self.last_recorded(key, until, 1)?.pop());
            }
            Ok(newest)
        };
        // A window that a run on another host has claimed is complete.
        let succeeded = || keys.iter().filter(|key| matches!(key.state, RunState::Completed | RunState::Claimed));
        // The age of a success tells whether it is too old: one of the time when the clock was far ahead does not.
        let until_now = now_micros().saturating_add(AHEAD);
        let any_success = newest(&mut succeeded(), i64::MAX)?;
        let is_of_now = any_success.is_none_or(|run| run.started_at < until_now);
        let success = if is_of_now { any_success } else { newest(&mut succeeded(), until_now)? };
        let last = newest(&mut keys.iter().filter(|key| key.state != RunState::Running), i64::MAX)?;
        let completed = keys.iter().find(|key| key.state == RunState::Completed);
        let completed = completed.map_or(Ok(Vec::new()), |key| self.last_recorded(key, until_now, USUAL))?;
        // Failures before the newest success, whenever that was, are over.
        let after = any_success.map_or(0, |run| run.n);
        let failed = || {
            keys.iter().filter(|key| {
                key.state == RunState::Failed || key.state == RunState::Refused && key.cause != Cause::Overlap.as_str()
            })
        };
        let failure = newest(&mut failed(), i64::MAX)?.filter(|run| run.n > after);
        let mut failures = 0;
        for key in failed() {
            failures += self.count_after(key, after)?;
        }
        Ok(NewestRuns { completed, success, last, failure, failures: failures.min(MAX_FAILURES) })
    }

    /// Returns the times of the runs of a key that were recorded last and started before a time, the last one first. Reads only the index.
    fn last_recorded(&self, key: &RunKey, until: i64, limit: u64) -> Result<Vec<RunTimes>, StoreError> {
        let RunKey { package, job, account, state, cause } = key;
        self.read("reading runs", |db| {
            let mut statement = db.prepare_cached(
                "SELECT started_at, n, ended_at FROM runs
                 WHERE package = ?1 AND job = ?2 AND account_key = ?3 AND state = ?4 AND cause_key = ?5 AND +started_at < ?6
                 ORDER BY n DESC LIMIT ?7",
            )?;
            let values = params![package, job, account, state.as_str(), cause, until, i64::try_from(limit).unwrap_or(i64::MAX)];
            statement
                .query_map(values, |row| Ok(RunTimes { started_at: row.get(0)?, n: row.get(1)?, ended_at: row.get(2)? }))?
                .collect()
        })
    }

    /// Returns `None` if the only run is a forgotten one.
    fn health_of(&self, keys: &[RunKey], forgotten: Option<i64>) -> Result<Option<JobHealth>, StoreError> {
        let NewestRuns { completed, success, last, failure, failures } = self.newest_runs(keys)?;
        let running = keys.iter().find(|key| key.state == RunState::Running).map_or(Ok(None), |key| self.oldest(key))?;
        if running.is_none() && forgotten.is_some() && last.map(|run| run.n) == forgotten {
            return Ok(None);
        }
        let run = |found: Option<RunTimes>| found.map_or(Ok(None), |run| Ok(self.select("WHERE n = ?1", [run.n])?.pop()));
        let last_success = run(success)?;
        let key = keys.first();
        let text = |of: fn(&RunKey) -> &String| key.map(of).cloned().unwrap_or_default();
        Ok(Some(JobHealth {
            package: text(|key| &key.package),
            job: text(|key| &key.job),
            account: Some(text(|key| &key.account)).filter(|account| !account.is_empty()),
            last: if last == success { last_success.clone() } else { run(last)? },
            last_success,
            running: run(running)?,
            failure: run(failure)?,
            failures,
            usual: median(&completed),
        }))
    }

    /// Returns the times of the oldest run of a key.
    fn oldest(&self, key: &RunKey) -> Result<Option<RunTimes>, StoreError> {
        let RunKey { package, job, account, state, cause } = key;
        self.read("reading runs", |db| {
            let mut statement = db.prepare_cached(
                "SELECT started_at, n, ended_at FROM runs
                 WHERE package = ?1 AND job = ?2 AND account_key = ?3 AND state = ?4 AND cause_key = ?5
                 ORDER BY started_at, n LIMIT 1",
            )?;
            let times = |row: &rusqlite::Row<'_>| Ok(RunTimes { started_at: row.get(0)?, n: row.get(1)?, ended_at: row.get(2)? });
            statement.query_row(params![package, job, account, state.as_str(), cause], times).optional()
        })
    }

    /// Counts the runs of a key that were recorded after another one, up to [`MAX_FAILURES`].
    fn count_after(&self, key: &RunKey, n: i64) -> Result<u64, StoreError> {
        let RunKey { package, job, account, state, cause } = key;
        self.read("counting failures", |db| {
            let mut statement = db.prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM runs
                 WHERE package = ?1 AND job = ?2 AND account_key = ?3 AND state = ?4 AND cause_key = ?5 AND n > ?6 LIMIT ?7)",
            )?;
            let limit = i64::try_from(MAX_FAILURES).unwrap_or(i64::MAX);
            let values = params![package, job, account, state.as_str(), cause, n, limit];
            statement.query_row(values, |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))
        })
    }
}

/// Returns the run that was recorded later.
fn later(a: Option<RunTimes>, b: Option<RunTimes>) -> Option<RunTimes> {
    a.into_iter().chain(b).max_by_key(|run| run.n)
}

/// Returns the median duration of runs.
fn median(runs: &[RunTimes]) -> Option<Duration> {
    let mut took: Vec<i64> = runs.iter().filter_map(|run| Some(run.ended_at? - run.started_at)).collect();
    took.sort_unstable();
    took.get(took.len() / 2).map(|micros| Duration::from_micros(u64::try_from(*micros).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::super::NewRun;
    use super::super::tests::{end_with, new_run, site, started};
    use super::*;

    /// With `on_overlap = "allow"`, a run that hangs is not the newest one.
    #[test]
    fn of_several_running_runs_the_oldest_is_shown() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        for (run_id, started_at) in [("second", 20), ("first", 10), ("third", 30)] {
            store.begin_run(&NewRun { started_at, ..new_run(run_id) }, &started()).unwrap();
        }
        let health = store.health(&RunQuery::default()).unwrap();
        assert_eq!(health[0].running.as_ref().map(|run| run.run_id.as_str()), Some("first"));
    }

    /// The clock was ahead when the run succeeded.
    #[test]
    fn a_success_of_the_future_does_not_hide_a_failure() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let day = 86_400_000_000;
        let now = now_micros();
        for (run_id, started_at, cause) in
            [("before", now - day, None), ("ahead", now + day, None), ("now", now - 9, Some(Cause::Error))]
        {
            store.begin_run(&NewRun { started_at, ..new_run(run_id) }, &started()).unwrap();
            store.end_run(run_id, &end_with(cause)).unwrap();
        }
        let health = store.health(&RunQuery::default()).unwrap().remove(0);
        assert_eq!(health.last_success.unwrap().run_id, "before");
        assert_eq!((health.failure.unwrap().run_id.as_str(), health.failures), ("now", 1));
    }

    /// The clock was ahead at first, and the time until which it was has passed.
    #[test]
    fn what_was_recorded_later_is_later_whatever_the_clock_said() {
        for (causes, failing) in [([None, Some(Cause::Error)], true), ([Some(Cause::Error), None], false)] {
            let site = site();
            let mut store = Store::open(&site.state).unwrap();
            for (run_id, started_at, cause) in [("first", 20, causes[0]), ("second", 10, causes[1])] {
                store.begin_run(&NewRun { started_at, ..new_run(run_id) }, &started()).unwrap();
                store.end_run(run_id, &end_with(cause)).unwrap();
            }
            let health = store.health(&RunQuery::default()).unwrap().remove(0);
            assert_eq!((health.failures, health.last.unwrap().run_id.as_str()), (u64::from(failing), "second"));
            assert_eq!(health.failure.map(|run| run.run_id), failing.then(|| "second".to_owned()));
        }
    }
}
