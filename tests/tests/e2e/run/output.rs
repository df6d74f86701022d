//! What is printed, and where: data on stdout, everything else on stderr, nothing of a job's own on either.

use lorchestra_tests::{Fixture, Sandbox, corrupt};
use std::fs::File;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

#[test]
fn a_jobs_output_is_in_its_log_byte_for_byte_and_nowhere_else() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "print", "--lines", "3"]).exits(0);
    assert_eq!((&*ended.plain_out(), ended.err()), ("✓ misbehave/print completed (run [SHORT])\n", ""));
    let ended = sandbox.lorchestra(&["runs", "logs", sandbox.run().id()]).exits(0);
    let expected = b"out 0\nerr 0\nout 1\nerr 1\nout 2\nerr 2\n\xff\xfe without an end";
    assert_eq!(ended.stdout, expected, "{}", ended.shown());
    assert_eq!(ended.err(), "");
}

/// On request it is on standard error, where nothing of it can be mistaken for lorchestra's own output.
#[test]
fn output_is_shown_on_request() {
    let sandbox = sandbox();
    for args in [
        &["run-job", "--show-output", "misbehave", "print"][..],
        &["run-job", "misbehave", "print", "--lines", "1", "--show-output"],
    ] {
        let ended = sandbox.lorchestra(args).exits(0);
        assert_eq!(ended.plain_out(), "✓ misbehave/print completed (run [SHORT])\n");
        assert!(ended.err().starts_with("out 0\nerr 0\n") && ended.err().ends_with(" without an end\n"), "{}", ended.shown());
    }
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "print", "--show-output", "-q", "--json"]).exits(0);
    assert_eq!(ended.json("lorchestra.run-job/1")["state"], "completed");
    assert!(ended.err().starts_with("out 0\n"), "{}", ended.shown());
}

#[test]
fn large_output_is_complete() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "print", "--lines", "20000"]).exits(0);
    let ended = sandbox.lorchestra(&["runs", "logs", sandbox.run().id()]).exits(0);
    let mut expected: Vec<u8> = (0..20000).flat_map(|n| format!("out {n}\nerr {n}\n").into_bytes()).collect();
    expected.extend_from_slice(b"\xff\xfe without an end");
    assert!(ended.stdout == expected, "{} bytes of {}", ended.stdout.len(), expected.len());
}

#[test]
fn quiet_prints_nothing_on_success_and_everything_on_failure() {
    let sandbox = sandbox();
    for args in [&["run-job", "-q", "misbehave", "print"][..], &["run-job", "misbehave", "print", "-q"]] {
        let ended = sandbox.lorchestra(args).exits(0);
        assert_eq!((ended.out(), ended.err()), ("", ""));
    }
    let quiet = sandbox.lorchestra(&["run-job", "-q", "misbehave", "fail"]).exits(1);
    assert!(quiet.err().contains("✗ misbehave/fail failed:") && quiet.err().contains("cause: error"), "{}", quiet.shown());
}

/// As documented in its help: `-q` silences the summary, not the requested data.
#[test]
fn json_is_printed_however_quiet() {
    let sandbox = sandbox();
    let help = sandbox.lorchestra(&["run-job", "--help"]).exits(0);
    let words: Vec<&str> = help.out().split_whitespace().collect();
    assert!(words.join(" ").contains("Print nothing on success, except what --json prints"), "{}", help.shown());
    for args in [&["run-job", "-q", "--json", "misbehave", "noop"][..], &["run-job", "--json", "misbehave", "noop", "-q"]] {
        let ended = sandbox.lorchestra(args).exits(0);
        assert_eq!(ended.json("lorchestra.run-job/1")["state"], "completed");
        assert_eq!((ended.out().lines().count(), ended.err()), (1, ""));
    }
}

