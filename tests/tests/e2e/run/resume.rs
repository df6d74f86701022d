//! `backfill resume` and `run-group --rerun-failed`: what a killed command has left, and what a resume changes that is refused or stops early.

use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Starts windows of four days, two at once.
fn start(sandbox: &Sandbox, args: &[&str]) -> Running {
    let range = ["--from", "2024-02-01", "--to", "2024-02-05", "--every", "1d"];
    sandbox.start(&[&["backfill", "misbehave", "windowed"][..], &range, args].concat())
}

fn resume(sandbox: &Sandbox, args: &[&str]) -> Ended {
    sandbox.lorchestra(&[&["backfill", "resume", "last"], args].concat())
}

fn group(sandbox: &Sandbox) -> Value {
    sandbox.lorchestra(&["backfill", "show", "last", "--json"]).exits(0).json("lorchestra.group-show/1")
}

fn attempts(group: &Value) -> Vec<u64> {
    group["windows"].as_array().unwrap().iter().map(|window| window["attempt"].as_u64().unwrap()).collect()
}

fn running(sandbox: &Sandbox) -> usize {
    sandbox.runs().iter().filter(|run| run.state() == "running").count()
}

/// Two windows run on after the first command was killed; the second one resumes the group.
fn with_left_windows(args: &[&str]) -> (Sandbox, [Running; 2]) {
    let sandbox = sandbox();
    let killed = start(&sandbox, &[&["-j", "2"], args].concat());
    eventually("two run", || running(&sandbox) == 2);
    // Its output ends with that of its lanes.
    killed.signal(Signal::KILL);
    let resumed = sandbox.start(&["backfill", "resume", "last"]);
    eventually("the group is driven", || group(&sandbox)["state"] == "running");
    (sandbox, [killed, resumed])
}

#[test]
fn an_interrupt_stops_the_windows_that_a_killed_command_has_left() {
    for signal in [Signal::INT, Signal::TERM] {
        let (sandbox, [killed, resumed]) = with_left_windows(&["--then", "wait"]);
        resumed.signal(signal);
        let ended = resumed.wait().exits(128 + signal.as_raw());
        assert!(ended.err().contains("0 of 4 windows completed, 2 failed, 2 not run"), "{}", ended.shown());
        let runs = sandbox.runs();
        assert_eq!(runs.len(), 2, "{runs:?}");
        assert!(runs.iter().all(|run| run.cause() == "cancelled"), "{runs:?}");
        let group = group(&sandbox);
        assert_eq!([&group["running"], &group["failed"], &group["pending"]], [&json!(0), &json!(2), &json!(2)]);
        eventually("no process is left", || sandbox.processes().is_empty());
        killed.wait();
    }
}

/// The command that cancels waits for them; the one that is cancelled does not, and counts them apart.
#[test]
fn windows_that_still_run_are_not_counted_as_not_run() {
    let go = "/no/such/file";
    let (sandbox, [killed, resumed]) = with_left_windows(&["--go", go, "--grace", "15s"]);
    let cancel = sandbox.start(&["backfill", "cancel", "last"]);
    let ended = resumed.wait().exits(1);
    assert!(ended.err().contains("0 of 4 windows completed, 0 failed, 2 still running, 2 not run"), "{}", ended.shown());
    cancel.wait().exits(0);
    killed.wait();
    assert_eq!(running(&sandbox), 0);
}

#[test]
fn a_refused_resume_changes_nothing() {
    let sandbox = sandbox();
    start(&sandbox, &["--then", "fail", "-j", "1", "--max-failures", "2"]).wait().exits(1);
    sandbox.lorchestra(&["backfill", "cancel", "last"]).exits(0);
    let before = group(&sandbox);
    assert_eq!([&before["state"], &before["failed"], &before["pending"]], [&json!("cancelled"), &json!(2), &json!(2)]);
    std::fs::remove_file(sandbox.plugins().join(Fixture::Misbehave.file_name())).unwrap();
    let refused = resume(&sandbox, &["--max-failures", "9"]).exits(1);
    assert!(refused.err().contains("Unknown package: misbehave"), "{}", refused.shown());
    assert_eq!(group(&sandbox), before);
}

