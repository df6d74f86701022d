//! `extract_gmail` over IMAP, with a real Dovecot: extracts everything exactly once, whatever interrupts it; and reports each possible
//! error in one line.

use lorchestra_tests::dovecot::{Dovecot, PASSWORD, TOKEN, USER};
use lorchestra_tests::ended::redacted;
use lorchestra_tests::flaky_proxy::{Gate, Then};
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::Command;

const MAIL: &str = "ingester/mail/default.jsonl";
/// Its name has an umlaut, which is sent in modified UTF-7.
const DRAFTS: &str = "Entw&APw-rfe";

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Ingester])
}

/// The job on a local port, without TLS, with a password and these additional arguments.
fn command(sandbox: &Sandbox, port: u16, more: &[&str]) -> Command {
    let port = port.to_string();
    let mut args = vec!["run-job", "ingester", "extract_gmail", "--port", &port, "--user", USER];
    if !more.contains(&"--host") {
        args.extend(["--host", "localhost"]);
    }
    if !more.contains(&"--tls") {
        args.extend(["--tls", "plain"]);
    }
    if !more.iter().any(|arg| ["--token", "--password"].contains(arg)) {
        args.extend(["--password", "env:MAIL_PASSWORD"]);
    }
    args.extend(more);
    let mut command = sandbox.command(&args);
    command.env("MAIL_PASSWORD", PASSWORD).env("MAIL_TOKEN", TOKEN).env("WRONG", "not-the-one");
    command
}

#[track_caller]
fn run(sandbox: &Sandbox, port: u16, more: &[&str]) -> Ended {
    Running::start(command(sandbox, port, more)).wait()
}

/// Runs the job successfully and returns its counts.
#[track_caller]
fn counts(sandbox: &Sandbox, port: u16, more: &[&str]) -> Value {
    run(sandbox, port, more).exits(0);
    let run = sandbox.runs().remove(0);
    let events = sandbox.whole_events_of(&run);
    let completed: Vec<_> = events.iter().filter(|event| event.event_type() == "extraction.completed").collect();
    assert_eq!(completed.len(), 1);
    let counts = completed[0].payload().clone();
    let n = |key: &str| counts[key].as_u64().unwrap();
    let aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("written") + n("duplicates") + n("outside_window") + aside, "{counts}");
    counts
}

fn lines(sandbox: &Sandbox) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.data().join(MAIL)).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(line: &Value) -> Vec<u8> {
    use base64::Engine as _;
    match line["raw"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => base64::engine::general_purpose::STANDARD.decode(line["raw_base64"].as_str().unwrap()).unwrap(),
    }
}

