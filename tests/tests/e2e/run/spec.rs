//! Run specs: printed, stored, run again; and runs found again by the id that the caller chose.

use lorchestra_tests::{Fixture, Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

const ID: &str = "8d9f6a52-8c0e-4a8e-9d0c-0f2b6a1c7e11";

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// The spec for these arguments, as a file in the sandbox.
fn plan(sandbox: &Sandbox, args: &[&str]) -> Value {
    let ended = sandbox.lorchestra(&[&["run-job", "--dry-run", "--json"], args].concat()).exits(0);
    let spec = ended.json("lorchestra.run-spec/1");
    write(sandbox, &spec);
    spec
}

fn write(sandbox: &Sandbox, spec: &Value) {
    std::fs::write(sandbox.path("spec.json"), spec.to_string()).unwrap();
}

fn run_spec(sandbox: &Sandbox, flags: &[&str], code: i32) -> lorchestra_tests::Ended {
    sandbox.lorchestra(&[&["run-job", "--spec", &sandbox.arg("spec.json")], flags].concat()).exits(code)
}

#[test]
fn a_printed_spec_starts_the_same_run() {
    let sandbox = sandbox();
    let args = ["misbehave", "typed", "--since", "-7d", "--account", "anna", "--timeout", "1h", "--retries", "2"];
    let context = ["--group", "nightly", "--requested-by", "engine:test"];
    let spec = plan(&sandbox, &[&args[..], &context].concat());
    assert!(sandbox.runs().is_empty(), "nothing was started");
    run_spec(&sandbox, &[], 0);
    let run = sandbox.run();
    let shown = sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(shown["spec"], spec, "the store keeps what was run");
    let events = sandbox.whole_events_of(&run);
    let started = events[0].payload();
    assert_eq!((&started["parameters"], &started["since"]), (&spec["params"], &spec["window"]["since"]));
    assert_eq!((&started["group"], &started["requested_by"]), (&json!("nightly"), &json!("engine:test")));
    // A stored run converts to its spec, which can also be read from stdin.
    let stored = sandbox.lorchestra(&["runs", "show", run.id(), "--spec"]).exits(0);
    let mut command = sandbox.command(&["run-job", "--spec", "-", "-q"]);
    let mut again = command.stdin(Stdio::piped()).spawn().unwrap();
    again.stdin.take().unwrap().write_all(stored.out().as_bytes()).unwrap();
    assert!(again.wait().unwrap().success());
    let runs = sandbox.runs();
    assert_eq!(runs.len(), 2);
    let second = sandbox.lorchestra(&["runs", "show", runs[0].id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(second["spec"], spec);
}

#[test]
fn relative_paths_of_a_spec_are_relative_to_where_it_was_created() {
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.path("there")).unwrap();
    let made = sandbox
        .command(&["run-job", "--dry-run", "--json", "misbehave", "surroundings"])
        .current_dir(sandbox.path("there"))
        .output()
        .unwrap();
    std::fs::write(sandbox.path("spec.json"), &made.stdout).unwrap();
    run_spec(&sandbox, &[], 0);
    let events = sandbox.whole_events_of(&sandbox.run());
    let there = std::fs::canonicalize(sandbox.path("there")).unwrap();
    assert_eq!(events[1].payload()["directory"].as_str(), there.to_str());
    std::fs::remove_dir(sandbox.path("there")).unwrap();
    let ended = run_spec(&sandbox, &[], 2);
    assert!(ended.err().contains("set \"directory\" in the spec"), "{}", ended.shown());
    assert_eq!(sandbox.runs().len(), 1);
}

#[test]
fn a_spec_of_another_job_starts_nothing() {
    let sandbox = sandbox();
    let spec = plan(&sandbox, &["misbehave", "numbered", "--count", "1"]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut spec = spec.clone();
        change(&mut spec);
        write(&sandbox, &spec);
    };
    for (code, message, change) in [
        (
            2,
            "written by a newer lorchestra (run spec version 2; this one reads 1)",
            &(|s: &mut Value| s["schema"] = "lorchestra.run-spec/2".into()) as &dyn Fn(&mut Value),
        ),
        (2, "unknown field `retrys`", &|s| s["retrys"] = 1.into()),
        (2, "params.count is not a whole number", &|s| s["params"]["count"] = "many".into()),
        (2, "params.count is missing", &|s| drop(s["params"].as_object_mut().unwrap().remove("count"))),
        (1, "Unknown package: nobody", &|s| s["package"] = "nobody".into()),
        (1, "Unknown job: misbehave/nothing", &|s| s["job"] = "nothing".into()),
        (126, "the run spec requires version 9.9.9", &|s| s["version"] = "9.9.9".into()),
        (126, "the run spec requires sha256 00", &|s| s["sha256"] = "00".into()),
        (2, "the directory /nowhere of the run spec cannot be used", &|s| s["directory"] = "/nowhere".into()),
    ] {
        with(change);
        let ended = run_spec(&sandbox, &[], code);
        assert!(ended.err().contains(message), "{message}: {}", ended.shown());
    }
    assert!(sandbox.runs().is_empty(), "no run was recorded");
    with(&|spec| spec["sha256"] = Value::Null);
    run_spec(&sandbox, &[], 0);
    for text in ["", "{", "null", "\u{feff}{}"] {
        std::fs::write(sandbox.path("spec.json"), text).unwrap();
        run_spec(&sandbox, &[], 2);
    }
    // Flags that would change a spec are refused.
    for flags in [&["--timeout", "1s"][..], &["misbehave", "noop"], &["--param", "count=2"], &["--group", "g"]] {
        write(&sandbox, &spec);
        run_spec(&sandbox, flags, 2);
    }
    assert_eq!(sandbox.runs().len(), 1);
}

#[test]
fn an_ended_run_with_the_chosen_id_is_found() {
    let sandbox = sandbox();
    for (job, code, state) in [("noop", 0, "completed"), ("fail", 1, "failed")] {
        let id = if job == "noop" { ID.to_owned() } else { ID.replace("8d9f", "ffff") };
        let args = ["run-job", "misbehave", job, "--run-id", &id, "--json"];
        for _ in 0..3 {
            let run = sandbox.lorchestra(&args).exits(code).json("lorchestra.run-job/1");
            assert_eq!((run["run_id"].as_str(), run["state"].as_str()), (Some(&*id), Some(state)));
        }
        let again = sandbox.lorchestra(&args[..5]).exits(code);
        assert!(again.err().contains("nothing was started"), "{}", again.shown());
    }
    assert_eq!(sandbox.runs().len(), 2, "each ran once");
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail", "--run-id", ID]).exits(2);
    assert!(ended.err().contains("is a run of misbehave/noop"), "{}", ended.shown());
    let logs = sandbox.state().join("logs").join(ID);
    assert!(logs.is_dir(), "its logs are still there");
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--run-id", "nonsense"]).exits(2);
}

/// The caller asks for the result of its run: the error that another run of the job is running would not answer that.
#[test]
fn an_ended_run_is_found_while_another_one_of_its_job_runs() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--seconds", "0", "--run-id", ID]).exits(1);
    let other = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("the other run is recorded", || sandbox.runs().len() == 2);
    for policy in ["fail", "skip", "wait", "allow"] {
        let args = ["run-job", "misbehave", "wait", "--run-id", ID, "--on-overlap", policy, "--json"];
        let found = sandbox.lorchestra(&args).exits(1).json("lorchestra.run-job/1");
        assert_eq!((found["run_id"].as_str(), found["state"].as_str()), (Some(ID), Some("failed")), "{policy}");
        assert!(processes::is_alive(other.pid()), "{policy}: it was not waited for");
    }
    other.signal(Signal::TERM);
    assert_eq!(other.wait().code(), Some(143));
    assert_eq!(sandbox.runs().len(), 2);
}

/// A run that has ended needs no library, directory or secret any more.
#[test]
fn an_ended_run_is_found_by_its_spec_even_if_the_package_has_changed() {
    let sandbox = sandbox();
    plan(&sandbox, &["misbehave", "noop"]);
    let file = sandbox.arg("spec.json");
    let args = ["run-job", "--spec", &file, "--run-id", ID, "--json"];
    sandbox.lorchestra(&args).exits(0);
    sandbox.lorchestra(&["plugins", "remove", "misbehave"]).exits(0);
    let found = sandbox.lorchestra(&args).exits(0).json("lorchestra.run-job/1");
    assert_eq!((found["run_id"].as_str(), found["state"].as_str()), (Some(ID), Some("completed")));
    sandbox.lorchestra(&args[..3]).exits(1);
}

/// Whatever the overlap policy: one id, one run.
#[test]
fn one_of_several_processes_with_one_id_runs() {
    for policy in ["allow", "wait", "fail", "skip"] {
        let sandbox = sandbox();
        let args = ["run-job", "misbehave", "numbered", "--count", "100", "--run-id", ID, "--on-overlap", policy];
        let all: Vec<_> = (0..6).map(|_| sandbox.start(&args)).collect();
        let codes: Vec<_> = all.into_iter().map(|one| one.wait().code()).collect();
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 75))) && codes.contains(&Some(0)), "{policy}: {codes:?}");
        let run = sandbox.run();
        assert_eq!(sandbox.numbers_of(&run), (0..100).collect::<Vec<_>>(), "{policy}");
    }
}

