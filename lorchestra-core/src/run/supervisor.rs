//! Supervises a run, in the process that the user started. Loads no plugin code.
//!
//! Acquires the right to run (`overlap`), runs one attempt after the other (`attempt`, one worker each), and decides with
//! [`crate::run::decision`] and the plan's retries. Each step is complete before the next begins:
//!
//! 1. Take the overlap lock.
//! 2. Create the run's spool directory, and take the lock in it that shows that the supervisor is alive. From now on, if the supervisor
//!    dies, the next command finds the run and everything that it started.
//! 3. Start a worker, which waits for its order. Close runs of the same job that died without an end ([`crate::run::recovery`]). Set a
//!    window that begins at the bookmark to its current position. Commit the run, its first attempt and `job.started`.
//! 4. Send the worker its order, from which it first learns about plugin and job; ingest its spool while it runs.
//! 5. When the worker and everything it started are dead, commit the rest of the spool.
//! 6. If the attempt failed and will be retried: commit its end, start a worker after the delay, commit the next attempt, and remove the
//!    spool of the previous one. Continue with step 4.
//! 7. If the spec has a claim and the job has succeeded, take the claim ([`crate::run::claim`]). Commit state, terminal event and bookmark in one transaction.
//! 8. Remove the spool directory and release the locks.

mod attempt;
pub(crate) mod child;
pub(crate) mod dispatch;
mod overlap;
mod run_files;
mod stop_state;
mod stops;
pub mod trial;

use super::ending::{Facts, earlier, terminal};
use super::error::RunError;
use super::event::{AttemptFailed, Observer, RunEvent};
use super::intake::IntakeError;
use super::{claim, decision, intake, recovery, traces};
use crate::delivery::{Deliveries, DestinationConfig, FlushRequest, Resend};
use crate::host::backoff::Backoff;
use crate::host::clock::now_micros;
use crate::host::locks::FileLock;
use crate::host::process::{self, Identity};
use crate::host::signals::Signals;
use crate::host::state::{StateDir, make_dir};
use crate::outcome::{Failure, Outcome};
use crate::packages::library::Library;
use crate::plan::retries::LONGEST_WAIT;
use crate::plan::{OnOverlap, RunSpec};
use crate::secrets::Secrets;
use crate::store::bookmark::Key;
use crate::store::own::RunOrigin;
use crate::store::{AttemptEnd, Backlog, NewRun, Run, RunEnd, RunStart, RunState, Started, Store, StoreError, Terminal};
use attempt::{AttemptRunner, Prepared};
use lorchestra_plugin_api::results::Results;
use run_files::RunFilesGuard;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Intervals between looks at the delivery of a run that waits for it: the first, and the longest.
const DELIVERED: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// What workers on this host need, independent of the run.
#[derive(Debug, Clone, Copy)]
pub struct WorkerEnv<'a> {
    /// Parent of the packages' data directories.
    pub data_root: &'a Path,
    /// The executable that becomes the worker: `/proc/self/exe`, which stays valid when the file is replaced.
    pub executable: &'a Path,
    /// Version of lorchestra.
    pub version: &'a str,
    /// The most verbose level to trace.
    pub trace_level: &'a str,
    /// Maximum number of bytes to keep of an attempt's output, and of a run's trace.
    pub log_max: u64,
    /// Whether to refuse events with a number that loses precision in 64 bits.
    pub strict_numbers: bool,
    /// Whether an observer exports spans: a job then gets the span of its attempt as `TRACEPARENT`, otherwise that of the caller.
    pub exports_spans: bool,
}

/// The environment of a run.
#[derive(Debug)]
pub struct RunEnv<'a> {
    /// The state directory.
    pub state: &'a StateDir,
    /// The environment of the worker.
    pub worker: WorkerEnv<'a>,
    /// Values of the spec's secrets, as far as they were found.
    pub secrets: &'a Secrets,
    /// The deliveries that must be complete before a run takes its claim, and how long to wait for them.
    pub deliver_first: Option<(&'a Deliveries<'a>, Duration)>,
}

/// Returns the progress that the job of a running run has reported: done, and the total (0 if unknown).
pub fn progress(state: &StateDir, run_id: &str) -> Option<(u64, u64)> {
    crate::run::worker::meter::read(&state.progress(run_id))
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The run's id.
    pub run_id: String,
    /// How it ended, and the measurements.
    pub terminal: Terminal,
    /// Path of the output of its last attempt.
    pub output: PathBuf,
}