fn message(n: usize, body: &[u8]) -> Vec<u8> {
    let day = n % 28 + 1;
    let head = format!(
        "From: Berta <berta@example.org>\r\nTo: anna@example.org\r\nSubject: number {n}\r\nDate: {day} Jan 2024 10:00:00 +0000\r\n\
         Message-ID: <{n}@example.org>\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    );
    [head.as_bytes(), body, b"\r\n"].concat()
}

/// A mailbox with this many messages, by number: folders, flags, 8-bit bodies, one of 30 MB.
fn fill(server: &Dovecot, count: usize) -> BTreeMap<usize, Vec<u8>> {
    let mut messages = BTreeMap::new();
    for n in 0..count {
        let body: Vec<u8> = match n {
            // Lines as in real mail; nothing in it is UTF-8.
            250 => {
                b"\xe4\xf6\xfc 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0\r\n".repeat((31 << 20) / 76)
            }
            n if n % 3 == 0 => format!("Grüße, число, 数 {n}").into_bytes(),
            n if n % 3 == 1 => [b"latin-1: \xe4\xf6\xfc \xff ".as_slice(), n.to_string().as_bytes()].concat(),
            n => "a line\r\n.\r\n) OK\r\na1 OK not the end {5}\r\n".repeat(n % 7 + 1).into_bytes(),
        };
        let message = message(n, &body);
        let folder = ["INBOX", "Sent", DRAFTS, "Work/2024"][n % 4];
        server.deliver(folder, n, ["", "S", "FS", "RS", "T"][n % 5], &message);
        messages.insert(n, message);
    }
    server.hand_over();
    messages
}

/// Checks that the archive has each of these messages once, byte for byte, with its folder and flags.
#[track_caller]
fn has_all(sandbox: &Sandbox, messages: &BTreeMap<usize, Vec<u8>>) {
    let lines = lines(sandbox);
    let keys: HashSet<&str> = lines.iter().map(|line| line["sha256"].as_str().unwrap()).collect();
    assert_eq!((lines.len(), keys.len()), (messages.len(), messages.len()), "no duplicates, no gaps");
    for line in &lines {
        let n: usize = line["message_id"].as_str().unwrap().split('@').next().unwrap().parse().unwrap();
        assert!(bytes(line) == messages[&n], "message {n} is not byte for byte what is on the server");
        assert_eq!(line["labels"][0], ["INBOX", "Sent", "Entwürfe", "Work/2024"][n % 4]);
        assert_eq!(line["labels"].as_array().map(Vec::len), Some(1));
        assert_eq!(line["flags"], ["", "S", "FS", "RS", "T"][n % 5]);
        assert!(line["received"].is_string() && line["date"].is_string());
    }
}

#[test]
fn five_hundred_messages_and_the_second_run_fetches_nothing() {
    let server = Dovecot::start();
    let sandbox = sandbox();
    let messages = fill(&server, 500);
    server.deliver("Trash", 900, "S", &message(900, b"thrown away"));
    server.hand_over();
    let first = counts(&sandbox, server.plain_port(), &[]);
    assert_eq!((&first["read"], &first["written"]), (&json!(500), &json!(500)), "all but the trash: {first}");
    has_all(&sandbox, &messages);
    let archive = fs::read(sandbox.data().join(MAIL)).unwrap();
    eventually("the end of the first session", || server.sessions().0 == 1);
    assert!(server.sessions().1 > 30_000_000, "the server counts the bytes that it sends: {}", server.log());

    let second = counts(&sandbox, server.plain_port(), &[]);
    assert_eq!(second["read"], 0, "{second}");
    eventually("the end of the second session", || server.sessions().0 == 2);
    assert_eq!(server.sessions().1, 0, "not a byte of a message: {}", server.log());
    assert_eq!(fs::read(sandbox.data().join(MAIL)).unwrap(), archive);
    assert!(server.folder("INBOX").join("cur").join("1704103200.M0P1.example:2,").exists(), "unread messages stay unread");

    server.deliver("INBOX", 1000, "", &message(1000, b"new"));
    server.hand_over();
    let third = counts(&sandbox, server.plain_port(), &[]);
    assert_eq!((&third["read"], &third["written"]), (&json!(1), &json!(1)), "only new messages: {third}");
}

#[test]
fn a_run_killed_halfway_is_completed_by_the_next() {
    let server = Dovecot::start();
    let sandbox = sandbox();
    let messages = fill(&server, 500);
    // In the middle of the large message, and in the middle of small ones.
    for (round, open) in [20 << 20, 80_000].into_iter().enumerate() {
        let gate = Gate::to(server.plain_port(), open, Then::Silence);
        let mut running = Running::start(command(&sandbox, gate.port(), &["--account", &format!("round{round}")]));
        eventually("these bytes have arrived", || gate.is_shut());
        let workers = running.children();
        assert_eq!(workers.len(), 1);
        // The supervisor first, or it would report its worker's death.
        running.signal(Signal::STOP);
        processes::signal(workers[0], Signal::KILL);
        running.signal(Signal::KILL);
        eventually("it is dead", || running.has_ended());
        let account = sandbox.data().join(format!("ingester/mail/round{round}.jsonl"));
        let half = fs::read(&account).unwrap();
        let had = half.split(|&b| b == b'\n').count() - 1;
        assert!(had < 500, "it was halfway: {had}");

        gate.open();
        let again = counts(&sandbox, gate.port(), &["--account", &format!("round{round}")]);
        let (written, read) = (again["written"].as_u64().unwrap(), again["read"].as_u64().unwrap());
        assert_eq!(written as usize + had, 500, "{again}");
        assert!(round > 0 || read < 500, "it continued at the bookmarks: {again}");
        fs::rename(&account, sandbox.data().join(MAIL)).unwrap();
        has_all(&sandbox, &messages);
    }
}

#[test]
fn a_folder_that_was_created_again_is_read_again_and_reported() {
    let server = Dovecot::start();
    let sandbox = sandbox();
    let messages = fill(&server, 40);
    counts(&sandbox, server.plain_port(), &[]);
    let inbox = server.folder("INBOX");
    let list = fs::read_to_string(inbox.join("dovecot-uidlist")).unwrap();
    let (head, rest) = list.split_once('\n').unwrap();
    let head: Vec<String> =
        head.split(' ').map(|word| if word.starts_with('V') { "V12345".to_owned() } else { word.to_owned() }).collect();
    fs::write(inbox.join("dovecot-uidlist"), format!("{}\n{rest}", head.join(" "))).unwrap();
    for entry in fs::read_dir(&inbox).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("dovecot.index") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    server.hand_over();
    let again = counts(&sandbox, server.plain_port(), &[]);
    assert_eq!((&again["read"], &again["written"], &again["duplicates"]), (&json!(10), &json!(0), &json!(10)), "{again}");
    let events = sandbox.events_of(sandbox.runs()[0].id());
    let restarted: Vec<_> =
        events.iter().filter(|event| event.event_type() == "extraction.restarted").map(|e| e.payload()).collect();
    assert_eq!(restarted, [&json!({"folder": "INBOX", "reason": "uidvalidity_changed"})]);
    has_all(&sandbox, &messages);

    fs::remove_file(sandbox.data().join(MAIL)).unwrap();
    let anew = counts(&sandbox, server.plain_port(), &[]);
    assert_eq!(anew["written"], 40, "a missing archive is rebuilt, regardless of the bookmarks: {anew}");
    has_all(&sandbox, &messages);
}

#[test]
fn a_window_leaves_mail_to_later_runs() {
    let server = Dovecot::start();
    let sandbox = sandbox();
    for n in 0..28 {
        server.deliver("INBOX", n, "", &message(n, b"x"));
    }
    server.deliver("INBOX", 28, "", b"Subject: no date\r\n\r\nx\r\n");
    server.hand_over();
    let port = server.plain_port();
    let first = counts(&sandbox, port, &["--since", "2024-01-10", "--until", "2024-01-20"]);
    // The one without a date arrived at the server on the first of January.
    assert_eq!((&first["written"], &first["outside_window"], &first["set_aside"]), (&json!(10), &json!(19), &json!({})));
    let again = counts(&sandbox, port, &["--since", "2024-01-10", "--until", "2024-01-20"]);
    assert_eq!(again["read"], 0, "{again}");
    let wider = counts(&sandbox, port, &["--since", "2024-01-15", "--until", "2024-01-25"]);
    // The dates of all remaining messages at that end of the folder are checked again, and only matching ones are fetched.
    let looked_at = (&wider["read"], &wider["written"], &wider["outside_window"]);
    assert_eq!(looked_at, (&json!(10), &json!(5), &json!(5)), "only the remaining messages: {wider}");
    let all = counts(&sandbox, port, &[]);
    assert_eq!((&all["read"], &all["written"]), (&json!(14), &json!(14)), "{all}");
    assert_eq!(lines(&sandbox).len(), 29);
}

#[test]
fn every_login_method() {
    let server = Dovecot::start();
    let ca = server.ca_file();
    server.deliver("INBOX", 1, "", &message(1, b"x"));
    server.hand_over();
    let (tls, plain) = (server.tls_port(), server.plain_port());
    for (port, more) in [
        (tls, ["--tls", "tls", "--ca-file", &ca, "--password", "env:MAIL_PASSWORD"]),
        (tls, ["--tls", "tls", "--ca-file", &ca, "--token", "env:MAIL_TOKEN"]),
        (plain, ["--tls", "starttls", "--ca-file", &ca, "--password", "env:MAIL_PASSWORD"]),
        (plain, ["--tls", "starttls", "--ca-file", &ca, "--token", "env:MAIL_TOKEN"]),
    ] {
        let sandbox = sandbox();
        assert_eq!(counts(&sandbox, port, &more)["written"], 1, "{more:?}");
    }
}

#[test]
fn each_error_is_reported_in_one_line() {
    let server = Dovecot::start();
    fill(&server, 10);
    let (tls, plain, ca) = (server.tls_port(), server.plain_port(), server.ca_file());
    let half = Gate::to(plain, 1500, Then::End);
    let silent = Gate::to(plain, 0, Then::Silence);
    let stalled = Gate::to(plain, 1500, Then::Silence);
    let nobody = Gate::to(1, 0, Then::End).port();
    let cases: [(&str, u16, &[&str]); 14] = [
        ("wrong password", plain, &["--password", "env:WRONG"]),
        ("wrong token", plain, &["--token", "env:WRONG"]),
        ("password in the clear to another machine", plain, &["--host", "192.0.2.1"]),
        ("nobody there", 1, &[]),
        ("no such host", plain, &["--host", "no-such-host.invalid"]),
        ("closed at once", nobody, &[]),
        ("certificate not trusted", tls, &["--tls", "tls"]),
        ("certificate of another name", tls, &["--tls", "tls", "--ca-file", &ca, "--host", "127.0.0.1"]),
        ("not TLS", plain, &["--tls", "tls", "--ca-file", &ca]),
        ("TLS where plain text is expected", tls, &["--idle-timeout", "1s"]),
        ("no such folder", plain, &["--folder", "inbox", "--folder", "2024"]),
        ("closed half way", half.port(), &[]),
        ("silent from the start", silent.port(), &["--idle-timeout", "1s"]),
        ("silent half way", stalled.port(), &["--idle-timeout", "1s"]),
    ];
    let mut output = String::new();
    for (what, port, more) in cases {
        let sandbox = sandbox();
        let ended = run(&sandbox, port, more).exits(1);
        let mut text = redacted(ended.err(), &sandbox);
        // The system's message depends on its network.
        if let Some((before, rest)) = text.split_once(": failed to lookup") {
            text = format!("{before}: [LOOK-UP]\n{}", rest.split_once('\n').unwrap().1);
        }
        for (name, value) in [("TLS", tls), ("PLAIN", plain), ("PORT", port)] {
            text = text.replace(&format!(":{value}:"), &format!(":[{name}]:"));
        }
        output.push_str(&format!("# {what}\n{text}\n"));
        let text = fs::read_to_string(sandbox.data().join(MAIL)).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "{what}: half a line");
    }
    insta::assert_snapshot!(output);
}

