//! Closes the runs whose supervisors died: with the outcome in their spool, or as abandoned.
//!
//! Called by the commands that show or start runs. A run is open as long as its spool directory exists, so with nothing to close, this
//! costs one read of `spool/`. Commands that have the store open also check the runs there, and so does a run for its own job, because a
//! spool directory may have been removed, or the store copied without it. For each open run:
//!
//! 1. Its supervisor must be dead and the run's lock free; otherwise it is alive and will end the run (if it is stopped and its worker is
//!    dead, it is resumed). Recovery holds the lock in the meantime, so only one process closes a run, and others that try at the same time
//!    skip it.
//! 2. The last attempt's lock must be free, or be released within 5 s: a worker outlives its supervisor only briefly. A worker that takes
//!    longer is killed.
//! 3. Processes that still have the run's id in their environment are killed: the worker's watchdog may have died too, and it could not
//!    reach processes that had left the worker's group. One scan of all processes covers many runs.
//! 4. The rest of the spool is ingested. The supervisor's note and the final record determine the outcome; without either, the run is
//!    abandoned.
//! 5. State, terminal event and bookmark are committed, for many runs together; then the spool directories are removed.
//!
//! If no store has the run of a spool directory, and no one holds its lock, the supervisor died before it recorded the run. Its worker may
//! still exist, stopped, without ever having received an order. Processes with the run's id are killed, and the directory is removed.
//!
//! A run that cannot be closed stays open, and blocks only other runs of the same job and account.

use crate::host::locks::{self, AttemptLock, FileLock, Holder};
use crate::host::process;
use crate::host::state::StateDir;
use crate::outcome::Outcome;
use crate::plan::{OnOverlap, OverlapKey, RunSpec};
use crate::run::claim;
use crate::run::decision::Death;
use crate::run::ending::{DeadRun, earlier, reconstruct_end};
use crate::run::intake::{Ingest, IntakeError};
use crate::run::note;
use crate::run::resume::resume_if_stopped;
use crate::run::traces::{has_content, remove_spool, remove_temp, remove_traces};
use crate::spool::reader::Writing;
use crate::spool::writer::segment_path;
use crate::store::{Run, RunEnd, RunFilter, RunState, Store, StoreError};
use rustix::process::PidfdFlags;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Number of runs to close together: each holds a descriptor for its lock.
const TOGETHER: usize = 250;
/// How long to wait for a predecessor that another process closes: a little longer than that takes if its worker hangs.
const CLOSING: Duration = Duration::from_secs(15);
/// How long a worker may outlive its supervisor.
const WORKER: Duration = Duration::from_secs(5);
/// Minimum age of a spool directory without a run and without a lock before it is removed: its supervisor is about to take the lock, or
/// died before that.
const UNRECORDED: Duration = Duration::from_secs(60 * 60);
/// Maximum number of such directories that one command removes, so that a command does not wait for thousands of removals.
const AT_ONCE: usize = 200;

