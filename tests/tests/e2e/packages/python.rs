//! The package `python`: runs jobs of the Python lorchestra unchanged, from a virtual environment into which pip has installed them
//! (tests/python-jobs). When processes are killed, nothing acknowledged is lost; each end is reported correctly; the text of an exception
//! is only in the log.

use chrono::DateTime;
use lorchestra_test_setup::venv;
use lorchestra_tests::{Event, Fixture, Sandbox, built, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The virtual environment with the package, created once for this process.
fn environment() -> String {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, venv) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        // pip builds in the directory of the sources.
        let sources = dir.path().join("sources");
        fs::create_dir_all(sources.join("my_package")).unwrap();
        let from = built::workspace().join("tests/python-jobs");
        for file in
            ["pyproject.toml", "my_package/__init__.py", "my_package/broken.py", "my_package/faults.py", "my_package/jobs.py"]
        {
            fs::copy(from.join(file), sources.join(file)).unwrap();
        }
        let venv = dir.path().join("venv");
        venv::with_package(&built::target(), &sources, &venv).unwrap_or_else(|error| panic!("{error}"));
        (dir, venv)
    });
    venv.display().to_string()
}

struct Python {
    sandbox: Sandbox,
    venv: String,
}

impl Python {
    fn new() -> Self {
        let sandbox = Sandbox::with(&[Fixture::Python]);
        sandbox.configure("[job.\"python/run\"]\nretry_wait = \"1s\"\n");
        Self { sandbox, venv: environment() }
    }

    /// The arguments for running this function, with additional flags.
    fn run<'a>(&'a self, entry: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
        [&["run-job", "python", "run", "--python", &self.venv, "--entry", entry], flags].concat()
    }

    /// Types and payloads of the newest run's events, without lorchestra's own, after checking its end.
    fn events(&self) -> Vec<(String, Value)> {
        let events = self.sandbox.whole_events_of(&self.sandbox.runs()[0]);
        let own = events.iter().filter(|event| !event.event_type().starts_with("job."));
        own.map(|event| (event.event_type().to_owned(), event.payload().clone())).collect()
    }

    fn log(&self) -> String {
        self.sandbox.lorchestra(&["runs", "logs", self.sandbox.runs()[0].id()]).exits(0).out().to_owned()
    }

    /// What the job has recorded after each acknowledgement.
    fn acknowledged(&self) -> u64 {
        fs::read_to_string(self.sandbox.path("acknowledged")).unwrap_or_default().matches('\n').count() as u64
    }
}

#[test]
fn the_example_of_the_old_readme_runs_unchanged() {
    let python = Python::new();
    let run = python.run("my_package.jobs:extract_gmail", &["--account", "acct1-personal", "--since", "-7d"]);
    python.sandbox.lorchestra(&run).exits(0);
    assert_eq!(
        python.events(),
        [
            (
                "extraction.started".to_owned(),
                json!({"account": "acct1-personal", "since": "-7d", "_source": "my_package/extract_gmail"})
            ),
            ("extraction.completed".to_owned(), json!({"records_count": 2, "_source": "my_package/extract_gmail"})),
        ]
    );
    assert_eq!(python.log(), "Extracting Gmail for account=acct1-personal\nExtracted 2 emails\n");
}

#[test]
fn arguments_and_event_envelopes_arrive_unchanged() {
    let python = Python::new();
    let flags = [
        "--since",
        "-7d",
        "--until",
        "2024-01-31",
        "--arg",
        "label=a=b",
        "--arg",
        "big:=123456789012345678",
        "--arg",
        "many:=[1.10]",
    ];
    python.sandbox.lorchestra(&python.run("my_package.jobs:canonicalize", &flags)).exits(0);
    let seen = json!({"_source": "here", "since": "-7d", "until": "2024-01-31", "label": "a=b", "big": 123_456_789_012_345_678_i64, "many": [1.1]});
    assert_eq!(python.events(), [("arguments.seen".to_owned(), seen)]);
    let events = python.sandbox.events_of(python.sandbox.runs()[0].id());
    let Event(event) = events.iter().find(|event| event.event_type() == "arguments.seen").unwrap();
    assert_eq!((&event["schema_ref"], &event["correlation_id"]), (&json!("arguments/1"), &json!("c-1")), "{event}");
}

