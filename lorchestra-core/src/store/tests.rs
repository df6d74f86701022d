//! Tests of the store on real databases, and fixtures for other tests of core: a site, a run.

use super::*;
use crate::host::process::Identity;
use crate::outcome::Cause;
use crate::plan::RunSpec;
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

pub(crate) fn spec() -> RunSpec {
    RunSpec::bare("pkg", "job", "1.0.0", chrono::DateTime::UNIX_EPOCH)
}

pub(crate) fn new_run(run_id: &str) -> NewRun {
    NewRun {
        run_id: run_id.into(),
        spec: spec(),
        started_at: 1_700_000_000_000_000,
        plugin_path: "/p/lib.so".into(),
        plugin_sha256: "00".into(),
        location: "src/lib.rs:1".into(),
        host: "host".into(),
        supervisor: Identity { pid: 1, start: 2, boot_id: "boot".into() },
        worker_pid: Some(7),
        keeps_bookmark: false,
    }
}

pub(crate) fn started() -> Started {
    let place = own::RunOrigin { host: "host", lorchestra_version: "0", plugin_path: "/p/lib.so", plugin_sha256: "00" };
    Started::of(&spec(), place)
}

/// The payload of a run that completed in its first attempt.
pub(crate) fn terminal() -> Terminal {
    serde_json::from_value(json!({"attempt": 1, "duration_ms": 1, "user_ms": 0, "system_ms": 0, "max_rss_kib": null})).unwrap()
}

pub(crate) fn end() -> RunEnd {
    RunEnd { ended_at: 1_700_000_001_000_000, bookmark: None, results: Default::default(), terminal: terminal() }
}

/// The end of a run that failed for this cause; of one that completed without.
pub(crate) fn end_with(cause: Option<crate::outcome::Cause>) -> RunEnd {
    let failure = cause.map(|cause| crate::outcome::Failure {
        cause,
        message: "no".into(),
        permanent: false,
        job_result: None,
        signal: None,
        exit_code: None,
    });
    let over = end();
    RunEnd { terminal: Terminal { failure, ..over.terminal }, ..over }
}

#[test]
fn attempts_end_one_after_the_other() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    let over = AttemptEnd {
        attempt: 1,
        cause: Cause::Error,
        message: "no".into(),
        ended_at: 1_700_000_000_500_000,
        results: Default::default(),
    };
    assert!(store.end_attempt("r1", &over).unwrap());
    assert!(store.begin_attempt("r1", 2, 1_700_000_000_600_000, 8).unwrap());
    assert!(store.end_run("r1", &RunEnd { terminal: Terminal { attempt: 2, ..terminal() }, ..end() }).unwrap());
    assert!(!store.end_attempt("r1", &over).unwrap() && !store.begin_attempt("r1", 3, 0, 9).unwrap(), "after the end");
    let attempts = store.attempts("r1").unwrap();
    let ends: Vec<_> = attempts.iter().map(|a| (a.attempt, a.ended_at, a.cause, a.worker_pid)).collect();
    assert_eq!(ends, [(1, Some(over.ended_at), Some(Cause::Error), Some(7)), (2, Some(end().ended_at), None, Some(8))]);
    assert_eq!(store.find_run("r1").unwrap().unwrap().attempts, 2);
}

#[test]
fn several_runs_end_together() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    for id in ["r1", "r2", "r3"] {
        store.begin_run(&new_run(id), &started()).unwrap();
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
    store.skip_run(&NewRun { worker_pid: None, ..new_run("r1") }, &Started { held_by: Some("r0".into()), ..started() }).unwrap();
    let run = store.find_run("r1").unwrap().unwrap();
    assert_eq!((run.state, run.ended_at, run.attempts), (RunState::Skipped, Some(run.started_at), 0));
    let types: Vec<_> = events(&store).into_iter().map(|e| (e.event_type, e.attempt)).collect();
    assert_eq!(types, [("job.skipped".to_owned(), 0)]);
    assert!(!store.end_run("r1", &end()).unwrap());
}

pub(super) fn lines(count: usize) -> Vec<Vec<u8>> {
    let line = |i: usize| {
        let id = format!("00000000-0000-7000-8000-{i:012}");
        let mut out = Vec::new();
        let json = json!({"seq": i + 1, "event": {"id": id, "at": 1_700_000_000_500_000_i64, "type": "t", "payload": {"i": i}}});
        record::frame(&mut out, |out| out.extend_from_slice(json.to_string().as_bytes()));
        out.pop();
        out
    };
    (0..count).map(line).collect()
}