/// A job's own message must not look like one of lorchestra's.
#[test]
fn a_message_of_several_lines_is_one_value() {
    let sandbox = sandbox();
    let message = "boom\nstate      completed\n\nhost       elsewhere\n";
    sandbox.lorchestra(&["run-job", "misbehave", "fail_with", "--message", message]).exits(1);
    let shown = sandbox.lorchestra(&["runs", "show", sandbox.run().id()]).exits(0);
    let of = |name: &str| shown.out().lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((of("state "), of("host "), of("message ")), (1, 1, 1), "{}", shown.shown());
    assert!(shown.out().contains("\n           state      completed\n"), "it is there: {}", shown.shown());
}

#[test]
fn a_limit_of_zero_runs_is_refused() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let ended = sandbox.lorchestra(&["runs", "list", "--limit", "0"]).exits(2);
    assert!(ended.err().contains("--limit") && !ended.err().contains("No runs yet"), "{}", ended.shown());
}

#[test]
fn typed_text_cannot_control_the_terminal() {
    let sandbox = sandbox();
    let bad = "a\u{1b}[2J\u{7}b\u{202e}";
    let dir = format!("--plugin-dir={bad}");
    for args in [
        &["jobs", "list", bad][..],
        &["jobs", "show", "misbehave", bad],
        &["run-job", bad, "noop"],
        &["run-job", "misbehave", bad],
        &["run-job", "misbehave", "noop", "--param", bad],
        &["run-job", "misbehave", "typed", "--since", bad],
        &["run-job", "misbehave", "typed", "--timeout", bad],
        &["run-job", "--timeout", bad, "misbehave", "typed"],
        &["runs", "show", bad],
        &["runs", "list", "--limit", bad],
        &["events", "list", "--since", bad],
        &[&*dir, "jobs", "list", "x"],
        &[bad],
    ] {
        let ended = sandbox.lorchestra(args);
        assert!(matches!(ended.code(), Some(1 | 2)), "{}", ended.shown());
        let control = ended.err().chars().find(|c| (c.is_control() || *c == '\u{202e}') && *c != '\n');
        assert_eq!(control, None, "{}", ended.shown());
        assert!(ended.err().contains("u{1b}"), "it is seen: {}", ended.shown());
    }
}

/// The package's version, the library's name and a parameter's value, all on stdout.
#[test]
fn a_plan_cannot_control_the_terminal() {
    let sandbox = Sandbox::with(&[]);
    let library = corrupt::manifest("\"version\":\"0.3.0\"", "\"version\":\"\u{9b}2Jx\"");
    std::fs::write(sandbox.plugins().join("lib\u{1b}c.so"), library).unwrap();
    let ended = sandbox.lorchestra(&["run-job", "--dry-run", "misbehave", "typed", "--text", "\u{9b}2J\u{202e}"]).exits(0);
    let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!ended.out().contains(steers) && ended.out().contains("2Jx"), "{}", ended.shown());
}

#[test]
fn an_id_that_is_too_short_is_reported() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let id = sandbox.run().id().to_owned();
    for args in [["runs", "show", &id[..3]], ["runs", "logs", &id[..1]], ["runs", "stop", ""]] {
        let ended = sandbox.lorchestra(&args).exits(1);
        assert!(ended.err().contains("at least 4 characters"), "{}", ended.shown());
    }
    sandbox.lorchestra(&["runs", "show", &id[..4]]).exits(0);
}

#[test]
fn a_long_parameter_is_cut_on_the_screen_and_complete_in_json() {
    let sandbox = sandbox();
    let long = "x".repeat(5000);
    sandbox.lorchestra(&["run-job", "misbehave", "typed", "--text", &long]).exits(0);
    let run = sandbox.run();
    let shown = sandbox.lorchestra(&["runs", "show", run.id()]).exits(0);
    let line = shown.out().lines().find(|line| line.starts_with("parameter") && line.contains("text = ")).unwrap();
    assert!(line.ends_with("x …") && (100..=120).contains(&line.chars().count()), "{line}");
    let json = sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(json["spec"]["params"]["text"], long);
}

