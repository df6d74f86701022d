//! Bad parameters never reach plugin code: exit code 2, the job's marker is not written, no run is recorded.

use lorchestra_tests::{Fixture, Sandbox};

/// The refused parameters of `misbehave/typed`, whose marker would show that it was called.
const BAD: &[&[&str]] = &[
    // Times.
    &["--since", "7m"],
    &["--since", "-7m"],
    &["--since", ""],
    &["--since", "7d"],
    &["--since", "+7d"],
    &["--since", "-7"],
    &["--since", "-7 d"],
    &["--since", "-d"],
    &["--since", "-99999y"],
    &["--since", "-7d12h"],
    &["--since", "tomorrow"],
    &["--since", "yesteday"],
    &["--since", "2024-13-01"],
    &["--since", "2024-02-30"],
    &["--since", "2023-02-29"],
    &["--since", "2024-1-5"],
    &["--since", "20240131"],
    &["--since", "31.01.2024"],
    &["--since", "01/31/2024"],
    &["--since", "2024"],
    &["--since", "1706700000"],
    &["--since", "0000-01-01"],
    &["--since", "2024-01-31T10:00:00"],
    &["--since", "2024-01-31T25:00:00Z"],
    &["--since", "2024-01-31T10:00Z"],
    &["--since", "2024-01-31T10:00:00 Europe/Berlin"],
    &["--since", "2024-01-31T10:00:00+25:00"],
    &["--since", "\u{2212}7d"],
    &["--since", "now", "--until", "-1d"],
    &["--since", "2024-01-31", "--until", "2024-01-31"],
    &["--since", "2999-01-01"],
    &["--since"],
    &["--until", "sometime"],
    &["--day", "2024-01-31T00:00:00Z"],
    &["--day", "-12h"],
    &["--day", "now"],
    &["--horizon", "x"],
    // Numbers.
    &["--small", "128"],
    &["--small", "-129"],
    &["--small", "1.5"],
    &["--small", "0x10"],
    &["--small", ""],
    &["--small", "seven"],
    &["--page-size", "-1"],
    &["--page-size", "4294967296"],
    &["--page-size", "1_000"],
    &["--page-size", "1e3"],
    &["--big", "18446744073709551616"],
    &["--big", "NaN"],
    &["--ratio", "inf"],
    &["--ratio", "nan"],
    &["--ratio", "1,5"],
    &["--ratio", "1e999"],
    &["--ratio", ""],
    // Switches and paths.
    &["--dry=yes"],
    &["--dry", "true"],
    &["--param", "dry=perhaps"],
    &["--path", ""],
    // Unknown parameters, and repeated ones.
    &["--pagesize", "5"],
    &["--param", "nothing=1"],
    &["--param", "novalue"],
    &["--param", "=1"],
    &["--page-size", "1", "--page-size", "2"],
    &["--page-size", "1", "--param", "page_size=2"],
    &["stray"],
    // run-job's own flags.
    &["--timeout", "soon"],
    &["--timeout", "0s"],
    &["--timeout", "-5s"],
    &["--grace", "1"],
    &["--json=1"],
];

#[test]
fn bad_parameters_never_reach_the_job() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let marker = sandbox.arg("marker");
    for bad in BAD {
        let args = [&["run-job", "misbehave", "typed", "--marker", &marker], *bad].concat();
        let ended = sandbox.lorchestra(&args).exits(2);
        assert_eq!(ended.out(), "", "{}", ended.shown());
        assert_eq!(sandbox.read("marker"), "", "the job started: {}", ended.shown());
    }
    assert!(sandbox.runs().is_empty(), "a run was recorded: {:?}", sandbox.runs());
    // The marker works: with good parameters the same job writes it.
    sandbox.lorchestra(&["run-job", "misbehave", "typed", "--marker", &marker, "--since", "-7d"]).exits(0);
    assert_ne!(sandbox.read("marker"), "");
    assert_eq!(sandbox.runs().len(), 1);
}

#[test]
fn bad_parameters_are_refused_in_a_dry_run_too() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for bad in BAD {
        let args = [&["run-job", "misbehave", "typed", "--dry-run"], *bad].concat();
        sandbox.lorchestra(&args).exits(2);
    }
    assert!(!sandbox.state().exists(), "a dry run creates no state directory");
}

/// Before PACKAGE, between it and JOB, and before, between and after the job's flags.
#[test]
fn own_flags_may_be_at_any_position() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let plan = |args: &[&str]| {
        let ended = sandbox.lorchestra(&[&["run-job", "--json"], args].concat()).exits(0);
        let plan = ended.json("lorchestra.run-spec/1");
        (plan["timeout"].as_u64(), plan["params"]["since"].clone(), plan["params"]["dry"].as_bool())
    };
    let expected = (Some(5), serde_json::json!("2024-01-31T00:00:00Z"), Some(true));
    for args in [
        &["--timeout", "5s", "--dry-run", "misbehave", "typed", "--since", "2024-01-31", "--dry"][..],
        &["misbehave", "--timeout", "5s", "typed", "--since", "2024-01-31", "--dry", "--dry-run"],
        &["misbehave", "typed", "--timeout", "5s", "--dry-run", "--since", "2024-01-31", "--dry"],
        &["misbehave", "typed", "--since", "2024-01-31", "--dry-run", "--timeout", "5s", "--dry"],
        &["misbehave", "typed", "--dry", "--since=2024-01-31", "--timeout=5s", "--dry-run"],
        // The last one wins.
        &["--timeout", "1s", "misbehave", "typed", "--dry", "--dry-run", "--since", "2024-01-31", "--timeout", "5s"],
        &["--timeout", "1s", "--timeout", "5s", "--dry-run", "misbehave", "typed", "--dry", "--since", "2024-01-31"],
        &["misbehave", "typed", "--timeout", "1s", "--dry", "--dry-run", "--since", "2024-01-31", "--timeout", "5s"],
    ] {
        assert_eq!(plan(args), expected, "{args:?}");
    }
    // A job's own flags come after it.
    let ended = sandbox.lorchestra(&["run-job", "--since", "2024-01-31", "misbehave", "typed"]).exits(2);
    assert!(ended.err().contains("'--since'"), "{}", ended.shown());
}

