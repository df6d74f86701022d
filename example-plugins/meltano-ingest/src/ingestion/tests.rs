//! Runs of small taps, written in sh.

use super::*;
use lorchestra_plugin_api::serde_json;
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;

const SCHEMA: &str = r#"{"type":"SCHEMA","stream":"a","schema":{"properties":{"n":{}}},"key_properties":["n"]}"#;

#[derive(Default)]
struct Recorder {
    events: RefCell<Vec<(String, Value)>>,
    is_cancelled: Cell<bool>,
    cancels_at: Option<&'static str>,
}

impl Outlet for Recorder {
    fn emit(&self, event_type: &str, payload: Value) -> Result<(), EmitError> {
        if self.cancels_at == Some(event_type) {
            self.is_cancelled.set(true);
        }
        self.events.borrow_mut().push((event_type.to_owned(), payload));
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }

    fn progress(&self, _records: u64) {}
}

impl Recorder {
    fn of_type(&self, event_type: &str) -> Vec<Value> {
        self.events.borrow().iter().filter(|(name, _)| name == event_type).map(|(_, payload)| payload.clone()).collect()
    }
}

/// A tap that writes these lines and then does this. `$@` are its arguments.
fn tap(lines: &[&str], then: &str, dir: &Path) -> Request {
    let script = format!("cat <<'END'\n{}\nEND\n{then}", lines.join("\n"));
    Request {
        call: Call { program: "sh".into(), args: vec!["-c".into(), script, "tap".into()], config: None, catalog: None },
        name: Some("test".into()),
        account: None,
        state: None,
        idle: Duration::ZERO,
        data_dir: dir.to_owned(),
    }
}

fn rec(n: u32) -> String {
    format!("{{\"type\":\"RECORD\",\"stream\":\"a\",\"record\":{{\"n\":{n}}}}}")
}

fn state(n: u32) -> String {
    format!("{{\"type\":\"STATE\",\"value\":{{\"at\":{n}}}}}")
}

fn file(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("test/default/a.jsonl")).unwrap_or_default();
    text.replace("{\"n\":", "").replace("}\n", " ")
}