/// The harness checks for every command that no escape sequence reaches a pipe.
#[test]
fn no_colours_on_pipes_or_with_no_color() {
    let sandbox = sandbox();
    for environment in [&[][..], &[("NO_COLOR", "1")], &[("TERM", "xterm-256color")], &[("TERM", "dumb")]] {
        for args in [&["run-job", "misbehave", "fail"][..], &["run-job", "misbehave", "noop"], &["run-job", "misbehave", "exit"]]
        {
            let ended = sandbox.lorchestra_with(environment, args);
            assert!(!ended.stdout.contains(&0x1b) && !ended.stderr.contains(&0x1b), "{}", ended.shown());
        }
    }
}

#[test]
fn a_job_cannot_control_the_terminal() {
    let sandbox = sandbox();
    let message = "before\u{1b}[2Jafter\u{7}\rover\u{9b}31m\u{202e}end";
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail_with", "--message", message]).exits(1);
    let id = sandbox.run().id().to_owned();
    let shows = [
        ended,
        sandbox.lorchestra(&["runs", "show", &id]).exits(0),
        sandbox.lorchestra(&["runs", "list"]).exits(0),
        sandbox.lorchestra(&["events", "list", "--payload"]).exits(0),
    ];
    for shown in &shows {
        let all = format!("{}{}", shown.out(), shown.err());
        let control = all.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(control, None, "{}", shown.shown());
    }
    assert!(shows[0].err().contains("before[2Jafter"), "{}", shows[0].shown());
}

#[test]
fn a_long_message_is_cut_on_the_screen_and_complete_in_the_record() {
    let sandbox = sandbox();
    let message = format!("first {}\n{}", "x".repeat(1000), "line\n".repeat(50));
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "fail_with", "--message", &message]).exits(1);
    assert!(ended.err().lines().count() <= 8 && ended.err().len() < 1000, "{}", ended.shown());
    assert_eq!(sandbox.run().message().trim_end(), message.trim_end());
}

#[test]
fn payloads_and_parameters_are_shown_only_when_asked_for() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "typed", "--text", "personal-matter"]).exits(0);
    assert!(!ended.shown().replace(&ended.args.join(" "), "").contains("personal-matter"));
    let listed = sandbox.lorchestra(&["events", "list"]).exits(0);
    assert!(!listed.out().contains("personal-matter"), "{}", listed.shown());
    let listed = sandbox.lorchestra(&["events", "list", "--json"]).exits(0);
    assert!(!listed.out().contains("personal-matter"), "{}", listed.shown());
    let asked = sandbox.lorchestra(&["events", "list", "--payload"]).exits(0);
    assert!(asked.out().contains("personal-matter"), "{}", asked.shown());
}

#[test]
fn events_are_filtered() {
    let sandbox = sandbox();
    for n in ["1", "2"] {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", n]).exits(0);
    }
    let lines = |args: &[&str]| sandbox.lorchestra(&[&["events", "list"], args].concat()).exits(0).out().lines().count();
    assert_eq!(lines(&[]), 2 * 2 + 1 + 2);
    assert_eq!(lines(&["--type", "number"]), 3);
    assert_eq!(lines(&["--type", "number", "--run", sandbox.runs()[0].id()]), 2);
    assert_eq!(lines(&["--since", "-1d"]), 7);
    assert_eq!(lines(&["--since", "2999-01-01"]), 0);
    sandbox.lorchestra(&["events", "list", "--since", "7m"]).exits(2);
    sandbox.lorchestra(&["events", "list", "--run", "0123"]).exits(1);
}

#[test]
fn a_run_is_shown_completely() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "exit", "--code", "3"]).exits(1);
    let ended = sandbox.lorchestra(&["runs", "show", sandbox.run().id()]).exits(0);
    // The host's name and the source line are not fixed.
    let text: Vec<String> =
        ended.snapshot(&sandbox).lines().filter(|line| !line.starts_with("host")).map(str::to_owned).collect();
    let text = text.join("\n").replace(sandbox.run().0["location"].as_str().unwrap(), "src/lib.rs:[LINE]");
    insta::assert_snapshot!(text);
}

