//! `runs list` with its filters, at 80 columns, with and without colour; `runs show`; `runs logs` of a job that only traces.

use lorchestra_tests::terminal::Terminal;
use lorchestra_tests::{Fixture, Sandbox, eventually};
use std::process::Stdio;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Two accounts, three kinds of ends.
fn history() -> Sandbox {
    let sandbox = sandbox();
    for account in ["anna", "bert"] {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "2", "--account", account]).exits(0);
    }
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--then", "fail", "--account", "anna"]).exits(1);
    sandbox.lorchestra(&["run-job", "misbehave", "panic_now"]).exits(1);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox
}

#[test]
fn filters_select_the_matching_runs() {
    let sandbox = history();
    let all = sandbox.runs();
    let listed = |filter: &[&str]| -> Vec<usize> {
        let args = [&["runs", "list", "--json"], filter].concat();
        let runs = sandbox.lorchestra(&args).exits(0).json_lines("lorchestra.run/1");
        runs.iter().map(|run| all.iter().position(|known| known.0["run_id"] == run["run_id"]).unwrap()).collect()
    };
    // Newest first: noop, panic_now, numbered of anna (failed), of bert, of anna.
    for (filter, expected) in [
        (&[][..], &[0, 1, 2, 3, 4][..]),
        (&["--limit", "2"], &[0, 1]),
        (&["--package", "misbehave"], &[0, 1, 2, 3, 4]),
        (&["--package", "misbehave", "--limit", "3"], &[0, 1, 2]),
        (&["--job", "numbered"], &[2, 3, 4]),
        (&["--job", "misbehave/numbered", "--limit", "1"], &[2]),
        (&["--account", "anna"], &[2, 4]),
        (&["--account", ""], &[0, 1]),
        (&["--state", "failed"], &[1, 2]),
        (&["--state", "completed", "--job", "numbered"], &[3, 4]),
        (&["--cause", "panic"], &[1]),
        (&["--cause", "error", "--account", "bert"], &[]),
        (&["--since", "-1h"], &[0, 1, 2, 3, 4]),
        (&["--until", "-1h"], &[]),
        (&["--since", "-1h", "--state", "failed", "--account", "anna"], &[2]),
        (&["--running"], &[]),
    ] {
        assert_eq!(listed(filter), expected, "{filter:?}");
    }
    // A time between two runs separates them.
    let middle = all[2].0["started_at"].as_str().unwrap();
    assert_eq!(listed(&["--since", middle]), [0, 1, 2]);
    assert_eq!(listed(&["--until", middle]), [3, 4]);
    let none = sandbox.lorchestra(&["runs", "list", "--cause", "timeout"]).exits(0);
    assert_eq!((none.out(), none.err()), ("", "No run matches.\n"));
    sandbox.lorchestra(&["runs", "list", "--state", "finished"]).exits(2);
    sandbox.lorchestra(&["runs", "list", "--since", "soon"]).exits(2);
    sandbox.lorchestra(&["runs", "list", "--package", "other", "--job", "misbehave/noop"]).exits(2);
    // A misspelt name is not one without runs.
    for (filter, hint) in [
        (&["--package", "misbehav"][..], "misbehave"),
        (&["--job", "misbehave/nop"], "noop"),
        (&["--job", "nop"], "did you mean noop?"),
    ] {
        let refused = sandbox.lorchestra(&[&["runs", "list"], filter].concat()).exits(1);
        assert!(refused.err().contains(hint), "{}", refused.shown());
    }
    for filter in [&["--job", "misbehave/from_bookmark"][..], &["--job", "from_bookmark"]] {
        assert_eq!(sandbox.lorchestra(&[&["runs", "list"], filter].concat()).exits(0).err(), "No run matches.\n");
    }
}

/// The output of `runs list` on a terminal with 80 columns.
fn on_terminal(sandbox: &Sandbox, environment: &[(&str, &str)]) -> String {
    let terminal = Terminal::open();
    let mut command = sandbox.command(&["runs", "list"]);
    command.env("TERM", "xterm").envs(environment.iter().copied());
    let status = command.stdout(terminal.stdio()).stdin(Stdio::null()).status().unwrap();
    assert!(status.success());
    eventually("all of it is shown", || terminal.shown().contains("numbered  "));
    drop(command);
    terminal.shown()
}

#[test]
fn the_table_fits_the_terminal_and_respects_no_color() {
    let sandbox = history();
    let shown = on_terminal(&sandbox, &[]);
    assert!(shown.contains("\u{1b}[31mfailed"), "{shown:?}");
    let plain = regex_free(&shown);
    assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    assert!(plain.starts_with("RUN        AGE  STATE         TOOK  JOB"), "{plain}");
    assert!(plain.contains("\n          error: failed after the last number"), "{plain}");
    assert!(plain.contains("misbehave/numbered    anna\n"), "{plain}");
    for environment in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = on_terminal(&sandbox, &[environment]);
        assert!(!shown.contains('\u{1b}') && shown.contains("failed"), "{environment:?}: {shown:?}");
    }
    let piped = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert_eq!(piped.out().lines().count(), 1 + 5 + 2, "a header, five runs, two reasons: {}", piped.shown());
}

/// Without escape sequences and carriage returns.
fn regex_free(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    (plain + rest).replace('\r', "")
}

