//! The life of a run, in the process a person started. Loads no plugin code.
//!
//! Enters (`overlap`), goes through one attempt after the other (`attempt`: one worker each), and decides with [`crate::run::decision`] and
//! the plan's retries. In order, and each step done before the next begins:
//!
//! 1. The overlap lock is held.
//! 2. The run's spool directory exists, with the lock that says that its supervisor lives. From here on, a run that dies is found by
//!    the next command, and so is what it started.
//! 3. A worker is started, which waits for its order. Runs of the same job that died without an end are closed
//!    ([`crate::run::recovery`]). A window that begins at the bookmark begins where that is now. The run, its first attempt and
//!    `job.started` are committed.
//! 4. The worker gets its order, and only now learns of plugin and job; its spool is taken in beside it.
//! 5. The worker and all it started are dead; the rest of the spool is committed.
//! 6. Failed, and worth another attempt: that the attempt is over is committed; after the wait a worker is started, the next attempt is
//!    committed, and the spool of the one before is removed. Then step 4 again.
//! 7. State, terminal event and bookmark are committed, in one transaction.
//! 8. The spool directory is gone, the locks are released.

mod attempt;
pub(crate) mod child;
mod course;
pub(crate) mod dispatch;
mod overlap;
pub mod trial;
mod unrecorded;

use crate::host::backoff::Backoff;
use crate::host::locks::FileLock;
use crate::host::process::{self, Identity};
use crate::host::signals::Signals;
use crate::host::state::{StateDir, StateError, make_dir};
use crate::outcome::{Failure, Outcome};
use crate::packages::library::Library;
use crate::plan::retries::LONGEST_WAIT;
use crate::plan::{OnOverlap, Plan, time};
use crate::run::decision;
use crate::run::ending::{Facts, earlier, run_end};
use crate::run::intake::IntakeError;
use crate::run::{intake, recovery, traces};
use crate::secrets::Secrets;
use crate::store::{AttemptEnd, NewRun, Store, StoreError};
use attempt::Attempt;
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::manifest::JobManifest;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unrecorded::Unrecorded;

/// Everything a run needs from outside.
#[derive(Debug)]
pub struct Site<'a> {
    /// Where the state is kept.
    pub state: &'a StateDir,
    /// Parent of the packages' data directories.
    pub data_root: &'a Path,
    /// The executable that becomes the worker: `/proc/self/exe`, which stays right when the file is replaced.
    pub worker: &'a Path,
    /// Version of lorchestra.
    pub version: &'a str,
    /// The most verbose level that is traced.
    pub trace_level: &'a str,
    /// Bytes that are kept of what an attempt prints, and of what a run traces.
    pub log_max: u64,
    /// Whether an event with a number that loses digits in 64 bits is refused.
    pub strict_numbers: bool,
    /// Values of the plan's secrets, as far as they were found.
    pub secrets: &'a Secrets,
    /// Whether somebody looks at the job's progress, which [`progress`] reads.
    pub progress: bool,
}

/// What the job of a run that goes on has said of its progress last: done, and of how much (0: it does not know).
pub fn progress(state: &StateDir, run_id: &str) -> Option<(u64, u64)> {
    crate::run::worker::meter::read(&state.progress(run_id))
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its id.
    pub run_id: String,
    /// How.
    pub outcome: Outcome,
    /// How long it took, all attempts together.
    pub duration: Duration,
    /// The last attempt.
    pub attempt: u32,
    /// Where that one's output is.
    pub output: PathBuf,
    /// Its terminal event's payload.
    pub payload: Value,
    /// The store, for what is to be done after the run.
    pub store: Store,
}

/// A run that was not begun, as its plan says, because another one goes on.
#[derive(Debug)]
pub struct Skipped {
    /// Its id.
    pub run_id: String,
    /// The run that goes on, where it is known.
    pub held_by: Option<String>,
    /// The store, for what is to be done after the run.
    pub store: Store,
}

/// What became of a plan.
#[derive(Debug)]
pub enum Ran {
    /// It was run, and has ended.
    Ended(Box<Ended>),
    /// It was skipped.
    Skipped(Skipped),
}

