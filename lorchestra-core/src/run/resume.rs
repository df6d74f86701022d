//! Resumes a supervisor that was stopped (SIGSTOP, Ctrl-Z) and whose worker is dead, because only the supervisor can record its run's end.

use crate::host::locks::AttemptLock;
use crate::host::state::StateDir;
use crate::store::Run;

/// Resumes the supervisor of a run if it is stopped and its worker is dead. Nothing else would, and until then the run's end is not
/// recorded and its lock is not released. (If its job is still running, the supervisor stays stopped: someone wanted that, and the worker's
/// watchdog enforces the deadline.)
pub(crate) fn resume_if_stopped(state: &StateDir, run: &Run) {
    if !matches!(AttemptLock::holder(&state.attempt_lock(&run.run_id, run.attempts)), Ok(None)) {
        return;
    }
    match run.supervisor().resume_if_stopped() {
        Ok(true) => tracing::warn!(run_id = run.run_id, pid = run.supervisor_pid, "resumed a supervisor that had been stopped"),
        Ok(false) => {}
        Err(error) => tracing::debug!(run_id = run.run_id, %error, "cannot determine whether a supervisor is stopped"),
    }
}
