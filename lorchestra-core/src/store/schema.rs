//! The tables, and the migration of older stores.
//!
//! A store has a version, the number of [`STEPS`] applied to it. A change of the tables after a release is another step, which only adds;
//! released steps never change.

use rusqlite::{Connection, TransactionBehavior};

/// The schema version that this code reads and writes (`PRAGMA user_version`).
pub(super) const VERSION: i64 = 1;
/// `PRAGMA application_id`: "LORC".
const APPLICATION: i64 = 0x4c4f_5243;
/// Migrates a store from each version to the next; the first step turns an empty database into a store of version 1.
const STEPS: &[&str] = &[V1];

/// The kind of a database.
pub(super) enum StoreVersion {
    Current,
    /// Empty, or to be migrated.
    Older,
    Newer(i64),
    /// A database of another program.
    Foreign,
}

pub(super) fn version(db: &Connection) -> rusqlite::Result<StoreVersion> {
    // In one transaction: between two queries another process may create the tables, which would then look like another program's.
    let view = db.unchecked_transaction()?;
    let (application, version): (i64, i64) =
        view.query_row("SELECT application_id, user_version FROM pragma_application_id, pragma_user_version", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(match (application, version) {
        (APPLICATION, VERSION) => StoreVersion::Current,
        (APPLICATION, newer) if newer > VERSION => StoreVersion::Newer(newer),
        (APPLICATION, _) => StoreVersion::Older,
        (0, 0) => {
            let tables: i64 = view.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            if tables == 0 { StoreVersion::Older } else { StoreVersion::Foreign }
        }
        _ => StoreVersion::Foreign,
    })
}

/// Migrates an empty or older database to [`VERSION`]. The caller holds the store's lock.
pub(super) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    // Stored in the file. Setting the journal mode needs exclusive access, hence here and not at every start. Incremental vacuum works only
    // if it was set before the first page was written.
    db.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")?;
    apply(db, STEPS)
}

/// Applies the missing steps in one transaction: all of them or none.
fn apply(db: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let had: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (step, version) in steps.iter().zip(1..).filter(|(_, version)| *version > had) {
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", version)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION)?;
    tx.commit()
}

/// Times are microseconds since 1970.
///
/// - `runs`, `attempts`, `events`: values that all events of a run share (source, package, job, run_id) are stored once, in `runs`; the
///   view `envelope` shows events with the columns of the BigQuery table. A skipped run has no attempt, and its event has attempt 0.
///   `account_key` and `cause_key` are account and cause without NULL, so that one index finds runs by any of them (`history`). They are
///   not generated columns: SQLite would read the row even if the index has them. The index ends with number and end, so that durations
///   are read without the rows, which lie far from each other in a large store.
///   `group_name` is the group in the spec.
/// - `run_groups`, `members`: see [`super::group`]. `members_failed` has only members that have failed, so it costs nothing in a group that
///   succeeds.
/// - `artifacts`: files that belong to runs, by size, inode and time of change, so that only these files are removed with the run.
/// - `bookmarks`: the account '' means none. A run whose job has a `since` moves one; the run's row records the move. `group_id` is the
///   backfill that moved it; '' for one that had nothing to run, and so is no group.
/// - `retention`: for each kind of data, the run and event at which the last call stopped.
/// - Delivery, by destination. `outbox`: all events up to `delivered_to` are settled; the last batch went to `target`; `seen_at` is when a
///   command last had the destination configured; no process uses `closed_route` until `closed_until`. `file` identifies the store's file:
///   if it has changed, this store is a copy, and the original may have delivered events up to `doubtful_to` too. `streams`: the offset of
///   a target's next batch, when a batch last landed, and the boot of the host in which the stream was created. `batches`: frozen batches,
///   and batches with an unknown result; `was` is the previous state of rows that are resent on request, `boot` that of their stream.
///   `settled`: rows that are settled individually.
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
    spec             TEXT NOT NULL,
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
    keeps_bookmark   INTEGER NOT NULL DEFAULT 0,
    bookmark_before  INTEGER,
    bookmark_after   INTEGER,
    logs             INTEGER NOT NULL DEFAULT 1,
    payloads         INTEGER NOT NULL DEFAULT 1,
    max_rss_kib      INTEGER,
    group_name       TEXT GENERATED ALWAYS AS (nullif(spec, '') ->> '$.group') VIRTUAL,
    account_key      TEXT NOT NULL DEFAULT '' CHECK (account_key = coalesce(account, '')),
    cause_key        TEXT NOT NULL DEFAULT '' CHECK (cause_key = coalesce(cause, ''))
) STRICT;
CREATE INDEX runs_by_key ON runs (package, job, account_key, state, cause_key, started_at, n, ended_at);
CREATE INDEX runs_by_order ON runs (package, job, account_key, state, cause_key, n, started_at, ended_at);
CREATE INDEX runs_by_id_end ON runs (substr(run_id, -4));
CREATE INDEX runs_by_end ON runs (ended_at);
CREATE INDEX runs_with_logs ON runs (ended_at) WHERE logs;
CREATE INDEX runs_with_payloads ON runs (ended_at) WHERE payloads;
CREATE INDEX runs_by_group ON runs (group_name, started_at) WHERE group_name IS NOT NULL;
CREATE INDEX runs_running ON runs (n) WHERE state = 'running';

