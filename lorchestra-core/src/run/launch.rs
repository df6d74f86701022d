//! Takes a spec to a run that has ended and is delivered: everything that happens around a run, in one place.
//!
//! [`launch`] seals the library and checks the spec against it, closes the runs of dead supervisors, starts delivery, supervises the run,
//! finishes delivery, and applies retention. It reports each step as a [`RunEvent`] to one observer and prints nothing itself. Any source
//! of specs can call it (a command line, a file, an engine); it reads no settings.

use super::claim;
use super::error::RunError;
use super::event::{Observer, RunEvent};
use super::recovery::{self, Closed, RecoveryError};
use super::supervisor::{self, RunEnv, RunOrder, RunResult, WorkerEnv};
use crate::delivery::{Deliveries, DestinationConfig, FlushRequest, Incomplete, Resend};
use crate::host::clock::now_micros;
use crate::host::process;
use crate::host::signals::Signals;
use crate::host::state::{StateDir, StateError};
use crate::packages::catalog::Problem;
use crate::packages::library::Library;
use crate::packages::lockfile::Lockfile;
use crate::plan::{PlanError, RunSpec};
use crate::secrets::Secrets;
use crate::store::bookmark::Key;
use crate::store::refusal::RefusedAt;
use crate::store::retention::{Pruned, Retention};
use crate::store::{Backlog, ClaimHolder, Refusal, RunState, Store};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a command that has run several specs continues to remove old data: one pass removes as much as one of them adds.
const PRUNING: Duration = Duration::from_secs(1);

/// A request to launch a run.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The run's spec.
    pub spec: RunSpec,
    /// Its id; `None` for a new one. If a run with this id has ended, it is returned instead of run again.
    pub run_id: Option<Uuid>,
    /// The file that contains the package.
    pub library: &'a Path,
    /// The lock file, if only locked libraries may run.
    pub lock: Option<&'a Lockfile>,
    /// Values of the spec's secrets.
    pub secrets: &'a Secrets,
}

/// The environment of runs.
#[derive(Debug)]
pub struct Host<'a> {
    /// The state directory, created if it is missing.
    pub state_dir: &'a Path,
    /// The environment of the worker.
    pub worker: WorkerEnv<'a>,
    /// How long to keep data.
    pub retention: &'a Retention,
    /// Where to deliver events.
    pub delivery: Delivery<'a>,
}

/// Delivery during and after a run.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The destinations; if empty, events stay in the store.
    pub to: &'a [DestinationConfig],
    /// Whether the caller requires delivery.
    pub required: bool,
    /// How long to wait for delivery after the run.
    pub timeout: Duration,
}

/// The result of a launch.
#[derive(Debug)]
pub struct Launched {
    /// What became of the spec.
    pub result: RunResult,
    /// Whether delivery was required and events of the run are not delivered.
    pub undelivered: bool,
}