/// The result of running a spec.
#[derive(Debug)]
pub enum RunResult {
    /// It ran and has ended.
    Ended(Box<Ended>),
    /// It was recorded as skipped, because another run is running.
    Skipped {
        /// The run's id.
        run_id: String,
        /// The other run, if known.
        held_by: Option<String>,
    },
    /// A run with the requested id has already ended, or another run has completed the member of a group to which this one belongs. Nothing
    /// was started.
    Found {
        /// The run.
        run: Box<Run>,
        /// Its terminal event, unless retention has removed the payload.
        terminal: Option<Box<Terminal>>,
    },
}

impl RunResult {
    /// The run's id.
    pub fn run_id(&self) -> &str {
        match self {
            Self::Ended(ended) => &ended.run_id,
            Self::Skipped { run_id, .. } => run_id,
            Self::Found { run, .. } => &run.run_id,
        }
    }

    pub(crate) fn found(run: Box<Run>, store: &Store) -> Result<Self, StoreError> {
        let terminal = store.terminal(&run.run_id)?.map(Box::new);
        Ok(Self::Found { run, terminal })
    }
}

/// A run that is about to start: its id, its spec, and the bytes to run.
#[derive(Debug)]
pub struct RunOrder<'a> {
    /// The run's id.
    pub run_id: String,
    /// Whether the caller chose the id: then a run with this id that has ended is returned instead of run again.
    pub may_exist: bool,
    /// The spec, which the caller has checked against the library ([`RunSpec::check`]).
    pub spec: RunSpec,
    /// The sealed library.
    pub library: &'a Library,
    /// The store, if the caller has it open.
    pub store: Option<Store>,
}

/// One run, from the overlap lock to its recorded end.
struct Supervision<'a> {
    env: &'a RunEnv<'a>,
    run_id: String,
    may_exist: bool,
    spec: RunSpec,
    library: &'a Library,
    /// Open, until the run is recorded.
    store: Option<Store>,
    signals: &'a mut Signals,
    observer: &'a mut dyn Observer,
}

/// A recorded run whose worker waits for its order.
struct Recorded {
    store: Store,
    prepared: Prepared,
    started: Instant,
    /// Held until the end is recorded: the run's own lock, and the overlap lock.
    locks: [FileLock; 2],
}

/// The result of all attempts.
struct Finished {
    store: Store,
    outcome: Outcome,
    attempt: u32,
    facts: Facts,
    bookmark: Option<i64>,
    results: Results,
    output: PathBuf,
}

/// What follows a failed attempt.
enum Next {
    /// Another attempt, with its worker and files.
    Attempt(Box<Prepared>),
    /// The end of the run, with this outcome.
    End(Outcome),
}

/// Returns the run with this id.
///
/// # Errors
/// If it is a run of another job or account.
pub(crate) fn run_of(store: &Store, run_id: &str, key: Key<'_>) -> Result<Option<Run>, RunError> {
    match store.run(run_id)? {
        Some(run) if !run.has_key(key.package, key.job, key.account) => {
            Err(RunError::OtherJob { run_id: run.run_id, package: run.package, job: run.job })
        }
        run => Ok(run),
    }
}

/// Runs an order, from the lock to the terminal event. Returns the store for the steps that follow the run.
///
/// # Errors
/// If the run could not start, or its end could not be recorded; recorded data is never lost.
pub fn run(
    env: &RunEnv<'_>,
    order: RunOrder<'_>,
    signals: &mut Signals,
    observer: &mut dyn Observer,
) -> Result<(RunResult, Store), RunError> {
    let RunOrder { run_id, may_exist, spec, library, store } = order;
    Supervision { env, run_id, may_exist, spec, library, store, signals, observer }.run()
}

