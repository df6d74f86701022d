//! The life of a run, in the process a person started. Loads no plugin code.
//!
//! Talks to one worker (`child`) through the dispatcher (`dispatch`), to the store through the intake
//! ([`intake`]), and decides with [`crate::outcome`]. In order, and each step done before the next begins:
//!
//! 1. The overlap lock is held. Runs of the same job that died without an end are closed ([`crate::recovery`]).
//!    A worker is started, which waits for its order.
//! 2. The run's spool directory exists. From here on, a run that dies is found by the next command.
//! 3. The run, its first attempt and `job.started` are committed.
//! 4. The worker gets its order, and only now learns of plugin and job; its spool is taken in beside it.
//! 5. The worker and all it started are dead; the rest of the spool is committed.
//! 6. State and terminal event are committed, in one transaction.
//! 7. The spool directory is gone, the lock is released.

pub(crate) mod child;
pub(crate) mod dispatch;
pub mod intake;
pub(crate) mod note;
mod unrecorded;

use crate::library::Library;
use crate::locks::{OverlapLock, overlap_name};
use crate::log::Log;
use crate::outcome::{Death, Evidence, Outcome, decide};
use crate::plan::Plan;
use crate::process::{self, Identity};
use crate::recovery;
use crate::signals::Signals;
use crate::spool::record::Final;
use crate::state::{StateDir, StateError, make_dir};
use crate::store::{NewRun, Run, RunEnd, RunState, Store, StoreError};
use crate::worker::order::Order;
use child::{ProcessorTime, Worker};
use dispatch::{Limits, dispatch};
use intake::{Intake, IntakeError};
use lorchestra_plugin_api::invoke::Call;
use note::Note;
use rustix::pipe::PipeFlags;
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
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its id.
    pub run_id: String,
    /// How.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
    /// Where its output is.
    pub output: PathBuf,
    /// Its terminal event's payload.
    pub payload: Value,
    /// The store, for what is to be done after the run.
    pub store: Store,
}

/// Why a run could not be begun, or its end not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another run of the same job and account goes on. No run was recorded.
    #[error("{}/{} is running already", .0.package, .0.job)]
    Overlap(Box<Overlap>),
    /// A signal came before the run was recorded. No run was recorded.
    #[error("interrupted by {} before the run began", crate::outcome::signal_name(*signal))]
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
}

/// Called once the run is recorded, before its worker gets its order: for whoever wants to follow it.
pub type OnStart<'a> = &'a mut dyn FnMut(&str);

/// How long a lock is waited for that no live run holds: recovery closes a run with it, or a run is just beginning or ending.
const HELD_BRIEFLY: Duration = Duration::from_secs(15);

