//! What a run has on disk before it is recorded. None of it stays when the run is refused, whatever the reason (a full disk, a
//! signal). When the supervisor is killed, [`crate::run::recovery`] finds the spool directory with a lock that nobody holds, kills
//! what carries the run's id, and removes the rest.

use crate::host::locks::{self, FileLock};
use crate::host::state::{StateDir, StateError, make_dir};
use crate::run::traces;

/// How often the directory is made again when recovery removes it between its creation and the locking. Once is already rare.
const TRIES: u32 = 100;

/// Spool and logs of a run, removed when this is dropped before the run is recorded.
#[derive(Debug)]
pub(super) struct Unrecorded<'a> {
    state: &'a StateDir,
    run_id: &'a str,
    recorded: bool,
}

impl<'a> Unrecorded<'a> {
    /// Makes the run's spool directory and takes the lock in it. Must come before anything else of the run, above all before its
    /// worker: a process that exists before the directory does is found by nobody when the supervisor is killed.
    pub(super) fn begin(state: &'a StateDir, run_id: &'a str) -> Result<(Self, FileLock), StateError> {
        let this = Self { state, run_id, recorded: false };
        let path = state.run_lock(run_id);
        let io = |source| StateError::Io { path: path.clone(), source };
        for _ in 0..TRIES {
            make_dir(&state.run_spool(run_id))?;
            let lock = match FileLock::take(&path) {
                Ok(lock) => lock,
                Err(error) if locks::is_none(&error) => continue,
                Err(source) => return Err(io(source)),
            };
            // Another command may have taken the lock between its file's creation and now, and removed the directory as a dead run's.
            if lock.is_at(&path) {
                return Ok((this, lock));
            }
        }
        Err(io(std::io::Error::other("something removes it again and again")))
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
