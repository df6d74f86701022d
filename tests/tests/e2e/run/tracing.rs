//! A job's trace: in the run's `trace.jsonl` and, with `-v`, on stderr.

use lorchestra_tests::{Fixture, Sandbox, built};
use serde_json::{Value, json};

fn trace(sandbox: &Sandbox) -> Vec<Value> {
    let id = sandbox.runs()[0].id().to_owned();
    let file = std::fs::read_to_string(sandbox.state().join("logs").join(&id).join("trace.jsonl")).unwrap();
    let shown = sandbox.lorchestra(&["runs", "logs", "--trace", &id]).exits(0);
    assert_eq!(shown.out(), file);
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn messages(trace: &[Value]) -> Vec<&str> {
    trace.iter().filter_map(|event| event["message"].as_str()).collect()
}

#[test]
fn info_and_above_are_recorded_with_target_fields_span_and_location() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "traced"]).exits(0);
    assert_eq!(ended.err(), "", "not asked for");
    let trace = trace(&sandbox);
    assert_eq!(messages(&trace), ["an error", "an info"]);
    let source = std::fs::read_to_string(built::workspace().join("tests/plugins/misbehave/src/lib.rs")).unwrap();
    for (event, level, fields) in
        [(&trace[0], "ERROR", json!({"code": 7})), (&trace[1], "INFO", json!({"ratio": 0.5, "ok": true}))]
    {
        assert_eq!(event["level"], level);
        assert_eq!(event["target"], "misbehave");
        assert_eq!(event["fields"], fields);
        assert_eq!(event["spans"], json!([{"name": "mailbox", "fields": {"account": "acct1"}}]));
        assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')));
        assert!(event["file"].as_str().is_some_and(|file| file.ends_with("misbehave/src/lib.rs")), "{event}");
        let line = event["line"].as_u64().expect("a line") as usize;
        assert!(source.lines().nth(line - 1).unwrap().contains(event["message"].as_str().unwrap()), "{event}");
    }
}

#[test]
fn lower_levels_are_recorded_and_shown_on_request() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let all = ["an error", "an info", "a debug", "a trace"];
    for (flag, n) in [("-v", 2), ("-vv", 3), ("-vvv", 4)] {
        let ended = sandbox.lorchestra(&["run-job", flag, "misbehave", "traced"]).exits(0);
        assert_eq!(messages(&trace(&sandbox)), all[..n], "{flag}");
        for (i, message) in all.iter().enumerate() {
            assert_eq!(ended.err().contains(&format!("misbehave: {message}")), i < n, "{flag} {message}: {}", ended.shown());
        }
        assert_eq!(ended.plain_out(), "✓ misbehave/traced completed (run [SHORT])\n", "{flag}");
    }
}

#[test]
fn a_job_that_traces_nothing_has_no_trace() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let ended = sandbox.lorchestra(&["runs", "logs", "--trace", sandbox.run().id()]).exits(0);
    assert_eq!(ended.out(), "");
}
