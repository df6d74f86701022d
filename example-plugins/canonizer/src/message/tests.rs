//! Messages of the sample, and generated ones.

use super::*;
use crate::canonicalization::tests::Sandbox;
use crate::kind::MESSAGE;
use crate::kind::tests::assert_valid;
use crate::message_job::canonicalize_message;
use lorchestra_plugin_api::serde_json::{self, Value, json};
use lorchestra_plugin_api::testing;
use std::fs;
use std::path::Path;

/// The objects of the sample.
pub(crate) fn samples() -> Vec<Value> {
    let sandbox = Sandbox::of(&MESSAGE, "slack");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/slack.jsonl");
    sandbox.put("sample.jsonl", fs::read(path).unwrap());
    let _ = sandbox.completed(testing::job::<canonicalize_message>().data(&sandbox.dir));
    sandbox.lines(MESSAGE.results)
}

#[test]
fn the_sample() {
    let samples = samples();
    assert_valid(&MESSAGE, &samples);
    insta::assert_json_snapshot!(samples);
}

fn message(line: &Value) -> Value {
    let post = Post::parse(line.to_string().as_bytes()).unwrap();
    let mut directory = Directory::default();
    directory.learn(&post);
    serde_json::to_value(Message::of(post, &directory)).unwrap()
}

fn line(message: &Value) -> Value {
    json!({"account": "demo", "channel": {"id": "C1", "name": "C1"}, "message": message})
}

#[test]
fn senders() {
    let ts = "1704100000.000200";
    let sender = |message: Value, user: Option<(&str, &str)>| {
        let mut line = line(&message);
        line["user"] = json!(user.map(|(id, name)| json!({"id": id, "name": name})));
        let sender = self::message(&line)["sender"].clone();
        (sender["id"].clone(), sender["name"].clone(), sender["is_bot"] == true)
    };
    let anna = Some(("U1", "Anna"));
    assert_eq!(sender(json!({"ts": ts, "user": "U1"}), anna), (json!("U1"), json!("Anna"), false));
    assert_eq!(sender(json!({"ts": ts, "user": "U1"}), None), (json!("U1"), Value::Null, false));
    assert_eq!(sender(json!({"ts": ts}), anna), (json!("U1"), json!("Anna"), false));
    // The line's user is not the sender of the message.
    assert_eq!(sender(json!({"ts": ts, "user": "U2"}), anna), (json!("U2"), Value::Null, false));
    let profile = json!({"display_name": "", "real_name": "Ben Cole"});
    assert_eq!(sender(json!({"ts": ts, "user": "U2", "user_profile": profile}), None).1, "Ben Cole");
    let bot = json!({"ts": ts, "bot_id": "B1", "bot_profile": {"name": "build"}});
    assert_eq!(sender(bot, None), (json!("B1"), json!("build"), true));
    assert_eq!(sender(json!({"ts": ts}), None), (Value::Null, Value::Null, false));
    let tombstone = json!({"ts": ts, "user": "USLACKBOT", "subtype": "tombstone", "text": "This message was deleted."});
    let slackbot = Some(("USLACKBOT", "Slackbot"));
    assert_eq!(sender(tombstone, slackbot), (Value::Null, Value::Null, false), "it does not name the deleted message");
}

/// The messages of an export, in ingester's format.
fn of_export(text: &str) -> Vec<Value> {
    let export: Value = serde_json::from_str(text).unwrap();
    let mut directory = Directory::default();
    let days = export.as_object().unwrap().iter().filter(|(name, _)| name.contains('/'));
    let lines = days.flat_map(|(_, day)| day.as_array().unwrap()).map(line);
    for user in export["users.json"].as_array().unwrap() {
        let mut known = line(&json!({"ts": "1704100000.000200", "user": user["id"], "user_profile": user["profile"]}));
        known["user"] = Value::Null;
        directory.learn(&Post::parse(known.to_string().as_bytes()).unwrap());
    }
    let messages: Vec<Value> = lines
        .map(|line| serde_json::to_value(Message::of(Post::parse(line.to_string().as_bytes()).unwrap(), &directory)).unwrap())
        .collect();
    assert_valid(&MESSAGE, &messages);
    messages
}

