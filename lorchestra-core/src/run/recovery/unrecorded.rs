//! Runs that have files but are not in the store: their supervisors died before they recorded them, or are about to.

use super::{Closed, Hold, RecoveryError, open_runs};
use crate::host::locks::{self, FileLock};
use crate::host::process;
use crate::host::state::StateDir;
use crate::run::traces::remove_traces;
use crate::store::{Store, StoreError};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Minimum age of a spool directory without a run and without a lock before it is removed: its supervisor is about to take the lock, or
/// died before that.
const UNRECORDED: Duration = Duration::from_secs(60 * 60);
/// Maximum number of such directories that one command removes, so that a command does not wait for thousands of removals.
pub(super) const AT_ONCE: usize = 200;

/// Removes the files of runs that died before there was a store to record them in. Does not create a store.
pub fn remove_all_unrecorded(state: &StateDir) -> Result<Closed, RecoveryError> {
    let mut closed = Closed::default();
    let mut room = AT_ONCE;
    let open = open_runs(state)?;
    let mut unrecorded = Vec::new();
    for run_id in &open {
        if room == 0 {
            break;
        }
        match hold(state, None, run_id, &mut room) {
            Ok(Hold::Unrecorded(lock)) => unrecorded.push((run_id.as_str(), lock)),
            Ok(_) => {}
            Err(error) => closed.stuck.push((run_id.clone(), error)),
        }
    }
    remove(state, unrecorded, &mut closed);
    Ok(closed)
}

/// Takes over a run that is not in the store, or any run if there is no store.
pub(super) fn hold(state: &StateDir, store: Option<&Store>, run_id: &str, room: &mut usize) -> Result<Hold, RecoveryError> {
    let path = state.run_lock(run_id);
    let recorded = || match store {
        Some(store) => Ok::<_, StoreError>(store.run(run_id)?.is_some()),
        None => Ok(state.store().exists()),
    };
    match FileLock::try_take_existing(&path) {
        // It was recorded after the first check, and its supervisor has ended or died: the next command handles it.
        Ok(Some(_)) if recorded()? => Ok(Hold::Closed),
        Ok(Some(lock)) => {
            *room -= 1;
            Ok(Hold::Unrecorded(lock))
        }
        Ok(None) => Ok(Hold::Held),
        // The lock is created before the worker: there is no process to find.
        Err(e) if locks::means_unlocked(&e) => {
            if is_old(&state.run_spool(run_id)) && remove_files(state, run_id)? {
                *room -= 1;
            }
            Ok(Hold::Closed)
        }
        Err(source) => Err(RecoveryError::Io { path, source }),
    }
}

/// Whether [`hold`] and [`remove`] would remove the directory of a run that is not in the store.
pub(super) fn is_removable(state: &StateDir, run_id: &str) -> bool {
    let free = match FileLock::try_take_existing(&state.run_lock(run_id)) {
        Ok(lock) => lock.is_some(),
        Err(e) => locks::means_unlocked(&e) && is_old(&state.run_spool(run_id)),
    };
    free && matches!(has_records(&state.run_spool(run_id)), Ok(false))
}

fn is_old(spool: &Path) -> bool {
    let made = fs::metadata(spool).and_then(|meta| meta.modified());
    made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > UNRECORDED))
}

/// Removes the remains of runs whose supervisor died before it recorded them: first processes, then files. Holds the locks until then.
pub(super) fn remove(state: &StateDir, unrecorded: Vec<(&str, FileLock)>, closed: &mut Closed) {
    if unrecorded.is_empty() {
        return;
    }
    let remains = process::kill_leftovers(state.id(), &unrecorded.iter().map(|(run_id, _)| *run_id).collect());
    if remains > 0 {
        tracing::warn!(remains, "killed processes left by runs that were never recorded");
        closed.killed += remains;
    }
    for (run_id, _lock) in unrecorded {
        if let Err(error) = remove_files(state, run_id) {
            closed.stuck.push((run_id.to_owned(), error));
        }
    }
}

/// Removes the files of a run that was never recorded, and returns whether they were removed. Nothing is emitted before a run is recorded,
/// so a spool with records belongs to a recorded run of a store that is gone, and is kept.
fn remove_files(state: &StateDir, run_id: &str) -> Result<bool, RecoveryError> {
    let path = state.run_spool(run_id);
    match has_records(&path) {
        Ok(true) => Err(RecoveryError::Unknown { path }),
        Ok(false) => {
            remove_traces(state, run_id);
            Ok(true)
        }
        // Another command was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(RecoveryError::Io { path, source }),
    }
}

/// Whether a segment of any attempt has content.
fn has_records(spool: &Path) -> io::Result<bool> {
    for attempt in fs::read_dir(spool)? {
        let attempt = attempt?;
        if !attempt.file_type()?.is_dir() {
            continue;
        }
        for segment in fs::read_dir(attempt.path())? {
            if segment?.metadata()?.len() > 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::recovery::close_all_abandoned;

    /// The lock, not the time, distinguishes a supervisor that has not recorded its run yet from one that died before.
    #[test]
    fn the_lock_of_an_unrecorded_run_shows_whether_it_may_still_be_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut store = Store::open(&state).unwrap();
        let (alive, dead) = ("0193a000-0000-7000-8000-000000000001", "0193a000-0000-7000-8000-000000000002");
        for run_id in [alive, dead] {
            fs::create_dir_all(state.attempt_spool(run_id, 1)).unwrap();
            fs::create_dir(state.run_logs(run_id)).unwrap();
        }
        let held = FileLock::take(&state.run_lock(alive)).unwrap();
        drop(FileLock::take(&state.run_lock(dead)).unwrap());
        let mut left = std::process::Command::new("sleep")
            .arg("300")
            .env(process::RUN, dead)
            .env(process::STATE, state.id())
            .spawn()
            .unwrap();
        // For some microseconds after exec, the kernel shows no environment.
        while !process::carries(left.id(), process::RUN, dead) {
            std::thread::yield_now();
        }
        let closed = close_all_abandoned(&state, &mut store).unwrap();
        assert!(closed.recovered.is_empty() && closed.stuck.is_empty(), "{closed:?}");
        for (run_id, stays) in [(alive, true), (dead, false)] {
            assert_eq!((state.run_spool(run_id).exists(), state.run_logs(run_id).exists()), (stays, stays), "{run_id}");
        }
        let ended = left.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
        assert!(held.is_at(&state.run_lock(alive)));
    }

    #[test]
    fn a_run_that_was_never_recorded_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut store = Store::open(&state).unwrap();
        let (old, young) = ("0193a000-0000-7000-8000-000000000001", "0193a000-0000-7000-8000-000000000002");
        for run_id in [old, young] {
            fs::create_dir_all(state.attempt_spool(run_id, 1)).unwrap();
            fs::create_dir(state.run_logs(run_id)).unwrap();
            fs::write(state.output(run_id, 1), "").unwrap();
        }
        let before = SystemTime::now() - UNRECORDED - Duration::from_secs(1);
        fs::File::open(state.run_spool(old)).unwrap().set_modified(before).unwrap();
        let closed = close_all_abandoned(&state, &mut store).unwrap();
        assert!(closed.recovered.is_empty() && closed.stuck.is_empty(), "{closed:?}");
        for (run_id, stays) in [(old, false), (young, true)] {
            assert_eq!((state.run_spool(run_id).exists(), state.run_logs(run_id).exists()), (stays, stays), "{run_id}");
        }
    }
}
