//! What is printed when something is missing: one sentence with what to do.

use crate::harness::{Group, Node, Server, temporal};
use std::time::Duration;

#[track_caller]
fn fails(args: &[&str], code: i32, error: &str, hint: &str) {
    let output = temporal(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.lines().count() <= 3 && text.contains(error) && text.contains(hint), "{text}");
}

#[test]
fn what_is_missing_is_named() {
    let nowhere = ["--address", "127.0.0.1:1"];
    let unreachable = "Temporal cannot be reached at http://127.0.0.1:1: Connection refused";
    for command in [&["watch", "--group", "g"][..], &["cancel", "--group", "g"], &["worker", "--lorchestra", "/bin/true"]] {
        fails(&[command, &nowhere].concat(), 69, unreachable, "\n  start the server");
    }
    let no_program = ["worker", "--lorchestra", "/nowhere/lorchestra"];
    fails(&[&no_program[..], &nowhere].concat(), 127, "/nowhere/lorchestra: there is no such file", "\n  install lorchestra");
    fails(&["submit", "--plan", "/nowhere/plan", "--claims", "c"], 2, "/nowhere/plan: No such file", "");
    fails(&["submit", "--plan", "/etc/passwd", "--claims", "c"], 2, "not a plan file", "\n  write it with");

    let server = Server::start();
    let address = server.address();
    let namespace = ["watch", "--group", "g", "--namespace", "elsewhere", "--address", &address];
    fails(&namespace, 69, "has no namespace \"elsewhere\"", "temporal operator namespace create");
    for command in ["watch", "collect", "cancel"] {
        fails(&[command, "--group", "g", "--address", &address], 66, "Temporal does not know group g", "\n  submit it");
    }

    let node = Node::new();
    let group = Group::plan(&server, &node, 1, &[]);
    let other =
        ["submit", "--plan", group.path("plan.jsonl").to_str().unwrap(), "--claims", "c", "--group", "other"].map(str::to_owned);
    assert_eq!(temporal(&other).status.code(), Some(2));
    std::fs::write(group.path("windows"), "0\n1\n").unwrap();
    let windows = ["submit", "--plan", other[2].as_str(), "--claims", "c", "--windows", group.path("windows").to_str().unwrap()]
        .map(str::to_owned);
    let refused = temporal(&windows);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("\"1\" is not the index of one of the 1 windows"), "{refused:?}");
    group.submit("messages", &[]);
    let silent = group.temporal(&["watch", "--once"]);
    assert_eq!(silent.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&silent.stderr).contains("no worker answers for this group"));
    // The node cannot run the window: a few starts, then it fails with the reason.
    std::fs::remove_file(node.path(".local/share/lorchestra/plugins/libmisbehave.so")).unwrap();
    let _worker = node.worker(&server, "messages", 1);
    let result = group.result(Duration::from_secs(60));
    assert_eq!(result["failed"], 1, "{result}");
    let failure = &result["failures"][0];
    assert!(failure["message"].as_str().unwrap().contains("Unknown package: misbehave"), "{result}");
    assert_eq!(failure["attempt"], 5, "other nodes might have it");
}
