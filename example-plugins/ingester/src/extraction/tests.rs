//! Extractions of the sample mailboxes and of small ones made here.

use super::*;
use lorchestra_plugin_api::serde_json;
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;

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

impl Recorder {
    fn of_type(&self, event_type: &str) -> Vec<Value> {
        self.events.borrow().iter().filter(|(name, _)| name == event_type).map(|(_, payload)| payload.clone()).collect()
    }
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").join(name)
}

fn request(source: PathBuf, dir: &Path) -> Request {
    Request { source, account: None, window: Window::default(), mail_dir: dir.join("mail") }
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("mail/default.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bytes of a line's message, checked against its key and size.
fn bytes(line: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let bytes = match line["raw"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => base64::engine::general_purpose::STANDARD.decode(line["raw_base64"].as_str().unwrap()).unwrap(),
    };
    assert_eq!(line["sha256"], Key::of(&bytes).to_string());
    assert_eq!(line["size"], bytes.len());
    bytes
}

fn assert_sum(counts: &Counts) {
    let set_aside: u64 = counts.set_aside.values().sum();
    assert_eq!(counts.read, counts.written + counts.duplicates + counts.outside_window + set_aside, "{counts:?}");
}

#[test]
fn the_sample_mailbox() {
    let dir = tempfile::tempdir().unwrap();
    let run_of = Recorder::default();
    let counts = run(&request(sample("takeout.mbox"), dir.path()), &run_of).unwrap();
    assert_sum(&counts);
    let lines = lines(dir.path());
    assert_eq!(lines.len() as u64, counts.written);
    assert_eq!(lines.iter().map(|line| bytes(line).len() as u64).sum::<u64>(), counts.bytes);
    let summaries: Vec<Value> = lines
        .iter()
        .map(|line| {
            let as_text = line["raw"].is_string();
            let mut summary = line.as_object().unwrap().clone();
            summary.retain(|name, _| !matches!(name.as_str(), "sha256" | "raw" | "raw_base64" | "account"));
            summary.insert("text".into(), as_text.into());
            summary.into()
        })
        .collect();
    insta::assert_json_snapshot!("sample_counts", counts);
    insta::assert_snapshot!("sample_summaries", summaries.iter().map(|s| format!("{s}\n")).collect::<String>());
    insta::assert_json_snapshot!("sample_set_aside", run_of.of_type("extraction.set_aside"));
}

#[test]
fn the_sample_maildir() {
    let dir = tempfile::tempdir().unwrap();
    let run_of = Recorder::default();
    let counts = run(&request(sample("maildir"), dir.path()), &run_of).unwrap();
    assert_sum(&counts);
    let flags: Vec<_> = lines(dir.path()).iter().map(|line| line["flags"].clone()).collect();
    assert_eq!(flags, ["RS", "", "F", ""]);
    assert_eq!(counts.set_aside, BTreeMap::from([("empty", 1)]));
    assert_eq!(run_of.of_type("extraction.started")[0]["format"], "maildir");
}

#[test]
fn running_again_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(sample("takeout.mbox"), dir.path());
    let first = run(&request, &Recorder::default()).unwrap();
    let before = fs::read(dir.path().join("mail/default.jsonl")).unwrap();
    let second = run(&request, &Recorder::default()).unwrap();
    assert_eq!(second.written, 0);
    assert_eq!(second.duplicates, first.written + first.duplicates);
    assert_sum(&second);
    assert_eq!(fs::read(dir.path().join("mail/default.jsonl")).unwrap(), before);
}

#[test]
fn killed_anywhere_and_run_again_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(sample("maildir"), dir.path());
    run(&request, &Recorder::default()).unwrap();
    let path = dir.path().join("mail/default.jsonl");
    let whole = fs::read(&path).unwrap();
    // Around each line end, and here and there between: each run waits for the disk.
    let line_ends = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').flat_map(|(i, _)| [i, i + 1, i + 2]);
    for cut in line_ends.chain((0..whole.len()).step_by(31)).filter(|&cut| cut < whole.len()) {
        fs::write(&path, &whole[..cut]).unwrap();
        let counts = run(&request, &Recorder::default()).unwrap();
        assert_sum(&counts);
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn cancelled_after_any_message_and_run_again_is_complete() {
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        run(&request(sample("takeout.mbox"), dir.path()), &Recorder::default()).unwrap();
        fs::read(dir.path().join("mail/default.jsonl")).unwrap()
    };
    for patience in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let request = request(sample("takeout.mbox"), dir.path());
        let run_of = Recorder { patience: Cell::new(Some(patience)), ..Recorder::default() };
        let error = run(&request, &run_of).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cancelled after {patience} messages; ")), "{error}");
        assert!(!error.is_permanent());
        assert!(run_of.of_type("extraction.completed").is_empty());
        let path = dir.path().join("mail/default.jsonl");
        let so_far = fs::read(&path).unwrap();
        assert!(whole.starts_with(&so_far) && (so_far.is_empty() || so_far.ends_with(b"\n")));
        assert_eq!(so_far.iter().filter(|&&b| b == b'\n').count() as u64, u64::from(patience));
        run(&request, &Recorder::default()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

fn mbox(dir: &Path, dates: &[&str]) -> PathBuf {
    let path = dir.join("small.mbox");
    let text: String = dates.iter().enumerate().map(|(i, date)| format!("From x\nSubject: {i}\n{date}\n\nbody\n\n")).collect();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_window_is_half_open_and_the_undated_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = mbox(
        dir.path(),
        &[
            "Date: Mon, 01 Jan 2024 00:59:59 +0100",
            "Date: Mon, 01 Jan 2024 01:00:00 +0100",
            "Date: Mon, 01 Jan 2024 23:59:59 +0000",
            "Date: Tue, 02 Jan 2024 00:00:00 +0000",
            "Date: the day before yesterday",
            "X-Nothing: here",
        ],
    );
    let mut request = request(source, dir.path());
    request.window =
        Window { since: Some("2024-01-01T00:00:00Z".parse().unwrap()), until: Some("2024-01-02T00:00:00Z".parse().unwrap()) };
    let run_of = Recorder::default();
    let counts = run(&request, &run_of).unwrap();
    assert_sum(&counts);
    assert_eq!((counts.read, counts.written, counts.outside_window), (6, 2, 2));
    assert_eq!(counts.set_aside, BTreeMap::from([("no_date", 2)]));
    let set_aside = run_of.of_type("extraction.set_aside");
    assert_eq!(set_aside[0]["position"], 5);
    assert_eq!(set_aside[0]["reason"], "no_date");
    let offset = set_aside[1]["offset"].as_u64().unwrap() as usize;
    assert!(fs::read(&request.source).unwrap()[offset..].starts_with(b"From x\nSubject: 5\n"));
    assert_eq!(run_of.of_type("extraction.started")[0]["since"], "2024-01-01T00:00:00Z");

    request.window.since = None;
    request.account = Some("until-only".into());
    let counts = run(&request, &Recorder::default()).unwrap();
    assert_eq!((counts.written, counts.outside_window), (5, 1), "without since, the undated are taken: {counts:?}");
}

#[test]
fn mail_dated_in_the_future_is_named_where_it_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let wrong_clock = "Date: Fri, 01 Jan 2999 00:00:00 +0000";
    let mut dates = vec!["Date: Mon, 01 Jan 2024 00:00:00 +0000"; 2];
    dates.extend([wrong_clock; NAMED + 2]);
    let mut request = request(mbox(dir.path(), &dates), dir.path());
    // As a run has it that was not given one.
    request.window.until = Some(Utc::now());
    let run_of = Recorder::default();
    let counts = run(&request, &run_of).unwrap();
    assert_sum(&counts);
    assert_eq!((counts.written, counts.outside_window), (2, 102));
    let told = &run_of.of_type("extraction.completed")[0]["in_future"];
    assert_eq!((&told["count"], told["first"].as_array().map(Vec::len)), (&json!(102), Some(NAMED)), "{told}");
    let offset = told["first"][0]["offset"].as_u64().unwrap() as usize;
    let text = fs::read(&request.source).unwrap();
    assert!(text[offset..].starts_with(b"From x\nSubject: 2\n"));
    let key = Key::of(format!("Subject: 2\n{wrong_clock}\n\nbody\n").as_bytes());
    assert_eq!((&told["first"][0]["position"], &told["first"][0]["sha256"]), (&json!(3), &json!(key.to_string())));

    request.window.until = Some("2024-01-01T00:00:00Z".parse().unwrap());
    request.source = mbox(dir.path(), &dates[..2]);
    let counts = run(&request, &Recorder::default()).unwrap();
    assert_eq!((counts.outside_window, counts.in_future), (2, None), "what is past was left out on purpose");
    request.window.until = Some("3000-01-01T00:00:00Z".parse().unwrap());
    request.source = mbox(dir.path(), &[wrong_clock]);
    let counts = run(&request, &Recorder::default()).unwrap();
    assert_eq!((counts.written, counts.in_future), (1, None), "who asks for it gets it");
}

#[test]
fn accounts_have_their_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let source = mbox(dir.path(), &["Date: Mon, 01 Jan 2024 00:00:00 +0000"]);
    for account in [None, Some("Anna/../x"), Some("anna/../x")] {
        let request = Request { account: account.map(str::to_owned), ..request(source.clone(), dir.path()) };
        assert_eq!(run(&request, &Recorder::default()).unwrap().written, 1);
    }
    let mut names: Vec<_> = fs::read_dir(dir.path().join("mail")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["%41nna%2f..%2fx.jsonl", "anna%2f..%2fx.jsonl", "default.jsonl"]);
}

#[test]
fn nothing_personal_is_in_events_and_errors() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("private.mbox");
    let secret = "Subject: SECRET\nFrom: SECRET@example.org\nDate: SECRET\nX-Gmail-Labels: SECRET\n\nSECRET\n";
    fs::write(&source, format!("From SECRET\n{secret}\n\nFrom x\n\n")).unwrap();
    let mut request = request(source, dir.path());
    request.window.since = Some("2024-01-01T00:00:00Z".parse().unwrap());
    let run_of = Recorder::default();
    let counts = run(&request, &run_of).unwrap();
    assert_eq!(counts.set_aside, BTreeMap::from([("empty", 1), ("no_date", 1)]));
    assert!(!format!("{:?}", run_of.events.borrow()).contains("SECRET"));
}

#[test]
fn a_source_that_fails_leaves_no_file_and_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let run_of = Recorder::default();
    let error = run(&request(dir.path().join("missing.mbox"), dir.path()), &run_of).unwrap_err();
    assert!(error.is_permanent());
    assert!(run_of.events.borrow().is_empty());
    assert!(!dir.path().join("mail").exists());
}
