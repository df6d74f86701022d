//! The delivery thread: delivers while a job runs, and drains what is left when it is asked to. The only place with an async runtime.
//!
//! One process at a time delivers for a store: the holder of the lock `delivery` sends everybody's events. A run that finds it held
//! leaves its events to the holder, who looks once more for new ones after it has let the lock go: so that between two of them no event
//! is left behind.
//!
//! Has a store connection of its own, and tells nobody anything before [`Live::finish`].

use super::deliverer::{Deliverer, Policy, Progress, Session, Stopped};
use super::destination::{Destination, Refusal};
use crate::locks::OverlapLock;
use crate::signals::Signals;
use crate::state::StateDir;
use crate::store::{Circuit, Store, StoreError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;
use rustix::time::Timespec;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Between two looks for new events.
const LOOK: Duration = Duration::from_millis(250);
/// How long events may gather into a batch while the job runs.
const GATHER: Duration = Duration::from_secs(1);
/// Between two looks at a lock that is held, or at the store that its holder changes.
const WAIT: Duration = Duration::from_millis(50);
/// What the thread may take beyond its deadline to answer, before it is left to the end of the process.
const MARGIN: Duration = Duration::from_secs(2);

/// What is to be delivered before the process ends.
#[derive(Debug, Clone)]
pub struct Request {
    /// How long it may take.
    pub timeout: Duration,
    /// Keeps trying until then, whatever the circuit says, and waits for another process that delivers.
    pub insist: bool,
    /// What is waited for when another process delivers: the events of this run, or all.
    pub run_id: Option<String>,
    /// Sends batches of unknown fate again: they may be in the table twice then.
    pub resend_uncertain: bool,
}

/// Why not everything was delivered.
#[derive(Debug)]
pub enum Trouble {
    /// It will not get better by itself.
    Blocked(Refusal),
    /// The destination does not answer, or not well; nobody tries for a minute.
    Unreachable(String),
    /// There was no more time; and what was refused last, if anything.
    Deadline(Option<String>),
    /// A signal asked for the end.
    Interrupted,
    /// Another process delivers.
    Elsewhere,
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
    pub trouble: Option<Trouble>,
}

/// The running thread.
#[derive(Debug)]
pub struct Live {
    requests: UnboundedSender<Request>,
    done: OwnedFd,
    thread: JoinHandle<Report>,
}

impl Live {
    /// Starts to deliver beside whatever this process does. `make` is called in the thread, once there is something to deliver.
    pub fn start<D: Destination>(
        state: &StateDir,
        make: impl FnOnce() -> Result<D, Refusal> + Send + 'static,
    ) -> io::Result<Self> {
        let (requests, receiver) = unbounded_channel();
        let (done, ended) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let state = state.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("lorchestra-delivery".into()).spawn(move || {
            // Closed when the thread ends, however it does.
            let _ended = ended;
            runtime.block_on(live(&state, make, receiver))
        })?;
        Ok(Self { requests, done, thread })
    }

    /// Delivers what is left, and ends the thread. A signal that asks for the end ends this too.
    pub fn finish(self, request: &Request, mut signals: Option<&mut Signals>) -> Report {
        let mut until = Instant::now() + request.timeout + MARGIN;
        let mut trouble = Trouble::Deadline(None);
        let mut sender = Some(self.requests);
        if let Some(sender) = &sender {
            let _ = sender.send(request.clone());
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // It is in a call that does not end; what it has in hand is frozen in the store.
                return Report { progress: Progress::default(), trouble: Some(trouble) };
            }
            let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = vec![PollFd::new(&self.done, PollFlags::IN)];
            if let Some(signals) = &signals {
                fds.push(PollFd::new(&**signals, PollFlags::IN));
            }
            let _ = poll(&mut fds, Some(&wait));
            if !fds[0].revents().is_empty() {
                break;
            }
            if sender.is_some() && signals.as_mut().is_some_and(|signals| !signals.endings().is_empty()) {
                // Closing the channel is what tells the thread.
                sender = None;
                trouble = Trouble::Interrupted;
                until = Instant::now() + MARGIN;
            }
        }
        let thread = |_| Report { progress: Progress::default(), trouble: Some(Trouble::Thread("it panicked".into())) };
        self.thread.join().unwrap_or_else(thread)
    }
}

/// Where the thread stands.
struct Delivering<D, F> {
    lock_path: PathBuf,
    store: Store,
    make: Option<F>,
    session: Option<Session<D>>,
    blocked: Option<Refusal>,
    progress: Progress,
}

async fn live<D: Destination, F: FnOnce() -> Result<D, Refusal>>(
    state: &StateDir,
    make: F,
    mut requests: UnboundedReceiver<Request>,
) -> Report {
    let store = match Store::open(state) {
        Ok(store) => store,
        Err(error) => {
            // Only now is there somebody to tell.
            let _ = requests.recv().await;
            return Report { progress: Progress::default(), trouble: Some(Trouble::Store(error)) };
        }
    };
    let mut this = Delivering {
        lock_path: state.lock("delivery"),
        store,
        make: Some(make),
        session: None,
        blocked: None,
        progress: Progress::default(),
    };
    let request = this.beside_a_run(&mut requests).await;
    let trouble = match request {
        None => Some(Trouble::Interrupted),
        Some(request) => {
            tokio::select! {
                biased;
                trouble = this.drain(&request) => trouble,
                // The channel was closed: a signal.
                _ = requests.recv() => Some(Trouble::Interrupted),
            }
        }
    };
    Report { progress: this.progress, trouble }
}

