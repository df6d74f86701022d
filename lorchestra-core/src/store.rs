//! History and outbox: one SQLite database, written by supervisors and recovery, read by everybody.
//!
//! Owns runs, attempts, events and bookmarks (`schema`); knows nothing of plugins. What it promises:
//!
//! - What a method has committed survives power loss (WAL, `synchronous = FULL`).
//! - An attempt's cursor moves in the transaction that inserts the events before it, and an event is inserted once by its id:
//!   taking the same spool in twice changes nothing.
//! - A run's state, its terminal event and the bookmark that its success moves change in one transaction, and a second terminal
//!   event of a run is refused by the database itself.
//!
//! Every writer begins IMMEDIATE and waits up to 60 s for its turn: a deferred transaction that turns into a writer would
//! fail at once, whatever the timeout.

pub mod bookmark;
pub mod event;
pub mod outbox;
pub mod retention;
pub mod run;
mod schema;

pub use bookmark::{Bookmark, Moved};
pub use event::{Event, EventFilter, Undelivered};
pub use outbox::{Backlog, Batch, CIRCUIT, Circuit, NewBatch, OutRow, Settled, Was};
pub use run::{Attempt, AttemptEnd, NewRun, Run, RunEnd, RunFilter, RunState};

use crate::locks::FileLock;
use crate::state::StateDir;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a writer waits for its turn.
const BUSY: Duration = Duration::from_secs(60);

/// Pages of the write-ahead log after which it is moved into the database: in ordinary runs, and while a job emits so much that
/// moving it after every transaction would be most of the work.
const SHORT_LOG: u32 = 250;
const LONG_LOG: u32 = 4000;

/// An open store.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: PathBuf,
    /// Whether the write-ahead log was let grow for a flood of events.
    long_log: bool,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Written by a later version.
    #[error("{path} was written by a newer lorchestra (store version {found}; this one knows {known})", path = path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A database of something else, or none at all.
    #[error("{path} is not a store of lorchestra: {why}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// A store, and damaged.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        why: String,
    },
    /// The disk is full, or the file or its directory cannot be written.
    #[error("{path} cannot be written: {why}", path = path.display())]
    NotWritable {
        /// The database.
        path: PathBuf,
        /// Full, read-only, ….
        why: String,
    },
    /// Another process keeps it for itself, for longer than a writer waits.
    #[error("{path} is kept by another process ({doing})", path = path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
    /// SQLite's own words for anything else.
    #[error("{path}: {doing}", path = path.display())]
    Sql {
        /// The database.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A file beside the database.
    #[error("{path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl StoreError {
    fn sql(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        let code = source.sqlite_error_code();
        match code {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Busy { path, doing },
            Some(Code::DiskFull) => Self::NotWritable { path, why: "the disk is full".into() },
            Some(Code::ReadOnly) => Self::NotWritable { path, why: "it is read-only".into() },
            Some(Code::CannotOpen) => Self::NotWritable { path, why: "it cannot be opened (permissions?)".into() },
            Some(Code::SystemIoFailure) => Self::NotWritable { path, why: source.to_string() },
            Some(Code::NotADatabase) => Self::Foreign { path, why: "it is not an SQLite database".into() },
            Some(Code::DatabaseCorrupt) => Self::Damaged { path, why: source.to_string() },
            _ => Self::Sql { path, doing, source },
        }
    }
}

impl Store {
    /// Opens the store of a state directory, creating or migrating it first where needed.
    pub fn open(state: &StateDir) -> Result<Self, StoreError> {
        let path = state.store();
        if let Some(store) = Self::open_current(&path)? {
            return Ok(store);
        }
        // First use or an older version: one process at a time, and the others find it done.
        let lock_path = state.lock("store");
        let _lock = FileLock::take(&lock_path).map_err(|source| StoreError::Io { path: lock_path, source })?;
        if let Some(store) = Self::open_current(&path)? {
            return Ok(store);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // 0600 from the first moment: SQLite gives its journal files the mode of the database.
        crate::private_file(&path).map_err(|source| match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => {
                StoreError::NotWritable { path: path.clone(), why: source.to_string() }
            }
            _ => StoreError::Io { path: path.clone(), source },
        })?;
        let db = Connection::open_with_flags(&path, flags).map_err(|e| StoreError::sql(&path, "opening the store", e))?;
        let mut store = Self { db, path, long_log: false };
        store.configure()?;
        schema::migrate(&mut store.db).map_err(|e| StoreError::sql(&store.path, "creating the store", e))?;
        Ok(store)
    }

