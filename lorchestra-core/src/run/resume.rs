//! A supervisor that was stopped (SIGSTOP, Ctrl-Z) and whose worker is dead is let go on: only it can record its run's end.

use crate::host::locks::AttemptLock;
use crate::host::state::StateDir;
use crate::store::Run;

/// Lets the supervisor of a run go on if it is stopped and its worker is dead: nobody else would, and neither is the run's end recorded nor
/// its lock free before. (One whose job goes on is stopped as whoever stopped it wants; its deadline is kept by the worker's watchdog.)
pub(crate) fn resume_if_stopped(state: &StateDir, run: &Run) {
    if !matches!(AttemptLock::holder(&state.attempt_lock(&run.run_id, run.attempts)), Ok(None)) {
        return;
    }
    match run.supervisor().resume_if_stopped() {
        Ok(true) => tracing::warn!(run_id = run.run_id, pid = run.supervisor_pid, "woke a supervisor that had been stopped"),
        Ok(false) => {}
        Err(error) => tracing::debug!(run_id = run.run_id, %error, "whether a supervisor is stopped is not known"),
    }
}
