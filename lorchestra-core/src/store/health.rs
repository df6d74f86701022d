//! Health of each job and account: last success, failures since then and usual duration. Read-only. Uses the index of
//! [`super::history`], so that its cost grows with the number of jobs and accounts, not with the number of runs. Retention keeps the runs
//! that it reads (`Store::newest_of`).

use super::history::{RunKey, RunQuery, RunTimes};
use super::{Run, RunState, Store, StoreError};
use crate::host::clock::now_micros;
use crate::outcome::Cause;
use rusqlite::{OptionalExtension, params};
use std::collections::BTreeSet;
use std::time::Duration;

/// Number of completed runs from which the usual duration is calculated.
const USUAL: u64 = 15;
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
        let all = RunQuery::default();
        let of = |state: RunState| keys.iter().filter(move |key| key.state == state);
        let newest = |keys: &mut dyn Iterator<Item = &RunKey>, query: &RunQuery| -> Result<Option<RunTimes>, StoreError> {
            let mut newest = None;
            for key in keys {
                newest = newest.max(self.newest(key, query, 1)?.pop());
            }
            Ok(newest)
        };
        // A success of the time when the clock was ahead would hide all failures until then.
        let until_now = RunQuery { until: Some(now_micros().saturating_add(1)), ..RunQuery::default() };
        let completed = of(RunState::Completed).next().map_or(Ok(Vec::new()), |key| self.newest(key, &until_now, USUAL))?;
        // A window that a run on another host has claimed is complete.
        let success = newest(&mut of(RunState::Claimed), &until_now)?.max(completed.first().copied());
        let last = newest(&mut keys.iter().filter(|key| !matches!(key.state, RunState::Running | RunState::Completed)), &all)?
            .max(success);
        let after = RunQuery { since: success.map(|run| run.started_at.saturating_add(1)), ..RunQuery::default() };
        let failed = || {
            keys.iter().filter(|key| {
                key.state == RunState::Failed || key.state == RunState::Refused && key.cause != Cause::Overlap.as_str()
            })
        };
        let failure = newest(&mut failed(), &after)?;
        let mut failures = 0;
        for key in failed() {
            failures += self.count_since(key, after.since.unwrap_or(i64::MIN))?;
        }
        Ok(NewestRuns { completed, success, last, failure, failures: failures.min(MAX_FAILURES) })
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

    /// Counts the runs of a key that started at or after a time, up to [`MAX_FAILURES`].
    fn count_since(&self, key: &RunKey, since: i64) -> Result<u64, StoreError> {
        let RunKey { package, job, account, state, cause } = key;
        self.read("counting failures", |db| {
            let mut statement = db.prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM runs
                 WHERE package = ?1 AND job = ?2 AND account_key = ?3 AND state = ?4 AND cause_key = ?5 AND started_at >= ?6 LIMIT ?7)",
            )?;
            let limit = i64::try_from(MAX_FAILURES).unwrap_or(i64::MAX);
            let values = params![package, job, account, state.as_str(), cause, since, limit];
            statement.query_row(values, |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))
        })
    }
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
}