    /// The store, if it is there and of the present version.
    fn open_current(path: &Path) -> Result<Option<Self>, StoreError> {
        Ok(match Self::open_as_it_is(path)? {
            Some((store, schema::Version::Current)) => Some(store),
            _ => None,
        })
    }

    /// The store and its version, if it is there: the present or an older one. An older one may be a database that is empty yet.
    fn open_as_it_is(path: &Path) -> Result<Option<(Self, schema::Version)>, StoreError> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(StoreError::Foreign { path: path.to_owned(), why: "it is not a regular file".into() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(|e| StoreError::sql(path, "opening the store", e))?;
        let store = Self { db, path: path.to_owned(), long_log: false };
        store.configure()?;
        match schema::version(&store.db).map_err(|e| StoreError::sql(path, "reading the store's version", e))? {
            schema::Version::Newer(found) => Err(StoreError::Newer { path: path.to_owned(), found, known: schema::VERSION }),
            schema::Version::Foreign => {
                Err(StoreError::Foreign { path: path.to_owned(), why: "it is another program's SQLite database".into() })
            }
            version => Ok(Some((store, version))),
        }
    }

    fn configure(&self) -> Result<(), StoreError> {
        let sql = |e| StoreError::sql(&self.path, "configuring the store", e);
        self.db.busy_timeout(BUSY).map_err(sql)?;
        // The last one to close would otherwise move the whole log into the database and remove it, and the next one make it
        // anew: four fsyncs a run. But whoever opens first reads the log that is there: it is kept short.
        self.db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
        self.checkpoint_every(SHORT_LOG).map_err(sql)?;
        self.db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(sql)
    }

    /// What `work` commits is in the store, also for others, and survives power loss with the next commit after it: for many small commits
    /// that can be made again from what is still there until then.
    pub(crate) fn deferred<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T, StoreError> {
        let set = |store: &Self, level: &str| {
            let sql = |e| StoreError::sql(&store.path, "configuring the store", e);
            store.db.pragma_update(None, "synchronous", level).map_err(sql)
        };
        set(self, "NORMAL")?;
        let done = work(self);
        set(self, "FULL")?;
        Ok(done)
    }

    fn checkpoint_every(&self, pages: u32) -> rusqlite::Result<()> {
        self.db.pragma_update(None, "wal_autocheckpoint", pages)
    }

    /// Lets the log grow from now on.
    fn expect_flood(&mut self) -> Result<(), StoreError> {
        if !self.long_log {
            self.checkpoint_every(LONG_LOG).map_err(|e| StoreError::sql(&self.path, "taking in events", e))?;
            self.long_log = true;
        }
        Ok(())
    }

    /// Moves a log that was let grow into the database, as far as nobody reads it.
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
        tx.commit().map_err(sql)?;
        Ok(value)
    }

    fn read<T>(&self, doing: &'static str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.db).map_err(|e| StoreError::sql(&self.path, doing, e))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spool::Cursor;
    use crate::spool::record::{self, Record};
    use serde_json::json;

    pub(crate) struct Site {
        _dir: tempfile::TempDir,
        pub(crate) state: StateDir,
    }

    pub(crate) fn site() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        Site { _dir: dir, state }
    }

    pub(crate) fn new_run(run_id: &str) -> NewRun {
        NewRun {
            run_id: run_id.into(),
            package: "pkg".into(),
            job: "job".into(),
            account: None,
            started_at: 1_700_000_000_000_000,
            params: json!({"n": 1}),
            since: None,
            until: None,
            plugin_path: "/p/lib.so".into(),
            plugin_version: "1.0.0".into(),
            plugin_sha256: "00".into(),
            location: "src/lib.rs:1".into(),
            host: "host".into(),
            supervisor_pid: 1,
            supervisor_start: 2,
            boot_id: "boot".into(),
            worker_pid: Some(7),
            keeps_bookmark: false,
        }
    }