#[test]
fn attachments_and_blocks_add_what_the_text_lacks() {
    let fields = of_export(include_str!("../../sample/cases/slack-attachment-fields-export.json"));
    let text = "Severity: quokka\nOwner: @Ben Cole\nprom-wombat";
    assert_eq!((&fields[0]["attachments"][0]["title"], &fields[0]["attachments"][0]["text"]), (&json!("Alert"), &json!(text)));
    let blocks = of_export(include_str!("../../sample/cases/slack-attachment-blocks-export.json"));
    assert_eq!(blocks[0]["attachments"][0]["text"], "Rollout *zebra* finished by @Ben Cole");
    let both = of_export(include_str!("../../sample/cases/slack-text-and-blocks-export.json"));
    assert_eq!(both[0]["text"], "Details page 1 10 rows\nCustomer *Okapi GmbH* has 3 open tickets");
    assert_eq!(both[1]["text"], "This content can't be displayed.\nYour appointment is on *Tapir* street");
}

#[test]
fn the_author_of_an_attachment_is_plain_text() {
    let attachment = json!({"author_name": "Berg &amp; Cole <@U1|Anna>", "text": "x"});
    let message = message(&line(&json!({"ts": "1704100000.000200", "attachments": [attachment]})));
    assert_eq!(message["attachments"][0]["author"], "Berg & Cole @Anna");
}

#[test]
fn the_old_file_field_and_titles() {
    let old =
        message(&line(&json!({"ts": "1704100000.000200", "file": {"id": "F1", "name": "image.png", "title": "Plan of March"}})));
    assert_eq!((&old["files"][0]["name"], &old["files"][0]["title"]), (&json!("image.png"), &json!("Plan of March")));
    let same =
        message(&line(&json!({"ts": "1704100000.000200", "files": [{"name": "a.png", "title": "a.png"}, {"title": "b"}]})));
    assert_eq!((&same["files"][0]["title"], &same["files"][1]["name"]), (&Value::Null, &json!("b")));
}

/// Valid and invalid values of Slack's fields.
fn value(random: &mut u64, depth: u32) -> Value {
    let mut next = |n: u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % n
    };
    let texts =
        ["", "x", "<@U1>", "1704100000.000200", "tombstone", "message_deleted", "<http://a|b>", "é&amp;\0", "channel_join"];
    match next(if depth == 0 { 5 } else { 8 }) {
        0 => Value::Null,
        1 | 2 => json!(texts[usize::try_from(next(texts.len() as u64)).unwrap()]),
        3 => json!(next(1 << 40)),
        4 => json!(next(2) == 0),
        5 => Value::Array((0..next(3)).map(|_| value(random, depth - 1)).collect()),
        _ => message_of_any_shape(random, depth - 1),
    }
}

fn message_of_any_shape(random: &mut u64, depth: u32) -> Value {
    let names = [
        "ts",
        "thread_ts",
        "user",
        "text",
        "subtype",
        "edited",
        "files",
        "file",
        "fields",
        "message_blocks",
        "footer",
        "attachments",
        "reactions",
        "blocks",
        "name",
        "count",
        "users",
        "size",
        "mode",
        "title",
        "message",
        "previous_message",
        "deleted_ts",
        "username",
        "bot_id",
        "id",
        "type",
    ];
    let mut message = json!({});
    for name in names {
        if value(random, 0).is_string() && value(random, 0).is_string() {
            message[name] = value(random, depth);
        }
    }
    message
}

#[test]
fn every_accepted_line_becomes_a_valid_object() {
    let (mut taken, mut objects) = (0, Vec::new());
    for seed in 1..20_000_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut raw = message_of_any_shape(&mut random, 2);
        raw["ts"] = json!("1704100000.000200");
        let text = line(&raw).to_string();
        let Ok(post) = Post::parse(text.as_bytes()) else { continue };
        taken += 1;
        objects.push(serde_json::to_value(Message::of(post, &Directory::default())).unwrap());
    }
    assert!(taken > 2_000, "only {taken} generated messages are valid");
    assert_valid(&MESSAGE, &objects);
}
