//! Takes an attempt's spool into the store while the worker writes it, in a thread of its own: a store that is busy must not
//! keep the dispatcher from its deadlines.
//!
//! Owns the store and the reader while it runs and hands both back at the end. Tells the dispatcher one thing, by a byte in a
//! pipe: that the final record was seen. When the store cannot be written (a full disk), it tries again every second: nothing
//! is lost, it all stays in the spool. A panic in the thread is a fault of lorchestra and costs the job nothing: the thread goes on from what
//! the store has.

use crate::spool::reader::{Reader, Writing};
use crate::store::event::{IngestState, Portion};
use crate::store::{Store, StoreError};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at the spool.
const INTERVAL: Duration = Duration::from_millis(100);
/// Between two tries of a store that refused.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// Tries of what is to be recorded at a run's end, before it is left to the next command.
pub(crate) const LAST_TRIES: u32 = 3;

/// Panics of the thread after which it only waits for the worker's death, to try a last time.
const PANICS: u32 = 3;

/// Why a spool could not be taken in. Everything that was not taken in is still there.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spool could not be read.
    #[error("spool {path} cannot be read", path = path.display())]
    Spool {
        /// The attempt's directory.
        path: std::path::PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// lorchestra's own fault, again and again.
    #[error("lorchestra panicked while it read spool {path}", path = path.display())]
    Panicked {
        /// The attempt's directory.
        path: std::path::PathBuf,
    },
}

/// A thread that has nothing to take in yet. Made before anything of an attempt is recorded: a host that has no thread left refuses the
/// run then, and does not end a job.
#[derive(Debug)]
pub(crate) struct Idle {
    work: Sender<(Work, Receiver<()>)>,
    thread: JoinHandle<Option<(Store, Result<IngestState, IntakeError>)>>,
}

/// What the thread is to do.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) run_id: String,
    pub(crate) attempt: u32,
    pub(crate) spool: PathBuf,
    /// Gets a byte when the final record was taken in.
    pub(crate) final_seen: OwnedFd,
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Intake {
    worker_is_dead: Sender<()>,
    thread: JoinHandle<Option<(Store, Result<IngestState, IntakeError>)>>,
}

impl Idle {
    /// Starts the thread. It ends when this is dropped.
    pub(crate) fn new() -> io::Result<Self> {
        let (work, ordered) = channel::<(Work, Receiver<()>)>();
        let thread = std::thread::Builder::new().name("lorchestra-intake".into()).spawn(move || {
            let (work, worker_is_dead) = ordered.recv().ok()?;
            let Work { mut store, run_id, attempt, spool, final_seen } = work;
            let result = catch_panics(&spool, &worker_is_dead, |again| {
                let taken = if again { store.taken(&run_id, attempt)? } else { IngestState::default() };
                follow(&mut store, Ingest::new(&run_id, attempt, &spool, taken), &worker_is_dead, &final_seen)
            });
            Some((store, result))
        })?;
        Ok(Self { work, thread })
    }

    /// Starts to take in.
    pub(crate) fn start(self, work: Work) -> Intake {
        let (worker_is_dead, dead) = channel();
        // The thread waits for this and for nothing else.
        let _ = self.work.send((work, dead));
        Intake { worker_is_dead, thread: self.thread }
    }
}

impl Intake {
    /// The worker is dead: takes in the rest, and hands back the store and what the spool said.
    pub(crate) fn finish(self) -> io::Result<(Store, Result<IngestState, IntakeError>)> {
        // Closed, not sent: a thread that begins again sees it, too.
        drop(self.worker_is_dead);
        let ended = self.thread.join().ok().flatten();
        ended.ok_or_else(|| io::Error::other("the intake thread panicked"))
    }
}

/// Follows until the worker is dead, again after each panic; what is passed to `follow` is whether it is again. The thread lives as long as
/// the worker even when there is no more hope: its pipe must not end before.
fn catch_panics(
    spool: &Path,
    dead: &Receiver<()>,
    mut follow: impl FnMut(bool) -> Result<IngestState, IntakeError>,
) -> Result<IngestState, IntakeError> {
    for panics in 0..=PANICS {
        if panics == PANICS {
            let _ = dead.recv();
        }
        // A transaction that a panic leaves is rolled back; what was read is read again.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(|| follow(panics > 0))) {
            return result;
        }
    }
    Err(IntakeError::Panicked { path: spool.to_owned() })
}

/// Takes in until the worker is dead, and then the rest.
fn follow(store: &mut Store, mut ingest: Ingest, dead: &Receiver<()>, final_seen: &OwnedFd) -> Result<IngestState, IntakeError> {
    let mut wait = INTERVAL;
    let mut reported_final = false;
    let mut refused = false;
    while matches!(dead.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
        wait = match ingest.all(store, Writing::Alive) {
            Ok(()) => {
                if std::mem::take(&mut refused) {
                    tracing::warn!("the store takes events again");
                }
                INTERVAL
            }
            Err(error) => {
                // Once an outage: a full disk may last for hours.
                if !std::mem::replace(&mut refused, true) {
                    // With its causes.
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::warn!(error, "events stay in the spool for now");
                }
                RETRY
            }
        };
        if ingest.taken.end.is_some() && !std::mem::replace(&mut reported_final, true) {
            let _ = rustix::io::write(final_seen, b"f");
        }
    }
    for _ in 1..LAST_TRIES {
        if ingest.all(store, Writing::Dead).is_ok() {
            return Ok(ingest.taken);
        }
        std::thread::sleep(RETRY);
    }
    ingest.all(store, Writing::Dead)?;
    Ok(ingest.taken)
}

