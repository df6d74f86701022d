//! Ingests an attempt's spool into the store while the worker writes it, in a separate thread: a busy store must not keep the dispatcher
//! from its deadlines.
//!
//! Owns the store and the reader while it runs, and returns both at the end. Signals one thing to the dispatcher, by a byte in a pipe: that
//! the final record was ingested. If the store cannot be written (a full disk), it retries every second; nothing is lost, because
//! everything stays in the spool. A panic in the thread is a bug in lorchestra and does not affect the job: the thread continues from what
//! the store has.

use crate::spool::Cursor;
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

/// Interval between two reads of the spool.
const INTERVAL: Duration = Duration::from_millis(100);
/// Interval between retries when the store fails.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// Number of attempts to record a run's end, before that is left to the next command.
pub(crate) const LAST_TRIES: u32 = 3;

/// Number of panics after which the thread only waits for the worker's death, and then makes one last attempt.
const PANICS: u32 = 3;

/// Why a spool could not be ingested. Everything that was not ingested is still in it.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The store failed.
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
    /// lorchestra panicked repeatedly.
    #[error("lorchestra panicked while it read spool {path}", path = path.display())]
    Panicked {
        /// The attempt's directory.
        path: std::path::PathBuf,
    },
}

/// A thread that has no work yet. Created before anything of an attempt is recorded, so that a host that has reached its limit of threads
/// refuses the run instead of killing a job.
#[derive(Debug)]
pub(crate) struct Idle {
    work: Sender<(Work, Receiver<()>)>,
    thread: JoinHandle<Option<(Store, Result<IngestState, IntakeError>)>>,
}

/// The thread's work.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) run_id: String,
    pub(crate) attempt: u32,
    pub(crate) spool: PathBuf,
    /// Receives a byte when the final record was ingested.
    pub(crate) final_seen: OwnedFd,
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Intake {
    worker_is_dead: Sender<()>,
    thread: JoinHandle<Option<(Store, Result<IngestState, IntakeError>)>>,
}

impl Idle {
    /// Starts the thread. It ends when this value is dropped.
    pub(crate) fn new() -> io::Result<Self> {
        let (work, ordered) = channel::<(Work, Receiver<()>)>();
        let thread = std::thread::Builder::new().name("lorchestra-intake".into()).spawn(move || {
            let (work, worker_is_dead) = ordered.recv().ok()?;
            let Work { mut store, run_id, attempt, spool, final_seen } = work;
            let result = catch_panics(&spool, &worker_is_dead, |again| {
                let ingested = if again { store.ingested(&run_id, attempt)? } else { IngestState::default() };
                follow(&mut store, Ingest::new(&run_id, attempt, &spool, ingested), &worker_is_dead, &final_seen)
            });
            Some((store, result))
        })?;
        Ok(Self { work, thread })
    }

    /// Starts ingesting.
    pub(crate) fn start(self, work: Work) -> Intake {
        let (worker_is_dead, dead) = channel();
        // Cannot fail: the thread waits for this message.
        let _ = self.work.send((work, dead));
        Intake { worker_is_dead, thread: self.thread }
    }
}

impl Intake {
    /// Ingests the rest after the worker's death, and returns the store and the state of the spool.
    pub(crate) fn finish(self) -> io::Result<(Store, Result<IngestState, IntakeError>)> {
        // Closed rather than sent, so that a thread that starts over after a panic detects it too.
        drop(self.worker_is_dead);
        let ended = self.thread.join().ok().flatten();
        ended.ok_or_else(|| io::Error::other("the intake thread panicked"))
    }
}

/// Runs `follow` until the worker is dead, and again after each panic; its argument says whether it is a repetition. Even after too many
/// panics the thread lives as long as the worker, because its pipe must not close earlier.
fn catch_panics(
    spool: &Path,
    dead: &Receiver<()>,
    mut follow: impl FnMut(bool) -> Result<IngestState, IntakeError>,
) -> Result<IngestState, IntakeError> {
    for panics in 0..=PANICS {
        if panics == PANICS {
            let _ = dead.recv();
        }
        // A transaction interrupted by a panic is rolled back, and its records are read again.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(|| follow(panics > 0))) {
            return result;
        }
    }
    Err(IntakeError::Panicked { path: spool.to_owned() })
}

