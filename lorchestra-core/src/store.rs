//! History and outbox: one SQLite database, written by supervisors and recovery, read by every command.
//!
//! Owns runs, attempts, events and bookmarks (`schema`); knows nothing about plugins. Guarantees:
//!
//! - Whatever a method has committed survives power loss (WAL, `synchronous = FULL`).
//! - An attempt's cursor moves in the transaction that inserts the events before it, and an event is inserted once by its id, so ingesting
//!   the same spool twice changes nothing.
//! - A run's state, its terminal event and the bookmark that its success moves change in one transaction, and the database itself refuses a
//!   second terminal event for a run.
//!
//! Every writer begins with IMMEDIATE and waits up to 60 s for its turn: a deferred transaction that becomes a writer would fail
//! immediately, whatever the timeout.

pub mod bookmark;
mod checksum;
pub mod claimed;
pub mod event;
pub mod fleet;
pub mod group;
pub mod health;
pub mod history;
mod newest;
pub mod outbox;
pub mod own;
mod points;
pub mod refusal;
mod results;
pub mod retention;
pub mod run;
mod schema;
mod set_aside;
mod uncovered;

pub use bookmark::{Bookmark, Moved};
pub use claimed::{ClaimHolder, Claimed};
pub use event::{Event, EventFilter, Portion, Undelivered};
pub use health::{JobHealth, MAX_FAILURES};
pub use history::{RunKey, RunQuery, short_id};
pub use outbox::{
    Backlog, Batch, COUNTED, Circuit, NewBatch, OutRow, Outbox, PendingJobs, Row, RowDisposition, Stream, Suspect, Was,
};
pub use own::{EarlierAttempt, JobProgress, ListedArtifact, OwnType, Started, Terminal};
pub use points::RunPoint;
pub use refusal::{Refusal, Refused};
pub use run::{Attempt, AttemptEnd, NewRun, Run, RunEnd, RunFilter, RunStart, RunState};
pub use set_aside::SetAside;
pub use uncovered::Uncovered;

use crate::host::clock::now_micros;
use crate::host::limits::{self, RefusedOperation};
use crate::host::locks::FileLock;
use crate::host::state::StateDir;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a writer waits for its turn.
const BUSY: Duration = Duration::from_secs(60);

/// Number of WAL pages after which SQLite checkpoints: in ordinary runs, and while a job emits so many events that checkpointing after
/// every transaction would be most of the work.
const SHORT_LOG: u32 = 250;
const LONG_LOG: u32 = 4000;

/// An open store.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: PathBuf,
    /// The file that was opened.
    file: Option<(u64, u64)>,
    /// Whether the WAL may grow because of many events.
    long_log: bool,
    /// Number of events that this process has ingested.
    taken_in: usize,
    newest: newest::Newest,
    /// Number of newest events that had been committed and are missing.
    missing: u64,
    /// Power loss may undo commits until the next durable one: see [`Store::deferred`].
    is_deferred: bool,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A later version of lorchestra wrote it.
    #[error("{path} was written by a newer lorchestra (store version {found}; this one supports {known})", path = path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that this code supports.
        known: i64,
    },
    /// A database of another program, or not a database.
    #[error("{path} is not a lorchestra store: {why}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// A store that is damaged.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// SQLite's message.
        why: String,
    },
    /// The disk is full, or the file or its directory cannot be written.
    #[error("{path} cannot be written: {why}", path = path.display())]
    NotWritable {
        /// The database.
        path: PathBuf,
        /// The reason: full, read-only, ….
        why: String,
        /// Whether the disk is known to be full.
        is_full: bool,
    },
    /// Another process has locked it for longer than a writer waits.
    #[error("{path} is locked by another process ({doing})", path = path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
    },
    /// Any other error of SQLite.
    #[error("{path}: {doing}", path = path.display())]
    Sql {
        /// The database.
        path: PathBuf,
        /// The operation that failed.
        doing: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A file next to the database.
    #[error("{path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl StoreError {
    /// Another file has taken the place of the database.
    pub(crate) fn replaced(path: &Path) -> Self {
        Self::Io { path: path.to_owned(), source: io::Error::other("it was replaced while it was in use") }
    }

    fn sql(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        // Only lorchestra writes the database: a value of another type means that something else has changed it.
        use rusqlite::Error as Sql;
        if let Sql::Utf8Error(..)
        | Sql::FromSqlConversionFailure(..)
        | Sql::InvalidColumnType(..)
        | Sql::IntegralValueOutOfRange(..) = source
        {
            return Self::Damaged { path, why: format!("{doing}: {source}") };
        }
        // Of a stored spec, in a generated column.
        if let Sql::SqliteFailure(_, Some(text)) = &source
            && text == "malformed JSON"
        {
            return Self::Damaged { path, why: format!("{doing}: {text}") };
        }
        let code = source.sqlite_error_code();
        match code {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Busy { path, doing },
            Some(Code::DiskFull) => Self::NotWritable { path, why: "the disk is full".into(), is_full: true },
            Some(Code::ReadOnly) => Self::NotWritable { path, why: "it is read-only".into(), is_full: false },
            Some(Code::CannotOpen) => match limit_of_files(&path) {
                Some(source) => Self::Io { path, source },
                None => Self::NotWritable { path, why: "it cannot be opened".into(), is_full: false },
            },
            Some(Code::SystemIoFailure) => Self::NotWritable { path, why: source.to_string(), is_full: false },
            Some(Code::NotADatabase) => Self::Foreign { path, why: "it is not an SQLite database".into() },
            Some(Code::DatabaseCorrupt) => Self::Damaged { path, why: source.to_string() },
            _ => Self::Sql { path, doing, source },
        }
    }
}

