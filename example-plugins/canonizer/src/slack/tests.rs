//! Valid and invalid lines of Slack messages.

use super::*;
use lorchestra_plugin_api::serde_json::json;

fn post(message: &Value) -> Result<Post, RecordFault> {
    let line = json!({
        "sha256": "x", "account": "demo", "channel": {"id": "C1", "name": "general"}, "user": null, "ts": "1", "date": "x",
        "thread_ts": null, "message": message,
    });
    Post::parse(line.to_string().as_bytes())
}

#[test]
fn times_are_exact() {
    for text in ["1704100000.000200", "1.000000", "1704100000.999999", "253402300799.999999"] {
        assert_eq!(Ts::parse(text).unwrap().to_string(), text);
    }
    for text in [
        "",
        "1704100000",
        "1704100000.2",
        "1704100000.0002000",
        "-1.000000",
        "+1.000000",
        "0.000000",
        "253402300800.000000",
        "1.00000a",
        "9999999999999.000000",
        "１.000000",
    ] {
        assert_eq!(Ts::parse(text), None, "{text}");
    }
    assert_eq!(Ts::parse("1704100000.000200").unwrap().rfc3339(), "2024-01-01T09:06:40.000200Z");
    assert_eq!(Ts::parse("1704100000.000000").unwrap().rfc3339(), "2024-01-01T09:06:40.000000Z");
}

#[test]
fn an_invalid_message_is_refused_with_a_reason() {
    let good = json!({"account": "a", "channel": {"id": "C1"}, "message": {"ts": "1704100000.000200"}});
    assert!(Post::parse(good.to_string().as_bytes()).is_ok(), "nothing else is needed");
    let without = |path: &str, value: Value| {
        let mut line = good.clone();
        *line.pointer_mut(path).unwrap() = value;
        line.to_string()
    };
    for (line, fault) in [
        (String::new(), RecordFault::NotJson),
        ("{".into(), RecordFault::NotJson),
        ("[1]".into(), RecordFault::NotARecord),
        ("{}".into(), RecordFault::NotARecord),
        (without("/account", json!("")), RecordFault::NotARecord),
        (without("/channel", Value::Null), RecordFault::NotARecord),
        (without("/channel/id", json!("")), RecordFault::NotARecord),
        (without("/message", json!({"type": "message"})), RecordFault::NotARecord),
        (without("/message/ts", json!("yesterday")), RecordFault::NotARecord),
        (without("/message/ts", json!(1_704_100_000)), RecordFault::NotARecord),
        (without("/message", json!({"subtype": "message_changed", "ts": "1704100000.000200"})), RecordFault::NotARecord),
        (without("/message", json!({"subtype": "message_deleted", "ts": "1704100000.000200"})), RecordFault::NotARecord),
        (without("/message", json!({"ts": "1704100000.000200", "files": "none"})), RecordFault::NotARecord),
        (without("/message", (0..200).fold(json!(1), |inner, _| json!([inner]))), RecordFault::NotARecord),
    ] {
        assert_eq!(Post::parse(line.as_bytes()).unwrap_err(), fault, "{line}");
    }
    let nested = json!({"ts": "1704100000.000200", "blocks": (0..200).fold(json!(1), |inner, _| json!([inner]))});
    assert_eq!(post(&nested).unwrap_err(), RecordFault::NestedTooDeep);
}

#[test]
fn null_fields_count_as_absent() {
    let names = ["thread_ts", "subtype", "user", "text", "edited", "files", "attachments", "reactions", "blocks", "bot_profile"];
    let mut message = json!({"ts": "1704100000.000200"});
    for name in names {
        message[name] = Value::Null;
    }
    assert_eq!(post(&message).unwrap().version(), Version::At(Ts::parse("1704100000.000200").unwrap()));
}

#[test]
fn versions() {
    let (first, second) = ("1704100000.000200", "1704100060.000000");
    let version = |message: &Value| post(message).unwrap().version();
    let written = version(&json!({"ts": first}));
    let edited = version(&json!({"ts": first, "edited": {"ts": second}}));
    let changed = post(
        &json!({"subtype": "message_changed", "ts": "1704100061.000000", "message": {"ts": first, "edited": {"ts": second}}}),
    );
    let changed = changed.unwrap();
    assert_eq!((changed.ts.to_string().as_str(), changed.version()), (first, edited), "it is a change of the same message");
    let deleted = post(&json!({"subtype": "message_deleted", "deleted_ts": first, "ts": second})).unwrap();
    assert_eq!(deleted.id(), changed.id());
    let tombstone = version(&json!({"ts": first, "subtype": "tombstone"}));
    assert!(written < edited && edited < deleted.version() && deleted.version() == tombstone);
}

#[test]
fn a_thread_is_named_after_its_first_message() {
    let id = |message: &Value| post(message).map(|post| (post.id(), post.thread_id())).unwrap();
    let first = "slack:demo:C1:1704100000.000200".to_owned();
    assert_eq!(id(&json!({"ts": "1704100000.000200"})), (first.clone(), first.clone()));
    assert_eq!(id(&json!({"ts": "1704100000.000200", "thread_ts": "1704100000.000200"})), (first.clone(), first.clone()));
    assert_eq!(id(&json!({"ts": "1704100060.000300", "thread_ts": "1704100000.000200"})).1, first);
}
