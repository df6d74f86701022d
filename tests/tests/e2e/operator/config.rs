//! `config.toml`: job parameters, and messages about mistakes in the terms of the file. Printed values can be used as input.

use lorchestra_tests::{Fixture, Sandbox};
use std::fs;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave, Fixture::Kit])
}

#[test]
fn parameters_are_configured_and_a_flag_wins() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/numbered\".params]\ncount = 3\naccount = \"anna\"\n");
    let params = |flags: &[&str]| {
        sandbox.lorchestra(&[&["run-job", "misbehave", "numbered"], flags].concat()).exits(0);
        let shown = sandbox.lorchestra(&["runs", "show", "last", "--json"]).exits(0).json("lorchestra.runs-show/1");
        (shown["spec"]["params"]["count"].as_u64().unwrap(), shown["account"].as_str().map(str::to_owned))
    };
    assert_eq!(params(&[]), (3, Some("anna".into())));
    assert_eq!(params(&["--count", "5"]), (5, Some("anna".into())));
    assert_eq!(params(&["--param", "account=bert"]), (3, Some("bert".into())));
    for (config, what, hint) in [
        ("cuont = 3", "has no such parameter", "did you mean count?"),
        ("count = \"many\"", "config.toml: params.count =", "--help"),
        ("count = { n = 3 }", "is a table", "write a string"),
    ] {
        sandbox.configure(&format!("[job.\"misbehave/numbered\".params]\n{config}\n"));
        let refused = sandbox.lorchestra(&["run-job", "misbehave", "numbered"]);
        assert_eq!(refused.code(), Some(78), "{}", refused.shown());
        assert!(refused.err().contains(what) && refused.err().contains(hint), "{}", refused.shown());
        let run = sandbox.all_runs().remove(0);
        assert_eq!((run.state(), run.cause()), ("refused", "config"), "{config}");
        assert!(sandbox.lorchestra(&["doctor"]).out().contains(what), "{config}");
    }
    sandbox.configure("[job.\"kit/optional_secret\".params]\napi_token = \"hunter22\"\n");
    let refused = sandbox.lorchestra(&["run-job", "kit", "optional_secret"]).exits(78);
    assert!(refused.err().contains(".secrets]") && !refused.err().contains("hunter22"), "{}", refused.shown());
}

#[test]
fn a_mistake_is_described_with_the_names_used_in_the_file() {
    let sandbox = sandbox();
    for (config, what) in [
        ("retention = \"30d\"", "line 1: retention is string \"30d\", but must be a table: [name], with keys below it"),
        ("[retention]\nlogs = \"soon\"", "line 2: logs is not a duration; write numbers with the units"),
        ("locked = \"yes\"", "line 1: locked is string \"yes\", but must be true or false"),
        ("lokced = true", "unknown key `lokced`"),
    ] {
        sandbox.configure(config);
        let refused = sandbox.lorchestra(&["jobs", "list"]).exits(78);
        assert!(refused.err().contains(what), "{config}: {}", refused.shown());
        assert!(!refused.err().contains("docs/") && !refused.err().contains("struct"), "{}", refused.shown());
    }
}

/// An operator reads the history to find out what the mistake has stopped.
#[test]
fn a_mistake_does_not_hide_the_history() {
    let sandbox = sandbox();
    let state = sandbox.arg("state");
    let configured = format!("state_dir = {state:?}\n");
    sandbox.configure(&configured);
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    sandbox.configure(&format!("{configured}[retention]\nlogs = \"soon\"\n"));
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(78);
    let exported = sandbox.arg("events.jsonl");
    let reads: [(&[&str], i32, &str); 12] = [
        (&["runs", "list"], 0, "refused"),
        (&["runs", "show", "misbehave/print"], 0, "state      refused"),
        (&["runs", "logs", "last"], 0, ""),
        (&["events", "list"], 0, "job.refused"),
        (&["events", "export", "--format", "jsonl", "-o", &exported], 0, ""),
        (&["report"], 0, "<html"),
        (&["metrics"], 78, "lorchestra_job_healthy{package=\"misbehave\",job=\"print\",account=\"\"} 0"),
        (&["schedule", "list"], 0, ""),
        (&["status"], 1, "failing"),
        (&["bookmarks", "show"], 0, ""),
        (&["backfill", "list"], 0, ""),
        (&["doctor"], 1, "✗ configuration: "),
    ];
    let mistake = format!("{}: line 3: logs is not a duration", sandbox.home().join(".config/lorchestra/config.toml").display());
    for (args, code, shown) in reads {
        let ended = sandbox.lorchestra(args).exits(code);
        assert!(ended.out().contains(shown), "{}", ended.shown());
        let warned = ended.err().lines().next().is_some_and(|line| {
            line.starts_with("warning: ") && line.contains(&mistake) && line.contains("lorchestra config keys")
        });
        assert!(warned || args == ["doctor"] && ended.out().contains(&mistake), "{}", ended.shown());
    }
    assert!(sandbox.read("events.jsonl").contains("job.refused"), "the export is complete");
    assert!(sandbox.lorchestra(&["doctor"]).out().contains("✓ store: "), "the other checks are made");
    // No run can start, so monitoring must not see a healthy host.
    fs::remove_dir_all(&state).unwrap();
    sandbox.lorchestra(&["status"]).exits(78);
    for args in
        [&["jobs", "list"][..], &["runs", "prune"], &["runs", "prune", "--dry-run"], &["events", "flush"], &["config", "show"]]
    {
        sandbox.lorchestra(args).exits(78);
    }
    // Where the history is cannot be known.
    for wrong in ["state_dir = 7\n", "state_dri = \"/x\"\n", "[retention]\nstate_dir = \"/x\"\n", "state_dir = \"x\"\n"] {
        sandbox.configure(wrong);
        sandbox.lorchestra(&["runs", "list"]).exits(78);
    }
}

/// A truncated file does not state its package; its file name does.
#[test]
fn a_truncated_library_is_a_plugin_that_cannot_be_used() {
    let sandbox = sandbox();
    let library = sandbox.plugins().join("libmisbehave.so");
    let bytes = fs::read(&library).unwrap();
    fs::write(&library, &bytes[..bytes.len() / 2]).unwrap();
    for args in [&["run-job", "misbehave", "noop"][..], &["jobs", "show", "misbehave", "noop"], &["jobs", "list", "misbehave"]] {
        let refused = sandbox.lorchestra(args).exits(126);
        assert!(refused.err().starts_with("error: package misbehave cannot be used\n"), "{}", refused.shown());
        assert!(refused.err().contains("fix: ") || refused.err().contains("copy"), "{}", refused.shown());
    }
    sandbox.lorchestra(&["run-job", "misbehav", "noop"]).exits(1);
}

#[test]
fn a_printed_duration_is_accepted_as_input() {
    let sandbox = sandbox();
    let plan = |value: &str| {
        let args = ["run-job", "kit", "kinds", "--dry-run", "--json", "--every", value];
        sandbox.lorchestra(&args)
    };
    let (with_unit, bare) = (plan("90s").exits(0), plan("90").exits(0));
    let params = |ended: &lorchestra_tests::Ended| ended.json("lorchestra.run-spec/1")["params"].clone();
    assert_eq!(params(&with_unit)["every"], 90);
    assert_eq!(params(&bare)["every"], 90);
    assert_eq!(params(&plan("1.5").exits(0))["every"], 1.5);
    plan("1.5m").exits(2);
}
