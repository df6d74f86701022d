//! A store that is replaced by a backup while a run is in progress: what the job emits afterwards is in the new store, and the run has its
//! true end there.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const EVENTS: u64 = 3;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn file(sandbox: &Sandbox, end: &str) -> PathBuf {
    sandbox.state().join(format!("lorchestra.db{end}"))
}

/// A run whose job waits before its first event and after its last one.
fn numbering(sandbox: &Sandbox) -> Running {
    let [acknowledged, begin, end] = ["acknowledged", "begin", "end"].map(|name| sandbox.arg(name));
    let count = EVENTS.to_string();
    let files = ["--acknowledged", &acknowledged, "--begin", &begin, "--end", &end];
    let running = sandbox.start(&[&["run-job", "misbehave", "numbered", "--count", &count][..], &files].concat());
    eventually("the job has started", || sandbox.path("begin.wanted").exists());
    running
}

fn go(sandbox: &Sandbox, name: &str) {
    fs::write(sandbox.path(name), "").unwrap();
}

fn all_acknowledged(sandbox: &Sandbox) {
    eventually("all events are acknowledged", || sandbox.read("acknowledged").lines().count() as u64 == EVENTS);
}

/// Copies one database over another one with SQLite's backup, which needs no other program to stop.
fn restore(from: &Path, to: &Path) {
    let script = "import sqlite3, sys\na, b = (sqlite3.connect(name) for name in sys.argv[1:])\na.backup(b)";
    let copied = Command::new("python3").args(["-c", script]).args([from, to]).status().unwrap();
    assert!(copied.success());
}

fn is_complete(sandbox: &Sandbox, running: Running) {
    let ended = running.wait().exits(0);
    let run = sandbox.run();
    assert_eq!(run.state(), "completed", "{}", ended.shown());
    assert_eq!(sandbox.numbers_of(&run), (0..EVENTS).collect::<Vec<_>>(), "{}", ended.shown());
    sandbox.whole_events_of(&run);
}

#[test]
fn a_run_continues_in_the_file_that_has_taken_the_place_of_its_store() {
    let sandbox = sandbox();
    let running = numbering(&sandbox);
    // A copy of the whole store in one file, put in its place as guides/store.md says.
    let other = sandbox.path("other.db");
    restore(&file(&sandbox, ""), &other);
    let set_up = "PRAGMA auto_vacuum = INCREMENTAL; VACUUM; PRAGMA journal_mode = WAL;";
    rusqlite::Connection::open(&other).unwrap().execute_batch(set_up).unwrap();
    fs::rename(&other, file(&sandbox, "")).unwrap();
    for end in ["-wal", "-shm"] {
        fs::remove_file(file(&sandbox, end)).unwrap();
    }
    go(&sandbox, "begin");
    all_acknowledged(&sandbox);
    go(&sandbox, "end");
    is_complete(&sandbox, running);
}

#[test]
fn a_run_ingests_again_what_a_restored_store_has_lost() {
    let sandbox = sandbox();
    let running = numbering(&sandbox);
    let backup = sandbox.path("backup.db");
    restore(&file(&sandbox, ""), &backup);
    go(&sandbox, "begin");
    all_acknowledged(&sandbox);
    let stored = || sandbox.lorchestra(&["events", "list", "--type", "number"]).exits(0).out().lines().count() as u64;
    eventually("they are in the store", || stored() == EVENTS);
    restore(&backup, &file(&sandbox, ""));
    go(&sandbox, "end");
    is_complete(&sandbox, running);
}
