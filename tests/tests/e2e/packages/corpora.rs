//! `canonicalize_email` on the messages that other mail parsers are tested with: header fields and names of attachments are those of Python's
//! `email` or of the crate `mail-parser`, for 99 % of the messages. The others are in `corpora.md`, with the reason.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use lorchestra_test_setup::corpora;
use lorchestra_tests::{Fixture, Sandbox, built};
use mail_parser::{Address, MessageParser, MimeHeaders};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compared fields.
const FIELDS: [&str; 6] = ["subject", "from", "to", "date", "message-id", "names"];
/// Messages that differ, and why.
const KNOWN: &str = include_str!("corpora.md");

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The fields of a message as canonizer writes them.
fn canonical(email: &Value) -> Value {
    let addresses = |field: &str| {
        let list = email[field].as_array().into_iter().flatten();
        list.map(|address| json!([address["name"].as_str().unwrap_or_default(), address["email"]])).collect::<Vec<_>>()
    };
    let mut names = Vec::new();
    collect_names(&email["bodyStructure"], &mut names);
    let date = email["sentAt"].as_str().map(|date| chrono::DateTime::parse_from_rfc3339(date).unwrap().timestamp());
    json!({
        "subject": email["subject"], "from": addresses("from"), "to": addresses("to"), "date": date,
        "message-id": email["messageId"][0], "names": names,
    })
}

fn collect_names(part: &Value, names: &mut Vec<String>) {
    if let Some(parts) = part["subParts"].as_array() {
        return parts.iter().for_each(|part| collect_names(part, names));
    }
    names.extend(part["name"].as_str().map(str::to_owned));
}

/// The same by the crate `mail-parser`.
fn by_crate(bytes: &[u8]) -> Value {
    let Some(message) = MessageParser::default().parse(bytes) else { return Value::Null };
    let addresses = |address: Option<&Address<'_>>| {
        let all = address.into_iter().flat_map(Address::iter);
        all.map(|one| json!([one.name().unwrap_or_default(), one.address().unwrap_or_default()])).collect::<Vec<_>>()
    };
    let names: Vec<&str> = message.parts.iter().filter_map(MimeHeaders::attachment_name).collect();
    json!({
        "subject": message.subject(), "from": addresses(message.from()), "to": addresses(message.to()),
        "date": message.date().map(mail_parser::DateTime::to_timestamp), "message-id": message.message_id(), "names": names,
    })
}

/// Without what does not matter: the kind of white space, an absent field or an empty one, the order of names.
fn normalized(field: &str, value: &Value) -> Value {
    match (field, value) {
        (_, Value::String(text)) => text.split_whitespace().collect::<Vec<_>>().join(" ").into(),
        ("subject" | "message-id", Value::Null) => "".into(),
        ("names", Value::Array(names)) => {
            json!(names.iter().map(|name| normalized("", name).to_string()).collect::<BTreeSet<_>>())
        }
        (_, Value::Array(values)) => values.iter().map(|value| normalized(field, value)).collect(),
        (_, Value::Null) if field != "date" => json!([]),
        _ => value.clone(),
    }
}

/// Whether two values are the same as far as the peer could read: U+FFFD stands for characters that it could not.
fn agrees(own: &str, peer: &str) -> bool {
    let mut own = own.chars().peekable();
    let mut peer = peer.chars().peekable();
    while let Some(theirs) = peer.next() {
        if theirs == char::REPLACEMENT_CHARACTER {
            while peer.next_if_eq(&theirs).is_some() {}
            if own.next_if(|c| !c.is_ascii()).is_none() {
                return false;
            }
            while own.next_if(|c| !c.is_ascii()).is_some() {}
        } else if own.next() != Some(theirs) {
            return false;
        }
    }
    own.next().is_none()
}

#[test]
fn header_fields_are_those_of_a_peer() {
    let (dir, python) = corpora::ensure(&built::target()).unwrap_or_else(|error| panic!("{error}"));
    let (all, of_python) = (["cpython", "mail-parser", "mailparser"], dir.join("cpython").is_dir());
    if !of_python {
        eprintln!(
            "NOT SHOWN: the tests of Python's own email are not installed with this interpreter, so their messages are missing"
        );
    }
    let messages: Vec<PathBuf> =
        all.iter().map(|corpus| dir.join(corpus)).filter(|dir| dir.is_dir()).flat_map(|dir| files(&dir)).collect();
    let name = |path: &Path| path.strip_prefix(&dir).unwrap().with_extension("").display().to_string();
    let sandbox = Sandbox::with(&[Fixture::Canonizer]);
    let mut lines = String::new();
    for (n, path) in messages.iter().enumerate() {
        let raw =
            json!({"id": format!("m{n}"), "threadId": "1", "labelIds": [], "raw": URL_SAFE.encode(fs::read(path).unwrap())});
        writeln!(lines, "{raw}").unwrap();
    }
    fs::write(sandbox.path("messages.jsonl"), lines).unwrap();
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email", "--input", "messages.jsonl"]).exits(0);
    let events = sandbox.whole_events_of(&sandbox.runs()[0]);
    let completed = events.iter().find(|event| event.event_type() == "canonicalization.completed").unwrap().payload().clone();
    assert_eq!(completed["set_aside"], json!({}), "{completed}");
    let emails = fs::read_to_string(sandbox.data().join("canonizer/email.jsonl")).unwrap();
    // The same message in two corpora is written once.
    let emails: BTreeMap<String, Value> = emails
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|email| (email["id"].as_str().unwrap().to_owned(), email))
        .collect();

    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/packages/corpora_peer.py");
    let ran = Command::new(python).arg(peer).args(&messages).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let by_python = String::from_utf8(ran.stdout).unwrap();
    let by_python: Vec<Value> = by_python.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(by_python.len(), messages.len());

    let mut found = BTreeMap::new();
    for (path, by_python) in messages.iter().zip(&by_python) {
        let bytes = fs::read(path).unwrap();
        let ours = canonical(&emails[&format!("m{}", sha256(&bytes))]);
        let peers = [by_python, &by_crate(&bytes)];
        for field in FIELDS {
            let own = normalized(field, &ours[field]).to_string();
            let mut theirs = peers.map(|peer| normalized(field, &peer[field]).to_string()).to_vec();
            if field == "names" {
                theirs.push(normalized(field, &by_python["older names"]).to_string());
            }
            if !theirs.iter().any(|theirs| agrees(&own, theirs)) {
                found.insert(format!("{} {field}", name(path)), format!("ours {own}, Python and mail-parser {theirs:?}"));
            }
        }
    }
    let rows = KNOWN.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | ")).skip(2);
    let known: BTreeSet<String> = rows.map(|(message, _)| message.to_owned()).collect();
    let differing: BTreeSet<&str> = found.keys().map(|key| key.split(' ').next().unwrap()).collect();
    let keys: BTreeSet<String> = found.keys().cloned().collect();
    assert_eq!(keys, known, "{} of {} messages: {found:#?}", differing.len(), messages.len());
    assert!(
        messages.len() > if of_python { 170 } else { 100 } && differing.len() * 100 <= messages.len(),
        "{} of {}",
        differing.len(),
        messages.len()
    );
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in <sha2::Sha256 as sha2::Digest>::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}
