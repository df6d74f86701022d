//! Runs that are stopped: by their deadline, by a signal, by `runs stop`; and that no process they started is left.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Starts a job that writes `marker`, and waits for that; returns the pid in it.
fn started(sandbox: &Sandbox, args: &[&str]) -> (Running, u32) {
    let marker = sandbox.arg("marker");
    let running = sandbox.start(&[&["run-job", "misbehave"], args, &["--marker", &marker]].concat());
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    let pid = sandbox.read("marker").trim().parse().unwrap();
    (running, pid)
}

#[test]
fn a_cooperative_job_ends_cleanly_at_its_timeout() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "--timeout", "3s", "misbehave", "wait"]).exits(124);
    assert!(ended.err().contains("it did not finish within 3s"), "{}", ended.shown());
    let run = sandbox.run();
    assert_eq!(run.cause(), "timeout");
    // The job's own result is kept, but is not the outcome.
    assert_eq!(run.0["job_result"], "error: cancelled");
    let types: Vec<String> = sandbox.whole_events_of(&run).iter().map(|event| event.event_type().to_owned()).collect();
    assert_eq!(types, ["job.started", "cancelled.seen", "job.failed"]);
}

#[test]
fn a_timeout_is_the_cause_even_if_the_job_returns_ok() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--return-ok", "--timeout", "3s"]).exits(124);
    let run = sandbox.run();
    assert_eq!((run.cause(), run.0["job_result"].as_str()), ("timeout", Some("ok")));
}

#[test]
fn a_job_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let sandbox = sandbox();
    let marker = sandbox.arg("marker");
    let args =
        ["run-job", "--timeout", "3s", "--grace", "1s", "misbehave", "ignore_term", "--seconds", "300", "--marker", &marker];
    sandbox.lorchestra(&args).exits(124);
    let run = sandbox.run();
    assert_eq!((run.cause(), run.0["job_result"].as_str()), ("timeout", None));
    let pid = sandbox.read("marker").trim().parse().expect("the job started");
    assert!(!processes::is_alive(pid));
    sandbox.whole_events_of(&run);
}

#[test]
fn signals_end_the_run_with_their_own_codes() {
    for (signal, code, name) in [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM"), (Signal::HUP, 129, "SIGHUP")] {
        let sandbox = sandbox();
        let (running, pid) = started(&sandbox, &["wait"]);
        running.signal(signal);
        let ended = running.wait().exits(code);
        assert!(ended.err().contains(&format!("cancelled by {name}")), "{}", ended.shown());
        let run = sandbox.run();
        assert_eq!((run.cause(), run.0["job_result"].as_str()), ("cancelled", Some("error: cancelled")));
        assert!(!processes::is_alive(pid));
        let events = sandbox.whole_events_of(&run);
        assert_eq!(events[1].event_type(), "cancelled.seen");
    }
}

/// With a grace period of an hour, only the second signal can end it before the deadline of this test.
#[test]
fn a_second_interrupt_kills_at_once() {
    let sandbox = sandbox();
    let (mut running, pid) = started(&sandbox, &["ignore_term", "--seconds", "3000", "--grace", "1h"]);
    running.signal(Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!running.has_ended() && processes::is_alive(pid), "the first signal leaves the job its grace period");
    running.signal(Signal::INT);
    running.wait().exits(130);
    assert!(!processes::is_alive(pid));
    assert_eq!(sandbox.run().cause(), "cancelled");
}

#[test]
fn a_run_is_stopped_by_the_end_of_its_id() {
    let sandbox = sandbox();
    let (running, pid) = started(&sandbox, &["wait"]);
    let run = sandbox.run();
    assert_eq!(run.state(), "running");
    let listed = sandbox.lorchestra(&["runs", "list", "--running"]).exits(0);
    assert!(listed.out().contains(run.short()), "{}", listed.shown());
    let suffix = &run.id()[24..];
    let stop = sandbox.lorchestra(&["runs", "stop", suffix]).exits(0);
    assert_eq!(stop.out(), format!("✓ run {} has ended: failed (cancelled)\n", run.short()));
    running.wait().exits(143);
    assert!(!processes::is_alive(pid));
    let again = sandbox.lorchestra(&["runs", "stop", suffix]).exits(0);
    assert_eq!(again.out(), format!("Run {} has already ended: failed\n", run.short()));
    let none = sandbox.lorchestra(&["runs", "list", "--running"]).exits(0);
    assert_eq!((none.out(), none.err()), ("", "No run is running.\n"));
}

#[test]
fn an_unknown_run_is_reported() {
    let sandbox = sandbox();
    for command in ["show", "stop", "logs"] {
        let ended = sandbox.lorchestra(&["runs", command, "0123"]).exits(1);
        let looked = format!("  looked in {}\n", sandbox.state().display());
        assert_eq!(ended.err(), format!("Unknown run: 0123\n{looked}  run lorchestra runs list to see the newest runs\n"));
    }
}

#[test]
fn a_child_that_stays_in_the_group_does_not_survive() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "leave_child", "--marker", &sandbox.arg("marker")]).exits(0);
    let child = sandbox.read("marker").trim().parse().expect("a child was started");
    assert!(!processes::is_alive(child));
}

