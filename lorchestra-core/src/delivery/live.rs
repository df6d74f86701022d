//! The delivery threads, one for each destination: each delivers while a job runs, and drains the rest on request. The only place with an
//! async runtime. Threads are independent: a slow destination delays no other.
//!
//! One process at a time delivers from a store to a destination: the holder of its lock sends the events of all runs. A run that finds the
//! lock held leaves its events to the holder, which checks again for new ones after it has released the lock, so that no event is left
//! between the two.
//!
//! Has its own store connection, and reports nothing before [`Live::finish`].

use super::deliverer::{Deliverer, Progress, Stopped};
use super::destination::{DeliveryError, Destination};
use super::policy::CIRCUIT;
use super::session::Session;
use crate::host::clock::timespec;
use crate::host::locks::FileLock;
use crate::host::process;
use crate::host::signals::Signals;
use crate::host::state::StateDir;
use crate::store::{Circuit, Outbox, Store, StoreError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Interval between checks for new events.
const LOOK: Duration = Duration::from_millis(250);
/// Signal to report before the actual one is known.
const TERM: i32 = 15;
/// How long events may accumulate into a batch while the job runs.
const GATHER: Duration = Duration::from_secs(1);
/// Interval between checks of a held lock, or of the store that its holder changes.
const WAIT: Duration = Duration::from_millis(100);
/// How long the thread may exceed its deadline before it is left to the end of the process.
const MARGIN: Duration = Duration::from_secs(2);

/// What to deliver before the process ends.
#[derive(Debug, Clone)]
pub struct FlushRequest {
    /// Time limit.
    pub timeout: Duration,
    /// Keep retrying until then, regardless of the circuit breaker, and wait for another process that delivers.
    pub insist: bool,
    /// What to wait for while another process delivers: the events of these runs, or all if there are none here.
    pub run_ids: Vec<String>,
    /// What to send in addition to pending events.
    pub resend: Resend,
}

/// What a delivery thread is asked to do.
#[derive(Debug)]
enum Ask {
    /// Deliver what is pending without waiting for more, and continue afterwards.
    AtOnce(FlushRequest),
    /// Deliver the rest, and end.
    Finish(FlushRequest),
}

/// What to resend on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resend {
    /// Batches with an unknown result, which may then be in the table twice.
    pub uncertain: bool,
    /// Events that the server refused.
    pub refused: bool,
}

/// Why not everything was delivered.
#[derive(Debug)]
pub enum Incomplete {
    /// A permanent error.
    Blocked(DeliveryError),
    /// The destination does not respond, or fails; no process retries for a minute.
    Unreachable(String),
    /// The time limit was reached; with the last error, if any.
    Deadline(Option<String>),
    /// This signal stopped it.
    Interrupted(i32),
    /// Another process is delivering.
    Elsewhere {
        /// If it is stopped (SIGSTOP, Ctrl-Z): its process id, and what to do.
        stopped: Option<String>,
    },
    /// Another process has delivered, but to this target rather than ours.
    IntoAnother(String),
    /// The store failed.
    Store(StoreError),
    /// The thread itself failed.
    Thread(String),
}

/// The result of delivery.
#[derive(Debug)]
pub struct Report {
    /// What this process has delivered since its start.
    pub progress: Progress,
    /// `None` if nothing was pending at the end.
    pub trouble: Option<Incomplete>,
}

/// The running thread.
#[derive(Debug)]
pub struct Live {
    requests: UnboundedSender<Ask>,
    done: OwnedFd,
    thread: JoinHandle<Report>,
}

