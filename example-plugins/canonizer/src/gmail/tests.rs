//! Messages parsed by Gmail, compared with the same messages as bytes.

use super::*;
use crate::canonicalization::tests::samples;
use crate::email::Email;
use crate::kind::EMAIL;
use crate::kind::tests::assert_valid;
use crate::record::Record;
use base64::engine::general_purpose::URL_SAFE;
use lorchestra_plugin_api::serde_json::{self, Value, json};

/// Converts a message as the API does in the format `full`. Texts of some charsets become UTF-8, headers are unchanged.
fn full(raw: &[u8]) -> Value {
    let part = Part::parse(raw).unwrap();
    json!({
        "id": "18c8f5dc3c6c3734", "threadId": "18d0e8e4fc8bc004", "labelIds": ["INBOX"], "snippet": "the &amp; snippet",
        "internalDate": "1704355440123", "sizeEstimate": raw.len(), "historyId": "73834", "payload": payload(&part, ""),
    })
}

fn payload(part: &Part<'_>, id: &str) -> Value {
    let headers: Vec<Value> = part.headers.all().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut payload = json!({"partId": id, "mimeType": part.media_type.name(), "filename": "", "headers": headers});
    match &part.body {
        Body::Leaf(content) => {
            let text = content.text(part.media_type.parameter("charset"));
            let utf8 = part.media_type.is_text() && !text.problem;
            let data = if utf8 { text.value.into_bytes() } else { content.decode().value.into_owned() };
            payload["body"] = json!({"size": data.len(), "data": URL_SAFE.encode(&data)});
        }
        Body::Parts(parts) => {
            let at = |i: usize| if id.is_empty() { i.to_string() } else { format!("{id}.{i}") };
            payload["body"] = json!({"size": 0});
            payload["parts"] = parts.iter().enumerate().map(|(i, part)| self::payload(part, &at(i))).collect();
        }
        Body::Elsewhere { .. } => panic!("all of it is in the bytes"),
    }
    payload
}

fn email(line: &Value) -> Value {
    let record = Record::parse(line.to_string().as_bytes()).unwrap();
    let email = serde_json::to_value(Email::of(&record).unwrap()).unwrap();
    assert_valid(&EMAIL, [&email]);
    email
}

/// Removes what depends on the bytes and may differ: ids, sizes and line endings of texts converted to UTF-8.
fn comparable(mut email: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|name, _| !matches!(name.as_str(), "id" | "blobId" | "size" | "isEncodingProblem"));
                object.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut email);
    email
}

#[test]
fn every_sample_gives_the_same_email_from_the_api_and_from_bytes() {
    let mut compared = 0;
    for (i, raw) in samples().iter().enumerate() {
        let full = full(raw);
        let mut as_bytes = full.clone();
        as_bytes["raw"] = URL_SAFE.encode(raw).into();
        as_bytes.as_object_mut().unwrap().remove("payload");
        let (apart, bytes) = (email(&full), email(&as_bytes));
        assert_eq!(apart["id"], "mg18c8f5dc3c6c3734");
        assert_eq!(bytes["id"], format!("m{}", crate::key::Key::of(raw)));
        assert_eq!((&bytes["threadId"], &bytes["receivedAt"]), (&json!("tg1788185122253291524"), &json!("2024-01-04T08:04:00Z")));
        // An empty text has Gmail's snippet as its preview.
        let (mut apart, bytes) = (comparable(apart), comparable(bytes));
        if bytes["preview"] == "" {
            assert_eq!(apart["preview"], "the & snippet");
            apart["preview"] = "".into();
        }
        assert_eq!(apart, bytes, "sample {}", i + 1);
        compared += 1;
    }
    assert_eq!(compared, 35);
}

#[test]
fn content_that_gmail_omits_is_listed_as_not_included() {
    let part = |id: &str, mime: &str, body: Value| json!({"partId": id, "mimeType": mime, "filename": "", "body": body});
    let mut line = full(b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n");
    let mut pdf = part("1", "application/pdf", json!({"attachmentId": "ANGjdJ", "size": 300_000}));
    pdf["filename"] = "päper.pdf".into();
    let mut message = part("3", "message/rfc822", json!({"attachmentId": "x", "size": 70}));
    message["parts"] = json!([part("3.0", "text/plain", json!({"size": 3, "data": "eHl6"}))]);
    line["payload"]["parts"] = json!([part("0", "text/plain", json!({"attachmentId": "long", "size": 20_000})), pdf, message]);
    let email = email(&line);
    let id = "bg18c8f5dc3c6c3734";
    assert_eq!(email["blobId"], id);
    let attachments = email["attachments"].as_array().unwrap();
    assert_eq!(attachments.len(), 2, "a nested message is an attachment: {attachments:?}");
    assert_eq!((&attachments[0]["blobId"], &attachments[0]["size"]), (&json!(format!("{id}_1")), &json!(300_000)));
    assert_eq!(attachments[0]["name"], "päper.pdf", "the name from Gmail, because no header has one");
    assert_eq!(attachments[1]["type"], "message/rfc822");
    assert_eq!(email["bodyValues"]["1"], json!({"value": "", "isEncodingProblem": false, "isTruncated": true}));
    assert_eq!((&email["preview"], &email["hasAttachment"]), (&json!("the & snippet"), &json!(true)));
}

#[test]
fn a_message_with_headers_only() {
    let mut line = full(b"Subject: =?utf-8?q?B=C3=BCcher?=\nFrom: Anna <a@example.org>\nMessage-ID: <1@example.org>\n\n");
    line.as_object_mut().unwrap().remove("threadId");
    line["payload"].as_object_mut().unwrap().remove("body");
    line["payload"]["mimeType"] = "multipart/alternative".into();
    let email = email(&line);
    assert_eq!((&email["subject"], &email["from"][0]["email"]), (&json!("Bücher"), &json!("a@example.org")));
    assert_eq!((&email["textBody"], &email["attachments"], &email["preview"]), (&json!([]), &json!([]), &json!("the & snippet")));
    assert_eq!(email["threadId"], format!("t{}", crate::key::Key::of(b"1@example.org")));
}

#[test]
fn limits_are_the_same_as_for_raw_messages() {
    let refusal = |payload: Value| {
        let line = json!({"id": "18c", "payload": payload}).to_string();
        Email::of(&Record::parse(line.as_bytes()).unwrap()).map(drop).unwrap_err()
    };
    let leaf = json!({"mimeType": "text/plain"});
    let nest = |depth| (0..depth).fold(leaf.clone(), |part, _| json!({"mimeType": "multipart/mixed", "parts": [part]}));
    assert_eq!(refusal(nest(61)), Refusal::NestedTooDeep);
    assert_eq!(refusal(json!({"mimeType": "multipart/mixed", "parts": vec![leaf.clone(); 10_000]})), Refusal::TooManyParts);
    assert_eq!(refusal(json!({"headers": [{"name": "Subject", "value": "x".repeat(1 << 20)}]})), Refusal::HeaderTooLarge);
    let line = json!({"id": "18c", "payload": nest(60)}).to_string();
    assert!(Email::of(&Record::parse(line.as_bytes()).unwrap()).is_ok());
}

#[test]
fn the_sample_of_two_formats() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/gmail.jsonl");
    let lines: Vec<Value> =
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    insta::assert_json_snapshot!(lines.iter().map(email).collect::<Vec<_>>());
}
