//! Files of JSON lines, alone and together with BigQuery: despite kills, full disks, moved files and servers that are down, each event is
//! at each destination once.

use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::jsonl::{EVENTS, all_is_there, files, lines, table};
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Fixture, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A sandbox that delivers events to files.
fn sandbox(more: &str) -> Sandbox {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    sandbox.configure(&table(&sandbox, more));
    fs::create_dir(sandbox.path(EVENTS)).unwrap();
    sandbox
}

#[test]
fn each_of_two_destinations_has_each_event_once() {
    let site = Site::new(Write::Storage);
    let sandbox = &site.sandbox;
    site.configure(Write::Storage, &table(sandbox, ""));
    let setup = sandbox.lorchestra(&["events", "setup", "--destination", "jsonl"]).exits(0);
    assert!(setup.out().starts_with("create directory "), "{}", setup.shown());
    let ended = sandbox.lorchestra(&["run-job", "--require-delivery", "misbehave", "numbered", "--count", "50"]).exits(0);
    assert_eq!(ended.err(), "", "nothing to report");
    site.all_is_delivered(Write::Storage, "BigQuery");
    let files = files(&sandbox.path(EVENTS));
    all_is_there(sandbox, &files, "files");
    // The columns of the envelope, with the unchanged payload.
    let run = sandbox.run();
    for (line, event) in lines(&files).iter().zip(sandbox.events_of(run.id())) {
        for column in
            ["event_type", "source", "schema_ref", "created_at", "correlation_id", "run_id", "attempt", "package", "job"]
        {
            assert_eq!(line[column], event.0[column], "{column}");
        }
        assert_eq!(line["payload"], event.0["payload"]);
    }
    let shown = sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    let none = json!({"pending": 0, "failed": 0, "uncertain": 0});
    assert_eq!(shown["delivery"], json!({"bigquery": none, "jsonl": none}));
}

/// A server that refuses connections, and one that never responds; then the same for the directory.
#[test]
fn a_destination_that_is_down_does_not_delay_the_other() {
    let site = Site::new(Write::Storage);
    let sandbox = &site.sandbox;
    site.configure(Write::Storage, &table(sandbox, ""));
    let dir = sandbox.path(EVENTS);
    fs::create_dir(&dir).unwrap();
    site.fake.go_down();
    let job = ["run-job", "--delivery-timeout", "2s", "misbehave", "numbered", "--count", "20"];
    for _ in 0..2 {
        let ended = sandbox.lorchestra(&job).exits(0);
        assert!(ended.err().contains("not in BigQuery yet"), "{}", ended.shown());
        assert!(!ended.err().contains("not in jsonl"), "{}", ended.shown());
        all_is_there(sandbox, &files(&dir), "while BigQuery is down");
    }
    let pending = |name: &str| {
        let listed = sandbox.lorchestra(&["events", "list", "--pending", "--destination", name, "--json"]).exits(0);
        listed.json_lines("lorchestra.event/1").len()
    };
    assert_eq!((pending("bigquery"), pending("jsonl")), (44, 0));
    sandbox.lorchestra(&["events", "flush", "--destination", "jsonl"]).exits(0);
    sandbox.lorchestra(&["events", "flush", "--timeout", "2s"]).exits(69);
    site.fake.come_up();
    fs::rename(&dir, sandbox.path("elsewhere")).unwrap();
    let ended = sandbox.lorchestra(&["run-job", "--delivery-timeout", "20s", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("2 events are not in jsonl yet"), "{}", ended.shown());
    eventually("BigQuery has all", || {
        sandbox.lorchestra(&["events", "flush", "--destination", "bigquery"]).code() == Some(0) && pending("bigquery") == 0
    });
    site.all_is_delivered(Write::Storage, "while the directory is gone");
    let required = sandbox.lorchestra(&["run-job", "--require-delivery", "misbehave", "noop"]).exits(69);
    assert!(required.err().contains("lorchestra events setup"), "{}", required.shown());
    fs::rename(sandbox.path("elsewhere"), &dir).unwrap();
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    all_is_there(sandbox, &files(&dir), "in the end");
}

/// Kills at any moment of a run or a flush, repeatedly.
#[test]
fn no_kill_loses_or_duplicates_an_event() {
    let sandbox = sandbox("rotate_size = \"64K\"\n");
    let dir = sandbox.path(EVENTS);
    for round in 0..u64::from(lorchestra_tests::rounds(20).max(25)) {
        let run = sandbox.start(&["run-job", "misbehave", "numbered", "--count", "400"]);
        std::thread::sleep(Duration::from_millis(30 + round * 37 % 400));
        run.signal(Signal::KILL);
        run.wait();
        // A flush writes quickly: kill it as soon as a file grows.
        let size = || files(&dir).iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum::<u64>();
        let (before, until) = (size(), Instant::now() + Duration::from_millis(400));
        let flush = sandbox.start(&["events", "flush", "--timeout", "20s"]);
        while size() == before && Instant::now() < until {
            std::hint::spin_loop();
        }
        flush.signal(Signal::KILL);
        flush.wait();
    }
    eventually("no run is still open", || sandbox.runs().iter().all(|run| run.state() != "running"));
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    all_is_there(&sandbox, &files(&dir), "after the kills");
    // On a busy machine most runs are killed before their first event.
    for _ in 0..4 {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "400"]).exits(0);
    }
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    let files = files(&dir);
    all_is_there(&sandbox, &files, "after complete runs");
    assert!(files.len() > 3, "rotated by size: {files:?}");
    assert!(files.iter().all(|path| path.metadata().unwrap().len() <= 64 << 10 || lines(std::slice::from_ref(path)).len() > 100));
    assert_eq!(sandbox.lorchestra(&["events", "list", "--uncertain"]).exits(0).out(), "");
}

