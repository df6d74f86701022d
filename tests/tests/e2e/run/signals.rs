//! Terminals and signals in the state in which `run-job` may be started: a terminal that a job must not read, signals that are blocked or
//! ignored, a worker that is stopped.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// A command of the sandbox, executed by Python after these statements, for setups that no shell can create.
fn by_python(sandbox: &Sandbox, statements: &str, args: &[&str]) -> Command {
    let plain = sandbox.command(args);
    let mut command = Command::new("python3");
    let script = format!("import os, signal, sys\n{statements}\nos.execv(sys.argv[1], sys.argv[1:])");
    command.args(["-c", &script]).arg(plain.get_program()).args(args).current_dir(sandbox.root()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// `getpass` in a job used to stop it forever with SIGTTIN. Tested on a real controlling terminal.
#[test]
fn a_job_that_reads_the_terminal_gets_an_error_and_is_not_stopped() {
    let sandbox = sandbox();
    // The child of a new session whose terminal is the pty's other side, as for a login shell.
    let terminal = "pid, master = os.forkpty()\nif pid:\n    data = b''\n    try:\n        while True:\n            piece = os.read(master, 4096)\n            \
                    if not piece: break\n            data += piece\n    except OSError: pass\n    status = os.waitpid(pid, 0)[1]\n    \
                    sys.stderr.write('done')\n    sys.exit(os.waitstatus_to_exitcode(status))";
    let marker = sandbox.arg("marker");
    let args = ["run-job", "--timeout", "30s", "misbehave", "ask_terminal", "--marker", &marker];
    Running::start(by_python(&sandbox, terminal, &args)).wait().exits(1);
    assert!(!sandbox.read("marker").is_empty(), "the job started");
    let run = sandbox.run();
    assert_eq!(run.cause(), "error");
    assert!(run.message().contains("No such device or address"), "{}", run.message());
}

#[test]
fn a_blocked_signal_still_ends_a_run() {
    let sandbox = sandbox();
    let block = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})";
    let marker = sandbox.arg("marker");
    let running = Running::start(by_python(&sandbox, block, &["run-job", "misbehave", "wait", "--marker", &marker]));
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    running.signal(Signal::TERM);
    running.wait().exits(128 + 15);
    assert_eq!(sandbox.run().cause(), "cancelled");
}