/// Returns the error if a resource limit prevents opening the file, which SQLite does not distinguish from other reasons.
fn limit_of_files(path: &Path) -> Option<io::Error> {
    std::fs::File::open(path).err().filter(|error| limits::behind(error, RefusedOperation::Opening).is_some())
}

/// Whether no process can be writing to the database: its file system is read-only, and there is no WAL, which every writer leaves.
fn is_unchanging(path: &Path) -> bool {
    let refused = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
    refused == Err(rustix::io::Errno::ROFS) && !path.with_extension("db-wal").exists()
}

/// The name under which SQLite neither locks the file nor looks for a WAL.
fn immutable_uri(path: &Path) -> String {
    let escaped = path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{escaped}?immutable=1")
}

impl Store {
    /// Opens the store of a state directory; creates or migrates it if needed.
    pub fn open(state: &StateDir) -> Result<Self, StoreError> {
        let path = state.store();
        if let Some(store) = Self::open_current(&path)? {
            return Ok(store);
        }
        // On first use or for an older version: one process at a time; the others find it done.
        let lock_path = state.lock("store");
        let _lock = FileLock::take(&lock_path).map_err(|source| StoreError::Io { path: lock_path, source })?;
        if let Some(store) = Self::open_current(&path)? {
            return Ok(store);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // 0600 from the beginning: SQLite gives its journal files the mode of the database.
        crate::host::files::private_file(&path).map_err(|source| {
            match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::NOSPC | rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => StoreError::NotWritable {
                    path: path.clone(),
                    why: source.to_string(),
                    is_full: source.kind() == io::ErrorKind::StorageFull,
                },
                _ => StoreError::Io { path: path.clone(), source },
            }
        })?;
        let db = Connection::open_with_flags(&path, flags).map_err(|e| StoreError::sql(&path, "opening the store", e))?;
        let mut store = Self::over(db, path);
        store.configure()?;
        schema::migrate(&mut store.db).map_err(|e| StoreError::sql(&store.path, "creating the store", e))?;
        // An empty file in place of the database is a loss too.
        store.compare()?;
        Ok(store)
    }

    /// Compares the newest event with the one that was committed last.
    fn compare(&mut self) -> Result<(), StoreError> {
        // Read before the database: commits in between are newer than this number.
        let was = self.newest.read().unwrap_or_default();
        let is = self.newest_event()?;
        self.newest.begin(is);
        self.missing = was.saturating_sub(is).max(0).unsigned_abs();
        Ok(())
    }