/// A record of results, with one artifact.
pub(super) fn results_line() -> Vec<u8> {
    let artifact = json!({"path": "/no/such/file", "bytes": 1, "version": [1, 2]});
    let json = json!({"seq": 9, "results": {"counters": {"rows": 3}, "artifacts": [artifact]}});
    let mut out = Vec::new();
    record::frame(&mut out, |out| out.extend_from_slice(json.to_string().as_bytes()));
    out.pop();
    out
}

pub(super) fn parsed(lines: &[Vec<u8>]) -> Vec<Record<'_>> {
    lines.iter().map(|line| record::parse(line).unwrap()).collect()
}

fn events(store: &Store) -> Vec<Event> {
    events_of(store, None)
}

fn events_of(store: &Store, run_id: Option<&str>) -> Vec<Event> {
    let mut found = Vec::new();
    let each = |event| {
        found.push(event);
        Ok::<(), ()>(())
    };
    let filter = EventFilter { run_id: run_id.map(str::to_owned), ..EventFilter::default() };
    store.events(&filter, each).unwrap().unwrap();
    found
}

/// A test cannot show that a commit survives power loss, but it can check the settings.
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
        assert_eq!(synchronous, 2, "{opened}: no longer than requested");
    }
}

#[test]
fn a_run_ends_once() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    assert!(store.end_run("r1", &end()).unwrap());
    assert!(!store.end_run("r1", &end()).unwrap(), "a second end");
    assert!(!store.end_run("nobody", &end()).unwrap());
    let types: Vec<_> = events(&store).into_iter().map(|e| e.event_type).collect();
    assert_eq!(types, ["job.started", "job.completed"]);
    let run = store.find_run("r1").unwrap().unwrap();
    assert_eq!((run.state, run.ended_at, run.attempts), (RunState::Completed, Some(1_700_000_001_000_000), 1));
}

impl Store {
    /// Changes the database as nothing in lorchestra does.
    pub(crate) fn change(&self, sql: &str) {
        assert_eq!(self.db.execute(sql, []).unwrap(), 1);
    }
}

#[test]
fn the_database_itself_refuses_a_second_terminal_event() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    store.end_run("r1", &end()).unwrap();
    let second =
        "INSERT INTO events (event_id, run, attempt, event_type, created_at, terminal) VALUES ('x', 1, 1, 'job.failed', 0, 1)";
    assert!(store.db.execute(second, []).is_err());
}

#[test]
fn ingesting_the_same_records_twice_changes_nothing() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    let lines = lines(3);
    let mut ingested = store.ingested("r1", 1).unwrap();
    for _ in 0..2 {
        store
            .ingest(
                "r1",
                1,
                Portion { records: &parsed(&lines), after: ingested.cursor, end: Cursor { segment: 2, byte: 9 }, damaged: 0 },
                &mut ingested,
            )
            .unwrap();
    }
    assert_eq!(events(&store).len(), 4);
    assert_eq!(store.ingested("r1", 1).unwrap(), ingested);
    assert_eq!(ingested.cursor, Cursor { segment: 2, byte: 9 });
}

#[test]
fn the_envelope_is_complete() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    let lines = lines(1);
    store
        .ingest(
            "r1",
            1,
            Portion { records: &parsed(&lines), after: Cursor::default(), end: Cursor::default(), damaged: 0 },
            &mut event::IngestState::default(),
        )
        .unwrap();
    let event = events(&store).pop().unwrap();
    let json = serde_json::to_value(&event).unwrap();
    let expected = json!({
        "event_id": "00000000-0000-7000-8000-000000000000", "event_type": "t", "source": "pkg/job", "schema_ref": null, "created_at": "2023-11-14T22:13:20.500000Z",
        "correlation_id": "r1", "subject_id": null, "payload": {"i": 0}, "run_id": "r1", "attempt": 1, "package": "pkg", "job": "job",
    });
    assert_eq!(json, expected);
}

/// Rows that an older lorchestra accepted from a job: an unusual one must not hide the others.
#[test]
fn rows_of_an_older_store_are_listed_unchanged() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    let times = [i64::MIN, -62_135_596_800_000_001, -62_135_596_800_000_000, -1, 0, 253_402_300_800_000_000, i64::MAX];
    for (n, at) in times.iter().enumerate() {
        let sql = "INSERT INTO events (event_id, run, attempt, event_type, created_at, payload) VALUES (?1, 1, 1, 't', ?2, ?3)";
        let payload = if n == 0 { "[1]" } else { "not json" };
        store.db.execute(sql, rusqlite::params![n.to_string(), at, payload]).unwrap();
    }
    let shown: Vec<_> = events_of(&store, Some("r1")).into_iter().skip(1).map(|event| event.created_at).collect();
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
        events_of(&store, Some("r1")).into_iter().skip(1).map(|event| event.payload.map(|json| json.to_string())).collect();
    assert_eq!((payloads[0].as_deref(), payloads[1].as_deref()), (Some("[1]"), None));
    // The view is for other readers: there, such a time is NULL.
    let rows: i64 = store.db.query_row("SELECT count(*) FROM envelope WHERE created_at IS NULL", [], |row| row.get(0)).unwrap();
    assert!(rows >= 2, "{rows}");
}

