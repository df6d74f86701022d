//! Schedules: Temporal starts a job at its time, on the worker of its task queue.

use crate::harness::{Node, Server, eventually, temporal};
use std::fs;

#[test]
fn a_schedule_runs_its_job() {
    let server = Server::start();
    let node = Node::new();
    let _worker = node.worker(&server, "nightly", 1);
    let address = server.address();
    let run =
        |args: &[&str]| temporal(&args.iter().chain(&["--address", &address]).map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
    let create = ["schedule", "create", "--id", "nightly", "--cron", "0 2 * * *", "--time-zone", "Europe/Zurich"];
    let job = ["--task-queue", "nightly", "--address", &address, "--", "misbehave", "windowed", "--since", "last:-1d"];
    let all: Vec<String> = create.iter().chain(&job).map(|arg| (*arg).to_owned()).collect();
    let created = temporal(&all);
    assert!(created.status.success(), "{created:?}");
    let again = temporal(&all);
    assert_eq!(again.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is already a schedule nightly"), "{again:?}");
    assert!(server.ask(&["schedule", "describe", "--schedule-id", "nightly"]).contains("Europe/Zurich"));
    server.ask(&["schedule", "trigger", "--schedule-id", "nightly"]);
    eventually("the job has run", || node.runs().first().is_some_and(|run| run["state"] == "completed"));
    // A job that failed is not started again: its own retries are those of run-job.
    let create =
        ["schedule", "create", "--id", "failing", "--cron", "0 2 * * *", "--task-queue", "nightly", "--address", &address];
    let all: Vec<String> = create.iter().chain(&["--", "misbehave", "fail"]).map(|arg| (*arg).to_owned()).collect();
    assert!(temporal(&all).status.success());
    server.ask(&["schedule", "trigger", "--schedule-id", "failing"]);
    eventually("its workflow has ended", || server.ask(&["workflow", "list"]).contains("Failed"));
    let failed: Vec<_> = node.runs().into_iter().filter(|run| run["job"] == "fail").collect();
    assert!(failed.len() == 1 && failed[0]["state"] == "failed", "{failed:?}");
    let deleted = run(&["schedule", "delete", "--id", "nightly"]);
    assert!(deleted.status.success(), "{deleted:?}");
    let unknown = run(&["schedule", "delete", "--id", "nightly"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no schedule nightly"), "{unknown:?}");
}

#[test]
fn a_scheduled_run_whose_worker_is_lost_is_started_again() {
    let server = Server::start();
    let node = Node::new();
    let worker = node.worker(&server, "lost", 1);
    let (address, go) = (server.address(), node.path("go").display().to_string());
    let create =
        ["schedule", "create", "--id", "lost", "--cron", "0 2 * * *", "--heartbeat-timeout", "6s", "--task-queue", "lost"];
    let job = ["--address", &address, "--", "misbehave", "windowed", "--go", &go];
    let created = temporal(&create.iter().chain(&job).map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
    assert!(created.status.success(), "{created:?}");
    server.ask(&["schedule", "trigger", "--schedule-id", "lost"]);
    eventually("the job runs", || node.runs().len() == 1);
    worker.kill();
    eventually("nothing of it survives", || node.processes().is_empty());
    let _worker = node.worker(&server, "lost", 1);
    eventually("the job runs again", || node.runs().len() == 2);
    fs::write(&go, "").unwrap();
    eventually("its workflow has ended", || server.ask(&["workflow", "list"]).contains("Completed"));
    let mut states: Vec<String> = node.runs().iter().map(|run| run["state"].as_str().unwrap().to_owned()).collect();
    states.sort();
    assert_eq!(states, ["completed", "failed"]);
}
