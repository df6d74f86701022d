//! Entering: who may run a job of an account now, and what a run does when another one goes on ([`OnOverlap`]).
//!
//! Two files a key ([`crate::host::locks`]). A run that excludes others holds the one for itself, and begins only when nobody shares the
//! other; a run that is allowed beside others shares the other and never waits for anybody. So a run that excludes others never
//! begins beside any, and one that is allowed always begins. The run before may have moved the bookmark that this one is to begin at:
//! [`at_bookmark`].

use super::{Overlap, RunError, Watcher};
use crate::host::locks::{FileLock, beside_name, overlap_name};
use crate::host::signals::Signals;
use crate::host::state::{StateDir, StateError};
use crate::plan::{OnOverlap, Plan};
use crate::run::resume;
use crate::store::bookmark::Key;
use crate::store::{Run, RunFilter, RunState, Store};
use chrono::DateTime;
use std::time::{Duration, Instant};

/// How long a lock is waited for that no live run holds: a run is just beginning or ending.
const HELD_BRIEFLY: Duration = Duration::from_secs(15);
/// Between two looks at a lock: often at first, since most holders are about to go.
const LOOK: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// The right to run, until dropped. [`RunError::Overlap`] when another run goes on and the plan does not say to go on all the same.
pub(super) fn enter(
    state: &StateDir,
    plan: &Plan,
    run_id: &str,
    signals: &mut Signals,
    watcher: &mut dyn Watcher,
) -> Result<FileLock, RunError> {
    let key = (plan.package.as_str(), plan.job.as_str(), plan.account.as_deref());
    let path = state.lock(&overlap_name(key.0, key.1, key.2));
    let beside = state.lock(&beside_name(key.0, key.1, key.2));
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| StateError::Io { path, source }
    };
    let begun = Instant::now();
    if plan.on_overlap == OnOverlap::Allow {
        loop {
            if let Some(lock) = FileLock::try_share(&beside).map_err(io(&beside))? {
                return Ok(lock);
            }
            // Whoever holds it for himself, to see that nobody shares it, lets it go at once. (Unless it is no run that holds it.)
            if begun.elapsed() >= HELD_BRIEFLY {
                let (package, job, account) = (plan.package.clone(), plan.job.clone(), plan.account.clone());
                let waited = Some(begun.elapsed());
                return Err(RunError::Overlap(Box::new(Overlap { package, job, account, holder: None, waited })));
            }
            if let Some(signal) = signals.wait(LOOK[0]) {
                return Err(RunError::Interrupted { signal });
            }
        }
    }
    let mut store = None;
    let mut told = false;
    loop {
        let held = FileLock::try_take(&path).map_err(io(&path))?;
        if let Some(lock) = held {
            // Taken and let go at once: who comes to share it meanwhile waits that long.
            if FileLock::try_take(&beside).map_err(io(&beside))?.is_some() {
                lock.name(run_id);
                return Ok(lock);
            }
        }
        let store = match &store {
            Some(store) => store,
            None => &*store.insert(Store::open(state)?),
        };
        let holder = holder(state, store, key, FileLock::named(&path))?;
        let waited = begun.elapsed();
        let patience = match plan.on_overlap {
            OnOverlap::Wait(limit) => limit,
            _ if holder.is_some() => Some(Duration::ZERO),
            _ => Some(HELD_BRIEFLY),
        };
        if patience.is_some_and(|patience| waited >= patience) {
            let (package, job, account) = (plan.package.clone(), plan.job.clone(), plan.account.clone());
            let waited = matches!(plan.on_overlap, OnOverlap::Wait(_)).then_some(waited);
            return Err(RunError::Overlap(Box::new(Overlap { package, job, account, holder, waited })));
        }
        if let Some(holder) = &holder
            && !std::mem::replace(&mut told, true)
        {
            watcher.waiting(holder);
        }
        let look = (waited / 10).clamp(LOOK[0], LOOK[1]);
        if let Some(signal) = signals.wait(patience.map_or(look, |patience| look.min(patience - waited))) {
            return Err(RunError::Interrupted { signal });
        }
    }
}

/// The plan with its `since` where the bookmark is now, if it asked for that and the bookmark has moved since it was made: by the run
/// that was waited for, or one that was just ending.
pub(super) fn at_bookmark(store: &Store, plan: &Plan) -> Result<Option<Plan>, RunError> {
    if !plan.since_last {
        return Ok(None);
    }
    let key = Key { package: &plan.package, job: &plan.job, account: plan.account.as_deref() };
    let at = store.bookmark(key)?.and_then(|bookmark| DateTime::from_timestamp_micros(bookmark.at));
    let (Some(at), Some(window)) = (at, plan.window) else { return Ok(None) };
    if window.since == Some(at) {
        return Ok(None);
    }
    let all_done =
        || RunError::AllDone { package: plan.package.clone(), job: plan.job.clone(), bookmark: at, until: window.until };
    plan.beginning_at(at).ok_or_else(all_done).map(Some)
}

/// The live run that is in the way: the one that the lock names, or one that was allowed beside others.
fn holder(
    state: &StateDir,
    store: &Store,
    key: (&str, &str, Option<&str>),
    named: Option<String>,
) -> Result<Option<String>, RunError> {
    let lives = |run: &Run| run.state == RunState::Running && run.has_key(key.0, key.1, key.2) && run.is_supervised();
    if let Some(named) = named
        && let Some(run) = store.run(&named)?
        && lives(&run)
    {
        resume::wake(state, &run);
        return Ok(Some(run.run_id));
    }
    let running = store.runs(&RunFilter { running: true, limit: None })?;
    let holder = running.into_iter().find(lives);
    holder.iter().for_each(|run| resume::wake(state, run));
    Ok(holder.map(|run| run.run_id))
}