    pub(crate) fn end() -> RunEnd {
        RunEnd {
            state: RunState::Completed,
            cause: None,
            message: None,
            job_result: None,
            ended_at: 1_700_000_001_000_000,
            attempt: 1,
            bookmark: None,
            payload: json!({"attempt": 1}),
        }
    }

    #[test]
    fn attempts_end_one_after_the_other() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        let over = AttemptEnd { attempt: 1, cause: "error", message: "no".into(), ended_at: 1_700_000_000_500_000 };
        assert!(store.end_attempt("r1", &over).unwrap());
        assert!(store.begin_attempt("r1", 2, 1_700_000_000_600_000, 8).unwrap());
        assert!(store.end_run("r1", &RunEnd { attempt: 2, ..end() }).unwrap());
        assert!(!store.end_attempt("r1", &over).unwrap() && !store.begin_attempt("r1", 3, 0, 9).unwrap(), "after the end");
        let attempts = store.attempts("r1").unwrap();
        let ends: Vec<_> = attempts.iter().map(|a| (a.attempt, a.ended_at, a.cause.as_deref(), a.worker_pid)).collect();
        assert_eq!(ends, [(1, Some(over.ended_at), Some("error"), Some(7)), (2, Some(end().ended_at), None, Some(8))]);
        assert_eq!(store.find_run("r1").unwrap().unwrap().attempts, 2);
    }

    #[test]
    fn several_runs_end_together() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        for id in ["r1", "r2", "r3"] {
            store.begin_run(&new_run(id), &json!({})).unwrap();
        }
        store.end_run("r2", &end()).unwrap();
        let end = end();
        let ended = store.end_runs(&[("r1", &end), ("r2", &end), ("r3", &end), ("nobody", &end)]).unwrap();
        assert_eq!(ended, [true, false, true, false]);
        assert!(store.runs(&RunFilter { running: true, limit: None }).unwrap().is_empty());
    }

    #[test]
    fn a_skipped_run_has_one_event_and_no_attempt() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.skip_run(&NewRun { worker_pid: None, ..new_run("r1") }, &json!({"held_by": "r0"})).unwrap();
        let run = store.find_run("r1").unwrap().unwrap();
        assert_eq!((run.state, run.ended_at, run.attempts), (RunState::Skipped, Some(run.started_at), 0));
        let types: Vec<_> = events(&store).into_iter().map(|e| (e.event_type, e.attempt)).collect();
        assert_eq!(types, [("job.skipped".to_owned(), 0)]);
        assert!(!store.end_run("r1", &end()).unwrap());
    }

    fn lines(count: usize) -> Vec<Vec<u8>> {
        let line = |i: usize| {
            let id = format!("00000000-0000-7000-8000-{i:012}");
            let mut out = Vec::new();
            let json =
                json!({"seq": i + 1, "event": {"id": id, "at": 1_700_000_000_500_000_i64, "type": "t", "payload": {"i": i}}});
            record::frame(&mut out, |out| out.extend_from_slice(json.to_string().as_bytes()));
            out.pop();
            out
        };
        (0..count).map(line).collect()
    }

    fn parsed(lines: &[Vec<u8>]) -> Vec<Record<'_>> {
        lines.iter().map(|line| record::parse(line).unwrap()).collect()
    }

    fn events(store: &Store) -> Vec<Event> {
        let mut found = Vec::new();
        let each = |event| {
            found.push(event);
            Ok::<(), ()>(())
        };
        store.events(&EventFilter::default(), each).unwrap().unwrap();
        found
    }

    /// That a commit survives power loss is not to be seen in a test; what makes it so is.
    #[test]
    fn commits_wait_for_the_disk() {
        let site = site();
        for opened in ["created", "opened again"] {
            let mut store = Store::open(&site.state).unwrap();
            let pragma = |name: &str| store.db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, String>(0));
            let synchronous: i64 = store.db.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
            assert_eq!((pragma("journal_mode").as_deref(), synchronous), (Ok("wal"), 2), "{opened}");
            store.deferred(|_| ()).unwrap();
            let synchronous: i64 = store.db.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
            assert_eq!(synchronous, 2, "{opened}: only as long as it was asked for");
        }
    }

    #[test]
    fn a_run_ends_once() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        assert!(store.end_run("r1", &end()).unwrap());
        assert!(!store.end_run("r1", &end()).unwrap(), "a second end");
        assert!(!store.end_run("nobody", &end()).unwrap());
        let types: Vec<_> = events(&store).into_iter().map(|e| e.event_type).collect();
        assert_eq!(types, ["job.started", "job.completed"]);
        let run = store.find_run("r1").unwrap().unwrap();
        assert_eq!((run.state, run.ended_at, run.attempts), (RunState::Completed, Some(1_700_000_001_000_000), 1));
    }

    #[test]
    fn the_database_itself_refuses_a_second_terminal_event() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        store.end_run("r1", &end()).unwrap();
        let second = "INSERT INTO events (event_id, run, attempt, event_type, created_at, terminal) VALUES ('x', 1, 1, 'job.failed', 0, 1)";
        assert!(store.db.execute(second, []).is_err());
    }

    #[test]
    fn taking_the_same_records_in_twice_changes_nothing() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        let lines = lines(3);
        let mut taken = store.taken("r1", 1).unwrap();
        for _ in 0..2 {
            store.take_in("r1", 1, &parsed(&lines), Cursor { segment: 2, byte: 9 }, 0, &mut taken).unwrap();
        }
        assert_eq!(events(&store).len(), 4);
        assert_eq!(store.taken("r1", 1).unwrap(), taken);
        assert_eq!(taken.cursor, Cursor { segment: 2, byte: 9 });
    }

    #[test]
    fn the_envelope_is_whole() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        let lines = lines(1);
        store.take_in("r1", 1, &parsed(&lines), Cursor::default(), 0, &mut event::Taken::default()).unwrap();
        let event = events(&store).pop().unwrap();
        let json = serde_json::to_value(&event).unwrap();
        let expected = json!({
            "event_id": "00000000-0000-7000-8000-000000000000", "event_type": "t", "source": "pkg/job", "schema_ref": null, "created_at": "2023-11-14T22:13:20.500000Z",
            "correlation_id": "r1", "subject_id": null, "payload": {"i": 0}, "run_id": "r1", "attempt": 1, "package": "pkg", "job": "job",
        });
        assert_eq!(json, expected);
    }

    /// Rows that an older lorchestra took from a job: one of them must not hide the others.
    #[test]
    fn what_an_older_store_has_is_listed_as_it_is() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        let times = [i64::MIN, -62_135_596_800_000_001, -62_135_596_800_000_000, -1, 0, 253_402_300_800_000_000, i64::MAX];
        for (n, at) in times.iter().enumerate() {
            let sql =
                "INSERT INTO events (event_id, run, attempt, event_type, created_at, payload) VALUES (?1, 1, 1, 't', ?2, ?3)";
            let payload = if n == 0 { "[1]" } else { "not json" };
            store.db.execute(sql, rusqlite::params![n.to_string(), at, payload]).unwrap();
        }
        let shown: Vec<_> = events(&store).into_iter().skip(1).map(|event| event.created_at).collect();
        let expected = [
            "-9223372036854775808",
            "-62135596800000001",
            "0001-01-01T00:00:00.000000Z",
            "1969-12-31T23:59:59.999999Z",
            "1970-01-01T00:00:00.000000Z",
            "253402300800000000",
            "9223372036854775807",
        ];
        assert_eq!(shown, expected);
        let payloads: Vec<_> =
            events(&store).into_iter().skip(1).map(|event| event.payload.map(|json| json.to_string())).collect();
        assert_eq!((payloads[0].as_deref(), payloads[1].as_deref()), (Some("[1]"), None));
        // The view is for other readers: such a time is NULL there.
        let rows: i64 =
            store.db.query_row("SELECT count(*) FROM envelope WHERE created_at IS NULL", [], |row| row.get(0)).unwrap();
        assert!(rows >= 2, "{rows}");
    }

    #[test]
    fn runs_are_found_by_enough_of_their_id() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        for id in ["aaaa-1111", "aaaa-2222"] {
            store.begin_run(&new_run(id), &json!({})).unwrap();
        }
        assert_eq!(store.find_run("2222").unwrap().unwrap().run_id, "aaaa-2222");
        assert_eq!(store.find_run("aaaa").unwrap().unwrap_err().len(), 2);
        assert!(store.find_run("%").unwrap().unwrap_err().is_empty(), "no wildcards");
        assert!(store.find_run("a").unwrap().unwrap_err().is_empty(), "too little to name one");
    }

    #[test]
    fn many_processes_may_create_it_at_once() {
        let site = site();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let state = site.state.clone();
                std::thread::spawn(move || {
                    Store::open(&state).unwrap().begin_run(&new_run(&format!("r{n}")), &json!({})).unwrap()
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(Store::open(&site.state).unwrap().runs(&RunFilter::default()).unwrap().len(), 8);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let newer = site();
        Store::open(&newer.state).unwrap().db.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&newer.state), Err(StoreError::Newer { found: 99, .. })));

        let foreign = site();
        Connection::open(foreign.state.store()).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(Store::open(&foreign.state), Err(StoreError::Foreign { .. })));

        let text = site();
        std::fs::write(text.state.store(), "these are my notes, not a database\n".repeat(100)).unwrap();
        assert!(matches!(Store::open(&text.state), Err(StoreError::Foreign { .. })));
        assert!(std::fs::read_to_string(text.state.store()).unwrap().starts_with("these are my notes"));
    }

    /// A writer of another process that does not come to an end.
    #[test]
    fn a_store_that_is_kept_by_another_is_told_as_that_and_nothing_is_half_done() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let other = Connection::open(site.state.store()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        store.db.busy_timeout(Duration::from_millis(20)).unwrap();
        let error = store.begin_run(&new_run("r1"), &json!({})).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
        assert!(store.runs(&RunFilter::default()).unwrap().is_empty(), "reading goes on");
        other.execute_batch("ROLLBACK").unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
    }

    /// The clock was ahead by ten years when a run ended: it is not older than it is, and its end is not before its beginning.
    #[test]
    fn what_is_dated_in_the_future_is_kept() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let later = crate::now_micros() + 10 * 365 * 86_400_000_000;
        store.begin_run(&NewRun { started_at: later, ..new_run("r1") }, &json!({})).unwrap();
        store.end_run("r1", &RunEnd { ended_at: later, ..end() }).unwrap();
        store.begin_run(&new_run("r2"), &json!({})).unwrap();
        let none = Duration::ZERO;
        let retention = retention::Retention { logs: none, payloads: none, runs: none, undelivered: false };
        assert_eq!(store.prune(&site.state, &retention, crate::now_micros()).unwrap(), retention::Pruned::default());
        let newest_first: Vec<_> = store.runs(&RunFilter::default()).unwrap().into_iter().map(|run| run.run_id).collect();
        assert_eq!(newest_first, ["r2", "r1"], "the order is that of their beginnings, not of clocks");
    }

    #[test]
    fn retention_removes_old_runs_and_logs_and_no_others() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let ids: Vec<String> = (0..3).map(|_| uuid::Uuid::now_v7().to_string()).collect();
        for id in &ids {
            store.begin_run(&new_run(id), &json!({})).unwrap();
            std::fs::create_dir(site.state.run_logs(id)).unwrap();
        }
        store.end_run(&ids[0], &end()).unwrap();
        store.end_run(&ids[1], &RunEnd { ended_at: crate::now_micros(), ..end() }).unwrap();
        let day = Duration::from_secs(86400);
        let retention = retention::Retention { logs: 365 * day, runs: 30 * day, ..retention::Retention::default() };
        let pruned = store.prune(&site.state, &retention, crate::now_micros()).unwrap();
        assert_eq!(pruned, retention::Pruned { runs: 1, logs: 0, payloads: 0 });
        assert!(!site.state.run_logs(&ids[0]).exists());
        assert_eq!(store.runs(&RunFilter::default()).unwrap().len(), 2, "the young one and the running one stay");
        assert_eq!(events(&store).iter().filter(|e| e.run_id == ids[0]).count(), 0);
        // Seen from 40 days on, all logs are old; from 800 days on, the run that still runs stays.
        let later = |days: u32| crate::now_micros() + i64::try_from((days * day).as_micros()).unwrap();
        let logs_only = retention::Retention { logs: 30 * day, runs: 10_000 * day, ..retention::Retention::default() };
        assert_eq!(store.prune(&site.state, &logs_only, later(40)).unwrap(), retention::Pruned { runs: 0, logs: 1, payloads: 0 });
        assert!(!site.state.run_logs(&ids[1]).exists() && site.state.run_logs(&ids[2]).exists(), "those of the running one stay");
        assert_eq!(store.prune(&site.state, &logs_only, later(40)).unwrap(), retention::Pruned::default(), "once");
        // Its end is the newest event there is: its number must not be given out again.
        assert_eq!(store.prune(&site.state, &retention, later(800)).unwrap().runs, 0);
        store.begin_run(&new_run("next"), &json!({})).unwrap();
        assert_eq!(store.prune(&site.state, &retention, later(800)).unwrap().runs, 1);
        let left: Vec<String> = store.runs(&RunFilter::default()).unwrap().into_iter().map(|run| run.run_id).collect();
        assert_eq!(left, ["next", &ids[2]]);
    }

    #[test]
    fn what_is_not_delivered_is_kept_whole() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let day = Duration::from_secs(86400);
        let retention = retention::Retention { undelivered: true, ..retention::Retention::default() };
        store.begin_run(&new_run("r1"), &json!({"personal": true})).unwrap();
        store.end_run("r1", &end()).unwrap();
        store.begin_run(&new_run("r2"), &json!({})).unwrap();
        let late = crate::now_micros() + i64::try_from((800 * day).as_micros()).unwrap();
        let prune = |store: &mut Store| store.prune(&site.state, &retention, late).unwrap();
        let pruned = prune(&mut store);
        assert_eq!((pruned.runs, pruned.payloads), (0, 0), "nothing is delivered");
        // Delivered, but for one that was refused.
        let rows = store.pending_rows(0, 10, usize::MAX).unwrap();
        let batch = |first: usize, last: usize| NewBatch {
            destination: "p.d.t".into(),
            stream: None,
            first: rows[first].n,
            last: rows[last].n,
            rows: 1,
        };
        let frozen = store.advance(None, Some(&batch(0, 1))).unwrap().unwrap();
        store.release(&frozen, &[(rows[1].n, Settled::Refused("no".into()))], 10, "").unwrap();
        let frozen = store.advance(None, Some(&batch(0, 0))).unwrap().unwrap();
        store.advance(Some(&frozen), None).unwrap();
        assert_eq!(prune(&mut store).payloads, 0);
        let refused = EventFilter { delivery: Some(Undelivered::Refused), ..EventFilter::default() };
        let mut reasons = Vec::new();
        let each = |event: Event| {
            reasons.push(event.delivery_error);
            Ok::<(), ()>(())
        };
        store.events(&refused, each).unwrap().unwrap();
        assert_eq!(reasons, [Some("no".to_owned())]);
        // All of it.
        store.db.execute("DELETE FROM settled", []).unwrap();
        let frozen = store.advance(None, Some(&batch(1, 2))).unwrap().unwrap();
        store.advance(Some(&frozen), None).unwrap();
        let keep_runs = retention::Retention { runs: 10_000 * day, ..retention };
        assert_eq!(store.prune(&site.state, &keep_runs, late).unwrap().payloads, 1);
        assert!(events(&store).iter().take(2).all(|event| event.payload.is_none()));
        assert_eq!(store.prune(&site.state, &keep_runs, late).unwrap().payloads, 0, "once");
        assert_eq!(store.prune(&site.state, &retention, late).unwrap().runs, 1);
    }
}
