//! What an operator must learn although something is in its way: a hook that hangs, events that nothing sends again.

use lorchestra_tests::{Ended, Fixture, Sandbox, eventually};
use rustix::process::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

/// The alarm has its own time limit, and a signal ends the hook that hangs.
#[test]
fn a_start_hook_that_hangs_does_not_swallow_the_alarm() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let alarm = sandbox.arg("alarm");
    sandbox.configure(&format!("on_start = \"sleep 100\"\non_failure = \"sleep 0.5; echo ALARM >> {alarm}\"\n"));
    let begun = Instant::now();
    let running = sandbox.start(&["run-job", "misbehave", "fail"]);
    eventually("the alarm", || sandbox.read("alarm") == "ALARM\n");
    assert!(begun.elapsed() < Duration::from_secs(25), "it waited for on_start");
    running.signal(Signal::TERM);
    let ended = running.wait().exits(1);
    assert!(ended.err().contains("on_start: the command was killed: lorchestra received a signal"), "{}", ended.shown());
    assert!(sandbox.processes().is_empty());
}

/// Each hook has 30 s, and says itself that they were not enough.
#[test]
fn a_hook_that_hangs_leaves_the_others_their_time() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let alarm = sandbox.arg("alarm");
    sandbox.configure(&format!("on_start = \"sleep 100\"\non_failure = \"echo ALARM >> {alarm}; sleep 100\"\n"));
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    assert_eq!(sandbox.read("alarm"), "ALARM\n");
    for hook in ["on_start", "on_failure"] {
        let warning = format!("warning: {hook}: the command was killed: it did not finish within 30 s");
        assert!(ended.err().contains(&warning), "{}", ended.shown());
    }
}

/// Copies the state directory and puts the copy in its place, as a restore from a backup does.
fn restore(sandbox: &Sandbox) {
    let (state, copy) = (sandbox.state(), sandbox.path("copy"));
    assert!(Command::new("cp").arg("-a").arg(&state).arg(&copy).status().unwrap().success());
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&copy, &state).unwrap();
}

/// A restored store does not know whether its pending events were delivered, so it sends them only on request. Until then, whatever reports
/// on delivery reports them.
#[test]
fn uncertain_events_are_reported_until_someone_decides() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let events = sandbox.arg("events");
    let configured = format!("[destinations.jsonl]\ndir = \"{events}\"\n");
    sandbox.configure(&configured);
    for _ in 0..3 {
        sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
    }
    let pending = sandbox.lorchestra(&["runs", "prune", "--keep", "0"]).exits(0);
    assert!(pending.err().starts_with("2 old runs with undelivered events stay:\n  6 events are not in "), "{}", pending.shown());
    assert!(pending.err().contains("yet: run lorchestra events flush\n"), "{}", pending.shown());
    restore(&sandbox);
    sandbox.lorchestra(&["events", "setup"]).exits(0);
    let warns = |ended: &Ended| {
        let text = "cannot confirm that 6 events arrived (see lorchestra events list --uncertain)";
        assert!([ended.out(), ended.err()].concat().contains(text), "{}", ended.shown());
    };
    for _ in 0..2 {
        let flushed = sandbox.lorchestra(&["events", "flush"]).exits(0);
        assert_eq!(flushed.out(), "Delivered 0 events.\n");
        warns(&flushed);
    }
    let flushed = sandbox.lorchestra(&["events", "flush", "--json"]).exits(0).json("lorchestra.events-flush/1");
    assert_eq!((&flushed["uncertain"], &flushed["all_uncertain"]), (&0.into(), &6.into()));
    let status = sandbox.lorchestra(&["status"]).exits(0);
    assert!(status.out().contains("\nDelivery: "), "{}", status.shown());
    warns(&status);
    let status = sandbox.lorchestra(&["status", "--json"]).exits(0).json("lorchestra.status/1");
    assert_eq!(status["delivery"][0]["uncertain"], 6);
    let metric = "lorchestra_events_uncertain{destination=\"jsonl\"}";
    let metrics = sandbox.lorchestra(&["metrics"]).exits(0);
    assert!(metrics.out().contains(&format!("{metric} 6\n")), "{}", metrics.shown());
    let prune = || sandbox.lorchestra(&["runs", "prune", "--keep", "0"]).exits(0);
    let kept = prune();
    assert!(kept.err().contains("events flush --resend-uncertain") && !kept.err().contains("run lorchestra events flush\n"));
    // The advice must not be to flush to what is not configured.
    sandbox.configure("");
    let kept = prune();
    assert!(
        kept.err().contains("kept for jsonl, which is no longer configured, until 2")
            && kept.err().contains("Z: configure it again and flush, or wait"),
        "{}",
        kept.shown()
    );
    sandbox.configure(&configured);
    sandbox.lorchestra(&["events", "flush", "--resend-uncertain"]).exits(0);
    assert!(sandbox.lorchestra(&["metrics"]).out().contains(&format!("{metric} 0\n")));
    assert!(!sandbox.lorchestra(&["status"]).out().contains("Delivery"));
    assert_eq!(prune().err(), "");
}
