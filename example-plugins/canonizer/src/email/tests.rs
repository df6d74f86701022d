//! Email objects of the sample mailbox and of small messages.

use super::*;
use crate::canonicalization::tests::{line, samples};
use crate::kind::EMAIL;
use crate::kind::tests::assert_valid;
use lorchestra_plugin_api::serde_json::{self, Value, json};

/// Parses a message and validates the object, as for all messages here.
pub(crate) fn email(raw: &[u8]) -> Value {
    let record = Record::parse(line(raw, &[]).as_bytes()).unwrap();
    let email = serde_json::to_value(Email::of(&record).unwrap()).unwrap();
    assert_valid(&EMAIL, [&email]);
    email
}

/// Returns a message of the sample mailbox by its number; 35, the empty one, is missing.
fn sample(number: usize) -> Value {
    email(&samples()[if number > 35 { number - 2 } else { number - 1 }])
}

macro_rules! snapshots {
    ($($name:ident = $number:literal;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_json_snapshot!(sample($number));
        }
    )*};
}

snapshots! {
    sample_alternative = 2;
    sample_attachment = 3;
    sample_inline_image = 4;
    sample_rfc2231_names = 5;
    sample_forwarded = 15;
    sample_no_header = 19;
    sample_truncated = 22;
    sample_addresses = 26;
    sample_digest = 27;
    sample_delivery_report = 33;
}

/// Returns the text of the first body value, and whether it had a problem.
fn text(email: &Value) -> (&str, bool) {
    let value = &email["bodyValues"]["1"];
    (value["value"].as_str().unwrap(), value["isEncodingProblem"].as_bool().unwrap())
}

#[test]
fn charsets_of_the_samples() {
    let rows: Vec<String> = [6, 7, 8, 9, 10, 11, 12, 13, 14, 23, 24, 28, 29, 31, 32]
        .map(|number| {
            let email = sample(number);
            let (value, problem) = text(&email);
            format!("{number}: {} | {value:?} problem={problem} preview={}", email["subject"], email["preview"])
        })
        .into();
    insta::assert_snapshot!(rows.join("\n"));
}

#[test]
fn a_header_after_other_lines_is_found() {
    for raw in [
        &include_bytes!("../../sample/cases/header-bom-in.eml")[..],
        include_bytes!("../../sample/cases/header-blank-line-in.eml"),
        &[b"*** from archive ***\r\n", &include_bytes!("../../sample/cases/header-bom-in.eml")[3..]].concat(),
    ] {
        let email = email(raw);
        assert_eq!((&email["subject"], &email["preview"]), (&json!("hello"), &json!("Grüße")));
        assert_eq!(email["from"], json!([{"name": "Anna", "email": "a@x.example"}]));
        assert!(email["sentAt"].as_str().unwrap().starts_with("2024-01-01T12:00:00"));
    }
}

#[test]
fn previews_of_html() {
    let html = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/cases").join(name);
        email(&std::fs::read(path).unwrap())["preview"].as_str().unwrap().to_owned()
    };
    assert_eq!(html("html-div-glued-0.eml"), "Hello Ben, the invoice is attached Regards Anna");
    assert_eq!(html("html-inline-space-0.eml"), "Invoice number 12 Amount eighty");
    assert_eq!(html("html-inline-space-1.eml"), "Hello Room twelve");
    assert_eq!(html("html-comment-dashes-0.eml"), "before middle");
    assert_eq!(html("html-comment-dashes-1.eml"), "one two");
    assert_eq!(html("html-comment-dashes-2.eml"), "x after");
    assert_eq!(html("empty-plain-alternative-0.eml"), "Your payment of 4711 was received");
}

/// Stylesheets of newsletters are larger than their texts.
#[test]
fn a_preview_does_not_depend_on_what_is_before_the_text() {
    let style = format!("<style>{}</style>", "p { color: red }\n".repeat(10_000));
    let html = format!("Content-Type: text/html; charset=utf-8\n\n{style}<p>Gr&uuml;ße {}</p>", "und mehr ".repeat(50_000));
    let preview = email(html.as_bytes())["preview"].as_str().unwrap().to_owned();
    assert!(preview.starts_with("Grüße und mehr und") && preview.chars().count() == 256, "{preview}");
    let plain = format!("Content-Type: text/plain\n\n{}late", "\n".repeat(100_000));
    assert_eq!(email(plain.as_bytes())["preview"], "late");
}

