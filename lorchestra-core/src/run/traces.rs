//! The files of a run other than the store: its spool and its logs.

use crate::host::state::StateDir;
use std::fs;
use std::path::Path;

/// Removes a closed run's spool. If that fails, the next command does it: the run's end is already recorded.
pub(crate) fn remove_spool(state: &StateDir, run_id: &str) {
    let dir = state.run_spool(run_id);
    if let Err(error) = crate::host::files::remove_any(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "the spool of a closed run could not be removed");
    }
}

/// Removes an attempt's temporary files. If that fails, they are removed with the spool.
pub(crate) fn remove_temp(dir: &Path) {
    if let Err(error) = crate::host::files::remove_any(dir) {
        tracing::warn!(dir = %dir.display(), %error, "temporary files of a job could not be removed");
    }
}

/// Removes all files of a run that was never recorded. The spool last, because such a run is found by it.
pub(crate) fn remove_traces(state: &StateDir, run_id: &str) {
    let _ = fs::remove_dir_all(state.run_logs(run_id));
    remove_spool(state, run_id);
}

/// Whether a log has content.
pub(crate) fn has_content(log: &Path) -> bool {
    fs::metadata(log).is_ok_and(|meta| meta.len() > 0)
}