#[test]
fn runs_are_found_by_enough_of_their_id() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    for id in ["aaaa-1111", "aaaa-2222"] {
        store.begin_run(&new_run(id), &started()).unwrap();
    }
    assert_eq!(store.find_run("2222").unwrap().unwrap().run_id, "aaaa-2222");
    assert_eq!(store.find_run("aaaa").unwrap().unwrap_err().len(), 2);
    assert!(store.find_run("%").unwrap().unwrap_err().is_empty(), "no wildcards");
    assert!(store.find_run("a").unwrap().unwrap_err().is_empty(), "too short for an id");
}

#[test]
fn many_processes_may_create_it_at_once() {
    let site = site();
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let state = site.state.clone();
            std::thread::spawn(move || Store::open(&state).unwrap().begin_run(&new_run(&format!("r{n}")), &started()).unwrap())
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    assert_eq!(Store::open(&site.state).unwrap().runs(&RunFilter::default()).unwrap().len(), 8);
}

#[test]
fn a_foreign_database_is_left_alone() {
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

/// A writer in another process that never ends.
#[test]
fn a_store_locked_by_another_process_is_reported_and_stays_unchanged() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    let other = Connection::open(site.state.store()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.db.busy_timeout(Duration::from_millis(20)).unwrap();
    let error = store.begin_run(&new_run("r1"), &started()).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    assert!(store.runs(&RunFilter::default()).unwrap().is_empty(), "reading still works");
    other.execute_batch("ROLLBACK").unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
}

/// The clock was ten years ahead when a run ended: the run must not be considered old, nor its end be before its beginning.
#[test]
fn runs_dated_in_the_future_are_kept() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    let later = crate::host::clock::now_micros() + 10 * 365 * 86_400_000_000;
    store.begin_run(&NewRun { started_at: later, ..new_run("r1") }, &started()).unwrap();
    store.end_run("r1", &RunEnd { ended_at: later, ..end() }).unwrap();
    store.begin_run(&new_run("r2"), &started()).unwrap();
    let none = Duration::ZERO;
    let retention = retention::Retention { logs: none, payloads: none, runs: none, destinations: Vec::new() };
    assert_eq!(store.prune(&site.state, &retention, crate::host::clock::now_micros()).unwrap(), retention::Pruned::default());
    let newest_first: Vec<_> = store.runs(&RunFilter::default()).unwrap().into_iter().map(|run| run.run_id).collect();
    assert_eq!(newest_first, ["r2", "r1"], "ordered by start, not by clock");
}

#[test]
fn retention_removes_old_runs_and_logs_and_no_others() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    let ids: Vec<String> = (0..3).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    for id in &ids {
        store.begin_run(&new_run(id), &started()).unwrap();
        std::fs::create_dir(site.state.run_logs(id)).unwrap();
    }
    store.end_run(&ids[0], &end()).unwrap();
    store.end_run(&ids[1], &RunEnd { ended_at: crate::host::clock::now_micros(), ..end() }).unwrap();
    let day = Duration::from_secs(86400);
    let retention = retention::Retention { logs: 365 * day, runs: 30 * day, ..retention::Retention::default() };
    let pruned = store.prune(&site.state, &retention, crate::host::clock::now_micros()).unwrap();
    assert_eq!(pruned, retention::Pruned { runs: 1, logs: 1, ..Default::default() });
    assert!(!site.state.run_logs(&ids[0]).exists());
    assert_eq!(store.runs(&RunFilter::default()).unwrap().len(), 2, "the recent run and the running one stay");
    assert_eq!(events(&store).iter().filter(|e| e.run_id == ids[0]).count(), 0);
    // After 40 days all logs are old; after 800 days the running run stays.
    let later = |days: u32| crate::host::clock::now_micros() + i64::try_from((days * day).as_micros()).unwrap();
    let logs_only = retention::Retention { logs: 30 * day, runs: 10_000 * day, ..retention::Retention::default() };
    assert_eq!(store.prune(&site.state, &logs_only, later(40)).unwrap(), retention::Pruned { logs: 1, ..Default::default() });
    assert!(!site.state.run_logs(&ids[1]).exists() && site.state.run_logs(&ids[2]).exists(), "those of the running one stay");
    assert_eq!(store.prune(&site.state, &logs_only, later(40)).unwrap(), retention::Pruned::default(), "once");
    // Its end is the newest event: its number must not be reused.
    assert_eq!(store.prune(&site.state, &retention, later(800)).unwrap().runs, 0);
    store.begin_run(&new_run("next"), &started()).unwrap();
    assert_eq!(store.prune(&site.state, &retention, later(800)).unwrap().runs, 0, "it is the newest success");
    store.end_run("next", &end()).unwrap();
    assert_eq!(store.prune(&site.state, &retention, later(800)).unwrap().runs, 1);
    let left: Vec<String> = store.runs(&RunFilter::default()).unwrap().into_iter().map(|run| run.run_id).collect();
    assert_eq!(left, ["next", &ids[2]]);
}

