//! The JSON Schemas in docs/reference/schemas describe what commands print.

use lorchestra_tests::{Ended, Fixture, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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

/// Checks the payload of an event of lorchestra: all of its keys are in the schema of the event type. Returns the type.
fn check_payload(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).unwrap();
    let name = event["event_type"].as_str().unwrap().to_owned();
    if !name.starts_with("job.") {
        return None;
    }
    let errors: Vec<String> = validator(&name).iter_errors(&event["payload"]).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}: {line}");
    let path = lorchestra_tests::built::workspace().join(format!("docs/reference/schemas/{name}.json"));
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for key in event["payload"].as_object().unwrap().keys() {
        assert!(schema["properties"].get(key).is_some(), "{name} lacks {key}");
    }
    Some(name)
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

/// The text of the only claim below a directory.
fn claim(dir: &Path) -> String {
    let entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    match entries.iter().find(|path| path.is_dir()) {
        Some(below) => claim(below),
        None => fs::read_to_string(&entries[0]).unwrap(),
    }
}

#[test]
fn what_commands_print_is_valid() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    sandbox.configure(&format!(
        "on_start = \"cat >> {0}\"\non_success = \"cat >> {0}\"\non_failure = \"cat >> {0}\"\non_stale = \"cat >> {0}\"\n\
         [destinations.jsonl]\ndir = \"{1}\"\n[job.\"misbehave/print\"]\nexpect_every = \"1d\"\n[job.\"kit/kinds\"]\ngrace = \"1s\"\n",
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
    run(&["config", "keys", "--json"], 0);
    run(&["--version", "--json"], 0);
    run(&["jobs", "list", "--json"], 0);
    run(&["jobs", "show", "misbehave/typed", "--json"], 0);
    let library = Fixture::Kit.built().display().to_string();
    run(&["plugins", "check", &library, "--json"], 0);
    fs::write(sandbox.path("text.so"), "no library").unwrap();
    run(&["plugins", "check", &sandbox.arg("text.so"), "--json"], 126);
    fs::write(sandbox.plugins().join("bad.so"), "no library").unwrap();
    std::os::unix::fs::symlink("libmisbehave.so", sandbox.plugins().join("other.so")).unwrap();
    run(&["plugins", "install", &library, "--json"], 0);
    run(&["plugins", "list", "--json"], 0);
    run(&["plugins", "lock", "--json"], 0);
    run(&["plugins", "remove", "kit", "--json"], 0);
    let days = ["backfill", "misbehave/windowed", "--from", "2024-02-28", "--to", "2024-03-01", "--every", "1d"];
    run(&[&days[..], &["--dry-run", "--json"]].concat(), 0);
    run(&[&days[..], &["--json", "--then", "fail"]].concat(), 1);
    run(&["backfill", "list", "--json"], 0);
    run(&["backfill", "show", "last", "--json"], 0);
    sandbox.lorchestra(&[&days[..], &["--plan", &sandbox.arg("plan")]].concat()).exits(0);
    fs::create_dir(sandbox.path("claims")).unwrap();
    let window = ["run-window", "--index", "0", "--plan", &sandbox.arg("plan"), "--claims", &sandbox.arg("claims")];
    sandbox.lorchestra(&[&window[..], &["--attempt", "1", "--no-require-delivery"]].concat()).exits(0);
    // Another window has the claim of a run on another host.
    let claims = fs::read_dir(sandbox.path("claims")).unwrap().next().unwrap().unwrap().path();
    let mut other: serde_json::Value = serde_json::from_slice(&fs::read(claims.join("0")).unwrap()).unwrap();
    other["run_id"] = "0193a000-0000-7000-8000-00000000ffff".into();
    fs::write(claims.join("1"), other.to_string()).unwrap();
    let window = ["run-window", "--index", "1", "--plan", &sandbox.arg("plan"), "--claims", &sandbox.arg("claims")];
    sandbox.lorchestra(&[&window[..], &["--attempt", "1", "--no-require-delivery"]].concat()).exits(0);
    fs::remove_file(claims.join("1")).unwrap();
    let (failing, results) = (sandbox.arg("failing"), sandbox.arg("results"));
    sandbox.lorchestra(&[&days[..], &["--then", "fail", "--plan", &failing]].concat()).exits(0);
    fs::create_dir(&results).unwrap();
    let window = ["run-window", "--indexes", "0", "--plan", &failing, "--claims", &sandbox.arg("claims"), "--results", &results];
    let reported = sandbox.lorchestra(&[&window[..], &["--attempt", "1", "--no-require-delivery"]].concat()).exits(0);
    seen.extend(check(&reported));
    seen.insert(check_text(&sandbox.read("results/0.1")));
    let mut run = |args: &[&str], code| seen.extend(check(&sandbox.lorchestra(args).exits(code)));
    run(&["bookmarks", "set", "misbehave/windowed", "2024-03-02", "--json"], 0);
    run(&["bookmarks", "reset", "misbehave/windowed", "--json"], 0);
    run(&["events", "setup", "--dry-run", "--json"], 0);
    run(&["events", "setup", "--json"], 0);
    run(&["events", "flush", "--json"], 0);
    run(&["runs", "prune", "--older-than", "1d", "--dry-run", "--json"], 0);
    run(&["runs", "stop", "misbehave/noop", "--json"], 0);
    let files = [sandbox.read("plan").lines().next().unwrap().to_owned(), claim(&sandbox.path("claims"))];
    seen.extend(files.iter().map(|text| check_text(text)));
    let mut run = |args: &[&str], code| seen.extend(check(&sandbox.lorchestra(args).exits(code)));
    let units = sandbox.home().join(".config/systemd/user");
    sandbox.lorchestra(&["schedule", "print", "misbehave/noop", "--systemd", "--dir", units.to_str().unwrap()]).exits(0);
    run(&["schedule", "list", "--json"], 0);
    let hooks: Vec<String> = sandbox.read("hooks").lines().map(check_text).collect();
    assert!(hooks.len() >= 5, "{hooks:?}");
    seen.extend(hooks);
    // Emitted only by a run that loses a race for a claim, which `run::windows` shows. Its payload has the type of `job.failed`.
    seen.insert("job.superseded".to_owned());
    let marker = sandbox.arg("marker");
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &marker]);
    eventually("the job runs", || !sandbox.read("marker").is_empty());
    sandbox.lorchestra(&["run-job", "--on-overlap", "skip", "misbehave", "wait"]).exits(0);
    running.signal(Signal::TERM);
    running.wait().exits(143);
    let of_events = sandbox.lorchestra(&["events", "list", "--json", "--payload"]).exits(0);
    seen.extend(of_events.out().lines().filter_map(check_payload));
    let listed = sandbox.lorchestra(&["schemas"]).exits(0);
    assert_eq!(seen, listed.out().lines().map(str::to_owned).collect(), "every schema");
    let unknown = sandbox.lorchestra(&["schemas", "nothing"]).exits(2);
    assert!(unknown.err().contains("run-spec"), "{}", unknown.shown());
}
