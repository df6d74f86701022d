//! Finds runs as people refer to them: by a name ([`Store::find_run`]), by a filter ([`Store::find_runs`]), by job and account
//! ([`Store::keys`]).
//!
//! Reads only, all with one index: `runs_by_key` groups runs by package, job, account, state and cause, and orders each group by start. A
//! query searches the groups that its filter admits, of which there are few however many runs there are, and reads at most the requested
//! number of runs from each.

use super::{Run, RunFilter, RunState, Store, StoreError};
use crate::outcome::Cause;
use rusqlite::{OptionalExtension, params};

/// Length of a run's id in characters; a longer text is not part of one.
const UUID: usize = 36;
/// Minimum number of characters of a run's id that name it. The index for the end of ids has the same number.
pub const NAMED: usize = 4;
/// Length of a short id in characters: the last ones of a UUIDv7, which are random. The first ones are the time, which runs of one day
/// share.
const SHORT: usize = 8;
/// Maximum number of runs to read that share a beginning or end.
const CANDIDATES: i64 = 6;

/// Returns the short id of a run, the last characters of its id. Every command that expects a run accepts it.
pub fn short_id(run_id: &str) -> &str {
    run_id.len().checked_sub(SHORT).and_then(|from| run_id.get(from..)).unwrap_or(run_id)
}

/// Which runs to read. `None` admits any.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RunQuery {
    /// Runs of this package.
    pub package: Option<String>,
    /// Runs of a job with this name.
    pub job: Option<String>,
    /// Runs for this account; an empty one means no account.
    pub account: Option<String>,
    /// Runs in this state.
    pub state: Option<RunState>,
    /// Runs that failed or were refused for this cause.
    pub cause: Option<Cause>,
    /// Runs of this group.
    pub group: Option<String>,
    /// Runs that started at or after this time, in microseconds since 1970.
    pub since: Option<i64>,
    /// Runs that started before this time, in microseconds since 1970.
    pub until: Option<i64>,
}

/// The key of a group of runs in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunKey {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// The account; empty for none.
    pub account: String,
    /// The state of the runs.
    pub state: RunState,
    /// The cause of the failures; empty if the runs did not fail.
    pub cause: String,
}

/// The times of a run, ordered by start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunTimes {
    pub(super) started_at: i64,
    /// Its number in the store.
    pub(super) n: i64,
    /// `None` if it is running.
    pub(super) ended_at: Option<i64>,
}

impl RunQuery {
    fn admits(&self, key: &RunKey) -> bool {
        self.package.as_ref().is_none_or(|package| *package == key.package)
            && self.job.as_ref().is_none_or(|job| *job == key.job)
            && self.account.as_ref().is_none_or(|account| *account == key.account)
            && self.state.is_none_or(|state| state == key.state)
            && self.cause.is_none_or(|cause| cause.as_str() == key.cause)
    }
}

impl Store {
    /// Returns the run that a person named: `last` is the newest one, `PACKAGE/JOB` the newest one of that job; anything else is an id, or
    /// at least [`NAMED`] characters of its beginning or end. Returns `Err` with the newest candidates if no run or several runs match.
    pub fn find_run(&self, text: &str) -> Result<Result<Run, Vec<Run>>, StoreError> {
        if text == "last" {
            let newest = self.runs(&RunFilter { running: false, limit: Some(1) })?.pop();
            return Ok(newest.ok_or_else(Vec::new));
        }
        if let Some((package, job)) = text.split_once('/') {
            let query = RunQuery { package: Some(package.into()), job: Some(job.into()), ..RunQuery::default() };
            return Ok(self.find_runs(&query, 1)?.pop().ok_or_else(Vec::new));
        }
        if let Some(run) = self.run(text)? {
            return Ok(Ok(run));
        }
        if !(NAMED..UUID).contains(&text.len()) || !text.is_ascii() {
            return Ok(Err(Vec::new()));
        }
        // Two index searches: the few ids with the same last characters, and the ids in order from the text to the last one that begins
        // with it.
        let mut found = self.select(
            "WHERE substr(run_id, -4) = substr(?1, -4) AND substr(run_id, -length(?1)) = ?1 ORDER BY n DESC LIMIT ?2",
            params![text, CANDIDATES],
        )?;
        // Commands print short ids: an id that begins with the same characters must not make one ambiguous.
        if text.len() < SHORT || found.len() != 1 {
            found.extend(self.select(
                "WHERE run_id BETWEEN ?1 AND ?1 || char(127) ORDER BY run_id DESC LIMIT ?2",
                params![text, CANDIDATES],
            )?);
            found.sort_by(|a, b| b.run_id.cmp(&a.run_id));
            found.dedup_by(|a, b| a.run_id == b.run_id);
        }
        Ok(if found.len() == 1 { Ok(found.remove(0)) } else { Err(found) })
    }