#[test]
fn a_daemon_that_left_the_session_does_not_survive() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "leave_daemon", "--marker", &sandbox.arg("marker")]).exits(0);
    let daemon = sandbox.read("marker").trim().parse().expect("a daemon was started");
    assert!(!processes::is_alive(daemon));
}

#[test]
fn a_timeout_kills_processes_started_by_the_job() {
    let sandbox = sandbox();
    let marker = sandbox.arg("marker");
    let args = ["run-job", "misbehave", "leave_child", "--stay", "--timeout", "3s", "--grace", "100s", "--marker", &marker];
    // The first SIGTERM reaches the child; the job itself keeps sleeping and is killed by the second signal.
    let running = sandbox.start(&args);
    eventually("the child is started", || sandbox.read("marker").ends_with('\n'));
    let child = sandbox.read("marker").trim().parse().unwrap();
    eventually("the child receives SIGTERM", || !processes::is_alive(child));
    running.signal(Signal::INT);
    running.wait().exits(124);
    assert_eq!(sandbox.run().cause(), "timeout");
}

#[test]
fn a_worker_that_left_its_group_is_killed_too() {
    let sandbox = sandbox();
    let marker = sandbox.arg("marker");
    sandbox
        .lorchestra(&["run-job", "--timeout", "3s", "--grace", "0s", "misbehave", "leave_group", "--marker", &marker])
        .exits(124);
    let pid = sandbox.read("marker").trim().parse().expect("the job started");
    assert!(!processes::is_alive(pid));
}

/// A closing terminal may send several signals at once: they are one request, and the job keeps its grace period.
#[test]
fn simultaneous_signals_leave_the_job_its_grace_period() {
    let sandbox = sandbox();
    let (running, _) = started(&sandbox, &["wait"]);
    processes::signal(running.pid(), Signal::STOP);
    eventually("the supervisor is stopped", || processes::is_stopped(running.pid()));
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    running.signal(Signal::CONT);
    running.wait().exits(143);
    let events = sandbox.whole_events_of(&sandbox.run());
    assert_eq!(events[1].event_type(), "cancelled.seen", "it was not killed");
}

/// As under `nohup`, or as a shell starts background jobs: ignored signals stay ignored, and the others end the run as usual.
#[test]
fn signals_that_were_ignored_stay_ignored() {
    let runs = [("HUP", Signal::HUP), ("INT", Signal::INT), ("TERM", Signal::TERM)].map(|(name, signal)| {
        let sandbox = sandbox();
        let marker = sandbox.arg("marker");
        let args = ["run-job", "misbehave", "wait", "--seconds", "2", "--marker", &marker];
        (Running::start(sandbox.command_by(&format!("trap '' {name}"), &args)), sandbox, signal)
    });
    for (running, sandbox, signal) in runs {
        eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
        running.signal(signal);
        running.wait().exits(1);
        let run = sandbox.run();
        assert_eq!((run.cause(), run.message()), ("error", "it was not cancelled"), "{signal:?}");
    }
}

#[test]
fn a_run_that_cannot_be_stopped_is_reported_at_once() {
    let sandbox = sandbox();
    let marker = sandbox.arg("marker");
    let args = ["run-job", "misbehave", "ignore_term", "--marker", &marker];
    let running = Running::start(sandbox.command_by("trap '' TERM", &args));
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    let ended = sandbox.lorchestra(&["runs", "stop", sandbox.run().id()]).exits(1);
    let kill = format!("kill -KILL {} ", running.pid());
    assert!(ended.err().contains("ignores SIGTERM") && ended.err().contains(&kill), "{}", ended.shown());
    running.signal(Signal::INT);
    running.signal(Signal::KILL);
}

/// A shell or a container's entry point that executes lorchestra passes its children on; their orphans become lorchestra's children, just
/// as the job's do. Only the job's are killed.
#[test]
fn processes_from_before_the_run_survive_it() {
    let sandbox = sandbox();
    let (marker, other) = (sandbox.arg("marker"), sandbox.arg("other"));
    // Its parent ends once the job's daemon exists: by then both have become lorchestra's children.
    let before = format!("sh -c 'sleep 300 & echo $! > {other}; until [ -s {marker} ]; do sleep 0.01; done' > before 2>&1 &");
    let args = ["run-job", "misbehave", "leave_daemon", "--stay", "--marker", &marker];
    let running = Running::start(sandbox.command_by(&before, &args));
    eventually("the daemon is started", || sandbox.read("marker").ends_with('\n'));
    let pid = |name: &str| sandbox.read(name).trim().parse::<u32>().expect("a pid");
    let (daemon, other) = (pid("marker"), pid("other"));
    eventually("both are its children", || [daemon, other].iter().all(|pid| running.children().contains(pid)));
    running.signal(Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.signal(Signal::INT);
    let code = running.wait().code();
    let lives = processes::is_alive(other);
    processes::kill(other);
    assert_eq!((code, lives, processes::is_alive(daemon)), (Some(130), true, false));
}
