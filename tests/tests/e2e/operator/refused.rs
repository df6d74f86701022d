//! A run that cannot start is recorded: a run in the state `refused`, an event, and a call of `on_failure`. Mistyped commands are not
//! recorded.

use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::{Event, Fixture, Sandbox, eventually};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// With an `on_failure` that appends its standard input to the file `failures`, and a job that has run once.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    configure(&sandbox, "");
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox
}

fn configure(sandbox: &Sandbox, more: &str) {
    sandbox.configure(&format!("on_failure = \"cat >> {}\"\n{more}", sandbox.arg("failures")));
}

/// Checks that the newest run is this refusal, with its event, its `on_failure` call and its line on the terminal.
#[track_caller]
fn refused(sandbox: &Sandbox, args: &[&str], code: i32, cause: &str, message: &str) -> Value {
    let before = sandbox.all_runs().len();
    let called = sandbox.read("failures").lines().count();
    let ended = sandbox.lorchestra(&[&["run-job"], args].concat()).exits(code);
    let runs = sandbox.all_runs();
    assert_eq!(runs.len(), before + 1, "one more run: {}", ended.shown());
    let run = &runs[0];
    assert_eq!((run.state(), run.cause()), ("refused", cause), "{run:?}");
    assert!(run.message().contains(message), "{run:?}");
    assert!(ended.err().ends_with(&format!("  lorchestra runs show {}\n", run.short())), "{}", ended.shown());
    let events = sandbox.whole_events_of(run);
    assert_eq!(events.iter().map(Event::event_type).collect::<Vec<_>>(), ["job.refused"]);
    assert_eq!(events[0].payload()["exit_code"], code);
    let failures = sandbox.read("failures");
    assert_eq!(failures.lines().count(), called + 1, "{failures}");
    let failure: Value = serde_json::from_str(failures.lines().last().unwrap()).unwrap();
    assert_eq!((&failure["run_id"], &failure["cause"]), (&json!(run.id()), &json!(cause)));
    assert_eq!(failure["logs"], format!("lorchestra runs show {}", run.id()));
    let shown = sandbox.lorchestra(&["runs", "show", "last"]).exits(0);
    assert!(shown.out().contains("state      refused") && shown.out().contains(message), "{}", shown.shown());
    run.0.clone()
}

#[test]
fn a_missing_broken_or_untrusted_plugin() {
    let sandbox = sandbox();
    let library = sandbox.plugins().join("libmisbehave.so");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o666)).unwrap();
    refused(&sandbox, &["misbehave", "noop"], 126, "plugin", "misbehave cannot be used");
    // The jobs of a broken file are unknown: the account is the one on the command line.
    let bytes = fs::read(&library).unwrap();
    fs::remove_file(&library).unwrap();
    fs::write(&library, &bytes[..bytes.len() / 2]).unwrap();
    fs::set_permissions(&library, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&sandbox, &["misbehave", "noop", "--account", "anna"], 126, "plugin", "misbehave cannot be used: ");
    assert!(sandbox.all_runs()[0].message().contains("/libmisbehave.so: "), "{:?}", sandbox.all_runs()[0]);
    assert_eq!(sandbox.all_runs()[0].0["account"], "anna");
    fs::remove_file(&library).unwrap();
    refused(&sandbox, &["misbehave", "noop"], 1, "plugin", "Unknown package: misbehave");
    let logs = sandbox.lorchestra(&["runs", "logs", "last"]).exits(0);
    assert!(logs.err().contains("it was refused"), "{}", logs.shown());
    sandbox.lorchestra(&["runs", "show", "last", "--spec"]).exits(1);
}

#[test]
fn a_missing_secret() {
    let sandbox = sandbox();
    let run = refused(&sandbox, &["kit", "optional_secret", "--api-token", "env:NOWHERE"], 2, "secret", "is missing");
    assert_eq!(run["package"], "kit");
    // A spec exists, and can run once the secret is set.
    sandbox.lorchestra(&["runs", "show", "last", "--spec"]).exits(0);
}

