//! The delivery threads, one for each destination: each delivers while a job runs, and drains what is left when it is asked to. The only
//! place with an async runtime. No thread knows of another one: what holds up one destination holds up no other.
//!
//! One process at a time delivers from a store to a destination: the holder of its lock sends everybody's events. A run that finds it held
//! leaves its events to the holder, who looks once more for new ones after it has let the lock go: so that between two of them no event
//! is left behind.
//!
//! Has a store connection of its own, and tells nobody anything before [`Live::finish`].

use super::deliverer::{Deliverer, Progress, Stopped};
use super::destination::{DeliveryError, Destination};
use super::policy::CIRCUIT;
use super::session::Session;
use crate::host::clock::timespec;
use crate::host::locks::FileLock;
use crate::host::signals::Signals;
use crate::host::state::StateDir;
use crate::store::{Circuit, Outbox, Store, StoreError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Between two looks for new events.
const LOOK: Duration = Duration::from_millis(250);
/// What is said of a signal before its number is known.
const TERM: i32 = 15;
/// How long events may gather into a batch while the job runs.
const GATHER: Duration = Duration::from_secs(1);
/// Between two looks at a lock that is held, or at the store that its holder changes.
const WAIT: Duration = Duration::from_millis(100);
/// What the thread may take beyond its deadline to answer, before it is left to the end of the process.
const MARGIN: Duration = Duration::from_secs(2);

/// What is to be delivered before the process ends.
#[derive(Debug, Clone)]
pub struct FlushRequest {
    /// How long it may take.
    pub timeout: Duration,
    /// Keeps trying until then, whatever the circuit says, and waits for another process that delivers.
    pub insist: bool,
    /// What is waited for when another process is delivering: the events of this run, or all.
    pub run_id: Option<String>,
    /// What is sent besides what is pending.
    pub resend: Resend,
}

/// What is sent again on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resend {
    /// Batches of unknown fate: they may be in the table twice then.
    pub uncertain: bool,
    /// Events that the server refused.
    pub refused: bool,
}

/// Why not everything was delivered.
#[derive(Debug)]
pub enum Incomplete {
    /// It will not get better by itself.
    Blocked(DeliveryError),
    /// The destination does not answer, or not well; nobody tries for a minute.
    Unreachable(String),
    /// There was no more time; and what was refused last, if anything.
    Deadline(Option<String>),
    /// This signal asked for the end.
    Interrupted(i32),
    /// Another process delivers.
    Elsewhere,
    /// Another process has delivered, into this target, which is not ours.
    IntoAnother(String),
    /// The store.
    Store(StoreError),
    /// The thread itself.
    Thread(String),
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What this process delivered, from its start.
    pub progress: Progress,
    /// `None`: nothing was pending at the end.
    pub trouble: Option<Incomplete>,
}

/// The running thread.
#[derive(Debug)]
pub struct Live {
    requests: UnboundedSender<FlushRequest>,
    done: OwnedFd,
    thread: JoinHandle<Report>,
}

impl Live {
    /// Starts to deliver to the destination of this name, beside whatever this process does. `make` is called in the thread, once there is something to deliver.
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
            // Closed when the thread ends, however it does.
            let _ended = ended;
            runtime.block_on(live(&state, name, make, receiver))
        })?;
        Ok(Self { requests, done, thread })
    }

    /// Delivers what is left to each destination, and ends the threads: a report for each, in their order. They work at the same time. A
    /// signal that asks for the end ends this too.
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
                // Closing the channels is what stops the threads.
                threads.iter_mut().for_each(|thread| thread.requests = None);
                signal = Some(ending);
                until = Instant::now() + MARGIN;
            }
        }
        threads.into_iter().map(|thread| thread.report(signal)).collect()
    }

    fn ask(self, request: &FlushRequest) -> FinishingThread {
        let _ = self.requests.send(request.clone());
        FinishingThread { requests: Some(self.requests), done: self.done, thread: self.thread, ended: false }
    }
}

