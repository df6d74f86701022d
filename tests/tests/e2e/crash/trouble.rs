//! External problems: disks that are full or read-only, stores that are locked, damaged or belong to another program, clocks that were set
//! back, thousands of leftovers. Each has an outcome that reports what happened, and nothing acknowledged is lost.

use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually};
use rusqlite::Connection;
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

fn sandbox() -> Sandbox {
    Sandbox::with_binary(&[Fixture::Misbehave])
}

/// The acknowledged events.
fn acknowledged(sandbox: &Sandbox) -> u64 {
    sandbox.read("acknowledged").matches('\n').count() as u64
}

/// A sandbox with its state directory on small disks: directories by name, with their sizes in KiB.
fn on_disks(disks: &[(&str, u32)]) -> (Sandbox, Option<SmallDisks>) {
    let sandbox = sandbox();
    let disks: Vec<(PathBuf, u32)> = disks.iter().map(|(name, kib)| (sandbox.state().join(name), *kib)).collect();
    let mounted = SmallDisks::mount(&sandbox, &disks);
    (sandbox, mounted)
}

/// Runs the command on these disks to its end.
#[track_caller]
fn run(disks: &SmallDisks, sandbox: &Sandbox, args: &[&str]) -> Ended {
    disks.start(sandbox, args).wait()
}

