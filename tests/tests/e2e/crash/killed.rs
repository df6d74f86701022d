//! kill -9 of the worker, of the supervisor, or of both, at random moments: after the next command every event whose emit returned is in
//! the store once, and the run has exactly one correct end.
//!
//! Twenty rounds; use `LORCHESTRA_TEST_ROUNDS=200` as a soak test.

use lorchestra_tests::{Fixture, Run, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// Number of events that a round's job emits.
const EVENTS: u64 = 10_000;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn numbering(sandbox: &Sandbox, count: u64) -> Running {
    sandbox.start(&[
        "run-job",
        "misbehave",
        "numbered",
        "--count",
        &count.to_string(),
        "--acknowledged",
        &sandbox.arg("acknowledged"),
    ])
}

/// The acknowledged events; the kill may have torn the last line, which then does not count.
fn acknowledged(sandbox: &Sandbox) -> u64 {
    let text = sandbox.read("acknowledged");
    text.matches('\n').count() as u64
}

/// A number below `bound`.
fn random(bound: u64) -> u64 {
    RandomState::new().build_hasher().finish() % bound
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Worker,
    Supervisor,
    Both,
}

#[test]
fn nothing_acknowledged_is_lost_or_duplicated() {
    // Measures how long such a run takes undisturbed, to spread the kills over it.
    let whole = sandbox();
    let begin = Instant::now();
    numbering(&whole, EVENTS).wait().exits(0);
    let length = u64::try_from(begin.elapsed().as_micros()).unwrap();
    assert_eq!(whole.numbers_of(&whole.run()), (0..EVENTS).collect::<Vec<_>>());

    let mut ended_early = 0;
    let rounds = lorchestra_tests::rounds(20);
    for round in 0..rounds {
        let victim = [Victim::Worker, Victim::Supervisor, Victim::Both][round as usize % 3];
        let moment = Duration::from_micros(random(length));
        let sandbox = sandbox();
        let running = numbering(&sandbox, EVENTS);
        // Every fourth kill is by time, which also hits the start and the end of a run; the others when the job has reached a point.
        if round % 4 == 0 {
            std::thread::sleep(moment);
        } else {
            let target = random(EVENTS);
            eventually("the job reaches this point", || acknowledged(&sandbox) >= target);
        }
        let workers = running.children();
        if victim != Victim::Worker {
            running.signal(Signal::KILL);
        }
        if victim != Victim::Supervisor {
            workers.iter().for_each(|pid| processes::kill(*pid));
        }
        let label = format!("round {round}, {victim:?} after {moment:?}");
        // Its status is not checked: the next command shows the outcome.
        drop_killed(running, victim);
        eventually(&format!("{label}: the workers are gone"), || workers.iter().all(|pid| !processes::is_alive(*pid)));
        let runs = sandbox.runs();
        let Some(run) = runs.first() else {
            assert_eq!(acknowledged(&sandbox), 0, "{label}: events without a run");
            continue;
        };
        assert_eq!(runs.len(), 1, "{label}");
        ended_early += u32::from(run.state() == "failed");
        is_true(&sandbox, run, victim, &label);
        assert!(sandbox.runs()[0].0 == run.0, "{label}: it stays closed");
    }
    assert!(rounds < 10 || ended_early > rounds / 10, "kills hit a running job: {ended_early} of {rounds}");
}

/// Lets the supervisor end if it is alive, and checks the rules for its output.
fn drop_killed(running: Running, victim: Victim) {
    match victim {
        Victim::Worker => drop(running.wait()),
        Victim::Supervisor | Victim::Both => drop(running),
    }
}

/// Checks that the run's end matches the evidence.
#[track_caller]
fn is_true(sandbox: &Sandbox, run: &Run, victim: Victim, label: &str) {
    let numbers = sandbox.numbers_of(run);
    let safe = acknowledged(sandbox);
    // In order from 0 without gaps: no number is missing or duplicated.
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{label}");
    assert!(numbers.len() as u64 >= safe, "{label}: {} stored, {safe} acknowledged", numbers.len());
    match (run.state(), run.cause(), victim) {
        ("completed", "", _) => assert_eq!(numbers.len() as u64, EVENTS, "{label}: completed"),
        // Killed while the library was loading: nothing was emitted.
        ("failed", "load", Victim::Worker) => assert!(numbers.is_empty(), "{label}: {run:?}"),
        ("failed", "signal", Victim::Worker) => assert!(run.message().contains("SIGKILL"), "{label}: {run:?}"),
        ("failed", "abandoned", Victim::Supervisor | Victim::Both) => {}
        _ => panic!("{label}: this end is not true: {run:?}"),
    }
}

/// The supervisor is stopped, so that it cannot see the final record, and killed once the worker has ended.
#[test]
fn a_run_whose_job_had_ended_is_completed_not_abandoned() {
    let sandbox = sandbox();
    let count = 20_000;
    let running = numbering(&sandbox, count);
    eventually("the job has started", || acknowledged(&sandbox) > 0);
    running.signal(Signal::STOP);
    eventually("the supervisor is stopped", || processes::is_stopped(running.pid()));
    assert!(acknowledged(&sandbox) < count, "stopped while the job was running");
    let workers = running.children();
    assert_eq!(workers.len(), 1);
    eventually("the worker has ended on its own", || !processes::is_alive(workers[0]));
    assert_eq!(acknowledged(&sandbox), count);
    running.signal(Signal::KILL);
    drop(running);

    let ended = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(ended.err().contains("completed before its supervisor died"), "{}", ended.shown());
    let run = sandbox.run();
    assert_eq!((run.state(), run.cause()), ("completed", ""));
    assert_eq!(sandbox.numbers_of(&run), (0..count).collect::<Vec<_>>());
}

/// The same with a job that failed: its outcome is kept, too.
#[test]
fn a_run_whose_job_had_failed_keeps_its_own_cause() {
    let sandbox = sandbox();
    let acknowledged_file = sandbox.arg("acknowledged");
    let args = ["run-job", "misbehave", "numbered", "--count", "20000", "--then", "fail", "--acknowledged", &acknowledged_file];
    let running = sandbox.start(&args);
    eventually("the job has started", || acknowledged(&sandbox) > 0);
    running.signal(Signal::STOP);
    eventually("the supervisor is stopped", || processes::is_stopped(running.pid()));
    let workers = running.children();
    eventually("the worker has ended on its own", || !processes::is_alive(workers[0]));
    running.signal(Signal::KILL);
    drop(running);
    let run = sandbox.run();
    assert_eq!((run.cause(), run.message()), ("error", "failed after the last number"));
}

#[test]
fn an_abandoned_run_is_reported_by_the_next_command() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    running.signal(Signal::KILL);
    drop(running);
    // Reading the catalog does not read runs.
    assert_eq!(sandbox.lorchestra(&["jobs", "list", "misbehave"]).exits(0).err(), "");
    assert_eq!(sandbox.lorchestra(&["run-job", "--dry-run", "misbehave", "noop"]).exits(0).err(), "");
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "ignore_term", "--seconds", "0"]).exits(0);
    assert!(ended.err().lines().next().is_some_and(|line| line.contains("was closed as abandoned")), "{}", ended.shown());
    let causes: Vec<String> = sandbox.runs().iter().map(|run| run.cause().to_owned()).collect();
    assert_eq!(causes, ["", "abandoned"]);
}

