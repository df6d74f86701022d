//! Runs whose supervisors are dead and that could not be closed, for example because the state directory is read-only: in the store they are
//! still running.

use crate::failure;
use lorchestra_core::run::recovery::Closed;
use lorchestra_core::store::{Run, RunState, Store, StoreError};
use std::collections::BTreeMap;

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
}