#[test]
fn undelivered_runs_are_kept_complete() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    let day = Duration::from_secs(86400);
    let retention = retention::Retention { destinations: vec!["there".into()], ..retention::Retention::default() };
    store.begin_run(&new_run("r1"), &started()).unwrap();
    store.end_run("r1", &end()).unwrap();
    store.begin_run(&new_run("r2"), &started()).unwrap();
    let late = crate::host::clock::now_micros() + i64::try_from((800 * day).as_micros()).unwrap();
    let prune = |store: &mut Store| store.prune(&site.state, &retention, late).unwrap();
    let pruned = prune(&mut store);
    assert_eq!((pruned.runs, pruned.payloads), (0, 0), "nothing is delivered");
    // Everything is delivered except for one refused event.
    let mut store = Outbox::open(store, "there").unwrap();
    let rows = store.pending_rows(0, 10, usize::MAX).unwrap();
    let batch = |first: usize, last: usize| NewBatch {
        target: "p.d.t".into(),
        stream: None,
        length: 0,
        first: rows[first].n,
        last: rows[last].n,
        rows: 1,
    };
    let frozen = store.advance(None, Some(&batch(0, 1))).unwrap().unwrap();
    store.release(&frozen, &[(rows[1].n, RowDisposition::Refused("no".into()))], 10, "").unwrap();
    let frozen = store.advance(None, Some(&batch(0, 0))).unwrap().unwrap();
    store.advance(Some(&frozen), None).unwrap();
    assert_eq!(prune(&mut store.store).payloads, 0);
    let refused = EventFilter { delivery: Some((Undelivered::Refused, "there".into())), ..EventFilter::default() };
    let mut reasons = Vec::new();
    let each = |event: Event| {
        reasons.push(event.delivery_error);
        Ok::<(), ()>(())
    };
    store.store.events(&refused, each).unwrap().unwrap();
    assert_eq!(reasons, [Some("no".to_owned())]);
    // Everything is delivered.
    store.store.db.execute("DELETE FROM settled", []).unwrap();
    let frozen = store.advance(None, Some(&batch(1, 2))).unwrap().unwrap();
    store.advance(Some(&frozen), None).unwrap();
    let keep_runs = retention::Retention { runs: 10_000 * day, ..retention.clone() };
    assert_eq!(store.store.prune(&site.state, &keep_runs, late).unwrap().payloads, 1);
    assert!(events_of(&store.store, Some("r1")).iter().all(|event| event.payload.is_none()));
    assert_eq!(store.store.prune(&site.state, &keep_runs, late).unwrap().payloads, 0, "once");
    assert_eq!(store.store.prune(&site.state, &retention, late).unwrap().runs, 0, "it is the newest success");
    store.store.begin_run(&new_run("r3"), &started()).unwrap();
    store.store.end_run("r3", &end()).unwrap();
    assert_eq!(store.store.prune(&site.state, &retention, late).unwrap().runs, 1);
}

/// A process that keeps a store open for many runs must not write to a file that someone has moved away.
#[test]
fn a_store_knows_whether_its_path_names_another_file() {
    let site = site();
    let store = Store::open(&site.state).unwrap();
    assert!(store.is_current());
    let (path, aside) = (site.state.store(), site.state.store().with_extension("aside"));
    std::fs::rename(&path, &aside).unwrap();
    assert!(!store.is_current(), "it is gone");
    let other = Store::open(&site.state).unwrap();
    assert!(!store.is_current() && other.is_current());
    drop(other);
    std::fs::rename(&aside, &path).unwrap();
    assert!(store.is_current());
}
