//! The packages `ingester` and `canonizer` end to end: the sample mailbox, and mail of any form.

use lorchestra_tests::{Fixture, Run, Sandbox, built, schema};
use serde_json::Value;
use std::collections::HashSet;
use std::path::PathBuf;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Ingester, Fixture::Canonizer])
}

fn sample(name: &str) -> String {
    built::workspace().join("example-plugins/ingester/sample").join(name).display().to_string()
}

/// The counts of the newest run, after checking that they add up and that an event names each message that was set aside.
#[track_caller]
fn counts(sandbox: &Sandbox, step: &str) -> Value {
    let run: Run = sandbox.runs().remove(0);
    assert_eq!(run.state(), "completed", "{run:?}");
    let events = sandbox.whole_events_of(&run);
    let completed: Vec<_> = events.iter().filter(|event| event.event_type() == format!("{step}.completed")).collect();
    assert_eq!(completed.len(), 1);
    let counts = completed[0].payload().clone();
    let n = |key: &str| counts[key].as_u64().unwrap_or(0);
    let aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("written") + n("duplicates") + n("outside_window") + aside, "{counts}");
    let named = events.iter().filter(|event| event.event_type() == format!("{step}.set_aside"));
    assert_eq!(named.filter(|event| event.payload()["reason"].is_string()).count() as u64, aside, "{counts}");
    counts
}

/// The lines of a JSON Lines file in a package's data directory.
fn lines(sandbox: &Sandbox, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.data().join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_sample_passes_both_jobs_and_a_second_run_adds_nothing() {
    let sandbox = sandbox();
    let extract = ["run-job", "ingester", "extract_gmail", "--source", &sample("takeout.mbox")];
    let canonicalize = ["run-job", "canonizer", "canonicalize_email"];

    sandbox.lorchestra(&extract).exits(0);
    let first = counts(&sandbox, "extraction");
    let expected = (Some(36), Some(34), Some(1), Some(1));
    let numbers = |counts: &Value| {
        let n = |key: &str| counts[key].as_u64();
        (n("read"), n("written"), n("duplicates"), counts["set_aside"]["empty"].as_u64())
    };
    assert_eq!(numbers(&first), expected, "{first}");
    let mail = lines(&sandbox, "ingester/mail/default.jsonl");
    assert_eq!(mail.len(), 34);

    sandbox.lorchestra(&extract).exits(0);
    assert_eq!(numbers(&counts(&sandbox, "extraction")), (Some(36), Some(0), Some(35), Some(1)));
    assert_eq!(lines(&sandbox, "ingester/mail/default.jsonl"), mail, "nothing twice");

    sandbox.lorchestra(&canonicalize).exits(0);
    let canonical = counts(&sandbox, "canonicalization");
    assert_eq!((canonical["read"].as_u64(), canonical["written"].as_u64()), (Some(34), Some(34)), "{canonical}");
    let emails = lines(&sandbox, "canonizer/email.jsonl");
    assert_eq!(emails.len(), 34);
    let ids: HashSet<&str> = emails.iter().filter_map(|email| email["id"].as_str()).collect();
    assert_eq!(ids.len(), 34, "each message once");
    let results = sandbox.data().join("canonizer");
    assert_eq!(schema::check_lines(&results.join("email.jsonl"), &results.join("email.schema.json")), 34);
    sandbox.lorchestra(&canonicalize).exits(0);
    assert_eq!(lines(&sandbox, "canonizer/email.jsonl"), emails, "a second run gives the same results");
}

#[test]
fn accounts_and_maildirs_have_separate_files() {
    let sandbox = sandbox();
    for (account, source) in [("box", "takeout.mbox"), ("dir", "maildir")] {
        let args = ["run-job", "ingester", "extract_gmail", "--source", &sample(source), "--account", account];
        sandbox.lorchestra(&args).exits(0);
        counts(&sandbox, "extraction");
    }
    let (of_box, of_dir) = (lines(&sandbox, "ingester/mail/box.jsonl"), lines(&sandbox, "ingester/mail/dir.jsonl"));
    assert_eq!((of_box.len(), of_dir.len()), (34, 4));
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email"]).exits(0);
    assert_eq!(counts(&sandbox, "canonicalization")["read"], 38);
}

#[test]
fn a_window_selects_by_the_messages_date() {
    let sandbox = sandbox();
    let source = sample("takeout.mbox");
    let args = ["run-job", "ingester", "extract_gmail", "--source", &source, "--since", "1990-01-01", "--until", "1990-01-02"];
    sandbox.lorchestra(&args).exits(0);
    let counts = counts(&sandbox, "extraction");
    assert_eq!(counts["written"], 0);
    assert_eq!(counts["set_aside"]["no_date"], 4, "the four without a readable date: {counts}");
    assert_eq!(sandbox.run().0["since"], "1990-01-01T00:00:00.000000Z");
}

#[test]
fn a_missing_source_is_reported() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", "/no/such.mbox"]).exits(1);
    assert!(ended.err().contains("/no/such.mbox"), "{}", ended.shown());
    let ended = sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email"]).exits(1);
    assert!(ended.err().contains("run ingester/extract_gmail first"), "{}", ended.shown());
}

