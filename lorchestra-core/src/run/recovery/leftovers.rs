//! What runs have left although they are over: processes, and spool directories. For `doctor`: other commands remove what they find of it
//! ([`super::close_all_abandoned`]) without reporting it.
//!
//! Recovery finds processes by the open runs. So it misses those of a run that was closed where they could not be seen: in another PID
//! namespace, which shares the state directory. It also removes only so many directories of runs that were never recorded, and leaves what
//! it may not remove.

use super::{RecoveryError, close_all_abandoned, is_locked, open_runs, remove_all_unrecorded, unrecorded};
use crate::host::files::remove_any;
use crate::host::process;
use crate::host::state::StateDir;
use crate::store::{RunState, Store};
use std::collections::HashSet;
use std::io;

/// Processes and spools of runs that are over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes that such runs have started.
    pub processes: Vec<LeftProcess>,
    /// Ids of runs that have ended, and still have a spool directory.
    pub ended: Vec<String>,
    /// Ids of runs that have a spool directory without events and were never recorded.
    pub unrecorded: Vec<String>,
}

/// A process of a run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftProcess {
    /// Its pid.
    pub pid: u32,
    /// Its name, which may contain anything.
    pub name: String,
    /// The run that started it.
    pub run_id: String,
}

impl Leftovers {
    /// Finds them. `store` is `None` if there is none yet.
    ///
    /// # Errors
    /// If the store or the spool cannot be read.
    pub fn find(state: &StateDir, store: Option<&Store>) -> Result<Self, RecoveryError> {
        let mut found = Self::default();
        // A shell or a terminal multiplexer that a job has started, and from which this process was started, is in use.
        let ancestors = process::ancestors();
        for (pid, name, run_id) in process::of_state(state.id()).into_iter().filter(|(pid, ..)| !ancestors.contains(pid)) {
            // Looked at again: a run ends after its processes, and this one may have been of a run that has just ended.
            if is_over(state, store, &run_id)? && process::carries(pid, process::RUN, &run_id) {
                found.processes.push(LeftProcess { pid, name, run_id });
            }
        }
        for run_id in open_runs(state)? {
            match store.map_or(Ok(None), |store| store.run(&run_id))? {
                // Recovery closes it, or reports why it cannot.
                Some(run) if run.state == RunState::Running => {}
                // Its supervisor removes it.
                Some(run) if is_locked(state, &run) => {}
                Some(run) => found.ended.push(run.run_id),
                None if unrecorded::is_removable(state, &run_id) => found.unrecorded.push(run_id),
                None => {}
            }
        }
        Ok(found)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Number of spool directories.
    pub fn spools(&self) -> usize {
        self.ended.len() + self.unrecorded.len()
    }

    /// Kills the processes, and waits briefly until they are gone. Returns how many were killed.
    pub fn kill(&self, state: &StateDir) -> usize {
        let runs: HashSet<&str> = self.processes.iter().map(|process| process.run_id.as_str()).collect();
        if runs.is_empty() { 0 } else { process::kill_leftovers_except(state.id(), &runs, &process::ancestors()) }
    }
}

/// Removes all spool directories of runs that were never recorded; [`close_all_abandoned`] removes a limited number.
///
/// # Errors
/// If the store or the spool cannot be read.
pub fn remove_every_unrecorded(state: &StateDir, mut store: Option<&mut Store>) -> Result<(), RecoveryError> {
    let mut left = usize::MAX;
    loop {
        let now = Leftovers::find(state, store.as_deref())?.unrecorded.len();
        if now == 0 || now >= left {
            return Ok(());
        }
        left = now;
        match &mut store {
            Some(store) => close_all_abandoned(state, store)?,
            None => remove_all_unrecorded(state)?,
        };
    }
}

/// Removes the spool of a run that has ended.
///
/// # Errors
/// The system's error.
pub fn remove_spool_of(state: &StateDir, run_id: &str) -> io::Result<()> {
    remove_any(&state.run_spool(run_id))
}

/// Whether a run has ended and its supervisor too. A run that the store does not know may be one of a store that was moved away.
fn is_over(state: &StateDir, store: Option<&Store>, run_id: &str) -> Result<bool, RecoveryError> {
    let run = store.map_or(Ok(None), |store| store.run(run_id))?;
    Ok(run.is_some_and(|run| run.state != RunState::Running && !is_locked(state, &run)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::locks::FileLock;
    use crate::store::tests::{end, new_run, started};
    use std::fs;
    use std::process::{Child, Command};

    const ENDED: &str = "0193a000-0000-7000-8000-000000000001";
    const RUNNING: &str = "0193a000-0000-7000-8000-000000000002";
    const UNKNOWN: &str = "0193a000-0000-7000-8000-000000000003";

    fn process_of(state: &StateDir, run_id: &str) -> Child {
        let mut command = Command::new("sleep");
        let child = command.arg("300").env(process::RUN, run_id).env(process::STATE, state.id()).spawn().unwrap();
        // For some microseconds after exec, the kernel shows no environment.
        while !process::carries(child.id(), process::RUN, run_id) {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn only_what_ended_runs_left_is_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut store = Store::open(&state).unwrap();
        for run_id in [ENDED, RUNNING] {
            store.begin_run(&new_run(run_id), &started()).unwrap();
        }
        store.end_run(ENDED, &end()).unwrap();
        let mut children = [ENDED, RUNNING, UNKNOWN, "no id"].map(|run_id| process_of(&state, run_id));
        for run_id in [ENDED, RUNNING, UNKNOWN] {
            fs::create_dir_all(state.attempt_spool(run_id, 1)).unwrap();
        }
        // Whoever holds its lock is about to remove the directory.
        let lock = FileLock::take(&state.run_lock(ENDED)).unwrap();
        assert!(Leftovers::find(&state, Some(&store)).unwrap().is_empty());
        drop(lock);
        let found = Leftovers::find(&state, Some(&store)).unwrap();
        let of_ended = LeftProcess { pid: children[0].id(), name: "sleep".into(), run_id: ENDED.into() };
        // The unknown run's directory is too young to be a leftover.
        assert_eq!(found, Leftovers { processes: vec![of_ended], ended: vec![ENDED.into()], unrecorded: Vec::new() });
        assert_eq!(found.kill(&state), 1);
        children[0].wait().unwrap();
        assert!(children[1..].iter_mut().all(|child| child.try_wait().unwrap().is_none()));
        remove_spool_of(&state, ENDED).unwrap();
        assert!(Leftovers::find(&state, Some(&store)).unwrap().is_empty());
        children[1..].iter_mut().for_each(|child| {
            child.kill().unwrap();
            child.wait().unwrap();
        });
    }

    #[test]
    fn every_spool_of_runs_that_were_never_recorded_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let count = unrecorded::AT_ONCE + 5;
        for n in 0..count {
            let run_id = format!("0193a000-0000-7000-8000-{n:012}");
            fs::create_dir_all(state.attempt_spool(&run_id, 1)).unwrap();
            drop(FileLock::take(&state.run_lock(&run_id)).unwrap());
        }
        assert_eq!(Leftovers::find(&state, None).unwrap().unrecorded.len(), count);
        assert!(remove_all_unrecorded(&state).unwrap().is_empty());
        assert_eq!(Leftovers::find(&state, None).unwrap().spools(), 5);
        remove_every_unrecorded(&state, None).unwrap();
        assert!(Leftovers::find(&state, None).unwrap().is_empty());
    }
}