/// The worker's group dies with its supervisor, without any other command. Several rounds, because what kills the group must not race with
/// what kills the worker alone.
#[test]
fn no_process_of_the_group_survives_its_supervisor() {
    for round in 0..6 {
        let sandbox = sandbox();
        let running = sandbox.start(&["run-job", "misbehave", "leave_child", "--stay", "--marker", &sandbox.arg("marker")]);
        eventually("the child is started", || sandbox.read("marker").ends_with('\n'));
        let child = sandbox.read("marker").trim().parse().unwrap();
        let workers = running.children();
        assert!(processes::is_alive(child) && workers.len() == 1);
        running.signal(Signal::KILL);
        drop(running);
        eventually(&format!("worker and child are gone, round {round}"), || {
            !processes::is_alive(child) && !processes::is_alive(workers[0])
        });
        assert_eq!(sandbox.run().cause(), "abandoned");
    }
}

/// A daemon in its own session is out of its watchdog's reach: the next command kills it.
#[test]
fn processes_left_by_a_killed_supervisor_and_worker_are_killed_by_the_next_command() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "leave_daemon", "--stay", "--marker", &sandbox.arg("marker")]);
    eventually("the daemon is started", || sandbox.read("marker").ends_with('\n'));
    let daemon: u32 = sandbox.read("marker").trim().parse().unwrap();
    // The daemon has become the supervisor's child.
    let workers: Vec<u32> = running.children().into_iter().filter(|pid| *pid != daemon).collect();
    assert_eq!(workers.len(), 1);
    running.signal(Signal::STOP);
    eventually("the supervisor is stopped", || processes::is_stopped(running.pid()));
    workers.iter().for_each(|pid| processes::kill(*pid));
    running.signal(Signal::KILL);
    drop(running);
    assert!(processes::is_alive(daemon), "no process was left to kill it");
    assert_eq!(sandbox.run().cause(), "abandoned");
    eventually("the daemon is gone", || !processes::is_alive(daemon));
}