/// An engine that retries after a crash finds the run, closed with its real outcome; its events are kept.
#[test]
fn a_run_that_was_killed_is_found_by_its_id() {
    let sandbox = sandbox();
    let args = ["run-job", "misbehave", "wait", "--run-id", ID, "--on-overlap", "allow"];
    let running = sandbox.start(&args);
    eventually("the run is recorded", || sandbox.runs().len() == 1);
    let other = sandbox.lorchestra(&args).exits(75);
    assert!(other.err().contains("is already running"), "{}", other.shown());
    running.signal(Signal::KILL);
    running.wait();
    let again = sandbox.lorchestra(&[&args[..], &["--json"]].concat()).exits(1).json("lorchestra.run-job/1");
    assert_eq!((again["run_id"].as_str(), again["cause"].as_str()), (Some(ID), Some("abandoned")));
    sandbox.whole_events_of(&sandbox.run());
}

/// The caller gets the exit code of the run's own process.
#[test]
fn a_run_that_was_cancelled_is_found_with_its_signal() {
    for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129), (Signal::TERM, 143)] {
        let sandbox = sandbox();
        let args = ["run-job", "misbehave", "wait", "--run-id", ID];
        let running = sandbox.start(&args);
        eventually("the run is recorded", || sandbox.runs().len() == 1);
        running.signal(signal);
        assert_eq!(running.wait().code(), Some(code));
        sandbox.lorchestra(&args).exits(code);
        assert_eq!(sandbox.runs().len(), 1);
    }
}

#[test]
fn the_callers_trace_reaches_the_run() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let sandbox = sandbox();
    sandbox
        .lorchestra_with(&[("TRACEPARENT", parent)], &["run-job", "misbehave", "surroundings", "--name", "TRACEPARENT"])
        .exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    assert_eq!(events[0].payload()["trace_parent"], parent);
    assert_eq!(events[1].payload()["value"], parent);
    // An invalid value set by others does not refuse a run.
    sandbox.lorchestra_with(&[("TRACEPARENT", "nonsense")], &["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--trace-parent", "nonsense"]).exits(2);
}
