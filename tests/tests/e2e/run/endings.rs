//! What holds at the end of a run: the events before it, one terminal event, nothing after it, and the message. `zoo/jobs.rs` has a table
//! of the ways in which a job can end badly.

use lorchestra_tests::{Fixture, Run, Sandbox, eventually, processes};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Runs a job of `misbehave` that must fail with this code and cause; returns its run.
#[track_caller]
fn fails(sandbox: &Sandbox, args: &[&str], code: i32, cause: &str) -> Run {
    let ended = sandbox.lorchestra(&[&["run-job", "misbehave"], args].concat()).exits(code);
    let run = sandbox.runs().remove(0);
    assert_eq!((run.state(), run.cause()), ("failed", cause), "{} {run:?}", ended.shown());
    assert_eq!(ended.out(), "");
    assert!(ended.err().starts_with(&format!("✗ misbehave/{} failed: ", args[0])), "{}", ended.shown());
    assert!(ended.err().contains(&format!("cause: {cause} after")), "{}", ended.shown());
    assert!(ended.err().contains(&format!("lorchestra runs show {}", run.short())), "{}", ended.shown());
    sandbox.whole_events_of(&run);
    run
}

/// A dying worker closes its descriptors shortly before it can be waited for: whichever the supervisor notices first, it must notice the
/// other one too. Without a timeout it would wait forever for a death that it missed.
#[test]
fn a_death_is_detected_at_any_moment() {
    let sandbox = sandbox();
    for _ in 0..20 {
        sandbox.lorchestra(&["run-job", "misbehave", "overflow"]).exits(1);
        sandbox.lorchestra(&["run-job", "misbehave", "kill_self"]).exits(1);
    }
    assert!(sandbox.runs().iter().all(|run| run.cause() == "signal"));
}

#[test]
fn a_panic_is_reported_with_its_location() {
    let sandbox = sandbox();
    let run = fails(&sandbox, &["panic_now"], 1, "panic");
    let (place, _) = run.message().split_once(": the answer was 43").expect("message and place");
    let line = place.rsplit(':').next().and_then(|line| line.parse::<usize>().ok()).expect("a line");
    let source =
        std::fs::read_to_string(lorchestra_tests::built::workspace().join("tests/plugins/misbehave/src/lib.rs")).unwrap();
    assert!(source.lines().nth(line - 1).unwrap().contains("the answer was"), "{place}");
}

#[test]
fn events_emitted_before_the_end_are_stored() {
    for (then, cause) in [("fail", "error"), ("panic", "panic"), ("abort", "signal")] {
        let sandbox = sandbox();
        let run = fails(&sandbox, &["numbered", "--count", "500", "--then", then], 1, cause);
        assert_eq!(sandbox.numbers_of(&run), (0..500).collect::<Vec<_>>(), "{then}");
    }
}

#[test]
fn success_is_reported_in_one_line() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!((&*ended.plain_out(), ended.err()), ("✓ misbehave/noop completed (run [SHORT])\n", ""));
    assert_eq!(sandbox.run().state(), "completed");
    assert_eq!(sandbox.whole_events_of(&sandbox.run()).len(), 2);
    assert_eq!(std::fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0, "its spool is gone");
}

#[test]
fn failure_is_reported_with_its_cause_and_next_steps() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    insta::assert_snapshot!(ended.snapshot(&sandbox));
}

#[test]
fn many_events_at_once_are_all_stored() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "burst", "--count", "20000"]).exits(0);
    assert_eq!(sandbox.numbers_of(&sandbox.run()), (0..20000).collect::<Vec<_>>());
}

/// More than one segment of the spool (64 MiB).
#[test]
fn events_of_several_segments_are_all_stored() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "burst", "--count", "70", "--bytes", "1000000"]).exits(0);
    let shown = sandbox.lorchestra(&["runs", "show", sandbox.run().id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(shown["events"], serde_json::json!({"job.started": 1, "number": 70, "job.completed": 1}));
}

#[test]
fn an_invalid_event_is_refused_without_other_effects() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "emit_bad"]).exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    let [_, answers, _] = &events[..] else { panic!("one event of the job: {events:?}") };
    insta::assert_snapshot!(serde_json::to_string_pretty(answers.payload()).unwrap());
}

