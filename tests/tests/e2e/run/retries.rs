//! One run with several attempts: which ends are retried, that there is one terminal event, and that a request to stop takes effect.

use lorchestra_tests::{Event, Fixture, Run, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::json;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure("[job.\"misbehave/fail_at_first\"]\nretry_wait = \"1s\"\n");
    sandbox
}

/// With a delay longer than any test, so that everything during it is caused by the test.
fn waits_for_ever(sandbox: &Sandbox) {
    sandbox.configure("[job.\"misbehave/fail_at_first\"]\nretry_wait = \"1h\"\n");
}

fn fail_at_first(sandbox: &Sandbox, flags: &[&str]) -> Running {
    let marker = sandbox.arg("marker");
    sandbox.start(&[&["run-job", "misbehave", "fail_at_first", "--marker", &marker], flags].concat())
}

/// Number of workers that reached this point.
fn attempts(sandbox: &Sandbox) -> Vec<u32> {
    sandbox.read("marker").lines().map(|pid| pid.parse().expect("a pid")).collect()
}

fn shown(sandbox: &Sandbox, run: &Run) -> serde_json::Value {
    sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1")
}

/// The run waits for its next attempt: the previous one has ended, and its worker is gone.
fn waits(sandbox: &Sandbox, after: usize) -> Run {
    eventually("the attempt is over", || {
        let runs = sandbox.runs();
        runs.first().is_some_and(|run| {
            let shown = shown(sandbox, run);
            shown["attempts"].as_array().is_some_and(|all| all.len() == after && !all[after - 1]["ended_at"].is_null())
        })
    });
    sandbox.run()
}

/// The next attempt would emit it again. A write that the disk refused is different: a retry may help.
#[test]
fn an_invalid_event_is_not_retried() {
    let sandbox = Sandbox::with(&[Fixture::Hostile]);
    let marker = sandbox.arg("marker");
    let emit = |what: &str| {
        let args = ["run-job", "--retries", "5", "hostile", "emit_raw", "--what", what, "--marker", &marker];
        let _ = std::fs::remove_file(&marker);
        let ended = sandbox.lorchestra(&args);
        let run = sandbox.runs().remove(0);
        (ended, shown(&sandbox, &run)["attempts"].as_array().map(Vec::len), attempts(&sandbox).len())
    };
    for (what, why) in [("torn", "is not JSON"), ("vast", "1e400")] {
        let (ended, recorded, began) = emit(what);
        assert!(ended.exits(1).err().contains(why));
        assert_eq!((recorded, began), (Some(1), 1), "{what}");
    }
    // The event is accepted, unless events with numbers that lose precision are refused.
    let (ended, ..) = emit("number");
    ended.exits(0);
    sandbox.configure("[events]\nstrict_numbers = true\n");
    let (ended, recorded, began) = emit("number");
    let ended = ended.exits(1);
    assert!(ended.err().contains("123456789012345678901"), "{}", ended.shown());
    assert!(ended.err().contains("events.strict_numbers"), "{}", ended.shown());
    assert_eq!((recorded, began), (Some(1), 1));
}