#[test]
fn an_incomplete_param_flag_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for (bad, what) in [("=1", "--param =1: there is no name"), ("dry", "--param dry: there is no value")] {
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "typed", "--param", bad]).exits(2);
        assert_eq!(ended.err(), format!("error: {what}\n  write --param name=value\n"));
    }
}

#[test]
fn a_repeated_flag_with_one_value_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let help = "  lorchestra run-job misbehave typed --help\n";
    for (args, typed) in [
        (&["--page-size", "1", "--page-size=2"][..], r#"--page-size "1" and --page-size "2""#),
        (&["--page-size", "1", "--param", "page_size=2"], r#"--page-size "1" and --param page_size="2""#),
    ] {
        let ended = sandbox.lorchestra(&[&["run-job", "misbehave", "typed"], args].concat()).exits(2);
        let expected = format!("--page-size is given 2 times, as {typed}, but misbehave/typed accepts it once; keep one");
        assert_eq!(ended.err(), format!("error: {expected}\n{help}"));
    }
    // Repeating a switch changes nothing.
    sandbox.lorchestra(&["run-job", "misbehave", "typed", "--dry-run", "--dry", "--dry"]).exits(0);
}

#[test]
fn a_switch_with_a_value_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for typed in ["--dry=false", "--no-dry=yes"] {
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "typed", typed]).exits(2);
        let flag = typed.split('=').next().unwrap();
        assert_eq!(
            ended.err(),
            format!(
                "error: {flag} is a switch and takes no value; write --dry or --no-dry\n  lorchestra run-job misbehave typed --help\n"
            )
        );
    }
    // By name it accepts a value.
    sandbox.lorchestra(&["run-job", "misbehave", "typed", "--dry-run", "--param", "dry=false"]).exits(0);
}

#[test]
fn a_missing_required_parameter_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "exit"]).exits(2);
    insta::assert_snapshot!(ended.snapshot(&sandbox));
}

#[test]
fn all_errors_are_reported_at_once() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let args = ["run-job", "misbehave", "typed", "--since", "-7m", "--small", "300", "--param", "pagesize=1"];
    let ended = sandbox.lorchestra(&args).exits(2);
    insta::assert_snapshot!(ended.snapshot(&sandbox));
}

#[test]
fn a_value_that_is_not_utf8_is_reported() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for flag in ["--text", "--path"] {
        let mut command = sandbox.command(&["run-job", "misbehave", "typed", "--marker", &sandbox.arg("marker"), flag]);
        command.arg(std::ffi::OsStr::from_bytes(b"/x\xff"));
        lorchestra_tests::Running::start(command).wait().exits(2);
        assert_eq!(sandbox.read("marker"), "");
    }
}

#[test]
fn valid_parameters_reach_the_job() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    // A text that begins with a hyphen and no digit needs the form with `=`.
    let values = [
        "--text=-x y\u{e9}",
        "--small",
        "-128",
        "--page-size",
        "7",
        "--big",
        "18446744073709551615",
        "--ratio",
        "-0.5",
        "--dry",
        "--since",
        "2024-01-31",
        "--until",
        "2024-02-01T01:00:00.5+01:00",
        "--day",
        "2024-02-29",
        "--path",
        "a/b",
        "--horizon",
        "2024-01-01",
        "--param",
        "account=me",
    ];
    sandbox.lorchestra(&[&["run-job", "misbehave", "typed"], &values[..]].concat()).exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    let mut got = events[1].payload().clone();
    let object = got.as_object_mut().unwrap();
    for of_the_run in ["run_id", "attempt", "data_dir"] {
        assert!(object.remove(of_the_run).is_some_and(|value| !value.is_null()), "{of_the_run}");
    }
    let expected = serde_json::json!({
        "text": "-x y\u{e9}", "small": -128, "page_size": 7, "big": 18_446_744_073_709_551_615_u64, "ratio": -0.5, "dry": true,
        "since": "2024-01-31T00:00:00Z", "until": "2024-02-01T00:00:00.500Z", "day": "2024-02-29", "path": "a/b",
        "horizon": "2024-01-01T00:00:00Z", "account": "me",
    });
    assert_eq!(got, expected);
}

#[test]
fn the_plan_is_printed_in_absolute_times() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let values = ["--since", "2024-01-31", "--until", "2024-02-01T01:00:00+01:00", "--horizon", "2024-01-01", "--timeout", "5m"];
    let ended = sandbox.lorchestra(&[&["run-job", "misbehave", "typed", "--dry-run"], &values[..]].concat()).exits(0);
    insta::assert_snapshot!(ended.out().replace(&sandbox.root().display().to_string(), "[SANDBOX]"));
    assert!(!sandbox.state().exists(), "nothing was started");
}

#[test]
fn a_missing_until_is_the_start_of_the_run_and_is_passed_on() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "typed", "--since", "-7d"]).exits(0);
    let run = sandbox.run();
    let job_saw = sandbox.whole_events_of(&run)[1].payload()["until"].clone();
    let recorded = run.0["until"].as_str().unwrap();
    // The job's form omits trailing zeros.
    assert_eq!(job_saw.as_str().unwrap()[..19], recorded[..19], "{job_saw} {recorded}");
    assert!(run.0["started_at"].as_str() >= Some(recorded), "resolved before the run started");
}
