//! The `on_failure` command: called once for each failed run, with JSON on stdin, without effect on the outcome.

use lorchestra_tests::{Fixture, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;

/// A sandbox whose `on_failure` appends its stdin to the file `failures`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Constructor]);
    sandbox.configure(&format!("on_failure = \"cat >> {}\"", sandbox.arg("failures")));
    sandbox
}

fn failures(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.read("failures").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn is_called_once_for_a_failed_run_and_not_for_others() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "typed", "--small", "x"]).exits(2);
    sandbox.lorchestra(&["run-job", "misbehave", "unknown"]).exits(1);
    assert_eq!(sandbox.read("failures"), "", "no run has failed");
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--then", "fail", "--account", "me"]).exits(1);
    let failures = failures(&sandbox);
    assert_eq!(failures.len(), 1);
    let failure = &failures[0];
    assert_eq!(failure["schema"], "lorchestra.hook/1");
    let run = &sandbox.runs()[0];
    for key in ["run_id", "package", "job", "account", "host", "cause", "message"] {
        assert_eq!(failure[key], run.0[key], "{key}");
        assert!(!failure[key].is_null(), "{key}");
    }
    // The command that shows more, but no parameters: they may be personal data.
    assert_eq!(failure["logs"], format!("lorchestra runs logs {}", run.id()));
    assert!(failure.get("params").is_none() && failure.get("parameters").is_none());
}

#[test]
fn is_called_for_every_way_to_fail() {
    let sandbox = sandbox();
    let endings: [(&[&str], i32, &str); 5] = [
        (&["misbehave", "panic_now"], 1, "panic"),
        (&["misbehave", "abort"], 1, "signal"),
        (&["misbehave", "exit", "--code", "0"], 1, "exit"),
        (&["misbehave", "wait", "--timeout", "1s"], 124, "timeout"),
        (&["constructor", "loaded"], 126, "load"),
    ];
    for (n, (args, code, cause)) in endings.iter().enumerate() {
        let args = [&["run-job"], *args].concat();
        sandbox.lorchestra_with(&[("CONSTRUCTOR_FAULT", "abort")], &args).exits(*code);
        let failures = failures(&sandbox);
        assert_eq!(failures.len(), n + 1);
        assert_eq!(failures[n]["cause"], *cause);
    }
}

#[test]
fn is_called_once_for_a_run_that_recovery_closed() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    running.signal(Signal::KILL);
    drop(running);
    assert_eq!(sandbox.read("failures"), "");
    for _ in 0..2 {
        sandbox.lorchestra(&["runs", "list"]).exits(0);
        let failures = failures(&sandbox);
        assert_eq!(failures.len(), 1);
        assert_eq!((&failures[0]["cause"], &failures[0]["job"]), (&"abandoned".into(), &"ignore_term".into()));
    }
}

/// The bookmark is read after such runs were closed, and no run is closed twice.
#[test]
fn is_called_for_a_run_closed_by_one_that_does_not_start() {
    let sandbox = sandbox();
    sandbox.configure("on_failure = \"echo called\"");
    let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    running.signal(Signal::KILL);
    drop(running);
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "typed", "--since", "last"]).exits(2);
    // Last, after the user has seen the outcome.
    let order = ["was closed as abandoned", "has no bookmark", "\ncalled\n"].map(|text| ended.err().find(text));
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{}", ended.shown());
    assert_eq!(ended.err().matches("called").count(), 1, "{}", ended.shown());
}

#[test]
fn affects_neither_outcome_nor_output() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for (command, warned) in [
        ("exit 9", true),
        ("kill -9 $$", true),
        ("no-such-command-anywhere", true),
        // Does not read its stdin.
        ("exec 0<&-; exit 0", false),
        ("echo said on stdout; echo said on stderr >&2", false),
    ] {
        sandbox.configure(&format!("on_failure = {command:?}"));
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
        assert_eq!(ended.out(), "", "{}", ended.shown());
        assert_eq!(ended.err().contains("warning: on_failure: the command ended with"), warned, "{}", ended.shown());
        assert_eq!(sandbox.runs()[0].cause(), "error");
    }
    let ended = sandbox.lorchestra(&["run-job", "--json", "misbehave", "fail"]).exits(1);
    ended.json("lorchestra.run-job/1");
    assert!(ended.err().contains("said on stdout"), "{}", ended.shown());
}

/// A command that itself runs a failing job: it is not called for that one.
#[test]
fn does_not_call_itself() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let binary = lorchestra_tests::built::lorchestra().display().to_string();
    let failures = sandbox.arg("failures");
    sandbox.configure(&format!("on_failure = \"echo called >> {failures}; {binary} run-job misbehave fail_permanently; true\""));
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    assert_eq!(sandbox.read("failures"), "called\n");
    assert_eq!(sandbox.runs().len(), 2, "the command ran its own job");
}

#[test]
fn a_long_message_is_shortened_and_need_not_be_read() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "fail_with", "--message", &"m".repeat(100_000)]).exits(1);
    let message = failures(&sandbox)[0]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("mmm") && message.ends_with(" …") && message.len() < 3000, "{} bytes", message.len());
}

/// Without the signal it would take its 30 s; the job's outcome does not change.
#[test]
fn a_signal_ends_it_and_not_the_outcome() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure(&format!("on_failure = \"echo $$ > {}; exec sleep 1000\"", sandbox.arg("called")));
    let running = sandbox.start(&["run-job", "misbehave", "fail"]);
    eventually("the command runs", || sandbox.read("called").ends_with('\n'));
    running.signal(Signal::TERM);
    let ended = running.wait().exits(1);
    assert!(ended.err().contains("the command was killed: lorchestra received a signal"), "{}", ended.shown());
    let command = sandbox.read("called").trim().parse().unwrap();
    assert!(!lorchestra_tests::processes::is_alive(command));
}
