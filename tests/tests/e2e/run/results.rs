//! What a run leaves besides events: the result, artifacts, counters, the last progress; and what it does not leave, its temporary files.

use lorchestra_tests::{Fixture, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;

const SECRET: &str = "a-secret-of-the-test";

/// Runs `kit/produce`, which ends with this exit code. Returns its terminal event's payload.
#[track_caller]
fn produced(sandbox: &Sandbox, code: i32, flags: &[&str]) -> Value {
    let (marker, artifact) = (sandbox.arg("marker"), sandbox.arg("artifact.txt"));
    let args = ["run-job", "kit", "produce", "--marker", &marker, "--artifact", &artifact];
    sandbox.lorchestra_with(&[("TOKEN", SECRET)], &[&args, flags].concat()).exits(code);
    let events = sandbox.whole_events_of(&sandbox.runs()[0]);
    events.last().expect("a terminal event").payload().clone()
}

/// The temporary directory, which is gone.
#[track_caller]
fn assert_no_temporary_files(sandbox: &Sandbox) {
    let temp = sandbox.read("marker");
    assert!(temp.contains("/spool/") && !Path::new(&temp).exists(), "{temp}");
}

#[test]
fn a_result_is_in_the_terminal_event_and_shown() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    let end = produced(&sandbox, 0, &["--token", "env:TOKEN"]);
    assert_eq!(end["result"], json!({"attempt": 1, "token": "***"}), "secrets are masked");
    assert_eq!((&end["counters"], &end["progress"]), (&json!({"rows.read": 7}), &json!({"done": 7, "total": 9})));
    let artifact = sandbox.arg("artifact.txt");
    assert_eq!(end["artifacts"], json!([{"path": artifact, "bytes": 12}]));
    assert_no_temporary_files(&sandbox);

    let shown = sandbox.lorchestra(&["runs", "show", "last"]).exits(0);
    for line in [
        "result     {\"attempt\":1,\"token\":\"***\"}\n",
        "progress   7 of 9\n",
        "counter    7 rows.read\n",
        "artifact.txt (12 bytes)\n",
    ] {
        assert!(shown.out().contains(line), "{line}{}", shown.shown());
    }
    let json = sandbox.lorchestra(&["runs", "show", "last", "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(json["artifacts"], json!([{"path": artifact, "bytes": 12, "exists": true}]));
    assert_eq!((&json["result"]["attempt"], &json["counters"]["rows.read"]), (&json!(1), &json!(7)));
    let ran = sandbox
        .lorchestra(&["run-job", "--json", "kit", "produce", "--marker", &sandbox.arg("marker"), "--artifact", &artifact])
        .exits(0)
        .json("lorchestra.run-job/1");
    assert_eq!(ran["result"]["attempt"], 1);
}

/// Whatever ends the job, its last results are recorded, and its temporary files are gone.
#[test]
fn every_end_keeps_the_results_and_removes_temporary_files() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    for (flags, code) in [(&["--then", "fail"][..], 1), (&["--then", "abort"], 1)] {
        let end = produced(&sandbox, code, flags);
        assert_eq!((&end["result"]["attempt"], end["artifacts"].as_array().map(Vec::len)), (&json!(1), Some(1)), "{end}");
        assert_no_temporary_files(&sandbox);
    }
    // The counters of an aborted process may be a second old; those of a failed one are complete.
    assert_eq!(produced(&sandbox, 1, &["--then", "fail"])["counters"]["rows.read"], 7);
    let own = ["--timeout", "3s", "--grace", "1s", "--then", "wait"];
    let end = produced(&sandbox, 124, &own);
    assert_eq!((&end["cause"], &end["result"]["attempt"]), (&json!("timeout"), &json!(1)), "{end}");
    assert!(end["message"].as_str().is_some_and(|message| message.contains("within 3s")), "{end}");
    assert_no_temporary_files(&sandbox);
}

#[test]
fn a_retry_starts_with_no_results() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    let end = produced(&sandbox, 0, &["--retries", "1", "--then", "fail_at_first"]);
    assert_eq!((&end["result"]["attempt"], &end["counters"]["rows.read"]), (&json!(2), &json!(7)));
    assert_eq!(sandbox.read("artifact.txt"), "of attempt 2");
}

/// kill -9 of worker and supervisor: the next command records the results and removes the temporary files.
#[test]
fn killed_runs_leave_results_and_no_temporary_files() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    let (marker, artifact) = (sandbox.arg("marker"), sandbox.arg("artifact.txt"));
    let running = sandbox.start(&["run-job", "kit", "produce", "--marker", &marker, "--artifact", &artifact, "--then", "wait"]);
    eventually("the job fills its directory", || sandbox.path("marker").exists() && !sandbox.read("marker").is_empty());
    let temp = sandbox.read("marker");
    assert!(Path::new(&temp).join("below/locked/file").exists(), "{temp}");
    for worker in running.children() {
        lorchestra_tests::processes::signal(worker, Signal::KILL);
    }
    running.signal(Signal::KILL);
    drop(running);
    let json = sandbox.lorchestra(&["runs", "show", "last", "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!((&json["state"], &json["result"]["attempt"]), (&json!("failed"), &json!(1)), "{json}");
    assert_eq!(json["artifacts"][0]["path"], *artifact);
    assert_no_temporary_files(&sandbox);
}

/// A file that was replaced since, or that a newer run lists too, is not the old run's to remove.
#[test]
fn artifacts_are_removed_with_their_run() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    let produce = |name: &str| {
        let (marker, artifact) = (sandbox.arg("marker"), sandbox.arg(name));
        sandbox.lorchestra(&["run-job", "kit", "produce", "--marker", &marker, "--artifact", &artifact]).exits(0);
    };
    produce("old.txt");
    produce("changed.txt");
    produce("shared.txt");
    std::fs::write(sandbox.path("changed.txt"), "mine now, and longer").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    produce("shared.txt");
    sandbox.lorchestra(&["runs", "prune", "--older-than", "1s"]).exits(0);
    assert_eq!(sandbox.runs().len(), 1, "the others are removed");
    let exists = ["old.txt", "changed.txt", "shared.txt"].map(|name| sandbox.path(name).exists());
    assert_eq!(exists, [false, true, true]);
}

#[test]
fn results_over_a_limit_are_refused_with_the_reason() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    sandbox.lorchestra(&["run-job", "kit", "overdo"]).exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    let refused = events.iter().find(|event| event.event_type() == "refused").expect("the errors").payload().clone();
    let errors: Vec<&str> = refused["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap()).collect();
    let says = ["not a JSON object", "at most 65536", "\"/no/such/file\" cannot be read", "not the name of a counter"];
    assert!(errors.len() == 4 && errors.iter().zip(says).all(|(error, says)| error.contains(says)), "{errors:?}");
    assert!(events.last().unwrap().payload().get("result").is_none());
}

/// As docs/guides/jobs.md says: a context can be used by several threads.
#[test]
fn threads_share_a_context() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    sandbox.lorchestra(&["run-job", "kit", "spread"]).exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    let mut numbers: Vec<(u64, u64)> = events
        .iter()
        .filter(|event| event.event_type() == "number")
        .map(|event| (event.payload()["thread"].as_u64().unwrap(), event.payload()["n"].as_u64().unwrap()))
        .collect();
    numbers.sort_unstable();
    let all: Vec<(u64, u64)> = (0..4).flat_map(|thread| (0..250).map(move |n| (thread, n))).collect();
    assert_eq!(numbers, all);
    assert_eq!(events.last().unwrap().payload()["counters"]["numbers"], 1000);
}
