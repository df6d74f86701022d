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

mod dead;
pub mod leftovers;
mod unrecorded;

pub use unrecorded::remove_all_unrecorded;

use crate::host::locks::{self, AttemptLock, FileLock, Holder};
use crate::host::process;
use crate::host::state::StateDir;
use crate::outcome::Outcome;
use crate::plan::{OnOverlap, OverlapKey, RunSpec};
use crate::run::intake::IntakeError;
use crate::run::resume::resume_if_stopped;
use crate::run::traces::remove_spool;
use crate::store::{Run, RunEnd, RunFilter, RunState, Store, StoreError};
use rustix::process::PidfdFlags;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Number of runs to close together: each holds a descriptor for its lock.
const TOGETHER: usize = 250;
/// How long to wait for a predecessor that another process closes: a little longer than that takes if its worker hangs.
const CLOSING: Duration = Duration::from_secs(15);
/// How long a worker may outlive its supervisor.
const WORKER: Duration = Duration::from_secs(5);

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
    /// Its end is committed together with that of another run, and that failed.
    #[error("it is closed together with run {run_id}, and that failed")]
    Together {
        /// The other run.
        run_id: String,
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
    /// Number of processes that these runs had left and that were killed.
    pub killed: usize,
    /// Number of newest events that the store has lost: see [`Store::take_missing`].
    pub missing: u64,
}

impl Closed {
    /// Only what the store has lost, if anything.
    pub(crate) fn missing_of(store: &mut Store) -> Self {
        Self { missing: store.take_missing(), ..Self::default() }
    }

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

fn close_each(state: &StateDir, store: &mut Store, open: &[String]) -> Result<Closed, RecoveryError> {
    let mut closed = Closed::missing_of(store);
    let mut room = unrecorded::AT_ONCE;
    for some in open.chunks(TOGETHER) {
        let (mut held, mut never_recorded) = (Vec::new(), Vec::new());
        for run_id in some {
            match hold(state, store, run_id, false, &mut room) {
                Ok(Hold::Ours(run)) => held.push(*run),
                Ok(Hold::Unrecorded(lock)) => never_recorded.push((run_id.as_str(), lock)),
                Ok(Hold::Alive | Hold::Held | Hold::Closed) => {}
                Err(error) => closed.stuck.push((run_id.clone(), error)),
            }
        }
        close(state, store, held, &mut closed);
        unrecorded::remove(state, never_recorded, &mut closed);
    }
    Ok(closed)
}

/// Closes the dead runs of one job and account. The caller holds the overlap lock, so other live runs are those with policy `allow`.
pub(crate) fn close_predecessors(state: &StateDir, store: &mut Store, spec: &RunSpec) -> Result<Closed, RecoveryError> {
    let mut closed = Closed::missing_of(store);
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
            match hold(state, store, &run_id, same_lock && spec.on_overlap != OnOverlap::Allow, &mut 0)? {
                Hold::Ours(held) => break vec![*held],
                Hold::Alive | Hold::Closed | Hold::Unrecorded(_) => break Vec::new(),
                // Another process is closing it, and may be waiting for its worker, which must not work at the same time as this run. (Or
                // its supervisor is alive but not visible from here: then it would hold the overlap lock, or has policy `allow`.)
                Hold::Held if Instant::now() >= until => break Vec::new(),
                Hold::Held => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        close(state, store, dead, &mut closed);
    }
    Ok(closed)
}

/// An open run that no one else will end.
struct HeldRun {
    run: Run,
    /// Held until the run is closed. A run without a spool has no lock: if several processes close it, the store accepts one end.
    _lock: Option<FileLock>,
}

/// The result of trying to take a run over.
enum Hold {
    /// This process closes it.
    Ours(Box<HeldRun>),
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
fn hold(state: &StateDir, store: &Store, run_id: &str, excludes: bool, room: &mut usize) -> Result<Hold, RecoveryError> {
    let Some(run) = store.run(run_id)? else {
        return if *room > 0 { unrecorded::hold(state, Some(store), run_id, room) } else { Ok(Hold::Closed) };
    };
    if run.state != RunState::Running {
        // Only the removal is left, which needs no lock.
        remove_spool(state, run_id);
        return Ok(Hold::Closed);
    }
    if run.is_supervised() {
        resume_if_stopped(state, &run);
        return Ok(Hold::Alive);
    }
    let path = state.run_lock(run_id);
    let lock = match FileLock::try_take(&path) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => return Ok(Hold::Held),
        // It was closed and removed since it was listed; or its spool is lost, and only the overlap lock shows whether it is alive.
        Err(e) if locks::means_unlocked(&e) => {
            let name = run
                .spec()
                .map_or_else(|_| locks::overlap_name(&run.package, &run.job, run.account.as_deref()), |spec| spec.overlap_name());
            let path = state.lock(&name);
            if !excludes && FileLock::try_take(&path).map_err(|source| RecoveryError::Io { path, source })?.is_none() {
                return Ok(Hold::Alive);
            }
            None
        }
        // In a state directory that this process cannot write, a supervisor that is not visible from here may still hold the lock.
        Err(_) if locks::is_held(&path) => return Ok(Hold::Held),
        Err(source) => return Err(RecoveryError::Io { path, source }),
    };
    // Read again under the lock: the run may have ended since `spool/` was read.
    match store.run(run_id)? {
        Some(run) if run.state == RunState::Running => Ok(Hold::Ours(Box::new(HeldRun { run, _lock: lock }))),
        _ => {
            remove_spool(state, run_id);
            Ok(Hold::Closed)
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
fn close(state: &StateDir, store: &mut Store, dead: Vec<HeldRun>, closed: &mut Closed) {
    let mut quiet = Vec::new();
    for held in dead {
        match wait_for_worker(state, &held.run.run_id, held.run.attempts) {
            Ok(()) => quiet.push(held),
            Err(error) => closed.stuck.push((held.run.run_id, error)),
        }
    }
    if quiet.is_empty() {
        return;
    }
    let ids: HashSet<&str> = quiet.iter().map(|held| held.run.run_id.as_str()).collect();
    let remains = process::kill_leftovers(state.id(), &ids);
    if remains > 0 {
        tracing::warn!(remains, "killed processes left by dead runs");
        closed.killed += remains;
    }
    let mut ends: Vec<(HeldRun, Outcome, RunEnd)> = Vec::new();
    for held in quiet {
        match dead::end_of(state, store, &held.run) {
            Ok((outcome, end)) => ends.push((held, outcome, end)),
            Err(error) => closed.stuck.push((held.run.run_id, error)),
        }
    }
    let pairs: Vec<(&str, &RunEnd)> = ends.iter().map(|(held, _, end)| (held.run.run_id.as_str(), end)).collect();
    match store.end_runs(&pairs) {
        Ok(ended) => {
            for ((held, outcome, _), ended) in ends.into_iter().zip(ended) {
                remove_spool(state, &held.run.run_id);
                if ended {
                    tracing::info!(run_id = held.run.run_id, ?outcome, "closed a run whose supervisor had died");
                    closed.recovered.push(Recovered { run: held.run, outcome });
                }
            }
        }
        // All of them stay open.
        Err(error) => {
            let mut ids = ends.into_iter().map(|(held, ..)| held.run.run_id);
            if let Some(first) = ids.next() {
                let others = ids.map(|run_id| (run_id, RecoveryError::Together { run_id: first.clone() })).collect::<Vec<_>>();
                closed.stuck.push((first, error.into()));
                closed.stuck.extend(others);
            }
        }
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
