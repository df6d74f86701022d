//! Failed runs that no later run covers: those that `runs rerun --failed` runs again.
//!
//! Reads the index of [`super::history`] and, of jobs that have failed, the spec of each run, newest first. Later runs are kept by
//! [`RunSpec::work`], with the windows of each as [`LaterWindows`], so that a run is compared with few others, however many there are.

use super::history::{RunKey, RunQuery, RunTimes};
use super::{Run, RunState, Store, StoreError};
use crate::outcome::Cause;
use crate::plan::{RunSpec, Window};
use chrono::{DateTime, Utc};
use rusqlite::OptionalExtension;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The runs that failed and that no later run covers.
#[derive(Debug, Default)]
pub struct Uncovered {
    /// Those with a spec, oldest first: of several for the same work, the last. Without cancelled ones.
    pub failed: Vec<Run>,
    /// The newest refused run without a spec of each job and account, unless a later run of that job and account is known; newest first.
    pub without_spec: Vec<Run>,
}

/// The windows of later runs of one work, without those that another one contains: the later one begins, the later it ends.
#[derive(Debug, Default)]
struct LaterWindows {
    /// The end of each by its beginning.
    ends: BTreeMap<Option<DateTime<Utc>>, DateTime<Utc>>,
    /// Whether there is a run without a window.
    has_other: bool,
}

impl LaterWindows {
    fn contain(&self, window: Option<Window>) -> bool {
        // `None` sorts first, and begins before everything. Of the windows that do not begin later, the last one ends last.
        window.map_or(self.has_other, |Window { since, until }| {
            self.ends.range(..=since).next_back().is_some_and(|(_, end)| *end >= until)
        })
    }

    /// Adds a window that none of them contains.
    fn add(&mut self, window: Option<Window>) {
        let Some(Window { since, until }) = window else {
            self.has_other = true;
            return;
        };
        while let Some(inner) = self.ends.range(since..).next().filter(|(_, end)| **end <= until).map(|(since, _)| *since) {
            self.ends.remove(&inner);
        }
        self.ends.insert(since, until);
    }
}

/// Whether runs with this key are run again.
fn is_failed(key: &RunKey) -> bool {
    matches!(key.state, RunState::Failed | RunState::Refused) && key.cause != Cause::Cancelled.as_str()
}

/// Whether runs with this key are among those to return: also refused ones, which may have no spec.
fn is_candidate(key: &RunKey) -> bool {
    key.state == RunState::Refused || is_failed(key)
}

/// Whether runs with this key may cover earlier ones, or are candidates.
fn counts(key: &RunKey) -> bool {
    matches!(key.state, RunState::Completed | RunState::Claimed | RunState::Running) || is_candidate(key)
}

impl Store {
    /// Returns the failed runs among those that a query admits, which has no state and no cause, unless a later one of them covers them.
    pub fn uncovered(&self, query: &RunQuery) -> Result<Uncovered, StoreError> {
        let keys = self.keys(query)?;
        let failing: BTreeSet<(&str, &str)> =
            keys.iter().filter(|key| is_candidate(key)).map(|key| (key.package.as_str(), key.job.as_str())).collect();
        let mut runs: Vec<(RunTimes, &RunKey)> = Vec::new();
        for key in keys.iter().filter(|key| counts(key) && failing.contains(&(key.package.as_str(), key.job.as_str()))) {
            runs.extend(self.newest(key, query, u64::MAX)?.into_iter().map(|times| (times, key)));
        }
        // By the order in which they were recorded, which does not depend on the clock.
        runs.sort_unstable_by_key(|(times, _)| std::cmp::Reverse(times.n));
        // What is older than all failed runs covers none of them.
        runs.truncate(runs.iter().rposition(|(_, key)| is_candidate(key)).map_or(0, |last| last + 1));
        let mut later: HashMap<String, LaterWindows> = HashMap::new();
        let mut known: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
        let (mut failed, mut without_spec) = (Vec::new(), Vec::new());
        for (times, key) in runs {
            let of = (key.package.as_str(), key.job.as_str(), key.account.as_str());
            let Some(spec) = self.spec_of(times.n)? else {
                if known.insert(of) {
                    without_spec.extend(self.select("WHERE n = ?1", [times.n])?);
                }
                continue;
            };
            let windows = later.entry(spec.work()).or_default();
            if windows.contain(spec.window) {
                continue;
            }
            if is_failed(key) {
                failed.push(times.n);
            } else if key.state == RunState::Refused {
                continue;
            }
            windows.add(spec.window);
            known.insert(of);
        }
        let mut uncovered = Uncovered { failed: Vec::with_capacity(failed.len()), without_spec };
        for n in failed.into_iter().rev() {
            uncovered.failed.extend(self.select("WHERE n = ?1", [n])?);
        }
        Ok(uncovered)
    }

