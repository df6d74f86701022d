//! Tests with scripted servers: Gmail's peculiarities, and responses that Dovecot does not send.

use crate::gmail::extract_gmail;
use lorchestra_plugin_api::serde_json::{self, Value};
use lorchestra_plugin_api::testing::{self, TempDir, TestRun};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

mod faulty;

const GREETING: &str = "* OK ready\r\n";
const CAPABILITY: (&str, &str) = ("CAPABILITY", "* CAPABILITY IMAP4rev1 X-GM-EXT-1 AUTH=XOAUTH2\r\nTAG OK done\r\n");
const LOGIN: (&str, &str) = ("LOGIN", "TAG OK done\r\n");
const LIST: (&str, &str) = (
    "LIST",
    "* LIST (\\HasNoChildren) \"/\" \"INBOX\"\r\n\
     * LIST (\\HasChildren \\Noselect) \"/\" \"[Gmail]\"\r\n\
     * LIST (\\All \\HasNoChildren) \"/\" \"[Gmail]/Alle Nachrichten\"\r\n\
     * LIST (\\HasNoChildren \\Trash) \"/\" \"[Gmail]/Papierkorb\"\r\nTAG OK done\r\n",
);
const EXAMINE: (&str, &str) =
    ("EXAMINE", "* 1 EXISTS\r\n* OK [UIDVALIDITY 7] ok\r\n* OK [UIDNEXT 4] ok\r\nTAG OK [READ-ONLY] done\r\n");
const SEARCH: (&str, &str) = ("UID SEARCH", "* SEARCH 3\r\nTAG OK done\r\n");
const SIZES: (&str, &str) = ("UID FETCH 3 (UID RFC822.SIZE)", "* 1 FETCH (UID 3 RFC822.SIZE 20)\r\nTAG OK done\r\n");

/// Starts a server that greets, and answers each command with the response for its prefix. `TAG` is replaced by the command's tag.
/// A command without a response ends the connection.
fn server(greeting: &'static str, answers: Vec<(&'static str, String)>) -> u16 {
    serve(greeting, move |command| answers.iter().find(|(start, _)| command.starts_with(start)).map(|(_, answer)| answer.clone()))
}

/// Starts a server that answers each command with the result of a closure.
fn serve(greeting: &'static str, answer: impl Fn(&str) -> Option<String> + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(greeting.as_bytes());
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                let (tag, command) = line.split_once(' ').unwrap_or(("", &line));
                let Some(answer) = answer(command) else { break };
                if (&stream).write_all(answer.replace("TAG", tag).as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    port
}

fn run(port: u16, dir: &TempDir) -> TestRun {
    let test = testing::job::<extract_gmail>().data(dir).param("host", "127.0.0.1").param("port", port);
    test.param("tls", "plain").param("user", "anna@gmail.com").param("idle_timeout", "2s").secret("password", "kept-secret").run()
}

fn script(answers: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    answers.iter().map(|(start, answer)| (*start, (*answer).to_owned())).collect()
}

#[test]
fn gmails_all_mail_folder_and_its_labels() {
    let dir = TempDir::new();
    let body = "Subject: x\r\n\r\n) \u{e9}\r\n";
    let fetched = format!(
        "* 1 FETCH (X-GM-LABELS (\"\\\\Inbox\" \"\\\\Important\" Work \"Entw&APw-rfe\" \"a &- b\") UID 3 FLAGS (\\Seen $Phishing \\Answered) \
         INTERNALDATE \" 1-Jan-2024 10:00:00 +0100\" BODY[] {{{}}}\r\n{body})\r\nTAG OK done\r\n",
        body.len()
    );
    let answers = [
        CAPABILITY,
        LOGIN,
        LIST,
        EXAMINE,
        SEARCH,
        SIZES,
        ("UID FETCH 3 (UID FLAGS", &fetched),
        ("LOGOUT", "* BYE\r\nTAG OK\r\n"),
    ];
    let ran = run(server(GREETING, script(&answers)), &dir);
    ran.assert_ok().assert_keeps_secrets();
    let line: Value = serde_json::from_str(dir.read("ingester/mail/default.jsonl").trim()).unwrap();
    assert_eq!(line["labels"], serde_json::json!(["Inbox", "Important", "Work", "Entwürfe", "a & b", "$Phishing"]));
    assert_eq!((&line["flags"], &line["raw"]), (&"RS".into(), &body.into()));
    assert_eq!(line["received"], "2024-01-01T09:00:00Z");
    let bookmarks = dir.read("ingester/imap/default.json");
    assert!(bookmarks.contains("[Gmail]/Alle Nachrichten") && bookmarks.contains("\"last_uid\":3"), "{bookmarks}");
    assert!(!bookmarks.contains("INBOX"), "not the folders that all mail covers: {bookmarks}");
}

/// Each line of the file is a real server's flags of one message.
#[test]
fn a_line_that_violates_the_grammar_loses_no_message() {
    for flags in include_str!("../../sample/imap-keyword-flags.txt").lines() {
        let dir = TempDir::new();
        let fetch: String = (1..=4)
            .map(|uid| {
                let flags = if uid == 2 { flags } else { "\\Seen" };
                let body = format!("Subject: {uid}\r\n\r\nx\r\n");
                let date = "\" 1-Jan-2024 10:00:00 +0000\"";
                format!("* {uid} FETCH (UID {uid} FLAGS ({flags}) INTERNALDATE {date} BODY[] {{{}}}\r\n{body})\r\n", body.len())
            })
            .collect();
        let sizes: String = (1..=4).map(|uid| format!("* {uid} FETCH (UID {uid} RFC822.SIZE 20)\r\n")).collect();
        let answers = [
            ("CAPABILITY", "* CAPABILITY  IMAP4rev1 \r\nTAG OK done\r\n".to_owned()),
            ("LOGIN", "TAG OK Willkommen, J\u{f6}rg\r\n".to_owned()),
            ("LIST", "* LIST (\\HasNoChildren)\t\"/\" \"Entw\u{fc}rfe\"\r\nTAG OK done\r\n".to_owned()),
            // Under the server's spelling of the name.
            (
                "EXAMINE \"Entw\u{fc}rfe\"",
                format!(
                    "* FLAGS ({flags} [)\r\n* OK [PERMANENTFLAGS ({flags})] ok\r\n{}",
                    EXAMINE.1.replace("1 EXISTS", "4 EXISTS")
                ),
            ),
            ("UID SEARCH", "* SEARCH  1 2 3 4 \r\nTAG OK done\r\n".to_owned()),
            ("UID FETCH 1:4 (UID RFC822.SIZE)", format!("{sizes}TAG OK done\r\n")),
            ("UID FETCH 1:4 (UID FLAGS", format!("{fetch}TAG OK done\r\n")),
            ("LOGOUT", "* BYE\r\nTAG OK\r\n".to_owned()),
        ];
        run(server(GREETING, answers.to_vec()), &dir).assert_ok();
        let lines = dir.read("ingester/mail/default.jsonl");
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "{flags}");
        let keyword = flags.rsplit(' ').next().unwrap().trim_matches('"');
        assert_eq!(lines[1]["labels"], serde_json::json!(["Entwürfe", keyword]));
        assert!(lines.iter().all(|line| line["flags"] == "S"), "{flags}");
    }
}