fn kept_state(dir: &Path) -> Value {
    let text = fs::read(dir.join("test/default/state.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["state"]["at"].clone()
}

#[test]
fn a_good_tap() {
    let dir = tempfile::tempdir().unwrap();
    let outlet = Recorder::default();
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
    let totals =
        run(&tap(&lines, "printf '%s' '{\"type\":\"record\",\"stream\":\"a\",\"record\":{\"n\":6}}'", dir.path()), &outlet)
            .unwrap();
    assert_eq!(file(dir.path()), "1 2 5 6 ");
    assert_eq!(kept_state(dir.path()), 2);
    assert_eq!((totals.messages, totals.records, totals.states, totals.ignored), (10, 4, 1, 1));
    assert_eq!(totals.set_aside, [("no_schema", 1), ("not_an_object", 1)].into());
    assert_eq!(outlet.of_type("tap.set_aside")[0], json!({"line": 5, "reason": "no_schema"}));
    assert_eq!(fs::read_to_string(dir.path().join("test/default/set_aside.jsonl")).unwrap().lines().count(), 2);
    let streams = outlet.of_type("tap.stream.completed");
    assert_eq!((streams.len(), &streams[0]["records"], &streams[0]["bytes"]), (1, &json!(4), &json!(32)));
    assert_eq!(streams[0]["first_extracted"], "2024-01-01T00:00:00Z");
    assert_eq!(outlet.of_type("tap.schema.changed").len(), 1, "and not for the same once more");
    assert_eq!(outlet.of_type("tap.completed")[0]["bytes"], 32);

    // The next run: the kept state is handed back, and what comes is added.
    let outlet = Recorder::default();
    let other = r#"{"type":"SCHEMA","stream":"a","schema":{"properties":{"m":{}}},"key_properties":["n"]}"#;
    let then =
        r#"[ "$1" = --state ] && [ "$(cat "$2")" = '{"at":2}' ] && echo '{"type":"RECORD","stream":"a","record":{"n":7}}'"#;
    run(&tap(&[other], then, dir.path()), &outlet).unwrap();
    assert_eq!(file(dir.path()), "1 2 5 6 7 ");
    let changed = &outlet.of_type("tap.schema.changed")[0];
    assert_eq!((&changed["added"], &changed["removed"], &changed["first"]), (&json!(["m"]), &json!(["n"]), &json!(false)));

    // A state by hand.
    let by_hand = dir.path().join("by-hand.json");
    fs::write(&by_hand, "{\"at\":9}").unwrap();
    let then = format!("[ \"$2\" = {} ] && echo '{}'", by_hand.display(), rec(8));
    run(&Request { state: Some(by_hand), ..tap(&[SCHEMA], &then, dir.path()) }, &Recorder::default()).unwrap();
    assert_eq!(file(dir.path()), "1 2 5 6 7 8 ");
}

#[test]
fn each_failure_has_its_cause_and_leaves_what_belongs_to_a_state() {
    let long = "exec sleep 100";
    let cases: [(&[&str], &str, &str, bool); 9] = [
        (&[], "exit 3", "test failed (exit status: 3) after 4 messages; what it said is in the log of this run", false),
        (&[], "kill -9 $$", "test failed (signal: 9 (SIGKILL)) after 4 messages", false),
        (&["Traceback (most recent call last):"], long, "test: line 5 of its output is not JSON; the line is in the log", false),
        (&["{\"a\":1}"], long, "test: line 5 of its output is JSON, but not a Singer message", false),
        (&[r#"{"type":"STATE"}"#], long, "test: line 5 of its output is a STATE message without value", false),
        (
            &[r#"{"type":"SCHEMA","stream":"b","schema":1}"#],
            long,
            "is a SCHEMA message without a schema that is an object",
            false,
        ),
        (&[r#"{"type":"BATCH","stream":"a"}"#], long, "test sends records as BATCH files (line 5)", true),
        (&[r#"{"type":"SCHEMA","stream":"","schema":{}}"#], long, "the name of a stream is empty; it cannot be kept", true),
        (&[], "printf '{\"type\":\"REC'", "test: its output ends within a message, line 5 (exit status: 0)", false),
    ];
    for (more, then, says, permanent) in cases {
        let dir = tempfile::tempdir().unwrap();
        let outlet = Recorder::default();
        let (one, two, at) = (rec(1), rec(2), state(1));
        let lines = [&[SCHEMA, &one, &at, &two], more].concat();
        let error = run(&tap(&lines, then, dir.path()), &outlet).unwrap_err();
        assert!(error.to_string().contains(says) && error.is_permanent() == permanent, "{error}");
        assert_eq!((file(dir.path()), kept_state(dir.path())), ("1 ".into(), json!(1)), "{error}");
        let interrupted = outlet.of_type("tap.interrupted");
        assert_eq!((&interrupted[0]["kept_records"], &interrupted[0]["cut_bytes"]), (&json!(1), &json!(8)), "{error}");
        assert!(outlet.of_type("tap.completed").is_empty());
    }
}

#[test]
fn a_tap_that_is_silent_is_ended() {
    for then in ["exec sleep 100", "exec 1>&-; exec sleep 100"] {
        let dir = tempfile::tempdir().unwrap();
        let request =
            Request { idle: Duration::from_millis(300), ..tap(&[SCHEMA, &rec(1), &state(1), &rec(2)], then, dir.path()) };
        let error = run(&request, &Recorder::default()).unwrap_err();
        assert!(error.to_string().contains("test was silent for 0 s, after 4 messages, and was ended"), "{error}");
        assert_eq!(file(dir.path()), "1 ");
    }
}

#[test]
fn a_tap_that_leaves_its_output_to_another_process_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("pid");
    let then = format!("sleep 100 & echo $! >{}", marker.display());
    run(&tap(&[SCHEMA, &rec(1)], &then, dir.path()), &Recorder::default()).unwrap();
    assert_eq!(file(dir.path()), "1 ");
    let pid: i32 = fs::read_to_string(marker).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_run_that_is_told_to_end_ends_the_tap() {
    let dir = tempfile::tempdir().unwrap();
    let outlet = Recorder { cancels_at: Some("tap.schema.changed"), ..Recorder::default() };
    let error = run(&tap(&[&rec(0), SCHEMA, &rec(1)], "exec sleep 100", dir.path()), &outlet).unwrap_err();
    assert!(matches!(error, IngestionError::Cancelled(2)) && !error.is_permanent(), "{error}");
    assert_eq!(file(dir.path()), "");
}
