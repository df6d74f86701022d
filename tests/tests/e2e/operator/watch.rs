//! Following runs: `runs logs -f` until the run ends, and `runs watch` on a terminal.

use lorchestra_tests::terminal::Terminal;
use lorchestra_tests::{Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read};
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

/// The screen of a terminal that was given these bytes: text, positions, and what clears it. What follows the last frame does not count.
fn screen(shown: &str, columns: usize, rows: usize) -> Vec<String> {
    let mut cells = vec![vec![' '; columns]; rows];
    let (mut x, mut y) = (0, 0);
    let mut chars = shown.split("\u{1b}[?1049l").next().unwrap_or_default().chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            // A terminal stays in the last column. Before a resize, positions may be beyond.
            if let Some(cell) = cells.get_mut(y).and_then(|row| row.get_mut(x)) {
                *cell = c;
            }
            x += 1;
            continue;
        }
        let (mut numbers, mut end) = (String::new(), ' ');
        for c in chars.by_ref().skip(1) {
            if c.is_ascii_alphabetic() {
                end = c;
                break;
            }
            numbers.push(c);
        }
        let from = if numbers == "2" { 0 } else { y };
        let mut numbers = numbers.split(';').map(|n| n.parse::<usize>().unwrap_or(1));
        match end {
            'H' => (y, x) = (numbers.next().unwrap_or(1) - 1, numbers.next().unwrap_or(1) - 1),
            'J' => cells.iter_mut().skip(from).for_each(|row| row.fill(' ')),
            'K' => cells.iter_mut().skip(y).take(1).for_each(|row| row.iter_mut().skip(x).for_each(|cell| *cell = ' ')),
            _ => {}
        }
    }
    cells.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn running_runs_are_watched_on_a_terminal() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    let terminal = Terminal::open();
    let mut command = sandbox.command(&["runs", "watch"]);
    command.env("TERM", "xterm").stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(terminal.stdio());
    let mut watching = command.spawn().unwrap();
    drop(command);
    let last = || screen(&terminal.shown(), 80, 24).join("\n");
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
            && frame.contains("  misbehave/shell\n          first\n")
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
    eventually("the screen of before", || terminal.shown().ends_with("\u{1b}[?25h\u{1b}[?1049l"));
}

#[test]
fn the_view_follows_the_size_of_the_terminal() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let run = two_steps(&sandbox);
    let terminal = Terminal::open();
    let mut command = sandbox.command(&["runs", "watch", "--interval", "1h"]);
    command.env("TERM", "xterm").stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(terminal.stdio());
    let mut watching = command.spawn().unwrap();
    drop(command);
    eventually("a screen", || screen(&terminal.shown(), 80, 24).join("\n").contains("  misbehave/shell\n          first\n"));
    terminal.resize(40, 4);
    // The name has no room next to the columns any more, and the last line no room at all.
    eventually("a smaller one", || {
        let rows = screen(&terminal.shown(), 40, 4);
        rows[0].starts_with("1 running") && rows[3] == "... 3 more lines"
    });
    terminal.types("q");
    assert!(watching.wait().unwrap().success());
    fs::write(sandbox.path("go"), "").unwrap();
    run.wait().exits(0);
}

/// The keys arrive at once and are not shown, and everything is as before afterwards, also after a signal that the command does not expect.
#[test]
fn the_terminal_is_restored_however_watching_ends() {
    let sandbox = Sandbox::with(&[]);
    for ending in [Ok("q"), Ok("\u{3}"), Ok("\u{4}"), Err(Signal::TERM), Err(Signal::HUP)] {
        let terminal = Terminal::open();
        let modes = terminal.modes();
        // The terminal is that of the session, so that Ctrl-C becomes a signal.
        let mut command = sandbox.command_by("exec setsid -c \"$0\" \"$@\"", &["runs", "watch"]);
        command.env("TERM", "xterm").stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(terminal.stdio());
        let mut watching = command.spawn().unwrap();
        drop(command);
        eventually("a screen", || terminal.shown().contains("0 running"));
        assert_ne!(terminal.modes(), modes, "{ending:?}");
        // Ctrl-Z and Ctrl-\ would leave the other screen in place.
        terminal.types("\u{1a}\u{1c}");
        match ending {
            Ok(keys) => terminal.types(keys),
            Err(signal) => processes::signal(watching.id(), signal),
        }
        let expected = match ending {
            Ok("\u{3}") => 130,
            Ok(_) => 0,
            Err(signal) => 128 + signal.as_raw(),
        };
        assert_eq!(watching.wait().unwrap().code(), Some(expected), "{ending:?}");
        eventually("the screen of before", || terminal.shown().ends_with("\u{1b}[?25h\u{1b}[?1049l"));
        assert_eq!(terminal.modes(), modes, "{ending:?}");
    }
}

/// As by SIGHUP, which only the processes of the terminal's session get. Nothing is printed, since stderr may be the same terminal.
#[test]
fn watching_ends_with_the_terminal() {
    let sandbox = Sandbox::with(&[]);
    for has_keys in [true, false] {
        let (mut emulator, side) = Terminal::sides(80);
        let stdio = || Stdio::from(side.try_clone().unwrap());
        let mut command = sandbox.command(&["runs", "watch", "--interval", "200ms"]);
        command.env("TERM", "xterm").stdin(if has_keys { stdio() } else { Stdio::null() });
        let watching = command.stdout(stdio()).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        drop(side);
        let (mut shown, mut bytes) = (String::new(), [0; 4096]);
        while !shown.contains("0 running") {
            let n = emulator.read(&mut bytes).unwrap();
            shown.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
        drop(emulator);
        let ended = watching.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(129), ""), "keys: {has_keys}");
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