#[test]
fn an_empty_history_names_the_directory_and_the_user() {
    let sandbox = sandbox();
    let none = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(none.err().starts_with("No runs yet (state directory ") && none.err().contains("user "), "{}", none.shown());
    assert!(none.err().contains(&sandbox.state().display().to_string()), "{}", none.shown());
}

#[test]
fn a_run_is_shown_with_its_attempts_and_last_lines_of_output() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    let printed = sandbox.lorchestra(&["runs", "show", "last"]).exits(0);
    for part in [
        "attempt 1 started (worker pid",
        "attempt 1 completed after",
        "used       ",
        "of memory",
        "output     ",
        "1 job.completed",
    ] {
        assert!(printed.out().contains(part), "{part}: {}", printed.shown());
    }
    let args = ["run-job", "misbehave", "numbered", "--retries", "1", "--then", "fail", "--account", "anna"];
    sandbox.lorchestra(&args).exits(1);
    let retried = sandbox.lorchestra(&["runs", "show", "last"]).exits(0);
    for part in [
        "attempt 1 failed (error)",
        "attempt 2 started",
        "attempt 2 failed (error)",
        "account    anna",
        "parameter  then = \"fail\"",
    ] {
        assert!(retried.out().contains(part), "{part}: {}", retried.shown());
    }
}

#[test]
fn the_log_of_a_job_that_only_traces_is_its_trace() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "traced"]).exits(0);
    let logs = sandbox.lorchestra(&["runs", "logs", "last"]).exits(0);
    assert!(logs.out().contains("ERROR misbehave: an error") && logs.out().contains("code=7"), "{}", logs.shown());
    assert!(logs.err().contains("printed nothing"), "{}", logs.shown());
    let raw = sandbox.lorchestra(&["runs", "logs", "last", "--trace"]).exits(0);
    assert!(raw.out().starts_with('{'), "{}", raw.shown());
}

#[test]
fn an_empty_log_is_explained_in_one_sentence() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "3"]).exits(0);
    let id = sandbox.runs()[0].short().to_owned();
    let seen = format!("run lorchestra runs show {id} or, for its 3 events, lorchestra events list --run {id}\n");
    let logs = sandbox.lorchestra(&["runs", "logs", "last"]).exits(0);
    assert_eq!((logs.out(), logs.err()), ("", &*format!("this run has no output and no trace; {seen}")));
    let logs = sandbox.lorchestra(&["runs", "logs", "last", "--trace"]).exits(0);
    assert_eq!((logs.out(), logs.err()), ("", &*format!("this run has no trace; {seen}")));
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let logs = sandbox.lorchestra(&["runs", "logs", "last"]).exits(0);
    assert!(logs.err().ends_with(&format!("lorchestra runs show {}\n", sandbox.runs()[0].short())), "{}", logs.shown());
}

#[test]
fn a_long_value_leaves_room_for_the_reason() {
    let sandbox = sandbox();
    let long = "x".repeat(5000);
    for args in [
        &["runs", "list", "--since", &long][..],
        &["events", "list", "--since", &long],
        &["bookmarks", "set", "misbehave/windowed", &long],
        &["runs", "rerun", "--failed", "--since", &long],
    ] {
        let refused = sandbox.lorchestra(args).exits(2);
        assert!(refused.err().contains("is not a time; write 2024-01-31") && refused.err().len() < 300, "{}", refused.shown());
    }
    for (args, reason) in [
        (&["runs", "rerun", "--failed", "--job", &long][..], "the package is missing"),
        (&["schedule", "print", &long, "--cron"], "does not name a job"),
        (&["schemas", &long], "schemas: "),
        (&["backfill", "misbehave/windowed", "--from", &long, "--to", "today", "--every", "1d"], "; write 2024-01-31"),
    ] {
        let refused = sandbox.lorchestra(args).exits(2);
        assert!(refused.err().contains(reason) && refused.err().len() < 2500, "{}", refused.shown());
    }
}

/// The groups of backfills, of `run-group` and of `run-job --group` are all in the list of runs.
#[test]
fn an_unknown_group_names_the_command_that_lists_all() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--group", "nightly"]).exits(0);
    let unknown = sandbox.lorchestra(&["runs", "list", "--group", "nope"]).exits(1);
    let expected = "Unknown group: nope\n  run lorchestra runs list --json, which prints the group of each run\n";
    assert_eq!(unknown.err(), expected);
    let listed = sandbox.lorchestra(&["runs", "list", "--json"]).exits(0);
    assert_eq!(listed.json_lines("lorchestra.run/1")[0]["group"], "nightly");
}

#[test]
fn events_of_a_destination_that_is_not_configured_are_an_error() {
    let sandbox = sandbox();
    let error = "error: the destination jsonl is not configured\n";
    for with_history in [false, true] {
        if with_history {
            sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        }
        for command in [&["events", "list", "--pending"][..], &["events", "flush"]] {
            let refused = sandbox.lorchestra(&[command, &["--destination", "jsonl"]].concat()).exits(78);
            assert!(refused.err().starts_with(error), "{}", refused.shown());
        }
    }
    // Those of one that was configured once are still in the store.
    let dir = sandbox.arg("events");
    std::fs::create_dir(&dir).unwrap();
    sandbox.configure(&format!("[destinations.jsonl]\ndir = {dir:?}\n"));
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.configure("");
    sandbox.lorchestra(&["events", "list", "--pending", "--destination", "jsonl"]).exits(0);
}
