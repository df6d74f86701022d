//! Following runs: `runs logs -f` until the run ends, and `runs watch` on a terminal.

use lorchestra_tests::terminal::Terminal;
use lorchestra_tests::{Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A run of a job that prints `first`, waits for the file `go`, and prints `second`.
fn two_steps(sandbox: &Sandbox) -> Running {
    let run = sandbox.start(&[
        "run-job",
        "misbehave",
        "shell",
        "--command",
        "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second",
    ]);
    eventually("the run has started", || sandbox.runs().first().is_some_and(|run| run.state() == "running"));
    run
}

/// The next line, which must come: a follower that prints nothing more would otherwise be waited for without a limit.
fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(lorchestra_tests::DEADLINE).expect("another line")
}

/// A command with its stdout as lines, as they arrive.
fn lines(sandbox: &Sandbox, args: &[&str]) -> (Child, Receiver<String>) {
    let mut child = sandbox.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (send, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    (child, lines)
}

#[test]
fn the_output_of_a_run_is_followed_until_it_ends() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let run = two_steps(&sandbox);
    let (follower, lines) = lines(&sandbox, &["runs", "logs", "--follow", "last"]);
    assert_eq!(next(&lines), "first", "while the run is running");
    fs::write(sandbox.path("go"), "").unwrap();
    assert_eq!(next(&lines), "second");
    run.wait().exits(0);
    let ended = follower.wait_with_output().unwrap();
    assert!(ended.status.success());
    let note = format!("Run {} has ended: completed.\n", sandbox.run().short());
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), note);
    let after = sandbox.lorchestra(&["runs", "logs", "-f", "last"]).exits(0);
    assert_eq!((after.out(), after.err()), ("first\nsecond\n", ""), "of an ended run: all of it, at once");
}

/// Also if the supervisor dies, and through retries.
#[test]
fn following_ends_however_the_run_ends() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let run = two_steps(&sandbox);
    let (follower, lines) = lines(&sandbox, &["runs", "logs", "-f", "misbehave/shell"]);
    assert_eq!(next(&lines), "first");
    run.signal(Signal::KILL);
    drop(run);
    let ended = follower.wait_with_output().unwrap();
    let notes = String::from_utf8(ended.stderr).unwrap();
    assert!(notes.ends_with("has ended: failed (abandoned).\n") && notes.contains("was closed as abandoned"), "{notes}");

    let command = "echo try; [ -e once ] || { touch once; exit 1; }; while [ ! -e go ]; do sleep 0.02; done";
    let run = sandbox.start(&["run-job", "--retries", "1", "misbehave", "shell", "--command", command]);
    eventually("the second attempt", || sandbox.path("once").exists());
    let (follower, lines) = self::lines(&sandbox, &["runs", "logs", "-f", "last"]);
    assert_eq!([next(&lines), next(&lines)], ["try", "try"]);
    fs::write(sandbox.path("go"), "").unwrap();
    run.wait().exits(0);
    assert!(follower.wait_with_output().unwrap().status.success());
}

/// A job that only traces is followed by its trace.
#[test]
fn a_job_that_prints_nothing_is_followed_by_its_trace() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    let go = sandbox.arg("go");
    let run = sandbox.start(&["run-job", "kit", "advance", "--marker", &go]);
    eventually("the run has started", || sandbox.runs().first().is_some_and(|run| run.state() == "running"));
    let (follower, _lines) = lines(&sandbox, &["runs", "logs", "-f", "last", "--trace"]);
    fs::write(&go, "").unwrap();
    run.wait().exits(0);
    assert!(follower.wait_with_output().unwrap().status.success());
}

#[test]
fn watching_needs_a_terminal() {
    let sandbox = Sandbox::with(&[]);
    let refused = sandbox.lorchestra(&["runs", "watch"]).exits(2);
    assert!(refused.err().starts_with("error: runs watch draws on a terminal"), "{}", refused.shown());
    assert!(refused.err().contains("runs list --running") && !sandbox.state().exists(), "{}", refused.shown());
}

/// The frames that a terminal was given, without escape sequences.
fn frames(shown: &str) -> Vec<Vec<String>> {
    let frames = shown.split("\u{1b}[H").skip(1);
    let plain = |line: &str| {
        let mut text = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("\u{1b}[") {
            text.push_str(before);
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';' || c == '?').get(1..).unwrap_or_default();
        }
        // The terminal adds one to each line feed.
        (text + rest).replace('\r', "")
    };
    frames.map(|frame| frame.split("\r\n").map(plain).collect()).collect()
}

#[test]
fn running_runs_are_watched_on_a_terminal() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    let terminal = Terminal::open();
    let mut command = sandbox.command(&["runs", "watch"]);
    command.env("TERM", "xterm").stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(terminal.stdio());
    let mut watching = command.spawn().unwrap();
    drop(command);
    let last = || frames(&terminal.shown()).iter().rev().nth(1).cloned().unwrap_or_default().join("\n");
    eventually("an empty screen", || last().starts_with("0 running"));

    let printing = two_steps(&sandbox);
    let go = sandbox.arg("advance");
    // With -q there is no progress bar, and progress is known nevertheless.
    let counting = sandbox.start(&["run-job", "-q", "kit", "advance", "--marker", &go]);
    eventually("both runs with their details", || {
        let frame = last();
        let line = |job: &str| frame.lines().find(|line| line.contains(job)).unwrap_or_default().to_owned();
        let ids: Vec<String> = sandbox.runs().iter().map(|run| run.short().to_owned()).collect();
        frame.starts_with("2 running")
            && line("kit/advance").contains("[==      ]  30% 3/10")
            && line("kit/advance").contains(" MiB ")
            && frame.contains("misbehave/shell\n          first")
            && ids.iter().all(|id| frame.contains(id))
    });
    fs::write(&go, "").unwrap();
    counting.wait().exits(0);
    eventually("the end of one", || last().starts_with("1 running") && last().contains(" completed kit/advance after "));
    printing.signal(Signal::KILL);
    drop(printing);
    eventually("the end of the other", || last().starts_with("0 running") && last().contains(" failed misbehave/shell after "));
    assert!(processes::is_alive(watching.id()));
    terminal.types("q");
    assert!(watching.wait().unwrap().success());
    let shown = terminal.shown();
    eventually("the screen of before", || terminal.shown().ends_with("\u{1b}[?25h\u{1b}[?1049l"));
    for frame in frames(&shown) {
        assert!(frame.len() <= 24 && frame.iter().all(|line| line.chars().count() <= 80), "{frame:#?}");
    }
}

#[test]
fn an_interrupt_restores_the_terminal() {
    let sandbox = Sandbox::with(&[]);
    let terminal = Terminal::open();
    let mut command = sandbox.command(&["runs", "watch"]);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(terminal.stdio()).stderr(terminal.stdio());
    let mut watching = command.spawn().unwrap();
    drop(command);
    eventually("a screen", || terminal.shown().contains("0 running"));
    processes::signal(watching.id(), Signal::INT);
    assert_eq!(watching.wait().unwrap().code(), Some(130));
    eventually("the screen of before", || terminal.shown().ends_with("\u{1b}[?25h\u{1b}[?1049l"));
}