#[test]
fn a_wrong_password_is_permanent_and_a_server_that_is_down_is_not() {
    let server = Dovecot::start();
    let sandbox = sandbox();
    for (port, more, permanent) in
        [(server.plain_port(), ["--password", "env:WRONG"].as_slice(), true), (1, [].as_slice(), false)]
    {
        run(&sandbox, port, more).exits(1);
        let events = sandbox.events_of(sandbox.runs()[0].id());
        let failed = events.iter().find(|event| event.event_type() == "job.failed").unwrap();
        assert_eq!(failed.payload()["permanent"].as_bool().unwrap_or(false), permanent, "{:?}", failed.payload());
    }
}

#[test]
fn a_run_that_waits_for_the_server_can_be_stopped() {
    let server = Dovecot::start();
    let sandbox = sandbox();
    let messages = fill(&server, 300);
    let gate = Gate::to(server.plain_port(), 60_000, Then::Silence);
    let running = Running::start(command(&sandbox, gate.port(), &[]));
    eventually("these bytes have arrived", || gate.is_shut());
    running.signal(Signal::TERM);
    let ended = running.wait();
    assert_ne!(ended.code(), Some(0));
    let run = sandbox.run();
    assert_eq!(run.cause(), "cancelled", "{}", ended.shown());
    let events = sandbox.whole_events_of(&run);
    let failed = events.iter().find(|event| event.event_type() == "job.failed").unwrap();
    assert!(failed.payload()["job_result"].to_string().contains("cancelled after"), "not killed: {:?}", failed.payload());
    let had = lines(&sandbox).len();
    gate.open();
    let again = counts(&sandbox, gate.port(), &[]);
    assert_eq!(again["read"].as_u64().unwrap() as usize + had, 300, "it continues where it stopped: {again}");
    has_all(&sandbox, &messages);
}

