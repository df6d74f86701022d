//! Takes an attempt's spool into the store while the worker writes it, in a thread of its own: a store that is busy must not
//! keep the dispatcher from its deadlines.
//!
//! Owns the store and the reader while it runs and hands both back at the end. Tells the dispatcher one thing, by a byte in a
//! pipe: that the final record was seen. When the store cannot be written (a full disk), it tries again every second: nothing
//! is lost, it all stays in the spool.

use crate::spool::reader::{Reader, Writing};
use crate::store::event::Taken;
use crate::store::{Store, StoreError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at the spool.
const INTERVAL: Duration = Duration::from_millis(100);
/// Between two tries of a store that refused.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Tries of what is to be recorded at a run's end, before it is left to the next command.
pub(super) const LAST_TRIES: u32 = 3;

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
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Intake {
    worker_is_dead: Sender<()>,
    thread: JoinHandle<(Store, Result<Taken, IntakeError>)>,
}

impl Intake {
    /// Starts to take in. `final_seen` gets a byte when the final record was taken in.
    pub(super) fn start(store: Store, run_id: &str, attempt: u32, spool: &Path, final_seen: OwnedFd) -> io::Result<Self> {
        let (worker_is_dead, dead) = channel();
        let run_id = run_id.to_owned();
        let spool = spool.to_owned();
        let thread = std::thread::Builder::new().name("lorchestra-intake".into()).spawn(move || {
            let mut store = store;
            let result = follow(&mut store, &run_id, attempt, &spool, &dead, &final_seen);
            (store, result)
        })?;
        Ok(Self { worker_is_dead, thread })
    }

    /// The worker is dead: takes in the rest, and hands back the store and what the spool said.
    pub(super) fn finish(self) -> io::Result<(Store, Result<Taken, IntakeError>)> {
        let _ = self.worker_is_dead.send(());
        self.thread.join().map_err(|_| io::Error::other("the intake thread panicked"))
    }
}

fn follow(
    store: &mut Store,
    run_id: &str,
    attempt: u32,
    spool: &Path,
    dead: &Receiver<()>,
    final_seen: &OwnedFd,
) -> Result<Taken, IntakeError> {
    let mut taken = Taken::default();
    let mut reader = Reader::new(spool, taken.cursor);
    let mut wait = INTERVAL;
    let mut told = false;
    let mut refused = false;
    while matches!(dead.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
        wait = match take_in(store, run_id, attempt, spool, &mut reader, &mut taken, Writing::Alive) {
            Ok(()) => {
                if std::mem::take(&mut refused) {
                    tracing::warn!("the store takes events again");
                }
                INTERVAL
            }
            Err(error) => {
                // Once an outage: a full disk may last for hours.
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "events stay in the spool for now");
                }
                RETRY
            }
        };
        if taken.end.is_some() && !told {
            told = true;
            let _ = rustix::io::write(final_seen, b"f");
        }
    }
    for _ in 1..LAST_TRIES {
        if take_in(store, run_id, attempt, spool, &mut reader, &mut taken, Writing::Dead).is_ok() {
            return Ok(taken);
        }
        std::thread::sleep(RETRY);
    }
    take_in(store, run_id, attempt, spool, &mut reader, &mut taken, Writing::Dead)?;
    Ok(taken)
}

/// Takes in everything there is now, in transactions of about 1 MiB.
pub(crate) fn take_in(
    store: &mut Store,
    run_id: &str,
    attempt: u32,
    spool: &Path,
    reader: &mut Reader,
    taken: &mut Taken,
    writing: Writing,
) -> Result<(), IntakeError> {
    let io = |source| IntakeError::Spool { path: spool.to_owned(), source };
    loop {
        let chunk = reader.read(writing).map_err(io)?;
        let (end, more) = (chunk.end, chunk.more);
        if writing == Writing::Dead && !more && chunk.damaged == 0 && chunk.records.iter().all(|record| record.event.is_none()) {
            // Nothing to insert, and the run's end, with what these records say, is the next commit: one commit less for every
            // run. A death before it finds the spool as it is.
            taken.note(&chunk.records);
            return Ok(());
        }
        if end != taken.cursor {
            store.take_in(run_id, attempt, &chunk.records, end, chunk.damaged, taken)?;
            reader.taken(end).map_err(io)?;
        }
        if !more {
            return Ok(());
        }
    }
}