    /// Returns the spec of a run by its number. `None` if the run was refused before it had one.
    fn spec_of(&self, n: i64) -> Result<Option<RunSpec>, StoreError> {
        let text: Option<String> = self.read("reading the spec of a run", |db| {
            db.prepare_cached("SELECT spec FROM runs WHERE n = ?1")?.query_row([n], |row| row.get(0)).optional()
        })?;
        Ok(text.and_then(|text| RunSpec::from_json(text.as_bytes()).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::{Refusal, RefusedAt};
    use super::super::tests::{end_with, new_run, site, spec, started};
    use super::super::{NewRun, RunEnd};
    use super::*;
    use serde_json::json;

    /// The definition, which compares each run with all later ones.
    fn expected(store: &Store, query: &RunQuery) -> (Vec<String>, Vec<String>) {
        let (mut later, mut without_spec, mut failed): (Vec<RunSpec>, Vec<Run>, Vec<String>) = Default::default();
        let mut runs = store.find_runs(query, u64::MAX).unwrap();
        runs.sort_by(|a, b| b.run_id.cmp(&a.run_id));
        for run in runs {
            let Ok(spec) = run.spec() else {
                let of = (&run.package, &run.job, &run.account);
                let is_known = later.iter().any(|other| (&other.package, &other.job, &other.account) == of)
                    || without_spec.iter().any(|other| (&other.package, &other.job, &other.account) == of);
                if !is_known {
                    without_spec.push(run);
                }
                continue;
            };
            if later.iter().any(|other| other.covers(&spec)) {
                continue;
            }
            match run.state {
                RunState::Failed | RunState::Refused if run.cause != Some(Cause::Cancelled) => failed.push(run.run_id),
                RunState::Completed | RunState::Claimed | RunState::Running => {}
                _ => continue,
            }
            later.push(spec);
        }
        failed.reverse();
        (failed, without_spec.into_iter().map(|run| run.run_id).collect())
    }

    /// Numbers that look random and are the same in each run of the test.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    fn random_spec(numbers: &mut Numbers) -> RunSpec {
        let day = |n: u64| DateTime::from_timestamp(86_400 * i64::try_from(n).unwrap(), 0).unwrap();
        let account = ["anna", "bert"].get(usize::try_from(numbers.below(3)).unwrap()).map(|name| (*name).to_owned());
        let since = numbers.below(12);
        let window = (numbers.below(6) > 0)
            .then(|| Window { since: (since > 0).then(|| day(since)), until: day(since + 1 + numbers.below(4)) });
        let mut spec = RunSpec { job: ["a", "b"][usize::from(numbers.below(4) == 0)].into(), window, ..spec() };
        if let Some(account) = &account {
            spec.params.insert("account".into(), json!(account));
        }
        // A parameter that defines the window, and is no other one if there is a window.
        spec.params.insert("since".into(), json!(since));
        spec.params.insert("mode".into(), json!(numbers.below(2)));
        RunSpec { account, ..spec }
    }

    #[test]
    fn the_failed_runs_are_those_of_a_comparison_with_all_later_ones() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let (numbers, process) = (&mut Numbers(7), crate::host::process::Identity { pid: 1, start: 2, boot_id: "boot".into() });
        for n in 0..200 {
            let (id, spec, at) = (format!("run-{n:04}"), random_spec(numbers), i64::try_from(numbers.below(1000)).unwrap());
            let run = NewRun { started_at: at, spec: spec.clone(), ..new_run(&id) };
            let cause = match numbers.below(12) {
                0 => {
                    store.skip_run(&run, &started()).unwrap();
                    continue;
                }
                n @ 1..=3 => {
                    let refusal = Refusal {
                        package: spec.package.clone(),
                        job: spec.job.clone(),
                        // An account without any other run.
                        account: if n == 1 && numbers.below(3) == 0 { Some("carl".into()) } else { spec.account.clone() },
                        spec: (n > 1).then_some(spec),
                        cause: if n == 3 { Cause::Cancelled } else { Cause::Config },
                        message: "no".into(),
                        exit_code: 78,
                        requested_run_id: None,
                        requested_by: crate::plan::RequestedBy::CommandLine,
                        group: None,
                    };
                    let at = RefusedAt { run_id: &id, at, host: "host", process: &process, lorchestra_version: "0" };
                    store.refuse_run(&refusal, &at).unwrap();
                    continue;
                }
                4 => None,
                5 => Some(Cause::Cancelled),
                6 => Some(Cause::Superseded),
                _ => Some([Cause::Error, Cause::Panic][usize::from(n % 2 == 0)]),
            };
            store.begin_run(&run, &started()).unwrap();
            if numbers.below(20) > 0 {
                store.end_run(&id, &RunEnd { ended_at: at + 1, ..end_with(cause) }).unwrap();
            }
        }
        let job = |name: &str| RunQuery { package: Some("pkg".into()), job: Some(name.into()), ..RunQuery::default() };
        let since = |since| RunQuery { since: Some(since), ..RunQuery::default() };
        for query in [RunQuery::default(), job("a"), job("b"), job("none"), since(500), since(990), since(1000)] {
            let Uncovered { failed, without_spec } = store.uncovered(&query).unwrap();
            let ids = |runs: Vec<Run>| -> Vec<String> { runs.into_iter().map(|run| run.run_id).collect() };
            assert_eq!((ids(failed), ids(without_spec)), expected(&store, &query), "{query:?}");
        }
        let all = store.uncovered(&RunQuery::default()).unwrap();
        assert!(all.failed.len() > 20 && !all.without_spec.is_empty(), "{} {}", all.failed.len(), all.without_spec.len());
    }

    #[test]
    fn later_windows_without_inner_ones_stay_few() {
        let at = |n| DateTime::from_timestamp(n, 0).unwrap();
        let mut windows = LaterWindows::default();
        for n in (0..100).rev() {
            let window = Some(Window { since: Some(at(n)), until: at(200 - n) });
            assert!(!windows.contain(window));
            windows.add(window);
            assert_eq!(windows.ends.len(), 1, "it contains the ones before");
        }
        assert!(windows.contain(Some(Window { since: Some(at(50)), until: at(200) })));
        assert!(!windows.contain(Some(Window { since: None, until: at(1) })) && !windows.contain(None));
    }
}