#[test]
fn encoded_words_and_file_names() {
    let words = email(include_bytes!("../../sample/cases/ew-base64-nopad-in.eml"));
    assert_eq!((&words["subject"], &words["from"][0]["name"]), (&json!("Bücher"), &json!("Jörg Müller")));
    let named = email(include_bytes!("../../sample/cases/filename-split-char-in.eml"));
    assert_eq!(named["attachments"][0]["name"], "Bücher.pdf");
    let raw = email(b"Subject: Gr\xfc\xdfe\nFrom: J\xf6rg <j@x.example>\nTo: =?utf-8?Q?B=2C_A_=3Cx=3E?= <a@x.example>\n\nx");
    assert_eq!((&raw["subject"], &raw["from"][0]["name"]), (&json!("Grüße"), &json!("Jörg")));
    assert_eq!(raw["to"], json!([{"name": "B, A <x>", "email": "a@x.example"}]));
    let split = email(b"Subject: =?utf-8?B?QsM=?=\n =?utf-8?B?vGNoZXI=?=\n\nx");
    assert_eq!(split["subject"], "Bücher");
}

#[test]
fn ids_are_stable_and_valid() {
    let raw = &samples()[0];
    let (first, second) = (email(raw), email(raw));
    assert_eq!(first, second);
    for name in ["id", "blobId", "threadId"] {
        let id = first[name].as_str().unwrap();
        assert!(id.len() <= 255 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
    }
}

#[test]
fn threads() {
    let thread = |header: &str| email(format!("{header}\n\n").as_bytes())["threadId"].as_str().unwrap().to_owned();
    let root = thread("Message-ID: <1@example.org>");
    assert_eq!(thread("Message-ID: <2@example.org>\nIn-Reply-To: <1@example.org>"), root);
    assert_eq!(
        thread("Message-ID: <3@example.org>\nIn-Reply-To: <2@example.org>\nReferences: <1@example.org> <2@example.org>"),
        root
    );
    assert_ne!(thread("Message-ID: <4@example.org>"), root);
    assert_ne!(thread("X: 1"), thread("X: 2"), "without any id, each message is its own thread");
    assert_eq!(thread("X-GM-THRID: 1788\nMessage-ID: <1@example.org>"), "tg1788");
    assert_eq!(thread("X-GM-THRID: 17/88\nMessage-ID: <1@example.org>"), root);
    assert_eq!(sample(1)["threadId"], sample(2)["threadId"]);
    // The reply to message 2, without a Gmail thread and without References.
    assert_ne!(sample(36)["threadId"], sample(2)["threadId"]);
}

#[test]
fn received_at_uses_the_best_known_time() {
    let raw = b"Received: x; Mon, 1 Jan 2024 10:00:00 +0100\nDate: Mon, 1 Jan 2024 08:00:00 +0000\n\n";
    let mut record = Record::parse(line(raw, &[]).as_bytes()).unwrap();
    let received = |record: &Record| Email::of(record).unwrap().received_at;
    assert_eq!(received(&record).as_deref(), Some("2024-01-01T09:00:00Z"));
    record.received = Some("2024-01-01T07:00:00Z".parse().unwrap());
    assert_eq!(received(&record).as_deref(), Some("2024-01-01T07:00:00Z"));
    assert_eq!(email(b"Date: Mon, 1 Jan 2024 08:00:00 +0100\n\n")["receivedAt"], "2024-01-01T07:00:00Z");
    assert_eq!(email(b"Date: never\n\n")["receivedAt"], Value::Null);
}

#[test]
fn the_deepest_structure_fits_any_json_parser() {
    let raw: String = (0..60).map(|i| format!("Content-Type: multipart/mixed; boundary=b{i}x\n\n--b{i}x\n")).collect();
    let raw = raw + "Content-Language: de\n\nbottom";
    let record = Record::parse(line(raw.as_bytes(), &[]).as_bytes()).unwrap();
    let text = serde_json::to_string(&Email::of(&record).unwrap()).unwrap();
    let email: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(email["textBody"][0]["language"], json!(["de"]));
    assert_eq!(email["preview"], "bottom");
    assert_eq!(sample(30)["preview"], "The bottom.");
}

/// Part ids of the three lists.
fn lists(raw: &str) -> [String; 3] {
    let email = email(raw.as_bytes());
    ["textBody", "htmlBody", "attachments"].map(|name| {
        email[name].as_array().unwrap().iter().map(|part| part["partId"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    })
}

/// The example of RFC 8621, section 4.1.4, with the lists given in the RFC.
#[test]
fn body_lists_match_the_rfc_example() {
    let open = |kind: &str, b: &str| format!("Content-Type: multipart/{kind}; boundary={b}\n\n");
    let part = |b: &str, name: &str, kind: &str, disposition: &str| {
        format!("--{b}\nContent-Type: {kind}; x={name}\nContent-Disposition: {disposition}\n\n{name}\n")
    };
    let raw = [
        open("mixed", "m1"),
        part("m1", "A", "text/plain", "inline"),
        "--m1\n".to_owned() + &open("mixed", "m2"),
        "--m2\n".to_owned() + &open("alternative", "alt"),
        "--alt\n".to_owned() + &open("mixed", "m3"),
        part("m3", "B", "text/plain", "inline"),
        part("m3", "C", "image/jpeg", "inline"),
        part("m3", "D", "text/plain", "inline"),
        "--m3--\n--alt\n".to_owned() + &open("related", "rel"),
        part("rel", "E", "text/html", "inline"),
        part("rel", "F", "image/jpeg", "inline"),
        "--rel--\n--alt--\n".into(),
        part("m2", "G", "image/jpeg", "attachment"),
        part("m2", "H", "application/x-excel", "attachment"),
        part("m2", "J", "message/rfc822", "attachment"),
        "--m2--\n".into(),
        part("m1", "K", "text/plain", "inline"),
        "--m1--\n".into(),
    ]
    .concat();
    // Parts A to K have the numbers 1 to 10: text A B C D K, html A E K, attachments C F G H J.
    assert_eq!(lists(&raw), ["1 2 3 4 10", "1 5 10", "3 6 7 8 9"]);
}

#[test]
fn a_single_kind_is_used_for_both_and_named_text_is_an_attachment() {
    assert_eq!(lists("Content-Type: text/html\n\nx"), ["1", "1", ""]);
    assert_eq!(lists("Content-Type: application/pdf\n\nx"), ["", "", "1"]);
    let alternative =
        |kind: &str| format!("Content-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: {kind}\n\nx\n--b--\n");
    assert_eq!(lists(&alternative("text/html")), ["1", "1", ""]);
    assert_eq!(lists(&alternative("text/plain")), ["1", "1", ""]);
    assert_eq!(lists(&alternative("text/calendar")), ["", "", "1"]);
    let mixed = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b\nContent-Type: text/plain; name=a.txt\n\ny\n--b--\n";
    assert_eq!(lists(mixed), ["1", "1", "2"]);
}

#[test]
fn long_values_are_cut_between_characters_and_tags() {
    let plain = MediaType::text_plain();
    let html = MediaType::of("text/html");
    assert_eq!(truncated("aä".into(), &plain, 3), ("aä".into(), false));
    assert_eq!(truncated("aä".into(), &plain, 2), ("a".into(), true));
    assert_eq!(truncated("<p>a<b>c".into(), &html, 6), ("<p>a".into(), true));
    assert_eq!(truncated("<p>a<b>c".into(), &html, 7), ("<p>a<b>".into(), true));
    assert_eq!(truncated("<p>a<b>c".into(), &plain, 6), ("<p>a<b".into(), true));
}

/// Pieces of mail in any order. It starts with a header, or a part of one; otherwise everything would be text.
#[test]
fn any_bytes_become_a_valid_email() {
    let pieces: [&[u8]; 28] = [
        b"\n",
        b"\n\n",
        b"\r\n",
        b"--b\n",
        b"--b--\n",
        b"From: ",
        b"To: ",
        b"Reply-To: ",
        b"a@example.org",
        b"<a@b>, \"x, y\" <",
        b"group: a@b;",
        b"Date: Mon, 1 Jan 2024 25:00:00 +0100\n",
        b"Date: Mon, 1 Jan 2024 23:59:60 -0930\n",
        b"Received: x; 1 Jan 0001 00:00 +1400\n",
        b"Subject: =?utf-8?q?=C3=28?=",
        b"Message-ID: <x@y>\n",
        b"References: <x> y <z>\n",
        b"X-GM-THRID: 99999999999999999999\n",
        b"Content-Type: multipart/alternative; boundary=b\n",
        b"Content-Type: text/html; charset=utf-16\n",
        b"Content-Type: IMAGE/;name=\"\n",
        b"Content-Disposition: attachment; filename*=x''%FF\n",
        b"Content-Transfer-Encoding: base64\n",
        b"Content-Language: , en,,\n",
        b"Content-ID: <>\n",
        b"\xff\xfe\0",
        b"=?x",
        b"<p>a&amp;",
    ];
    let mut objects = Vec::new();
    for seed in 0..4000_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % n).unwrap()
        };
        let mut raw = if next(2) == 0 { b"Content-Type: multipart/related; boundary=b\n".to_vec() } else { b"X: ".to_vec() };
        for _ in 0..next(40) {
            raw.extend_from_slice(pieces[next(pieces.len() as u64)]);
        }
        let labels = ["Inbox", "", "$a", "a/b", "Unread"];
        let record = Record::parse(line(&raw, &labels[next(5)..]).as_bytes()).unwrap();
        objects.push(serde_json::to_value(Email::of(&record).unwrap()).unwrap());
    }
    assert_valid(&EMAIL, &objects);
    let of = |name: &str| objects.iter().filter(|object| !object[name].is_null() && object[name] != json!([])).count();
    for name in ["from", "sentAt", "receivedAt", "messageId", "attachments", "htmlBody", "subject"] {
        assert!(of(name) > 100, "only {} messages have {name}, too few for this test", of(name));
    }
}
