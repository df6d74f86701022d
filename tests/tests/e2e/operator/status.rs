//! `status` shows which jobs are failing or stale, and exits with 1 if there is one.

use lorchestra_tests::{Fixture, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn status(sandbox: &Sandbox, args: &[&str], code: i32) -> Value {
    sandbox.lorchestra(&[&["status", "--json"], args].concat()).exits(code).json("lorchestra.status/1")
}

/// Returns the status words of all jobs, with their accounts.
fn words(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let jobs = status["jobs"].as_array().unwrap().iter();
    jobs.map(|job| format!("{} {} {}", text(&job["job"]), text(&job["account"]), text(&job["status"]))).collect()
}

#[test]
fn a_failure_after_the_last_success_is_failing_until_the_next() {
    let sandbox = sandbox();
    let empty = sandbox.lorchestra(&["status"]).exits(0);
    assert!(empty.err().contains("No job has run yet (state directory "), "{}", empty.shown());
    for account in ["anna", "bert"] {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", account]).exits(0);
    }
    assert_eq!(words(&status(&sandbox, &[], 0)), ["numbered anna ok", "numbered bert ok"]);
    for _ in 0..3 {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "anna", "--then", "fail"]).exits(1);
    }
    let failing = status(&sandbox, &[], 1);
    assert_eq!(words(&failing), ["numbered anna failing", "numbered bert ok"]);
    let anna = &failing["jobs"][0];
    assert_eq!((&anna["failures_in_row"], &anna["failure"]["cause"]), (&3.into(), &"error".into()));
    assert_eq!(anna["last_success"]["state"], "completed");
    assert!(anna["usual_ms"].as_u64().is_some() && anna["last_success_age_s"].as_u64().is_some(), "{anna}");
    let shown = sandbox.lorchestra(&["status"]).exits(1);
    let run = &sandbox.runs()[0];
    let reason = format!("(run {}) error: failed after the last number", run.short());
    assert!(shown.out().contains(&reason) && shown.err() == "1 of 2 jobs need attention.\n", "{}", shown.shown());
    assert!(shown.out().lines().all(|line| line.chars().count() <= 80), "{}", shown.shown());
    // A part of them.
    status(&sandbox, &["misbehave/numbered"], 1);
    assert_eq!(words(&status(&sandbox, &["other"], 0)).len(), 0);
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "anna"]).exits(0);
    assert_eq!(words(&status(&sandbox, &[], 0)), ["numbered anna ok", "numbered bert ok"]);
}

#[test]
fn an_expected_run_that_does_not_come_is_stale() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.configure("[job.\"misbehave/noop\"]\nexpect_every = \"1d\"\n[job.\"misbehave/traced\"]\nexpect_every = \"1h\"\n");
    // One has just completed; the other has never run.
    assert_eq!(words(&status(&sandbox, &[], 1)), ["noop - ok", "traced - stale"]);
    let shown = sandbox.lorchestra(&["status"]).exits(1);
    assert!(shown.out().contains("never") && shown.out().contains("expected every 1h"), "{}", shown.shown());
    sandbox.configure("[job.\"misbehave/noop\"]\nexpect_every = \"1s\"\n");
    eventually("it is stale", || sandbox.lorchestra(&["status"]).code() == Some(1));
    sandbox.configure("");
    assert_eq!(words(&status(&sandbox, &["--stale", "1h"], 0)), ["noop - ok"]);
    assert_eq!(words(&status(&sandbox, &["--stale", "1s"], 1)), ["noop - stale"]);
    sandbox.configure("[job.\"misbehave/noop\"]\nexpect_every = \"0s\"\n");
    sandbox.lorchestra(&["status"]).exits(78);
}

#[test]
fn refused_runs_count_unless_another_run_was_active() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("it is recorded", || sandbox.runs().len() == 1);
    sandbox.lorchestra(&["run-job", "misbehave", "wait"]).exits(75);
    assert_eq!(words(&status(&sandbox, &[], 0)), ["wait - running"]);
    running.signal(Signal::TERM);
    running.wait().exits(143);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    std::fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(1);
    let dead = status(&sandbox, &[], 1);
    assert_eq!(words(&dead), ["noop - failing", "wait - failing"]);
    assert_eq!(dead["jobs"][0]["failure"]["state"], "refused");
}