#[test]
fn a_list_shows_the_entry_points_of_both_groups_and_one_broken_hides_none() {
    let python = Python::new();
    let marker = python.sandbox.arg("imported");
    let list = ["run-job", "python", "list", "--python", &python.venv];
    python.sandbox.lorchestra_with(&[("IMPORTED_MARKER", &marker)], &list).exits(0);
    insta::assert_snapshot!(python.log().replace(&python.venv, "[VENV]"));
    let events = python.events();
    assert_eq!(events[5], ("python.listed".to_owned(), json!({"jobs": 5, "unusable": 1, "prefix": python.venv})));
    let gmail = json!({
        "package": "my_package", "job": "extract_gmail", "entry": "my_package.jobs:extract_gmail",
        "signature": "(bq_client, account=None, since=None, until=None)", "doc": "Extract emails from Gmail.",
    });
    assert!(events.contains(&("python.job.listed".to_owned(), gmail)), "{events:?}");
}

/// Kills the Python process, the worker, or the supervisor while the job emits: every event for which `emit` returned is stored once.
#[test]
fn nothing_acknowledged_is_lost_when_a_job_of_ten_thousand_events_is_killed() {
    for victim in ["python", "worker", "supervisor"] {
        let python = Python::new();
        let acknowledged = python.sandbox.arg("acknowledged");
        let path = format!("acknowledged={acknowledged}");
        // So many that it is killed long before the last one.
        let run = python.run("my_package.faults:numbered", &["--arg", "count:=10000000", "--arg", &path]);
        let mut running = python.sandbox.start(&run);
        eventually("the job has emitted many events", || python.acknowledged() >= 3000);
        let worker = running.children()[0];
        let interpreter = || processes::children(worker).into_iter().next();
        let interpreter = interpreter().unwrap();
        match victim {
            "python" => processes::kill(interpreter),
            "worker" => processes::kill(worker),
            _ => running.signal(Signal::KILL),
        }
        eventually("all processes have ended", || {
            running.has_ended() && !processes::is_alive(interpreter) && !processes::is_alive(worker)
        });
        // Closes the run of the killed supervisor.
        python.sandbox.lorchestra(&["runs", "list"]).exits(0);
        let acknowledged = python.acknowledged();
        let numbers = python.sandbox.numbers_of(&python.sandbox.run());
        assert!(numbers.len() as u64 >= acknowledged, "{victim}: {acknowledged} acknowledged, {} there", numbers.len());
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{victim}: in order, once");
        assert_ne!(python.sandbox.run().state(), "completed", "{victim}");
        if victim == "python" {
            let message = python.sandbox.run().message().to_owned();
            assert!(message.contains("ended (signal: 9 (SIGKILL)) before my_package.faults:numbered returned"), "{message}");
        }
    }
    let python = Python::new();
    let path = format!("acknowledged={}", python.sandbox.arg("acknowledged"));
    python.sandbox.lorchestra(&python.run("my_package.faults:numbered", &["--arg", "count:=10000", "--arg", &path])).exits(0);
    assert_eq!(python.sandbox.numbers_of(&python.sandbox.run()), (0..10_000).collect::<Vec<_>>());
}

#[test]
fn an_exception_is_named_with_its_place_and_its_text_is_only_in_the_log() {
    let python = Python::new();
    let ended = python.sandbox.lorchestra(&python.run("my_package.jobs:extract_gmail", &["--account", "nobody"])).exits(1);
    insta::assert_snapshot!(ended.snapshot(&python.sandbox));
    let events = python.sandbox.lorchestra(&["events", "list", "--json", "--payload"]).exits(0);
    assert!(!events.out().contains("anna") && !ended.err().contains("anna"), "{}", events.shown());
    let (_, exception) = python.events().pop().unwrap();
    assert_eq!(exception["exceptions"][0]["class"], "ValueError");
    let frames: Vec<&str> =
        exception["exceptions"][0]["frames"].as_array().unwrap().iter().filter_map(|frame| frame["function"].as_str()).collect();
    assert_eq!(frames, ["extract_gmail", "fetch_emails"], "without those of the bridge");
    assert_eq!(exception["exceptions"][1]["class"], "KeyError");
    let log = python.log();
    for line in ["Traceback (most recent call last):", "KeyError: 'anna@example.com'", "ValueError: no mail for anna@example.com"]
    {
        assert!(log.contains(line), "{log}");
    }
    assert!(!log.contains("<string>"), "{log}");
}

