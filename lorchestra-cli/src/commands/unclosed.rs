//! Runs whose supervisors are dead and that could not be closed, for example because the state directory is read-only: in the store they are
//! still running.

use crate::failure;
use lorchestra_core::outcome::Cause;
use lorchestra_core::run::recovery::Closed;
use lorchestra_core::store::{Run, RunQuery, RunState, Store, StoreError};
use std::collections::BTreeMap;

/// More than the number of runs that can be running.
const ALL: u64 = 1_000_000;

/// The reason for each of these runs, by id.
#[derive(Debug, Default)]
pub(super) struct Unclosed(BTreeMap<String, String>);

impl Unclosed {
    pub(super) fn of(closed: &Closed) -> Self {
        Self(closed.stuck.iter().map(|(run_id, error)| (run_id.clone(), failure::stuck(error))).collect())
    }

    /// Returns why a run could not be closed; `None` if it is not one of these.
    pub(super) fn reason(&self, run: &Run) -> Option<&str> {
        self.0.get(&run.run_id).filter(|_| run.state == RunState::Running).map(String::as_str)
    }

    /// Reads these runs, with the reason as their message. A directory in `spool/` may belong to a run that is not in the store.
    pub(super) fn runs(&self, store: &Store) -> Result<Vec<Run>, StoreError> {
        let mut runs = Vec::new();
        for run_id in self.0.keys() {
            let run = store.run(run_id)?;
            runs.extend(run.and_then(|run| Some(Run { message: Some(self.reason(&run)?.to_owned()), ..run })));
        }
        Ok(runs)
    }

    /// Like [`Store::find_runs`], but these runs are failed (abandoned), not running.
    pub(super) fn find(&self, store: &Store, query: &RunQuery, limit: u64) -> Result<Vec<Run>, StoreError> {
        let (of_state, of_cause) = (query.state, query.cause);
        if self.0.is_empty() || of_state.is_none() && of_cause.is_none() {
            return store.find_runs(query, limit);
        }
        let most = limit.saturating_add(self.0.len() as u64);
        let mut runs = store.find_runs(query, most)?;
        runs.retain(|run| self.reason(run).is_none());
        let is_failed = of_state.is_none_or(|state| state == RunState::Failed);
        if is_failed && of_cause.is_none_or(|cause| cause == Cause::Abandoned) {
            let running = RunQuery { state: Some(RunState::Running), cause: None, ..query.clone() };
            // Few runs are running at a time.
            let found = store.find_runs(&running, ALL)?;
            runs.extend(found.into_iter().filter(|run| self.reason(run).is_some()));
            runs.sort_by_key(|run| std::cmp::Reverse(run.started_at));
        }
        runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(runs)
    }
}