/// Runs `plan` with the sealed `library`, from the lock to the terminal event. `recovered` gets the runs of the same job that
/// had died without an end, and were closed before this one began, also when this one does not.
pub fn run(
    site: &Site<'_>,
    plan: &Plan,
    library: &Library,
    signals: &mut Signals,
    recovered: &mut Vec<recovery::Recovered>,
    on_start: OnStart<'_>,
) -> Result<Ended, RunError> {
    let process = |doing| move |source| RunError::Process { doing, source };
    let changed = || RunError::Changed { path: library.path().to_owned() };
    let job = library.manifest().job(&plan.job).ok_or_else(changed)?;
    if library.manifest().package != plan.package || library.manifest().version != plan.version {
        return Err(changed());
    }
    let account = plan.account.as_deref();
    let lock = take_lock(site.state, plan, signals)?;

    let run_id = uuid::Uuid::now_v7().to_string();
    let attempt = 1;
    let environment = [("LORCHESTRA_RUN_ID", run_id.clone()), ("LORCHESTRA_ATTEMPT", attempt.to_string())];
    let title = format!("{}/{}", plan.package, plan.job);
    // Started early, and idle until it is sent its order: its own start takes as long as what is done here meanwhile. Returning
    // before the order ends it again, without plugin code ever being loaded.
    let mut worker = Worker::start(site.worker, library, &title, &environment).map_err(process("starting the worker"))?;

    let mut store = Store::open(site.state)?;
    recovery::close_predecessors(site.state, &mut store, &plan.package, &plan.job, account, &lock, recovered)?;
    let spool = site.state.attempt_spool(&run_id, attempt);
    let unrecorded = Unrecorded::new(site.state, &run_id);
    make_dir(&spool)?;
    make_dir(&site.state.run_logs(&run_id))?;
    let output = site.state.output(&run_id, attempt);
    let mut log = Log::open(&output, site.log_max).map_err(|source| StateError::Io { path: output.clone(), source })?;
    let note_path = site.state.attempt_note(&run_id, attempt);
    let note = Note::create(&note_path).map_err(|source| StateError::Io { path: note_path, source })?;

    let identity = Identity::own().map_err(process("reading this process's identity"))?;
    let started_at = crate::now_micros();
    let clock = Instant::now();
    let window = plan.window.as_ref();
    let micros = |time: chrono::DateTime<chrono::Utc>| time.timestamp_micros();
    let new = NewRun {
        run_id: run_id.clone(),
        package: plan.package.clone(),
        job: plan.job.clone(),
        account: plan.account.clone(),
        started_at,
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
        worker_pid: worker.pid(),
    };
    if let Some(&signal) = signals.endings().first() {
        return Err(RunError::Interrupted { signal });
    }
    store.begin_run(&new, &started(site, &new))?;
    unrecorded.keep();
    on_start(&run_id);

    worker.order(&Order {
        library_fd: worker.library_fd(),
        library_path: library.path().to_owned(),
        job: plan.job.clone(),
        spool: spool.clone(),
        lock: site.state.attempt_lock(&run_id, attempt),
        trace: site.state.trace(&run_id),
        log_max: site.log_max,
        call: Call {
            run_id: run_id.clone(),
            attempt,
            package: plan.package.clone(),
            data_root: site.data_root.to_owned(),
            trace_level: site.trace_level.to_owned(),
            params: plan.params.clone(),
        },
    });
    let (seen_read, seen_write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| process("making a pipe")(e.into()))?;
    let intake = Intake::start(store, &run_id, attempt, &spool, seen_write).map_err(process("starting the intake thread"))?;
    let limits = Limits { timeout: plan.timeout, grace: plan.grace };
    let seen = dispatch(&mut worker, &limits, signals, &seen_read, &note, &mut log).map_err(process("waiting for the worker"))?;
    let (mut store, taken) = intake.finish().map_err(process("ending the intake thread"))?;
    let not_recorded = |source: IntakeError| RunError::NotRecorded { run_id: run_id.clone(), source: Box::new(source) };
    let taken = taken.map_err(not_recorded)?;

    let max_rss_kib = match &taken.end {
        Some(Final::Returned { max_rss_kib, .. }) => *max_rss_kib,
        _ => None,
    };
    let evidence = Evidence {
        ending: seen.ending,
        end: taken.end,
        entered: taken.entered,
        death: seen.death,
        damaged: taken.damaged,
        fault: seen.fault,
        printed: has_content(&output),
    };
    let outcome = decide(&evidence);
    let facts =
        Facts { duration: clock.elapsed(), time: seen.time, max_rss_kib, damaged: evidence.damaged, output_lost: log.lost() };
    let end = run_end(&outcome, attempt, &facts);
    let ended = record(&mut store, &run_id, &end).map_err(|e| not_recorded(e.into()))?;
    recovery::remove_spool(site.state, &run_id);
    drop(lock);
    if !ended {
        return Err(RunError::ClosedElsewhere { run_id });
    }
    Ok(Ended { run_id, outcome, duration: facts.duration, output, payload: end.payload, store })
}

/// Records the end, trying again for a moment: another process may keep the store, or be about to free the disk.
fn record(store: &mut Store, run_id: &str, end: &RunEnd) -> Result<bool, StoreError> {
    for _ in 1..intake::LAST_TRIES {
        match store.end_run(run_id, end) {
            Err(StoreError::Busy { .. } | StoreError::NotWritable { .. }) => std::thread::sleep(intake::RETRY),
            result => return result,
        }
    }
    store.end_run(run_id, end)
}

