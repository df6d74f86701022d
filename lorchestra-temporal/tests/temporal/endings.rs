//! How groups end: cancelled, failed, resumed; and what `watch` prints.

use crate::harness::{Group, Node, Server, effective, eventually};
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_cancelled_group_ends_within_the_grace_period_and_can_be_resumed() {
    let server = Server::start();
    let nodes = [Node::new()];
    let group = Group::plan(&server, &nodes[0], 8, &["--then", "wait"]);
    group.submit("cancelled", &["--jobs", "3"]);
    let worker = nodes[0].worker(&server, "cancelled", 3);
    eventually("three windows run", || nodes[0].runs().len() == 3);
    let begun = Instant::now();
    assert!(group.temporal(&["cancel"]).status.success());
    let result = group.result(Duration::from_secs(60));
    // A heartbeat, the grace period of 2 s, and what a busy machine takes.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!((&result["cancelled"], &result["completed"]), (&8.into(), &0.into()), "{result}");
    assert_eq!(group.temporal(&["watch"]).status.code(), Some(1));
    assert!(nodes[0].runs().iter().all(|run| run["cause"] == "cancelled"), "{:?}", nodes[0].runs());
    assert_eq!(nodes[0].processes(), [worker.id()]);
    assert_eq!(group.claims(), 0);
    // It has ended: cancelling again changes nothing.
    assert!(group.temporal(&["cancel"]).status.success());
    // Now they can complete.
    group.change(|spec| spec["params"]["then"] = "return".into());
    assert_eq!(group.submit("cancelled", &["--jobs", "3"])["state"], "submitted");
    assert_eq!(group.result(Duration::from_secs(60))["completed"], 8);
    assert_eq!(effective(&nodes).len(), 8);
}

#[test]
fn the_failures_of_one_account_do_not_stop_the_others() {
    let server = Server::start();
    let nodes = [Node::new()];
    let group = Group::plan(&server, &nodes[0], 5, &["--account", "anna", "--account", "bert", "--account", "carla"]);
    group.change(|spec| {
        if spec["account"] == "bert" {
            spec["params"]["then"] = "fail".into();
        }
    });
    let _worker = nodes[0].worker(&server, "failing", 3);
    group.submit("failing", &["--jobs", "4", "--per-account", "2"]);
    let watched = group.temporal(&["watch", "--json"]);
    assert_eq!(watched.status.code(), Some(1), "{watched:?}");
    let result = group.result(Duration::from_secs(5));
    assert_eq!((&result["completed"], &result["failed"]), (&10.into(), &5.into()), "{result}");
    let failure = &result["failures"][0];
    assert_eq!((&failure["exit_code"], &failure["attempt"]), (&1.into(), &1.into()), "a failed job does not run again");
    assert!(failure["message"].as_str().unwrap().contains("not this window"), "{failure}");
    // The last line of each window is its state.
    let text = String::from_utf8_lossy(&watched.stdout).into_owned();
    let mut last = vec![String::new(); 15];
    for line in text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        last[usize::try_from(line["index"].as_u64().unwrap()).unwrap()] = line["state"].as_str().unwrap().to_owned();
    }
    assert_eq!(last.iter().filter(|state| *state == "failed").count(), 5, "{last:?}");
    assert_eq!(last.iter().filter(|state| *state == "completed").count(), 10, "{last:?}");
    assert_eq!(effective(&nodes).len(), 10);
    // Only what has failed runs again.
    group.change(|spec| spec["params"]["then"] = "return".into());
    let submitted = group.submit("failing", &[]);
    assert_eq!(submitted["complete"], 10, "{submitted}");
    assert_eq!(group.result(Duration::from_secs(60))["completed"], 15);
    assert_eq!(nodes[0].runs().len(), 20);
}

#[test]
fn windows_of_an_account_run_side_by_side_only_up_to_its_limit() {
    let server = Server::start();
    let nodes = [Node::new()];
    let group = Group::plan(&server, &nodes[0], 4, &["--account", "anna", "--account", "bert"]);
    let go = group.path("go").display().to_string();
    group.change(|spec| spec["params"]["go"] = go.clone().into());
    let _worker = nodes[0].worker(&server, "limits", 8);
    group.submit("limits", &["--jobs", "8", "--per-account", "1"]);
    // A second submission attaches.
    assert_eq!(group.submit("limits", &["--jobs", "8"])["state"], "running");
    let running = || group.windows().iter().filter(|window| window["state"] == "running").count();
    eventually("one window of each account runs", || running() == 2);
    // Longer than the heartbeat timeout: a window that runs is not started again.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!((running(), nodes[0].runs().len()), (2, 2), "{}", nodes[0].log());
    assert_eq!(group.temporal(&["collect"]).status.code(), Some(75));
    fs::write(group.path("go"), "").unwrap();
    assert_eq!(group.result(Duration::from_secs(60))["completed"], 8);
    assert!(group.windows().iter().all(|window| window["attempt"] == 1), "{:?}", group.windows());
}
