//! Closes the runs that a supervisor's death left open: by what their spool says, or as abandoned.
//!
//! Called by the commands that show or make runs. A run is open as long as its spool directory exists, so that one look
//! into `spool/` is all that this costs a run when there is nothing to do. Commands that have the store open look there too, and so
//! does a run for its own job: a spool directory may have been removed, or the store copied without it. For each open run:
//!
//! 1. Its supervisor must be dead, and the run's lock free: else it lives, and will end the run (woken, if it is stopped and its
//!    worker is dead). The lock is held here meanwhile: a run
//!    is closed by one process, and of several that look at the same time the others pass by.
//! 2. The last attempt's lock must be free, or become so in 5 s: a worker outlives its supervisor by a moment at most. One that
//!    does not is killed.
//! 3. What still carries the run's id in its environment is killed: the worker's watchdog may have died with it, and what had left
//!    the worker's group was out of its reach. One look at all processes for many runs.
//! 4. The rest of the spool is taken in. What the supervisor had noted, and the final record, are the outcome; with neither, the
//!    run is abandoned.
//! 5. State, terminal event and bookmark are committed, those of many runs together; then the spool directories are removed.
//!
//! A spool directory whose run is in no store, and whose lock nobody holds, is one of a supervisor that died before it recorded the
//! run. Its worker may still be there, stopped, and was never sent an order: what carries the run's id is killed, and the directory
//! is removed.
//!
//! A run that cannot be closed stays open and keeps nobody from anything but a run of the same job and account.

use crate::host::locks::{self, AttemptLock, FileLock, Holder, overlap_name};
use crate::host::process;
use crate::host::state::StateDir;
use crate::outcome::Outcome;
use crate::plan::{OnOverlap, RunSpec};
use crate::run::decision::Death;
use crate::run::ending::{DeadRun, earlier, reconstruct_end};
use crate::run::intake::{Ingest, IntakeError};
use crate::run::note;
use crate::run::resume::resume_if_stopped;
use crate::run::traces::{has_content, remove_spool, remove_traces};
use crate::spool::reader::Writing;
use crate::spool::writer::segment_path;
use crate::store::{Run, RunEnd, RunFilter, RunState, Store, StoreError};
use rustix::process::PidfdFlags;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Runs that are closed together: each holds a descriptor for its lock meanwhile.
const TOGETHER: usize = 250;
/// How long a predecessor is waited for that another process closes: a little longer than that takes where its worker hangs.
const CLOSING: Duration = Duration::from_secs(15);
/// How long a worker may outlive its supervisor.
const WORKER: Duration = Duration::from_secs(5);
/// How old a spool directory without a run and without a lock must be before it is removed: its supervisor is about to take the lock,
/// or died before it did.
const UNRECORDED: Duration = Duration::from_secs(60 * 60);
/// Such directories that one command removes at most: nobody waits for a disk that has thousands of them.
const AT_ONCE: usize = 200;

