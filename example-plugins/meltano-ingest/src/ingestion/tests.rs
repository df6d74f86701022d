//! Runs of small taps, written as shell scripts.

use crate::run_tap;
use lorchestra_plugin_api::serde_json::{self, Value, json};
use lorchestra_plugin_api::testing::{self, TempDir, Test};
use std::fs;
use std::time::Duration;

const SCHEMA: &str = r#"{"type":"SCHEMA","stream":"a","schema":{"properties":{"n":{}}},"key_properties":["n"]}"#;

/// A tap that prints these lines and then runs this command. `$@` are its arguments.
fn tap(lines: &[&str], then: &str, dir: &TempDir) -> Test {
    let script = format!("cat <<'END'\n{}\nEND\n{then}", lines.join("\n"));
    let job = testing::job::<run_tap>().package("meltano-ingest").data(dir);
    job.param("tap", "sh").param("arg", ["-c", &script, "tap"]).param("name", "test")
}

fn rec(n: u32) -> String {
    format!("{{\"type\":\"RECORD\",\"stream\":\"a\",\"record\":{{\"n\":{n}}}}}")
}

fn state(n: u32) -> String {
    format!("{{\"type\":\"STATE\",\"value\":{{\"at\":{n}}}}}")
}

fn file(dir: &TempDir) -> String {
    let text = fs::read_to_string(dir.path().join("meltano-ingest/test/default/a.jsonl")).unwrap_or_default();
    text.replace("{\"n\":", "").replace("}\n", " ")
}

fn kept_state(dir: &TempDir) -> Value {
    let text = dir.read("meltano-ingest/test/default/state.json");
    serde_json::from_str::<Value>(&text).unwrap()["state"]["at"].clone()
}

#[test]
fn a_good_tap() {
    let dir = TempDir::new();
    let timed = r#"{"type":"RECORD","stream":"a","record":{"n":2},"time_extracted":"2024-01-01T00:00:00Z"}"#;
    let lines = [
        SCHEMA,
        &rec(1),
        timed,
        &state(2),
        r#"{"type":"RECORD","stream":"b","record":{"n":3}}"#,
        r#"{"type":"RECORD","stream":"a","record":[4]}"#,
        r#"{"type":"METRIC","value":1}"#,
        SCHEMA,
        &rec(5),
    ];
    let ran = tap(&lines, "printf '%s' '{\"type\":\"record\",\"stream\":\"a\",\"record\":{\"n\":6}}'", &dir).run();
    ran.assert_ok();
    assert_eq!(file(&dir), "1 2 5 6 ");
    assert_eq!(kept_state(&dir), 2);
    let completed = json!({
        "tap": "test", "messages": 10, "records": 4, "bytes": 32, "streams": 1, "states": 1, "ignored": 1, "batch_files": 0,
        "set_aside": {"no_schema": 1, "not_an_object": 1},
    });
    assert_eq!(ran.event("tap.completed").payload, completed);
    assert_eq!(ran.events_of("tap.set_aside")[0].payload, json!({"line": 5, "reason": "no_schema"}));
    assert_eq!(dir.read("meltano-ingest/test/default/set_aside.jsonl").lines().count(), 2);
    let stream = &ran.event("tap.stream.completed").payload;
    assert_eq!((&stream["records"], &stream["bytes"]), (&json!(4), &json!(32)));
    assert_eq!(stream["first_extracted"], "2024-01-01T00:00:00Z");
    assert_eq!(ran.events_of("tap.schema.changed").len(), 1, "and not again for the same schema");

    // The next run passes the stored state and appends records.
    let other = r#"{"type":"SCHEMA","stream":"a","schema":{"properties":{"m":{}}},"key_properties":["n"]}"#;
    let then =
        r#"[ "$1" = --state ] && [ "$(cat "$2")" = '{"at":2}' ] && echo '{"type":"RECORD","stream":"a","record":{"n":7}}'"#;
    let ran = tap(&[other], then, &dir).run();
    ran.assert_ok();
    assert_eq!(file(&dir), "1 2 5 6 7 ");
    let changed = &ran.event("tap.schema.changed").payload;
    assert_eq!((&changed["added"], &changed["removed"], &changed["first"]), (&json!(["m"]), &json!(["n"]), &json!(false)));

    // A state given with --state.
    let by_hand = dir.write("by-hand.json", "{\"at\":9}");
    let then = format!("[ \"$2\" = {} ] && echo '{}'", by_hand.display(), rec(8));
    tap(&[SCHEMA], &then, &dir).param("state", &by_hand).run().assert_ok();
    assert_eq!(file(&dir), "1 2 5 6 7 8 ");
}

