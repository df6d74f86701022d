//! `runs rerun`: the spec of an earlier run as a new run; all failed runs that no later run covers.

use lorchestra_tests::{Fixture, Sandbox};
use serde_json::{Value, json};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn spec_of(sandbox: &Sandbox, run: &str) -> Value {
    let shown = sandbox.lorchestra(&["runs", "show", run, "--spec"]).exits(0);
    serde_json::from_str(shown.out()).unwrap()
}

#[test]
fn a_rerun_has_the_same_parameters_and_window_and_another_id() {
    let sandbox = sandbox();
    let args = ["run-job", "misbehave", "windowed", "--account", "anna", "--since", "last:-3d", "--timeout", "1h"];
    sandbox.lorchestra(&args).exits(0);
    let first = sandbox.run();
    let again = sandbox.lorchestra(&["runs", "rerun", first.short(), "--json"]).exits(0).json("lorchestra.run-job/1");
    let id = again["run_id"].as_str().unwrap();
    assert_ne!(id, first.id());
    let (old, new) = (spec_of(&sandbox, first.id()), spec_of(&sandbox, id));
    // The bookmark is at the end of the first run, and would make the window empty.
    for key in ["params", "window", "account", "timeout", "sha256", "version", "resolved_at"] {
        assert_eq!(old[key], new[key], "{key}");
    }
    assert_eq!((&new["requested_by"], &new["since_last"]), (&json!(format!("rerun:{}", first.id())), &json!(false)));
    for run in sandbox.runs() {
        sandbox.whole_events_of(&run);
    }
    sandbox.lorchestra(&["runs", "rerun", "nothing1"]).exits(1);
    sandbox.lorchestra(&["runs", "rerun"]).exits(2);
    sandbox.lorchestra(&["runs", "rerun", "last", "--since", "-1d"]).exits(2);
}

/// The value is not in the store: it is read again from where the spec says.
#[test]
fn a_rerun_reads_its_secrets_again_and_uses_the_installed_library() {
    let sandbox = Sandbox::with(&[Fixture::Kit, Fixture::Misbehave]);
    let args = ["run-job", "kit", "leak", "--token", "env:TOKEN", "--way", "print"];
    sandbox.lorchestra_with(&[("TOKEN", "first-secret-value")], &args).exits(0);
    let id = sandbox.run().id().to_owned();
    let missing = sandbox.lorchestra(&["runs", "rerun", &id]).exits(2);
    assert!(missing.err().contains("TOKEN is not set"), "{}", missing.shown());
    sandbox.lorchestra_with(&[("TOKEN", "second-secret-value")], &["runs", "rerun", &id]).exits(0);
    sandbox.lorchestra(&["plugins", "remove", "kit"]).exits(0);
    let gone = sandbox.lorchestra(&["runs", "rerun", &id]).exits(1);
    assert!(gone.err().contains("Unknown package: kit"), "{}", gone.shown());
}

#[test]
fn only_failures_that_no_later_run_covers_are_run_again() {
    let sandbox = sandbox();
    let windowed = |account: &str, since: &str, until: &str, then: &str, code: i32| {
        let args = ["run-job", "misbehave", "windowed", "--account", account, "--since", since, "--until", until];
        sandbox.lorchestra(&[&args[..], &["--then", then]].concat()).exits(code);
    };
    // `then` is a parameter too, so these differ in nothing but their windows.
    windowed("anna", "2024-01-01", "2024-01-02", "fail", 1);
    windowed("anna", "2024-01-01", "2024-01-03", "fail", 1);
    windowed("bert", "2024-01-01", "2024-01-02", "fail", 1);
    windowed("anna", "2024-02-01", "2024-02-02", "return", 0);
    let listed = sandbox.lorchestra(&["runs", "rerun", "--failed", "--dry-run"]).exits(0);
    assert_eq!(listed.out().lines().count(), 2, "{}", listed.shown());
    assert_eq!(sandbox.runs().len(), 4, "a dry run starts nothing");
    sandbox.lorchestra(&["runs", "rerun", "--failed", "--since", "-1h"]).exits(1);
    let runs = sandbox.runs();
    assert_eq!(runs.len(), 6);
    let mut again: Vec<String> = runs[..2].iter().map(|run| format!("{} {}", run.0["account"], run.0["until"])).collect();
    again.sort();
    assert_eq!(again, ["\"anna\" \"2024-01-03T00:00:00.000000Z\"", "\"bert\" \"2024-01-02T00:00:00.000000Z\""]);
    for args in [&["--job", "misbehave/noop"][..], &["--since", "2100-01-01"]] {
        let none = sandbox.lorchestra(&[&["runs", "rerun", "--failed"], args].concat()).exits(0);
        assert!(none.err().contains("No failed run"), "{}", none.shown());
    }
}

#[test]
fn a_cancelled_run_is_not_among_the_failed_ones() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    lorchestra_tests::eventually("the run is recorded", || sandbox.runs().len() == 1);
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait().code(), Some(143));
    let none = sandbox.lorchestra(&["runs", "rerun", "--failed"]).exits(0);
    assert!(none.err().contains("No failed run"), "{}", none.shown());
}

/// A run that cannot be started again is one of the failures, and keeps no other run from being started.
#[test]
fn a_run_whose_package_is_gone_does_not_stop_the_others() {
    let sandbox = Sandbox::with(&[Fixture::Kit, Fixture::Misbehave]);
    let leak = |token: &str| {
        let args = ["run-job", "kit", "leak", "--token", "env:TOKEN", "--way", "error"];
        sandbox.lorchestra_with(&[("TOKEN", token)], &args).exits(1);
    };
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    leak("a-secret-value");
    std::fs::remove_file(sandbox.plugins().join(Fixture::Kit.file_name())).unwrap();
    for flags in [&["--dry-run"][..], &[]] {
        let ended = sandbox.lorchestra(&[&["runs", "rerun", "--failed"], flags].concat()).exits(1);
        assert!(ended.err().contains("of kit/leak cannot be run again: Unknown package: kit"), "{}", ended.shown());
        let runs = sandbox.runs().iter().filter(|run| run.0["job"] == "fail").count();
        if flags.is_empty() {
            assert!(ended.err().contains("0 of 2 runs completed"), "{}", ended.shown());
            assert_eq!(runs, 2);
        } else {
            assert_eq!((ended.out().lines().count(), runs), (1, 1), "{}", ended.shown());
        }
    }
}