#[test]
fn a_run_of_three_attempts_has_one_end() {
    let sandbox = sandbox();
    let ended = fail_at_first(&sandbox, &["--retries", "5", "--times", "2"]).wait().exits(0);
    assert_eq!(ended.plain_out(), "✓ misbehave/fail_at_first completed in attempt 3 (run [SHORT])\n");
    let lines: Vec<&str> = ended.err().lines().collect();
    assert_eq!(lines.len(), 2, "{}", ended.shown());
    for (i, line) in lines.iter().enumerate() {
        let n = i + 1;
        let begin = format!("warning: attempt {n} of 6 failed (error): not in attempt {n}; next attempt in ");
        assert!(line.starts_with(&begin), "{line}");
    }
    let pids = attempts(&sandbox);
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| !processes::is_alive(*pid)));
    let run = sandbox.run();
    let events = sandbox.whole_events_of(&run);
    let types: Vec<&str> = events.iter().map(Event::event_type).collect();
    assert_eq!(types, ["job.started", "attempt.seen", "attempt.seen", "attempt.seen", "job.completed"]);
    let seen: Vec<&Event> = events.iter().filter(|event| event.event_type() == "attempt.seen").collect();
    for (i, event) in seen.iter().enumerate() {
        assert_eq!(event.payload()["attempt"], i + 1);
        assert_eq!(event.payload()["environment"], (i + 1).to_string());
        assert_eq!(event.0["attempt"], i + 1);
        // The window belongs to the plan, not to the attempt.
        assert_eq!(event.payload()["until"], seen[0].payload()["until"]);
    }
    let end = events.last().unwrap();
    assert_eq!(end.0["attempt"], 3);
    let earlier = end.payload()["earlier_attempts"].as_array().unwrap();
    assert_eq!(earlier.len(), 2);
    assert_eq!(
        (&earlier[1]["attempt"], &earlier[1]["cause"], &earlier[1]["message"]),
        (&json!(2), &json!("error"), &json!("not in attempt 2"))
    );
    let shown = shown(&sandbox, &run);
    let causes: Vec<&str> = shown["attempts"].as_array().unwrap().iter().map(|a| a["cause"].as_str().unwrap_or("")).collect();
    assert_eq!(causes, ["error", "error", ""]);
    assert_eq!(shown["logs"].as_array().unwrap().len(), 3 + 1, "an output file for each attempt, and the trace");
    let text = sandbox.lorchestra(&["runs", "show", run.id()]).exits(0);
    assert!(
        text.out().contains("attempt 2 failed (error) after ") && text.out().contains(": not in attempt 2\n"),
        "{}",
        text.shown()
    );
    assert_eq!(std::fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0, "its spools are gone");
}

#[test]
fn only_fixable_failures_are_retried() {
    let sandbox = sandbox();
    for (how, cause, code, tries) in [
        ("error", "error", 1, 2),
        ("panic", "panic", 1, 2),
        ("abort", "signal", 1, 2),
        ("exit", "exit", 1, 2),
        ("hang", "timeout", 124, 2),
        ("permanent", "error", 1, 1),
    ] {
        let _ = std::fs::remove_file(sandbox.path("marker"));
        let timeout = if how == "hang" { "2s" } else { "1h" };
        let ended =
            fail_at_first(&sandbox, &["--retries", "1", "--times", "9", "--how", how, "--timeout", timeout]).wait().exits(code);
        let run = sandbox.runs().remove(0);
        assert_eq!((run.cause(), attempts(&sandbox).len()), (cause, tries), "{how}: {}", ended.shown());
        let events = sandbox.whole_events_of(&run);
        assert_eq!(events.last().unwrap().0["attempt"], tries, "{how}");
        assert_eq!(ended.err().contains("in attempt 2\n"), tries == 2, "{}", ended.shown());
    }
    // Bad parameters never lead to an attempt; a library that cannot be loaded is tried once.
    sandbox.lorchestra(&["run-job", "misbehave", "fail_at_first", "--retries", "3", "--times", "x"]).exits(2);
    sandbox.install(Fixture::Constructor, "libconstructor.so");
    let marker = sandbox.arg("loads");
    let environment = [("CONSTRUCTOR_MARKER", &*marker), ("CONSTRUCTOR_FAULT", "abort")];
    sandbox.lorchestra_with(&environment, &["run-job", "constructor", "loaded", "--retries", "3"]).exits(126);
    assert_eq!(sandbox.read("loads").lines().count(), 1);
}

#[test]
fn the_policy_of_a_job_decides_what_is_retried() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/fail_at_first\"]\nretries = 1\nretry_on = [\"panic\"]\nretry_wait = \"1s\"\n");
    fail_at_first(&sandbox, &["--how", "panic"]).wait().exits(0);
    assert_eq!(attempts(&sandbox).len(), 2);
    fail_at_first(&sandbox, &["--how", "error"]).wait().exits(1);
    assert_eq!(attempts(&sandbox).len(), 3);
    fail_at_first(&sandbox, &["--how", "panic", "--retries", "0"]).wait().exits(1);
    assert_eq!(attempts(&sandbox).len(), 4, "the flag wins");
}

#[test]
fn a_failure_of_many_attempts_fits_on_the_screen() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure("[job.\"misbehave/fail\"]\nretry_wait = \"1s\"\n");
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail", "--retries", "1"]).exits(1);
    let text = regex_lite::Regex::new(r"in \d\.\d\ds").unwrap().replace_all(&ended.snapshot(&sandbox), "in [WAIT]").into_owned();
    insta::assert_snapshot!(text);
    let quiet = sandbox.lorchestra(&["run-job", "-q", "misbehave", "fail", "--retries", "1"]).exits(1);
    assert!(quiet.err().starts_with("✗ ") && quiet.err().contains("in attempt 2"), "{}", quiet.shown());
}

