//! What a run has on disk before it is recorded. None of it stays when the run is refused, whatever the reason (a full disk, a
//! signal). When the supervisor is killed, [`crate::run::recovery`] finds the spool directory with a lock that nobody holds, kills
//! what carries the run's id, and removes the rest.

use crate::host::locks::{self, FileLock};
use crate::host::state::{StateDir, StateError, make_dir};
use crate::run::traces;
use std::time::{Duration, Instant};

/// How often the directory is made again when recovery removes it between its creation and the locking. Once is already rare.
const TRIES: u32 = 100;
/// How long the lock is waited for: recovery holds it for a moment, another run of the same id for longer.
const HELD_BRIEFLY: Duration = Duration::from_secs(2);
/// Between two tries.
const WAIT: Duration = Duration::from_millis(10);

/// Spool and logs of a run, removed when this is dropped before the run is recorded.
#[derive(Debug)]
pub(super) struct RunFilesGuard<'a> {
    state: &'a StateDir,
    run_id: &'a str,
    recorded: bool,
}

impl<'a> RunFilesGuard<'a> {
    /// Makes the run's spool directory and takes the lock in it; `None`: another run of this id holds it. Must come before anything
    /// else of the run, above all before its worker: a process that exists before the directory does is found by nobody when the
    /// supervisor is killed.
    pub(super) fn begin(state: &'a StateDir, run_id: &'a str) -> Result<Option<(Self, FileLock)>, StateError> {
        let path = state.run_lock(run_id);
        let io = |source| StateError::Io { path: path.clone(), source };
        let until = Instant::now() + HELD_BRIEFLY;
        let mut tries = 0;
        while tries < TRIES {
            make_dir(&state.run_spool(run_id))?;
            match FileLock::try_take(&path) {
                // Another command may have taken the lock between its file's creation and now, and removed the directory as a dead
                // run's.
                Ok(Some(lock)) if lock.is_at(&path) => return Ok(Some((Self { state, run_id, recorded: false }, lock))),
                Ok(Some(_)) => tries += 1,
                Ok(None) if Instant::now() >= until => return Ok(None),
                Ok(None) => std::thread::sleep(WAIT),
                Err(error) if locks::is_none(&error) => tries += 1,
                Err(source) => return Err(io(source)),
            }
        }
        Err(io(std::io::Error::other("something removes it again and again")))
    }

    /// The files are the run's own from now on, or those of an earlier run of the same id.
    pub(super) fn keep(mut self) {
        self.recorded = true;
    }
}

impl Drop for RunFilesGuard<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            traces::remove_traces(self.state, self.run_id);
        }
    }
}