/// The supervisor dies between stopping the job and recording that.
#[test]
fn a_stopped_run_is_not_closed_as_abandoned() {
    let sandbox = sandbox();
    let args = ["run-job", "misbehave", "ignore_term", "--grace", "1h", "--marker", &sandbox.arg("marker")];
    let running = sandbox.start(&args);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    let run = sandbox.run();
    let note = format!("home/.local/state/lorchestra/spool/{}/1.end", run.id());
    assert!(!sandbox.read(&note).contains("cancelled"));
    running.signal(Signal::INT);
    eventually("it is noted", || sandbox.read(&note).contains("cancelled"));
    running.signal(Signal::KILL);
    drop(running);
    let run = sandbox.run();
    assert_eq!((run.cause(), run.message()), ("cancelled", "cancelled by SIGINT"));
    sandbox.whole_events_of(&run);
}

/// Recovery holds the overlap lock while it waits for a stopped worker, which is not a live run.
#[test]
fn a_run_that_is_being_closed_does_not_count_as_running() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    let workers = running.children();
    processes::signal(workers[0], Signal::STOP);
    eventually("the worker is stopped", || processes::is_stopped(workers[0]));
    running.signal(Signal::KILL);
    drop(running);
    let lists: Vec<Running> = (0..3).map(|_| sandbox.start(&["runs", "list"])).collect();
    let next = sandbox.start(&["run-job", "misbehave", "ignore_term", "--seconds", "0"]);
    for command in lists.into_iter().chain([next]) {
        command.wait().exits(0);
    }
    let causes: Vec<String> = sandbox.runs().iter().map(|run| run.cause().to_owned()).collect();
    assert_eq!(causes, ["", "abandoned"]);
    assert!(!processes::is_alive(workers[0]));
}