#[test]
fn every_other_end_is_reported() {
    let python = Python::new();
    let mut pages = String::new();
    let mut page = |title: &str, code: i32, run: &[&str]| {
        let ended = python.sandbox.lorchestra(run).exits(code);
        let shown = ended.snapshot(&python.sandbox).replace(&python.venv, "[VENV]");
        // The delay is random.
        let lines: Vec<&str> = shown.lines().map(|line| line.split("; next attempt in").next().unwrap_or_default()).collect();
        pages.push_str(&format!("== {title}\n{}\n\n", lines.join("\n")));
    };
    let ends = |how: &'static str| ["--retries", "1", "--arg", how];
    for how in ["how=exit-3", "how=exit-text", "how=_exit", "how=segv", "how=typo", "how=query"] {
        page(how, 1, &python.run("my_package.faults:ends", &ends(how)));
        assert_eq!(python.sandbox.runs()[0].0["attempts"], 2, "{how}: retried");
    }
    page("how=exit-0", 0, &python.run("my_package.faults:ends", &ends("how=exit-0")));
    for how in ["how=invalid", "how=reserved"] {
        page(how, 1, &python.run("my_package.faults:ends", &ends(how)));
    }
    page("how=upsert", 1, &python.run("my_package.faults:ends", &["--arg", "how=upsert"]));
    page("no module", 1, &python.run("their_package.jobs:run", &ends("a=b")));
    page("no function", 1, &python.run("my_package.jobs:nothing", &ends("a=b")));
    page("not a function", 1, &python.run("my_package.jobs:logger", &ends("a=b")));
    page("an async function", 1, &python.run("my_package.faults:later", &["--retries", "1"]));
    page("a module that cannot be imported", 1, &python.run("my_package.broken:job", &["--account", "a"]));
    page("an argument too many", 1, &python.run("my_package.jobs:extract_gmail", &ends("speed=9")));
    page("an argument too few", 1, &python.run("my_package.faults:fails_once", &["--retries", "1", "--account", "a"]));
    page("no entry", 1, &python.run("my_package.jobs", &ends("a=b")));
    page("since last", 1, &python.run("my_package.jobs:extract_gmail", &["--retries", "1", "--since", "last"]));
    let wrong = ["run-job", "--retries", "1", "python", "run", "--entry", "a:b", "--python"];
    page("no venv", 1, &[&wrong[..], &["."]].concat());
    page("another program", 1, &[&wrong[..], &["/bin/true"]].concat());
    page("no interpreter", 1, &[&wrong[..], &["python9"]].concat());
    insta::assert_snapshot!(pages);
    assert_eq!(python.sandbox.processes(), [0u32; 0]);
}

#[test]
fn a_failure_is_retried_and_a_stop_runs_the_finally_blocks() {
    let python = Python::new();
    let marker = format!("marker={}", python.sandbox.arg("tried"));
    let flags = ["--retries", "2", "--arg", &marker];
    python.sandbox.lorchestra(&python.run("my_package.faults:fails_once", &flags)).exits(0);
    assert_eq!(python.sandbox.runs()[0].0["attempts"], 2);

    let waiting = python.sandbox.path("waiting");
    let marker = format!("marker={}", waiting.display());
    for round in 0..5 {
        let _ = fs::remove_file(&waiting);
        let running = python.sandbox.start(&python.run("my_package.faults:waits", &["--arg", &marker]));
        eventually("the job waits", || waiting.exists());
        running.signal(Signal::TERM);
        running.wait().exits(143);
        assert_eq!(python.events().pop().unwrap().0, "cleaned.up", "round {round}");
    }
    assert_eq!(python.sandbox.processes(), [0u32; 0]);
}

/// A job that ignores SIGTERM is killed at the end of the grace period, also while it sends half an event to a worker that does not read.
#[test]
fn a_job_that_emits_on_and_on_ends_with_the_grace_period() {
    for how in ["cancelled", "timed out", "worker stopped", "events refused"] {
        let python = Python::new();
        let marker = python.sandbox.path("emitting");
        let marker_arg = format!("marker={}", marker.display());
        let timeout = if how == "timed out" { "2s" } else { "1h" };
        let flags = ["--arg", &marker_arg, "--timeout", timeout, "--grace", "1s"];
        let mut running = python.sandbox.start(&python.run("my_package.faults:stubborn", &flags));
        eventually("the job emits", || marker.exists());
        let worker = running.children()[0];
        let interpreter = processes::children(worker)[0];
        if how == "worker stopped" {
            processes::signal(worker, Signal::STOP);
        }
        if how == "events refused" {
            // As on a full disk: each event is an exception from now on.
            processes::limit_files(worker, 64 << 10);
            eventually("an event is refused", || python.sandbox.path("emitting.refused").exists());
        }
        if how != "timed out" {
            running.signal(Signal::TERM);
        }
        eventually("all processes have ended", || {
            running.has_ended() && !processes::is_alive(interpreter) && !processes::is_alive(worker)
        });
        let cause = if how == "timed out" { "timeout" } else { "cancelled" };
        assert_eq!(python.sandbox.run().cause(), cause, "{how}: {}", python.sandbox.run().message());
        assert_eq!(python.sandbox.processes(), [0u32; 0], "{how}");
    }
}