/// The run ends with an error, so that someone looks at it, but only after everything else was read.
#[test]
fn a_refused_folder_does_not_keep_the_others_from_being_read() {
    let none = EXAMINE.1.replace("* OK [UIDVALIDITY 7] ok\r\n", "");
    let (ok, search, no) = (EXAMINE.1, SEARCH.1, "TAG NO corrupt index\r\n");
    let sizes = "TAG BAD cannot fetch\r\n";
    let many: String = (11..=40).map(|uid| format!(" {uid}")).collect();
    let many = format!("* SEARCH{many}\r\nTAG OK done\r\n");
    for (examine, search_answer, reason) in [
        (no, search, "corrupt index"),
        (&none, search, "it sent no UIDVALIDITY"),
        (ok, no, "corrupt index"),
        (ok, &many, "cannot fetch"),
    ] {
        let dir = TempDir::new();
        let fetched = "* 1 FETCH (UID 3 FLAGS () INTERNALDATE \" 1-Jan-2024 10:00:00 +0000\" BODY[] {17}\r\nSubject: x\r\n\r\nx\r\n)\r\nTAG OK\r\n";
        let answers = [
            CAPABILITY,
            LOGIN,
            ("LIST", "* LIST () \"/\" \"Broken\"\r\n* LIST () \"/\" \"INBOX\"\r\nTAG OK done\r\n"),
            ("EXAMINE \"INBOX\"", ok),
            ("UID FETCH 3 (UID RFC822.SIZE)", SIZES.1),
            ("UID FETCH 3 (UID FLAGS", fetched),
            // Of the other folder.
            ("EXAMINE", examine),
            ("UID FETCH", sizes),
            ("LOGOUT", "* BYE\r\nTAG OK\r\n"),
        ];
        let (answers, search_answer) = (script(&answers), search_answer.to_owned());
        let is_broken = std::sync::atomic::AtomicBool::new(false);
        let port = serve(GREETING, move |command| {
            use std::sync::atomic::Ordering::Relaxed;
            if command.starts_with("EXAMINE") {
                is_broken.store(command.contains("Broken"), Relaxed);
            }
            if command.starts_with("UID SEARCH") {
                return Some(if is_broken.load(Relaxed) { search_answer.clone() } else { SEARCH.1.to_owned() });
            }
            answers.iter().find(|(start, _)| command.starts_with(start)).map(|(_, answer)| answer.clone())
        });
        let ran = run(port, &dir);
        let ran = ran.assert_retryable("\"Broken\"");
        assert!(ran.error().unwrap().contains(reason), "{:?}", ran.error());
        let skipped = serde_json::json!({"folder": "Broken", "reason": "refused"});
        assert_eq!(ran.event("extraction.folder_skipped").payload, skipped);
        assert_eq!(dir.read("ingester/mail/default.jsonl").lines().count(), 1, "the other folder was read");
        assert!(dir.read("ingester/imap/default.json").contains("\"last_uid\":3"));
    }
}