impl Supervision<'_> {
    fn run(mut self) -> Result<(RunResult, Store), RunError> {
        let lock = match overlap::enter(&mut self) {
            Ok(lock) => lock,
            Err(RunError::Overlap(overlap)) if self.spec.on_overlap == OnOverlap::Skip => return self.skip(overlap.holder),
            Err(error) => return Err(error),
        };
        match self.begin(lock)? {
            Ok(recorded) => self.supervise(recorded),
            Err((found, store)) => Ok((RunResult::found(found, &store)?, store)),
        }
    }

    fn skip(mut self, held_by: Option<String>) -> Result<(RunResult, Store), RunError> {
        let mut store = self.open_store()?;
        if let Some(found) = self.found(&store)? {
            return Ok((RunResult::found(found, &store)?, store));
        }
        self.spec.sha256 = Some(self.library.sha256().to_owned());
        let new = self.new_run(None)?;
        store.skip_run(&new, &Started { held_by: held_by.clone(), ..self.started(&new) })?;
        self.observer.observe(&RunEvent::Skipped { run_id: &self.run_id, spec: &self.spec, held_by: held_by.as_deref() });
        Ok((RunResult::Skipped { run_id: self.run_id, held_by }, store))
    }

    /// Steps 2 and 3: everything up to the record of the run. Returns `Err` if a run with this id has already
    /// ended, or another run has done its work.
    fn begin(&mut self, lock: FileLock) -> Result<Result<Recorded, (Box<Run>, Store)>, RunError> {
        let state = self.env.state;
        if self.may_exist {
            // Before touching any file of this run: the files may belong to a run that another supervisor left.
            let mut store = self.open_store()?;
            self.close_predecessors(&mut store)?;
            if let Some(found) = self.found(&store)? {
                return Ok(Err((found, store)));
            }
            self.store = Some(store);
        }
        let run_id = self.run_id.clone();
        let running = || RunError::Running { run_id: run_id.clone() };
        let (guard, lives) = RunFilesGuard::begin(state, &run_id)?.ok_or_else(running)?;
        if let Some(store) = &self.store {
            // If two processes were given the same id, the second one finds here what the first has recorded, perhaps before it was killed.
            // From here on, the files are this run's own.
            match self.found(store) {
                Ok(None) => {}
                Ok(Some(found)) => {
                    guard.keep();
                    traces::remove_spool(state, &run_id);
                    let store = self.open_store()?;
                    return Ok(Err((found, store)));
                }
                Err(error) => {
                    guard.keep();
                    return Err(error);
                }
            }
        }
        // Started early, since starting takes as long as the work below. It stays idle until it receives its order; if this function
        // returns before that, it is killed without having loaded plugin code.
        let worker = self.attempts().start_worker(1)?;

        let mut store = self.open_store()?;
        self.close_predecessors(&mut store)?;
        if let Some(moved) = overlap::at_bookmark(&store, &self.spec)? {
            self.spec = moved;
        }
        // It was computed while the worker started.
        self.spec.sha256 = Some(self.library.sha256().to_owned());
        make_dir(&state.run_logs(&run_id))?;
        let files = self.attempts().make_files(1)?;
        let new = self.new_run(Some(worker.pid()))?;
        let started = Instant::now();
        if let Some(&signal) = self.signals.endings().first() {
            return Err(RunError::Interrupted { signal });
        }
        match store.begin_run(&new, &self.started(&new))? {
            RunStart::Begun => {}
            RunStart::NotNeeded(other) => {
                overlap::release(state, &self.spec, lock);
                return Ok(Err((other, store)));
            }
            RunStart::Cancelled => {
                overlap::release(state, &self.spec, lock);
                return Err(RunError::GroupCancelled { run_id: run_id.clone() });
            }
        }
        guard.keep();
        self.observer.observe(&RunEvent::Started { run_id: &run_id, spec: &self.spec });
        Ok(Ok(Recorded { store, prepared: Prepared { worker, files }, started, locks: [lives, lock] }))
    }

    fn open_store(&mut self) -> Result<Store, StoreError> {
        self.store.take().map_or_else(|| Store::open(self.env.state), Ok)
    }

    fn close_predecessors(&mut self, store: &mut Store) -> Result<(), RunError> {
        let closed = recovery::close_predecessors(self.env.state, store, &self.spec)?;
        if !closed.is_empty() {
            self.observer.observe(&RunEvent::Recovered(&closed));
        }
        match closed.stuck.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Returns the run with this id if it exists and has ended.
    fn found(&self, store: &Store) -> Result<Option<Box<Run>>, RunError> {
        let RunSpec { package, job, account, .. } = &self.spec;
        match run_of(store, &self.run_id, Key { package, job, account: account.as_deref() })? {
            Some(run) if run.state == RunState::Running => Err(RunError::Running { run_id: run.run_id }),
            run => Ok(run.map(Box::new)),
        }
    }

    /// Steps 4 to 8.
    fn supervise(mut self, recorded: Recorded) -> Result<(RunResult, Store), RunError> {
        let Recorded { store, prepared, started, locks } = recorded;
        let Finished { mut store, outcome, attempt, mut facts, bookmark, results, output } =
            self.attempt_until_done(store, prepared)?;
        let outcome = self.claimed(&mut store, outcome, attempt)?;
        if !store.is_current() {
            // The end would be recorded in the file that is gone. The spool stays, and the next command records the end from it.
            return Err(self.not_recorded(StoreError::replaced(&self.env.state.store()).into()));
        }
        facts.duration = started.elapsed();
        let terminal = terminal(&outcome, attempt, &facts, earlier(&store, &self.run_id, attempt)?).with_results(&results);
        let end = RunEnd { ended_at: now_micros(), bookmark, results, terminal };
        let ended = recorded_with_retries(|| store.end_run(&self.run_id, &end)).map_err(|e| self.not_recorded(e.into()))?;
        traces::remove_spool(self.env.state, &self.run_id);
        let [lives, overlap] = locks;
        overlap::release(self.env.state, &self.spec, overlap);
        drop(lives);
        if !ended {
            return Err(self.closed_elsewhere());
        }
        let Self { run_id, spec, observer, .. } = self;
        let terminal = end.terminal;
        observer.observe(&RunEvent::Ended { run_id: &run_id, spec: &spec, terminal: &terminal, output: &output });
        Ok((RunResult::Ended(Box::new(Ended { run_id, terminal, output })), store))
    }

    /// Takes the claim of a run whose job has succeeded, if it has one ([`claim`]).
    fn claimed(&mut self, store: &mut Store, outcome: Outcome, attempt: u32) -> Result<Outcome, RunError> {
        let Some(path) = self.spec.claim.as_ref().filter(|_| outcome == Outcome::Completed).map(PathBuf::from) else {
            return Ok(outcome);
        };
        if let Err(outcome) = self.wait_for_delivery(store) {
            return Ok(outcome);
        }
        let run_id = &self.run_id;
        let failed = |source| RunError::NotClaimed { run_id: run_id.clone(), path: path.clone(), source };
        claim::mark(self.env.state, run_id, attempt).map_err(failed)?;
        let missing = || failed(std::io::Error::other("the run's first event is missing from the store"));
        let token = store.first_event(run_id)?.ok_or_else(missing)?;
        let host = process::host();
        let verdict = claim::commit(&path, claim::Claimant { run_id, token: &token, host: &host }).map_err(failed)?;
        if let claim::ClaimVerdict::Lost(holder) = &verdict {
            recorded_with_retries(|| store.record_claimed(holder, &self.spec)).map_err(|e| self.not_recorded(e.into()))?;
        }
        Ok(verdict.outcome())
    }

    /// Waits until every destination has the run's events. Returns the run's outcome if that does not happen.
    fn wait_for_delivery(&mut self, store: &Store) -> Result<(), Outcome> {
        let Some((deliveries, timeout)) = self.env.deliver_first else { return Ok(()) };
        let until = Instant::now() + timeout;
        // Whatever was wrong with the destination before: this run has to know whether it has the events now.
        let (run_ids, resend) = (vec![self.run_id.clone()], Resend::default());
        deliveries.deliver_now(&FlushRequest { timeout, insist: true, run_ids, resend });
        let mut pause = DELIVERED.0;
        loop {
            let is_missing = |to: &&DestinationConfig| {
                !store.backlog(to.name(), Some(&self.run_id)).is_ok_and(|backlog| backlog == Backlog::default())
            };
            let Some(missing) = deliveries.to().iter().find(is_missing) else { return Ok(()) };
            if Instant::now() >= until {
                return Err(claim::not_asked(&format!("{} did not have its events in time", missing.name())));
            }
            if let Some(signal) = self.signals.wait(pause) {
                return Err(claim::cancelled(signal));
            }
            pause = (pause * 2).min(DELIVERED.1);
        }
    }

    fn attempt_until_done(&mut self, mut store: Store, mut prepared: Prepared) -> Result<Finished, RunError> {
        let wait = self.spec.retries.wait;
        let mut backoff = Backoff::new(wait, LONGEST_WAIT.max(wait));
        let mut facts = Facts::default();
        let mut attempt = 1;
        loop {
            let output = prepared.files.output.clone();
            let attempts = AttemptRunner { env: self.env, spec: &self.spec, library: self.library, run_id: &self.run_id };
            let ended = attempts.run(attempt, prepared, store, self.signals)?;
            store = ended.store;
            facts.add(&ended.facts);
            let failure = match ended.result.map_err(|e| self.not_recorded(e))? {
                Outcome::Failed(failure) if self.spec.retries.allows_retry(attempt, &failure) => failure,
                outcome => {
                    return Ok(Finished {
                        store,
                        outcome,
                        attempt,
                        facts,
                        bookmark: ended.bookmark,
                        results: ended.results,
                        output,
                    });
                }
            };
            store.follow().map_err(|e| self.not_recorded(e.into()))?;
            self.record_attempt_end(&mut store, attempt, &failure, &ended.results)?;
            let next = self.next_attempt(attempt, &failure, ended.stop_signal, backoff.next(None));
            let next = next.inspect_err(|signal| drop(ended.note.between(*signal)));
            match next.unwrap_or_else(|signal| Next::End(decision::cancelled_between_attempts(signal, attempt, &failure))) {
                Next::Attempt(next) => prepared = *next,
                Next::End(outcome) => {
                    return Ok(Finished { store, outcome, attempt, facts, bookmark: None, results: ended.results, output });
                }
            }
            let pid = prepared.worker.pid();
            // The wait may have been long enough for a restore.
            store.follow().map_err(|e| self.not_recorded(e.into()))?;
            let begun = recorded_with_retries(|| store.begin_attempt(&self.run_id, attempt + 1, now_micros(), pid));
            if !begun.map_err(|e| self.not_recorded(e.into()))? {
                return Err(self.closed_elsewhere());
            }
            self.attempts().remove_spool(attempt);
            attempt += 1;
        }
    }

    fn record_attempt_end(&self, store: &mut Store, attempt: u32, failure: &Failure, results: &Results) -> Result<(), RunError> {
        let (message, results) = (failure.message.clone(), results.clone());
        let end = AttemptEnd { attempt, cause: failure.cause, message, ended_at: now_micros(), results };
        match recorded_with_retries(|| store.end_attempt(&self.run_id, &end)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.closed_elsewhere()),
            Err(error) => Err(self.not_recorded(error.into())),
        }
    }

    /// Waits, and prepares the next attempt. Returns `Err` with the signal that stopped the run.
    fn next_attempt(&mut self, attempt: u32, failure: &Failure, stop_signal: Option<i32>, wait: Duration) -> Result<Next, i32> {
        if let Some(signal) = stop_signal {
            return Err(signal);
        }
        let of = self.spec.retries.limit + 1;
        self.observer.observe(&RunEvent::AttemptFailed(AttemptFailed { run_id: &self.run_id, attempt, of, failure, wait }));
        if let Some(signal) = self.signals.wait(wait) {
            return Err(signal);
        }
        let attempts = self.attempts();
        let next = attempts.start_worker(attempt + 1);
        Ok(match next.and_then(|worker| attempts.make_files(attempt + 1).map(|files| Prepared { worker, files })) {
            Ok(next) => Next::Attempt(Box::new(next)),
            Err(error) => Next::End(decision::not_begun(attempt + 1, failure, &crate::text::chain(&error))),
        })
    }

    fn attempts(&self) -> AttemptRunner<'_> {
        AttemptRunner { env: self.env, spec: &self.spec, library: self.library, run_id: &self.run_id }
    }

    fn not_recorded(&self, source: IntakeError) -> RunError {
        RunError::NotRecorded { run_id: self.run_id.clone(), source: Box::new(source) }
    }

    fn closed_elsewhere(&self) -> RunError {
        RunError::ClosedElsewhere { run_id: self.run_id.clone() }
    }

    fn new_run(&self, worker_pid: Option<u32>) -> Result<NewRun, RunError> {
        let identity = |source| RunError::Process { doing: "reading this process's identity", source };
        let job = self.library.manifest().job(&self.spec.job);
        let job = job.ok_or_else(|| RunError::Changed { path: self.library.path().to_owned() })?;
        Ok(NewRun {
            run_id: self.run_id.clone(),
            spec: self.spec.clone(),
            started_at: now_micros(),
            plugin_path: self.library.path().display().to_string(),
            plugin_sha256: self.library.sha256().to_owned(),
            location: format!("{}:{}", job.file, job.line),
            host: process::host(),
            supervisor: Identity::own().map_err(identity)?,
            worker_pid,
            keeps_bookmark: job.has_since() && self.spec.moves_bookmark,
        })
    }

    fn started(&self, new: &NewRun) -> Started {
        let place = RunOrigin {
            host: &new.host,
            lorchestra_version: self.env.worker.version,
            plugin_path: &new.plugin_path,
            plugin_sha256: &new.plugin_sha256,
        };
        Started::of(&self.spec, place)
    }
}

/// Records something about a run, with a few retries: another process may hold the store, or may be about to free disk space.
fn recorded_with_retries(mut record: impl FnMut() -> Result<bool, StoreError>) -> Result<bool, StoreError> {
    for _ in 1..intake::LAST_TRIES {
        match record() {
            Err(StoreError::Busy { .. } | StoreError::NotWritable { .. }) => std::thread::sleep(intake::RETRY),
            result => return result,
        }
    }
    record()
}
