//! The JSON Schemas in docs/reference/schemas describe what commands print.

use lorchestra_tests::{Ended, Fixture, Sandbox};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// A schema of docs/reference.
fn validator(name: &str) -> jsonschema::Validator {
    let path = lorchestra_tests::built::workspace().join(format!("docs/reference/schemas/{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let schema: Value = serde_json::from_str(&text).unwrap();
    // Whatever a command prints must be in its schema: otherwise a renamed key would go unnoticed.
    jsonschema::draft202012::options().build(&schema).unwrap()
}

/// Checks every line that a command printed, also that the schema has all of its keys. Returns the name of the schema.
fn check(ended: &Ended) -> Vec<String> {
    let mut names = Vec::new();
    for line in ended.out().lines() {
        names.push(check_text(line));
    }
    assert!(!names.is_empty(), "{}", ended.shown());
    names
}

fn check_text(line: &str) -> String {
    let value: Value = serde_json::from_str(line).unwrap();
    let name = value["schema"].as_str().unwrap().strip_prefix("lorchestra.").unwrap().split('/').next().unwrap().to_owned();
    let errors: Vec<String> =
        validator(&name).iter_errors(&value).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}: {line}");
    let schema: Value = serde_json::from_str(
        &fs::read_to_string(lorchestra_tests::built::workspace().join(format!("docs/reference/schemas/{name}.json"))).unwrap(),
    )
    .unwrap();
    for key in value.as_object().unwrap().keys() {
        assert!(schema["properties"].get(key).is_some(), "{name} lacks {key}");
    }
    // The schema can refuse: another name, and a missing key.
    let mut other = value.clone();
    other["schema"] = "lorchestra.other/1".into();
    assert!(!validator(&name).is_valid(&other), "{name} accepts another schema");
    let mut less = value;
    let required = schema["required"].as_array().unwrap().last().unwrap().as_str().unwrap();
    less.as_object_mut().unwrap().remove(required);
    assert!(!validator(&name).is_valid(&less), "{name} does without {required}");
    name
}

#[test]
fn what_commands_print_is_valid() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    sandbox.configure(&format!(
        "on_start = \"cat >> {0}\"\non_success = \"cat >> {0}\"\non_failure = \"cat >> {0}\"\non_stale = \"cat >> {0}\"\n\
         [destinations.jsonl]\ndir = \"{1}\"\n[job.\"misbehave/print\"]\nexpect_every = \"1d\"\n",
        sandbox.arg("hooks"),
        sandbox.arg("nowhere")
    ));
    let mut seen = BTreeSet::new();
    let mut run = |args: &[&str], code| seen.extend(check(&sandbox.lorchestra(args).exits(code)));
    run(&["run-job", "--json", "misbehave", "noop"], 0);
    run(&["run-job", "--json", "misbehave", "fail"], 1);
    run(&["run-job", "--dry-run", "--json", "misbehave", "numbered", "--account", "a"], 0);
    run(&["run-job", "--dry-run", "--json", "--timeout", "2h", "--retries", "3", "misbehave", "windowed", "--since", "-1d"], 0);
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "windowed", "--until", "2024-03-01"]).exits(0);
    fs::remove_file(sandbox.plugins().join("libkit.so")).unwrap();
    sandbox.lorchestra(&["run-job", "-q", "kit", "kinds"]);
    run(&["runs", "list", "--json"], 0);
    for name in ["last", "misbehave/fail", "misbehave/noop"] {
        run(&["runs", "show", name, "--json"], 0);
    }
    run(&["events", "list", "--json", "--payload"], 0);
    run(&["events", "list", "--json", "--pending"], 0);
    run(&["bookmarks", "show", "--json"], 0);
    run(&["status", "--notify", "--json"], 1);
    run(&["doctor", "--json"], 1);
    run(&["config", "show", "--json"], 0);
    run(&["--version", "--json"], 0);
    let units = sandbox.home().join(".config/systemd/user");
    sandbox.lorchestra(&["schedule", "print", "misbehave/noop", "--systemd", "--dir", units.to_str().unwrap()]).exits(0);
    run(&["schedule", "list", "--json"], 0);
    let hooks: Vec<String> = sandbox.read("hooks").lines().map(check_text).collect();
    assert!(hooks.len() >= 5, "{hooks:?}");
    seen.extend(hooks);
    let listed = sandbox.lorchestra(&["schemas"]).exits(0);
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), listed.out().lines().collect::<Vec<_>>(), "every schema");
    let unknown = sandbox.lorchestra(&["schemas", "nothing"]).exits(2);
    assert!(unknown.err().contains("run-spec"), "{}", unknown.shown());
}
