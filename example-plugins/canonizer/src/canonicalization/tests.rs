//! Canonicalization of the sample mailbox and of damaged input.

use super::*;
use crate::email_job::canonicalize_email;
use crate::key::Key;
use crate::kind::EMAIL;
use crate::kind::tests::assert_valid;
use lorchestra_plugin_api::serde_json::{self, Value};
use lorchestra_plugin_api::testing::{self, TempDir, Test, TestRun};
use std::fs;

/// The messages of the sample mailbox in order, without the empty one.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ingester/sample/takeout.mbox");
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for line in fs::read(path).unwrap().split_inclusive(|&b| b == b'\n') {
        let quotes = line.iter().take_while(|&&b| b == b'>').count();
        match messages.last_mut() {
            _ if line.starts_with(b"From ") => messages.push(Vec::new()),
            Some(message) if quotes > 0 && line[quotes..].starts_with(b"From ") => message.extend_from_slice(&line[1..]),
            Some(message) => message.extend_from_slice(line),
            None => panic!("the sample starts with a separator"),
        }
    }
    let last = messages.len() - 1;
    for message in &mut messages[..last] {
        let end = if message.ends_with(b"\r\n") { 2 } else { 1 };
        message.truncate(message.len() - end);
    }
    messages.retain(|message| !message.is_empty());
    messages
}

/// A line as written by ingester.
pub(crate) fn line(raw: &[u8], labels: &[&str]) -> String {
    let mut line = json!({"sha256": Key::of(raw).to_string(), "labels": labels, "received": null, "flags": null});
    match std::str::from_utf8(raw) {
        Ok(text) => line["raw"] = text.into(),
        Err(_) => line["raw_base64"] = STANDARD.encode(raw).into(),
    }
    line.to_string()
}

/// Data directories with input from ingester.
pub(crate) struct Sandbox {
    pub(crate) dir: TempDir,
    kind: &'static Kind,
    /// Path inside ingester's directory.
    input: &'static str,
}

impl Sandbox {
    pub(crate) fn of(kind: &'static Kind, input: &'static str) -> Self {
        let dir = TempDir::new();
        fs::create_dir_all(dir.path().join("ingester").join(input)).unwrap();
        Self { dir, kind, input }
    }

    fn new() -> Self {
        Self::of(&EMAIL, "mail")
    }