#[test]
fn a_folder_whose_line_cannot_be_parsed_is_named() {
    let dir = TempDir::new();
    let list = format!("* LIST (\\HasNoChildren) \"/\"\r\n{}", LIST.1);
    let answers = [
        CAPABILITY,
        LOGIN,
        ("LIST", &list),
        ("EXAMINE", "* 0 EXISTS\r\n* OK [UIDVALIDITY 7] ok\r\nTAG OK\r\n"),
        ("LOGOUT", "TAG OK\r\n"),
    ];
    let port = server(GREETING, script(&answers));
    let ran = run(port, &dir);
    let skipped = serde_json::json!({"folder": "* LIST (\\HasNoChildren) \"/\"", "reason": "unreadable"});
    assert_eq!(ran.assert_ok().event("extraction.folder_skipped").payload, skipped);
    let test = testing::job::<extract_gmail>().data(&dir).param("host", "127.0.0.1").param("port", port).param("tls", "plain");
    let test = test.param("user", "anna@gmail.com").secret("password", "kept-secret").param("folder", "Sent");
    test.run().assert_permanent("has no folder \"Sent\" (1 lines of its list could not be parsed)");
}

#[test]
fn invalid_responses() {
    let endless = "x".repeat(30 << 20);
    let unavailable = "TAG NO [UNAVAILABLE] Temporary authentication failure.\r\n";
    let lying = format!("* 1 FETCH (UID 3 FLAGS () BODY[] {{20000000}}\r\n{}", "x".repeat(20_000_000));
    type Case = (&'static str, &'static str, Vec<(&'static str, String)>, bool);
    let cases: Vec<Case> = vec![
        ("no IMAP", "HTTP/1.1 400 Bad Request\r\n", vec![], true),
        ("nothing but an empty line", "\r\n", vec![], true),
        ("turned away", "* BYE too many connections\r\n", vec![], false),
        ("no passwords", GREETING, script(&[("CAPABILITY", "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK\r\n")]), true),
        ("login later", GREETING, script(&[CAPABILITY, ("LOGIN", unavailable)]), false),
        ("steers the terminal", GREETING, script(&[CAPABILITY, ("LOGIN", "TAG NO \u{1b}[31mred\r\n")]), true),
        ("endless list", GREETING, script(&[CAPABILITY, LOGIN, ("LIST", &endless)]), false),
        ("no such mailbox any more", GREETING, script(&[CAPABILITY, LOGIN, LIST, ("EXAMINE", "TAG NO gone\r\n")]), false),
        ("no UIDVALIDITY", GREETING, script(&[CAPABILITY, LOGIN, LIST, ("EXAMINE", "* 1 EXISTS\r\nTAG OK\r\n")]), false),
        (
            "more than announced",
            GREETING,
            script(&[CAPABILITY, LOGIN, LIST, EXAMINE, SEARCH, SIZES, ("UID FETCH 3 (UID FLAGS", &lying)]),
            false,
        ),
        ("closes instead of a message", GREETING, script(&[CAPABILITY, LOGIN, LIST, EXAMINE, SEARCH, SIZES]), false),
    ];
    let mut messages = String::new();
    for (what, greeting, answers, is_permanent) in cases {
        let dir = TempDir::new();
        let port = server(greeting, answers);
        let ran = run(port, &dir);
        let ran = if is_permanent { ran.assert_permanent("127.0.0.1") } else { ran.assert_retryable("127.0.0.1") };
        let error = ran.error().unwrap().replace(&port.to_string(), "PORT");
        assert!(!error.contains('\n') && !error.contains('\u{1b}'), "{error:?}");
        messages.push_str(&format!("{what}: {error}\n"));
    }
    insta::assert_snapshot!(messages);
}

#[test]
fn missing_parameters_fail_before_connecting() {
    let dir = TempDir::new();
    let job = || testing::job::<extract_gmail>().data(&dir).param("host", "127.0.0.1").param("port", 1u16);
    job().run().assert_permanent("--user is missing");
    job().param("user", "anna").run().assert_permanent("--password is missing");
    job().param("user", "anna").param("auth", "xoauth2").run().assert_permanent("--token is missing");
    job()
        .param("user", "anna")
        .secret("password", "kept-secret")
        .secret("token", "kept-too")
        .run()
        .assert_permanent("with --auth");
    job().param("user", "anna").param("source", "/tmp").run().assert_permanent("remove one side");
    let ca_file = dir.write("none.pem", "no certificate");
    job()
        .param("user", "anna")
        .secret("password", "kept-secret")
        .param("ca_file", ca_file)
        .run()
        .assert_permanent("it contains no certificate");
}