#[test]
fn an_invalid_configuration_and_one_that_does_not_fit_the_job() {
    let sandbox = sandbox();
    configure(&sandbox, "locked = true\n");
    refused(&sandbox, &["misbehave", "noop"], 78, "config", "only locked plugins may run");
    configure(&sandbox, "[job.\"misbehave/noop\".secrets]\nnone = \"env:X\"\n");
    refused(&sandbox, &["misbehave", "noop"], 78, "config", "has no such secret");
    // The file is not valid TOML, but its valid lines contain the state directory and `on_failure`.
    let before = sandbox.read("failures").lines().count();
    configure(&sandbox, "[retention]\nlogs = = 3\n");
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    assert!(ended.err().contains("lorchestra runs show "), "{}", ended.shown());
    assert_eq!(sandbox.read("failures").lines().count(), before + 1);
    configure(&sandbox, "");
    let run = &sandbox.all_runs()[0];
    assert_eq!((run.state(), run.cause()), ("refused", "config"));
    assert!(run.message().contains("config.toml"), "{run:?}");
}

#[test]
fn a_conflicting_run() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("it is recorded", || sandbox.all_runs().len() == 2);
    let id = sandbox.all_runs()[0].short().to_owned();
    refused(&sandbox, &["misbehave", "wait"], 75, "overlap", "is already running");
    // The refused run is newer, but not the one to stop, nor the one with a log.
    let of_refused = sandbox.lorchestra(&["runs", "stop", sandbox.all_runs()[0].short()]).exits(1);
    assert!(of_refused.err().contains(&format!("run lorchestra runs stop {id} to stop it")), "{}", of_refused.shown());
    for name in ["last", "misbehave/wait"] {
        let logs = sandbox.lorchestra(&["runs", "logs", name]).exits(0);
        assert!(!logs.err().contains("it was refused"), "{}", logs.shown());
    }
    let stopped = sandbox.lorchestra(&["runs", "stop", "misbehave/wait"]).exits(0);
    assert!(stopped.out().contains(&format!("run {id} has ended: failed (cancelled)")), "{}", stopped.shown());
    running.wait().exits(143);
    // The library is unknown, not changed: a refused run has none. Nor can it be required.
    let again = sandbox.lorchestra(&["runs", "rerun", "misbehave/wait", "--same-library", "--dry-run"]).exits(1);
    assert!(again.err().contains("has no library"), "{}", again.shown());
}

/// `--failed` names what it cannot run again.
#[test]
fn a_refused_run_without_a_spec_is_not_run_again() {
    let sandbox = sandbox();
    let library = sandbox.plugins().join("libmisbehave.so");
    fs::rename(&library, sandbox.path("away")).unwrap();
    refused(&sandbox, &["misbehave", "noop"], 1, "plugin", "Unknown package");
    fs::rename(sandbox.path("away"), &library).unwrap();
    let id = sandbox.all_runs()[0].short().to_owned();
    let again = sandbox.lorchestra(&["runs", "rerun", "--failed"]).exits(0);
    assert!(again.err().contains(&format!("run {id} of misbehave/noop has no spec")), "{}", again.shown());
    let again = sandbox.lorchestra(&["runs", "rerun", &id]).exits(1);
    assert!(again.err().contains("run the command of the schedule again"), "{}", again.shown());
    // A later success makes up for it.
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let again = sandbox.lorchestra(&["runs", "rerun", "--failed"]).exits(0);
    assert!(!again.err().contains("has no spec"), "{}", again.shown());
}

/// The call can be repeated: a refusal never has the id that the caller chose.
#[test]
fn a_refused_run_does_not_use_up_the_callers_id() {
    let sandbox = sandbox();
    let id = "0190a000-0000-7000-8000-00000000beef";
    let library = sandbox.plugins().join("libmisbehave.so");
    fs::rename(&library, sandbox.path("away")).unwrap();
    for _ in 0..2 {
        let run = refused(&sandbox, &["--run-id", id, "misbehave", "noop"], 1, "plugin", "Unknown package");
        assert_ne!(run["run_id"], id);
        assert_eq!(sandbox.events_of(run["run_id"].as_str().unwrap())[0].payload()["requested_run_id"], id);
    }
    fs::rename(sandbox.path("away"), &library).unwrap();
    sandbox.lorchestra(&["run-job", "--run-id", id, "misbehave", "noop"]).exits(0);
    assert_eq!((sandbox.all_runs()[0].id(), sandbox.all_runs()[0].state()), (id, "completed"));
    // The run with this id has ended, so it is found regardless of the installed plugins.
    fs::remove_file(&library).unwrap();
    let before = sandbox.all_runs().len();
    sandbox.lorchestra(&["run-job", "--run-id", id, "misbehave", "noop"]);
    assert!(
        sandbox.all_runs().iter().filter(|run| run.state() == "completed").count() == 2 && sandbox.all_runs().len() <= before + 1
    );
}

