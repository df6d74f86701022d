//! The tables, and how an older store becomes a present one. Migrations only add.

use rusqlite::{Connection, TransactionBehavior};

/// Version this code reads and writes (`PRAGMA user_version`).
pub(super) const VERSION: i64 = 4;
/// `PRAGMA application_id`: "LORC".
const APPLICATION: i64 = 0x4c4f_5243;

/// What a database is.
pub(super) enum Version {
    Current,
    /// Empty, or to be migrated.
    Older,
    Newer(i64),
    /// Somebody else's.
    Foreign,
}

pub(super) fn version(db: &Connection) -> rusqlite::Result<Version> {
    // One view of the file: between two, another process may have made the tables, and they would be taken for a stranger's.
    let view = db.unchecked_transaction()?;
    let (application, version): (i64, i64) =
        view.query_row("SELECT application_id, user_version FROM pragma_application_id, pragma_user_version", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(match (application, version) {
        (APPLICATION, VERSION) => Version::Current,
        (APPLICATION, newer) if newer > VERSION => Version::Newer(newer),
        (APPLICATION, _) => Version::Older,
        (0, 0) => {
            let tables: i64 = view.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            if tables == 0 { Version::Older } else { Version::Foreign }
        }
        _ => Version::Foreign,
    })
}

/// Brings an empty or older database to [`VERSION`]. The caller holds the store's lock.
pub(super) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    // Kept in the file; setting it needs the database to itself, hence here and not at every start.
    db.execute_batch("PRAGMA journal_mode = WAL;")?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version < 1 {
        tx.execute_batch(V1)?;
    }
    if version < 2 {
        tx.execute_batch(V2)?;
    }
    if version < 3 {
        tx.execute_batch(V3)?;
    }
    if version < 4 {
        tx.execute_batch(V4)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

/// Whether the tables of bookmarks are there: in a store that is older they need not be.
pub(super) fn has_bookmarks(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'bookmarks'", [], |row| {
        row.get::<_, i64>(0).map(|n| n > 0)
    })
}

