//! Jobs that end badly (`tests/plugins/misbehave`), and jobs that attack the process that runs them (`tests/plugins/hostile`).

use super::{Book, COMPLETED, another_works, ended_as, fired};
use lorchestra_tests::{Fixture, Run, Sandbox, eventually, processes};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Additional checks.
type Look = fn(&Sandbox, &Run);
/// The arguments, without `--marker`; the exit code; the end; the number of processes the job ran in; additional checks.
type Specimen = (&'static [&'static str], i32, &'static str, usize, Look);

const NOTHING: Look = |_, _| {};

#[rustfmt::skip]
const MISBEHAVE: &[Specimen] = &[
    (&["misbehave", "fail"],                1, "error",  1, NOTHING),
    (&["misbehave", "fail_permanently"],    1, "error",  1, NOTHING),
    (&["misbehave", "panic_now"],           1, "panic",  1, NOTHING),
    (&["misbehave", "panic_with_a_number"], 1, "panic",  1, NOTHING),
    (&["misbehave", "panic_in_drop"],       1, "panic",  1, NOTHING),
    (&["misbehave", "abort"],               1, "signal", 1, NOTHING),
    (&["misbehave", "null"],                1, "signal", 1, NOTHING),
    (&["misbehave", "overflow"],            1, "signal", 1, NOTHING),
    (&["misbehave", "exit", "--code", "0"], 1, "exit",   1, NOTHING),
    (&["misbehave", "exit", "--code", "7"], 1, "exit",   1, NOTHING),
    (&["misbehave", "kill_self"],           1, "signal", 1, NOTHING),
    // A daemon in a new session that holds stdout; the pid in the marker is the daemon's.
    (&["misbehave", "leave_daemon"],        0, COMPLETED, 1, NOTHING),
];

#[rustfmt::skip]
const HOSTILE: &[Specimen] = &[
    // Panics that are not caught, and stacks without a guard page.
    (&["hostile", "panic_in_thread"],                     0, COMPLETED, 1, |s, run| logged(s, run, "the thread's answer was 44")),
    (&["hostile", "panic_in_thread", "--pass-on"],        1, "panic",   1, NOTHING),
    (&["hostile", "panic_twice"],                         1, "signal",  1, |s, run| logged(s, run, "the second one")),
    (&["hostile", "panic_in_display"],                    1, "panic",   1, NOTHING),
    (&["hostile", "overflow_in_thread"],                  1, "signal",  1, NOTHING),
    // Infinite loops, and ignored signals.
    (&["--timeout", "2s", "--grace", "0s", "hostile", "spin"],           124, "timeout", 1, NOTHING),
    (&["--timeout", "2s", "--grace", "1s", "hostile", "ignore_signals"], 124, "timeout", 1, NOTHING),
    (&["--timeout", "2s", "--grace", "0s", "hostile", "stop_self"],      124, "timeout", 1, NOTHING),
    (&["--timeout", "2s", "--grace", "0s", "hostile", "stop_supervisor"], 124, "timeout", 1, NOTHING),
    // Other ways to end.
    (&["hostile", "exec"],                                1, "exit",    1, NOTHING),
    (&["hostile", "exit_in_thread"],                      1, "exit",    1, NOTHING),
    (&["hostile", "kill_group"],                          1, "signal",  1, NOTHING),
    (&["hostile", "forbid_files"],                        1, "spool",   1, NOTHING),
    (&["hostile", "abort_after_end"],                     0, COMPLETED, 1, NOTHING),
    (&["hostile", "linger"],                              0, COMPLETED, 1, NOTHING),
    (&["hostile", "fork_and_return"],                     0, COMPLETED, 2, the_copy_emitted_nothing),
    // Its pid keeps changing, before anyone can inspect it.
    (&["hostile", "hydra"],                               0, COMPLETED, 1, |s, _| assert!(s.processes().is_empty())),
    (&["hostile", "swarm"],                               0, COMPLETED, 1, |s, _| assert!(s.processes().is_empty())),
    (&["hostile", "shut_control"],                        0, COMPLETED, 1, its_socket_was_shut),
    (&["hostile", "fork_and_return", "--bare"],           0, COMPLETED, 2, the_copy_emitted_nothing),
    // Output and messages.
    (&["hostile", "print_much"],                          0, COMPLETED, 1, |s, run| logged(s, run, "to nobody in particular")),
    (&["hostile", "say_much"],                            1, "error",   1, NOTHING),
    (&["hostile", "say_nothing"],                         1, "error",   1, NOTHING),
    (&["hostile", "steer"],                               1, "error",   1, it_is_shown_harmless),
    // Invalid events.
    (&["hostile", "emit_sized", "--bytes", "1048576"],    0, COMPLETED, 1, NOTHING),
    (&["hostile", "emit_sized", "--bytes", "1048577"],    1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "nan"],           1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "deep"],          1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "two"],           1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "torn"],          1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "latin"],         1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "half"],          1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "nul"],           1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "breaks"],        1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "vast"],          1, "error",   1, NOTHING),
    (&["hostile", "emit_raw", "--what", "number"],        0, COMPLETED, 1, NOTHING),
    // The spool, and the files around it.
    (&["hostile", "scribble"],                            1, "spool",   1, before_is_there),
    (&["hostile", "cut_spool"],                           1, "spool",   1, NOTHING),
    (&["hostile", "forge"],                               1, "signal",  1, what_was_forged_is_not_there),
    (&["hostile", "cut_spool", "--abort"],                1, "signal",  1, the_damage_is_reported),
    (&["hostile", "flood_spool"],                         0, COMPLETED, 1, after_is_there),
    (&["hostile", "flood_spool", "--full"],               0, COMPLETED, 1, after_is_there),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "spool"],   0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "segment"], 0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "lock"],    0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "end"],     0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "out"],     0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "trace"],   0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "logs"],    0, COMPLETED, 1, the_second_attempt_ran),
    (&["--retries", "1", "hostile", "obstruct_next", "--what", "no-logs"], 1, "signal",  1, NOTHING),
    (&["hostile", "remove_spool"],                        1, "spool",   1, NOTHING),
    (&["hostile", "remove_spool", "--abort"],             1, "spool",   1, NOTHING),
    (&["hostile", "obstruct", "--what", "segment"],       1, "spool",   1, NOTHING),
    (&["hostile", "obstruct", "--what", "next"],          0, COMPLETED, 1, before_and_after),
    (&["hostile", "obstruct", "--what", "zero"],          0, COMPLETED, 1, before_and_after),
    (&["hostile", "obstruct", "--what", "log"],           0, COMPLETED, 1, before_and_after),
    (&["hostile", "obstruct", "--what", "piece"],         0, COMPLETED, 1, before_and_after),
    (&["hostile", "own_files"],                           1, "spool",   1, before_is_there),
    (&["hostile", "wander"],                              0, COMPLETED, 1, nothing_is_open_to_others),
];