impl Live {
    /// Starts delivering to the destination with this name, in a separate thread. `make` is called in the thread, once there is something
    /// to deliver.
    pub fn start<D: Destination>(
        state: &StateDir,
        name: &'static str,
        make: impl FnOnce() -> Result<D, DeliveryError> + Send + 'static,
    ) -> io::Result<Self> {
        let (requests, receiver) = unbounded_channel();
        let (done, ended) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let state = state.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("to-{name}")).spawn(move || {
            // Closed when the thread ends, for whatever reason.
            let _ended = ended;
            runtime.block_on(live(&state, name, make, receiver))
        })?;
        Ok(Self { requests, done, thread })
    }

    /// Asks the thread to deliver what is pending now, and returns at once. With [`FlushRequest::insist`], it keeps trying until the time
    /// limit.
    pub fn deliver_now(&self, request: FlushRequest) {
        let _ = self.requests.send(Ask::AtOnce(request));
    }

    /// Delivers the rest to each destination in parallel, and ends the threads. Returns a report for each, in order. A signal that stops
    /// the process stops this too.
    pub fn finish(lives: Vec<Self>, request: &FlushRequest, mut signals: Option<&mut Signals>) -> Vec<Report> {
        let mut until = Instant::now() + request.timeout + MARGIN;
        let mut signal = None;
        let mut threads: Vec<FinishingThread> = lives.into_iter().map(|live| live.ask(request)).collect();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || threads.iter().all(|thread| thread.ended) {
                break;
            }
            let wait = timespec(left);
            let open = || threads.iter().filter(|thread| !thread.ended);
            let mut fds: Vec<PollFd<'_>> = open().map(|thread| PollFd::new(&thread.done, PollFlags::IN)).collect();
            if let Some(signals) = &signals {
                fds.push(PollFd::new(&**signals, PollFlags::IN));
            }
            let _ = poll(&mut fds, Some(&wait));
            let ended: Vec<bool> = fds.iter().take(open().count()).map(|fd| !fd.revents().is_empty()).collect();
            for (thread, ended) in threads.iter_mut().filter(|thread| !thread.ended).zip(ended) {
                thread.ended = ended;
            }
            let ending = signals.as_mut().and_then(|signals| signals.endings().first().copied());
            if let (None, Some(ending)) = (signal, ending) {
                // Closing the channels stops the threads.
                threads.iter_mut().for_each(|thread| thread.requests = None);
                signal = Some(ending);
                until = Instant::now() + MARGIN;
            }
        }
        threads.into_iter().map(|thread| thread.report(signal)).collect()
    }

    fn ask(self, request: &FlushRequest) -> FinishingThread {
        let _ = self.requests.send(Ask::Finish(request.clone()));
        FinishingThread { requests: Some(self.requests), done: self.done, thread: self.thread, ended: false }
    }
}

/// A thread that was asked to finish.
struct FinishingThread {
    requests: Option<UnboundedSender<Ask>>,
    done: OwnedFd,
    thread: JoinHandle<Report>,
    ended: bool,
}

impl FinishingThread {
    fn report(self, signal: Option<i32>) -> Report {
        if !self.ended {
            // It is in a call that does not end; its batch is frozen in the store.
            let trouble = signal.map_or(Incomplete::Deadline(None), Incomplete::Interrupted);
            return Report { progress: Progress::default(), trouble: Some(trouble) };
        }
        let panicked = |_| Report { progress: Progress::default(), trouble: Some(Incomplete::Thread("it panicked".into())) };
        let mut report = self.thread.join().unwrap_or_else(panicked);
        // The thread does not know which signal it was.
        if let (Some(Incomplete::Interrupted(of)), Some(signal)) = (&mut report.trouble, signal) {
            *of = signal;
        }
        report
    }
}

/// The process that holds the delivery lock.
struct LockHolder {
    pid: u32,
    is_stopped: bool,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, is_stopped } = self;
        if *is_stopped {
            write!(f, "process {pid} is delivering and is stopped: continue it with `kill -CONT {pid}`, or end it")
        } else {
            write!(f, "another process is still delivering: process {pid}")
        }
    }
}

/// The state of the thread.
struct Delivering<D, F> {
    lock_path: PathBuf,
    store: Outbox,
    make: Option<F>,
    session: Option<Session<D>>,
    /// Set if the destination's settings cannot be used.
    unusable: Option<DeliveryError>,
    /// The destination failed in a way that a person must fix: wait until then.
    blocked_until: Option<tokio::time::Instant>,
    /// This process holds the lock, and a request is in flight.
    asking: bool,
    /// This process has opened the circuit breaker.
    opened: bool,
    progress: Progress,
}

async fn live<D: Destination, F: FnOnce() -> Result<D, DeliveryError>>(
    state: &StateDir,
    name: &str,
    make: F,
    mut requests: UnboundedReceiver<Ask>,
) -> Report {
    let store = match Store::open(state).and_then(|store| Outbox::open(store, name)) {
        Ok(store) => store,
        Err(error) => {
            // Only now is there someone to report to.
            let _ = requests.recv().await;
            return Report { progress: Progress::default(), trouble: Some(Incomplete::Store(error)) };
        }
    };
    let mut this = Delivering::new(state.lock(&format!("delivery+{name}")), store, make);
    let request = this.during_run(&mut requests).await;
    let trouble = match request {
        None => Some(Incomplete::Interrupted(TERM)),
        Some(request) => {
            tokio::select! {
                biased;
                trouble = this.drain(&request) => trouble,
                // The channel was closed because of a signal.
                _ = requests.recv() => Some(Incomplete::Interrupted(TERM)),
            }
        }
    };
    Report { progress: this.progress, trouble }
}

impl<D: Destination, F: FnOnce() -> Result<D, DeliveryError>> Delivering<D, F> {
    fn new(lock_path: PathBuf, store: Outbox, make: F) -> Self {
        let (session, unusable, blocked_until, progress) = (None, None, None, Progress::default());
        let make = Some(make);
        Self { lock_path, store, make, session, unusable, blocked_until, asking: false, opened: false, progress }
    }

