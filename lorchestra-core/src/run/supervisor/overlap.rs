//! Acquires the right to run a job for an account, and decides what happens if another run has it ([`OnOverlap`]).
//!
//! Each key has two lock files ([`crate::host::locks`]). An exclusive run locks the first exclusively, and starts only if no run shares the
//! second. A run with policy `allow` takes a shared lock on the second and never waits. So an exclusive run never starts next to another
//! one, and a run with `allow` always starts. A run whose key is its window ([`OverlapKey`]) uses only the first file, which it removes at
//! its end ([`release`]). The previous run may have moved the bookmark at which this one is to start: [`at_bookmark`].

use super::Supervision;
use crate::host::locks::{FileLock, shared_name};
use crate::host::state::{StateDir, StateError};
use crate::plan::{OnOverlap, OverlapKey, RunSpec};
use crate::run::error::{Overlap, RunError};
use crate::run::event::RunEvent;
use crate::run::resume;
use crate::store::bookmark::Key;
use crate::store::{Run, RunFilter, RunState, Store};
use chrono::DateTime;
use std::time::{Duration, Instant};

/// How long to wait for a lock that no live run holds: a run is just starting or ending.
const HELD_BRIEFLY: Duration = Duration::from_secs(15);
/// Intervals between checks of a lock: short at first, since most holders are about to release it.
const LOOK: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// Takes the overlap lock. Returns [`RunError::Overlap`] if another run is running and the policy does not say to wait or to skip.
pub(super) fn enter(run: &mut Supervision<'_>) -> Result<FileLock, RunError> {
    let Supervision { env, run_id, spec, signals, observer, .. } = run;
    let state = env.state;
    let name = spec.overlap_name();
    let path = state.lock(&name);
    let beside = state.lock(&shared_name(&name));
    let by_window = spec.overlap_key == OverlapKey::Window;
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| StateError::Io { path, source }
    };
    let begun = Instant::now();
    if spec.on_overlap == OnOverlap::Allow {
        loop {
            if let Some(lock) = FileLock::try_share(&beside).map_err(io(&beside))? {
                return Ok(lock);
            }
            // An exclusive run that checks for shared holders releases this lock at once. (Unless the holder is not a run.)
            if begun.elapsed() >= HELD_BRIEFLY {
                let (package, job, account) = (spec.package.clone(), spec.job.clone(), spec.account.clone());
                let waited = Some(begun.elapsed());
                return Err(RunError::Overlap(Box::new(Overlap { package, job, account, holder: None, waited })));
            }
            if let Some(signal) = signals.wait(LOOK[0]) {
                return Err(RunError::Interrupted { signal });
            }
        }
    }
    let mut store = None;
    let mut stop_signal = false;
    loop {
        let held = if by_window { FileLock::try_take_at(&path) } else { FileLock::try_take(&path) };
        if let Some(lock) = held.map_err(io(&path))? {
            // Released immediately: a run that wants to share it waits only that long.
            if by_window || FileLock::try_take(&beside).map_err(io(&beside))?.is_some() {
                lock.write_holder(run_id);
                return Ok(lock);
            }
        }
        let store = match &store {
            Some(store) => store,
            None => &*store.insert(Store::open(state)?),
        };
        let holder = holder(state, store, spec, FileLock::read_holder(&path))?;
        let waited = begun.elapsed();
        let patience = match spec.on_overlap {
            OnOverlap::Wait(limit) => limit,
            _ if holder.is_some() => Some(Duration::ZERO),
            _ => Some(HELD_BRIEFLY),
        };
        if patience.is_some_and(|patience| waited >= patience) {
            let (package, job, account) = (spec.package.clone(), spec.job.clone(), spec.account.clone());
            let waited = matches!(spec.on_overlap, OnOverlap::Wait(_)).then_some(waited);
            return Err(RunError::Overlap(Box::new(Overlap { package, job, account, holder, waited })));
        }
        if let Some(holder) = &holder
            && !std::mem::replace(&mut stop_signal, true)
        {
            observer.observe(&RunEvent::Waiting { spec, holder });
        }
        let look = (waited / 10).clamp(LOOK[0], LOOK[1]);
        if let Some(signal) = signals.wait(patience.map_or(look, |patience| look.min(patience - waited))) {
            return Err(RunError::Interrupted { signal });
        }
    }
}

/// Returns the spec with `since` set to the bookmark's current position, if it starts at the bookmark and that has moved since the spec was
/// made: by the run that was waited for, or by one that was just ending.
pub(super) fn at_bookmark(store: &Store, spec: &RunSpec) -> Result<Option<RunSpec>, RunError> {
    if !spec.since_last {
        return Ok(None);
    }
    let key = Key { package: &spec.package, job: &spec.job, account: spec.account.as_deref() };
    let at = store.bookmark(key)?.and_then(|bookmark| DateTime::from_timestamp_micros(bookmark.at));
    let (Some(at), Some(window)) = (at, spec.window) else { return Ok(None) };
    if window.since == Some(at) {
        return Ok(None);
    }
    let all_done =
        || RunError::AllDone { package: spec.package.clone(), job: spec.job.clone(), bookmark: at, until: window.until };
    spec.beginning_at(at).ok_or_else(all_done).map(Some)
}

/// Releases the overlap lock of a run whose end is recorded. The file of a single window is removed first, so that thousands of them do not
/// stay.
pub(super) fn release(state: &StateDir, spec: &RunSpec, lock: FileLock) {
    if spec.overlap_key == OverlapKey::Window {
        let _ = std::fs::remove_file(state.lock(&spec.overlap_name()));
    }
    drop(lock);
}

/// Returns the live run that prevents this one from starting: the one that the lock names, or one with policy `allow`.
fn holder(state: &StateDir, store: &Store, spec: &RunSpec, named: Option<String>) -> Result<Option<String>, RunError> {
    let name = spec.overlap_name();
    let lives = |run: &Run| {
        run.state == RunState::Running
            && run.has_key(&spec.package, &spec.job, spec.account.as_deref())
            && run.spec().is_ok_and(|other| other.overlap_name() == name)
            && run.is_supervised()
    };
    if let Some(named) = named
        && let Some(run) = store.run(&named)?
        && lives(&run)
    {
        resume::resume_if_stopped(state, &run);
        return Ok(Some(run.run_id));
    }
    let running = store.runs(&RunFilter { running: true, limit: None })?;
    let holder = running.into_iter().find(lives);
    holder.iter().for_each(|run| resume::resume_if_stopped(state, run));
    Ok(holder.map(|run| run.run_id))
}
