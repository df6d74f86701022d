//! Creates a store with years of history, and measures operations on it without a command. Prints microseconds, or JSON.
//!
//!     bench-history fill STATE RUNS     RUNS runs of three events that are delivered, and one of 10,000 that are not
//!     bench-history open STATE          opens it, asks what is not delivered, reads the first rows of that
//!     bench-history prune STATE         removes the oldest runs, as many as one run removes
//!     bench-history drain STATE         removes the runs but for the newest hundredth, as runs one after the other would
//!
//! The only place that writes to the tables without the store: a million runs through its methods would take an hour. It copies one run
//! that the store has created, column by column, whatever the columns are.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use bench_parts::{events, runs};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::spool::Cursor;
use lorchestra_core::spool::record::{self, Record};
use lorchestra_core::store::Portion;
use lorchestra_core::store::retention::{Pruned, Retention};
use lorchestra_core::store::{NewBatch, NewRun, Outbox, RunEnd, Store};
use rusqlite::Connection;
use serde_json::json;
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const DESTINATION: &str = "bigquery";
const UNDELIVERED: u64 = 10_000;
/// The runs ended this long ago, at equal intervals.
const SINCE: Duration = Duration::from_secs(20 * 24 * 60 * 60);

fn main() -> Result {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["fill", state, count] => fill(&StateDir::open(state.as_ref())?, count.parse()?),
        ["open", state] => open(&StateDir::open(state.as_ref())?),
        ["prune", state] => prune(&StateDir::open(state.as_ref())?),
        ["drain", state] => drain(&StateDir::open(state.as_ref())?),
        _ => Err("usage: bench-history fill STATE RUNS | open STATE | prune STATE | drain STATE".into()),
    }
}

fn now_micros() -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn fill(state: &StateDir, count: i64) -> Result {
    let mut store = Store::open(state)?;
    let begin = now_micros() - i64::try_from(SINCE.as_micros())?;
    add_run(&mut store, &events::id(1), begin, 0..1)?;
    copy(&Connection::open(state.store())?, count - 1, i64::try_from(SINCE.as_micros())? / count)?;
    // All of them are delivered, in one batch; later ones are not.
    let mut outbox = Outbox::open(store, DESTINATION)?;
    let last = outbox.pending_rows(0, 1, 1)?.first().map_or(1, |row| row.n) + 3 * count - 1;
    let all = NewBatch { target: "bench".into(), stream: None, length: 0, first: 1, last, rows: 3 * count };
    let frozen = outbox.advance(None, Some(&all))?;
    outbox.advance(frozen.as_ref(), None)?;
    let mut store = Store::open(state)?;
    add_run(&mut store, &events::id(2), now_micros() - 1_000_000, 1..UNDELIVERED - 1)?;
    let pending = store.backlog(DESTINATION, None)?.pending;
    if pending == UNDELIVERED { Ok(()) } else { Err(format!("{pending} events are pending").into()) }
}

/// Creates a run with its first and last event, and this many between them.
fn add_run(store: &mut Store, run_id: &str, at: i64, emitted: std::ops::Range<u64>) -> Result {
    store.begin_run(&NewRun { started_at: at, ..runs::new_run(run_id) }, &runs::started())?;
    let mut ingested = store.ingested(run_id, 1)?;
    let lines: Vec<Vec<u8>> = emitted.map(events::record).collect();
    let records = lines.iter().map(|line| record::parse(line)).collect::<std::result::Result<Vec<Record<'_>>, _>>()?;
    store.ingest(
        run_id,
        1,
        Portion { records: &records, after: ingested.cursor, end: Cursor { segment: 1, byte: 1 }, damaged: 0 },
        &mut ingested,
    )?;
    let end = RunEnd { ended_at: at + 1000, ..runs::end() };
    store.end_run(run_id, &end)?;
    Ok(())
}

