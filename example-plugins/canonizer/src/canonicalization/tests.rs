//! Canonicalizations of the sample mailbox and of damaged input.

use super::*;
use lorchestra_plugin_api::serde_json;
use std::cell::{Cell, RefCell};
use std::fs;

/// A run that collects its events, and may be cancelled.
#[derive(Default)]
struct Recorder {
    events: RefCell<Vec<(String, Value)>>,
    /// Times that `is_cancelled` still says no.
    patience: Cell<Option<u32>>,
}

impl Outlet for Recorder {
    fn emit(&self, event_type: &str, payload: Value) -> Result<(), EmitError> {
        self.events.borrow_mut().push((event_type.to_owned(), payload));
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        match self.patience.get() {
            None => false,
            Some(0) => true,
            Some(n) => {
                self.patience.set(Some(n - 1));
                false
            }
        }
    }
}

/// The messages of the sample mailbox, in order; the empty one is left out.
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

/// A line as ingester writes it.
pub(crate) fn line(raw: &[u8], labels: &[&str]) -> String {
    let mut line = json!({"sha256": Key::of(raw).to_string(), "labels": labels, "received": null, "flags": null});
    match std::str::from_utf8(raw) {
        Ok(text) => line["raw"] = text.into(),
        Err(_) => line["raw_base64"] = STANDARD.encode(raw).into(),
    }
    line.to_string()
}

struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mail")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir }
    }

    fn mail(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join("mail").join(name), bytes).unwrap();
    }

    fn run(&self, run_of: &Recorder) -> Result<Counts, CanonicalizationError> {
        let request = Request { input: None, default_input: self.dir.path().join("mail"), data_dir: self.dir.path().join("out") };
        let result = run(&request, run_of);
        if let Ok(counts) = &result {
            let set_aside: u64 = counts.set_aside.values().sum();
            assert_eq!(counts.read, counts.written + counts.duplicates + set_aside, "{counts:?}");
            assert_eq!(self.lines("email.jsonl").len() as u64, counts.written);
            assert_eq!(self.lines("set_aside.jsonl").len() as u64, set_aside);
            let named = run_of.events.borrow().iter().filter(|(name, _)| name == "canonicalization.set_aside").count();
            assert_eq!(named as u64, set_aside);
        }
        result
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("out").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn the_sample_mailbox() {
    let sandbox = Sandbox::new();
    let samples = samples();
    assert_eq!(samples.len(), 35);
    sandbox.mail("default.jsonl", samples.iter().map(|raw| line(raw, &["Inbox"]) + "\n").collect::<String>());
    let run_of = Recorder::default();
    let counts = sandbox.run(&run_of).unwrap();
    assert_eq!((counts.read, counts.written, counts.duplicates), (35, 34, 1));
    assert_eq!(counts.set_aside, BTreeMap::new());
    let subjects: Vec<_> = sandbox.lines("email.jsonl").iter().map(|email| email["subject"].clone()).collect();
    insta::assert_json_snapshot!(subjects);
    let events: Vec<_> = run_of.events.borrow().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(events, ["canonicalization.started", "canonicalization.completed"]);
}

#[test]
fn messages_are_taken_once_over_all_files() {
    let sandbox = Sandbox::new();
    let lines: Vec<String> = samples().iter().take(3).map(|raw| line(raw, &[]) + "\n").collect();
    sandbox.mail("a.jsonl", lines.concat());
    sandbox.mail("b.jsonl", &lines[1]);
    let counts = sandbox.run(&Recorder::default()).unwrap();
    assert_eq!((counts.read, counts.written, counts.duplicates), (4, 3, 1));
}

#[test]
fn what_cannot_be_read_is_named_kept_and_the_rest_goes_on() {
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
    sandbox.mail("a.jsonl", file);
    let run_of = Recorder::default();
    let counts = sandbox.run(&run_of).unwrap();
    assert_eq!((counts.read, counts.written), (10, 1));
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
    let events = run_of.events.borrow();
    assert_eq!(events[4].1["reason"], "damaged");
    assert!(!format!("{events:?}").contains("Subject"), "no content in events");
}

#[test]
fn a_panic_costs_one_message() {
    assert_eq!(guarded(|| -> u8 { panic!("the parser gave up") }), None);
    assert_eq!(guarded(|| 1), Some(1));
}

#[test]
fn a_cancelled_run_leaves_the_old_results() {
    let sandbox = Sandbox::new();
    sandbox.mail("a.jsonl", samples().iter().map(|raw| line(raw, &[]) + "\n").collect::<String>());
    sandbox.run(&Recorder::default()).unwrap();
    let before = fs::read(sandbox.dir.path().join("out/email.jsonl")).unwrap();
    for patience in [0, 1, 20] {
        let run_of = Recorder { patience: Cell::new(Some(patience)), ..Recorder::default() };
        let error = sandbox.run(&run_of).unwrap_err();
        assert!(matches!(error, CanonicalizationError::Cancelled(read) if read == u64::from(patience)), "{error}");
        assert!(!error.is_permanent());
        assert_eq!(fs::read(sandbox.dir.path().join("out/email.jsonl")).unwrap(), before);
        assert_eq!(fs::read_dir(sandbox.dir.path().join("out")).unwrap().count(), 3, "no unfinished file is left");
    }
}

#[test]
fn a_file_of_something_else_leaves_the_old_results() {
    let sandbox = Sandbox::new();
    sandbox.mail("a.jsonl", line(b"Subject: good\n\n", &[]) + "\n");
    sandbox.run(&Recorder::default()).unwrap();
    let before = fs::read(sandbox.dir.path().join("out/email.jsonl")).unwrap();
    sandbox.mail("a.jsonl", "From 1@xxx Thu Jan 05 09:09:08 +0000 2023\nSubject: an mbox\n\nFrom here on\n{}\n");
    let error = sandbox.run(&Recorder::default()).unwrap_err();
    assert!(error.is_permanent());
    assert!(error.to_string().starts_with("none of the 5 lines is a message (not_a_record: 1, not_json: 4);"), "{error}");
    assert_eq!(fs::read(sandbox.dir.path().join("out/email.jsonl")).unwrap(), before);
    // No line at all is no wrong line.
    sandbox.mail("a.jsonl", "");
    assert_eq!(sandbox.run(&Recorder::default()).unwrap(), Counts::default());
}

#[test]
fn nothing_extracted_yet_is_a_permanent_error() {
    let sandbox = Sandbox::new();
    let run_of = Recorder::default();
    let error = sandbox.run(&run_of).unwrap_err();
    assert!(error.is_permanent());
    assert!(error.to_string().ends_with("/mail; run ingester/extract_gmail first, or give --input a file"), "{error}");
    assert!(run_of.events.borrow().is_empty());
}

#[test]
fn thirty_megabytes_in_one_line() {
    let sandbox = Sandbox::new();
    let body = format!("Subject: long body\n\n{}", "x".repeat(30 << 20));
    let header = format!("Subject: {}\n\nshort body", "x".repeat(2 << 20));
    let bare = "word ".repeat(1 << 20);
    let text = [&body, &header, &bare].map(|raw| line(raw.as_bytes(), &[]) + "\n").concat();
    sandbox.mail("a.jsonl", text);
    let counts = sandbox.run(&Recorder::default()).unwrap();
    assert_eq!((counts.written, counts.set_aside), (2, BTreeMap::from([("header_too_large", 1)])));
    let emails = sandbox.lines("email.jsonl");
    assert_eq!(emails[0]["bodyStructure"]["size"], 30 << 20);
    assert_eq!(emails[0]["bodyValues"]["1"]["isTruncated"], true);
    assert_eq!(emails[1]["subject"], Value::Null);
}