    /// Delivers events as they accumulate, until there is a request to finish. Errors here are retried at the end.
    async fn during_run(&mut self, requests: &mut UnboundedReceiver<Ask>) -> Option<FlushRequest> {
        let mut since = None;
        let mut at_once: Option<FlushRequest> = None;
        loop {
            let asked = match at_once.take() {
                Some(request) => {
                    since = None;
                    tokio::select! {
                        biased;
                        asked = requests.recv() => Some(asked),
                        // The caller sees in the store what is still missing.
                        _ = self.drain(&request) => None,
                    }
                }
                None => tokio::time::timeout(LOOK, requests.recv()).await.ok(),
            };
            match asked {
                Some(Some(Ask::AtOnce(request))) => {
                    at_once = Some(request);
                    continue;
                }
                Some(Some(Ask::Finish(request))) => return Some(request),
                Some(None) => return None,
                None => {}
            }
            if !matches!(self.store.has_pending(None), Ok(true)) {
                since = None;
                continue;
            }
            let is_blocked = self.blocked_until.is_some_and(|until| until > tokio::time::Instant::now());
            if is_blocked || self.unusable.is_some() || self.circuit().is_some() {
                continue;
            }
            if since.get_or_insert_with(tokio::time::Instant::now).elapsed() < GATHER {
                continue;
            }
            since = None;
            // Only while it delivers: a process that is stopped (SIGSTOP, Ctrl-Z) in the meantime delays no other.
            let Some(lock) = self.try_lock().ok().flatten() else { continue };
            let stopped = tokio::select! {
                biased;
                asked = requests.recv() => match asked {
                    Some(Ask::AtOnce(request)) => {
                        at_once = Some(request);
                        continue;
                    }
                    Some(Ask::Finish(request)) => return Some(request),
                    None => return None,
                },
                stopped = self.deliver(false, Resend::default()) => stopped,
            };
            drop(lock);
            match stopped {
                Ok(()) | Err(Stopped::Unreachable(_) | Stopped::Store(_)) => {}
                // A permission may be granted, or a table created, while the job runs.
                Err(Stopped::Blocked(_)) => self.blocked_until = Some(tokio::time::Instant::now() + CIRCUIT),
            }
        }
    }

    /// Takes the delivery lock if it is free.
    fn try_lock(&self) -> io::Result<Option<FileLock>> {
        let lock = FileLock::try_take(&self.lock_path)?;
        if let Some(lock) = &lock {
            lock.write_holder(&std::process::id().to_string());
        }
        Ok(lock)
    }