/// A thread of the job keeps emitting after the job has returned, in a process that has not ended yet.
#[test]
fn nothing_follows_the_final_record() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "emit_after_end", "--marker", &sandbox.arg("marker")]).exits(0);
    let marker = sandbox.read("marker");
    let (taken, refusal) = marker.split_once(' ').expect("the thread was refused");
    assert!(refusal.contains("ended"), "{marker}");
    let numbers = sandbox.numbers_of(&sandbox.run());
    assert_eq!(numbers, (0..taken.parse().unwrap()).collect::<Vec<_>>(), "accepted events are there, and nothing else");
    sandbox.install(Fixture::Constructor, "libconstructor.so");
    sandbox.lorchestra(&["run-job", "constructor", "loaded"]).exits(0);
}

#[test]
fn a_replaced_descriptor_is_a_spool_fault() {
    let sandbox = sandbox();
    let run = fails(&sandbox, &["hijack", "--other", &sandbox.arg("other")], 1, "spool");
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events[1].event_type(), "before", "acknowledged events are kept");
    assert!(sandbox.path("other").exists(), "the descriptor was replaced");
}

/// The descriptor is checked only every few emits; a flush that returns `Ok` has checked it.
#[test]
fn a_failed_flush_is_never_reported_as_success() {
    let sandbox = sandbox();
    fails(&sandbox, &["hijack", "--flush", "--other", &sandbox.arg("other")], 1, "spool");
    assert!(sandbox.path("other").exists(), "the descriptor was replaced");
}

/// Spool and store reach the file size limit, which acts like a full disk: the job gets an error, its run cannot be recorded, and the next
/// command records what happened.
#[test]
fn the_file_size_limit_is_named_as_the_cause() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let (acknowledged, begin) = (sandbox.arg("acknowledged"), sandbox.arg("begin"));
    let args = ["run-job", "misbehave", "numbered", "--count", "20000", "--acknowledged", &acknowledged, "--begin", &begin];
    let running = sandbox.start(&args);
    eventually("the job has started", || sandbox.path("begin.wanted").exists());
    // From now on, because the copy of the library is a file, too.
    running.children().into_iter().for_each(|pid| processes::limit_files(pid, 64 << 10));
    processes::limit_files(running.pid(), 4 << 10);
    std::fs::write(&begin, "").unwrap();
    let ended = running.wait().exits(74);
    assert!(ended.err().contains("cannot record the end of run"), "{}", ended.shown());
    let count = sandbox.read("acknowledged").lines().count() as u64;
    let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(listed.err().contains("was closed as spool: "), "{}", listed.shown());
    let run = sandbox.runs().remove(0);
    assert_eq!(run.cause(), "spool", "{}", run.message());
    assert!(run.message().contains("the final record could not be written"), "{}", run.message());
    assert_eq!(sandbox.numbers_of(&run), (0..count).collect::<Vec<_>>());
    assert!(0 < count && count < 20_000, "{count}");
}

/// Its spool can be created, but its log cannot.
#[test]
fn a_refused_run_leaves_nothing() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let logs = sandbox.state().join("logs");
    let mode = |mode| std::fs::set_permissions(&logs, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o500);
    for _ in 0..3 {
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(74);
        assert!(ended.err().contains("may not write to") && ended.err().contains("/logs"), "{}", ended.shown());
    }
    mode(0o700);
    let count = |name: &str| std::fs::read_dir(sandbox.state().join(name)).unwrap().count();
    assert_eq!((count("spool"), count("logs"), sandbox.runs().len()), (0, 1, 1));
}

#[test]
fn the_message_does_not_mention_an_empty_log() {
    let sandbox = sandbox();
    let run = fails(&sandbox, &["abort"], 1, "signal");
    assert!(!run.message().contains("end of the log"), "{}", run.message());
    assert_eq!(sandbox.lorchestra(&["runs", "logs", run.id()]).exits(0).out(), "");
    let run = fails(&sandbox, &["overflow"], 1, "signal");
    assert!(run.message().ends_with("see the end of the log"), "{}", run.message());
    assert!(sandbox.lorchestra(&["runs", "logs", run.id()]).exits(0).out().contains("overflow"));
}

#[test]
fn closed_descriptors_are_not_a_success_with_lost_events() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "close_all"]).exits(1);
    let run = sandbox.run();
    assert_eq!(run.state(), "failed", "{}", ended.shown());
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events[1].event_type(), "before", "acknowledged events are kept");
}