/// Malformed messages, and some that are merely large.
fn shapes() -> Vec<Vec<u8>> {
    let head = b"From: a@example.org\nDate: Mon, 01 Jan 2024 10:00:00 +0000\nMessage-ID: <N@example.org>\n";
    let with = |n: usize, rest: &[u8]| {
        let head = String::from_utf8(head.to_vec()).unwrap().replace("<N@", &format!("<{n}@"));
        [head.as_bytes(), rest].concat()
    };
    let mut nested = Vec::new();
    for depth in 0..50 {
        nested.extend(format!("Content-Type: multipart/mixed; boundary=\"b{depth}\"\n\n--b{depth}\n").bytes());
    }
    nested.extend_from_slice(b"Content-Type: text/plain\n\nthe innermost\n");
    let mut bomb = Vec::new();
    for depth in 0..2000 {
        bomb.extend(format!("Content-Type: multipart/mixed; boundary=\"b{depth}\"\n\n--b{depth}\n").bytes());
    }
    vec![
        b"no headers at all, only a body\n".to_vec(),
        b"\n\n\n".to_vec(),
        b"Subject: no date\n\nbody\n".to_vec(),
        with(1, b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\xe4\xf6\xfc \xff\xfe\n"),
        with(2, b"Content-Type: text/plain; charset=no-such-charset\n\nbody\n"),
        with(3, &nested),
        with(4, b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain\n\ncut of\n"),
        with(5, b"Subject: a\0b\n\nbody \0\0\0 with NUL\n"),
        with(6, b"Subject: >From quoting\n\n>From the beginning\n>>From deeper\n"),
        with(7, b"Subject: crlf\r\n\r\nbody\r\nwith CRLF\r\n"),
        with(8, b"Subject: =?utf-8?B?not base64 at all?= =?x?Q?=ZZ?=\n\nbody\n"),
        with(9, &[b"X-Long: ".to_vec(), vec![b'y'; 300_000], b"\n\nbody\n".to_vec()].concat()),
        with(10, &[b"Subject: large\n\n".to_vec(), vec![b'z'; 30 << 20], b"\n".to_vec()].concat()),
        with(11, b"Date: Thu, 99 Foo 2024 99:99:99 +9999\nContent-Type: ;;;==\"\n\nbody\n"),
        with(12, &bomb),
        (0u8..=255).cycle().filter(|b| *b != b'\n').take(5000).chain([b'\n']).collect(),
    ]
}

#[test]
fn mail_of_any_form_passes_both_jobs() {
    let sandbox = sandbox();
    let shapes = shapes();
    let source: PathBuf = sandbox.path("all.mbox");
    let mut mbox = Vec::new();
    for (n, message) in shapes.iter().enumerate() {
        // Separators with both line ends.
        let end = if n % 2 == 0 { "\n" } else { "\r\n" };
        mbox.extend(format!("From 1234@xxx Mon Jan 01 10:00:{n:02} +0000 2024{end}").bytes());
        mbox.extend_from_slice(message);
        mbox.extend_from_slice(b"\n");
    }
    std::fs::write(&source, &mbox).unwrap();

    sandbox.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", &source.display().to_string()]).exits(0);
    let extracted = counts(&sandbox, "extraction");
    assert_eq!(extracted["read"], shapes.len(), "{extracted}");
    let mail = lines(&sandbox, "ingester/mail/default.jsonl");
    assert_eq!(mail.len() as u64, extracted["written"].as_u64().unwrap());
    assert!(mail.len() >= shapes.len() - 2, "only empty messages are set aside: {extracted}");
    let sizes: Vec<u64> = mail.iter().filter_map(|line| line["size"].as_u64()).collect();
    assert!(sizes.iter().any(|size| *size > 30 << 20), "the large message is complete: {sizes:?}");
    assert!(mail.iter().any(|line| line["raw"].as_str().is_some_and(|raw| raw.contains("\nFrom the beginning\n>From deeper\n"))));

    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email"]).exits(0);
    let canonical = counts(&sandbox, "canonicalization");
    assert_eq!(canonical["read"], mail.len(), "{canonical}");
    let emails = lines(&sandbox, "canonizer/email.jsonl");
    assert_eq!(emails.len() as u64, canonical["written"].as_u64().unwrap());
    assert!(emails.len() >= mail.len() - 2, "{canonical}");
}
