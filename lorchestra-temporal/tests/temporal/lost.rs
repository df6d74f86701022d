//! Workers that die, freeze and come back.

use crate::harness::{Group, Node, Server, effective, eventually, signal, tree};
use std::fs;
use std::time::Duration;

/// A group of one window, which waits for the file `go`.
fn waiting(server: &Server, node: &Node) -> Group {
    let group = Group::plan(server, node, 1, &[]);
    let go = group.path("go").display().to_string();
    group.change(|spec| spec["params"]["go"] = go.clone().into());
    group
}

fn states(node: &Node) -> Vec<String> {
    node.runs().iter().map(|run| run["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_processes_of_a_killed_worker_end_and_its_window_runs_elsewhere() {
    let server = Server::start();
    let nodes = [Node::new(), Node::new()];
    let group = waiting(&server, &nodes[0]);
    group.submit("killed", &[]);
    let worker = nodes[0].worker(&server, "killed", 1);
    eventually("the window runs", || !nodes[0].runs().is_empty());
    // Worker, run-window and the job's process at least.
    assert!(nodes[0].processes().len() >= 3, "{:?}", nodes[0].processes());
    worker.kill();
    eventually("nothing of it survives", || nodes[0].processes().is_empty());
    assert_eq!(nodes[0].runs()[0]["cause"], "cancelled");
    let _other = nodes[1].worker(&server, "killed", 1);
    eventually("the window runs elsewhere", || !nodes[1].runs().is_empty());
    fs::write(group.path("go"), "").unwrap();
    let result = group.result(Duration::from_secs(60));
    assert_eq!((&result["completed"], &result["failed"]), (&1.into(), &0.into()), "{result}");
    assert_eq!(group.windows()[0]["attempt"], 2);
    assert_eq!(effective(&nodes).len(), 1);
}

#[test]
fn a_frozen_node_that_comes_back_is_superseded() {
    let server = Server::start();
    let nodes = [Node::new(), Node::new()];
    let group = waiting(&server, &nodes[0]);
    group.submit("frozen", &[]);
    let worker = nodes[0].worker(&server, "frozen", 1);
    eventually("the window runs", || !nodes[0].runs().is_empty());
    let frozen = tree(worker.id());
    assert!(frozen.len() >= 3, "{frozen:?}");
    frozen.iter().for_each(|pid| signal(*pid, "STOP"));
    let _other = nodes[1].worker(&server, "frozen", 1);
    eventually("the window runs elsewhere too", || !nodes[1].runs().is_empty());
    fs::write(group.path("go"), "").unwrap();
    let result = group.result(Duration::from_secs(60));
    assert_eq!(result["completed"], 1, "{result}");
    // First the run, so that its end is not a cancellation by the worker, whose report is refused.
    frozen.iter().skip(1).for_each(|pid| signal(*pid, "CONT"));
    eventually("the run ends", || states(&nodes[0]) == ["superseded"]);
    worker.signal("CONT");
    assert_eq!(states(&nodes[1]), ["completed"]);
    eventually("both are delivered", || {
        let events = nodes[0].events();
        events.iter().any(|event| event["event_type"] == "job.superseded")
    });
    assert!(effective(&nodes).values().all(|runs| *runs == 1));
    assert_eq!(group.windows()[0]["attempt"], 2);
}

#[test]
fn a_worker_that_is_stopped_in_order_hands_its_windows_over() {
    let server = Server::start();
    let nodes = [Node::new(), Node::new()];
    let group = waiting(&server, &nodes[0]);
    group.submit("ended", &[]);
    let mut worker = nodes[0].worker(&server, "ended", 1);
    eventually("the window runs", || !nodes[0].runs().is_empty());
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));
    assert!(nodes[0].processes().is_empty());
    assert_eq!(nodes[0].runs()[0]["cause"], "cancelled");
    fs::write(group.path("go"), "").unwrap();
    let _other = nodes[1].worker(&server, "ended", 1);
    assert_eq!(group.result(Duration::from_secs(60))["completed"], 1);
    assert_eq!(group.windows()[0]["attempt"], 2);
}

#[test]
fn a_server_that_loses_its_database_gets_only_the_missing_windows_again() {
    let server = Server::start();
    let node = Node::new();
    let group = Group::plan(&server, &node, 3, &[]);
    group.submit("lost", &[]);
    let worker = node.worker(&server, "lost", 2);
    assert_eq!(group.result(Duration::from_secs(60))["completed"], 3);
    // It is complete: nothing starts.
    assert_eq!(group.submit("lost", &[])["state"], "complete");
    worker.kill();
    drop(server);
    fs::remove_file(group.path("claims").join(&group.id).join("1")).unwrap();
    let server = Server::start();
    let mut group = group;
    group.move_to(&server);
    let submitted = group.submit("lost", &[]);
    assert_eq!((&submitted["state"], &submitted["complete"]), (&"submitted".into(), &2.into()), "{submitted}");
    let _worker = node.worker(&server, "lost", 2);
    let result = group.result(Duration::from_secs(60));
    assert_eq!(result["completed"], 3, "{result}");
    assert_eq!(node.runs().len(), 4);
}

#[test]
fn a_destination_that_is_down_is_waited_for() {
    let server = Server::start();
    let nodes = [Node::new()];
    let group = Group::plan(&server, &nodes[0], 2, &[]);
    fs::rename(nodes[0].path("events"), nodes[0].path("elsewhere")).unwrap();
    group.submit("undelivered", &["--window-flag=--delivery-timeout=1s"]);
    let _worker = nodes[0].worker(&server, "undelivered", 2);
    eventually("windows are started again", || nodes[0].log().matches("exit code 69").count() >= 3);
    assert_eq!(group.claims(), 0);
    fs::rename(nodes[0].path("elsewhere"), nodes[0].path("events")).unwrap();
    assert_eq!(group.result(Duration::from_secs(60))["completed"], 2);
    let view = effective(&nodes);
    assert!(view.len() == 2 && view.values().all(|runs| *runs == 1), "{view:?}");
}
