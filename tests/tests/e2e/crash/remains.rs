//! Nothing survives a run: processes of its job are gone when it has ended or, if its supervisor was killed, after the next command.

use lorchestra_tests::processes::{self, state_id};
use lorchestra_tests::sandbox::copy_all;
use lorchestra_tests::{Fixture, Running, Sandbox, eventually};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Jobs that leave a process behind: in the group; in a new session; forked twice, in a new session. The latter two hold the job's output
/// open.
const LEAVING: [&str; 3] = ["leave_child", "leave_daemon", "leave_grandchild"];

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn left(sandbox: &Sandbox) -> u32 {
    sandbox.read("marker").trim().parse().expect("a process was started")
}

/// A run that has left a process and is still running.
fn leaving(sandbox: &Sandbox, job: &str) -> (Running, u32) {
    let running = sandbox.start(&["run-job", "misbehave", job, "--stay", "--marker", &sandbox.arg("marker")]);
    eventually("the process is started", || sandbox.read("marker").ends_with('\n'));
    let pid = left(sandbox);
    assert!(processes::is_alive(pid));
    (running, pid)
}

#[test]
fn a_run_that_ends_leaves_nothing() {
    for job in LEAVING {
        let sandbox = sandbox();
        let ended = sandbox.lorchestra(&["run-job", "misbehave", job, "--marker", &sandbox.arg("marker")]).exits(0);
        assert!(!processes::is_alive(left(&sandbox)), "{job}: {}", ended.shown());
        assert!(sandbox.processes().is_empty(), "{job}");
    }
}

#[test]
fn a_stopped_run_leaves_nothing() {
    for job in LEAVING {
        let sandbox = sandbox();
        let (running, pid) = leaving(&sandbox, job);
        running.signal(Signal::INT);
        running.signal(Signal::INT);
        eventually("it is reported again", || {
            running.signal(Signal::INT);
            !processes::is_alive(pid)
        });
        running.wait().exits(130);
        assert!(sandbox.processes().is_empty(), "{job}");
    }
}

/// Like the end of a run: no process of the first attempt survives into the second one.
#[test]
fn an_attempt_leaves_nothing_for_the_next_one() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/leave_daemon\"]\nretry_wait = \"1h\"\n");
    let marker = sandbox.arg("marker");
    let args = [
        "run-job",
        "--retries",
        "1",
        "--timeout",
        "2s",
        "--grace",
        "0s",
        "misbehave",
        "leave_daemon",
        "--stay",
        "--marker",
        &marker,
    ];
    let running = sandbox.start(&args);
    eventually("the attempt is over", || {
        let runs = sandbox.runs();
        runs.first().is_some_and(|run| {
            let shown = sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
            shown["attempts"][0]["cause"] == "timeout"
        })
    });
    assert!(!processes::is_alive(left(&sandbox)));
    assert_eq!(sandbox.processes(), [running.pid()]);
    running.signal(Signal::TERM);
    running.wait().exits(143);
}

/// The watchdog kills the group; the next command that reads runs kills processes that had left it.
#[test]
fn processes_that_escaped_a_killed_supervisor_are_killed_by_the_next_command() {
    for (job, next) in [
        ("leave_daemon", &["runs", "list"][..]),
        ("leave_grandchild", &["events", "list"]),
        ("leave_daemon", &["run-job", "misbehave", "noop"]),
    ] {
        let sandbox = sandbox();
        let (running, pid) = leaving(&sandbox, job);
        let workers: Vec<u32> = running.children().into_iter().filter(|child| *child != pid).collect();
        running.signal(Signal::KILL);
        drop(running);
        eventually("the worker is gone", || workers.iter().all(|pid| !processes::is_alive(*pid)));
        assert!(processes::is_alive(pid), "{job}: the watchdog cannot find it");
        // Commands that do not use runs leave them alone.
        sandbox.lorchestra(&["jobs", "list"]).exits(0);
        assert!(processes::is_alive(pid));
        let ended = sandbox.lorchestra(next).exits(0);
        assert!(!processes::is_alive(pid), "{job}: {}", ended.shown());
        assert!(ended.err().contains("closed as abandoned"), "{}", ended.shown());
        assert!(sandbox.processes().is_empty(), "{job}");
    }
}

/// While this exists, orphans become children of this process. The kernel wakes stopped processes in a process group that becomes orphaned
/// (SIGHUP, SIGCONT), and a parent in the same session prevents that, as in a container whose first process is in the same session.
struct Adopting(#[expect(dead_code, reason = "one at a time: it belongs to the process")] MutexGuard<'static, ()>);

impl Adopting {
    fn begin() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("any process may become a subreaper");
        Self(one)
    }
}

impl Drop for Adopting {
    fn drop(&mut self) {
        let _ = rustix::process::set_child_subreaper(None);
    }
}

/// A stopped worker does not notice its supervisor's death; if it was killed before the run was recorded, the store does not know the run.
#[test]
fn a_stopped_worker_of_a_run_that_was_never_recorded_is_killed_by_the_next_command() {
    let rounds = lorchestra_tests::rounds(6);
    let _adopting = Adopting::begin();
    for round in 0..rounds {
        let sandbox = sandbox();
        let locks = sandbox.state().join("locks");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&locks).unwrap();
        // The process that creates the store waits for this lock, with a worker that waits for its order.
        let held = File::create(locks.join("store")).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let running = sandbox.start(&["run-job", "misbehave", "noop"]);
        let worker = stop_worker_of(&running);
        running.signal(Signal::KILL);
        drop(running);
        drop(held);
        assert!(processes::is_stopped(worker), "it sees nothing");
        let next: &[&str] = [&["runs", "list"][..], &["run-job", "misbehave", "noop"], &["events", "list"]][round as usize % 3];
        let ended = sandbox.lorchestra(next).exits(0);
        assert!(!processes::is_alive(worker), "{}", ended.shown());
        assert!(sandbox.processes().is_empty());
        assert_eq!(sandbox.runs().len(), usize::from(next[0] == "run-job"), "the killed run was never recorded");
        for dir in ["spool", "logs"] {
            let left = std::fs::read_dir(sandbox.state().join(dir)).unwrap().count();
            assert_eq!(left, usize::from(next[0] == "run-job" && dir == "logs"), "{dir}");
        }
    }
}

