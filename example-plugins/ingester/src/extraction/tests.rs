//! Extractions of the sample mailboxes and of small generated ones.

use super::*;
use crate::gmail::extract_gmail;
use lorchestra_plugin_api::serde_json;
use lorchestra_plugin_api::testing::{self, Emitted, TempDir, Test, TestRun};
use std::fs;
use std::path::Path;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").join(name)
}

fn extract(source: impl AsRef<Path>, dir: &TempDir) -> Test {
    testing::job::<extract_gmail>().data(dir).param("source", source.as_ref())
}

/// Returns the counts, after checking that each message was counted once.
#[track_caller]
fn counts(ran: &TestRun) -> Value {
    let counts = ran.assert_ok().event("extraction.completed").payload.clone();
    let n = |key: &str| counts[key].as_u64().unwrap();
    let set_aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("written") + n("duplicates") + n("outside_window") + set_aside, "{counts}");
    counts
}

/// Returns these counts.
fn some(counts: &Value, keys: &[&str]) -> Vec<u64> {
    keys.iter().map(|key| counts[*key].as_u64().unwrap()).collect()
}

fn payloads(events: Vec<&Emitted>) -> Vec<&Value> {
    events.into_iter().map(|event| &event.payload).collect()
}

fn lines(dir: &TempDir) -> Vec<Value> {
    let text = dir.read(ARCHIVE);
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The archive of the default account.
const ARCHIVE: &str = "ingester/mail/default.jsonl";

/// Returns the bytes of a line's message, checked against its key and size.
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

#[test]
fn the_sample_mailbox() {
    let dir = TempDir::new();
    let ran = extract(sample("takeout.mbox"), &dir).run();
    let counts = counts(&ran);
    let lines = lines(&dir);
    let bytes: u64 = lines.iter().map(|line| bytes(line).len() as u64).sum();
    assert_eq!(some(&counts, &["written", "bytes"]), [lines.len() as u64, bytes]);
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
    insta::assert_json_snapshot!("sample_set_aside", payloads(ran.events_of("extraction.set_aside")));
}

#[test]
fn the_sample_maildir() {
    let dir = TempDir::new();
    let ran = extract(sample("maildir"), &dir).run();
    assert_eq!(counts(&ran)["set_aside"], json!({ "empty": 1 }));
    let flags: Vec<_> = lines(&dir).iter().map(|line| line["flags"].clone()).collect();
    assert_eq!(flags, ["RS", "", "F", ""]);
    assert_eq!(ran.event("extraction.started").payload["format"], "maildir");
}

#[test]
fn running_again_adds_nothing() {
    let dir = TempDir::new();
    let first = counts(&extract(sample("takeout.mbox"), &dir).run());
    let before = dir.read(ARCHIVE);
    let second = counts(&extract(sample("takeout.mbox"), &dir).run());
    let known: u64 = some(&first, &["written", "duplicates"]).iter().sum();
    assert_eq!(some(&second, &["written", "duplicates"]), [0, known]);
    assert_eq!(dir.read(ARCHIVE), before);
}

#[test]
fn a_run_killed_anywhere_is_completed_by_the_next() {
    let dir = TempDir::new();
    extract(sample("maildir"), &dir).run().assert_ok();
    let path = dir.path().join(ARCHIVE);
    let whole = fs::read(&path).unwrap();
    // Only around line breaks and at some other offsets, because each run syncs to disk.
    let line_ends = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').flat_map(|(i, _)| [i, i + 1, i + 2]);
    for cut in line_ends.chain((0..whole.len()).step_by(31)).filter(|&cut| cut < whole.len()) {
        fs::write(&path, &whole[..cut]).unwrap();
        counts(&extract(sample("maildir"), &dir).run());
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn a_run_cancelled_after_any_message_is_completed_by_the_next() {
    let whole = {
        let dir = TempDir::new();
        extract(sample("takeout.mbox"), &dir).run().assert_ok();
        dir.read(ARCHIVE)
    };
    for messages in 0..12 {
        let dir = TempDir::new();
        let ran = extract(sample("takeout.mbox"), &dir).cancel_after_checks(messages).run();
        ran.assert_retryable(&format!("cancelled after {messages} messages; ")).assert_types(&["extraction.started"]);
        let so_far = dir.read(ARCHIVE);
        assert!(whole.starts_with(&so_far) && (so_far.is_empty() || so_far.ends_with('\n')));
        assert_eq!(so_far.lines().count() as u64, messages);
        extract(sample("takeout.mbox"), &dir).run().assert_ok();
        assert_eq!(dir.read(ARCHIVE), whole);
    }
}

fn mbox(dir: &TempDir, dates: &[&str]) -> PathBuf {
    let message = |(i, date): (usize, &&str)| format!("From x\nSubject: {i}\n{date}\n\nbody\n\n");
    dir.write("small.mbox", dates.iter().enumerate().map(message).collect::<String>())
}

#[test]
fn a_window_is_half_open_and_undated_messages_are_counted() {
    let dir = TempDir::new();
    let source = mbox(
        &dir,
        &[
            "Date: Mon, 01 Jan 2024 00:59:59 +0100",
            "Date: Mon, 01 Jan 2024 01:00:00 +0100",
            "Date: Mon, 01 Jan 2024 23:59:59 +0000",
            "Date: Tue, 02 Jan 2024 00:00:00 +0000",
            "Date: the day before yesterday",
            "X-Nothing: here",
        ],
    );
    let until = |account: &str| extract(&source, &dir).param("account", account).param("until", "2024-01-02");
    let ran = until("both").param("since", "2024-01-01").run();
    let counts_of_both = counts(&ran);
    assert_eq!(some(&counts_of_both, &["read", "written", "outside_window"]), [6, 2, 2]);
    assert_eq!(counts_of_both["set_aside"], json!({ "no_date": 2 }));
    let set_aside = payloads(ran.events_of("extraction.set_aside"));
    assert_eq!((&set_aside[0]["position"], &set_aside[0]["reason"]), (&json!(5), &json!("no_date")));
    let offset = set_aside[1]["offset"].as_u64().unwrap() as usize;
    assert!(fs::read(&source).unwrap()[offset..].starts_with(b"From x\nSubject: 5\n"));
    assert_eq!(ran.event("extraction.started").payload["since"], "2024-01-01T00:00:00Z");

    let counts = counts(&until("until-only").run());
    assert_eq!(some(&counts, &["written", "outside_window"]), [5, 1], "without since, undated messages are included: {counts}");
}

#[test]
fn excluded_mail_from_the_future_is_reported() {
    let dir = TempDir::new();
    let wrong_clock = "Date: Fri, 01 Jan 2999 00:00:00 +0000";
    let mut dates = vec!["Date: Mon, 01 Jan 2024 00:00:00 +0000"; 2];
    dates.extend([wrong_clock; NAMED + 2]);
    let source = mbox(&dir, &dates);
    // Without `until`, it is the start of the run.
    let counts_of_all = counts(&extract(&source, &dir).run());
    assert_eq!(some(&counts_of_all, &["written", "outside_window"]), [2, 102]);
    let future = &counts_of_all["in_future"];
    assert_eq!((&future["count"], future["first"].as_array().map(Vec::len)), (&json!(102), Some(NAMED)), "{future}");
    let offset = future["first"][0]["offset"].as_u64().unwrap() as usize;
    assert!(fs::read(&source).unwrap()[offset..].starts_with(b"From x\nSubject: 2\n"));
    let key = Key::of(format!("Subject: 2\n{wrong_clock}\n\nbody\n").as_bytes());
    assert_eq!((&future["first"][0]["position"], &future["first"][0]["sha256"]), (&json!(3), &json!(key.to_string())));

    let past = counts(&extract(mbox(&dir, &dates[..2]), &dir).param("until", "2024-01-01").run());
    assert_eq!(some(&past, &["outside_window"]), [2]);
    assert_eq!(past["in_future"], Value::Null, "excluding older mail is intended, so it is not reported");
    let asked_for = counts(&extract(mbox(&dir, &[wrong_clock]), &dir).param("until", "3000-01-01").run());
    assert_eq!(some(&asked_for, &["written"]), [1]);
    assert_eq!(asked_for["in_future"], Value::Null, "a later until includes it");
}

#[test]
fn accounts_have_their_own_files() {
    let dir = TempDir::new();
    let source = mbox(&dir, &["Date: Mon, 01 Jan 2024 00:00:00 +0000"]);
    for account in [None, Some("Anna/../x"), Some("anna/../x")] {
        let test = extract(&source, &dir);
        let ran = match account {
            Some(account) => test.param("account", account).run(),
            None => test.run(),
        };
        assert_eq!(counts(&ran)["written"], 1);
    }
    let mail = dir.path().join("ingester/mail");
    let mut names: Vec<_> = fs::read_dir(mail).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["%41nna%2f..%2fx.jsonl", "anna%2f..%2fx.jsonl", "default.jsonl"]);
}

#[test]
fn events_traces_and_errors_contain_no_personal_data() {
    let dir = TempDir::new();
    let secret = "Subject: SECRET\nFrom: SECRET@example.org\nDate: SECRET\nX-Gmail-Labels: SECRET\n\nSECRET\n";
    let source = dir.write("private.mbox", format!("From SECRET\n{secret}\n\nFrom x\n\n"));
    let ran = extract(source, &dir).param("since", "2024-01-01").run();
    assert_eq!(counts(&ran)["set_aside"], json!({ "empty": 1, "no_date": 1 }));
    assert!(!ran.traces().is_empty());
    assert!(!format!("{ran:?}").contains("SECRET"));
}

#[test]
fn a_source_that_fails_leaves_no_file_and_no_event() {
    let dir = TempDir::new();
    let ran = extract(dir.path().join("missing.mbox"), &dir).run();
    ran.assert_permanent("missing.mbox").assert_types(&[]);
    assert!(!ran.data_dir().join("mail").exists());
}