    /// Opens the store if it exists and has the current version. Returns `None` for an older version or an empty database.
    fn open_current(path: &Path) -> Result<Option<Self>, StoreError> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(StoreError::Foreign { path: path.to_owned(), why: "it is not a regular file".into() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match Self::opened(path, path, flags) {
            // A backup on a medium that cannot be written: SQLite would create the WAL's index there to read it.
            Err(StoreError::NotWritable { .. }) if is_unchanging(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
                Self::opened(path, Path::new(&immutable_uri(path)), flags)
            }
            other => other,
        }
    }

    fn opened(path: &Path, name: &Path, flags: OpenFlags) -> Result<Option<Self>, StoreError> {
        let db = Connection::open_with_flags(name, flags).map_err(|e| StoreError::sql(path, "opening the store", e))?;
        let mut store = Self::over(db, path.to_owned());
        store.configure()?;
        match schema::version(&store.db).map_err(|e| StoreError::sql(path, "reading the store's version", e))? {
            schema::StoreVersion::Current => {
                store.compare()?;
                Ok(Some(store))
            }
            schema::StoreVersion::Older => Ok(None),
            schema::StoreVersion::Newer(found) => Err(StoreError::Newer { path: path.to_owned(), found, known: schema::VERSION }),
            schema::StoreVersion::Foreign => {
                Err(StoreError::Foreign { path: path.to_owned(), why: "it is another program's SQLite database".into() })
            }
        }
    }

    fn over(db: Connection, path: PathBuf) -> Self {
        let newest = newest::Newest::at(path.with_extension("newest"));
        let file = file_id(&path);
        Self { db, path, file, long_log: false, taken_in: 0, newest, missing: 0, is_deferred: false }
    }

    /// Whether its path still names the file that was opened.
    pub(crate) fn is_current(&self) -> bool {
        self.file.is_some() && self.file == file_id(&self.path)
    }

    /// Opens the file at its path, if another one has taken the place of the file that was opened. Returns whether it did.
    pub(crate) fn follow(&mut self) -> Result<bool, StoreError> {
        if self.is_current() {
            return Ok(false);
        }
        let other = Self::open_current(&self.path)?.ok_or_else(|| StoreError::replaced(&self.path))?;
        let (long_log, taken_in) = (std::mem::take(&mut self.long_log), self.taken_in);
        *self = Self { taken_in, ..other };
        if long_log {
            self.expect_flood()?;
        }
        // Recorded now: once this run has as many events as were lost, nothing would show the loss.
        self.take_missing();
        Ok(true)
    }

    /// Returns the approximate number of newest events that had been committed but were missing when this store was opened: its write-ahead
    /// log was damaged, or an older copy of the database was restored. Only the first caller gets the number.
    pub fn take_missing(&mut self) -> u64 {
        let missing = std::mem::take(&mut self.missing);
        if missing > 0
            && self.doubt_deliveries().is_ok()
            && self.record_loss(missing).is_ok()
            && let Ok(newest) = self.newest_event()
        {
            self.newest.reset(newest);
        }
        missing
    }

    /// Records that all events of this database may have been delivered: what followed is lost, and may have included their delivery.
    fn doubt_deliveries(&mut self) -> Result<(), StoreError> {
        self.write("recording that commits are missing", |tx| {
            tx.execute("UPDATE outbox SET doubtful_to = (SELECT coalesce(max(n), 0) FROM events)", []).map(drop)
        })
    }

    fn record_loss(&mut self, missing: u64) -> Result<(), StoreError> {
        self.write("recording a loss of events", |tx| {
            let values = [now_micros(), missing.cast_signed()];
            tx.execute("INSERT INTO losses (found_at, missing) VALUES (?1, ?2)", values).map(drop)
        })
    }

    /// Returns when newest events were found to be missing, in microseconds since 1970, and about how many, oldest first.
    pub fn losses(&self) -> Result<Vec<(i64, u64)>, StoreError> {
        self.read("reading the losses", |db| {
            let mut statement = db.prepare("SELECT found_at, missing FROM losses ORDER BY found_at")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?.collect()
        })
    }

    fn newest_event(&self) -> Result<i64, StoreError> {
        self.read("reading the newest event", |db| {
            db.prepare_cached("SELECT coalesce(max(n), 0) FROM events")?.query_row([], |row| row.get(0))
        })
    }

    fn configure(&self) -> Result<(), StoreError> {
        let sql = |e| StoreError::sql(&self.path, "configuring the store", e);
        self.db.busy_timeout(BUSY).map_err(sql)?;
        // Otherwise the last process to close the database would checkpoint and remove the WAL, and the next one would create it again:
        // four fsyncs per run. The first process to open the database reads the existing WAL, so it is kept short.
        self.db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
        self.checkpoint_every(SHORT_LOG).map_err(sql)?;
        self.db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(sql)
    }

    /// Runs `work` with commits that are immediately visible to others, but survive power loss only with the next durable commit. For many
    /// small commits that can be repeated from data that still exists until then.
    pub(crate) fn deferred<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T, StoreError> {
        let set = |store: &Self, level: &str| {
            let sql = |e| StoreError::sql(&store.path, "configuring the store", e);
            store.db.pragma_update(None, "synchronous", level).map_err(sql)
        };
        set(self, "NORMAL")?;
        self.is_deferred = true;
        let done = work(self);
        self.is_deferred = false;
        set(self, "FULL")?;
        Ok(done)
    }

    fn checkpoint_every(&self, pages: u32) -> rusqlite::Result<()> {
        self.db.pragma_update(None, "wal_autocheckpoint", pages)
    }

    /// Lets the WAL grow from now on.
    fn expect_flood(&mut self) -> Result<(), StoreError> {
        if !self.long_log {
            self.checkpoint_every(LONG_LOG).map_err(|e| StoreError::sql(&self.path, "ingesting events", e))?;
            self.long_log = true;
        }
        Ok(())
    }

    /// Checkpoints a WAL that was allowed to grow, as far as no reader needs it.
    fn end_flood(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.long_log) {
            let moved = self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            moved
                .and_then(|()| self.checkpoint_every(SHORT_LOG))
                .map_err(|e| StoreError::sql(&self.path, "moving the log", e))?;
        }
        Ok(())
    }

    /// Runs `work` in one IMMEDIATE transaction.
    fn write<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = &self.path;
        let sql = |e| StoreError::sql(path, doing, e);
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let value = work(&tx).map_err(sql)?;
        if let Err(error) = tx.commit() {
            // A write-ahead log that could not be synced may contain the whole commit, and the next process to read the log would find it
            // there. Another commit takes its place.
            let _ = self.db.pragma_update(None, "user_version", schema::VERSION);
            return Err(sql(error));
        }
        // A loss that nobody has reported yet stays visible.
        if !self.is_deferred
            && self.missing == 0
            && let Ok(newest) = self.newest_event()
        {
            self.newest.write(newest);
        }
        Ok(value)
    }

    fn read<T>(&self, doing: &'static str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.db).map_err(|e| StoreError::sql(&self.path, doing, e))
    }
}

/// Returns the device and the inode of a file.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod plans;
#[cfg(test)]
pub(crate) mod tests;