fn examined(specimens: &[Specimen]) -> Book {
    let mut book = Book::default();
    for (call, code, end, processes, look) in specimens {
        let name = call.join(" ");
        let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Hostile, Fixture::Constructor]);
        sandbox.configure("[job.\"hostile/obstruct_next\"]\nretry_wait = \"1s\"\n");
        let ended = sandbox.lorchestra(&[&["run-job"], *call, &["--marker", &sandbox.arg("marker")]].concat());
        fired(&sandbox, &name, *processes);
        let run = ended_as(&sandbox, &name, &ended, *code, end).expect("a run");
        look(&sandbox, &run);
        book.page(&name, &sandbox, &ended, Some(&run));
        another_works(&sandbox, &name, "constructor", "loaded");
    }
    book
}

#[test]
fn a_job_that_ends_badly_is_reported_correctly() {
    insta::assert_snapshot!("misbehave", examined(MISBEHAVE).text());
}

#[test]
fn a_hostile_job_harms_only_its_own_run() {
    insta::assert_snapshot!("hostile", examined(HOSTILE).text());
}

/// A path that is not a lock, or not a spool, does not prevent closing the run.
#[test]
fn a_run_of_a_killed_supervisor_is_closed_despite_obstacles_left_by_its_job() {
    for what in ["lock", "run-lock", "spool"] {
        let sandbox = Sandbox::with(&[Fixture::Hostile]);
        let args = ["run-job", "hostile", "obstruct_recovery", "--what", what, "--marker", &sandbox.arg("marker")];
        let mut running = sandbox.start(&args);
        eventually("the supervisor is dead", || running.has_ended());
        let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
        let run = sandbox.run();
        assert_eq!((run.state(), run.cause()), ("failed", "abandoned"), "{what}: {}", listed.shown());
        let worker: u32 = sandbox.read("marker").trim().parse().expect("a pid");
        assert!(!processes::is_alive(worker), "{what}");
        sandbox.lorchestra(&["run-job", "hostile", "shut_control", "--marker", "-"]).exits(0);
        assert!(std::fs::read_dir(sandbox.state().join("spool")).unwrap().next().is_none(), "{what}: nothing is left of it");
    }
}