    /// Whether events of one of these runs are pending; of any run if there are none here.
    fn has_pending(&self, run_ids: &[String]) -> Result<bool, StoreError> {
        if run_ids.is_empty() {
            return self.store.has_pending(None);
        }
        for run_id in run_ids {
            if self.store.has_pending(Some(run_id))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns who delivers, if its process is visible.
    fn holder(&self) -> Option<LockHolder> {
        let pid = FileLock::read_holder(&self.lock_path)?.parse().ok()?;
        let is_stopped = process::is_stopped(pid, &self.lock_path)?;
        Some(LockHolder { pid, is_stopped })
    }

    /// Returns the destination, created on first use, without connecting.
    fn session(&mut self) -> Result<&mut Session<D>, DeliveryError> {
        if self.session.is_none() {
            let Some(make) = self.make.take() else {
                return Err(self.unusable.clone().unwrap_or_else(|| DeliveryError::Denied("there is no destination".into())));
            };
            match make() {
                Ok(destination) => self.session = Some(Session::new(destination)),
                Err(refusal) => {
                    self.unusable = Some(refusal.clone());
                    return Err(refusal);
                }
            }
        }
        self.session.as_mut().ok_or_else(|| DeliveryError::Denied("there is no destination".into()))
    }

    /// Returns the open circuit of our destination.
    fn circuit(&mut self) -> Option<Circuit> {
        let route = self.session().ok()?.destination().route();
        self.store.circuit(&route, crate::host::clock::now_micros(), CIRCUIT).ok().flatten()
    }

    /// Delivers until nothing is pending. The caller holds the lock.
    async fn deliver(&mut self, persistent: bool, resend: Resend) -> Result<(), Stopped> {
        self.session().map_err(Stopped::Blocked)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let policy = session.destination().policy();
        let mut deliverer = Deliverer::new(&mut self.store, session, policy, &mut self.progress);
        let mut done = if resend.refused { deliverer.resend_refused().await } else { deliverer.drain(persistent).await };
        if done.is_ok() && resend.uncertain {
            done = deliverer.resend_uncertain().await;
        }
        self.opened |= matches!(done, Err(Stopped::Unreachable(_)));
        done
    }

    async fn drain(&mut self, request: &FlushRequest) -> Option<Incomplete> {
        // An earlier one may have been dropped in the middle.
        self.asking = false;
        if request.timeout.is_zero() {
            return matches!(self.store.has_pending(None), Ok(true)).then_some(Incomplete::Deadline(None));
        }
        let until = tokio::time::Instant::now() + request.timeout;
        let before = self.progress.delivered;
        match tokio::time::timeout_at(until, self.drain_all(request)).await {
            Ok(trouble) => trouble,
            Err(_) if !self.asking => {
                let reason =
                    self.holder().map_or_else(|| "another process is still delivering".to_owned(), |holder| holder.to_string());
                Some(Incomplete::Deadline(Some(reason)))
            }
            Err(_) => {
                let session = self.session.as_ref();
                let route = session.map(|session| session.destination().route()).unwrap_or_default();
                let server = session.map(|session| session.destination().server().to_owned()).unwrap_or_default();
                let reported = session.and_then(|session| session.trouble()).map(str::to_owned);
                if self.progress.delivered > before {
                    return Some(Incomplete::Deadline(reported));
                }
                // No batch arrived in all this time: open the circuit, so that other processes do not wait as long.
                let reason = reported.unwrap_or_else(|| {
                    format!("no response from {server} within {}", crate::plan::duration::show(request.timeout))
                });
                let until = crate::host::clock::now_micros() + i64::try_from(CIRCUIT.as_micros()).unwrap_or(i64::MAX);
                let _ = self.store.set_circuit(Some(&Circuit { until, reason: reason.clone(), route }));
                Some(Incomplete::Deadline(Some(reason)))
            }
        }
    }

    async fn drain_all(&mut self, request: &FlushRequest) -> Option<Incomplete> {
        let mut resend = request.resend;
        let mut theirs = false;
        loop {
            match self.store.has_pending(None) {
                Ok(false) if resend == Resend::default() => break,
                Ok(_) => {}
                Err(error) => return Some(Incomplete::Store(error)),
            }
            // Retry once if this process opened the circuit, because some time has passed.
            if !request.insist
                && !std::mem::take(&mut self.opened)
                && let Some(circuit) = self.circuit()
            {
                return Some(Incomplete::Unreachable(circuit.reason));
            }
            let lock = match self.try_lock() {
                Ok(Some(lock)) => lock,
                Ok(None) if !request.insist => {
                    let stopped = self.holder().filter(|holder| holder.is_stopped).map(|holder| holder.to_string());
                    return Some(Incomplete::Elsewhere { stopped });
                }
                Ok(None) => {
                    match self.has_pending(&request.run_ids) {
                        Ok(false) if resend == Resend::default() => {
                            theirs = true;
                            break;
                        }
                        Ok(_) => tokio::time::sleep(WAIT).await,
                        Err(error) => return Some(Incomplete::Store(error)),
                    }
                    continue;
                }
                Err(source) => {
                    return Some(Incomplete::Store(StoreError::Io { path: self.lock_path.clone(), source }));
                }
            };
            self.asking = true;
            let result = self.deliver(request.insist, std::mem::take(&mut resend)).await;
            self.asking = false;
            drop(lock);
            match result {
                // Check again without the lock: another run may have found it held, and left its events to us.
                Ok(()) => {}
                Err(Stopped::Blocked(refusal)) => return Some(Incomplete::Blocked(refusal)),
                Err(Stopped::Unreachable(reason)) => return Some(Incomplete::Unreachable(reason)),
                Err(Stopped::Store(error)) => return Some(Incomplete::Store(error)),
            }
        }
        // A caller that insists wants the events in the configured table, not in that of the process that was faster.
        if request.insist && (theirs || self.progress.delivered == 0) { self.delivered_elsewhere().await } else { None }
    }

    /// Whether the last batch went to another table than ours.
    async fn delivered_elsewhere(&mut self) -> Option<Incomplete> {
        let into = self.store.delivered_into().ok().flatten()?;
        let ours = match self.session() {
            Ok(session) => match session.connect().await {
                Ok(()) => session.destination().name().to_owned(),
                // Where the batch went is all that is known.
                Err(_) => return None,
            },
            Err(refusal) => return Some(Incomplete::Blocked(refusal)),
        };
        (into != ours).then_some(Incomplete::IntoAnother(into))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Delivers for this long as during a run, without a request.
    pub(in crate::delivery) async fn beside<D: Destination>(
        store: Outbox,
        destination: D,
        lock: PathBuf,
        limit: Duration,
    ) -> Progress {
        let (_open, mut requests) = unbounded_channel();
        let mut this = Delivering::new(lock, store, || Ok(destination));
        let _ = tokio::time::timeout(limit, this.during_run(&mut requests)).await;
        this.progress
    }
}
