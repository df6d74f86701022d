//! What a run has on disk beside the store: its spool and its logs.

use crate::host::state::StateDir;
use std::fs;
use std::path::Path;

/// Removes a closed run's spool. Should it fail, the next command does it: the run's end is already recorded.
pub(crate) fn remove_spool(state: &StateDir, run_id: &str) {
    let dir = state.run_spool(run_id);
    if let Err(error) = crate::host::files::remove_whatever(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "the spool of a closed run could not be removed");
    }
}

/// Removes all that a run made which was never recorded. The spool last: it is what such a run is found by.
pub(crate) fn remove_traces(state: &StateDir, run_id: &str) {
    let _ = fs::remove_dir_all(state.run_logs(run_id));
    remove_spool(state, run_id);
}

/// Whether a log has something in it.
pub(crate) fn has_content(log: &Path) -> bool {
    fs::metadata(log).is_ok_and(|meta| meta.len() > 0)
}