/// The control socket is closed with all other descriptors, and the worker still detects its supervisor's death.
#[test]
fn a_worker_without_descriptors_does_not_outlive_its_supervisor() {
    let sandbox = Sandbox::with(&[Fixture::Hostile]);
    let running = sandbox.start(&["run-job", "hostile", "own_files", "--stay", "--marker", &sandbox.arg("marker")]);
    eventually("the descriptors are closed", || sandbox.path("marker.staying").exists());
    let worker: u32 = sandbox.read("marker").trim().parse().expect("a pid");
    assert!(processes::is_alive(worker));
    processes::kill(running.pid());
    eventually("the worker is gone", || !processes::is_alive(worker));
    let run = sandbox.run();
    assert_eq!(run.state(), "failed");
    before_is_there(&sandbox, &run);
}

/// No process is left to resume its supervisor: the next command does.
#[test]
fn a_supervisor_that_was_stopped_still_ends_its_run() {
    for (then, code, end) in [("return", 0, "completed"), ("die", 1, "failed")] {
        let again = ["run-job", "--timeout", "1s", "--grace", "0s", "hostile", "stop_supervisor", "--marker", "-"];
        for next in [&["runs", "list"][..], &["events", "list"], &again] {
            let sandbox = Sandbox::with(&[Fixture::Hostile]);
            let args = ["run-job", "hostile", "stop_supervisor", "--then", then, "--marker", &sandbox.arg("marker")];
            let running = sandbox.start(&args);
            eventually("it is stopped", || sandbox.read("marker").ends_with('\n'));
            let worker: u32 = sandbox.read("marker").trim().parse().expect("a pid");
            eventually("the worker is gone", || !processes::is_alive(worker));
            assert!(processes::is_stopped(running.pid()), "{then}, {next:?}");
            let ended = sandbox.lorchestra(next);
            // The same job finds the lock held; or free, if the supervisor that it has resumed was faster.
            let expected: &[i32] = if next[0] == "run-job" { &[75, 124] } else { &[0] };
            assert!(ended.code().is_some_and(|code| expected.contains(&code)), "{}", ended.shown());
            running.wait().exits(code);
            let run = sandbox.runs().pop().expect("the first run");
            assert_eq!(run.state(), end, "{then}, {next:?}");
            sandbox.whole_events_of(&run);
        }
    }
}

/// The supervisor hardly gets to run. Which process ends the job, and so the recorded cause, is a race; but the run always ends.
#[test]
fn a_supervisor_that_is_stopped_again_and_again_keeps_its_deadline() {
    let sandbox = Sandbox::with(&[Fixture::Hostile]);
    let args = ["run-job", "--timeout", "1s", "--grace", "0s", "hostile", "stop_supervisor", "--then", "again"];
    let running = sandbox.start(&[&args[..], &["--marker", &sandbox.arg("marker")]].concat());
    eventually("it is stopped", || sandbox.read("marker").ends_with('\n'));
    let worker: u32 = sandbox.read("marker").trim().parse().expect("a pid");
    eventually("the worker is gone", || !processes::is_alive(worker));
    // The job's last action may have come last.
    sandbox.lorchestra(&["runs", "list"]).exits(0);
    let ended = running.wait();
    let run = sandbox.run();
    assert_eq!((ended.code(), run.cause()), (Some(124), "timeout"), "{}", ended.shown());
    sandbox.whole_events_of(&run);
}

/// Stopping a run also resumes its supervisor while its job is still running.
#[test]
fn a_run_whose_supervisor_is_stopped_can_be_stopped() {
    let sandbox = Sandbox::with(&[Fixture::Hostile]);
    let args = ["run-job", "--grace", "0s", "hostile", "stop_supervisor", "--marker", &sandbox.arg("marker")];
    let running = sandbox.start(&args);
    eventually("it is stopped", || sandbox.read("marker").ends_with('\n'));
    let id = sandbox.run().id().to_owned();
    assert!(processes::is_stopped(running.pid()), "showing a run whose job continues does not resume its supervisor");
    sandbox.lorchestra(&["runs", "stop", &id]).exits(0);
    running.wait().exits(143);
    assert_eq!(sandbox.run().cause(), "cancelled");
}