#[test]
fn typing_errors_dry_runs_and_help_record_nothing() {
    let sandbox = sandbox();
    for (args, code) in [
        (&["misbehav", "noop"][..], 1),
        (&["misbehave", "nop"], 1),
        (&["misbehave", "typed", "--small", "x"], 2),
        (&["misbehave", "noop", "--nonsense"], 2),
        (&["--dry-run", "kit", "optional_secret", "--api-token", "env:NOWHERE"], 2),
        (&["kit", "optional_secret", "--dry-run", "--api-token", "env:NOWHERE"], 2),
        (&["kit", "optional_secret", "--help"], 0),
    ] {
        sandbox.lorchestra(&[&["run-job"], args].concat()).exits(code);
    }
    assert_eq!(sandbox.all_runs().len(), 1, "{:?}", sandbox.all_runs());
    assert_eq!(sandbox.read("failures"), "");
    // A job that is configured is expected, although it has never run.
    configure(&sandbox, "[job.\"nowhere/nothing\"]\ntimeout = \"1h\"\n");
    refused(&sandbox, &["nowhere", "nothing"], 1, "plugin", "Unknown package: nowhere");
}

#[test]
fn the_event_is_delivered_at_once() {
    let site = Site::new(Write::Storage);
    let sandbox = &site.sandbox;
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(1);
    site.all_is_delivered(Write::Storage, "refused");
    let rows = site.fake.rows(&site.table);
    let refused = rows.iter().find(|row| row.values["event_type"] == "job.refused").expect("a row");
    assert_eq!((&refused.values["attempt"], &refused.values["source"]), (&json!(0), &json!("misbehave/noop")));
}

/// A caller that reads the object learns of a refusal from it, too: it is that of the recorded run.
#[test]
fn a_refused_run_is_an_object() {
    let sandbox = sandbox();
    let object = |args: &[&str], code: i32, cause: &str| {
        let ended = sandbox.lorchestra(args).exits(code);
        let object = ended.json("lorchestra.run-job/1");
        let run = sandbox.all_runs().remove(0);
        assert_eq!((&object["state"], &object["cause"]), (&json!("refused"), &json!(cause)), "{}", ended.shown());
        assert_eq!((&object["run_id"], &object["message"]), (&json!(run.id()), &json!(run.message())), "{}", ended.shown());
        assert_eq!((&object["package"], &object["job"]), (&run.0["package"], &run.0["job"]), "{}", ended.shown());
    };
    let secret = ["run-job", "kit", "optional_secret", "--api-token", "env:NOWHERE", "--json"];
    object(&secret, 2, "secret");
    object(&["runs", "rerun", "kit/optional_secret", "--json"], 2, "secret");
    configure(&sandbox, "locked = true\n");
    object(&["run-job", "--json", "misbehave", "noop"], 78, "config");
    configure(&sandbox, "[retention]\nlogs = = 3\n");
    object(&["run-job", "misbehave", "noop", "--json"], 78, "config");
    configure(&sandbox, "");
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("it is recorded", || sandbox.all_runs()[0].state() == "running");
    object(&["run-job", "misbehave", "wait", "--json"], 75, "overlap");
    sandbox.lorchestra(&["runs", "stop", "misbehave/wait"]).exits(0);
    running.wait().exits(143);
    // Before the flags of the job are known.
    fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    object(&["run-job", "misbehave", "noop", "--json"], 1, "plugin");
    // What is not recorded has no object.
    let mistyped = sandbox.lorchestra(&["run-job", "kit", "kinds", "--evry", "1", "--json"]).exits(2);
    assert!(mistyped.out().is_empty(), "{}", mistyped.shown());
}