    /// Returns the newest runs that a query admits, by start time.
    pub fn find_runs(&self, query: &RunQuery, limit: u64) -> Result<Vec<Run>, StoreError> {
        if let Some(group) = &query.group {
            return self.runs_of_group(group, query, limit);
        }
        let mut newest = Vec::new();
        for key in self.keys(query)? {
            newest.extend(self.newest(&key, query, limit)?);
        }
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut runs = Vec::with_capacity(newest.len());
        for times in newest {
            runs.extend(self.select("WHERE n = ?1", [times.n])?);
        }
        Ok(runs)
    }

    fn runs_of_group(&self, group: &str, query: &RunQuery, limit: u64) -> Result<Vec<Run>, StoreError> {
        let RunQuery { package, job, account, state, cause, since, until, .. } = query;
        self.select(
            "WHERE group_name = ?1 AND started_at >= ?2 AND started_at < ?3
                AND (?4 IS NULL OR package = ?4) AND (?5 IS NULL OR job = ?5) AND (?6 IS NULL OR account_key = ?6)
                AND (?7 IS NULL OR state = ?7) AND (?8 IS NULL OR cause_key = ?8)
             ORDER BY started_at DESC, n DESC LIMIT ?9",
            params![
                group,
                since.unwrap_or(i64::MIN),
                until.unwrap_or(i64::MAX),
                package,
                job,
                account,
                state.map(RunState::as_str),
                cause.map(Cause::as_str),
                i64::try_from(limit).unwrap_or(i64::MAX),
            ],
        )
    }