/// Why a run could not be begun, or its end not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another run of the same job and account goes on. No run was recorded.
    #[error("{}/{} is running already", .0.package, .0.job)]
    Overlap(Box<Overlap>),
    /// The run was to begin at the bookmark, and another one has moved that to its end or behind it. No run was recorded.
    #[error(
        "the bookmark of {package}/{job} came to {} meanwhile, which is not before until {}",
        time::show(*bookmark),
        time::show(*until)
    )]
    AllDone {
        /// Package of the job.
        package: String,
        /// Name of the job.
        job: String,
        /// Where it is.
        bookmark: DateTime<Utc>,
        /// Where the window ends.
        until: DateTime<Utc>,
    },
    /// A signal came before the run was recorded. No run was recorded.
    #[error("interrupted by {} before the run began", crate::host::signals::signal_name(*signal))]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// Somebody else has closed the run meanwhile: another process took this one for dead.
    #[error("run {run_id} was closed by another process while it ran")]
    ClosedElsewhere {
        /// The run.
        run_id: String,
    },
    /// The library changed between its listing and its start.
    #[error("{path} was replaced while the run was being prepared", path = path.display())]
    Changed {
        /// The library.
        path: PathBuf,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Predecessors could not be closed.
    #[error(transparent)]
    Recovery(#[from] recovery::RecoveryError),
    /// The worker could not be started or waited for.
    #[error("{doing}")]
    Process {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The job has ended, and its end cannot be recorded yet; it is safe in the spool, and the next command records it.
    #[error("the end of run {run_id} could not be recorded")]
    NotRecorded {
        /// The run.
        run_id: String,
        /// Why.
        source: Box<IntakeError>,
    },
}

/// Who is in the way of a run.
#[derive(Debug)]
pub struct Overlap {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Its account.
    pub account: Option<String>,
    /// The run that holds the lock, where it is known.
    pub holder: Option<String>,
    /// How long it was waited for, where that was asked for.
    pub waited: Option<Duration>,
}

/// An attempt that failed, before the next one.
#[derive(Debug)]
pub struct Retrying<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How many there may be in all.
    pub of: u32,
    /// How it failed.
    pub failure: &'a Failure,
    /// How long until the next one.
    pub wait: Duration,
}

/// Told what happens while a run goes on.
pub trait Watcher {
    /// Another run is waited for: this one.
    fn waiting(&mut self, holder: &str);
    /// The run is recorded; its worker has not got its order yet.
    fn begun(&mut self, run_id: &str);
    /// An attempt has failed, and there will be another one.
    fn retrying(&mut self, retrying: &Retrying<'_>);
}

/// Runs `plan` with the sealed `library`, from the lock to the terminal event. `recovered` gets the runs of the same job that
/// had died without an end, and were closed before this one began, also when this one does not.
pub fn run(
    site: &Site<'_>,
    plan: &Plan,
    library: &Library,
    signals: &mut Signals,
    recovered: &mut Vec<recovery::Recovered>,
    watcher: &mut dyn Watcher,
) -> Result<Ran, RunError> {
    let changed = || RunError::Changed { path: library.path().to_owned() };
    let job = library.manifest().job(&plan.job).ok_or_else(changed)?;
    if library.manifest().package != plan.package || library.manifest().version != plan.version {
        return Err(changed());
    }
    let new = new_run(plan, library, job)?;
    match overlap::enter(site.state, plan, &new.run_id, signals, watcher) {
        Ok(lock) => execute(site, plan, library, signals, recovered, watcher, new, lock),
        Err(RunError::Overlap(overlap)) if plan.on_overlap == OnOverlap::Skip => {
            let mut store = Store::open(site.state)?;
            let mut payload = started(site, plan, &new);
            payload["held_by"] = overlap.holder.clone().into();
            store.skip_run(&new, &payload)?;
            Ok(Ran::Skipped(Skipped { run_id: new.run_id, held_by: overlap.holder, store }))
        }
        Err(error) => Err(error),
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a run has")]
fn execute(
    site: &Site<'_>,
    plan: &Plan,
    library: &Library,
    signals: &mut Signals,
    recovered: &mut Vec<recovery::Recovered>,
    watcher: &mut dyn Watcher,
    mut new: NewRun,
    lock: FileLock,
) -> Result<Ran, RunError> {
    let run_id = new.run_id.clone();
    let attempts = Attempt { site, plan, library, run_id: &run_id };
    let (unrecorded, lives) = Unrecorded::begin(site.state, &run_id)?;
    // Started early, and idle until it is sent its order: its own start takes as long as what is done here meanwhile. Returning
    // before the order ends it again, without plugin code ever being loaded.
    let worker = attempts.start_worker(1)?;

    let mut store = Store::open(site.state)?;
    recovery::close_predecessors(site.state, &mut store, plan, recovered)?;
    let moved = overlap::at_bookmark(&store, plan)?;
    let plan = moved.as_ref().unwrap_or(plan);
    new.params = plan.params.clone().into();
    new.since = plan.window.and_then(|window| window.since).map(|since| since.timestamp_micros());
    let attempts = Attempt { site, plan, library, run_id: &run_id };
    make_dir(&site.state.run_logs(&run_id))?;
    let mut files = attempts.make_files(1)?;

    new.started_at = crate::host::clock::now_micros();
    new.worker_pid = Some(worker.pid());
    let clock = Instant::now();
    if let Some(&signal) = signals.endings().first() {
        return Err(RunError::Interrupted { signal });
    }
    store.begin_run(&new, &started(site, plan, &new))?;
    unrecorded.keep();
    watcher.begun(&run_id);

    let not_recorded = |source: IntakeError| RunError::NotRecorded { run_id: run_id.clone(), source: Box::new(source) };
    let closed_elsewhere = || RunError::ClosedElsewhere { run_id: run_id.clone() };
    let mut backoff = Backoff::new(plan.retries.wait, LONGEST_WAIT.max(plan.retries.wait));
    let mut facts = Facts::default();
    let (mut attempt, mut worker) = (1, worker);
    let (outcome, output, bookmark) = loop {
        let output = files.output.clone();
        let ended = attempts.run(attempt, worker, files, store, signals)?;
        store = ended.store;
        facts.add(&ended.facts);
        let failure = match ended.result.map_err(&not_recorded)? {
            Outcome::Failed(failure) if plan.retries.again(attempt, &failure) => failure,
            outcome => break (outcome, output, ended.bookmark),
        };
        let end = AttemptEnd {
            attempt,
            cause: failure.cause.as_str(),
            message: failure.message.clone(),
            ended_at: crate::host::clock::now_micros(),
        };
        if !recorded(|| store.end_attempt(&run_id, &end)).map_err(|e| not_recorded(e.into()))? {
            return Err(closed_elsewhere());
        }
        let wait = backoff.next(None);
        let told = ended.told.or_else(|| {
            watcher.retrying(&Retrying { run_id: &run_id, attempt, of: plan.retries.limit + 1, failure: &failure, wait });
            signals.wait(wait)
        });
        if let Some(signal) = told {
            let _ = ended.note.between(signal);
            break (decision::told_between(signal, attempt, &failure), output, None);
        }
        let next = attempts.start_worker(attempt + 1);
        match next.and_then(|worker| attempts.make_files(attempt + 1).map(|files| (worker, files))) {
            Ok(next) => (worker, files) = next,
            Err(error) => break (decision::not_begun(attempt + 1, &failure, &crate::text::chain(&error)), output, None),
        }
        let begun = recorded(|| store.begin_attempt(&run_id, attempt + 1, crate::host::clock::now_micros(), worker.pid()));
        if !begun.map_err(|e| not_recorded(e.into()))? {
            return Err(closed_elsewhere());
        }
        attempts.remove_spool(attempt);
        attempt += 1;
    };

    facts.duration = clock.elapsed();
    let before = earlier(&store, &run_id, attempt)?;
    let end = run_end(&outcome, attempt, &facts, bookmark, before);
    let ended = recorded(|| store.end_run(&run_id, &end)).map_err(|e| not_recorded(e.into()))?;
    traces::remove_spool(site.state, &run_id);
    drop((lives, lock));
    if !ended {
        return Err(closed_elsewhere());
    }
    let duration = facts.duration;
    Ok(Ran::Ended(Box::new(Ended { run_id, outcome, duration, attempt, output, payload: end.payload, store })))
}

/// Records something of a run, trying again for a moment: another process may keep the store, or be about to free the disk.
fn recorded(mut record: impl FnMut() -> Result<bool, StoreError>) -> Result<bool, StoreError> {
    for _ in 1..intake::LAST_TRIES {
        match record() {
            Err(StoreError::Busy { .. } | StoreError::NotWritable { .. }) => std::thread::sleep(intake::RETRY),
            result => return result,
        }
    }
    record()
}

fn new_run(plan: &Plan, library: &Library, job: &JobManifest) -> Result<NewRun, RunError> {
    let identity = Identity::own().map_err(|source| RunError::Process { doing: "reading this process's identity", source })?;
    let window = plan.window.as_ref();
    let micros = |time: DateTime<Utc>| time.timestamp_micros();
    Ok(NewRun {
        run_id: uuid::Uuid::now_v7().to_string(),
        package: plan.package.clone(),
        job: plan.job.clone(),
        account: plan.account.clone(),
        started_at: crate::host::clock::now_micros(),
        params: plan.params.clone().into(),
        since: window.and_then(|w| w.since).map(micros),
        until: window.map(|w| micros(w.until)),
        plugin_path: library.path().display().to_string(),
        plugin_version: plan.version.clone(),
        plugin_sha256: library.sha256().to_owned(),
        location: format!("{}:{}", job.file, job.line),
        host: process::host(),
        supervisor_pid: identity.pid,
        supervisor_start: identity.start,
        boot_id: identity.boot_id,
        worker_pid: None,
        keeps_bookmark: job.has_since(),
    })
}

/// Payload of `job.started`, and most of that of `job.skipped`.
fn started(site: &Site<'_>, plan: &Plan, run: &NewRun) -> Value {
    let time = |micros: Option<i64>| {
        micros.and_then(DateTime::from_timestamp_micros).map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    };
    json!({
        "parameters": run.params,
        "since": time(run.since),
        "until": time(run.until),
        "host": run.host,
        "lorchestra_version": site.version,
        "plugin_path": run.plugin_path,
        "plugin_version": run.plugin_version,
        "plugin_sha256": run.plugin_sha256,
        "retries": plan.retries.limit,
        "memory_max": plan.memory_max,
    })
}
