//! Retention is bounded per call, and finishes over many calls.

use super::super::tests::{Site, end, end_with, new_run, site, spec, started};
use super::super::{EventFilter, NewBatch, NewRun, Outbox, RunFilter, RunQuery, Store};
use super::{EVENTS, Forgotten, Pruned, RUNS, Retention};
use crate::outcome::Cause;
use crate::plan::RunSpec;
use std::time::Duration;

const NOW: i64 = 1_800_000_000_000_000;

fn store(site: &Site) -> Store {
    Store::open(&site.state).unwrap()
}

fn prune(site: &Site, store: &mut Store, runs: bool) -> Pruned {
    let never = Duration::from_secs(u64::from(u32::MAX));
    let retention = Retention {
        logs: never,
        payloads: Duration::ZERO,
        runs: if runs { Duration::ZERO } else { never },
        destinations: Vec::new(),
    };
    store.prune(&site.state, &retention, NOW).unwrap()
}

/// Adds an ended run with this many events between its first and last.
fn add(store: &mut Store, run_id: &str, events: usize) {
    store.begin_run(&new_run(run_id), &started()).unwrap();
    let sql = "INSERT INTO events (event_id, run, attempt, event_type, created_at, payload)
        WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < ?2)
        SELECT ?1 || '-' || i, (SELECT n FROM runs WHERE run_id = ?1), 1, 't', 0, '{}' FROM series WHERE ?2 > 0";
    store.db.execute(sql, rusqlite::params![run_id, i64::try_from(events).unwrap()]).unwrap();
    store.end_run(run_id, &end()).unwrap();
}

fn deliver_all(site: &Site) {
    let mut outbox = Outbox::open(store(site), "there").unwrap();
    let last = outbox.store.db.query_row("SELECT max(n) FROM events", [], |row| row.get(0)).unwrap();
    let all = NewBatch { target: "p.d.t".into(), stream: None, length: 0, first: 1, last, rows: last };
    let frozen = outbox.advance(None, Some(&all)).unwrap();
    outbox.advance(frozen.as_ref(), None).unwrap();
}

fn count(store: &Store, sql: &str) -> usize {
    store.db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().try_into().unwrap()
}

#[test]
fn a_run_of_many_events_goes_in_steps() {
    let site = site();
    let mut store = store(&site);
    add(&mut store, "r1", 2 * EVENTS + 10);
    add(&mut store, "newest", 0);
    for left in [EVENTS + 12, 12] {
        assert_eq!(prune(&site, &mut store, true).runs, 0);
        assert_eq!(count(&store, "SELECT count(*) FROM events WHERE run = 1"), left);
        assert_eq!(
            count(&store, "SELECT count(*) FROM events WHERE run = 1 AND terminal"),
            1,
            "its terminal event is removed last"
        );
    }
    assert_eq!(prune(&site, &mut store, true).runs, 1);
    assert_eq!(store.run("r1").unwrap(), None);
}

/// Otherwise runs with more events than one call removes would outgrow it.
#[test]
fn a_process_that_ingested_many_events_removes_twice_as_many() {
    let site = site();
    let mut store = store(&site);
    add(&mut store, "r1", 3 * EVENTS);
    add(&mut store, "newest", 0);
    store.taken_in = 2 * EVENTS;
    assert_eq!(prune(&site, &mut store, true).runs, 1);
}

#[test]
fn payloads_of_many_events_go_in_steps() {
    let site = site();
    let mut store = store(&site);
    add(&mut store, "r1", 2 * EVENTS + 10);
    deliver_all(&site);
    for left in [EVENTS + 12, 12] {
        assert_eq!(prune(&site, &mut store, false).payloads, 0);
        assert_eq!(count(&store, "SELECT count(*) FROM events WHERE payload IS NOT NULL"), left);
    }
    assert_eq!(prune(&site, &mut store, false).payloads, 1);
    assert_eq!(count(&store, "SELECT count(*) FROM events WHERE payload IS NOT NULL"), 0);
    assert_eq!(prune(&site, &mut store, false).payloads, 0, "once");
}

/// Each of the runs that ended first has a suspect, and there are more of them than one call examines.
#[test]
fn undelivered_runs_do_not_block_others() {
    let site = site();
    let mut store = store(&site);
    for n in 0..RUNS + 10 {
        add(&mut store, &format!("suspect-{n:03}"), 0);
    }
    let suspects =
        "INSERT INTO settled (destination, event, how, at) SELECT 'there', n, 'suspect', 0 FROM events WHERE NOT terminal";
    store.db.execute(suspects, []).unwrap();
    add(&mut store, "delivered", 0);
    deliver_all(&site);
    assert_eq!([0, 1].map(|_| prune(&site, &mut store, false).payloads), [0, 1]);
    assert_eq!([0, 1].map(|_| prune(&site, &mut store, false).payloads), [0, 0], "and again, with nothing to do");
    // The next round finds one that is no longer suspect.
    store.db.execute("DELETE FROM settled WHERE event = 1", []).unwrap();
    assert_eq!((0..3).map(|_| prune(&site, &mut store, false).payloads).sum::<usize>(), 1);
}

#[test]
fn pending_events_end_the_pass() {
    let site = site();
    let mut store = store(&site);
    add(&mut store, "delivered", 0);
    deliver_all(&site);
    add(&mut store, "pending", 0);
    assert_eq!([0, 1].map(|_| prune(&site, &mut store, false).payloads), [1, 0]);
    let mut pending = Vec::new();
    let filter = EventFilter { run_id: Some("pending".into()), ..EventFilter::default() };
    let each = |event: super::super::Event| {
        pending.push(event.payload.is_some());
        Ok::<(), ()>(())
    };
    store.events(&filter, each).unwrap().unwrap();
    assert_eq!(pending, [true, true]);
}

