//! Reads the files of JSON lines that a destination has written, and compares them with the store.

use crate::Sandbox;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of their directory in the sandbox.
pub const EVENTS: &str = "files";

/// The table of config.toml that names the directory; `more` is appended.
pub fn table(sandbox: &Sandbox, more: &str) -> String {
    format!("[destinations.jsonl]\ndir = \"{}\"\n{more}", sandbox.path(EVENTS).display())
}

/// The files of a directory, in the order in which they were begun.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    files.sort();
    files
}

/// Every line of these files; each must be complete.
#[track_caller]
pub fn lines(files: &[PathBuf]) -> Vec<Value> {
    let mut lines = Vec::new();
    for path in files {
        let text = fs::read_to_string(path).expect("a file");
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")));
    }
    lines
}

/// The ids of these events.
pub fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["event_id"].as_str().expect("an event has an id").to_owned()).collect()
}

/// Checks that every event in the store is in the files exactly once.
#[track_caller]
pub fn all_is_there(sandbox: &Sandbox, files: &[PathBuf], label: &str) {
    let stored = sandbox.lorchestra(&["events", "list", "--json"]).exits(0).json_lines("lorchestra.event/1");
    let (mut stored, mut there) = (ids(&stored), ids(&lines(files)));
    stored.sort();
    there.sort();
    assert_eq!(there.len(), stored.len(), "{label}: lines and events");
    assert!(there == stored, "{label}: the lines are not the same as the events");
}