#[test]
fn a_full_disk_is_reported_and_the_next_run_completes() {
    let server = Dovecot::start();
    let sandbox = Sandbox::with_binary(&[Fixture::Ingester]);
    let mut messages = BTreeMap::new();
    for n in 0..40 {
        let message = message(n, &format!("{n} {}", "x".repeat(900)).repeat(20).into_bytes());
        server.deliver(["INBOX", "Sent", DRAFTS, "Work/2024"][n % 4], n, ["", "S", "FS", "RS", "T"][n % 5], &message);
        messages.insert(n, message);
    }
    server.hand_over();
    let data = sandbox.data();
    let Some(disks) = SmallDisks::mount(&sandbox, &[(data.clone(), 300)]) else { return };
    let start = || {
        let plain = command(&sandbox, server.plain_port(), &[]);
        let args: Vec<String> = plain.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let mut command = disks.command(&sandbox, &args.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("MAIL_PASSWORD", PASSWORD);
        Running::start(command).wait()
    };
    let ended = start().exits(1);
    assert!(ended.err().contains("mail/default.jsonl") && ended.err().contains("No space left"), "{}", ended.shown());
    disks.remount(&data, "size=8m");
    start().exits(0);
    let text = fs::read_to_string(disks.path(&data).join(MAIL)).unwrap();
    let path = sandbox.path("copy");
    fs::write(&path, &text).unwrap();
    assert_eq!(text.lines().count(), 40);
    let keys: HashSet<&str> = text.lines().map(|line| &line[..80]).collect();
    assert_eq!(keys.len(), 40, "nothing twice");
}