#[track_caller]
fn logged(sandbox: &Sandbox, run: &Run, words: &str) {
    let logs = sandbox.lorchestra(&["runs", "logs", run.id()]).exits(0);
    let text = String::from_utf8_lossy(&logs.stdout);
    assert!(text.contains(words), "{}", &text[..text.len().min(1000)]);
}

#[track_caller]
fn its_socket_was_shut(sandbox: &Sandbox, run: &Run) {
    assert_ne!(sandbox.whole_events_of(run)[1].payload()["shut"], 0);
}

#[track_caller]
fn what_was_forged_is_not_there(sandbox: &Sandbox, run: &Run) {
    let types: Vec<_> = sandbox.whole_events_of(run).iter().map(|event| event.event_type().to_owned()).collect();
    assert_eq!(types, ["job.started", "before", "job.failed"]);
    assert!(run.message().contains("2 records of the spool were damaged"), "{}", run.message());
}

/// Events stored before and after; and a report that something is missing.
#[track_caller]
fn the_damage_is_reported(sandbox: &Sandbox, run: &Run) {
    let numbers: Vec<u64> = sandbox.whole_events_of(run).iter().filter_map(|event| event.payload()["n"].as_u64()).collect();
    assert_eq!(numbers, (0..15).collect::<Vec<_>>());
    assert!(run.message().contains("1 record of the spool was damaged"), "{}", run.message());
}

#[track_caller]
fn after_is_there(sandbox: &Sandbox, run: &Run) {
    assert_eq!(sandbox.whole_events_of(run)[1].event_type(), "after");
}

#[track_caller]
fn the_second_attempt_ran(sandbox: &Sandbox, run: &Run) {
    let events = sandbox.whole_events_of(run);
    assert_eq!((events.len(), events[1].event_type(), &events[2].payload()["attempt"]), (3, "second", &2.into()));
}

#[track_caller]
fn before_is_there(sandbox: &Sandbox, run: &Run) {
    assert_eq!(sandbox.whole_events_of(run)[1].event_type(), "before", "acknowledged events are kept");
}

/// Obstructions by the job block no one, not even a reader of its logs.
fn before_and_after(sandbox: &Sandbox, run: &Run) {
    let types: Vec<_> = sandbox.whole_events_of(run).iter().map(|event| event.event_type().to_owned()).collect();
    assert_eq!(types, ["job.started", "before", "after", "job.completed"]);
    let logs = sandbox.lorchestra(&["runs", "logs", run.id()]);
    assert!(matches!(logs.code(), Some(0 | 1)), "{:?}: {}", logs.code(), logs.err());
}

/// The worker's events are there once each; the copy was refused.
fn the_copy_emitted_nothing(sandbox: &Sandbox, run: &Run) {
    assert_eq!(sandbox.read("marker.copy"), "0", "events of the copy that were taken");
    assert_eq!(sandbox.numbers_of(run), (0..100).collect::<Vec<_>>());
}

/// Control characters for terminals are removed from docstrings, defaults and messages of a plugin.
fn it_is_shown_harmless(sandbox: &Sandbox, run: &Run) {
    for args in [
        &["jobs", "show", "hostile", "steer"][..],
        &["jobs", "list", "hostile"],
        &["run-job", "hostile", "steer", "--help"],
        &["run-job", "--dry-run", "hostile", "steer", "--marker", "x"],
        &["runs", "show", run.id()],
    ] {
        let ended = sandbox.lorchestra(args).exits(0);
        let found = ended.out().chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(found, None, "{}", ended.shown());
    }
}

/// The job's umask affects only the job: lorchestra's files are accessible only to its user.
fn nothing_is_open_to_others(sandbox: &Sandbox, _: &Run) {
    assert!(sandbox.data().join("hostile/left").exists(), "the data directory did not move with the job");
    let mode = sandbox.data().join("hostile").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the data directory has mode {mode:o}");
    let mut files = 0;
    all_below(&sandbox.state(), &mut |path| {
        files += 1;
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    });
    assert!(files > 5, "{files} files");
}

fn all_below(dir: &Path, look: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        look(&path);
        if path.is_dir() {
            all_below(&path, look);
        }
    }
}