/// A run that was closed here.
#[derive(Debug)]
pub struct Recovered {
    /// The run, as it was.
    pub run: Run,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why a run could not be closed. It stays open, and nothing of it is lost.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its spool or the store, while taking in.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// Events of a run that the store does not know: another store knew it.
    #[error("{path} holds events of a run that is not in this store", path = path.display())]
    Unknown {
        /// The run's spool.
        path: PathBuf,
    },
    /// A lock or a directory.
    #[error("{path}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// What a look for open runs came to.
#[derive(Debug, Default)]
pub struct Closed {
    /// Runs that were closed.
    pub recovered: Vec<Recovered>,
    /// Runs that stay open for now, and why.
    pub stuck: Vec<(String, RecoveryError)>,
    /// Newest events that the store has lost: see [`Store::take_missing`].
    pub missing: u64,
}

impl Closed {
    /// Whether there was nothing to close.
    pub fn is_empty(&self) -> bool {
        self.recovered.is_empty() && self.stuck.is_empty() && self.missing == 0
    }
}

/// Closes every open run whose supervisor is dead, as `spool/` has them. Opens the store only if there is one to close.
pub fn close_abandoned(state: &StateDir) -> Result<Closed, RecoveryError> {
    let open = open_runs(state)?;
    if open.is_empty() {
        return Ok(Closed::default());
    }
    close_each(state, &mut Store::open(state)?, &open)
}

/// The same, with those that only the store has.
pub fn close_all_abandoned(state: &StateDir, store: &mut Store) -> Result<Closed, RecoveryError> {
    let open = all_open_runs(state, store)?;
    close_each(state, store, &open)
}

/// Removes what is left of runs that died before a store was there to record them in. Makes no store.
pub fn remove_all_unrecorded(state: &StateDir) -> Result<Closed, RecoveryError> {
    let mut closed = Closed::default();
    let mut room = AT_ONCE;
    let open = open_runs(state)?;
    let mut unrecorded = Vec::new();
    for run_id in &open {
        if room == 0 {
            break;
        }
        match claim_unrecorded(state, None, run_id, &mut room) {
            Ok(Claim::Unrecorded(lock)) => unrecorded.push((run_id.as_str(), lock)),
            Ok(_) => {}
            Err(error) => closed.stuck.push((run_id.clone(), error)),
        }
    }
    remove_unrecorded(state, unrecorded, &mut closed);
    Ok(closed)
}

fn close_each(state: &StateDir, store: &mut Store, open: &[String]) -> Result<Closed, RecoveryError> {
    let mut closed = Closed { missing: store.take_missing(), ..Closed::default() };
    let mut room = AT_ONCE;
    for some in open.chunks(TOGETHER) {
        let (mut dead, mut unrecorded) = (Vec::new(), Vec::new());
        for run_id in some {
            match claim(state, store, run_id, false, &mut room) {
                Ok(Claim::Ours(claimed)) => dead.push(*claimed),
                Ok(Claim::Unrecorded(lock)) => unrecorded.push((run_id.as_str(), lock)),
                Ok(Claim::Alive | Claim::Held | Claim::Closed) => {}
                Err(error) => closed.stuck.push((run_id.clone(), error)),
            }
        }
        close(state, store, dead, &mut closed);
        remove_unrecorded(state, unrecorded, &mut closed);
    }
    Ok(closed)
}

/// Closes the open runs of one job and account that are dead. The caller holds the right to run it: beside it are only such that are
/// allowed beside others.
pub(crate) fn close_predecessors(state: &StateDir, store: &mut Store, spec: &RunSpec) -> Result<Closed, RecoveryError> {
    let mut closed = Closed::default();
    let (package, job, account) = (spec.package.as_str(), spec.job.as_str(), spec.account.as_deref());
    for run_id in all_open_runs(state, store)? {
        if !store.run(&run_id)?.is_some_and(|run| run.has_key(package, job, account)) {
            continue;
        }
        let until = Instant::now() + CLOSING;
        let dead = loop {
            match claim(state, store, &run_id, spec.on_overlap != OnOverlap::Allow, &mut 0)? {
                Claim::Ours(claimed) => break vec![*claimed],
                Claim::Alive | Claim::Closed | Claim::Unrecorded(_) => break Vec::new(),
                // Another process closes it, and may be waiting for its worker: what it was doing must not go on beside this run. (Or its
                // supervisor lives where it cannot be seen from here: it holds the right to run then, or is allowed beside others.)
                Claim::Held if Instant::now() >= until => break Vec::new(),
                Claim::Held => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        close(state, store, dead, &mut closed);
    }
    Ok(closed)
}

/// An open run that nobody else ends.
struct Claimed {
    run: Run,
    /// Held until the run is closed. One without a spool has none: should several close it, the store takes one end.
    _lock: Option<FileLock>,
}

/// What became of the wish to close a run.
enum Claim {
    /// It is ours to close.
    Ours(Box<Claimed>),
    /// Its supervisor lives.
    Alive,
    /// Somebody holds its lock.
    Held,
    /// It was never recorded, and its supervisor is dead: what is left of it is ours to remove.
    Unrecorded(FileLock),
    /// It has been closed, or was never recorded and may be so yet.
    Closed,
}

/// `excludes`: the caller holds the overlap lock of the run's job. `room`: how many that were never recorded may be removed yet.
fn claim(state: &StateDir, store: &Store, run_id: &str, excludes: bool, room: &mut usize) -> Result<Claim, RecoveryError> {
    let Some(run) = store.run(run_id)? else {
        return if *room > 0 { claim_unrecorded(state, Some(store), run_id, room) } else { Ok(Claim::Closed) };
    };
    if run.state != RunState::Running {
        // Only the removal is left, and needs no lock.
        remove_spool(state, run_id);
        return Ok(Claim::Closed);
    }
    if run.is_supervised() {
        resume_if_stopped(state, &run);
        return Ok(Claim::Alive);
    }
    let path = state.run_lock(run_id);
    let lock = match FileLock::try_take(&path) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => return Ok(Claim::Held),
        // Closed and removed since it was listed; or its spool is lost, and of its locks only the one of its job tells whether it lives.
        Err(e) if locks::is_none(&e) => {
            let path = state.lock(&overlap_name(&run.package, &run.job, run.account.as_deref()));
            if !excludes && FileLock::try_take(&path).map_err(|source| RecoveryError::Io { path, source })?.is_none() {
                return Ok(Claim::Alive);
            }
            None
        }
        Err(source) => return Err(RecoveryError::Io { path, source }),
    };
    // Read again under the lock: it may have been ended between the look into `spool/` and now.
    match store.run(run_id)? {
        Some(run) if run.state == RunState::Running => Ok(Claim::Ours(Box::new(Claimed { run, _lock: lock }))),
        _ => {
            remove_spool(state, run_id);
            Ok(Claim::Closed)
        }
    }
}

/// Whether a run's worker lives in another PID namespace (a container that shares the state directory): it holds its lock, and has no number
/// here.
pub fn worker_is_elsewhere(state: &StateDir, run: &Run) -> bool {
    matches!(AttemptLock::holder(&state.attempt_lock(&run.run_id, run.attempts)), Ok(Some(Holder::Elsewhere)))
}

/// Whether somebody holds a run's lock: its supervisor, or for some seconds a command that closes it.
pub fn is_locked(state: &StateDir, run: &Run) -> bool {
    matches!(FileLock::try_take_existing(&state.run_lock(&run.run_id)), Ok(None))
}

/// Closes runs.
fn close(state: &StateDir, store: &mut Store, dead: Vec<Claimed>, closed: &mut Closed) {
    let mut quiet = Vec::new();
    for claimed in dead {
        match wait_for_worker(state, &claimed.run.run_id, claimed.run.attempts) {
            Ok(()) => quiet.push(claimed),
            Err(error) => closed.stuck.push((claimed.run.run_id, error)),
        }
    }
    if quiet.is_empty() {
        return;
    }
    let ids: HashSet<&str> = quiet.iter().map(|claimed| claimed.run.run_id.as_str()).collect();
    let remains = process::kill_remains_of(state.id(), &ids);
    if remains > 0 {
        tracing::warn!(remains, "killed what dead runs had left behind");
    }
    let mut ends: Vec<(Claimed, Outcome, RunEnd)> = Vec::new();
    for claimed in quiet {
        match end_of(state, store, &claimed.run) {
            Ok((outcome, end)) => ends.push((claimed, outcome, end)),
            Err(error) => closed.stuck.push((claimed.run.run_id, error)),
        }
    }
    let pairs: Vec<(&str, &RunEnd)> = ends.iter().map(|(claimed, _, end)| (claimed.run.run_id.as_str(), end)).collect();
    match store.end_runs(&pairs) {
        Ok(ended) => {
            for ((claimed, outcome, _), ended) in ends.into_iter().zip(ended) {
                remove_spool(state, &claimed.run.run_id);
                if ended {
                    tracing::info!(run_id = claimed.run.run_id, ?outcome, "closed a run whose supervisor had died");
                    closed.recovered.push(Recovered { run: claimed.run, outcome });
                }
            }
        }
        // All of them stay open; one is told.
        Err(error) => closed.stuck.extend(ends.into_iter().next().map(|(claimed, ..)| (claimed.run.run_id, error.into()))),
    }
}

/// How a dead run ended.
fn end_of(state: &StateDir, store: &mut Store, run: &Run) -> Result<(Outcome, RunEnd), RecoveryError> {
    let (run_id, attempt) = (run.run_id.as_str(), run.attempts);
    // Asked before the events in it are taken in: that a run closed its own spool just now is ruled out by the lock.
    let lost = !state.run_spool(run_id).is_dir();
    let taken = store.taken(run_id, attempt)?;
    let spool = state.attempt_spool(run_id, attempt);
    let first = taken.cursor.segment;
    let mut ingest = Ingest::new(run_id, attempt, &spool, taken);
    let mut all = |store: &mut Store| ingest.all(store, Writing::Dead);
    // A segment with a successor is removed once it is taken in, and then the store must not lose it. The last one stays until the commit
    // of the ends, which makes what came before it safe as well.
    if segment_path(&spool, first + 1).exists() {
        all(store)?;
    } else {
        store.deferred(all)??;
    }
    let over = store.attempts(run_id)?.last().is_some_and(|attempt| attempt.ended_at.is_some());
    let mut seen = note::read(&state.attempt_note(run_id, attempt));
    if lost {
        seen.death = Some(Death::SpoolMissing);
    }
    let lived = u64::try_from(crate::host::clock::now_micros() - run.started_at).unwrap_or(0);
    let dead = DeadRun {
        attempt,
        over,
        taken: ingest.taken,
        seen,
        printed: has_content(&state.output(run_id, attempt)),
        earlier: earlier(store, run_id, attempt)?,
        lived: Duration::from_micros(lived),
    };
    Ok(reconstruct_end(dead))
}

fn wait_for_worker(state: &StateDir, run_id: &str, attempt: u32) -> Result<(), RecoveryError> {
    let path = state.attempt_lock(run_id, attempt);
    let io = |source| RecoveryError::Io { path: path.clone(), source };
    let deadline = Instant::now() + WORKER;
    let mut killed = false;
    while let Some(holder) = AttemptLock::holder(&path).map_err(io)? {
        if Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let Holder::Process(pid) = holder else {
            return Err(io(io::Error::other("a process of another PID namespace (a container) holds it")));
        };
        if !killed {
            killed = true;
            if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                // Asked again with the descriptor in hand: it is the holder that is killed, not who got its pid.
                && AttemptLock::holder(&path).map_err(io)? == Some(holder)
            {
                tracing::warn!(run_id, pid = pid.as_raw_nonzero(), "killing a worker that outlived its supervisor");
                process::kill(&pidfd).map_err(io)?;
            }
        } else if Instant::now() > deadline + WORKER {
            return Err(io(io::Error::other(format!("process {} holds it and cannot be killed", pid.as_raw_nonzero()))));
        } else {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Runs with a spool directory, and those that the store has as running.
fn all_open_runs(state: &StateDir, store: &Store) -> Result<Vec<String>, RecoveryError> {
    let mut open = open_runs(state)?;
    open.extend(store.runs(&RunFilter { running: true, limit: None })?.into_iter().map(|run| run.run_id));
    open.sort_unstable();
    open.dedup();
    Ok(open)
}

fn open_runs(state: &StateDir) -> Result<Vec<String>, RecoveryError> {
    let path = state.spools();
    let io = |source| RecoveryError::Io { path: path.clone(), source };
    let mut runs = Vec::new();
    for entry in fs::read_dir(&path).map_err(io)? {
        if let Ok(name) = entry.map_err(io)?.file_name().into_string()
            && uuid::Uuid::parse_str(&name).is_ok()
        {
            runs.push(name);
        }
    }
    runs.sort_unstable();
    Ok(runs)
}

/// A run that is not in the store, or without one.
fn claim_unrecorded(state: &StateDir, store: Option<&Store>, run_id: &str, room: &mut usize) -> Result<Claim, RecoveryError> {
    let path = state.run_lock(run_id);
    let recorded = || match store {
        Some(store) => Ok::<_, StoreError>(store.run(run_id)?.is_some()),
        None => Ok(state.store().exists()),
    };
    match FileLock::try_take_existing(&path) {
        // Recorded since it was looked for, and its supervisor has ended or died: the next command sees it.
        Ok(Some(_)) if recorded()? => Ok(Claim::Closed),
        Ok(Some(lock)) => {
            *room -= 1;
            Ok(Claim::Unrecorded(lock))
        }
        Ok(None) => Ok(Claim::Held),
        // The lock comes before the worker: there is no process to look for.
        Err(e) if locks::is_none(&e) => {
            if is_old(&state.run_spool(run_id)) && remove_files(state, run_id)? {
                *room -= 1;
            }
            Ok(Claim::Closed)
        }
        Err(source) => Err(RecoveryError::Io { path, source }),
    }
}

fn is_old(spool: &Path) -> bool {
    let made = fs::metadata(spool).and_then(|meta| meta.modified());
    made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > UNRECORDED))
}

/// Removes what is left of runs whose supervisor died before it recorded them: processes, then files. The locks are held until then.
fn remove_unrecorded(state: &StateDir, unrecorded: Vec<(&str, FileLock)>, closed: &mut Closed) {
    if unrecorded.is_empty() {
        return;
    }
    let remains = process::kill_remains_of(state.id(), &unrecorded.iter().map(|(run_id, _)| *run_id).collect());
    if remains > 0 {
        tracing::warn!(remains, "killed what runs had left behind that were never recorded");
    }
    for (run_id, _lock) in unrecorded {
        if let Err(error) = remove_files(state, run_id) {
            closed.stuck.push((run_id.to_owned(), error));
        }
    }
}

/// Removes the files of a run that was never recorded. Nothing is emitted before a run is recorded: a spool with records in it was
/// recorded, in a store that is gone, and is kept. Answers whether they were removed.
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

/// Whether there is a byte in a segment of any attempt.
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

    /// The lock tells a supervisor that has not come to recording its run from one that died before: not the time.
    #[test]
    fn the_lock_of_a_run_that_is_not_recorded_tells_whether_it_will_be() {
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
    fn nothing_stays_of_a_run_that_was_never_recorded() {
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