CREATE TABLE attempts (
    run            INTEGER NOT NULL REFERENCES runs (n) ON DELETE CASCADE,
    attempt        INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    ended_at       INTEGER,
    worker_pid     INTEGER,
    cause          TEXT,
    message        TEXT,
    cursor_segment INTEGER NOT NULL DEFAULT 1,
    cursor_byte    INTEGER NOT NULL DEFAULT 0,
    entered        INTEGER NOT NULL DEFAULT 0,
    damaged        INTEGER NOT NULL DEFAULT 0,
    final          TEXT,
    results        TEXT,
    PRIMARY KEY (run, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    run     INTEGER NOT NULL REFERENCES runs (n) ON DELETE CASCADE,
    path    TEXT NOT NULL,
    bytes   INTEGER NOT NULL,
    inode   INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifacts_by_path ON artifacts (path);

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
    checksum       INTEGER NOT NULL DEFAULT -1,
    terminal       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX events_by_run ON events (run);
CREATE INDEX events_by_time ON events (created_at);
CREATE INDEX events_by_type ON events (event_type, created_at);
CREATE UNIQUE INDEX one_end_per_run ON events (run) WHERE terminal;

CREATE VIEW envelope AS
SELECT e.n, e.event_id, e.event_type, r.package || '/' || r.job AS source, e.schema_ref,
       strftime('%Y-%m-%dT%H:%M:%S', e.created_at / 1000000, 'unixepoch')
           || printf('.%06dZ', e.created_at % 1000000) AS created_at,
       coalesce(e.correlation_id, r.run_id) AS correlation_id, e.subject_id, e.payload,
       r.run_id, e.attempt, r.package, r.job
FROM events e JOIN runs r ON r.n = e.run;

CREATE TABLE bookmarks (
    package  TEXT NOT NULL,
    job      TEXT NOT NULL,
    account  TEXT NOT NULL DEFAULT '',
    at       INTEGER NOT NULL,
    moved_at INTEGER NOT NULL,
    run_id   TEXT,
    group_id TEXT,
    PRIMARY KEY (package, job, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE run_groups (
    n            INTEGER PRIMARY KEY,
    group_id     TEXT NOT NULL UNIQUE,
    kind         TEXT NOT NULL,
    name         TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    settings     TEXT NOT NULL,
    cancelled_at INTEGER
) STRICT;
CREATE INDEX groups_by_kind ON run_groups (kind);
CREATE INDEX groups_by_id_end ON run_groups (substr(group_id, -4));
CREATE INDEX groups_by_time ON run_groups (created_at);

CREATE TABLE members (
    run_group    INTEGER NOT NULL REFERENCES run_groups (n) ON DELETE CASCADE,
    place        INTEGER NOT NULL,
    stage        INTEGER NOT NULL,
    label        TEXT NOT NULL,
    spec         TEXT NOT NULL,
    attempt      INTEGER NOT NULL,
    run_id       TEXT NOT NULL UNIQUE,
    state        TEXT NOT NULL,
    completed_by TEXT,
    UNIQUE (run_group, place)
) STRICT;
CREATE INDEX members_by_state ON members (run_group, state, place);
CREATE INDEX members_completed_elsewhere ON members (run_group, place) WHERE completed_by IS NOT NULL;
CREATE INDEX members_failed ON members (
    spec ->> '$.package', spec ->> '$.job', coalesce(spec ->> '$.account', ''),
    coalesce(substr(spec ->> '$.window.since', 1, 19), '')
) WHERE state IN ('failed', 'skipped', 'refused') OR state = 'pending' AND attempt > 1;

CREATE TABLE losses (
    found_at INTEGER NOT NULL,
    missing  INTEGER NOT NULL
) STRICT;

CREATE TABLE retention (
    what     TEXT PRIMARY KEY,
    ended_at INTEGER NOT NULL,
    run      INTEGER NOT NULL,
    event    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    destination   TEXT PRIMARY KEY,
    delivered_to  INTEGER NOT NULL DEFAULT 0,
    target        TEXT,
    seen_at       INTEGER NOT NULL,
    file          TEXT,
    doubtful_to   INTEGER NOT NULL DEFAULT 0,
    closed_until  INTEGER NOT NULL DEFAULT 0,
    closed_reason TEXT,
    closed_route  TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    destination TEXT NOT NULL,
    target      TEXT NOT NULL,
    stream      TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    used_at     INTEGER NOT NULL,
    closing     INTEGER NOT NULL DEFAULT 0,
    boot        TEXT,
    PRIMARY KEY (destination, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    n           INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    target      TEXT NOT NULL,
    stream      TEXT,
    start       INTEGER,
    length      INTEGER NOT NULL DEFAULT 0,
    first       INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    state       TEXT NOT NULL,
    was         TEXT,
    reason      TEXT,
    boot        TEXT,
    made_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX batches_by_state ON batches (destination, state);
CREATE INDEX batches_by_event ON batches (destination, state, first);

CREATE TABLE settled (
    destination TEXT NOT NULL,
    event       INTEGER NOT NULL REFERENCES events (n) ON DELETE CASCADE,
    how         TEXT NOT NULL,
    reason      TEXT,
    at          INTEGER NOT NULL,
    PRIMARY KEY (destination, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX settled_by_event ON settled (event);
CREATE INDEX settled_by_how ON settled (destination, how, event);
";

#[cfg(test)]
mod tests {
    use super::super::tests::{end, new_run, site, started};
    use super::super::{Store, StoreError};
    use super::{V1, VERSION, apply};
    use rusqlite::Connection;

    /// As a version 2 would do it, by two processes at once, and with a step that fails first.
    #[test]
    fn an_older_store_is_migrated_completely_or_not_at_all() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&new_run("r1"), &started()).unwrap();
        store.end_run("r1", &end()).unwrap();
        let next = "ALTER TABLE runs ADD COLUMN added INTEGER NOT NULL DEFAULT 7";
        let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap();

        apply(&mut store.db, &[V1, next, "INSERT INTO nowhere VALUES (1)"]).unwrap_err();
        assert_eq!(version(&store.db), VERSION);
        store.db.query_row("SELECT added FROM runs", [], |_| Ok(())).unwrap_err();

        for _ in 0..2 {
            apply(&mut store.db, &[V1, next]).unwrap();
            assert_eq!(version(&store.db), VERSION + 1);
            let added: i64 = store.db.query_row("SELECT added FROM runs WHERE run_id = 'r1'", [], |row| row.get(0)).unwrap();
            assert_eq!(added, 7);
        }
        let refused = Store::open(&site.state).unwrap_err();
        assert!(matches!(refused, StoreError::Newer { found: 2, known: VERSION, .. }), "{refused:?}");
    }

    /// A second command that starts while the first one creates the store.
    #[test]
    fn an_empty_database_becomes_a_store() {
        let site = site();
        std::fs::write(site.state.store(), "").unwrap();
        let store = Store::open(&site.state).unwrap();
        assert_eq!(store.bookmarks(None, None).unwrap(), []);
        let version: i64 = store.db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, VERSION, "one step for each version");
    }
}