/// The spool of one attempt on its way into the store: how far it is read, and what it said so far.
#[derive(Debug)]
pub(crate) struct Ingest {
    run_id: String,
    attempt: u32,
    spool: PathBuf,
    reader: Reader,
    /// What was taken in.
    pub(crate) taken: IngestState,
}

impl Ingest {
    /// Goes on from what the store has of the attempt.
    pub(crate) fn new(run_id: &str, attempt: u32, spool: &Path, taken: IngestState) -> Self {
        let mut reader = Reader::new(spool, taken.cursor);
        if taken.end.is_some() {
            reader.end_was_read();
        }
        Self { run_id: run_id.to_owned(), attempt, spool: spool.to_owned(), reader, taken }
    }

    /// Takes in everything there is now, in transactions of about 1 MiB.
    pub(crate) fn all(&mut self, store: &mut Store, writing: Writing) -> Result<(), IntakeError> {
        let Self { run_id, attempt, spool, reader, taken } = self;
        let io = |source| IntakeError::Spool { path: spool.clone(), source };
        loop {
            let chunk = reader.read(writing).map_err(io)?;
            let (end, more) = (chunk.end, chunk.more);
            if writing == Writing::Dead
                && !more
                && chunk.damaged == 0
                && chunk.records.iter().all(|record| record.event.is_none())
            {
                // Nothing to insert, and the run's end, with what these records say, is the next commit: one commit less for every
                // run. A death before it finds the spool as it is.
                taken.note(&chunk.records);
                return Ok(());
            }
            if end != taken.cursor {
                let portion = Portion { records: &chunk.records, end, damaged: chunk.damaged };
                store.ingest(run_id, *attempt, portion, taken)?;
                // Only now: what this removes is in the store.
                reader.taken(end).map_err(io)?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::state::{StateDir, make_dir};
    use crate::spool::record::Final;
    use crate::spool::writer::{NewEvent, Writer, segment_path};
    use crate::store::EventFilter;
    use crate::store::tests::{new_run, started};
    use lorchestra_plugin_api::invoke::JobReturn;

    #[test]
    fn a_panic_is_tried_again_and_never_ends_the_thread_before_the_worker() {
        for panics in 0..=PANICS + 1 {
            let (alive, dead) = channel::<()>();
            let waiter = std::thread::spawn(move || {
                let mut tried = Vec::new();
                let result = catch_panics(Path::new("spool"), &dead, |again| {
                    tried.push(again);
                    assert!(tried.len() as u32 > panics, "a panic of the test's own");
                    while matches!(dead.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {}
                    Ok(IngestState { entered: true, ..IngestState::default() })
                });
                (result, tried)
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiter.is_finished(), "{panics}: the worker lives");
            drop(alive);
            let (result, tried) = waiter.join().unwrap();
            assert_eq!(tried, (0..=panics.min(PANICS)).map(|n| n > 0).collect::<Vec<_>>());
            match result {
                Ok(taken) => assert!(taken.entered && panics <= PANICS),
                Err(error) => assert!(matches!(error, IntakeError::Panicked { .. }) && panics > PANICS, "{error}"),
            }
        }
    }

    /// Several segments, and a store that does not take them: none of them may go before it has.
    #[test]
    fn a_segment_stays_until_the_store_has_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut store = Store::open(&state).unwrap();
        store.begin_run(&new_run("r1"), &started()).unwrap();
        let spool = state.attempt_spool("r1", 1);
        make_dir(&spool).unwrap();
        let mut writer = Writer::with_segments_of(&spool, 10).unwrap();
        for _ in 0..3 {
            let event = NewEvent { event_type: "t", payload: b"{}", schema_ref: "", correlation_id: "", subject_id: "" };
            writer.append(&event, &|| true).unwrap();
        }
        writer.finish(&Final::Returned { returned: JobReturn::Ok, max_rss_kib: None, bookmark: None }).unwrap();

        let other = rusqlite::Connection::open(state.store()).unwrap();
        other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END").unwrap();
        let segments = || (1..=9).filter(|n| segment_path(&spool, *n).exists()).collect::<Vec<_>>();
        let all = segments();
        assert!(all.len() >= 3, "{all:?}");
        let mut ingest = Ingest::new("r1", 1, &spool, IngestState::default());
        ingest.reader = Reader::with_segments_of(&spool, ingest.taken.cursor, 10);
        for writing in [Writing::Alive, Writing::Dead] {
            let refused = ingest.all(&mut store, writing);
            assert!(matches!(refused, Err(IntakeError::Store(_))), "{refused:?}");
            assert_eq!((segments(), &ingest.taken), (all.clone(), &IngestState::default()));
        }

        other.execute_batch("DROP TRIGGER full").unwrap();
        ingest.all(&mut store, Writing::Dead).unwrap();
        let mut types = Vec::new();
        let each = |event: crate::store::Event| {
            types.push(event.event_type);
            Ok::<(), ()>(())
        };
        store.events(&EventFilter::default(), each).unwrap().unwrap();
        assert_eq!(types, ["job.started", "t", "t", "t"]);
        assert!(ingest.taken.end.is_some());
        assert_eq!(segments(), all[all.len() - 1..], "what was taken in is gone");
    }
}