/// A run that recovery closed.
#[derive(Debug)]
pub struct Recovered {
    /// The run before it was closed.
    pub run: Run,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why a run could not be closed. It stays open, and nothing of it is lost.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its spool could not be ingested.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// A spool has events of a run that is not in the store, but was in another one.
    #[error("{path} holds events of a run that is not in this store", path = path.display())]
    Unknown {
        /// The run's spool.
        path: PathBuf,
    },
    /// It cannot be found out whether the run has the claim of its window, because the store is damaged.
    #[error("whether run {run_id} has claimed its window cannot be found out: {reason}")]
    Undecided {
        /// The run.
        run_id: String,
        /// What is wrong.
        reason: String,
    },
    /// A lock or a directory could not be accessed.
    #[error("{path}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The result of closing open runs.
#[derive(Debug, Default)]
pub struct Closed {
    /// Runs that were closed.
    pub recovered: Vec<Recovered>,
    /// Runs that stay open for now, and why.
    pub stuck: Vec<(String, RecoveryError)>,
    /// Number of newest events that the store has lost: see [`Store::take_missing`].
    pub missing: u64,
}

impl Closed {
    /// Whether there was nothing to close.
    pub fn is_empty(&self) -> bool {
        self.recovered.is_empty() && self.stuck.is_empty() && self.missing == 0
    }
}

/// Closes every open run in `spool/` whose supervisor is dead. Opens the store only if there is one to close.
pub fn close_abandoned(state: &StateDir) -> Result<Closed, RecoveryError> {
    let open = open_runs(state)?;
    if open.is_empty() {
        return Ok(Closed::default());
    }
    close_each(state, &mut Store::open(state)?, &open)
}

/// Like [`close_abandoned`], including runs that are only in the store.
pub fn close_all_abandoned(state: &StateDir, store: &mut Store) -> Result<Closed, RecoveryError> {
    let open = all_open_runs(state, store)?;
    close_each(state, store, &open)
}

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

/// Closes the dead runs of one job and account. The caller holds the overlap lock, so other live runs are those with policy `allow`.
pub(crate) fn close_predecessors(state: &StateDir, store: &mut Store, spec: &RunSpec) -> Result<Closed, RecoveryError> {
    let mut closed = Closed::default();
    let (package, job, account) = (spec.package.as_str(), spec.job.as_str(), spec.account.as_deref());
    let name = spec.overlap_name();
    // If the lock is that of one window, runs of other windows may be alive.
    let excluded = |run: &Run| {
        run.has_key(package, job, account)
            && (spec.overlap_key == OverlapKey::Account || run.spec().is_ok_and(|other| other.overlap_name() == name))
    };
    for run_id in all_open_runs(state, store)? {
        let Some(run) = store.run(&run_id)?.filter(|run| excluded(run)) else { continue };
        let same_lock = run.spec().map_or(true, |other| other.overlap_name() == name);
        let until = Instant::now() + CLOSING;
        let dead = loop {
            match claim(state, store, &run_id, same_lock && spec.on_overlap != OnOverlap::Allow, &mut 0)? {
                Claim::Ours(claimed) => break vec![*claimed],
                Claim::Alive | Claim::Closed | Claim::Unrecorded(_) => break Vec::new(),
                // Another process is closing it, and may be waiting for its worker, which must not work at the same time as this run. (Or
                // its supervisor is alive but not visible from here: then it would hold the overlap lock, or has policy `allow`.)
                Claim::Held if Instant::now() >= until => break Vec::new(),
                Claim::Held => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        close(state, store, dead, &mut closed);
    }
    Ok(closed)
}

/// An open run that no one else will end.
struct Claimed {
    run: Run,
    /// Held until the run is closed. A run without a spool has no lock: if several processes close it, the store accepts one end.
    _lock: Option<FileLock>,
}

/// The result of trying to claim a run.
enum Claim {
    /// This process closes it.
    Ours(Box<Claimed>),
    /// Its supervisor is alive.
    Alive,
    /// Another process holds its lock.
    Held,
    /// It was never recorded, and its supervisor is dead: this process removes its files.
    Unrecorded(FileLock),
    /// It has been closed; or it was never recorded, but may still be.
    Closed,
}

/// `excludes`: the caller holds the overlap lock of the run's job. `room`: how many unrecorded runs may still be removed.
fn claim(state: &StateDir, store: &Store, run_id: &str, excludes: bool, room: &mut usize) -> Result<Claim, RecoveryError> {
    let Some(run) = store.run(run_id)? else {
        return if *room > 0 { claim_unrecorded(state, Some(store), run_id, room) } else { Ok(Claim::Closed) };
    };
    if run.state != RunState::Running {
        // Only the removal is left, which needs no lock.
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
        // It was closed and removed since it was listed; or its spool is lost, and only the overlap lock shows whether it is alive.
        Err(e) if locks::means_unlocked(&e) => {
            let name = run
                .spec()
                .map_or_else(|_| locks::overlap_name(&run.package, &run.job, run.account.as_deref()), |spec| spec.overlap_name());
            let path = state.lock(&name);
            if !excludes && FileLock::try_take(&path).map_err(|source| RecoveryError::Io { path, source })?.is_none() {
                return Ok(Claim::Alive);
            }
            None
        }
        Err(source) => return Err(RecoveryError::Io { path, source }),
    };
    // Read again under the lock: the run may have ended since `spool/` was read.
    match store.run(run_id)? {
        Some(run) if run.state == RunState::Running => Ok(Claim::Ours(Box::new(Claimed { run, _lock: lock }))),
        _ => {
            remove_spool(state, run_id);
            Ok(Claim::Closed)
        }
    }
}

/// Whether a run's worker is alive in another PID namespace (a container that shares the state directory): it holds its lock, but has no
/// pid here.
pub fn worker_is_elsewhere(state: &StateDir, run: &Run) -> bool {
    matches!(AttemptLock::holder(&state.attempt_lock(&run.run_id, run.attempts)), Ok(Some(Holder::Elsewhere)))
}

/// Whether someone holds a run's lock: its supervisor or, for a few seconds, a command that closes it.
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
    let remains = process::kill_leftovers(state.id(), &ids);
    if remains > 0 {
        tracing::warn!(remains, "killed processes left by dead runs");
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
        // All of them stay open; one is reported.
        Err(error) => closed.stuck.extend(ends.into_iter().next().map(|(claimed, ..)| (claimed.run.run_id, error.into()))),
    }
}

/// Determines how a dead run ended.
fn end_of(state: &StateDir, store: &mut Store, run: &Run) -> Result<(Outcome, RunEnd), RecoveryError> {
    let (run_id, attempt) = (run.run_id.as_str(), run.attempts);
    // Checked before its events are ingested. The lock rules out that the run is just removing its own spool.
    let lost = !state.run_spool(run_id).is_dir();
    remove_temp(&state.attempt_temp(run_id, attempt));
    let ingested = store.ingested(run_id, attempt)?;
    let spool = state.attempt_spool(run_id, attempt);
    let first = ingested.cursor.segment;
    let mut ingest = Ingest::new(run_id, attempt, &spool, ingested);
    let mut all = |store: &mut Store| ingest.all(store, Writing::Dead);
    // A segment with a successor is removed after it was ingested, and from then on the store must not lose its events. The last segment
    // stays until the ends are committed, which makes everything before it durable too.
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
        ingested: ingest.ingested,
        seen,
        printed: has_content(&state.output(run_id, attempt)),
        earlier: earlier(store, run_id, attempt)?,
        lived: Duration::from_micros(lived),
    };
    let (outcome, mut end) = reconstruct_end(dead);
    let outcome = claimed(state, store, run, outcome, lost)?;
    end.terminal.failure = match &outcome {
        Outcome::Completed => None,
        Outcome::Failed(failure) => Some(failure.clone()),
    };
    Ok((outcome, end))
}

/// Decides whether a run counts whose job has succeeded, if its spec has a claim: what the supervisor would have done ([`claim`]). `lost`:
/// the spool, which may have shown that, is missing.
fn claimed(state: &StateDir, store: &Store, run: &Run, outcome: Outcome, lost: bool) -> Result<Outcome, RecoveryError> {
    let run_id = run.run_id.as_str();
    let spec = run.spec();
    // A run without a claim has nothing to decide, whatever its job has left in the place of its spool.
    if spec.as_ref().is_ok_and(|spec| spec.claim.is_none()) {
        return Ok(outcome);
    }
    let path = state.run_spool(run_id);
    // Made only after the job had succeeded: a power loss may have taken the final record.
    let is_marked = claim::is_marked(state, run_id).map_err(|source| RecoveryError::Io { path, source })?;
    if outcome != Outcome::Completed && !is_marked && !lost {
        return Ok(outcome);
    }
    let undecided = |reason: String| RecoveryError::Undecided { run_id: run_id.to_owned(), reason };
    let spec = spec.map_err(|error| undecided(format!("its spec cannot be read: {error}")))?;
    let Some(path) = spec.claim.map(PathBuf::from) else { return Ok(outcome) };
    let token = store.first_event(run_id)?.ok_or_else(|| undecided("its first event is missing".into()))?;
    let claimant = claim::Claimant { run_id, token: &token, host: &run.host };
    let verdict = if is_marked { claim::commit(&path, claimant).map(Some) } else { claim::read(&path, claimant) };
    match verdict.map_err(|source| RecoveryError::Io { path, source })? {
        Some(verdict) if outcome == Outcome::Completed || is_marked => Ok(verdict.outcome()),
        // The spool is missing, but the claim shows that the job has succeeded.
        Some(claim::ClaimVerdict::Won) => Ok(Outcome::Completed),
        None if outcome == Outcome::Completed => Ok(claim::not_asked("its supervisor died before that")),
        _ => Ok(outcome),
    }
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
                // Checked again with the descriptor open, so that the holder is killed and not a process that reuses its pid.
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

/// Returns the runs with a spool directory, and those that are running according to the store.
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

/// Claims a run that is not in the store, or if there is no store.
fn claim_unrecorded(state: &StateDir, store: Option<&Store>, run_id: &str, room: &mut usize) -> Result<Claim, RecoveryError> {
    let path = state.run_lock(run_id);
    let recorded = || match store {
        Some(store) => Ok::<_, StoreError>(store.run(run_id)?.is_some()),
        None => Ok(state.store().exists()),
    };
    match FileLock::try_take_existing(&path) {
        // It was recorded after the first check, and its supervisor has ended or died: the next command handles it.
        Ok(Some(_)) if recorded()? => Ok(Claim::Closed),
        Ok(Some(lock)) => {
            *room -= 1;
            Ok(Claim::Unrecorded(lock))
        }
        Ok(None) => Ok(Claim::Held),
        // The lock is created before the worker: there is no process to find.
        Err(e) if locks::means_unlocked(&e) => {
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

/// Removes the remains of runs whose supervisor died before it recorded them: first processes, then files. Holds the locks until then.
fn remove_unrecorded(state: &StateDir, unrecorded: Vec<(&str, FileLock)>, closed: &mut Closed) {
    if unrecorded.is_empty() {
        return;
    }
    let remains = process::kill_leftovers(state.id(), &unrecorded.iter().map(|(run_id, _)| *run_id).collect());
    if remains > 0 {
        tracing::warn!(remains, "killed processes left by runs that were never recorded");
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
    use crate::store::NewRun;
    use crate::store::tests::{new_run, started};

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
        let closed = close_all_abandoned(&state, &mut store).unwrap();
        assert!(closed.recovered.is_empty() && closed.stuck.is_empty(), "{closed:?}");
        for (run_id, stays) in [(alive, true), (dead, false)] {
            assert_eq!((state.run_spool(run_id).exists(), state.run_logs(run_id).exists()), (stays, stays), "{run_id}");
        }
        let ended = left.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
        assert!(held.is_at(&state.run_lock(alive)));
    }

    const RUN: &str = "0193a000-0000-7000-8000-000000000001";

    /// A run with a claim whose supervisor and worker are dead, and whose spool is empty.
    fn dead_claimant(dir: &Path) -> (StateDir, Store, PathBuf) {
        let state = StateDir::open(&dir.join("state")).unwrap();
        let mut store = Store::open(&state).unwrap();
        let claim = dir.join("claims/0");
        let run = new_run(RUN);
        let spec = RunSpec { claim: Some(claim.display().to_string()), ..run.spec.clone() };
        store.begin_run(&NewRun { spec, ..run }, &started()).unwrap();
        fs::create_dir_all(state.attempt_spool(RUN, 1)).unwrap();
        drop(FileLock::take(&state.run_lock(RUN)).unwrap());
        (state, store, claim)
    }

    fn commit(store: &Store, claim: &Path) {
        let token = store.first_event(RUN).unwrap().unwrap();
        claim::commit(claim, claim::Claimant { run_id: RUN, token: &token, host: "host" }).unwrap();
    }

    /// A power loss takes the final record of a run, but not its mark and its claim.
    #[test]
    fn a_run_with_a_mark_has_succeeded_even_if_its_final_record_is_gone() {
        for before in ["nobody", "this run", "another run"] {
            let dir = tempfile::tempdir().unwrap();
            let (state, mut store, claim) = dead_claimant(dir.path());
            claim::mark(&state, RUN, 1).unwrap();
            match before {
                "this run" => commit(&store, &claim),
                "another run" => {
                    claim::commit(&claim, claim::Claimant { run_id: "other", token: "t", host: "h" }).unwrap();
                }
                _ => {}
            }
            let closed = close_all_abandoned(&state, &mut store).unwrap();
            assert!(closed.stuck.is_empty(), "{closed:?}");
            let run = store.run(RUN).unwrap().unwrap();
            let expected = if before == "another run" { RunState::Superseded } else { RunState::Completed };
            assert_eq!(run.state, expected, "{before}");
        }
    }

    #[test]
    fn without_a_mark_a_run_is_closed_by_its_spool() {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut store, claim) = dead_claimant(dir.path());
        close_all_abandoned(&state, &mut store).unwrap();
        assert_eq!(store.run(RUN).unwrap().unwrap().state, RunState::Failed);
        assert!(!claim.exists());
        // With the spool gone, the claim decides.
        let dir = tempfile::tempdir().unwrap();
        let (state, mut store, claim) = dead_claimant(dir.path());
        commit(&store, &claim);
        fs::remove_dir_all(state.run_spool(RUN)).unwrap();
        close_all_abandoned(&state, &mut store).unwrap();
        assert_eq!(store.run(RUN).unwrap().unwrap().state, RunState::Completed);
    }

    #[test]
    fn a_run_stays_open_if_its_spec_its_token_or_its_mark_cannot_be_read() {
        for (sql, message) in [
            ("UPDATE runs SET spec = '{}'", "its spec cannot be read"),
            ("DELETE FROM events", "its first event is missing"),
            ("", "it is a loop"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (state, mut store, claim) = dead_claimant(dir.path());
            claim::mark(&state, RUN, 1).unwrap();
            if sql.is_empty() {
                let marker = state.run_spool(RUN).join("claiming");
                fs::remove_file(&marker).unwrap();
                std::os::unix::fs::symlink("claiming", &marker).unwrap();
            }
            rusqlite::Connection::open(state.store()).unwrap().execute_batch(sql).unwrap();
            let closed = close_all_abandoned(&state, &mut store).unwrap();
            assert_eq!((closed.recovered.len(), closed.stuck.len()), (0, 1), "{message}: {closed:?}");
            assert!(sql.is_empty() || closed.stuck[0].1.to_string().contains(message), "{closed:?}");
            assert_eq!(store.run(RUN).unwrap().unwrap().state, RunState::Running, "{message}");
            assert!(!claim.exists(), "{message}");
        }
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