#[test]
fn threads_and_forked_processes_emit_at_the_same_time() {
    let python = Python::new();
    python.sandbox.lorchestra(&python.run("my_package.faults:crowd", &[])).exits(0);
    let events = python.events();
    for who in ["thread 0", "thread 1", "thread 2", "process 0", "process 1"] {
        let numbers: Vec<u64> =
            events.iter().filter(|(_, row)| row["who"] == who).map(|(_, row)| row["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "{who}");
    }
    assert_eq!(events.iter().filter(|(kind, _)| kind == "late").count(), 1, "of a thread that outlives the function");
}

#[test]
fn spawned_processes_emit_as_forked_ones_do() {
    let python = Python::new();
    python.sandbox.lorchestra(&python.run("my_package.faults:crowd_of_spawned", &[])).exits(0);
    let events = python.events();
    for who in ["spawn", "spawn/inner", "forkserver", "fork", "self"] {
        let numbers: Vec<u64> =
            events.iter().filter(|(_, row)| row["who"] == who).filter_map(|(_, row)| row["number"].as_u64()).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "{who}");
    }
    assert_eq!(events.iter().filter(|(kind, _)| kind == "refused").count(), 5, "an invalid event is an error there too");
}

/// The old tool's function writes to BigQuery with the job's client; what it reports about that becomes an event.
#[test]
fn upsert_objects_of_an_installed_old_tool_is_used() {
    let python = Python::new();
    let places = python.sandbox.path("old");
    let client = "import collections, json, os\n\
        UpsertResult = collections.namedtuple('UpsertResult', 'total_records inserted updated')\n\
        def log_event(**more): raise RuntimeError('not recorded by lorchestra')\n\
        def upsert_objects(*, objects, object_type, correlation_id, idem_key_fn, bq_client, **more):\n    \
            rows = [dict(idem_key=idem_key_fn(each), payload=each) for each in objects]\n    \
            bq_client.load_table_from_json(rows, 'raw_objects').result()\n    \
            log_event(event_type='upsert.completed', source_system='s', correlation_id=correlation_id, status='ok', bq_client=bq_client,\n        \
                payload={'total_records': len(rows)})\n    \
            return UpsertResult(len(rows), len(rows), 0)\n";
    let bigquery = "import json, os\nclass Client:\n    def load_table_from_json(self, rows, table):\n        \
        with open(os.environ['WRITTEN'], 'w') as file: json.dump({table: rows}, file)\n        return self\n    \
        def result(self): pass\n";
    for (file, text) in [
        ("lorchestra/__init__.py", ""),
        ("lorchestra/stack_clients/__init__.py", ""),
        ("lorchestra/stack_clients/event_client.py", client),
        ("google/cloud/bigquery.py", bigquery),
    ] {
        let path = places.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let written = python.sandbox.arg("written.json");
    let variables = [("PYTHONPATH", &*places.display().to_string()), ("WRITTEN", &*written)];
    python.sandbox.lorchestra_with(&variables, &python.run("my_package.faults:upserts", &[])).exits(0);
    let completed = json!({"total_records": 2, "_source": "s", "_status": "ok"});
    assert_eq!(python.events(), [("upsert.completed".to_owned(), completed)]);
    let rows: Value = serde_json::from_slice(&fs::read(&written).unwrap()).unwrap();
    assert_eq!(rows["raw_objects"][1], json!({"idem_key": "gmail:2", "payload": {"id": 2}}));
}

/// Each `since` is compared, to the microsecond, with the bookmark that the run before has stored.
#[test]
fn since_last_starts_where_the_last_successful_run_began() {
    let python = Python::new();
    let job = "def run(bq_client, **seen):\n    \
        from lorchestra.stack_clients.event_client import emit\n    emit('seen', seen, 'here', bq_client)\n    \
        if seen.get('fail'): raise ValueError\n";
    fs::write(python.sandbox.path("timed.py"), job).unwrap();
    let path = python.sandbox.path("").display().to_string();
    let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    let bookmark = || {
        let file = python.sandbox.data().join("python/bookmarks/timed:run~anna.json");
        serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap()["at"].clone()
    };
    // What the function received.
    let seen = |flags: &[&str], code: i32| {
        let flags = [&["--account", "anna"], flags].concat();
        python.sandbox.lorchestra_with(&[("PYTHONPATH", &path)], &python.run("timed:run", &flags)).exits(code);
        let (_, mut seen) = python.events().swap_remove(0);
        assert_eq!(seen.as_object_mut().unwrap().remove("_source"), Some(json!("here")));
        seen
    };
    // The bookmark that a successful run leaves: it is not before the run, and not after the function was called.
    let moved = || {
        let (at, run) = (bookmark(), &python.sandbox.runs()[0]);
        let events = python.sandbox.events_of(run.id());
        let called = &events.iter().find(|event| event.event_type() == "seen").unwrap().0["created_at"];
        let (started, called, at_time) = (time(&run.0["started_at"]), time(called), time(&at));
        assert!(started <= at_time && at_time <= called, "{started} ≤ {at_time} ≤ {called}");
        at
    };
    assert_eq!(seen(&["--since", "last:-30d"], 0), json!({"account": "anna", "since": "-30d"}));
    let first = moved();
    assert_eq!(seen(&["--since", "last"], 0), json!({"account": "anna", "since": first}));
    let second = moved();
    assert!(time(&second) > time(&first), "{second}, {first}");
    // A failed run, and one with times of its own, leave it.
    let failed = json!({"account": "anna", "since": second, "fail": "1"});
    assert_eq!(seen(&["--since", "last:-1d", "--arg", "fail=1"], 1), failed);
    let own = ["--since", "2024-01-01", "--until", "2024-02-01"];
    assert_eq!(seen(&own, 0), json!({"account": "anna", "since": own[1], "until": own[3]}));
    assert_eq!(bookmark(), second);
    assert_eq!(seen(&["--since", "last:-30d"], 0), json!({"account": "anna", "since": second}));
    assert!(time(&moved()) > time(&second));
}

#[test]
fn rows_for_the_table_of_events_become_events() {
    let python = Python::new();
    let names = [("EVENTS_BQ_DATASET", "events"), ("EVENTS_BQ_TABLE", "rows")];
    let ended = python.sandbox.lorchestra_with(&names, &python.run("my_package.faults:rows", &["--arg", "table=p.events.rows"]));
    ended.exits(0);
    let received = json!({"n": 1, "_source": "tap", "_status": "ok", "_event_id": "e-1"});
    let completed = json!({"n": 1, "_source": "tap", "_status": "ok"});
    assert_eq!(python.events(), [("mail.received".to_owned(), received), ("ingestion.completed".to_owned(), completed)]);

    let other = python.run("my_package.faults:rows", &["--arg", "table=events.others"]);
    let ended = python.sandbox.lorchestra_with(&names, &other).exits(1);
    assert!(ended.err().contains("raised RuntimeError"), "{}", ended.shown());
    assert!(python.log().contains("needs google-cloud-bigquery in the virtual environment"));
}

/// If the old tool is still installed, its other modules remain its own.
#[test]
fn the_event_client_of_an_installed_old_tool_is_not_used() {
    let python = Python::new();
    let old = python.sandbox.path("old");
    fs::create_dir_all(old.join("lorchestra/stack_clients")).unwrap();
    for (file, text) in [
        ("__init__.py", ""),
        ("config.py", "NAME = 'old'\n"),
        ("stack_clients/__init__.py", "from .event_client import emit\n"),
        ("stack_clients/event_client.py", "raise RuntimeError('the old client')\n"),
    ] {
        fs::write(old.join("lorchestra").join(file), text).unwrap();
    }
    let job = "from lorchestra import config\nfrom lorchestra.stack_clients import emit\n\
               def run(bq_client):\n    emit('seen', {'config': config.NAME}, 's', bq_client)\n";
    fs::write(old.join("old_job.py"), job).unwrap();
    let path = old.display().to_string();
    python.sandbox.lorchestra_with(&[("PYTHONPATH", &path)], &python.run("old_job:run", &[])).exits(0);
    assert_eq!(python.events(), [("seen".to_owned(), json!({"config": "old", "_source": "s"}))]);
}

#[test]
fn the_output_of_a_job_is_in_the_log_and_its_input_is_empty() {
    let python = Python::new();
    // A module in the working directory does not replace one of the standard library.
    fs::write(python.sandbox.path("json.py"), "raise RuntimeError('taken')\n").unwrap();
    python.sandbox.lorchestra(&python.run("my_package.faults:prints", &[])).exits(0);
    let log = python.sandbox.state().join("logs").join(python.sandbox.runs()[0].id()).join("1.out");
    assert_eq!(fs::read(log).unwrap(), b"out\n\xff\xfe raw\nerr\n");
}