impl<D: Destination, F: FnOnce() -> Result<D, Refusal>> Delivering<D, F> {
    /// Delivers what gathers, until there is a request. Whatever goes wrong here is tried again at the end.
    async fn beside_a_run(&mut self, requests: &mut UnboundedReceiver<Request>) -> Option<Request> {
        let mut since = None;
        let mut lock = None;
        loop {
            if let Ok(request) = tokio::time::timeout(LOOK, requests.recv()).await {
                return request;
            }
            if self.blocked.is_some() || !matches!(self.store.circuit(crate::now_micros()), Ok(None)) {
                continue;
            }
            if !matches!(self.store.has_pending(), Ok(Some(_))) {
                since = None;
                continue;
            }
            if since.get_or_insert_with(Instant::now).elapsed() < GATHER {
                continue;
            }
            since = None;
            if lock.is_none() {
                lock = OverlapLock::try_take(&self.lock_path).ok().flatten();
            }
            if lock.is_none() {
                continue;
            }
            let stopped = tokio::select! {
                biased;
                request = requests.recv() => return request,
                stopped = self.deliver(false, false) => stopped,
            };
            match stopped {
                Ok(()) | Err(Stopped::Unreachable(_) | Stopped::Store(_)) => {}
                Err(Stopped::Blocked(refusal)) => {
                    self.blocked = Some(refusal);
                    lock = None;
                }
            }
        }
    }

    /// Delivers until nothing is pending.
    async fn deliver(&mut self, persistent: bool, resend_uncertain: bool) -> Result<(), Stopped> {
        if self.session.is_none() {
            let Some(make) = self.make.take() else {
                return Err(Stopped::Blocked(
                    self.blocked.clone().unwrap_or_else(|| Refusal::Denied("there is no destination".into())),
                ));
            };
            self.session = Some(Session::new(make().map_err(Stopped::Blocked)?));
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let policy = Policy::of(session.destination());
        let mut deliverer = Deliverer::new(&mut self.store, session, policy, &mut self.progress);
        if resend_uncertain { deliverer.resend_uncertain().await } else { deliverer.drain(persistent).await }
    }

    async fn drain(&mut self, request: &Request) -> Option<Trouble> {
        let until = tokio::time::Instant::now() + request.timeout;
        let before = self.progress.delivered;
        match tokio::time::timeout_at(until, self.drain_all(request)).await {
            Ok(trouble) => trouble,
            Err(_) => {
                let reason = self.session.as_ref().and_then(|session| session.trouble()).map(str::to_owned);
                if self.progress.delivered == before {
                    // Not one batch in all this time: the others need not wait as long.
                    let until = crate::now_micros() + 60_000_000;
                    let reason = reason.clone().unwrap_or_else(|| "it did not answer in time".to_owned());
                    let _ = self.store.set_circuit(Some(&Circuit { until, reason }));
                }
                Some(Trouble::Deadline(reason))
            }
        }
    }

    async fn drain_all(&mut self, request: &Request) -> Option<Trouble> {
        loop {
            match self.store.has_pending() {
                Ok(None) if !request.resend_uncertain => return None,
                Ok(_) => {}
                Err(error) => return Some(Trouble::Store(error)),
            }
            if !request.insist
                && let Ok(Some(circuit)) = self.store.circuit(crate::now_micros())
            {
                return Some(Trouble::Unreachable(circuit.reason));
            }
            let lock = match OverlapLock::try_take(&self.lock_path) {
                Ok(Some(lock)) => lock,
                Ok(None) if !request.insist => return Some(Trouble::Elsewhere),
                Ok(None) => {
                    match self.store.backlog(request.run_id.as_deref()) {
                        Ok(backlog) if backlog.pending == 0 => return None,
                        Ok(_) => tokio::time::sleep(WAIT).await,
                        Err(error) => return Some(Trouble::Store(error)),
                    }
                    continue;
                }
                Err(source) => {
                    return Some(Trouble::Store(StoreError::Io { path: self.lock_path.clone(), source }));
                }
            };
            let result = self.deliver(request.insist, request.resend_uncertain).await;
            drop(lock);
            match result {
                // Looked at again without the lock: another run may have found it held, and left its events to us.
                Ok(()) if request.resend_uncertain => return None,
                Ok(()) => {}
                Err(Stopped::Blocked(refusal)) => return Some(Trouble::Blocked(refusal)),
                Err(Stopped::Unreachable(reason)) => return Some(Trouble::Unreachable(reason)),
                Err(Stopped::Store(error)) => return Some(Trouble::Store(error)),
            }
        }
    }
}