#[test]
fn runs_at_the_same_time_take_turns() {
    let sandbox = sandbox("");
    let start = |n: usize| {
        let account = format!("a{n}");
        sandbox.start(&["run-job", "misbehave", "numbered", "--count", "300", "--account", &account])
    };
    let runs: Vec<_> = (0..6).map(start).collect();
    for run in runs {
        run.wait().exits(0);
    }
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    all_is_there(&sandbox, &files(&sandbox.path(EVENTS)), "of six runs");
}

/// A log shipper has moved the file away: later events go to a new file, and nothing is written twice.
#[test]
fn a_new_file_follows_one_that_was_moved_away() {
    let sandbox = sandbox("");
    let dir = sandbox.path(EVENTS);
    let mut taken = Vec::new();
    for round in 0..3 {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5"]).exits(0);
        let there = files(&dir);
        assert_eq!(there.len(), 1, "round {round}");
        let to = sandbox.path(&format!("taken{round}.jsonl"));
        fs::rename(&there[0], &to).unwrap();
        if round == 1 {
            // As `logrotate` does: replaced by an empty file.
            fs::write(&there[0], "").unwrap();
            fs::set_permissions(&there[0], std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
            taken.push(there[0].clone());
        }
        taken.push(to);
        if round == 1 {
            sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
            let new: Vec<PathBuf> = files(&dir).into_iter().filter(|path| *path != there[0]).collect();
            assert_eq!(new.len(), 1, "a new one next to it");
            let to = sandbox.path("taken-too.jsonl");
            fs::rename(&new[0], &to).unwrap();
            taken.push(to);
            fs::remove_file(&there[0]).unwrap();
            taken.retain(|path| *path != there[0]);
        }
    }
    all_is_there(&sandbox, &taken, "in what was taken");
}

#[test]
fn delivery_waits_for_a_full_disk() {
    let sandbox = sandbox("");
    let dir = sandbox.path(EVENTS);
    let Some(disks) = SmallDisks::mount(&sandbox, &[(dir.clone(), 64)]) else { return };
    let job = ["run-job", "--delivery-timeout", "6s", "misbehave", "numbered", "--count", "2000"];
    let ended = disks.start(&sandbox, &job).wait().exits(0);
    assert!(ended.err().contains("No space left on device"), "{}", ended.shown());
    disks.start(&sandbox, &["events", "flush", "--timeout", "2s"]).wait().exits(69);
    // Half a batch is there; its rest goes to the same file once there is space.
    let half = files(&disks.path(&dir)).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    assert!(half > 0);
    disks.remount(&dir, "size=4096k");
    disks.start(&sandbox, &["events", "flush"]).wait().exits(0);
    all_is_there(&sandbox, &files(&disks.path(&dir)), "with room again");
}

/// A new destination starts with the oldest event; a removed one leaves nothing to wait for.
#[test]
fn a_destination_may_be_added_and_removed() {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5"]).exits(0);
    let refused = sandbox.lorchestra(&["events", "flush"]).exits(78);
    assert!(refused.err().contains("no destination is configured"), "{}", refused.shown());
    sandbox.configure(&table(&sandbox, ""));
    sandbox.lorchestra(&["events", "setup"]).exits(0);
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    all_is_there(&sandbox, &files(&sandbox.path(EVENTS)), "from before it was named");
    sandbox.configure("");
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(ended.err(), "");
    sandbox.configure(&table(&sandbox, ""));
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    all_is_there(&sandbox, &files(&sandbox.path(EVENTS)), "and while it was not");
}