/// The overlap lock. Held by a live run: that is an overlap. Held, and no live run has it: recovery works on a predecessor, or
/// a run is just beginning or ending, and it is free in a moment.
fn take_lock(state: &StateDir, plan: &Plan, signals: &mut Signals) -> Result<OverlapLock, RunError> {
    let path = state.lock(&overlap_name(&plan.package, &plan.job, plan.account.as_deref()));
    let mut store = None;
    let until = Instant::now() + HELD_BRIEFLY;
    loop {
        if let Some(lock) = OverlapLock::try_take(&path).map_err(|source| StateError::Io { path: path.clone(), source })? {
            return Ok(lock);
        }
        let store = match &store {
            Some(store) => store,
            None => &*store.insert(Store::open(state)?),
        };
        let running = store.runs(&crate::store::RunFilter { running: true, limit: None })?;
        let mut of_key = running.into_iter().filter(|run| run.has_key(&plan.package, &plan.job, plan.account.as_deref()));
        let holder = of_key.find(Run::is_supervised);
        if holder.is_some() || Instant::now() >= until {
            let (package, job, account) = (plan.package.clone(), plan.job.clone(), plan.account.clone());
            let holder = holder.map(|run| run.run_id);
            return Err(RunError::Overlap(Box::new(Overlap { package, job, account, holder })));
        }
        if let Some(&signal) = signals.endings().first() {
            return Err(RunError::Interrupted { signal });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a log has something in it.
pub(crate) fn has_content(log: &Path) -> bool {
    std::fs::metadata(log).is_ok_and(|meta| meta.len() > 0)
}

/// What is measured of an attempt.
struct Facts {
    duration: Duration,
    time: ProcessorTime,
    max_rss_kib: Option<u64>,
    damaged: u64,
    /// Bytes of what the job printed that the disk did not take.
    output_lost: u64,
}

/// Payload of `job.started`.
fn started(site: &Site<'_>, run: &NewRun) -> Value {
    let time = |micros: Option<i64>| {
        micros.and_then(chrono::DateTime::from_timestamp_micros).map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
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
    })
}

/// State and terminal event of an outcome.
fn run_end(outcome: &Outcome, attempt: u32, facts: &Facts) -> RunEnd {
    let mut payload = json!({
        "attempt": attempt,
        "duration_ms": u64::try_from(facts.duration.as_millis()).unwrap_or(u64::MAX),
        "user_ms": facts.time.user_ms,
        "system_ms": facts.time.system_ms,
        "max_rss_kib": facts.max_rss_kib,
    });
    if facts.damaged > 0 {
        payload["damaged"] = facts.damaged.into();
    }
    if facts.output_lost > 0 {
        payload["output_lost"] = facts.output_lost.into();
    }
    let (state, cause, message, job_result) = match outcome {
        Outcome::Completed => (RunState::Completed, None, None, None),
        Outcome::Failed(failure) => {
            payload["cause"] = failure.cause.as_str().into();
            payload["message"] = failure.message.clone().into();
            payload["permanent"] = failure.permanent.into();
            payload["signal"] = failure.signal.into();
            payload["exit_code"] = failure.exit_code.into();
            payload["job_result"] = failure.job_result.clone().into();
            (RunState::Failed, Some(failure.cause.as_str()), Some(failure.message.clone()), failure.job_result.clone())
        }
    };
    RunEnd { state, cause, message, job_result, ended_at: crate::now_micros(), attempt, payload }
}

/// The end of a run whose supervisor is dead: what the spool says, and what the supervisor had noted.
pub(crate) fn unseen_end(
    taken: crate::store::event::Taken,
    seen: note::Seen,
    printed: bool,
    attempt: u32,
    duration: Duration,
) -> (Outcome, RunEnd) {
    let max_rss_kib = match &taken.end {
        Some(Final::Returned { max_rss_kib, .. }) => *max_rss_kib,
        _ => None,
    };
    let evidence = Evidence {
        ending: seen.ending,
        end: taken.end,
        entered: taken.entered,
        death: seen.death.unwrap_or(Death::Unseen),
        damaged: taken.damaged,
        fault: seen.fault,
        printed,
    };
    let outcome = decide(&evidence);
    let facts = Facts { duration, time: ProcessorTime::default(), max_rss_kib, damaged: evidence.damaged, output_lost: 0 };
    let end = run_end(&outcome, attempt, &facts);
    (outcome, end)
}