/// As in a group that is started: the other packages have nothing to do with it.
#[test]
fn a_missing_package_refuses_only_its_own_jobs() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    let job = |job: &str| format!("[[stage.jobs]]\njob = \"{job}\"\n");
    let leak = "params = { token = \"env:TOKEN\", way = \"error\" }\n";
    std::fs::write(sandbox.path("nightly.toml"), format!("[[stage]]\n{}{leak}{}", job("kit/leak"), job("misbehave/fail")))
        .unwrap();
    let file = sandbox.arg("nightly.toml");
    let environment = [("TOKEN", "a-secret-value")];
    sandbox.lorchestra_with(&environment, &["run-group", &file]).exits(1);
    assert_eq!(sandbox.runs().len(), 2);
    std::fs::remove_file(sandbox.plugins().join(Fixture::Kit.file_name())).unwrap();
    let again = sandbox.lorchestra_with(&environment, &["run-group", &file, "--rerun-failed"]).exits(1);
    assert!(again.err().contains("Unknown package: kit"), "{}", again.shown());
    assert!(again.err().contains("0 of 2 jobs completed, 2 failed"), "{}", again.shown());
    let jobs: Vec<String> = sandbox.runs().iter().map(|run| run.0["job"].as_str().unwrap().to_owned()).collect();
    assert_eq!(jobs.iter().filter(|job| *job == "fail").count(), 2, "{jobs:?}");
    // None can run.
    std::fs::remove_file(sandbox.plugins().join(Fixture::Misbehave.file_name())).unwrap();
    sandbox.lorchestra(&["run-group", &file, "--rerun-failed"]).exits(1);
    assert_eq!(sandbox.runs().len(), jobs.len());
}

#[test]
fn windows_that_a_resume_does_not_reach_have_failed_as_before() {
    let sandbox = sandbox();
    start(&sandbox, &["--then", "fail"]).wait().exits(1);
    let stopped = resume(&sandbox, &["-j", "1", "--max-failures", "1"]).exits(1);
    assert!(stopped.err().contains("0 of 4 windows completed, 4 failed (group"), "{}", stopped.shown());
    let group = group(&sandbox);
    assert_eq!([&group["failed"], &group["pending"], &group["state"]], [&json!(4), &json!(0), &json!("failed")]);
    assert_eq!(attempts(&group), [2, 1, 1, 1]);
    assert!(group["windows"].as_array().unwrap().iter().all(|window| window["message"] == "not this window"), "{group}");
    let shown = sandbox.lorchestra(&["backfill", "show", "last"]).exits(0);
    assert_eq!(shown.out().matches("error: not this window").count(), 4, "{}", shown.shown());
    resume(&sandbox, &["--only", "missing"]).exits(1);
    assert_eq!(sandbox.runs().len(), 5, "none of them has never run");
}