/// A run whose spool cannot be read blocks neither listing nor other runs.
#[test]
fn a_run_that_cannot_be_closed_is_a_warning() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    let spool = sandbox.state().join("spool").join(sandbox.run().id()).join("1");
    running.signal(Signal::KILL);
    let workers = running.children();
    drop(running);
    eventually("the worker is gone", || workers.iter().all(|pid| !processes::is_alive(*pid)));
    let segment = spool.join("1");
    let mode = |mode| std::fs::set_permissions(&segment, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o000);
    let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(listed.err().contains("cannot close run") && listed.out().contains("abandoned"), "{}", listed.shown());
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "ignore_term", "--seconds", "0"]).exits(74);
    let run = listed.out().lines().skip(1).find_map(|line| Some(line.split_once("  ")?.0)).unwrap();
    let stopped = sandbox.lorchestra(&["runs", "stop", run]).exits(74);
    assert!(
        stopped.err().contains("/spool/") && !stopped.err().contains("kill"),
        "no process is left to signal: {}",
        stopped.shown()
    );
    // Once fixed, it is closed like any other.
    mode(0o600);
    sandbox.lorchestra(&["run-job", "misbehave", "ignore_term", "--seconds", "0"]).exits(0);
    let mut ended: Vec<(String, String)> =
        sandbox.runs().iter().map(|run| (run.state().to_owned(), run.cause().to_owned())).collect();
    ended.sort();
    let expected = [("completed", ""), ("completed", ""), ("failed", "abandoned")];
    assert!(ended.iter().map(|(state, cause)| (state.as_str(), cause.as_str())).eq(expected), "{ended:?}");
}

/// A run that is only in the store: its spool was removed manually, or the store was copied without it.
#[test]
fn a_run_whose_spool_is_gone_is_closed() {
    for next in [&["runs", "list"][..], &["run-job", "misbehave", "ignore_term", "--seconds", "0"], &["runs", "stop", "RUN"]] {
        let sandbox = sandbox();
        let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
        eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
        let run = sandbox.run();
        std::fs::remove_dir_all(sandbox.state().join("spool").join(run.id())).unwrap();
        // While its supervisor is alive, only the supervisor ends it.
        assert_eq!(sandbox.run().state(), "running");
        let workers = running.children();
        running.signal(Signal::KILL);
        drop(running);
        eventually("the worker is gone", || workers.iter().all(|pid| !processes::is_alive(*pid)));
        let args: Vec<&str> = next.iter().map(|arg| if *arg == "RUN" { run.id() } else { arg }).collect();
        let ended = sandbox.lorchestra(&args).exits(0);
        assert!(
            ended.err().contains("was closed as abandoned") && ended.err().contains("spool directory is missing"),
            "{}",
            ended.shown()
        );
        let run = sandbox.runs().pop().unwrap();
        assert_eq!((run.state(), run.cause()), ("failed", "abandoned"));
        sandbox.whole_events_of(&run);
        assert_eq!(sandbox.lorchestra(&["runs", "list", "--running"]).exits(0).out(), "");
    }
}

/// The job has returned; its supervisor was stopped, and is killed. Nobody looks for a while.
#[test]
fn a_dead_run_ended_when_its_job_did_and_not_when_it_is_found() {
    let sandbox = sandbox();
    let (file, end) = (sandbox.arg("acknowledged"), sandbox.arg("end"));
    let args = ["run-job", "misbehave", "numbered", "--count", "3", "--acknowledged", &file, "--end", &end];
    let running = sandbox.start(&args);
    eventually("all events are acknowledged", || acknowledged(&sandbox) == 3);
    let worker = running.children()[0];
    running.signal(Signal::STOP);
    std::fs::write(&end, "").unwrap();
    eventually("the job has ended", || !processes::is_alive(worker));
    running.signal(Signal::KILL);
    drop(running);
    let killed = chrono::Utc::now();
    std::thread::sleep(Duration::from_millis(1500));
    let run = sandbox.run();
    assert_eq!(run.state(), "completed");
    let ended = chrono::DateTime::parse_from_rfc3339(run.0["ended_at"].as_str().unwrap()).unwrap();
    assert!(ended < killed + Duration::from_secs(1), "{ended} {killed}");
    let events = sandbox.whole_events_of(&run);
    let took = events.last().unwrap().payload()["duration_ms"].as_i64().unwrap();
    let started = chrono::DateTime::parse_from_rfc3339(run.0["started_at"].as_str().unwrap()).unwrap();
    assert!(((ended - started).num_milliseconds() - took).abs() <= 1, "{took} {run:?}");
}