#[test]
fn ignored_signals_are_reset_for_the_job_except_those_of_nohup() {
    let sandbox = sandbox();
    let ignore = "for n in ('SIGCHLD', 'SIGPIPE', 'SIGQUIT', 'SIGUSR1', 'SIGTTIN', 'SIGALRM', 'SIGHUP'): \
                  signal.signal(getattr(signal, n), signal.SIG_IGN)\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})";
    let path = sandbox.plugins().join("libmisbehave.so").display().to_string();
    Running::start(by_python(&sandbox, ignore, &["plugins", "check", &path])).wait().exits(0);
    let status = "exec grep -E '^Sig(Blk|Ign)' /proc/self/status > status";
    Running::start(by_python(&sandbox, ignore, &["run-job", "misbehave", "shell", "--command", status])).wait().exits(0);
    // The two signals that the C library reserves depend on how this test was started.
    let status = sandbox.read("status").replace("0000000180000000", "0000000000000000");
    assert_eq!(status, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn a_stopped_job_is_reported_within_seconds() {
    let sandbox = sandbox();
    let (marker, err) = (sandbox.arg("marker"), sandbox.path("err"));
    let script = format!("exec 2>'{}'", err.display());
    let mut running = Running::start(sandbox.command_by(&script, &["run-job", "misbehave", "wait", "--marker", &marker]));
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let worker = running.children()[0];
    processes::signal(worker, Signal::STOP);
    eventually("it is printed", || fs::read_to_string(&err).is_ok_and(|text| text.contains("stopped by SIGSTOP")));
    processes::signal(worker, Signal::CONT);
    running.signal(Signal::TERM);
    eventually("the run ends", || running.has_ended());
    assert_eq!(sandbox.run().cause(), "cancelled");
}

/// The job waits for its child, and the child waits for SIGCONT: without a report, nothing would ever be printed.
#[test]
fn a_stopped_process_of_the_job_is_reported_within_seconds_and_in_the_timeout_message() {
    for (stop, signal) in [("STOP", "SIGSTOP"), ("TTIN", "SIGTTIN")] {
        let sandbox = sandbox();
        // In a process below another one, in its own group: in the worker's group, whose leader has no parent in its session, SIGTTIN stops
        // nothing (POSIX: an orphaned group).
        let child = format!("echo $$ > pid; kill -{stop} $$");
        let command = format!(
            "python3 -c 'import subprocess, os; subprocess.Popen([\"sh\", \"-c\", \"{child}\"], preexec_fn=os.setpgrp).wait()'"
        );
        let err = sandbox.path("err");
        let script = format!("exec 2>'{}'", err.display());
        let args = ["run-job", "--timeout", "6s", "misbehave", "shell", "--command", &command];
        let mut running = Running::start(sandbox.command_by(&script, &args));
        let printed = || fs::read_to_string(&err).unwrap_or_default();
        eventually("it is printed", || printed().contains("was stopped by SIG"));
        assert!(!running.has_ended(), "before the time limit");
        let pid = sandbox.read("pid").trim().to_owned();
        assert!(printed().contains(&format!("process {pid}, started by the job, was stopped by {signal}")), "{}", printed());
        eventually("the run ends", || running.has_ended());
        let run = sandbox.run();
        assert_eq!(run.cause(), "timeout");
        let expected =
            format!("it did not finish within 6s: process {pid}, which it started, was stopped by {signal} and not continued");
        assert_eq!(run.message(), expected);
        assert_eq!(printed().matches("was stopped by").count(), 2, "once while it runs, once in the outcome: {}", printed());
    }
}

#[test]
fn a_timeout_of_a_stopped_job_mentions_the_stop_and_delivers_sigterm() {
    let sandbox = sandbox();
    let marker = sandbox.arg("marker");
    let mut running = sandbox.start(&["run-job", "--timeout", "3s", "misbehave", "wait", "--marker", &marker]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let worker = running.children()[0];
    processes::signal(worker, Signal::STOP);
    eventually("the run ends", || running.has_ended());
    let run = sandbox.run();
    assert_eq!(
        (run.cause(), run.message()),
        ("timeout", "it did not finish within 3s: it was stopped by SIGSTOP and not continued")
    );
    // Resumed for its SIGTERM: it had its grace period, and its events are there.
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events.iter().filter(|event| event.event_type() == "cancelled.seen").count(), 1);
    // A process that was continued is not mentioned.
    fs::remove_file(sandbox.path("marker")).unwrap();
    let mut running = sandbox.start(&["run-job", "--timeout", "3s", "misbehave", "wait", "--marker", &marker]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let worker = running.children()[0];
    processes::signal(worker, Signal::STOP);
    eventually("it is stopped", || processes::is_stopped(worker));
    processes::signal(worker, Signal::CONT);
    eventually("the run ends", || running.has_ended());
    assert_eq!(sandbox.runs()[0].message(), "it did not finish within 3s");
}

#[test]
fn a_library_stopped_while_loading_is_distinguished_from_a_slow_one() {
    // The worker itself, and a copy of it: only the parent is notified about the second.
    for (fault, pids, expected) in
        [("sleep", 1, "it was stopped by SIGSTOP"), ("pair", 2, "which it started, was stopped by SIGSTOP")]
    {
        let sandbox = Sandbox::with(&[Fixture::Constructor]);
        let path = sandbox.plugins().join("libconstructor.so").display().to_string();
        let mut command = sandbox.command(&["plugins", "check", "--timeout", "4s", &path]);
        command.env("CONSTRUCTOR_MARKER", sandbox.path("marker")).env("CONSTRUCTOR_FAULT", fault);
        let running = Running::start(command);
        eventually("it is being loaded", || sandbox.read("marker").lines().count() == pids);
        let last: u32 = sandbox.read("marker").lines().last().unwrap().parse().unwrap();
        processes::signal(last, Signal::STOP);
        let checked = running.wait().exits(126);
        assert!(checked.err().contains("it was still loading after 4s: "), "{}", checked.shown());
        assert!(checked.err().contains(&format!("{expected} and not continued")), "{}", checked.shown());
    }
}