/// Times are microseconds since 1970. What repeats in the envelope of every event of a run (source, package, job, run_id)
/// stands once, in `runs`; the view `envelope` shows events with the columns of the BigQuery table.
const V1: &str = "
CREATE TABLE runs (
    n                INTEGER PRIMARY KEY,
    run_id           TEXT NOT NULL UNIQUE,
    package          TEXT NOT NULL,
    job              TEXT NOT NULL,
    account          TEXT,
    state            TEXT NOT NULL,
    cause            TEXT,
    message          TEXT,
    job_result       TEXT,
    started_at       INTEGER NOT NULL,
    ended_at         INTEGER,
    params           TEXT NOT NULL,
    since            INTEGER,
    until            INTEGER,
    plugin_path      TEXT NOT NULL,
    plugin_version   TEXT NOT NULL,
    plugin_sha256    TEXT NOT NULL,
    location         TEXT NOT NULL,
    host             TEXT NOT NULL,
    supervisor_pid   INTEGER NOT NULL,
    supervisor_start INTEGER NOT NULL,
    boot_id          TEXT NOT NULL,
    logs             INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX runs_by_start ON runs (started_at);
CREATE INDEX runs_with_logs ON runs (ended_at) WHERE logs;
CREATE INDEX runs_running ON runs (n) WHERE state = 'running';

CREATE TABLE attempts (
    run            INTEGER NOT NULL REFERENCES runs (n) ON DELETE CASCADE,
    attempt        INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    ended_at       INTEGER,
    worker_pid     INTEGER,
    cursor_segment INTEGER NOT NULL DEFAULT 1,
    cursor_byte    INTEGER NOT NULL DEFAULT 0,
    entered        INTEGER NOT NULL DEFAULT 0,
    damaged        INTEGER NOT NULL DEFAULT 0,
    final          TEXT,
    PRIMARY KEY (run, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    n              INTEGER PRIMARY KEY,
    event_id       TEXT NOT NULL UNIQUE,
    run            INTEGER NOT NULL REFERENCES runs (n) ON DELETE CASCADE,
    attempt        INTEGER NOT NULL,
    event_type     TEXT NOT NULL,
    schema_ref     TEXT,
    created_at     INTEGER NOT NULL,
    correlation_id TEXT,
    subject_id     TEXT,
    payload        TEXT,
    terminal       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX events_by_run ON events (run);
CREATE UNIQUE INDEX one_end_per_run ON events (run) WHERE terminal;

CREATE VIEW envelope AS
SELECT e.n, e.event_id, e.event_type, r.package || '/' || r.job AS source, e.schema_ref,
       strftime('%Y-%m-%dT%H:%M:%S', e.created_at / 1000000, 'unixepoch')
           || printf('.%06dZ', e.created_at % 1000000) AS created_at,
       coalesce(e.correlation_id, r.run_id) AS correlation_id, e.subject_id, e.payload,
       r.run_id, e.attempt, r.package, r.job
FROM events e JOIN runs r ON r.n = e.run;
";

/// Delivery. `outbox` has one row: all events up to `delivered_to` are settled, the last of them in `destination`; until `closed_until`
/// nobody tries `closed_route`. `batches` has the one that is frozen, and those of unknown fate; `was` says what the rows of one that is
/// sent on request were before. `settled` has the rows that are settled by themselves.
const V2: &str = "
CREATE TABLE outbox (
    only          INTEGER PRIMARY KEY CHECK (only = 1),
    delivered_to  INTEGER NOT NULL DEFAULT 0,
    destination   TEXT,
    closed_until  INTEGER NOT NULL DEFAULT 0,
    closed_reason TEXT,
    closed_route  TEXT
) STRICT;
INSERT INTO outbox (only) VALUES (1);

CREATE TABLE streams (
    destination TEXT PRIMARY KEY,
    stream      TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    used_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    n           INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    stream      TEXT,
    row_offset  INTEGER,
    first       INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    state       TEXT NOT NULL,
    was         TEXT,
    reason      TEXT,
    made_at     INTEGER NOT NULL
) STRICT;

CREATE TABLE settled (
    event  INTEGER PRIMARY KEY REFERENCES events (n) ON DELETE CASCADE,
    how    TEXT NOT NULL,
    reason TEXT,
    at     INTEGER NOT NULL
) STRICT;

ALTER TABLE runs ADD COLUMN payloads INTEGER NOT NULL DEFAULT 1;
CREATE INDEX runs_with_payloads ON runs (ended_at) WHERE payloads;
";

/// Retries: how each attempt ended that was not the last. A run that was skipped has no attempt, and its event the attempt 0.
const V3: &str = "
ALTER TABLE attempts ADD COLUMN cause TEXT;
ALTER TABLE attempts ADD COLUMN message TEXT;
";

/// Bookmarks. The account '' stands for none. A run whose job has a `since` keeps one; what it did to it stands in the run.
const V4: &str = "
CREATE TABLE bookmarks (
    package  TEXT NOT NULL,
    job      TEXT NOT NULL,
    account  TEXT NOT NULL DEFAULT '',
    at       INTEGER NOT NULL,
    moved_at INTEGER NOT NULL,
    run_id   TEXT,
    PRIMARY KEY (package, job, account)
) STRICT, WITHOUT ROWID;

ALTER TABLE runs ADD COLUMN keeps_bookmark INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN bookmark_before INTEGER;
ALTER TABLE runs ADD COLUMN bookmark_after INTEGER;
";

#[cfg(test)]
mod tests {
    use super::super::tests::{end, new_run, site};
    use super::super::{NewRun, RunState, Store};
    use serde_json::json;

    /// A store of version 3 has runs that say nothing of a bookmark, one of version 2 runs whose attempts say nothing of their ends.
    #[test]
    fn a_store_of_an_older_version_is_brought_up() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &json!({})).unwrap();
        store.end_run("r1", &end()).unwrap();
        let without = "DROP TABLE bookmarks; ALTER TABLE runs DROP COLUMN keeps_bookmark;
            ALTER TABLE runs DROP COLUMN bookmark_before; ALTER TABLE runs DROP COLUMN bookmark_after;
            PRAGMA user_version = 3;";
        store.db.execute_batch(without).unwrap();
        drop(store);
        let store = Store::open(&site.state).unwrap();
        assert_eq!(store.bookmarks(None, None).unwrap(), []);
        assert_eq!(store.find_run("r1").unwrap().unwrap().bookmark, None);
        store.db.execute_batch(without).unwrap();
        let without =
            "ALTER TABLE attempts DROP COLUMN cause; ALTER TABLE attempts DROP COLUMN message; PRAGMA user_version = 2;";
        store.db.execute_batch(without).unwrap();
        drop(store);
        let mut store = Store::open(&site.state).unwrap();
        assert_eq!(store.attempts("r1").unwrap()[0].cause, None);
        assert_eq!(store.find_run("r1").unwrap().unwrap().state, RunState::Completed);
        // And one like any other from now on.
        let windowed = NewRun { keeps_bookmark: true, until: Some(9), ..new_run("r2") };
        store.begin_run(&windowed, &json!({})).unwrap();
        store.end_run("r2", &end()).unwrap();
        assert_eq!(store.bookmarks(None, None).unwrap().len(), 1);
    }
}