/// Records in files, plain and compressed: appended byte for byte, in the order of the messages, to their version.
#[test]
fn batches_are_records() {
    use std::io::Write;
    let dir = TempDir::new();
    let plain = dir.write("with space.jsonl", "{\"n\":2}\n\n{\"n\":3.10}\r\n[4]\n{\"n\":NaN}\n{\"n\":5}");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for n in 6..3000 {
        writeln!(packed, "{{\"n\":{n}}}").unwrap();
    }
    let packed = packed.finish().unwrap();
    // Two members, as of a tap that appends to a file.
    let path = dir.path().join("packed.json.gz");
    fs::write(&path, [&packed[..], &packed[..]].concat()).unwrap();
    let url = format!("file://{}", plain.display()).replace(' ', "%20");
    let plain = format!(r#"{{"type":"BATCH","stream":"a","encoding":{{"format":"jsonl"}},"manifest":["{url}"]}}"#);
    let gzip = format!(
        r#"{{"type":"BATCH","stream":"a","encoding":{{"format":"jsonl","compression":"gzip"}},"manifest":["file://{}"]}}"#,
        path.display()
    );
    let ran = tap(&[SCHEMA, &rec(1), &plain, &gzip, &state(1)], "", &dir).run();
    ran.assert_ok();
    let packed: String = (6..3000).map(|n| format!("{n} ")).collect();
    assert_eq!(file(&dir), format!("1 2 3.10 5 {packed}{packed}"));
    let completed = &ran.event("tap.completed").payload;
    assert_eq!((&completed["records"], &completed["batch_files"]), (&json!(5992), &json!(2)));
    assert_eq!(completed["set_aside"], json!({"not_an_object": 1, "not_a_number": 1}));
    assert!(path.exists(), "the file belongs to the tap");

    // Cut in the middle, and a line that is no JSON: nothing of the batch is kept.
    for (text, says) in [(&fs::read(&path).unwrap()[..2000], "packed.json.gz"), (b"\x1f", "packed.json.gz")] {
        fs::write(&path, text).unwrap();
        tap(&[SCHEMA, &gzip, &state(2)], "", &dir).run().assert_retryable(says);
        assert_eq!(kept_state(&dir), 1);
    }
    let torn = dir.write("torn.jsonl", "{\"n\":1}\n{\"n\":");
    let torn = format!(r#"{{"type":"BATCH","stream":"a","encoding":{{"format":"jsonl"}},"manifest":["{}"]}}"#, torn.display());
    tap(&[SCHEMA, &torn, &state(2)], "", &dir).run().assert_retryable("line 2 of the batch file");
    assert_eq!(file(&dir), format!("1 2 3.10 5 {packed}{packed}"));
}

/// Numbers that no machine type can hold, and everything else that a parser would change.
#[test]
fn records_arrive_byte_for_byte() {
    let dir = TempDir::new();
    let records = [
        r#"{"price": 1.10, "total":100.00, "big":123456789012345678901234567890}"#,
        r#"{"exp":1E+2,"tiny":1e-400,"huge":1e400,"zero":-0.0,"digits":3.14159265358979323846264338327950288}"#,
        r#"{"b":1,"a":2,"b":3,"text":"\u00e4\ud83d\/ \u0000"}"#,
    ];
    let lines: Vec<String> =
        records.iter().map(|record| format!(r#"{{"type":"RECORD","stream":"a","record":{record}}}"#)).collect();
    tap(&[SCHEMA, &lines[0], &lines[1], &lines[2], &state(1)], "", &dir).run().assert_ok();
    assert_eq!(dir.read("meltano-ingest/test/default/a.jsonl"), format!("{}\n", records.join("\n")));
}

/// A source whose columns change while it is read: records of both forms are kept, and the change is reported where it is.
#[test]
fn a_schema_that_changes_during_a_run_is_reported() {
    let dir = TempDir::new();
    let other = r#"{"type":"SCHEMA","stream":"a","schema":{"properties":{"n":{"type":"string"},"m":{}}},"key_properties":["n"]}"#;
    let late = r#"{"type":"RECORD","stream":"a","record":{"n":"2"}}"#;
    let ran = tap(&[SCHEMA, &rec(1), other, late, &state(2), other, SCHEMA], "", &dir).run();
    ran.assert_ok();
    assert_eq!(file(&dir), "1 \"2\" ");
    let changes: Vec<Value> = ran.events_of("tap.schema.changed").iter().map(|event| event.payload.clone()).collect();
    assert_eq!(changes.len(), 3);
    assert_eq!((&changes[1]["added"], &changes[1]["changed"]), (&json!(["m"]), &json!(["n"])));
    assert_eq!((&changes[2]["removed"], &changes[2]["changed"]), (&json!(["m"]), &json!(["n"])), "and back");
}

/// What `meltano state get` prints, and a checkpoint of this package, have the tap's state inside.
#[test]
fn a_state_passed_by_the_user_is_unpacked() {
    for (text, passed) in [
        (r#"{"singer_state": {"bookmarks": {"a": 1.10}}}"#, r#"{"bookmarks": {"a": 1.10}}"#),
        (r#"{"schema":"meltano-ingest.state/1","state":{"at":7},"streams":{},"set_aside":0}"#, r#"{"at":7}"#),
        (r#"{"singer_state": 1, "other": 2}"#, r#"{"singer_state": 1, "other": 2}"#),
        (r#"{"state": {"at": 1}}"#, r#"{"state": {"at": 1}}"#),
    ] {
        let dir = TempDir::new();
        let by_hand = dir.write("by-hand.json", text);
        let then = format!("[ \"$(cat \"$2\")\" = '{passed}' ] || exit 9");
        tap(&[SCHEMA], &then, &dir).param("state", &by_hand).run().assert_ok();
    }
}

/// Output of Python's json module, and text that taps print between messages.
#[test]
fn a_malformed_message_affects_no_other() {
    let dir = TempDir::new();
    let odd = r#"{"type":"RECORD","stream":"a","record":{"n":NaN}}"#;
    let (one, two) = (rec(1), rec(2));
    let ran = tap(&[SCHEMA, "", &one, odd, "  ", &two, r#"{"type":"STATE","value":null}"#], "", &dir).run();
    ran.assert_ok();
    assert_eq!(file(&dir), "1 2 ");
    let aside = fs::read_to_string(dir.path().join("meltano-ingest/test/default/set_aside.jsonl")).unwrap();
    assert_eq!(aside, format!("{odd}\n"));
    assert_eq!(ran.event("tap.completed").payload["set_aside"], json!({"not_a_number": 1}));
    // A byte order mark, and Latin-1 in a message and in a batch file.
    let latin1 = b"{\"type\":\"RECORD\",\"stream\":\"a\",\"record\":{\"n\":\"J\xf6rg\"}}\n";
    let batch = dir.path().join("latin1.jsonl");
    fs::write(&batch, b"\xef\xbb\xbf{\"n\":3}\n{\"n\":\"J\xf6rg\"}\n{\"n\":4}\n").unwrap();
    let message = format!(
        "{{\"type\":\"BATCH\",\"stream\":\"a\",\"encoding\":{{\"format\":\"jsonl\"}},\"manifest\":[\"{}\"]}}\n",
        batch.display()
    );
    let output = dir.path().join("output");
    fs::write(&output, [latin1, message.as_bytes()].concat()).unwrap();
    let ran = tap(&[&format!("\u{feff}{SCHEMA}")], &format!("cat '{}'", output.display()), &dir).run();
    ran.assert_ok();
    assert_eq!(ran.event("tap.completed").payload["set_aside"], json!({"not_utf8": 2}));
    assert_eq!(file(&dir), "1 2 3 4 ");
    let aside = fs::read(dir.path().join("meltano-ingest/test/default/set_aside.jsonl")).unwrap();
    assert!(aside.ends_with(&[latin1.as_slice(), b"{\"n\":\"J\xf6rg\"}\n"].concat()), "as they were written");
    // No state is passed.
    tap(&[SCHEMA], "[ -z \"$1\" ] || exit 9", &dir).run().assert_ok();
}

#[test]
fn each_failure_has_its_cause_and_keeps_complete_transactions() {
    let long = "exec sleep 100";
    let cases: [(&[&str], &str, &str, bool); 13] = [
        (&[], "exit 3", "test failed (exit status: 3) after 4 messages; it wrote nothing to standard error", false),
        (
            &[],
            "echo 'Unauthorized for hunter2hunter2' >&2; echo >&2; exit 1",
            "test failed (exit status: 1) after 4 messages; see its output in the log of this run",
            false,
        ),
        (&[], "kill -9 $$", "test failed (signal: 9 (SIGKILL)) after 4 messages", false),
        (&["Traceback (most recent call last):"], long, "test: line 5 of its output is not JSON; see the line in the log", false),
        (&["{\"a\":1}"], long, "test: line 5 of its output is JSON, but not a Singer message", false),
        (&[r#"{"type":"STATE"}"#], long, "test: line 5 of its output is a STATE message without value", false),
        (
            &[r#"{"type":"SCHEMA","stream":"b","schema":1}"#],
            long,
            "is a SCHEMA message without a schema that is an object",
            false,
        ),
        (&[r#"{"type":"BATCH","stream":"a"}"#], long, "test: line 5 of its output is a BATCH message without encoding", false),
        (
            &[r#"{"type":"BATCH","stream":"a","encoding":{"format":"parquet"},"manifest":["file:///b"]}"#],
            long,
            "BATCH message in line 5 of its output: batch files of format parquet are not supported",
            true,
        ),
        (
            &[r#"{"type":"BATCH","stream":"a","encoding":{"format":"jsonl"},"manifest":["s3://bucket/b"]}"#],
            long,
            "batch files in s3 storage are not supported",
            true,
        ),
        (
            &[r#"{"type":"BATCH","stream":"a","encoding":{"format":"jsonl"},"manifest":["file:///no/such/file"]}"#],
            long,
            "cannot read the batch file /no/such/file: No such file",
            false,
        ),
        (
            &[r#"{"type":"SCHEMA","stream":"","schema":{}}"#],
            long,
            "cannot store its records: the name of a stream is empty",
            true,
        ),
        (&[], "printf '{\"type\":\"REC'", "test: its output ends in the middle of a message, in line 5 (exit status: 0)", false),
    ];
    for (more, then, says, permanent) in cases {
        let dir = TempDir::new();
        let (one, two, at) = (rec(1), rec(2), state(1));
        let lines = [&[SCHEMA, &one, &at, &two], more].concat();
        let config = dir.write("config.json", "{\"auth\":{\"token\":\"hunter2hunter2\"}}");
        let ran = tap(&lines, then, &dir).param("config", &config).run();
        if permanent {
            ran.assert_permanent(says)
        } else {
            ran.assert_retryable(says)
        };
        assert_eq!((file(&dir), kept_state(&dir)), ("1 ".into(), json!(1)), "{says}");
        let interrupted = &ran.event("tap.interrupted").payload;
        assert_eq!((&interrupted["kept_records"], &interrupted["cut_bytes"]), (&json!(1), &json!(8)), "{says}");
        assert!(ran.events_of("tap.completed").is_empty());
    }
}

#[test]
fn an_idle_tap_is_stopped() {
    for then in ["exec sleep 100", "exec 1>&-; exec sleep 100"] {
        let dir = TempDir::new();
        let ran = tap(&[SCHEMA, &rec(1), &state(1), &rec(2)], then, &dir).param("idle", Duration::from_secs(1)).run();
        ran.assert_retryable("stopped test after 1 s without output (4 messages received)");
        assert_eq!(file(&dir), "1 ");
    }
}

#[test]
fn a_tap_whose_child_keeps_its_output_open_has_ended() {
    let dir = TempDir::new();
    let marker = dir.path().join("pid");
    let then = format!("sleep 100 & echo $! >{}", marker.display());
    tap(&[SCHEMA, &rec(1)], &then, &dir).run().assert_ok();
    assert_eq!(file(&dir), "1 ");
    let pid: i32 = fs::read_to_string(marker).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_cancelled_run_stops_the_tap() {
    let dir = TempDir::new();
    let running = tap(&[&rec(0), SCHEMA, &rec(1)], "exec sleep 100", &dir).start();
    running.wait_for("tap.schema.changed").cancel();
    running.wait().assert_retryable("everything up to the last state is saved, run the job again to continue");
    assert_eq!(file(&dir), "");
}

/// Each form of a schema is reported once, and the last one at the end.
#[test]
fn a_schema_that_alternates_is_reported_once_in_each_form() {
    let dir = TempDir::new();
    let other = SCHEMA.replace(r#"{"n":{}}"#, r#"{"n":{},"m":{}}"#);
    let lines: Vec<String> = (0..9).flat_map(|n| [if n % 2 == 0 { SCHEMA.to_owned() } else { other.clone() }, rec(n)]).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let stored =
        || serde_json::from_str::<Value>(&dir.read("meltano-ingest/test/default/a.schema.json")).unwrap()["schema"].clone();
    for (then, added) in [("", vec![json!(["n"]), json!(["m"]), json!([])]), ("exit 1", vec![json!(["m"]), json!([])])] {
        let ran = tap(&lines, then, &dir).run();
        let changes: Vec<Value> =
            ran.events_of("tap.schema.changed").iter().map(|event| event.payload["added"].clone()).collect();
        assert_eq!(changes, added, "{then}");
        assert_eq!(stored(), json!({"properties": {"n": {}}}), "the last one");
    }
    tap(&lines[..4], "", &dir).run().assert_ok();
    assert_eq!(stored(), json!({"properties": {"n": {}, "m": {}}}));
}