/// Ingests until the worker is dead, and then the rest.
fn follow(store: &mut Store, mut ingest: Ingest, dead: &Receiver<()>, final_seen: &OwnedFd) -> Result<IngestState, IntakeError> {
    let mut wait = INTERVAL;
    let mut reported_final = false;
    let mut refused = false;
    while matches!(dead.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
        wait = match ingest.all(store, Writing::Alive) {
            Ok(()) => {
                if std::mem::take(&mut refused) {
                    tracing::warn!("the store accepts events again");
                }
                INTERVAL
            }
            Err(error) => {
                // Once per outage: a full disk may last for hours.
                if !std::mem::replace(&mut refused, true) {
                    // As an error value, so that its causes are logged.
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::warn!(error, "events stay in the spool for now");
                }
                RETRY
            }
        };
        if ingest.ingested.end.is_some() && !std::mem::replace(&mut reported_final, true) {
            let _ = rustix::io::write(final_seen, b"f");
        }
    }
    for _ in 1..LAST_TRIES {
        if ingest.all(store, Writing::Dead).is_ok() {
            return Ok(ingest.ingested);
        }
        std::thread::sleep(RETRY);
    }
    ingest.all(store, Writing::Dead)?;
    Ok(ingest.ingested)
}

/// The state of ingesting one attempt's spool: the position in it, and the contents so far.
#[derive(Debug)]
pub(crate) struct Ingest {
    run_id: String,
    attempt: u32,
    spool: PathBuf,
    reader: Reader,
    /// The position that the store has: behind that of `ingested` if segments are gone.
    stored: Cursor,
    /// What has been ingested.
    pub(crate) ingested: IngestState,
}

impl Ingest {
    /// Continues after what the store has of the attempt.
    pub(crate) fn new(run_id: &str, attempt: u32, spool: &Path, ingested: IngestState) -> Self {
        let (reader, stored) = (Self::reader(spool, &ingested), ingested.cursor);
        Self { run_id: run_id.to_owned(), attempt, spool: spool.to_owned(), reader, stored, ingested }
    }

    /// Continues from the state of a store that was restored. What that store lacks may have been in segments that are gone: then the rest
    /// is ingested, and the run cannot be a success, because events of it are missing.
    fn go_back(&mut self, mut there: IngestState) -> io::Result<()> {
        self.stored = there.cursor;
        if let Some(first) = first_segment(&self.spool)?.filter(|first| *first > there.cursor.segment) {
            there.cursor = Cursor { segment: first, byte: 0 };
            there.damaged += 1;
        }
        self.reader = Self::reader(&self.spool, &there);
        self.ingested = there;
        Ok(())
    }

    fn reader(spool: &Path, ingested: &IngestState) -> Reader {
        let mut reader = Reader::new(spool, ingested.cursor);
        if ingested.end.is_some() {
            reader.end_was_read();
        }
        reader
    }