/// Copies run 1, `apart` microseconds from each other. 24 of the first thousand copies have an event of a separate type.
fn copy(db: &Connection, count: i64, apart: i64) -> Result {
    let columns = |table: &str| -> Result<Vec<String>> {
        let mut statement = db.prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
    };
    let insert = |table: &str, of: &str, own: &[(&str, &str)]| -> Result {
        let names = columns(table)?;
        let value =
            |name: &String| own.iter().find(|(own, _)| own == name).map_or_else(|| format!("t.{name}"), |own| own.1.to_owned());
        let values: Vec<String> = names.iter().map(value).collect();
        db.execute_batch(&format!(
            "INSERT INTO {table} ({}) WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < {count})
             SELECT {} FROM series CROSS JOIN (SELECT * FROM {table} WHERE {of} = 1) t ON TRUE WHERE {count} > 0",
            names.join(", "),
            values.join(", ")
        ))?;
        Ok(())
    };
    // In the form of a UUIDv7: ordered by time, with a random end.
    let id = |number: &str| {
        format!(
            "printf('019b7a3d-%04x-7%03x-8%03x-%012x', ({number}) >> 16, ({number}) & 4095, random() & 4095, random() & 281474976710655)"
        )
    };
    let (run_id, event_id) = (id("i"), id("t.n * 1048576 + i"));
    let later = |name: &str| format!("t.{name} + i * {apart}");
    let (started, ended, created) = (later("started_at"), later("ended_at"), later("created_at"));
    db.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -400000; BEGIN IMMEDIATE")?;
    insert("runs", "n", &[("n", "i + 1"), ("run_id", &run_id), ("started_at", &started), ("ended_at", &ended)])?;
    insert("attempts", "run", &[("run", "i + 1"), ("started_at", &started), ("ended_at", &ended)])?;
    insert(
        "events",
        "run",
        &[
            ("n", "3 * i + t.n"),
            ("event_id", &event_id),
            ("run", "i + 1"),
            ("created_at", &created),
            ("event_type", "CASE WHEN t.n = 2 AND i % 40 = 0 AND i < 1000 THEN 'bench.rare' ELSE t.event_type END"),
        ],
    )?;
    db.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

fn open(state: &StateDir) -> Result {
    let start = Instant::now();
    let store = Store::open(state)?;
    let backlog = store.backlog(DESTINATION, None)?;
    let rows = Outbox::open(store, DESTINATION)?.pending_rows(0, 500, 1 << 20)?;
    let took = start.elapsed();
    if backlog.pending < UNDELIVERED || rows.len() != 500 {
        return Err(format!("{backlog:?}, {} rows", rows.len()).into());
    }
    println!("{}", took.as_secs_f64() * 1e6);
    Ok(())
}

/// Everything is older than this retention allows.
fn prune_once(state: &StateDir, store: &mut Store, before: i64) -> Result<Pruned> {
    let none = Duration::ZERO;
    let retention = Retention { logs: none, payloads: none, runs: none, destinations: Vec::new() };
    Ok(store.prune(state, &retention, before)?)
}

fn prune(state: &StateDir) -> Result {
    let mut store = Store::open(state)?;
    let start = Instant::now();
    let pruned = prune_once(state, &mut store, now_micros() - 1_000_000)?;
    let took = start.elapsed();
    if pruned.runs == 0 {
        return Err(format!("nothing was removed: {pruned:?}").into());
    }
    println!("{}", took.as_secs_f64() * 1e6);
    Ok(())
}

fn drain(state: &StateDir) -> Result {
    let size = || std::fs::metadata(state.store()).map(|file| file.size());
    let full = size()?;
    let before = now_micros() - i64::try_from((SINCE / 100).as_micros())?;
    let (mut calls, mut runs, mut slowest, mut idle) = (0, 0, Duration::ZERO, 0);
    // The same number of calls again, with nothing to remove, to return the space.
    while idle < 2000 {
        let mut store = Store::open(state)?;
        let start = Instant::now();
        let pruned = prune_once(state, &mut store, before)?;
        slowest = slowest.max(start.elapsed());
        calls += 1;
        runs += pruned.runs;
        idle = if pruned.runs > 0 { 0 } else { idle + 1 };
        let settled = idle > 0 && idle % 100 == 0 && size()? < full / 20;
        if settled {
            break;
        }
    }
    println!(
        "{}",
        json!({"full": full, "left": size()?, "calls": calls, "runs": runs, "slowest_ms": slowest.as_secs_f64() * 1e3})
    );
    Ok(())
}