    /// Returns every combination of package, job, account, state and cause that a query admits and a run has, in order, with one index
    /// search for each. Ignores the times of the query.
    pub fn keys(&self, query: &RunQuery) -> Result<Vec<RunKey>, StoreError> {
        self.read("reading the jobs that were run", |db| {
            let mut next = db.prepare_cached(
                "SELECT package, job, account_key, state, cause_key FROM runs
                 WHERE (package, job, account_key, state, cause_key, started_at) > (?1, ?2, ?3, ?4, ?5, 9223372036854775807)
                 ORDER BY package, job, account_key, state, cause_key LIMIT 1",
            )?;
            // With a time after all others: without it, the search begins at the key and walks over all of its runs.
            let mut keys = Vec::new();
            // No package, job or state has an empty name, so this sorts before the first of them.
            let mut at = [query.package.clone().unwrap_or_default(), String::new(), String::new(), String::new(), String::new()];
            if query.package.is_some() {
                at[1] = query.job.clone().unwrap_or_default();
                at[2] = query.account.clone().filter(|_| query.job.is_some()).unwrap_or_default();
            }
            let is_other = |wanted: &Option<String>, found: &String| wanted.as_ref().is_some_and(|wanted| wanted != found);
            loop {
                let found = next.query_row(rusqlite::params_from_iter(&at), |row| {
                    Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])
                });
                let Some(found) = found.optional()? else { break };
                at = found;
                // Of what the search began at, there is no more.
                if is_other(&query.package, &at[0])
                    || query.package.is_some() && is_other(&query.job, &at[1])
                    || query.package.is_some() && query.job.is_some() && is_other(&query.account, &at[2])
                {
                    break;
                }
                let [package, job, account, state, cause] = at.clone();
                let key = RunKey { package, job, account, state: RunState::from_name(&state), cause };
                if query.admits(&key) {
                    keys.push(key);
                }
            }
            Ok(keys)
        })
    }

    /// Returns the times of the newest runs of a key within the times of a query, newest first. Reads only the index.
    pub(super) fn newest(&self, key: &RunKey, query: &RunQuery, limit: u64) -> Result<Vec<RunTimes>, StoreError> {
        let RunKey { package, job, account, state, cause } = key;
        let (since, until) = (query.since.unwrap_or(i64::MIN), query.until.unwrap_or(i64::MAX));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("reading runs", |db| {
            let mut statement = db.prepare_cached(
                "SELECT started_at, n, ended_at FROM runs
                 WHERE package = ?1 AND job = ?2 AND account_key = ?3 AND state = ?4 AND cause_key = ?5
                    AND started_at >= ?6 AND started_at < ?7
                 ORDER BY started_at DESC, n DESC LIMIT ?8",
            )?;
            let values = params![package, job, account, state.as_str(), cause, since, until, limit];
            statement
                .query_map(values, |row| Ok(RunTimes { started_at: row.get(0)?, n: row.get(1)?, ended_at: row.get(2)? }))?
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewRun;
    use super::super::tests::{end_with, new_run, site, spec, started};
    use super::*;
    use crate::plan::RunSpec;

    #[test]
    fn a_short_id_is_the_random_end() {
        assert_eq!(short_id("01a22706-a31b-74c2-bfd6-aa30d8da6609"), "d8da6609");
        assert_eq!(short_id("r1"), "r1");
        assert_eq!(short_id("ü1234567"), "ü1234567", "no slice inside a character");
    }

    #[test]
    fn a_short_id_is_not_the_beginning_of_another() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        for id in ["01a22706-a31b-74c2-bfd6-aa30d8da6609", "d8da6609-a31b-74c2-bfd6-aa3012345678"] {
            store.begin_run(&new_run(id), &started()).unwrap();
        }
        assert_eq!(store.find_run("d8da6609").unwrap().unwrap().run_id, "01a22706-a31b-74c2-bfd6-aa30d8da6609");
        assert_eq!(store.find_run("d8da660").unwrap().unwrap().run_id, "d8da6609-a31b-74c2-bfd6-aa3012345678");
        assert_eq!(store.find_run("last").unwrap().unwrap().run_id, "d8da6609-a31b-74c2-bfd6-aa3012345678");
    }

    /// Compares every filter with a scan of all runs: three packages, two jobs, three accounts, several ends, times out of order.
    #[test]
    fn a_query_finds_the_same_runs_as_a_scan() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let mut all = Vec::new();
        for n in 0..120_usize {
            let id = format!("run-{n:04}");
            let account = [None, Some("anna".to_owned()), Some("bert".to_owned())][n % 3].clone();
            let (package, job) = (["a", "b", "c"][n / 3 % 3].to_owned(), ["x", "y"][n / 9 % 2].to_owned());
            let at = (n as i64 * 37) % 100;
            store
                .begin_run(
                    &NewRun { started_at: at, spec: RunSpec { package, job, account, ..spec() }, ..new_run(&id) },
                    &started(),
                )
                .unwrap();
            let cause = [None, Some(Cause::Error), Some(Cause::Panic), None, None][n % 5];
            if n % 7 != 0 {
                store.end_run(&id, &end_with(cause)).unwrap();
            }
            all.push(store.run(&id).unwrap().unwrap());
        }
        all.sort_by_key(|run| (run.started_at, run.run_id.clone()));
        all.reverse();
        let some = |values: &[&str]| -> Vec<Option<String>> {
            std::iter::once(None).chain(values.iter().map(|value| Some((*value).to_owned()))).collect()
        };
        let mut tried = 0;
        for package in some(&["b", "none"]) {
            for job in some(&["y"]) {
                for account in some(&["", "anna"]) {
                    for state in [None, Some(RunState::Completed), Some(RunState::Failed), Some(RunState::Running)] {
                        for cause in [None, Some(Cause::Panic)] {
                            for (since, until) in [(None, None), (Some(20), Some(70))] {
                                let (package, job, account) = (package.clone(), job.clone(), account.clone());
                                let query = RunQuery { package, job, account, state, cause, since, until, group: None };
                                let expected: Vec<&str> = all
                                    .iter()
                                    .filter(|run| {
                                        let key = RunKey {
                                            package: run.package.clone(),
                                            job: run.job.clone(),
                                            account: run.account.clone().unwrap_or_default(),
                                            state: run.state,
                                            cause: run.cause.map(|cause| cause.as_str().to_owned()).unwrap_or_default(),
                                        };
                                        query.admits(&key)
                                            && since.is_none_or(|since| run.started_at >= since)
                                            && until.is_none_or(|until| run.started_at < until)
                                    })
                                    .map(|run| run.run_id.as_str())
                                    .take(9)
                                    .collect();
                                let found = store.find_runs(&query, 9).unwrap();
                                let found: Vec<&str> = found.iter().map(|run| run.run_id.as_str()).collect();
                                assert_eq!(found, expected, "{query:?}");
                                tried += usize::from(!expected.is_empty());
                            }
                        }
                    }
                }
            }
        }
        assert!(tried > 50, "{tried} queries found anything");
    }
}
