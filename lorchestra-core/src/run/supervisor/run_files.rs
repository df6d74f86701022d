//! The files of a run before it is recorded. If the run is refused for any reason (a full disk, a signal), they are removed. If the
//! supervisor is killed, [`crate::run::recovery`] finds the spool directory with a lock that no one holds, kills the processes with the
//! run's id, and removes the files.

use crate::host::locks::{self, FileLock};
use crate::host::state::{StateDir, StateError, make_dir};
use crate::run::traces;
use std::time::{Duration, Instant};

/// Maximum number of times to create the directory, if recovery removes it before it is locked. Once is already rare.
const TRIES: u32 = 100;
/// How long to wait for the lock: recovery holds it briefly, another run with the same id for longer.
const HELD_BRIEFLY: Duration = Duration::from_secs(2);
/// Delay between two attempts.
const WAIT: Duration = Duration::from_millis(10);

/// Removes spool and logs of a run if dropped before the run is recorded.
#[derive(Debug)]
pub(super) struct RunFilesGuard<'a> {
    state: &'a StateDir,
    run_id: &'a str,
    recorded: bool,
}

impl<'a> RunFilesGuard<'a> {
    /// Creates the run's spool directory and takes the lock in it; `None` if another run with this id holds it. Call this before anything
    /// else of the run exists, above all before its worker: no one would find a process older than the directory if the supervisor is
    /// killed.
    pub(super) fn begin(state: &'a StateDir, run_id: &'a str) -> Result<Option<(Self, FileLock)>, StateError> {
        let path = state.run_lock(run_id);
        let io = |source| StateError::Io { path: path.clone(), source };
        let until = Instant::now() + HELD_BRIEFLY;
        let mut tries = 0;
        while tries < TRIES {
            make_dir(&state.run_spool(run_id))?;
            match FileLock::try_take(&path) {
                // After the lock file was created, another command may have taken the lock, and removed the directory as that of a dead
                // run.
                Ok(Some(lock)) if lock.is_at(&path) => return Ok(Some((Self { state, run_id, recorded: false }, lock))),
                Ok(Some(_)) => tries += 1,
                Ok(None) if Instant::now() >= until => return Ok(None),
                Ok(None) => std::thread::sleep(WAIT),
                Err(error) if locks::means_unlocked(&error) => tries += 1,
                Err(source) => return Err(io(source)),
            }
        }
        Err(io(std::io::Error::other("another program keeps removing it")))
    }

    /// Keeps the files: the run is recorded, or they belong to an earlier run with the same id.
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
