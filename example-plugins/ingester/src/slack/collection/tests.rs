//! Collections of the sample export, and of invalid zips.

use super::*;
use crate::slack::extract_slack;
use lorchestra_plugin_api::serde_json;
use lorchestra_plugin_api::testing::{self, TempDir, Test, TestRun};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use zip::write::SimpleFileOptions;

const ARCHIVE: &str = "ingester/slack/default.jsonl";

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/slack-export.zip")
}

fn extract(source: impl AsRef<Path>, dir: &TempDir) -> Test {
    testing::job::<extract_slack>().data(dir).param("source", source.as_ref())
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

#[test]
fn the_sample_export() {
    let dir = TempDir::new();
    let ran = extract(sample(), &dir).run();
    insta::assert_json_snapshot!("sample_counts", counts(&ran));
    let lines: Vec<Value> = dir
        .read(ARCHIVE)
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let fields = line.as_object_mut().unwrap();
            assert_eq!(fields.remove("sha256").unwrap().as_str().map(str::len), Some(64));
            let message = fields.remove("message").unwrap();
            fields.insert("text".into(), message["text"].clone());
            line
        })
        .collect();
    insta::assert_snapshot!("sample_lines", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    let aside: Vec<_> = ran.events_of("extraction.set_aside").into_iter().map(|event| event.payload.clone()).collect();
    insta::assert_json_snapshot!("sample_set_aside", aside);
}

#[test]
fn a_second_run_adds_nothing_and_repairs_the_last_line() {
    let dir = TempDir::new();
    let first = counts(&extract(sample(), &dir).run());
    let whole = dir.read(ARCHIVE);
    let second = counts(&extract(sample(), &dir).run());
    assert_eq!((&second["written"], second["read"] == first["read"]), (&json!(0), true), "{second}");
    assert_eq!(dir.read(ARCHIVE), whole);
    let path = dir.path().join(ARCHIVE);
    std::fs::write(&path, &whole.as_bytes()[..whole.len() / 2]).unwrap();
    counts(&extract(sample(), &dir).run());
    assert_eq!(dir.read(ARCHIVE), whole);
}

#[test]
fn a_window_is_half_open_and_by_ts() {
    let dir = TempDir::new();
    let ran = extract(sample(), &dir).param("since", "2024-01-02T10:00:00Z").param("until", "2024-01-03T10:00:00Z").run();
    let counts = counts(&ran);
    assert_eq!((&counts["written"], &counts["outside_window"]), (&json!(3), &json!(6)), "{counts}");
}

/// Creates a zip with these files.
fn zip(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn errors_for_invalid_exports() {
    let dir = TempDir::new();
    let at = |name: &str| dir.path().join(name);
    let whole = std::fs::read(sample()).unwrap();
    std::fs::write(at("half.zip"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at("text.zip"), "no zip").unwrap();
    let list = || b"[]".to_vec();
    zip(&at("other.zip"), &[("readme.txt", b"hello".to_vec())]);
    let mut damaged = Vec::new();
    zip(&at("damaged.zip"), &[("users.json", list()), ("channels.json", list()), ("general/2024-01-01.json", vec![b' '; 5000])]);
    damaged.extend(std::fs::read(at("damaged.zip")).unwrap());
    // In the middle of the last file's compressed data.
    let name = b"general/2024-01-01.json";
    let place = damaged.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 3;
    damaged[place] ^= 0xff;
    std::fs::write(at("damaged.zip"), damaged).unwrap();
    let bomb = vec![b'['; 40 << 20];
    zip(&at("bomb.zip"), &[("users.json", list()), ("channels.json", list()), ("general/2024-01-01.json", bomb)]);
    let mut messages = String::new();
    for name in ["missing.zip", "", "half.zip", "text.zip", "other.zip", "damaged.zip", "bomb.zip"] {
        let ran = extract(at(name), &dir).run();
        ran.assert_permanent("zip");
        let error = ran.error().unwrap();
        messages.push_str(&format!("{}\n", error.replace(&dir.path().display().to_string(), "DIR")));
        assert!(ran.events_of("extraction.completed").is_empty());
    }
    insta::assert_snapshot!(messages);
}

#[test]
fn events_contain_no_message_text() {
    let dir = TempDir::new();
    let path = dir.path().join("private.zip");
    let day = br#"[{"ts":"1704103200.000100","text":"SECRET","user":"SECRET"},{"text":"SECRET"}]"#.to_vec();
    let users = br#"[{"id":"U1","name":"SECRET"}]"#.to_vec();
    zip(&path, &[("users.json", users), ("channels.json", b"[]".to_vec()), ("general/2024-01-01.json", day)]);
    let ran = extract(&path, &dir).run();
    assert_eq!(counts(&ran)["set_aside"], json!({"no_ts": 1}));
    assert!(!format!("{:?} {:?}", ran.events(), ran.traces()).contains("SECRET"));
}