/// Why nothing could be launched, or the end of a run could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The library cannot be used, or may not run.
    #[error("package {package} cannot be used")]
    Unusable {
        /// The package.
        package: String,
        /// The reason and the fix.
        problem: Box<Problem>,
    },
    /// The library differs from the one that the spec requires.
    #[error("the run spec requires {what} {wanted}, but {path} has {found}", path = path.display())]
    OtherLibrary {
        /// `package`, `version` or `sha256`.
        what: &'static str,
        /// The value in the spec.
        wanted: String,
        /// The value in the library.
        found: String,
        /// The library.
        path: PathBuf,
    },
    /// The library no longer has the job.
    #[error("{path} has no job {job}", path = path.display())]
    NoJob {
        /// Name of the job.
        job: String,
        /// The library.
        path: PathBuf,
    },
    /// The working directory in the spec cannot be used.
    #[error("the directory {path} of the run spec cannot be used", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The claim of the window cannot be read.
    #[error("the claim of the window cannot be read: {path}", path = path.display())]
    Claim {
        /// The claim.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The spec does not match its job.
    #[error("the run spec does not fit the job")]
    Spec(#[source] PlanError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Earlier runs could not be checked.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The delivery thread could not be started.
    #[error("the delivery thread cannot be started")]
    Delivery(#[source] io::Error),
    /// The run could not start, or its end could not be recorded.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Looks for an ended run with an id that the caller chose. Needs neither the library nor the secrets of its job, and waits for no other
/// run, so the result of a run is available whatever is installed now. Returns `None` if there is no such run, or if it is still running.
///
/// # Errors
/// If the run belongs to another job or account, or the state cannot be read.
pub fn find(
    run_id: Uuid,
    key: Key<'_>,
    host: &Host<'_>,
    signals: &mut Signals,
    observer: &mut dyn Observer,
) -> Result<Option<Launched>, LaunchError> {
    let Some(state) = StateDir::existing(host.state_dir)?.filter(|state| state.store().exists()) else { return Ok(None) };
    recover(&state, observer)?;
    let store = Store::open(&state).map_err(RunError::Store)?;
    let ended = supervisor::run_of(&store, &run_id.to_string(), key)?.filter(|run| run.state != RunState::Running);
    let Some(run) = ended else { return Ok(None) };
    let closing = Closing::begin(host, state)?;
    let result = RunResult::found(Box::new(run), &store).map_err(RunError::Store)?;
    Ok(Some(closing.finish(result, store, signals, observer)))
}

/// Looks for another run that has the claim of the window of a spec, so that nothing needs to run. Records that run as claimed if it ran on
/// another host, and waits for the delivery of its events in this store: its supervisor may have died after it took the claim. Returns whether a
/// required delivery failed; `None` if no other run has the claim.
///
/// # Errors
/// If the claim cannot be read, or the state directory or the store cannot be used.
pub fn find_claimed(
    spec: &RunSpec,
    run_id: Uuid,
    host: &Host<'_>,
    signals: &mut Signals,
    observer: &mut dyn Observer,
) -> Result<Option<bool>, LaunchError> {
    let Some(holder) = other_holder(spec, run_id)? else { return Ok(None) };
    let state = StateDir::open(host.state_dir)?;
    recover(&state, observer)?;
    let mut store = Store::open(&state).map_err(RunError::Store)?;
    record_claimed(&mut store, spec, &holder, observer)?;
    let closing = Closing::begin(host, state)?;
    Ok(Some(closing.finish_run(&holder.run_id, &mut store, signals, observer)))
}

/// Returns who has the claim of the window of a spec, unless it is this run.
fn other_holder(spec: &RunSpec, run_id: Uuid) -> Result<Option<ClaimHolder>, LaunchError> {
    let Some(path) = spec.claim.as_ref().map(PathBuf::from) else { return Ok(None) };
    let found = claim::holder(&path).map_err(|source| LaunchError::Claim { path, source })?;
    Ok(found.filter(|holder| holder.run_id != run_id.to_string()))
}

fn record_claimed(
    store: &mut Store,
    spec: &RunSpec,
    holder: &ClaimHolder,
    observer: &mut dyn Observer,
) -> Result<(), LaunchError> {
    store.record_claimed(holder, spec).map_err(RunError::Store)?;
    observer.observe(&RunEvent::Claimed { spec, holder: &holder.run_id });
    Ok(())
}

/// Launches a run and waits for its end.
///
/// # Errors
/// Nothing was started; or the end of the run could not be recorded yet, which the next command does.
pub fn launch(
    launch: Launch<'_>,
    host: &Host<'_>,
    signals: &mut Signals,
    observer: &mut dyn Observer,
) -> Result<Launched, LaunchError> {
    let Launch { spec, run_id, library, lock, secrets } = launch;
    let library = seal(library, &spec.package, lock)?;
    fit(&spec, &library)?;
    let state = StateDir::open(host.state_dir)?;
    recover(&state, observer)?;
    let closing = Closing::begin(host, state)?;
    let deliver_first = closing.before_claims();
    let env = RunEnv { state: &closing.state, worker: host.worker, secrets, deliver_first };
    let may_exist = run_id.is_some();
    let run_id = run_id.unwrap_or_else(Uuid::now_v7).to_string();
    let order = RunOrder { run_id, may_exist, spec, library: &library, store: None };
    let (result, store) = supervisor::run(&env, order, signals, observer)?;
    Ok(closing.finish(result, store, signals, observer))
}

/// Records a refused run, delivers its event and runs retention.
///
/// # Errors
/// If the refusal cannot be recorded because the state directory or the store cannot be used.
pub fn refuse(
    refusal: &Refusal,
    host: &Host<'_>,
    signals: &mut Signals,
    observer: &mut dyn Observer,
) -> Result<String, LaunchError> {
    let state = StateDir::open(host.state_dir)?;
    let mut store = Store::open(&state).map_err(RunError::Store)?;
    let run_id = record_refusal(&mut store, refusal, host.worker.version)?;
    observer.observe(&RunEvent::Refused { run_id: &run_id, refusal });
    let closing = Closing::begin(host, state)?;
    closing.finish_run(&run_id, &mut store, signals, observer);
    Ok(run_id)
}

/// Records a refused run without delivery or retention, for commands that have no settings.
///
/// # Errors
/// If the store cannot be written, or this process cannot be identified.
pub fn record_refusal(store: &mut Store, refusal: &Refusal, version: &str) -> Result<String, LaunchError> {
    let run_id = Uuid::now_v7().to_string();
    let own = |source| RunError::Process { doing: "reading this process's identity", source };
    let (process, host) = (process::Identity::own().map_err(own)?, process::host());
    let at = RefusedAt { run_id: &run_id, at: now_micros(), host: &host, process: &process, lorchestra_version: version };
    store.refuse_run(refusal, &at).map_err(RunError::Store)?;
    Ok(run_id)
}

/// Closes the runs of dead supervisors. Reports nothing if there were none.
fn recover(state: &StateDir, observer: &mut dyn Observer) -> Result<(), LaunchError> {
    let closed = recovery::close_abandoned(state)?;
    if !closed.is_empty() {
        observer.observe(&RunEvent::Recovered(&closed));
    }
    Ok(())
}

/// Runs one spec after the other in this process. Runs of dead supervisors are closed once, at the start; each run still closes those of its
/// own key. A library is sealed once, so all runs of it use the same bytes. Delivery, if this process is to deliver, continues
/// from run to run, and retention is applied once, at the end.
#[derive(Debug)]
pub struct Lane<'a> {
    host: &'a Host<'a>,
    state: StateDir,
    sealed: Vec<(PathBuf, Library)>,
    /// Kept from run to run: the first process that opens a store reads its whole log.
    store: Option<Store>,
    /// `None` if the process that gives the specs delivers.
    closing: Option<Closing<'a>>,
}

impl<'a> Lane<'a> {
    /// Opens the state directory and closes the runs of dead supervisors. Delivers nothing.
    ///
    /// # Errors
    /// If the state directory cannot be used, or earlier runs cannot be checked.
    pub fn open(host: &'a Host<'a>, observer: &mut dyn Observer) -> Result<Self, LaunchError> {
        let state = StateDir::open(host.state_dir)?;
        recover(&state, observer)?;
        Ok(Self { host, state, sealed: Vec::new(), store: None, closing: None })
    }

    /// Opens the state directory, closes the runs of dead supervisors, and starts delivery. Call [`Self::finish`] after the last run.
    ///
    /// # Errors
    /// As for [`Self::open`]; or if the delivery threads cannot be started.
    pub fn delivering(host: &'a Host<'a>, observer: &mut dyn Observer) -> Result<Self, LaunchError> {
        let lane = Self::open(host, observer)?;
        let closing = Closing::begin(host, lane.state.clone())?;
        Ok(Self { closing: Some(closing), ..lane })
    }

    /// Runs a spec and waits for its end.
    ///
    /// # Errors
    /// As for [`launch`].
    pub fn run(
        &mut self,
        launch: Launch<'_>,
        signals: &mut Signals,
        observer: &mut dyn Observer,
    ) -> Result<RunResult, LaunchError> {
        let Launch { spec, run_id, library, lock, secrets } = launch;
        if !self.sealed.iter().any(|(path, _)| path == library) {
            self.sealed.push((library.to_owned(), seal(library, &spec.package, lock)?));
        }
        let unsealed = || LaunchError::NoJob { job: spec.job.clone(), path: library.to_owned() };
        let (_, library) = self.sealed.iter().find(|(path, _)| path == library).ok_or_else(unsealed)?;
        fit(&spec, library)?;
        let deliver_first = self.closing.as_ref().and_then(Closing::before_claims);
        let env = RunEnv { state: &self.state, worker: self.host.worker, secrets, deliver_first };
        let may_exist = run_id.is_some();
        let run_id = run_id.unwrap_or_else(Uuid::now_v7).to_string();
        let store = current(&mut self.store);
        let order = RunOrder { run_id, may_exist, spec, library, store };
        let (result, store) = supervisor::run(&env, order, signals, observer)?;
        self.store = Some(store);
        Ok(result)
    }

    /// Returns the store that is open, or opens it.
    fn store(&mut self) -> Result<Store, RunError> {
        current(&mut self.store).map_or_else(|| Ok(Store::open(&self.state)?), Ok)
    }

    /// Looks for another run that has the claim of the window of a spec, as [`find_claimed`] does, but does not wait for delivery. Returns its
    /// id.
    ///
    /// # Errors
    /// If the claim cannot be read, or the store cannot be used.
    pub fn find_claimed(
        &mut self,
        spec: &RunSpec,
        run_id: Uuid,
        observer: &mut dyn Observer,
    ) -> Result<Option<String>, LaunchError> {
        let Some(holder) = other_holder(spec, run_id)? else { return Ok(None) };
        let mut store = self.store()?;
        record_claimed(&mut store, spec, &holder, observer)?;
        self.store = Some(store);
        Ok(Some(holder.run_id))
    }

    /// Waits until the events of these runs and of refused ones are delivered, and applies retention. Returns for each whether a required
    /// delivery failed.
    ///
    /// # Errors
    /// If the store cannot be used.
    pub fn finish(
        mut self,
        run_ids: &[String],
        signals: &mut Signals,
        observer: &mut dyn Observer,
    ) -> Result<Vec<bool>, LaunchError> {
        let Some(closing) = self.closing.take() else { return Ok(vec![false; run_ids.len()]) };
        let mut store = self.store()?;
        Ok(closing.finish_after(run_ids, &mut store, signals, observer))
    }

    /// The state directory.
    pub fn state(&self) -> &StateDir {
        &self.state
    }
}

/// Takes the store that is open. Not one whose file was replaced: what is written to the old file would be lost.
fn current(store: &mut Option<Store>) -> Option<Store> {
    store.take().filter(Store::is_current)
}

/// Does `work` while events are delivered, then waits for the rest of all runs' events and applies retention. Returns whether a required
/// delivery failed.
///
/// # Errors
/// If the state directory or the store cannot be used, or the error of `work`.
pub fn around<T>(
    host: &Host<'_>,
    signals: &mut Signals,
    observer: &mut dyn Observer,
    work: impl FnOnce(&StateDir, &mut Store, &mut Signals, &mut dyn Observer) -> Result<T, LaunchError>,
) -> Result<(T, bool), LaunchError> {
    let state = StateDir::open(host.state_dir)?;
    recover(&state, observer)?;
    let closing = Closing::begin(host, state.clone())?;
    let mut store = Store::open(&state).map_err(RunError::Store)?;
    let missing = Closed::missing_of(&mut store);
    if !missing.is_empty() {
        observer.observe(&RunEvent::Recovered(&missing));
    }
    let done = work(&state, &mut store, signals, observer)?;
    let undelivered = closing.finish_after(&[], &mut store, signals, observer).contains(&true);
    Ok((done, undelivered))
}

/// What happens during and after a run: delivery, then retention.
#[derive(Debug)]
struct Closing<'a> {
    host: &'a Host<'a>,
    state: StateDir,
    deliveries: Deliveries<'a>,
}

impl<'a> Closing<'a> {
    fn begin(host: &'a Host<'a>, state: StateDir) -> Result<Self, LaunchError> {
        let deliveries = Deliveries::start(host.delivery.to, &state).map_err(LaunchError::Delivery)?;
        Ok(Self { host, state, deliveries })
    }

    fn finish(self, result: RunResult, mut store: Store, signals: &mut Signals, observer: &mut dyn Observer) -> Launched {
        if let RunResult::Found { run, terminal } = &result {
            observer.observe(&RunEvent::Found { run, terminal: terminal.as_deref() });
        }
        let undelivered = self.finish_run(result.run_id(), &mut store, signals, observer);
        Launched { result, undelivered }
    }

    /// What a run waits for before it takes its claim, if delivery is required.
    fn before_claims(&self) -> Option<(&Deliveries<'a>, Duration)> {
        let Delivery { required, timeout, .. } = self.host.delivery;
        required.then_some((&self.deliveries, timeout))
    }

    /// Waits for the delivery of a run's events. Returns whether a required delivery failed.
    fn finish_run(self, run_id: &str, store: &mut Store, signals: &mut Signals, observer: &mut dyn Observer) -> bool {
        self.finish_after(&[run_id.to_owned()], store, signals, observer).contains(&true)
    }

    /// Waits for the delivery of the events of these runs, or of all events. Returns for each run, or for all together, whether a required
    /// delivery failed.
    fn finish_after(
        self,
        run_ids: &[String],
        store: &mut Store,
        signals: &mut Signals,
        observer: &mut dyn Observer,
    ) -> Vec<bool> {
        let Self { host, state, deliveries } = self;
        let undelivered = finish_delivery(deliveries, &host.delivery, (run_ids, &*store), signals, observer);
        let mut pruned = store.prune(&state, host.retention, now_micros());
        // One pass is for the data of one run.
        let until = Instant::now() + PRUNING;
        while run_ids.len() != 1
            && Instant::now() < until
            && let Ok(so_far) = &mut pruned
            && let Ok(more) = store.prune(&state, host.retention, now_micros())
            && more != Pruned::default()
        {
            *so_far += more;
        }
        observer.observe(&RunEvent::Pruned(&pruned));
        undelivered
    }
}

/// Seals the bytes that will run. If a lock file is given, they must be in it.
///
/// # Errors
/// If the library cannot be used, or the lock file does not allow it.
pub fn seal(path: &Path, package: &str, lock: Option<&Lockfile>) -> Result<Library, LaunchError> {
    Library::open(path)
        .and_then(|library| lock.map_or(Ok(()), |lock| lock.allows(&library)).map(|()| library))
        .map_err(|fault| LaunchError::Unusable { package: package.to_owned(), problem: Box::new(fault.at(path.to_owned())) })
}

/// Checks a spec against the library that is to run it.
///
/// # Errors
/// If it is not the library that the spec requires, or the spec does not match the job in it.
pub fn fit(spec: &RunSpec, library: &Library) -> Result<(), LaunchError> {
    let manifest = library.manifest();
    // The checksum is asked for only if the spec has one: it may still be being computed.
    let sha256 = spec.sha256.as_deref().map(|wanted| ("sha256", wanted, library.sha256()));
    let named = [("package", spec.package.as_str(), manifest.package.as_str()), ("version", &spec.version, &manifest.version)];
    for (what, wanted, found) in named.into_iter().chain(sha256) {
        if wanted != found {
            let (wanted, found, path) = (wanted.to_owned(), found.to_owned(), library.path().to_owned());
            return Err(LaunchError::OtherLibrary { what, wanted, found, path });
        }
    }
    let no_job = || LaunchError::NoJob { job: spec.job.clone(), path: library.path().to_owned() };
    spec.check(manifest.job(&spec.job).ok_or_else(no_job)?).map_err(LaunchError::Spec)?;
    let Some(path) = spec.directory.as_ref().map(PathBuf::from) else { return Ok(()) };
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(LaunchError::Directory { path, source: io::ErrorKind::NotADirectory.into() }),
        Err(source) => Err(LaunchError::Directory { path, source }),
    }
}