/// State, cause and message of the only run, and how many events of this type it has, in sequence.
#[track_caller]
fn only_run(disks: &SmallDisks, sandbox: &Sandbox, event_type: &str) -> (String, String, String, u64) {
    let runs = run(disks, sandbox, &["runs", "list", "--json"]).exits(0).json_lines("lorchestra.run/1");
    let [only] = &runs[..] else { panic!("one run: {runs:?}") };
    let listed = run(disks, sandbox, &["events", "list", "--json", "--payload"]).exits(0);
    let events = listed.json_lines("lorchestra.event/1");
    let terminal = events.iter().filter(|event| event["event_type"] == "job.completed" || event["event_type"] == "job.failed");
    assert_eq!(terminal.count(), 1, "{}", listed.shown());
    let of_type: Vec<_> = events.iter().filter(|event| event["event_type"] == event_type).collect();
    if event_type == "number" {
        let numbers: Vec<u64> = of_type.iter().map(|event| event["payload"]["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "no duplicates, no gaps");
    }
    let text = |key: &str| only[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("cause"), text("message"), of_type.len() as u64)
}

#[test]
fn a_full_spool_ends_the_job_and_keeps_acknowledged_events() {
    let (sandbox, Some(disks)) = on_disks(&[("spool", 512)]) else { return };
    let marker = sandbox.arg("acknowledged");
    let args = ["run-job", "misbehave", "numbered", "--count", "100000", "--acknowledged", &marker];
    let ended = run(&disks, &sandbox, &args).exits(1);
    assert!(ended.err().contains("No space left on device"), "{}", ended.shown());
    let (state, cause, message, events) = only_run(&disks, &sandbox, "number");
    // The job's own final record, if there was space for it.
    assert!(state == "failed" && (cause == "error" || cause == "spool"), "{cause}: {message}");
    assert!(message.contains("No space left on device"), "{message}");
    let safe = acknowledged(&sandbox);
    assert!(events == safe && safe > 1000, "{events} events, {safe} acknowledged");
    // There is space again once everything is in the store.
    run(&disks, &sandbox, &["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn a_full_store_prevents_the_job_from_starting() {
    let (sandbox, Some(disks)) = on_disks(&[("", 1024), ("spool", 1024), ("logs", 1024)]) else { return };
    let marker = sandbox.arg("marker");
    let args = ["run-job", "misbehave", "typed", "--marker", &marker];
    for made_before in [false, true] {
        let ballast = disks.fill(&sandbox.state());
        let ended = run(&disks, &sandbox, &args).exits(74);
        let dir = sandbox.state().display().to_string();
        assert!(ended.err().contains("the store") && ended.err().contains(&dir), "{}", ended.shown());
        assert!(ended.err().contains("full") || ended.err().contains("No space left"), "{}", ended.shown());
        assert_eq!(sandbox.read("marker"), "", "the job did not start; the store was there before: {made_before}");
        let left = |dir: &str| fs::read_dir(disks.path(&sandbox.state().join(dir))).unwrap().count();
        let before = usize::from(made_before);
        assert_eq!((left("spool"), left("logs")), (0, before), "a run that did not start leaves nothing");
        fs::remove_file(ballast).unwrap();
        run(&disks, &sandbox, &args).exits(0);
        fs::remove_file(sandbox.path("marker")).unwrap();
    }
}

/// The job continues, and its events stay in the spool; its end cannot be recorded, and the next command does that.
#[test]
fn a_store_that_becomes_full_loses_nothing() {
    let (sandbox, Some(disks)) = on_disks(&[("", 1024), ("spool", 1024), ("logs", 1024)]) else { return };
    let running = disks.start(&sandbox, &["run-job", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let ballast = disks.fill(&sandbox.state());
    running.signal(Signal::TERM);
    let ended = running.wait().exits(74);
    assert!(ended.err().contains("cannot record the end of run"), "{}", ended.shown());
    assert!(ended.err().contains("it is kept in the spool"), "{}", ended.shown());
    // Still full: the problem is reported, and readable data is shown.
    let listed = run(&disks, &sandbox, &["runs", "list"]).exits(0);
    assert!(listed.err().contains("cannot close run") && listed.out().contains("abandoned"), "{}", listed.shown());
    fs::remove_file(ballast).unwrap();
    let (state, cause, _, seen) = only_run(&disks, &sandbox, "cancelled.seen");
    assert_eq!(
        (&*state, &*cause, seen),
        ("failed", "cancelled", 1),
        "the signal that it received, and the event that it then emitted"
    );
}

/// Everything on one disk, as on most machines.
#[test]
fn a_full_disk_for_all_files_loses_nothing() {
    let (sandbox, Some(disks)) = on_disks(&[("", 1536)]) else { return };
    let marker = sandbox.arg("acknowledged");
    let args = ["run-job", "misbehave", "numbered", "--count", "100000", "--acknowledged", &marker];
    let ended = run(&disks, &sandbox, &args);
    assert!(matches!(ended.code(), Some(1 | 74)), "{}", ended.shown());
    let safe = acknowledged(&sandbox);
    assert!(safe > 1000, "{safe}");
    // The disk is enlarged.
    disks.remount(&sandbox.state(), "size=16m");
    let (state, cause, message, events) = only_run(&disks, &sandbox, "number");
    assert!(state == "failed" && (cause == "error" || cause == "spool"), "{cause}: {message}");
    assert_eq!(events, safe);
}

#[test]
fn a_full_log_loses_only_its_end() {
    let (sandbox, Some(disks)) = on_disks(&[("logs", 256)]) else { return };
    let ended = run(&disks, &sandbox, &["run-job", "misbehave", "print", "--lines", "30000"]).exits(0);
    let mut expected: Vec<u8> = (0..30000).flat_map(|n| format!("out {n}\nerr {n}\n").into_bytes()).collect();
    expected.extend_from_slice(b"\xff\xfe without an end");
    let lost: usize = ended.err().split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    assert!(ended.err().contains("bytes of the job's output were lost: the disk was full"), "{}", ended.shown());
    let logs = run(&disks, &sandbox, &["runs", "logs", "--", &run_id(&disks, &sandbox)]).exits(0);
    assert!(logs.stdout.len() > 100_000 && expected.starts_with(&logs.stdout), "{} bytes", logs.stdout.len());
    assert_eq!(logs.stdout.len() + lost, expected.len());
    assert!(logs.err().contains(&format!("{lost} bytes of this log were lost")), "{}", logs.err());
    let (state, ..) = only_run(&disks, &sandbox, "number");
    assert_eq!(state, "completed");
}

#[track_caller]
fn run_id(disks: &SmallDisks, sandbox: &Sandbox) -> String {
    let runs = run(disks, sandbox, &["runs", "list", "--json"]).exits(0).json_lines("lorchestra.run/1");
    runs[0]["run_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_disk_that_became_read_only_is_reported() {
    let (sandbox, Some(disks)) = on_disks(&[("", 2048)]) else { return };
    let marker = sandbox.arg("marker");
    let args = ["run-job", "misbehave", "typed", "--marker", &marker];
    disks.remount(&sandbox.state(), "ro");
    let ended = run(&disks, &sandbox, &args).exits(74);
    assert!(ended.err().contains("Read-only file system"), "a new state directory: {}", ended.shown());
    disks.remount(&sandbox.state(), "rw");
    run(&disks, &sandbox, &args).exits(0);
    fs::remove_file(sandbox.path("marker")).unwrap();
    disks.remount(&sandbox.state(), "ro");
    let ended = run(&disks, &sandbox, &args).exits(74);
    assert!(ended.err().to_lowercase().contains("read-only"), "{}", ended.shown());
    assert_eq!(sandbox.read("marker"), "", "the job did not start");
    // Reading needs the store's WAL, which must be writable.
    let listed = run(&disks, &sandbox, &["runs", "list"]);
    assert!(matches!(listed.code(), Some(0 | 74)), "{}", listed.shown());
    disks.remount(&sandbox.state(), "rw");
    run(&disks, &sandbox, &args).exits(0);
}

/// The database, for this process.
fn store(sandbox: &Sandbox) -> Connection {
    Connection::open(sandbox.state().join("lorchestra.db")).unwrap()
}

/// While a job runs and ends, another process holds a write transaction that never ends.
#[test]
fn a_run_waits_for_a_store_that_is_locked_for_a_while() {
    let sandbox = sandbox();
    let marker = sandbox.arg("acknowledged");
    let running = sandbox.start(&[
        "run-job",
        "misbehave",
        "wait_for_file",
        "--marker",
        &sandbox.arg("marker"),
        "--file",
        &sandbox.arg("go"),
    ]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let other = store(&sandbox);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    fs::write(sandbox.path("go"), "").unwrap();
    // Its effects in the meantime, and another run of another job.
    let second = sandbox.start(&["run-job", "misbehave", "numbered", "--count", "1000", "--acknowledged", &marker]);
    std::thread::sleep(Duration::from_secs(2));
    let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(listed.out().contains("running"), "readers do not wait: {}", listed.shown());
    assert_eq!(acknowledged(&sandbox), 0, "it has not begun");
    other.execute_batch("ROLLBACK").unwrap();
    for running in [running, second] {
        let ended = running.wait().exits(0);
        assert_eq!(ended.err(), "", "the locked database is not reported");
    }
    assert_eq!(sandbox.runs().iter().filter(|run| run.state() == "completed").count(), 2);
    assert_eq!(acknowledged(&sandbox), 1000);
}

/// The same for longer than a writer waits for its turn: a starting run fails with an error, an ending one keeps its end in the spool, and
/// both say what to do.
#[test]
fn a_store_that_is_locked_for_longer_than_writers_wait_loses_nothing() {
    let sandbox = sandbox();
    let ends = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let other = store(&sandbox);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    ends.signal(Signal::TERM);
    let begins = sandbox.start(&["run-job", "misbehave", "typed", "--marker", &sandbox.arg("entered")]);
    let begins = patiently(begins).exits(74);
    assert!(begins.err().contains("another process") && begins.err().contains("lsof"), "{}", begins.shown());
    let ends = patiently(ends).exits(74);
    assert!(
        ends.err().contains("cannot record the end of run") && ends.err().contains("it is kept in the spool"),
        "{}",
        ends.shown()
    );
    assert_eq!(sandbox.read("entered"), "", "the job did not start");
    other.execute_batch("ROLLBACK").unwrap();
    // The first run left nothing, the second everything.
    let run = sandbox.run();
    assert_eq!((run.state(), run.cause()), ("failed", "cancelled"));
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events.iter().filter(|event| event.event_type() == "cancelled.seen").count(), 1);
    assert_eq!(fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

/// Waits for longer than the deadline of other tests.
#[track_caller]
fn patiently(mut running: Running) -> Ended {
    let until = std::time::Instant::now() + Duration::from_secs(600);
    while !running.has_ended() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    running.wait()
}

/// A foreign database is not written to, and no job starts.
#[test]
fn a_foreign_store_is_reported_with_a_fix() {
    type Spoil = fn(&Sandbox);
    let cases: [(&str, Spoil, &str, &str); 4] = [
        (
            "newer",
            |sandbox| store(sandbox).pragma_update(None, "user_version", 99).unwrap(),
            "newer lorchestra",
            "upgrade lorchestra",
        ),
        (
            "another application's",
            |sandbox| store(sandbox).pragma_update(None, "application_id", 0x1234).unwrap(),
            "another program's",
            "move the file away",
        ),
        ("cut off", |sandbox| cut(sandbox, 5000), "is damaged", "move all three files away"),
        ("overwritten", overwrite, "is damaged", "move all three files away"),
    ];
    for (name, spoil, what, hint) in cases {
        let sandbox = sandbox();
        sandbox.lorchestra(&["run-job", "misbehave", "numbered"]).exits(0);
        // Everything in the database file.
        store(&sandbox).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        spoil(&sandbox);
        let path = sandbox.state().join("lorchestra.db");
        let before = fs::read(&path).unwrap();
        let marker = sandbox.arg("marker");
        for args in [&["run-job", "misbehave", "typed", "--marker", &marker][..], &["runs", "list"], &["events", "list"]] {
            let ended = sandbox.lorchestra(args);
            // Damage to a page that a listing does not need may go unnoticed.
            if ended.code() == Some(0) && name != "newer" && args[0] != "run-job" {
                continue;
            }
            let ended = ended.exits(78);
            assert!(ended.err().contains(what) && ended.err().contains(hint), "{name}: {}", ended.shown());
        }
        assert_eq!(sandbox.read("marker"), "", "{name}: the job did not start");
        assert!(fs::read(&path).unwrap() == before, "{name}: nothing was written to it");
        // The fix.
        for name in ["lorchestra.db", "lorchestra.db-wal", "lorchestra.db-shm"] {
            let _ = fs::rename(sandbox.state().join(name), sandbox.path(name));
        }
        sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        assert_eq!(sandbox.runs().len(), 1);
    }
}

fn cut(sandbox: &Sandbox, len: u64) {
    fs::File::options().write(true).open(sandbox.state().join("lorchestra.db")).unwrap().set_len(len).unwrap();
}

/// Every page but the first is noise.
fn overwrite(sandbox: &Sandbox) {
    let path = sandbox.state().join("lorchestra.db");
    let mut bytes = fs::read(&path).unwrap();
    let mut noise = 1_u32;
    for byte in &mut bytes[4096..] {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = noise.to_be_bytes()[0];
    }
    fs::write(&path, bytes).unwrap();
}

/// Events of a run whose store was moved away are kept; when it is moved back, it gets them.
#[test]
fn events_whose_store_is_gone_are_kept_until_it_is_back() {
    let sandbox = sandbox();
    let acknowledged = sandbox.arg("acknowledged");
    let running = sandbox.start(&["run-job", "misbehave", "numbered", "--count", "100000000", "--acknowledged", &acknowledged]);
    eventually("the job has started", || self::acknowledged(&sandbox) > 100);
    let workers = running.children();
    running.signal(Signal::KILL);
    drop(running);
    eventually("the worker is gone", || workers.iter().all(|pid| !lorchestra_tests::processes::is_alive(*pid)));
    let safe = self::acknowledged(&sandbox);
    for name in ["lorchestra.db", "lorchestra.db-wal", "lorchestra.db-shm"] {
        fs::rename(sandbox.state().join(name), sandbox.path(name)).unwrap();
    }
    let spool = fs::read_dir(sandbox.state().join("spool")).unwrap().next().unwrap().unwrap().path();
    age(&spool, Duration::from_secs(2 * 60 * 60));
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("holds events of a run that is not in this store"), "{}", ended.shown());
    assert!(ended.err().contains(&spool.display().to_string()), "{}", ended.shown());
    assert!(spool.is_dir());
    for name in ["lorchestra.db", "lorchestra.db-wal", "lorchestra.db-shm"] {
        let _ = fs::rename(sandbox.path(name), sandbox.state().join(name));
    }
    let run = sandbox.run();
    assert_eq!((run.state(), run.cause()), ("failed", "abandoned"));
    let numbers = sandbox.numbers_of(&run);
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(numbers.len() as u64 >= safe);
}

/// Sets the directory's modification time back by this long.
fn age(dir: &std::path::Path, by: Duration) {
    fs::File::open(dir).unwrap().set_modified(SystemTime::now() - by).unwrap();
}

/// The clock was ten years ahead and was corrected: times in the store are later than now.
#[test]
fn a_clock_that_was_set_back_blocks_and_removes_nothing() {
    let sandbox = sandbox();
    sandbox.configure("[retention]\nlogs = \"1s\"\npayloads = \"1s\"\nruns = \"1s\"");
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5"]).exits(0);
    let ahead = sandbox.run();
    // A run that is still open, too: its supervisor was killed before the clock was corrected.
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let workers = running.children();
    running.signal(Signal::KILL);
    drop(running);
    eventually("the worker is gone", || workers.iter().all(|pid| !lorchestra_tests::processes::is_alive(*pid)));
    let db = store(&sandbox);
    let later = "+ 10 * 365 * 86400 * 1000000";
    db.execute_batch(&format!(
        "UPDATE runs SET started_at = started_at {later}, ended_at = ended_at {later};
         UPDATE attempts SET started_at = started_at {later}, ended_at = ended_at {later};
         UPDATE events SET created_at = created_at {later};
         UPDATE outbox SET closed_until = (SELECT max(created_at) FROM events), closed_reason = 'then';"
    ))
    .unwrap();
    drop(db);
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("was closed as abandoned"), "{}", ended.shown());
    let runs = sandbox.runs();
    assert_eq!(runs.len(), 3, "none is removed");
    let states: Vec<_> = runs.iter().map(|run| (run.state(), run.cause())).collect();
    assert_eq!(states, [("completed", ""), ("failed", "abandoned"), ("completed", "")], "in the order of their start");
    assert_eq!(runs[2].id(), ahead.id());
    for run in &runs {
        sandbox.whole_events_of(run);
    }
    let shown = sandbox.lorchestra(&["runs", "show", runs[1].id()]).exits(0);
    assert!(shown.out().contains("(after 0"), "its duration is not negative: {}", shown.shown());
    assert_eq!(sandbox.lorchestra(&["events", "list", "--run", ahead.id(), "--since", "-1d"]).exits(0).out().lines().count(), 7);
}

/// Runs that never started, and runs whose spool could not be removed: the former are removed after an hour, some hundred by each command,
/// the latter immediately.
#[test]
fn ten_thousand_leftover_spools_are_removed_without_delaying_commands() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5"]).exits(0);
    let spool = sandbox.state().join("spool");
    let ended_before = spool.join(sandbox.run().id());
    fs::create_dir_all(ended_before.join("1")).unwrap();
    let leftover = |n: u32| spool.join(format!("01890000-0000-7000-8000-{n:012}"));
    for n in 0..10_000 {
        fs::create_dir(leftover(n)).unwrap();
        if n >= 5_000 {
            age(&leftover(n), Duration::from_secs(2 * 60 * 60));
        }
    }
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(ended.err(), "");
    assert!(!ended_before.exists(), "its run has ended");
    let left = || fs::read_dir(&spool).unwrap().count();
    assert_eq!(left(), 9_800, "no command removes all of them");
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(left(), 9_600);
    // A run that is just starting has such a spool too.
    assert!(leftover(4_999).exists() && !leftover(5_000).exists());
    assert_eq!(sandbox.runs().len(), 3);
}

/// An unknown name in the state directory is left alone.
#[test]
fn unknown_files_in_the_spool_directory_are_left_alone() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let spool = sandbox.state().join("spool");
    fs::write(spool.join("notes.txt"), "mine").unwrap();
    fs::create_dir(spool.join("lost+found")).unwrap();
    fs::write(spool.join(uuid_like()), "a file where a directory should be").unwrap();
    age(&spool.join(uuid_like()), Duration::from_secs(2 * 60 * 60));
    let running: Running = sandbox.start(&["run-job", "misbehave", "noop"]);
    running.wait().exits(0);
    assert!(spool.join("notes.txt").exists() && spool.join("lost+found").exists());
}

fn uuid_like() -> &'static str {
    "01890000-0000-7000-8000-00000000000a"
}

/// Disks of every size from too small for anything to large enough: whichever write is the first to fail, the command reports it, and once
/// there is space everything acknowledged is there.
#[test]
fn a_full_disk_at_any_write_loses_no_acknowledged_event() {
    let (mut before, mut during, mut completed) = (0, 0, 0);
    for kib in [16, 64, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 4096] {
        let (sandbox, Some(disks)) = on_disks(&[("", kib)]) else { return };
        let marker = sandbox.arg("acknowledged");
        let args = ["run-job", "misbehave", "numbered", "--count", "3000", "--acknowledged", &marker];
        let ended = run(&disks, &sandbox, &args);
        let safe = acknowledged(&sandbox);
        match ended.code() {
            Some(0) => completed += 1,
            Some(74) if safe == 0 => before += 1,
            Some(1 | 74) => during += 1,
            _ => panic!("{kib} KiB: {}", ended.shown()),
        }
        let is_reported = ["full", "No space left", "cannot record", "free space"].iter().any(|text| ended.err().contains(text));
        assert!(ended.code() == Some(0) || is_reported, "{kib} KiB: {}", ended.shown());
        disks.remount(&sandbox.state(), "size=16m");
        let runs = run(&disks, &sandbox, &["runs", "list", "--json"]).exits(0).json_lines("lorchestra.run/1");
        assert!(runs.len() <= 1 && (safe == 0 || runs.len() == 1), "{kib} KiB: {runs:?}");
        if runs.len() == 1 {
            let (state, cause, message, events) = only_run(&disks, &sandbox, "number");
            assert!(events == safe, "{kib} KiB: {events} events, {safe} acknowledged: {state} {cause} {message}");
            assert_eq!(state == "completed", safe == 3000 && cause.is_empty(), "{kib} KiB: {state} {cause} {message}");
        }
        // The next run has enough space.
        run(&disks, &sandbox, &["run-job", "misbehave", "noop"]).exits(0);
    }
    assert!(before > 0 && during > 0 && completed > 0, "{before} before, {during} during, {completed} completed");
}

/// A restored copy of the database, or an empty file in its place: the command that comes first reports the loss, once, whichever it is.
#[test]
fn a_loss_of_the_newest_events_is_reported_by_the_next_command() {
    let of_group = |sandbox: &Sandbox| {
        fs::write(sandbox.path("nightly.toml"), "[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop\"\n").unwrap();
        vec!["run-group".to_owned(), sandbox.arg("nightly.toml")]
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    type First<'a> = &'a dyn Fn(&Sandbox) -> Vec<String>;
    let firsts: [First<'_>; 4] = [
        &|_| words("runs list"),
        &|_| words("run-job misbehave noop"),
        &|_| words("backfill misbehave windowed --from 2026-01-01 --to 2026-01-02 --every 1d"),
        &of_group,
    ];
    for first in firsts {
        for is_emptied in [false, true] {
            let sandbox = sandbox();
            let [store, copy] = ["lorchestra.db", "copy.db"].map(|name| sandbox.state().join(name));
            sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
            Connection::open(&store).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            fs::copy(&store, &copy).unwrap();
            sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
            ["db-wal", "db-shm"].iter().for_each(|end| fs::remove_file(store.with_extension(end)).unwrap());
            if is_emptied {
                fs::write(&store, "").unwrap();
            } else {
                fs::rename(&copy, &store).unwrap();
            }
            let lost = if is_emptied { 4 } else { 2 };

            let args = first(&sandbox);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let warning = format!("about {lost} of the newest events are missing");
            let ended = sandbox.lorchestra(&args).exits(0);
            assert_eq!(ended.err().matches(&warning).count(), 1, "{args:?}: {}", ended.shown());
            let next = sandbox.lorchestra(&["runs", "list"]).exits(0);
            assert!(!next.err().contains("missing"), "{args:?}: reported once: {}", next.shown());
            let doctor = sandbox.lorchestra(&["doctor"]);
            let known = format!(", about {lost} of the newest events were missing");
            assert!(doctor.out().contains(&known), "{args:?}: for somebody who looks later: {}", doctor.shown());
        }
    }
}