/// A new attempt waits for another run of the window, and is interrupted before its own run begins.
#[test]
fn a_new_attempt_that_does_not_begin_does_not_hide_the_failure() {
    for signal in [Signal::TERM, Signal::KILL] {
        let sandbox = sandbox();
        let days = ["--from", "2024-02-01", "--to", "2024-02-02", "--every", "1d", "--go", "/no/such/file", "--grace", "100ms"];
        let first = sandbox.start(&[&["backfill", "misbehave", "windowed"][..], &days].concat());
        eventually("it runs", || running(&sandbox) == 1);
        sandbox.lorchestra(&["backfill", "cancel", "last"]).exits(0);
        first.wait().exits(1);
        let failed = group(&sandbox)["windows"][0].clone();
        assert_eq!([&failed["state"], &failed["cause"]], [&json!("failed"), &json!("cancelled")]);
        let spec = sandbox.lorchestra(&["runs", "show", "last", "--spec"]).exits(0);
        std::fs::write(sandbox.path("spec.json"), spec.out()).unwrap();
        let other = sandbox.start(&["run-job", "--spec", &sandbox.arg("spec.json")]);
        eventually("the other one runs", || running(&sandbox) == 1);
        let resumed = sandbox.start(&["backfill", "resume", "last"]);
        eventually("the new attempt waits", || group(&sandbox)["windows"][0]["attempt"] == 2);
        if signal == Signal::KILL {
            eventually("a lane has it", || !resumed.children().is_empty());
            let lanes = resumed.children();
            resumed.signal(signal);
            lanes.into_iter().for_each(processes::kill);
            resumed.wait();
        } else {
            resumed.signal(signal);
            resumed.wait().exits(143);
        }
        let window = group(&sandbox)["windows"][0].clone();
        let (state, attempt) = if signal == Signal::KILL { ("pending", 2) } else { ("failed", 1) };
        assert_eq!([&window["state"], &window["attempt"]], [&json!(state), &json!(attempt)]);
        assert_eq!([&window["cause"], &window["run_id"]], [&failed["cause"], &failed["run_id"]]);
        let shown = sandbox.lorchestra(&["backfill", "show", "last"]).exits(0);
        assert!(shown.out().lines().any(|line| line.contains(state) && line.contains("cancelled")), "{}", shown.shown());
        resume(&sandbox, &["--only", "missing"]).exits(1);
        assert_eq!(group(&sandbox)["windows"][0], window, "it is not one that has never run");
        other.signal(Signal::TERM);
        other.wait().exits(143);
    }
}

/// A limit of failures that a resume sets is that of the group: it decides whether the group has failed, and holds for later resumes.
#[test]
fn a_resume_keeps_its_limits() {
    let sandbox = sandbox();
    let go = sandbox.arg("go");
    let interrupted = start(&sandbox, &["-j", "1", "--go", &go, "--then", "fail", "--grace", "100ms"]);
    eventually("one runs", || running(&sandbox) == 1);
    interrupted.signal(Signal::INT);
    interrupted.wait().exits(130);
    assert_eq!(group(&sandbox)["state"], "interrupted");
    std::fs::write(&go, "").unwrap();
    let stopped = resume(&sandbox, &["-j", "1", "--max-failures", "2", "--json"]).exits(1).json("lorchestra.group/1");
    let group = group(&sandbox);
    for group in [&stopped, &group] {
        assert_eq!([&group["state"], &group["max_failures"], &group["pending"]], [&json!("failed"), &json!(2), &json!(2)]);
    }
    resume(&sandbox, &["--only", "missing"]).exits(1);
    resume(&sandbox, &[]).exits(1);
    assert_eq!(sandbox.runs().len(), 1 + 2 + 2 + 2);
}

#[test]
fn a_removed_group_that_could_be_resumed_is_counted() {
    let sandbox = sandbox();
    start(&sandbox, &["--then", "fail"]).wait().exits(1);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let young = sandbox.lorchestra(&["runs", "prune", "--dry-run"]).exits(0);
    assert_eq!(young.out(), "would remove 0 runs and the logs of 0\n");
    let prune = |flags: &[&str]| sandbox.lorchestra(&[&["runs", "prune", "--older-than", "1s"], flags].concat()).exits(0);
    let counted = prune(&["--dry-run"]);
    assert!(counted.out().ends_with(", and 1 group\n"), "{}", counted.shown());
    assert!(counted.err().contains("1 group with members that have not completed could still be resumed"), "{}", counted.shown());
    assert_eq!(group(&sandbox)["failed"], 4);
    let removed = prune(&["--json"]);
    assert!(removed.err().contains("1 group with members that have not completed cannot be resumed"), "{}", removed.shown());
    let object = removed.json("lorchestra.runs-prune/1");
    assert_eq!([&object["groups"], &object["resumable_groups"]], [&json!(1), &json!(1)]);
    sandbox.lorchestra(&["backfill", "show", "last"]).exits(1);
}
