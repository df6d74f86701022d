//! Every way in which a job can end: the exit code, the cause, exactly one terminal event, the events before it, and a marker
//! that proves that the fault happened.

use lorchestra_tests::{Fixture, Run, Sandbox, processes};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Runs a job of `misbehave` that must fail with this code and cause; its run.
#[track_caller]
fn fails(sandbox: &Sandbox, args: &[&str], code: i32, cause: &str) -> Run {
    let ended = sandbox.lorchestra(&[&["run-job", "misbehave"], args].concat()).exits(code);
    let run = sandbox.runs().remove(0);
    assert_eq!((run.state(), run.cause()), ("failed", cause), "{} {run:?}", ended.shown());
    assert_eq!(ended.out(), "");
    assert!(ended.err().starts_with(&format!("✗ misbehave/{} failed: ", args[0])), "{}", ended.shown());
    assert!(ended.err().contains(&format!("cause: {cause} after")), "{}", ended.shown());
    assert!(ended.err().contains(&format!("lorchestra runs show {}", run.id())), "{}", ended.shown());
    sandbox.whole_events_of(&run);
    run
}

/// Job and flags, and of its end: cause, signal, exit code, part of the message.
type Fault = (&'static [&'static str], &'static str, Option<i32>, Option<i32>, &'static str);

const FAULTS: &[Fault] = &[
    (&["fail"], "error", None, None, "No such file or directory"),
    (&["fail_permanently"], "error", None, None, "the mailbox is not yours"),
    (&["panic_now"], "panic", None, None, "the answer was 43"),
    (&["panic_with_a_number"], "panic", None, None, "panicked at "),
    (&["panic_in_drop"], "panic", None, None, "dropped"),
    (&["abort"], "signal", Some(6), None, "SIGABRT"),
    (&["null"], "signal", Some(11), None, "SIGSEGV"),
    (&["overflow"], "signal", Some(6), None, "stack overflow"),
    (&["exit", "--code", "0"], "exit", None, Some(0), "exit code 0"),
    (&["exit", "--code", "7"], "exit", None, Some(7), "exit code 7"),
    (&["kill_self"], "signal", Some(9), None, "SIGKILL"),
];

#[test]
fn faults_are_told_apart() {
    let sandbox = sandbox();
    for (i, (args, cause, signal, exit_code, message)) in FAULTS.iter().enumerate() {
        let marker = sandbox.arg(&format!("marker{i}"));
        let run = fails(&sandbox, &[args, &["--marker", &marker][..]].concat(), 1, cause);
        let pid: u32 = sandbox.read(&format!("marker{i}")).trim().parse().expect("the fault was reached");
        assert!(!processes::is_alive(pid), "the worker is gone");
        assert!(run.message().contains(message), "{args:?}: {}", run.message());
        let events = sandbox.whole_events_of(&run);
        let payload = events.last().unwrap().payload();
        assert_eq!(payload["signal"].as_i64(), signal.map(i64::from), "{args:?} {payload}");
        assert_eq!(payload["exit_code"].as_i64(), exit_code.map(i64::from), "{args:?} {payload}");
        assert_eq!(payload["attempt"], 1);
        assert_eq!(payload["permanent"], args[0] == "fail_permanently", "{args:?}");
    }
    assert_eq!(sandbox.runs().len(), FAULTS.len());
}

/// A worker that dies closes its descriptors a moment before it can be waited for: whichever the supervisor sees first, it must
/// see the other one too. Without a timeout, a death that was missed would be waited for for ever.
#[test]
fn a_death_is_seen_whenever_it_comes() {
    let sandbox = sandbox();
    for _ in 0..20 {
        sandbox.lorchestra(&["run-job", "misbehave", "overflow"]).exits(1);
        sandbox.lorchestra(&["run-job", "misbehave", "kill_self"]).exits(1);
    }
    assert!(sandbox.runs().iter().all(|run| run.cause() == "signal"));
}

#[test]
fn a_panic_names_its_place() {
    let sandbox = sandbox();
    let run = fails(&sandbox, &["panic_now"], 1, "panic");
    let (place, _) = run.message().split_once(": the answer was 43").expect("message and place");
    let line = place.rsplit(':').next().and_then(|line| line.parse::<usize>().ok()).expect("a line");
    let source =
        std::fs::read_to_string(lorchestra_tests::built::workspace().join("tests/plugins/misbehave/src/lib.rs")).unwrap();
    assert!(source.lines().nth(line - 1).unwrap().contains("the answer was"), "{place}");
}

#[test]
fn what_was_emitted_before_the_end_is_there() {
    for (then, cause) in [("fail", "error"), ("panic", "panic"), ("abort", "signal")] {
        let sandbox = sandbox();
        let run = fails(&sandbox, &["numbered", "--count", "500", "--then", then], 1, cause);
        assert_eq!(sandbox.numbers_of(&run), (0..500).collect::<Vec<_>>(), "{then}");
    }
}

#[test]
fn success_is_told_in_one_line() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!((ended.out(), ended.err()), ("✓ misbehave/noop completed\n", ""));
    assert_eq!(sandbox.run().state(), "completed");
    assert_eq!(sandbox.whole_events_of(&sandbox.run()).len(), 2);
    assert_eq!(std::fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0, "its spool is gone");
}

#[test]
fn failure_is_told_with_its_cause_and_what_to_look_at() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    insta::assert_snapshot!(ended.snapshot(&sandbox));
}

#[test]
fn many_events_at_once_are_all_there() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "burst", "--count", "20000"]).exits(0);
    assert_eq!(sandbox.numbers_of(&sandbox.run()), (0..20000).collect::<Vec<_>>());
}

/// More than one segment of the spool (64 MiB).
#[test]
fn events_of_several_segments_are_all_there() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "burst", "--count", "70", "--bytes", "1000000"]).exits(0);
    let shown = sandbox.lorchestra(&["runs", "show", sandbox.run().id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(shown["events"], serde_json::json!({"job.started": 1, "number": 70, "job.completed": 1}));
}

#[test]
fn what_is_no_event_is_refused_and_costs_nothing_else() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "emit_bad"]).exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    let [_, answers, _] = &events[..] else { panic!("one event of the job: {events:?}") };
    insta::assert_snapshot!(serde_json::to_string_pretty(answers.payload()).unwrap());
}

/// A thread of the job goes on emitting after the job has returned, in a process that has not ended yet.
#[test]
fn nothing_follows_the_final_record() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "emit_after_end", "--marker", &sandbox.arg("marker")]).exits(0);
    let marker = sandbox.read("marker");
    let (taken, refusal) = marker.split_once(' ').expect("the thread was refused");
    assert!(refusal.contains("ended"), "{marker}");
    let numbers = sandbox.numbers_of(&sandbox.run());
    assert_eq!(numbers, (0..taken.parse().unwrap()).collect::<Vec<_>>(), "what was taken is there, and nothing else");
}

#[test]
fn a_stolen_descriptor_is_a_fault_of_the_spool() {
    let sandbox = sandbox();
    let run = fails(&sandbox, &["hijack", "--other", &sandbox.arg("other")], 1, "spool");
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events[1].event_type(), "before", "what was acknowledged before is there");
    assert!(sandbox.path("other").exists(), "the descriptor was stolen");
}

#[test]
fn closed_descriptors_are_no_success_with_lost_events() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "close_all"]).exits(1);
    let run = sandbox.run();
    assert_eq!(run.state(), "failed", "{}", ended.shown());
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events[1].event_type(), "before", "what was acknowledged before is there");
}
