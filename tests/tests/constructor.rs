//! No plugin code runs in the process that a person started, and none at all for looking: shown by a library whose constructor
//! writes its process's pid into a file. What a constructor can do to the process that loads it: `zoo/loading.rs`.

use lorchestra_tests::{Fixture, Sandbox};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave])
}

#[test]
fn looking_runs_no_plugin_code() {
    let sandbox = sandbox();
    let looks: [&[&str]; 9] = [
        &["jobs", "list"],
        &["jobs", "list", "--json"],
        &["jobs", "list", "constructor"],
        &["jobs", "show", "constructor", "loaded"],
        &["jobs", "show", "constructor", "loaded", "--json"],
        &["run-job", "--dry-run", "constructor", "loaded"],
        &["run-job", "--dry-run", "--json", "constructor", "loaded"],
        &["run-job", "constructor", "loaded", "--help"],
        &["run-job", "misbehave", "noop"],
    ];
    for args in looks {
        let ended = sandbox.lorchestra_with(&[("CONSTRUCTOR_MARKER", &sandbox.arg("marker"))], args).exits(0);
        assert_eq!(sandbox.read("marker"), "", "{}", ended.shown());
    }
}

#[test]
fn bad_parameters_run_no_plugin_code() {
    let sandbox = sandbox();
    let args = ["run-job", "constructor", "loaded", "--nothing", "1"];
    sandbox.lorchestra_with(&[("CONSTRUCTOR_MARKER", &sandbox.arg("marker"))], &args).exits(2);
    assert_eq!(sandbox.read("marker"), "");
}

#[test]
fn a_run_loads_the_library_once_in_another_process() {
    let sandbox = sandbox();
    let mut command = sandbox.command(&["run-job", "constructor", "loaded"]);
    command.env("CONSTRUCTOR_MARKER", sandbox.path("marker"));
    let running = lorchestra_tests::Running::start(command);
    let started = running.pid();
    running.wait().exits(0);
    let marker = sandbox.read("marker");
    let pids: Vec<u32> = marker.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 1, "loaded once: {pids:?}");
    assert_ne!(pids[0], started, "not in the process that was started");
    assert_ne!(pids[0], std::process::id());
    // It is the process in which the job ran, too.
    let events = sandbox.whole_events_of(&sandbox.run());
    assert_eq!(events[1].payload()["pid"], pids[0]);
}