/// Ctrl-C, SIGTERM and `runs stop` between two attempts.
#[test]
fn a_stop_between_attempts_takes_effect_at_once() {
    for (signal, code, name) in [(Some(Signal::INT), 130, "SIGINT"), (Some(Signal::TERM), 143, "SIGTERM"), (None, 143, "SIGTERM")]
    {
        let sandbox = sandbox();
        waits_for_ever(&sandbox);
        let running = fail_at_first(&sandbox, &["--retries", "3"]);
        let run = waits(&sandbox, 1);
        // The lock is held during the whole run.
        let refused = sandbox.lorchestra(&["run-job", "misbehave", "fail_at_first"]).exits(75);
        assert!(refused.err().contains(run.short()), "{}", refused.shown());
        match signal {
            Some(signal) => running.signal(signal),
            None => drop(sandbox.lorchestra(&["runs", "stop", run.id()]).exits(0)),
        }
        running.wait().exits(code);
        let run = sandbox.run();
        assert_eq!(run.cause(), "cancelled");
        assert_eq!(run.message(), format!("cancelled by {name} before attempt 2; attempt 1 had failed: not in attempt 1"));
        assert_eq!(run.0["job_result"], "error: not in attempt 1");
        assert_eq!(sandbox.whole_events_of(&run).len(), 3);
        assert_eq!(attempts(&sandbox).len(), 1);
        let shown = shown(&sandbox, &run);
        assert_eq!(shown["attempts"][0]["cause"], "error", "the attempt keeps its own end");
    }
}

/// A signal during an attempt ends the run, too.
#[test]
fn a_cancelled_attempt_is_the_last() {
    let sandbox = sandbox();
    let running = fail_at_first(&sandbox, &["--retries", "3", "--how", "hang"]);
    eventually("the job has started", || attempts(&sandbox).len() == 1);
    running.signal(Signal::INT);
    running.wait().exits(130);
    assert_eq!((sandbox.run().cause(), attempts(&sandbox).len()), ("cancelled", 1));
}

/// Its supervisor dies during the second attempt: the first one has ended, and the second is the one that is closed.
#[test]
fn a_supervisor_killed_in_the_second_attempt_leaves_a_correct_end() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/fail_at_first\"]\nretry_wait = \"1s\"\n");
    // The first attempt ends by its timeout, the second hangs until its supervisor is killed.
    let running = fail_at_first(&sandbox, &["--retries", "3", "--how", "hang", "--times", "9", "--timeout", "5s"]);
    eventually("the second attempt has started", || attempts(&sandbox).len() == 2);
    running.signal(Signal::KILL);
    drop(running);
    let run = sandbox.run();
    assert_eq!((run.state(), run.cause()), ("failed", "abandoned"));
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events.last().unwrap().0["attempt"], 2);
    assert_eq!(events.last().unwrap().payload()["earlier_attempts"][0]["cause"], "timeout");
    let shown = shown(&sandbox, &run);
    let causes: Vec<&str> = shown["attempts"].as_array().unwrap().iter().map(|a| a["cause"].as_str().unwrap_or("")).collect();
    assert_eq!(causes, ["timeout", "abandoned"]);
    assert!(sandbox.processes().is_empty());
}

#[test]
fn a_supervisor_killed_between_two_attempts_leaves_the_cause_of_the_last_one() {
    for how in ["error", "panic", "abort", "exit"] {
        let sandbox = sandbox();
        waits_for_ever(&sandbox);
        let running = fail_at_first(&sandbox, &["--retries", "3", "--how", how]);
        waits(&sandbox, 1);
        running.signal(Signal::KILL);
        drop(running);
        let run = sandbox.run();
        let cause = if how == "abort" { "signal" } else { how };
        assert_eq!(run.cause(), cause);
        assert!(run.message().ends_with("; its supervisor died before attempt 2"), "{}", run.message());
        assert_eq!(sandbox.whole_events_of(&run).last().unwrap().0["attempt"], 1);
        assert_eq!(std::fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0);
    }
}
