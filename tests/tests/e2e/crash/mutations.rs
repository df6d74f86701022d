//! State files that something else has changed: a disk that flips a bit, a restore that truncated a file, a sector of zeros. Applies two
//! hundred random changes with a fixed seed to each file. The result is never a panic and never a false success, and unreadable data is
//! reported.
//!
//! Runs in this process, with the parts that commands use, because eight hundred commands would take minutes. (Notes:
//! `lorchestra-core/src/run/note.rs`.)

use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::recovery::close_all_abandoned;
use lorchestra_core::store::{Event, EventFilter, Run, RunFilter, RunState, Store, StoreError};
use lorchestra_tests::{Fixture, Sandbox, eventually, processes};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Number of changes of each file.
const CHANGES: u64 = 200;

/// The same numbers every time (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit.max(1) as u64).unwrap()
    }
}

/// Truncates, flips, swaps or zeroes bytes. Returns what was done.
fn change(bytes: &mut Vec<u8>, n: u64, random: &mut Random) -> String {
    let len = bytes.len();
    match n % 4 {
        0 => {
            let at = random.below(len);
            bytes.truncate(at);
            format!("{n}: cut at {at} of {len}")
        }
        1 => {
            let (at, bit) = (random.below(len), random.below(8));
            bytes[at] ^= 1 << bit;
            format!("{n}: bit {bit} of byte {at} flipped")
        }
        2 => {
            let size = 1 + random.below(600.min(len / 2));
            let (a, b) = (random.below(len / 2 - size + 1), len / 2 + random.below(len - len / 2 - size));
            let (left, right) = bytes.split_at_mut(b);
            left[a..a + size].swap_with_slice(&mut right[..size]);
            format!("{n}: {size} bytes at {a} and {b} swapped")
        }
        _ => {
            let size = 1 + random.below(600.min(len));
            let at = random.below(len - size + 1);
            bytes[at..at + size].fill(0);
            format!("{n}: {size} bytes at {at} zeroed")
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The contents of a state directory's store, after closing its open runs, and how many of its newest events were reported missing.
type Found = (Vec<Run>, Vec<Event>, u64);

fn look(state: &Path) -> Result<Found, String> {
    let state = StateDir::open(state).map_err(|error| error.to_string())?;
    let clear = |error: StoreError| match error {
        // lorchestra-cli/src/failure.rs has messages and hints for these.
        StoreError::Damaged { .. } | StoreError::Foreign { .. } | StoreError::Newer { .. } | StoreError::NotWritable { .. } => {
            Err::<Found, _>(error.to_string())
        }
        other => panic!("no clear message: {other:?}"),
    };
    let read = |store: &Store, missing| -> Result<Found, StoreError> {
        let mut events = Vec::new();
        let each = |event| {
            events.push(event);
            Ok::<(), ()>(())
        };
        let _ = store.events(&EventFilter::default(), each)?;
        Ok((store.runs(&RunFilter { running: false, limit: None })?, events, missing))
    };
    match Store::open(&state) {
        Err(error) => clear(error),
        Ok(mut store) => match close_all_abandoned(&state, &mut store) {
            Err(error) => Err(error.to_string()),
            Ok(closed) if !closed.stuck.is_empty() => Err(closed.stuck[0].1.to_string()),
            Ok(closed) => read(&store, closed.missing).or_else(clear),
        },
    }
}

/// Changes one file in copies of a state directory; `judge` checks each result.
fn each_change(state: &Path, file: &Path, seed: u64, mut judge: impl FnMut(&str, Result<Found, String>)) {
    let whole = fs::read(state.join(file)).unwrap();
    let mut random = Random(seed);
    for n in 0..CHANGES {
        let copy = tempfile::tempdir().unwrap();
        copy_all(state, copy.path());
        let mut bytes = whole.clone();
        let what = change(&mut bytes, n, &mut random);
        fs::write(copy.path().join(file), &bytes).unwrap();
        let found = catch_unwind(AssertUnwindSafe(|| look(copy.path())));
        judge(&what, found.unwrap_or_else(|_| panic!("{what} of {}: it panicked", file.display())));
    }
}

/// A run whose job has completed and whose supervisor was killed before it ingested that: all of it is in the spool.
fn unrecorded(count: u32) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let [begin, acknowledged] = ["begin", "acknowledged"].map(|name| sandbox.arg(name));
    let count = count.to_string();
    let args = ["run-job", "misbehave", "numbered", "--count", &count, "--begin", &begin, "--acknowledged", &acknowledged];
    let running = sandbox.start(&args);
    eventually("the job has started", || sandbox.path("begin.wanted").exists());
    let worker = running.children()[0];
    running.signal(Signal::STOP);
    eventually("its supervisor is stopped", || processes::is_stopped(running.pid()));
    fs::write(&begin, "").unwrap();
    eventually("the job has ended", || !processes::is_alive(worker));
    running.signal(Signal::KILL);
    drop(running);
    let spool = fs::read_dir(sandbox.state().join("spool")).unwrap().next().unwrap().unwrap();
    let segment = PathBuf::from("spool").join(spool.file_name()).join("1/1");
    (sandbox, segment)
}

fn numbers(events: &[Event]) -> Vec<u64> {
    let of = |event: &Event| {
        serde_json::from_str::<serde_json::Value>(event.payload.as_ref().unwrap().get()).unwrap()["n"].as_u64().unwrap()
    };
    events.iter().filter(|event| event.event_type == "number").map(of).collect()
}

#[test]
fn a_changed_spool_is_never_a_success_with_events_missing() {
    const COUNT: u32 = 60;
    let (sandbox, segment) = unrecorded(COUNT);
    let (mut whole, mut failed) = (0, 0);
    each_change(&sandbox.state(), &segment, 1, |what, found| {
        let (runs, events, _) = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        let numbers = numbers(&events);
        assert!(numbers.iter().all(|n| *n < u64::from(COUNT)) && numbers.is_sorted(), "{what}: {numbers:?}");
        assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{what}: one twice: {numbers:?}");
        let [run] = &runs[..] else { panic!("{what}: {} runs", runs.len()) };
        match run.state {
            RunState::Completed => {
                assert_eq!(numbers.len(), COUNT as usize, "{what}: a success without all events");
                whole += 1;
            }
            RunState::Failed => {
                let message = run.message.clone().unwrap_or_default();
                assert!(!message.is_empty(), "{what}: no message");
                failed += 1;
            }
            other => panic!("{what}: {other:?}"),
        }
    });
    assert!(failed > CHANGES / 2 && whole + failed == CHANGES, "{whole} whole, {failed} failed");
}

/// Some runs with their events, either all in the database file, or the newest in its WAL.
fn store_of(checkpointed: bool) -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for _ in 0..4 {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "50"]).exits(0);
    }
    let database = sandbox.state().join("lorchestra.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    if checkpointed {
        drop(connection);
    } else {
        // As in a live database: closing it would empty the log.
        connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        for _ in 0..2 {
            sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "50"]).exits(0);
        }
        let kept = sandbox.path("kept");
        fs::create_dir(&kept).unwrap();
        for name in ["lorchestra.db", "lorchestra.db-wal"] {
            fs::copy(sandbox.state().join(name), kept.join(name)).unwrap();
        }
        drop(connection);
        let _ = fs::remove_file(sandbox.state().join("lorchestra.db-shm"));
        for name in ["lorchestra.db", "lorchestra.db-wal"] {
            fs::rename(kept.join(name), sandbox.state().join(name)).unwrap();
        }
    }
    sandbox
}