/// A thread that was asked to finish.
struct FinishingThread {
    requests: Option<UnboundedSender<FlushRequest>>,
    done: OwnedFd,
    thread: JoinHandle<Report>,
    ended: bool,
}

impl FinishingThread {
    fn report(self, signal: Option<i32>) -> Report {
        if !self.ended {
            // It is in a call that does not end; what it has in hand is frozen in the store.
            let trouble = signal.map_or(Incomplete::Deadline(None), Incomplete::Interrupted);
            return Report { progress: Progress::default(), trouble: Some(trouble) };
        }
        let panicked = |_| Report { progress: Progress::default(), trouble: Some(Incomplete::Thread("it panicked".into())) };
        let mut report = self.thread.join().unwrap_or_else(panicked);
        // The thread does not know which it was.
        if let (Some(Incomplete::Interrupted(of)), Some(signal)) = (&mut report.trouble, signal) {
            *of = signal;
        }
        report
    }
}

/// Where the thread stands.
struct Delivering<D, F> {
    lock_path: PathBuf,
    store: Outbox,
    make: Option<F>,
    session: Option<Session<D>>,
    /// The destination's settings cannot be used.
    unusable: Option<DeliveryError>,
    /// The destination refused in a way that a person has to look at: it is left alone until then.
    blocked_until: Option<tokio::time::Instant>,
    /// We hold the lock, and the destination is being asked.
    asking: bool,
    /// It was this process that opened the circuit.
    opened: bool,
    progress: Progress,
}