/// Finishes delivery. Returns for each of these runs, or for all events together, whether it was required and is incomplete at any destination.
fn finish_delivery(
    deliveries: Deliveries<'_>,
    delivery: &Delivery<'_>,
    (run_ids, store): (&[String], &Store),
    signals: &mut Signals,
    observer: &mut dyn Observer,
) -> Vec<bool> {
    let Delivery { required, timeout, .. } = *delivery;
    let request = FlushRequest { timeout, insist: required, run_ids: run_ids.to_vec(), resend: Resend::default() };
    let of: Vec<Option<&str>> =
        if run_ids.is_empty() { vec![None] } else { run_ids.iter().map(|run_id| Some(run_id.as_str())).collect() };
    let mut undelivered = vec![false; of.len()];
    for (to, report) in deliveries.finish(&request, Some(signals)) {
        let pending = store.pending(to.name());
        observer.observe(&RunEvent::Delivered { to, report: &report, pending: pending.as_ref().copied(), required });
        let elsewhere = matches!(report.trouble, Some(Incomplete::IntoAnother(_)));
        for (run_id, undelivered) in of.iter().zip(&mut undelivered).filter(|_| required) {
            // If the backlog cannot be read, delivery is not confirmed.
            *undelivered |= elsewhere || !store.backlog(to.name(), *run_id).is_ok_and(|own| own == Backlog::default());
        }
    }
    undelivered
}