    /// Ingests everything available now, in transactions of about 1 MiB.
    pub(crate) fn all(&mut self, store: &mut Store, writing: Writing) -> Result<(), IntakeError> {
        let Self { run_id, attempt, spool, reader, stored, ingested } = self;
        let path = spool.clone();
        let io = |source| IntakeError::Spool { path: path.clone(), source };
        loop {
            let chunk = reader.read(writing).map_err(io)?;
            let (end, more) = (chunk.end, chunk.more);
            // Before anything is committed, or left to the commit of the run's end: the store may have been replaced or restored.
            if (end != ingested.cursor || writing == Writing::Dead) && store.follow()? {
                tracing::warn!("the store was replaced while a run was in progress: its events are ingested into the new one");
            }
            if writing == Writing::Dead && !more {
                let there = store.ingested(run_id, *attempt)?;
                if there.cursor != *stored {
                    self.go_back(there).map_err(io)?;
                    return self.all(store, writing);
                }
            }
            if writing == Writing::Dead
                && !more
                && chunk.damaged == 0
                && chunk.records.iter().all(|record| record.event.is_none())
            {
                // There is nothing to insert, and the next commit is the run's end, which includes what these records say. This saves one
                // commit per run. If the process dies before that commit, the spool is unchanged.
                ingested.note(&chunk.records);
                return Ok(());
            }
            if end != ingested.cursor {
                let portion = Portion { records: &chunk.records, after: *stored, end, damaged: chunk.damaged };
                if !store.ingest(run_id, *attempt, portion, ingested)? {
                    let there = store.ingested(run_id, *attempt)?;
                    self.go_back(there).map_err(io)?;
                    return self.all(store, writing);
                }
                *stored = end;
                // Only now, because this removes segments that the store must already have.
                reader.advance(end).map_err(io)?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// Returns the number of the first segment in a spool.
fn first_segment(spool: &Path) -> io::Result<Option<u32>> {
    let mut first = None;
    for entry in std::fs::read_dir(spool)? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        first = first.into_iter().chain(number).min();
    }
    Ok(first)
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
    fn after_a_panic_the_thread_retries_and_outlives_the_worker() {
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
            assert!(!waiter.is_finished(), "{panics}: the worker is alive");
            drop(alive);
            let (result, tried) = waiter.join().unwrap();
            assert_eq!(tried, (0..=panics.min(PANICS)).map(|n| n > 0).collect::<Vec<_>>());
            match result {
                Ok(ingested) => assert!(ingested.entered && panics <= PANICS),
                Err(error) => assert!(matches!(error, IntakeError::Panicked { .. }) && panics > PANICS, "{error}"),
            }
        }
    }

    /// A run whose worker writes a spool of many segments.
    fn segmented(dir: &Path) -> (StateDir, Store, PathBuf, Writer) {
        let state = StateDir::open(dir).unwrap();
        let mut store = Store::open(&state).unwrap();
        store.begin_run(&new_run("r1"), &started()).unwrap();
        let spool = state.attempt_spool("r1", 1);
        make_dir(&spool).unwrap();
        let writer = Writer::with_segments_of(&spool, 10).unwrap();
        (state, store, spool, writer)
    }

    fn emit(writer: &mut Writer) {
        let event = NewEvent { event_type: "t", payload: b"{}", schema_ref: "", correlation_id: "", subject_id: "" };
        writer.append(&event, &|| true).unwrap();
    }

    /// Several segments, and a store that fails: no segment may be removed before its contents are committed.
    #[test]
    fn a_segment_stays_until_its_contents_are_committed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut store, spool, mut writer) = segmented(dir.path());
        (0..3).for_each(|_| emit(&mut writer));
        writer.finish(&Final::Returned { returned: JobReturn::Ok, max_rss_kib: None, bookmark: None }).unwrap();

        let other = rusqlite::Connection::open(state.store()).unwrap();
        other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END").unwrap();
        let segments = || (1..=9).filter(|n| segment_path(&spool, *n).exists()).collect::<Vec<_>>();
        let all = segments();
        assert!(all.len() >= 3, "{all:?}");
        let mut ingest = Ingest::new("r1", 1, &spool, IngestState::default());
        ingest.reader = Reader::with_segments_of(&spool, ingest.ingested.cursor, 10);
        for writing in [Writing::Alive, Writing::Dead] {
            let refused = ingest.all(&mut store, writing);
            assert!(matches!(refused, Err(IntakeError::Store(_))), "{refused:?}");
            assert_eq!((segments(), &ingest.ingested), (all.clone(), &IngestState::default()));
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
        assert!(ingest.ingested.end.is_some());
        assert_eq!(segments(), all[all.len() - 1..], "ingested segments are removed");
    }

    /// The store is restored to the state before the first event, and the segments of the first events are gone.
    #[test]
    fn a_restored_store_gets_what_is_left_and_no_success() {
        for writing in [Writing::Alive, Writing::Dead] {
            let dir = tempfile::tempdir().unwrap();
            let (state, mut store, spool, mut writer) = segmented(dir.path());
            (0..4).for_each(|_| emit(&mut writer));
            let mut ingest = Ingest::new("r1", 1, &spool, IngestState::default());
            ingest.reader = Reader::with_segments_of(&spool, ingest.ingested.cursor, 10);
            ingest.all(&mut store, Writing::Alive).unwrap();
            assert!(first_segment(&spool).unwrap().unwrap() > 2, "two are gone");
            let other = rusqlite::Connection::open(state.store()).unwrap();
            other.execute_batch("DELETE FROM events WHERE NOT terminal AND event_type = 't'; UPDATE attempts SET cursor_segment = 1, cursor_byte = 0").unwrap();
            emit(&mut writer);
            writer.finish(&Final::Returned { returned: JobReturn::Ok, max_rss_kib: None, bookmark: None }).unwrap();
            ingest.all(&mut store, writing).unwrap();
            ingest.all(&mut store, Writing::Dead).unwrap();
            assert!(ingest.ingested.end.is_some(), "{writing:?}");
            assert_eq!(ingest.ingested.damaged, 1, "{writing:?}: events of it are missing");
            assert_eq!(store.ingested("r1", 1).unwrap().damaged, 1, "{writing:?}");
            let stored: u32 =
                other.query_row("SELECT count(*) FROM events WHERE event_type = 't'", [], |row| row.get(0)).unwrap();
            assert!((1..5).contains(&stored), "{writing:?}: {stored}");
        }
    }
}