#[test]
fn the_file_shrinks() {
    let site = site();
    let mut store = store(&site);
    let size = || std::fs::metadata(site.state.store()).unwrap().len();
    for n in 0..60 {
        add(&mut store, &format!("r{n}"), 0);
    }
    store.db.execute("UPDATE events SET payload = printf('%.*c', 500000, 'x') WHERE terminal", []).unwrap();
    add(&mut store, "newest", 0);
    let checkpoint = |store: &Store| store.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    checkpoint(&store);
    let full = size();
    assert!(full > 25 << 20, "{full}");
    prune(&site, &mut store, true);
    checkpoint(&store);
    let step = full - size();
    assert!(step > 0 && step <= (1 << 20) + 2 * 4096, "one call gives back no more than 1 MiB: {step}");
    for _ in 0..40 {
        prune(&site, &mut store, true);
    }
    checkpoint(&store);
    assert_eq!(store.runs(&RunFilter::default()).unwrap().len(), 1);
    assert!(size() < 6 << 20, "{} of {full}", size());
}

/// What `status` shows of a job stays. `noop` of account `a`: a success, then a failure, then a skip.
#[test]
fn the_newest_ends_of_each_job_and_account_stay() {
    let site = site();
    let mut store = store(&site);
    let mut n = 0;
    let mut run = |store: &mut Store, run_id: &str, account: &str, cause: Option<Cause>| {
        n += 1;
        let account = Some(account).filter(|account| !account.is_empty()).map(str::to_owned);
        let new = NewRun { started_at: n, spec: RunSpec { account, ..spec() }, ..new_run(run_id) };
        store.begin_run(&new, &started()).unwrap();
        store.end_run(run_id, &end_with(cause)).unwrap();
    };
    run(&mut store, "a-old", "a", None);
    run(&mut store, "a-success", "a", None);
    run(&mut store, "a-failure", "a", Some(Cause::Error));
    run(&mut store, "a-failure-2", "a", Some(Cause::Panic));
    run(&mut store, "b-failure", "b", Some(Cause::Error));
    run(&mut store, "b-success", "b", None);
    run(&mut store, "none-old", "", None);
    run(&mut store, "none", "", None);
    let skipped = NewRun { started_at: 100, spec: RunSpec { account: Some("a".into()), ..spec() }, ..new_run("a-skipped") };
    store.skip_run(&skipped, &started()).unwrap();
    let before = store.health(&RunQuery::default()).unwrap();
    let never = Duration::from_secs(u64::from(u32::MAX));
    let retention = Retention { logs: never, payloads: never, runs: Duration::ZERO, destinations: Vec::new() };
    assert_eq!(store.prunable(&site.state, &retention, NOW).unwrap().runs, 4);
    for _ in 0..3 {
        store.prune(&site.state, &retention, NOW).unwrap();
    }
    let mut left: Vec<String> = store.runs(&RunFilter::default()).unwrap().into_iter().map(|run| run.run_id).collect();
    left.sort();
    assert_eq!(left, ["a-failure-2", "a-skipped", "a-success", "b-success", "none"]);
    let after = store.health(&RunQuery::default()).unwrap();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.last_success, &before.last, &before.failure), (&after.last_success, &after.last, &after.failure));
    }
    // They are forgotten on request, one account at a time.
    let query = |account: &str| RunQuery {
        package: Some("pkg".into()),
        job: Some("job".into()),
        account: Some(account.into()),
        ..RunQuery::default()
    };
    let mut forget = |account: &str, dry_run| store.forget(&site.state, &query(account), (&retention, NOW), dry_run).unwrap();
    let three = Forgotten { runs: 3, ..Forgotten::default() };
    assert_eq!(forget("a", true), Some(three));
    // `a-skipped` has the newest event.
    assert_eq!(forget("a", false), Some(Forgotten { is_last_marked: true, ..three }));
    assert_eq!(forget("unknown", false), None);
    assert_eq!(forget("", false), Some(Forgotten { runs: 1, ..Forgotten::default() }));
    let accounts = |store: &Store| -> Vec<Option<String>> {
        store.health(&RunQuery::default()).unwrap().into_iter().map(|health| health.account).collect()
    };
    assert_eq!(accounts(&store), [Some("b".to_owned())]);
    assert_eq!(count(&store, "SELECT count(*) FROM runs"), 2, "the one with the newest event is still there");
    run(&mut store, "b-next", "b", None);
    store.prune(&site.state, &Retention { runs: never, ..retention }, NOW).unwrap();
    assert_eq!(store.run("a-skipped").unwrap(), None);
    assert_eq!(count(&store, "SELECT count(*) FROM retention WHERE what = 'forgotten'"), 0);
    // Another run of the account brings it back.
    run(&mut store, "a-again", "a", None);
    assert_eq!(accounts(&store).len(), 2);
}

#[test]
fn running_and_undelivered_runs_are_not_forgotten() {
    let site = site();
    let mut store = store(&site);
    add(&mut store, "delivered", 3);
    deliver_all(&site);
    add(&mut store, "pending", 0);
    store.begin_run(&new_run("running"), &started()).unwrap();
    let retention = Retention { destinations: vec!["there".into()], ..Retention::default() };
    let forgotten = store.forget(&site.state, &RunQuery::default(), (&retention, NOW), false).unwrap();
    assert_eq!(forgotten, Some(Forgotten { runs: 1, undelivered: 1, running: 1, ..Forgotten::default() }));
    let left: Vec<String> = store.runs(&RunFilter::default()).unwrap().into_iter().map(|run| run.run_id).collect();
    assert_eq!(left, ["running", "pending"]);
}