/// A reader that goes away ends the output silently; a full disk does not look like success.
#[test]
fn a_full_disk_behind_standard_output_is_a_failure() {
    let sandbox = sandbox();
    for args in [
        &["jobs", "list"][..],
        &["jobs", "show", "misbehave", "noop"],
        &["run-job", "misbehave", "noop"],
        &["--help"],
        &["--version"],
        &["runs", "list", "--help"],
        &["run-job", "--help"],
        &["run-job", "misbehave", "--help"],
    ] {
        let mut command = sandbox.command(args);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(74), "{args:?}: {err}");
        assert!(err.contains("cannot write to stdout") && err.lines().count() == 1, "{err}");
    }
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "numbered", "--count", "5000"]).exits(0);
    let mut command = sandbox.command(&["events", "list"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

/// The output of `misbehave/print`.
fn printed(lines: usize) -> Vec<u8> {
    let mut all: Vec<u8> = (0..lines).flat_map(|n| format!("out {n}\nerr {n}\n").into_bytes()).collect();
    all.extend_from_slice(b"\xff\xfe without an end");
    all
}

#[test]
fn a_log_is_complete_up_to_its_limit_and_keeps_both_ends_beyond() {
    let sandbox = sandbox();
    sandbox.configure("[logs]\nmax = \"64K\"");
    let max = 64 << 10;
    // The largest number of lines that fits, one more, and many more.
    let most = (0..).take_while(|lines| printed(*lines).len() <= max).last().unwrap();
    for lines in [most, most + 1, 100 * most] {
        let all = printed(lines);
        sandbox.lorchestra(&["run-job", "misbehave", "print", "--lines", &lines.to_string()]).exits(0);
        let id = sandbox.runs()[0].id().to_owned();
        let ended = sandbox.lorchestra(&["runs", "logs", &id]).exits(0);
        if lines == most {
            assert!(
                ended.stdout == all && ended.err().is_empty(),
                "{} of {} bytes, {}",
                ended.stdout.len(),
                all.len(),
                ended.err()
            );
        } else {
            let missing = all.len() - ended.stdout.len();
            assert!(ended.stdout.len() <= max && ended.stdout.len() >= max * 3 / 4, "{} bytes", ended.stdout.len());
            assert!(ended.stdout[..max / 2] == all[..max / 2], "the beginning");
            assert!(ended.stdout[max / 2..] == all[max / 2 + missing..], "the end");
            let said = format!("… {missing} bytes after byte {} were not kept (logs.max): the end follows …\n", max / 2);
            assert_eq!(ended.err(), said);
        }
        let on_disk: u64 = std::fs::read_dir(sandbox.state().join("logs").join(&id))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(on_disk, ended.stdout.len() as u64, "and no other file");
        let shown = sandbox.lorchestra(&["runs", "show", &id, "--json"]).exits(0).json("lorchestra.runs-show/1");
        assert_eq!(shown["logs"].as_array().unwrap().len(), 4, "three files of output, and the trace: {shown}");
    }
}

/// A trace is kept in the same way, line by line, even while it is followed.
#[test]
fn a_trace_has_the_same_limit() {
    let sandbox = sandbox();
    sandbox.configure("[logs]\nmax = \"64K\"");
    sandbox.lorchestra(&["run-job", "misbehave", "trace_much", "--count", "5000"]).exits(0);
    let ended = sandbox.lorchestra(&["runs", "logs", "--trace", sandbox.run().id()]).exits(0);
    let numbers: Vec<u64> = ended
        .out()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["fields"]["n"].as_u64().unwrap())
        .collect();
    let gap = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
    assert_eq!((numbers[0], *numbers.last().unwrap(), gap), (0, 4999, 1), "both ends, and one gap");
    assert!(ended.stdout.len() <= 64 << 10 && ended.err().contains("were not kept (logs.max)"), "{}", ended.err());
    let followed = sandbox.lorchestra(&["-v", "run-job", "misbehave", "trace_much", "--count", "200"]).exits(0);
    assert_eq!(followed.err().lines().filter(|line| line.contains("traced")).count(), 200, "{}", followed.err());
}
