//! What a run has made on disk before it is recorded. Nothing of it stays behind when the run is not: whatever refuses it, a full
//! disk or a signal.

use crate::host::state::StateDir;
use crate::run::traces;

/// Spool and logs of a run, removed when this is dropped before the run is recorded.
#[derive(Debug)]
pub(super) struct Unrecorded<'a> {
    state: &'a StateDir,
    run_id: &'a str,
    recorded: bool,
}

impl<'a> Unrecorded<'a> {
    /// To be made before anything else of the run is.
    pub(super) fn new(state: &'a StateDir, run_id: &'a str) -> Self {
        Self { state, run_id, recorded: false }
    }

    /// The run is recorded: from now on its files are its own.
    pub(super) fn keep(mut self) {
        self.recorded = true;
    }
}

impl Drop for Unrecorded<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            traces::remove_traces(self.state, self.run_id);
        }
    }
}