    /// An input file.
    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        self.dir.write(&format!("ingester/{}/{name}", self.input), bytes)
    }

    fn job(&self) -> Test {
        testing::job::<canonicalize_email>().data(&self.dir)
    }

    #[track_caller]
    fn run(&self) -> (TestRun, Value) {
        self.completed(self.job())
    }

    /// Runs the job and returns the counts, after checking that each line was counted once, that the files agree, and that
    /// every object matches the schema named in the event.
    #[track_caller]
    pub(crate) fn completed(&self, job: Test) -> (TestRun, Value) {
        let ran = job.run();
        let completed = ran.assert_ok().event("canonicalization.completed");
        let counts = completed.payload.clone();
        let n = |key: &str| counts[key].as_u64().unwrap();
        let set_aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(n("read"), n("written") + n("duplicates") + set_aside, "{counts}");
        assert_eq!(self.lines(self.kind.results).len() as u64, n("written"));
        assert_eq!(self.lines(self.kind.set_aside).len() as u64, set_aside);
        assert_eq!(ran.events_of("canonicalization.set_aside").len() as u64, set_aside);
        assert_valid(self.kind, &self.lines(self.kind.results));
        let schema: Value = serde_json::from_str(&self.read(self.kind.schema_file)).unwrap();
        assert_eq!(schema["$id"].as_str(), completed.schema_ref.as_deref());
        (ran, counts)
    }

    /// Reads a result file.
    pub(crate) fn read(&self, name: &str) -> String {
        self.dir.read(&format!("canonizer/{name}"))
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Returns these counts.
pub(crate) fn some(counts: &Value, keys: &[&str]) -> Vec<u64> {
    keys.iter().map(|key| counts[*key].as_u64().unwrap()).collect()
}

#[test]
fn the_sample_mailbox() {
    let sandbox = Sandbox::new();
    let samples = samples();
    assert_eq!(samples.len(), 35);
    sandbox.put("default.jsonl", samples.iter().map(|raw| line(raw, &["Inbox"]) + "\n").collect::<String>());
    let (ran, counts) = sandbox.run();
    assert_eq!(some(&counts, &["read", "written", "duplicates"]), [35, 34, 1]);
    assert_eq!(counts["set_aside"], json!({}));
    let subjects: Vec<_> = sandbox.lines("email.jsonl").iter().map(|email| email["subject"].clone()).collect();
    insta::assert_json_snapshot!(subjects);
    ran.assert_types(&["canonicalization.started", "canonicalization.completed"]);
}

#[test]
fn duplicates_in_all_files_are_skipped() {
    let sandbox = Sandbox::new();
    let lines: Vec<String> = samples().iter().take(3).map(|raw| line(raw, &[]) + "\n").collect();
    sandbox.put("a.jsonl", lines.concat());
    sandbox.put("b.jsonl", &lines[1]);
    let (_, counts) = sandbox.run();
    assert_eq!(some(&counts, &["read", "written", "duplicates"]), [4, 3, 1]);
}

#[test]
fn a_message_in_two_api_formats_is_written_once() {
    let full =
        r#"{"id":"18c","payload":{"mimeType":"text/plain","headers":[{"name":"Subject","value":"full"}],"body":{"size":0}}}"#;
    let raw = r#"{"id":"18c","raw":"U3ViamVjdDogcmF3Cgo="}"#;
    for (lines, subject) in [([full, raw], "full"), ([raw, full], "raw"), ([raw, raw], "raw"), ([full, full], "full")] {
        let sandbox = Sandbox::new();
        sandbox.put("a.jsonl", format!("{}\n{}\n", lines[0], lines[1]));
        let (_, counts) = sandbox.run();
        assert_eq!(some(&counts, &["written", "duplicates"]), [1, 1]);
        assert_eq!(sandbox.lines("email.jsonl")[0]["subject"], subject);
    }
}

#[test]
fn unreadable_lines_are_reported_and_kept_and_the_rest_is_processed() {
    let sandbox = Sandbox::new();
    let good = line(b"Subject: good\n\n", &[]);
    let huge = line(format!("Subject: {}\n\n", "x".repeat(1 << 20)).as_bytes(), &[]);
    let deep = line(
        (0..61).map(|i| format!("Content-Type: multipart/mixed; boundary=b{i}x\n\n--b{i}x\n")).collect::<String>().as_bytes(),
        &[],
    );
    let parts = line(("Content-Type: multipart/mixed; boundary=b\n\n".to_owned() + &"--b\n\n".repeat(10_001)).as_bytes(), &[]);
    let damaged = good.replace("good", "gone");
    let bad = ["", "not json", "{\"sha256\":\"12\"}", &damaged, &huge, &deep, &parts];
    let mut file = bad.join("\n").into_bytes();
    file.extend_from_slice(b"\n\"\xff\"\n");
    file.extend_from_slice(format!("{good}\n{}", &good[..good.len() / 2]).as_bytes());
    sandbox.put("a.jsonl", file);
    let (ran, counts) = sandbox.run();
    assert_eq!(some(&counts, &["read", "written"]), [10, 1]);
    let reasons = [
        "not_json",
        "not_json",
        "not_a_record",
        "damaged",
        "header_too_large",
        "nested_too_deep",
        "too_many_parts",
        "not_json",
        "torn",
    ];
    let rows = sandbox.lines("set_aside.jsonl");
    assert_eq!(rows.iter().map(|row| row["reason"].as_str().unwrap()).collect::<Vec<_>>(), reasons);
    assert_eq!(rows.iter().map(|row| row["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 10]);
    assert_eq!(rows[3]["text"], damaged);
    assert_eq!((&rows[7]["text"], &rows[7]["base64"]), (&Value::Null, &json!("Iv8i")));
    assert_eq!(ran.events()[4].payload["reason"], "damaged");
    assert!(!format!("{ran:?}").contains("Subject"), "no content in events and traces");
}

#[test]
fn a_panic_loses_only_one_message() {
    assert_eq!(catch_panic(|| -> u8 { panic!("the parser gave up") }), None);
    assert_eq!(catch_panic(|| 1), Some(1));
}

#[test]
fn a_cancelled_run_leaves_the_old_results() {
    let sandbox = Sandbox::new();
    sandbox.put("a.jsonl", samples().iter().map(|raw| line(raw, &[]) + "\n").collect::<String>());
    sandbox.job().run().assert_ok();
    let before = sandbox.dir.read("canonizer/email.jsonl");
    for lines in [0, 1, 20] {
        let ran = sandbox.job().cancel_after_checks(lines).run();
        ran.assert_retryable(&format!("cancelled after {lines} lines;"));
        assert_eq!(sandbox.dir.read("canonizer/email.jsonl"), before);
        assert_eq!(fs::read_dir(ran.data_dir()).unwrap().count(), 4, "no unfinished file is left");
    }
}

#[test]
fn an_input_of_another_format_leaves_the_old_results() {
    let sandbox = Sandbox::new();
    sandbox.put("a.jsonl", line(b"Subject: good\n\n", &[]) + "\n");
    sandbox.job().run().assert_ok();
    let before = sandbox.dir.read("canonizer/email.jsonl");
    sandbox.put("a.jsonl", "From 1@xxx Thu Jan 05 09:09:08 +0000 2023\nSubject: an mbox\n\nFrom here on\n{}\n");
    sandbox.job().run().assert_permanent("none of the lines is a message (not_a_record: 1, not_json: 4);");
    assert_eq!(sandbox.dir.read("canonizer/email.jsonl"), before);
}

#[test]
fn an_empty_input_replaces_only_empty_results() {
    let sandbox = Sandbox::new();
    // An extraction that has just started: there are no results yet, so empty ones are fine.
    sandbox.put("a.jsonl", "");
    assert_eq!(sandbox.run().1, json!(Counts::default()));
    assert_eq!(sandbox.run().1, json!(Counts::default()));
    sandbox.put("a.jsonl", line(b"Subject: good\n\n", &[]) + "\n");
    sandbox.job().run().assert_ok();
    let before = sandbox.dir.read("canonizer/email.jsonl");
    sandbox.put("a.jsonl", "");
    let ran = sandbox.job().run();
    ran.assert_permanent("a.jsonl: has no lines, so the result would be empty; the previous results are unchanged. Run");
    assert!(ran.error().is_some_and(|error| error.contains("ingester/extract_gmail") && error.contains("email.jsonl")));
    assert_eq!(sandbox.dir.read("canonizer/email.jsonl"), before);
    fs::remove_file(ran.data_dir().join("email.jsonl")).unwrap();
    assert_eq!(sandbox.run().1, json!(Counts::default()), "the suggested fix");
}

#[test]
fn a_missing_extraction_is_a_permanent_error() {
    let sandbox = Sandbox::new();
    let ran = sandbox.job().run();
    ran.assert_permanent("/mail; run ingester/extract_gmail first, or set --input to a file").assert_types(&[]);
}

#[test]
fn thirty_megabytes_in_one_line() {
    let sandbox = Sandbox::new();
    let body = format!("Subject: long body\n\n{}", "x".repeat(30 << 20));
    let header = format!("Subject: {}\n\nshort body", "x".repeat(2 << 20));
    let bare = "word ".repeat(1 << 20);
    let text = [&body, &header, &bare].map(|raw| line(raw.as_bytes(), &[]) + "\n").concat();
    sandbox.put("a.jsonl", text);
    let (_, counts) = sandbox.run();
    assert_eq!((&counts["written"], &counts["set_aside"]), (&json!(2), &json!({ "header_too_large": 1 })));
    let emails = sandbox.lines("email.jsonl");
    assert_eq!(emails[0]["bodyStructure"]["size"], 30 << 20);
    assert_eq!(emails[0]["bodyValues"]["1"]["isTruncated"], true);
    assert_eq!(emails[1]["subject"], Value::Null);
}