async fn live<D: Destination, F: FnOnce() -> Result<D, DeliveryError>>(
    state: &StateDir,
    name: &str,
    make: F,
    mut requests: UnboundedReceiver<FlushRequest>,
) -> Report {
    let store = match Store::open(state).and_then(|store| Outbox::open(store, name)) {
        Ok(store) => store,
        Err(error) => {
            // Only now is there somebody to tell.
            let _ = requests.recv().await;
            return Report { progress: Progress::default(), trouble: Some(Incomplete::Store(error)) };
        }
    };
    let mut this = Delivering::new(state.lock(&format!("delivery+{name}")), store, make);
    let request = this.beside_a_run(&mut requests).await;
    let trouble = match request {
        None => Some(Incomplete::Interrupted(TERM)),
        Some(request) => {
            tokio::select! {
                biased;
                trouble = this.drain(&request) => trouble,
                // The channel was closed: a signal.
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

    /// Delivers what gathers, until there is a request. Whatever goes wrong here is tried again at the end.
    async fn beside_a_run(&mut self, requests: &mut UnboundedReceiver<FlushRequest>) -> Option<FlushRequest> {
        let mut since = None;
        let mut lock = None;
        loop {
            if let Ok(request) = tokio::time::timeout(LOOK, requests.recv()).await {
                return request;
            }
            if !matches!(self.store.has_pending(None), Ok(true)) {
                since = None;
                continue;
            }
            let is_blocked = self.blocked_until.is_some_and(|until| until > tokio::time::Instant::now());
            if is_blocked || self.unusable.is_some() || self.circuit().is_some() {
                // Somebody else may be luckier: `events flush`, say.
                lock = None;
                continue;
            }
            if since.get_or_insert_with(tokio::time::Instant::now).elapsed() < GATHER {
                continue;
            }
            since = None;
            if lock.is_none() {
                lock = FileLock::try_take(&self.lock_path).ok().flatten();
            }
            if lock.is_none() {
                continue;
            }
            let stopped = tokio::select! {
                biased;
                request = requests.recv() => return request,
                stopped = self.deliver(false, Resend::default()) => stopped,
            };
            match stopped {
                Ok(()) | Err(Stopped::Unreachable(_) | Stopped::Store(_)) => {}
                // A permission may be granted, a table made, while the job runs.
                Err(Stopped::Blocked(_)) => {
                    self.blocked_until = Some(tokio::time::Instant::now() + CIRCUIT);
                    lock = None;
                }
            }
        }
    }

    /// The destination, made when it is first needed. No connection is made.
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

    /// The open circuit of our destination.
    fn circuit(&mut self) -> Option<Circuit> {
        let route = self.session().ok()?.destination().route();
        self.store.circuit(&route, crate::host::clock::now_micros(), CIRCUIT).ok().flatten()
    }

    /// Delivers until nothing is pending. The lock is held.
    async fn deliver(&mut self, persistent: bool, resend: Resend) -> Result<(), Stopped> {
        self.session().map_err(Stopped::Blocked)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let policy = session.destination().policy();
        let mut deliverer = Deliverer::new(&mut self.store, session, policy, &mut self.progress);
        let mut done = deliverer.drain(persistent).await;
        if done.is_ok() && resend.refused {
            done = deliverer.resend_refused().await;
        }
        if done.is_ok() && resend.uncertain {
            done = deliverer.resend_uncertain().await;
        }
        self.opened |= matches!(done, Err(Stopped::Unreachable(_)));
        done
    }

    async fn drain(&mut self, request: &FlushRequest) -> Option<Incomplete> {
        if request.timeout.is_zero() {
            return matches!(self.store.has_pending(None), Ok(true)).then_some(Incomplete::Deadline(None));
        }
        let until = tokio::time::Instant::now() + request.timeout;
        let before = self.progress.delivered;
        match tokio::time::timeout_at(until, self.drain_all(request)).await {
            Ok(trouble) => trouble,
            Err(_) if !self.asking => Some(Incomplete::Deadline(Some("another process is still delivering".into()))),
            Err(_) => {
                let session = self.session.as_ref();
                let route = session.map(|session| session.destination().route()).unwrap_or_default();
                let server = session.map(|session| session.destination().server().to_owned()).unwrap_or_default();
                let reported = session.and_then(|session| session.trouble()).map(str::to_owned);
                if self.progress.delivered > before {
                    return Some(Incomplete::Deadline(reported));
                }
                // Not one batch in all this time: the others need not wait as long.
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
            // One that this process has opened is tried once more: some time has gone by.
            if !request.insist
                && !std::mem::take(&mut self.opened)
                && let Some(circuit) = self.circuit()
            {
                return Some(Incomplete::Unreachable(circuit.reason));
            }
            let lock = match FileLock::try_take(&self.lock_path) {
                Ok(Some(lock)) => lock,
                Ok(None) if !request.insist => return Some(Incomplete::Elsewhere),
                Ok(None) => {
                    match self.store.has_pending(request.run_id.as_deref()) {
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
                // Looked at again without the lock: another run may have found it held, and left its events to us.
                Ok(()) => {}
                Err(Stopped::Blocked(refusal)) => return Some(Incomplete::Blocked(refusal)),
                Err(Stopped::Unreachable(reason)) => return Some(Incomplete::Unreachable(reason)),
                Err(Stopped::Store(error)) => return Some(Incomplete::Store(error)),
            }
        }
        // Who insists wants them in the table that was named, not in that of whoever was faster.
        if request.insist && (theirs || self.progress.delivered == 0) { self.went_elsewhere().await } else { None }
    }

    /// Whether the last batch of all went into another table than ours.
    async fn went_elsewhere(&mut self) -> Option<Incomplete> {
        let into = self.store.delivered_into().ok().flatten()?;
        let ours = match self.session() {
            Ok(session) => match session.connect().await {
                Ok(()) => session.destination().name().to_owned(),
                // Where they went is all that can be said.
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

    /// What is delivered next to a run within this time, without a request.
    pub(in crate::delivery) async fn beside<D: Destination>(
        store: Outbox,
        destination: D,
        lock: PathBuf,
        limit: Duration,
    ) -> Progress {
        let (_open, mut requests) = unbounded_channel();
        let mut this = Delivering::new(lock, store, || Ok(destination));
        let _ = tokio::time::timeout(limit, this.beside_a_run(&mut requests)).await;
        this.progress
    }
}