/// A library's trial has no run and no directory: leftovers are found by their supervisor's mark.
#[test]
fn a_stopped_worker_of_a_trial_is_killed_by_the_next_trial() {
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    let library = sandbox.plugins().join("libconstructor.so").display().to_string();
    let check = |fault: &str| {
        let mut command = sandbox.command(&["plugins", "check", &library]);
        command.env("CONSTRUCTOR_FAULT", fault);
        command
    };
    let _adopting = Adopting::begin();
    let running = Running::start(check("sleep"));
    let worker = stop_worker_of(&running);
    running.signal(Signal::KILL);
    drop(running);
    assert!(processes::is_stopped(worker), "it sees nothing");
    // A trial with a live supervisor is left alone.
    let alive = Running::start(check("sleep"));
    let of_alive = stop_worker_of(&alive);
    assert!(!processes::is_alive(worker), "killed by the second trial");
    Running::start(check("")).wait().exits(0);
    assert!(processes::is_alive(of_alive), "the third trial does not kill it");
    alive.signal(Signal::KILL);
    drop(alive);
    Running::start(check("")).wait().exits(0);
    assert!(!processes::is_alive(of_alive) && sandbox.processes().is_empty());
}

/// Waits for the worker that a command has started, and stops it.
fn stop_worker_of(running: &Running) -> u32 {
    let worker = || running.children().into_iter().find(|pid| processes::is_named(*pid, "lorchestra-worker"));
    eventually("there is a worker", || worker().is_some());
    let worker = worker().expect("it waits");
    processes::signal(worker, Signal::STOP);
    eventually("the worker is stopped", || processes::is_stopped(worker));
    worker
}

/// A state directory is copied during a run, and the copy is used: in the copy the run has lost its supervisor, and in the original it
/// continues.
#[test]
fn a_copy_of_the_state_directory_ends_no_run_of_the_original() {
    let original = sandbox();
    let running = original.start(&["run-job", "misbehave", "wait"]);
    eventually("the run is recorded", || original.runs().len() == 1);
    let run = original.runs().remove(0);
    for with_store in [true, false] {
        let copy = sandbox();
        copy.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        let part = if with_store { "." } else { "spool" };
        copy_all(&original.state().join(part).join("."), &copy.state().join(part));
        // Whatever the copy does: while the supervisor of the original is alive, the run must not be closed there either.
        copy.lorchestra(&["runs", "list"]).exits(0);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(original.runs().len(), 1);
        assert_eq!(original.runs()[0].state(), "running", "with the store: {with_store}");
        assert!(processes::is_alive(running.pid()), "with the store: {with_store}");
    }
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code(), Some(143), "{}", run.id());
}

/// Processes of a live run, of an unknown run, or of another user are not touched.
#[test]
fn processes_of_others_are_not_touched() {
    let sandbox = sandbox();
    // A process of a live run.
    let alive = sandbox.start(&["run-job", "misbehave", "leave_daemon", "--stay", "--marker", &sandbox.arg("alive")]);
    eventually("the process is started", || sandbox.read("alive").ends_with('\n'));
    let of_alive: u32 = sandbox.read("alive").trim().parse().unwrap();
    // A process of a dead run.
    let (dying, pid) = leaving(&sandbox, "leave_grandchild");
    let run = sandbox.runs().remove(0);
    assert!(sandbox.lorchestra(&["runs", "show", run.id()]).out().contains("misbehave/leave_grandchild"));
    let state_id = state_id(&sandbox.state());
    let sleep_of = |state_id: &str, run_id: &str, user: Option<u32>| {
        let mut command = std::process::Command::new("sleep");
        command.arg("300").env("LORCHESTRA_RUN_ID", run_id).env("LORCHESTRA_STATE_ID", state_id);
        if let Some(user) = user {
            std::os::unix::process::CommandExt::uid(&mut command, user);
        }
        command.spawn().expect("sleep starts")
    };
    let sleep = |run_id: &str, user: Option<u32>| sleep_of(&state_id, run_id, user);
    let mut strangers =
        vec![sleep("0190a000-0000-7000-8000-000000000000", None), sleep("", None), sleep(&format!("{}x", run.id()), None)];
    // A process of a run with the same id in another state directory, of which this one may be a copy.
    strangers.push(sleep_of("1.2", run.id(), None));
    // Only root can start processes as several users.
    if processes::is_root() {
        strangers.push(sleep(run.id(), Some(lorchestra_tests::sandbox::NOBODY)));
    }
    let mut own = sleep(run.id(), None);
    dying.signal(Signal::KILL);
    drop(dying);
    sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(!processes::is_alive(pid) && !processes::is_alive(own.id()), "processes with the run's id are killed");
    assert!(processes::is_alive(of_alive), "processes of a live run are not");
    for stranger in &mut strangers {
        assert!(processes::is_alive(stranger.id()));
        let _ = stranger.kill();
        let _ = stranger.wait();
    }
    let _ = own.wait();
    alive.signal(Signal::INT);
    eventually("it is reported again", || {
        alive.signal(Signal::INT);
        !processes::is_alive(of_alive)
    });
    alive.wait().exits(130);
}