/// SQLite has no checksums for its pages, but events have their own: a changed one is reported as damaged, wherever the change is.
#[test]
fn a_changed_store_is_reported_or_read_and_never_a_panic() {
    let sandbox = store_of(true);
    let (mut named, mut read, mut damaged, mut fewer) = (BTreeMap::<String, u32>::new(), 0, 0, 0);
    let text = |event: &Event| (event.event_type.clone(), event.payload.as_ref().map(|json| json.get().to_owned()));
    let (_, before, _) = look(&sandbox.state()).unwrap();
    let before: BTreeMap<String, _> = before.iter().map(|event| (event.event_id.clone(), text(event))).collect();
    each_change(&sandbox.state(), Path::new("lorchestra.db"), 2, |what, found| match found {
        Ok((_, events, missing)) => {
            read += 1;
            fewer += u32::from(events.len() < before.len() && missing == 0);
            for event in &events {
                let same = before.get(&event.event_id) == Some(&text(event));
                assert!(same || event.damaged, "{what}: {event:?}");
                damaged += u32::from(event.damaged);
            }
        }
        Err(error) => *named.entry(error.split_once(".db ").map_or("", |(_, why)| why).to_owned()).or_default() += 1,
    });
    assert!(named.values().sum::<u32>() > 50 && read > 0 && damaged > 0, "{named:#?}, {read} read, {damaged} damaged");
    // A page that claims fewer rows contradicts nothing that a reader compares: `PRAGMA integrity_check` finds it (docs/guides/store.md).
    assert!(fewer <= 2, "{fewer} of {CHANGES} changes lost events without a message");
}

/// SQLite ignores a damaged WAL frame and everything after it as if it had not been committed: the history is older but consistent, and the
/// number of missing events is reported.
#[test]
fn a_changed_wal_leaves_a_consistent_history() {
    let sandbox = store_of(false);
    assert!(fs::metadata(sandbox.state().join("lorchestra.db-wal")).unwrap().len() > 4096, "there is a log");
    let complete = |runs: &[Run], events: &[Event]| {
        for run in runs {
            let own: Vec<&Event> = events.iter().filter(|event| event.run_id == run.run_id).collect();
            let terminal =
                own.iter().filter(|event| event.event_type == "job.completed" || event.event_type == "job.failed").count();
            assert_eq!(terminal, usize::from(run.state != RunState::Running), "{:?} of run {}", run.state, run.run_id);
            if run.state == RunState::Completed {
                assert_eq!(own.len(), 52, "start, fifty numbers, end");
            }
        }
    };
    let (_, before, _) = {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&sandbox.state(), copy.path());
        look(copy.path()).unwrap()
    };
    let mut runs_left = BTreeMap::<usize, u32>::new();
    each_change(&sandbox.state(), Path::new("lorchestra.db-wal"), 3, |what, found| {
        let (runs, events, missing) = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        let there: BTreeSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        let lost = before.iter().filter(|event| !there.contains(event.event_id.as_str())).count();
        assert_eq!(lost > 0, missing > 0, "{what}: {lost} events are gone, and {missing} were reported as missing");
        assert!(runs.len() >= 4, "{what}: the events in the database are there");
        complete(&runs, &events);
        *runs_left.entry(runs.len()).or_default() += 1;
    });
    assert!(runs_left.len() > 1, "the changes had an effect: {runs_left:?}");
}
