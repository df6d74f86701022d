//! `extract_slack` through the Web API, against a fake: fetches all pages and threads exactly once, whatever interrupts it; respects
//! Slack's limits; and reports each possible error in one line.

use lorchestra_tests::built;
use lorchestra_tests::dovecot::Dovecot;
use lorchestra_tests::ended::redacted;
use lorchestra_tests::slack::{Fault, Slack, TOKEN};
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually, processes, schema};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::process::Command;

const LINES: &str = "ingester/slack/default.jsonl";

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Ingester])
}

fn command(sandbox: &Sandbox, base_url: &str, more: &[&str]) -> Command {
    let mut args = vec!["run-job", "ingester", "extract_slack", "--base-url", base_url];
    if !more.contains(&"--token") {
        args.extend(["--token", "env:SLACK_TOKEN"]);
    }
    args.extend(more);
    let mut command = sandbox.command(&args);
    command.env("SLACK_TOKEN", TOKEN).env("WRONG", "xoxb-not-the-one");
    command
}

#[track_caller]
fn run(sandbox: &Sandbox, base_url: &str, more: &[&str]) -> Ended {
    Running::start(command(sandbox, base_url, more)).wait()
}

/// Runs the job successfully and returns its counts.
#[track_caller]
fn counts(sandbox: &Sandbox, slack: &Slack, more: &[&str]) -> Value {
    run(sandbox, &slack.base_url(), more).exits(0);
    let run = sandbox.runs().remove(0);
    let events = sandbox.whole_events_of(&run);
    let counts = events.iter().find(|event| event.event_type() == "extraction.completed").unwrap().payload().clone();
    let n = |key: &str| counts[key].as_u64().unwrap();
    let aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("written") + n("duplicates") + n("outside_window") + aside, "{counts}");
    counts
}

fn lines(sandbox: &Sandbox) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.data().join(LINES)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Texts of a channel's lines, ordered by time.
fn texts(sandbox: &Sandbox, channel: &str) -> Vec<String> {
    let mut lines: Vec<Value> = lines(sandbox).into_iter().filter(|line| line["channel"]["name"] == channel).collect();
    lines.sort_by_key(|line| line["ts"].as_str().unwrap().to_owned());
    lines.iter().map(|line| line["message"]["text"].as_str().unwrap().to_owned()).collect()
}

/// The n-th hour of 2024.
fn ts(n: usize) -> String {
    format!("{}.000100", 1_704_067_200 + n * 3600)
}

/// A workspace with two channels; the first has this many messages, and every tenth of them has three replies.
fn workspace(count: usize) -> Slack {
    let slack = Slack::start();
    {
        let mut state = slack.state();
        state.page = 7;
        state.channel("C1", "general");
        state.channel("C2", "work");
        for n in 0..count {
            state.say("C1", &ts(n), None, &format!("number {n}"));
            for answer in (1..4).filter(|_| n.is_multiple_of(10)) {
                let at = format!("{}.00020{answer}", ts(n).split_once('.').unwrap().0);
                state.say("C1", &at, Some(&ts(n)), &format!("number {n} answer {answer}"));
            }
        }
        state.say("C2", &ts(3), None, "elsewhere");
    }
    slack
}

fn all(count: usize) -> Vec<String> {
    let answers =
        |n: usize| (1..4).filter(move |_| n.is_multiple_of(10)).map(move |answer| format!("number {n} answer {answer}"));
    (0..count).flat_map(|n| std::iter::once(format!("number {n}")).chain(answers(n))).collect()
}

/// The disk becomes full during a run: the message reports it, the file has only whole lines, and the next run adds the rest once.
#[test]
fn a_full_disk_is_reported_and_the_next_run_completes() {
    let slack = Slack::start();
    {
        let mut state = slack.state();
        state.page = 20;
        state.channel("C1", "general");
        for n in 0..400 {
            state.say("C1", &ts(n), None, &format!("number {n} {}", "x".repeat(1000)));
        }
    }
    let sandbox = Sandbox::with_binary(&[Fixture::Ingester]);
    let data = sandbox.data();
    let Some(disks) = SmallDisks::mount(&sandbox, &[(data.clone(), 300)]) else { return };
    let start = || {
        let plain = command(&sandbox, &slack.base_url(), &[]);
        let args: Vec<String> = plain.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let mut command = disks.command(&sandbox, &args.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("SLACK_TOKEN", TOKEN);
        Running::start(command).wait()
    };
    let file = disks.path(&data).join(LINES);
    let numbers = || -> Vec<String> {
        let text = fs::read_to_string(&file).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut numbers: Vec<String> =
            whole.map(|line| line["message"]["text"].as_str().unwrap().split(' ').nth(1).unwrap().to_owned()).collect();
        numbers.sort();
        numbers
    };
    let ended = start().exits(1);
    assert!(ended.err().contains("slack/default.jsonl") && ended.err().contains("No space left"), "{}", ended.shown());
    let had = numbers().len();
    assert!(0 < had && had < 400, "{had}");
    disks.remount(&data, "size=8m");
    start().exits(0);
    let mut expected: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    expected.sort();
    assert_eq!(numbers(), expected, "all of them, without duplicates");
}

#[test]
fn all_pages_and_threads_and_then_new_messages() {
    let slack = workspace(45);
    let sandbox = sandbox();
    let first = counts(&sandbox, &slack, &[]);
    assert_eq!((&first["read"], &first["written"]), (&json!(61), &json!(61)), "{first}");
    assert_eq!(texts(&sandbox, "general"), all(45));
    let line = &lines(&sandbox)[0];
    assert_eq!((&line["user"], &line["account"]), (&json!({"id": "U1", "name": "Anna"}), &json!("default")));
    assert!(slack.calls("conversations.history").iter().any(|params| params.contains_key("cursor")), "there were pages");
    assert!(slack.calls("conversations.list").iter().all(|params| params["types"] == "public_channel,private_channel"));

    slack.forget();
    let second = counts(&sandbox, &slack, &["--look-back", "0s"]);
    assert_eq!(second["written"], 0, "{second}");
    assert_eq!(slack.calls("conversations.history").len(), 2, "one request for each channel");
    assert!(slack.calls("conversations.replies").is_empty());

    // A new message, an edit, a reply to a known message, and one to a message that is too old to be read again.
    {
        let mut state = slack.state();
        state.say("C1", &ts(46), None, "new");
        state.say("C1", &ts(47), Some(&ts(40)), "a late answer");
        state.say("C1", &ts(48), Some(&ts(0)), "too late");
        let message = state.messages.get_mut("C1").unwrap().iter_mut().find(|message| message["ts"] == ts(44)).unwrap();
        message["text"] = "number 44, changed".into();
        message["edited"] = json!({"user": "U1", "ts": ts(46)});
    }
    let third = counts(&sandbox, &slack, &["--look-back", "1d"]);
    assert_eq!(third["written"], 3, "{third}");
    let found = texts(&sandbox, "general");
    assert!(found.contains(&"new".into()) && found.contains(&"a late answer".into()) && !found.contains(&"too late".into()));
    assert!(found.contains(&"number 44".into()) && found.contains(&"number 44, changed".into()), "both are kept");
}

/// `canonizer` reads the results of both sources.
#[test]
fn an_export_and_the_web_api_pass_both_jobs() {
    let slack = workspace(5);
    let sandbox = Sandbox::with(&[Fixture::Ingester, Fixture::Canonizer]);
    let export = built::workspace().join("example-plugins/ingester/sample/slack-export.zip").display().to_string();
    sandbox.lorchestra(&["run-job", "ingester", "extract_slack", "--source", &export, "--account", "export"]).exits(0);
    counts(&sandbox, &slack, &["--account", "web"]);
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_message"]).exits(0);
    let events = sandbox.events_of(sandbox.runs()[0].id());
    let completed = events.iter().find(|event| event.event_type() == "canonicalization.completed").unwrap().payload();
    assert_eq!((&completed["read"], &completed["set_aside"]), (&json!(8 + 9), &json!({})), "{completed}");
    let results = sandbox.data().join("canonizer");
    let checked = schema::check_lines(&results.join("message.jsonl"), &results.join("message.schema.json"));
    assert_eq!(completed["written"], checked);
}

#[test]
fn a_run_killed_halfway_is_completed_by_the_next() {
    let slack = workspace(45);
    let sandbox = sandbox();
    slack.state().faults.push(("conversations.history", 4, 1, Fault::Silent));
    let mut running = Running::start(command(&sandbox, &slack.base_url(), &[]));
    eventually("the fifth page is requested", || slack.calls("conversations.history").len() == 5);
    let workers = running.children();
    running.signal(Signal::STOP);
    processes::signal(workers[0], Signal::KILL);
    running.signal(Signal::KILL);
    eventually("it is dead", || running.has_ended());
    let had = lines(&sandbox).len();
    assert!((28..61).contains(&had), "half of it is there: {had}");

    slack.forget();
    let again = counts(&sandbox, &slack, &[]);
    assert_eq!(again["written"].as_u64().unwrap() as usize + had, 61, "{again}");
    assert_eq!(texts(&sandbox, "general"), all(45));
    let keys: HashSet<String> = lines(&sandbox).iter().map(|line| line["sha256"].to_string()).collect();
    assert_eq!(keys.len(), 61, "nothing twice");
    let first = &slack.calls("conversations.history")[0];
    assert_eq!(first["latest"], ts(17), "it continued after the pages on disk");
}

#[test]
fn delays_requested_by_slack_are_respected() {
    let slack = workspace(5);
    let sandbox = sandbox();
    slack.state().faults.push(("conversations.history", 0, 2, Fault::Limited(1)));
    slack.state().faults.push(("conversations.replies", 0, 1, Fault::Limited(0)));
    let counted = counts(&sandbox, &slack, &[]);
    assert_eq!((&counted["written"], slack.calls("conversations.history").len()), (&json!(9), 4), "{counted}");
}

#[test]
fn a_waiting_run_can_be_stopped() {
    for fault in [Fault::Limited(600), Fault::Silent] {
        let slack = workspace(30);
        let sandbox = sandbox();
        slack.state().faults.push(("conversations.history", 2, 1, fault.clone()));
        let running = Running::start(command(&sandbox, &slack.base_url(), &[]));
        eventually("it waits", || slack.calls("conversations.history").len() == 3);
        running.signal(Signal::TERM);
        let ended = running.wait();
        let run = sandbox.run();
        assert_eq!(run.cause(), "cancelled", "{}", ended.shown());
        let events = sandbox.whole_events_of(&run);
        let failed = events.iter().find(|event| event.event_type() == "job.failed").unwrap();
        assert!(failed.payload()["job_result"].to_string().contains("cancelled after"), "{fault:?}: {:?}", failed.payload());
        counts(&sandbox, &slack, &[]);
        assert_eq!(texts(&sandbox, "general"), all(30));
    }
}

#[test]
fn channels_without_the_app_are_reported_and_the_rest_is_read() {
    let slack = workspace(5);
    let sandbox = sandbox();
    slack.state().channels.push(json!({"id": "C3", "name": "foreign", "is_member": false}));
    slack.state().faults.push(("conversations.history", 1, 1, Fault::Answer(json!({"ok": false, "error": "not_in_channel"}))));
    let counted = counts(&sandbox, &slack, &[]);
    assert_eq!((&counted["written"], &counted["channels_skipped"]), (&json!(8), &json!({"not_in_channel": 2})), "{counted}");
    let events = sandbox.events_of(sandbox.run().id());
    let named: Vec<_> = events.iter().filter(|e| e.event_type() == "extraction.channel_skipped").map(|e| e.payload()).collect();
    assert_eq!(named[0]["channel_id"], "C3");
    assert_eq!(named[1]["channel_id"], "C2");
}

#[test]
fn window_and_channel_are_passed_to_slack() {
    let slack = workspace(45);
    let sandbox = sandbox();
    let window = ["--since", "2024-01-01T10:00:00Z", "--until", "2024-01-01T20:00:00Z", "--channel", "#general"];
    let counted = counts(&sandbox, &slack, &window);
    assert_eq!(counted["written"], 13, "{counted}");
    assert!(slack.calls("conversations.history").iter().all(|params| params["channel"] == "C1"));
    let wider = counts(&sandbox, &slack, &[]);
    assert_eq!(wider["written"], 61 - 13, "messages outside the earlier window are read now: {wider}");
    assert_eq!(texts(&sandbox, "general"), all(45));
}

#[test]
fn each_error_is_reported_in_one_line() {
    let refused =
        |error: &str| Fault::Answer(json!({"ok": false, "error": error, "needed": "channels:history", "provided": "x"}));
    type At = Option<(&'static str, Fault)>;
    let cases: [(&str, At, &[&str]); 13] = [
        ("no token", None, &["--token", ""]),
        ("wrong token", None, &["--token", "env:WRONG"]),
        ("revoked while it is used", Some(("conversations.history", refused("token_revoked"))), &[]),
        ("scope missing", Some(("conversations.history", refused("missing_scope"))), &[]),
        (
            "not in a channel that was asked for",
            Some(("conversations.history", refused("not_in_channel"))),
            &["--channel", "work"],
        ),
        ("no such channel", None, &["--channel", "nowhere"]),
        ("truncated", Some(("conversations.history", Fault::Truncated)), &[]),
        ("not Slack's", Some(("conversations.list", Fault::Answer(json!({"ok": true, "channels": "none"})))), &[]),
        ("down for the day", Some(("auth.test", Fault::Status(503))), &[]),
        ("a wait that is too long", Some(("conversations.history", Fault::Limited(86_400))), &[]),
        ("an error nobody knows", Some(("conversations.history", refused("fatal_error"))), &[]),
        ("silent", Some(("conversations.history", Fault::Silent)), &["--idle-timeout", "1s"]),
        ("a thread that breaks off", Some(("conversations.replies", Fault::Truncated)), &[]),
    ];
    let mut output = String::new();
    let mut tell = |what: &str, sandbox: &Sandbox, port: u16, ended: &Ended| {
        let text = redacted(ended.err(), sandbox).replace(&format!(":{port}"), ":[PORT]");
        let text = match text.split_once(": failed to lookup") {
            Some((before, rest)) => format!("{before}: [LOOK-UP]\n{}", rest.split_once('\n').unwrap().1),
            None => text,
        };
        output.push_str(&format!("# {what}\n{text}\n"));
        let text = fs::read_to_string(sandbox.data().join(LINES)).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "{what}: half a line");
    };
    for (what, fault, more) in cases {
        let slack = workspace(12);
        let sandbox = sandbox();
        slack.state().faults.extend(fault.map(|(method, fault)| (method, 0, 1, fault)));
        let ended = if more == ["--token", ""] {
            sandbox.lorchestra(&["run-job", "ingester", "extract_slack", "--base-url", &slack.base_url()])
        } else {
            run(&sandbox, &slack.base_url(), more)
        };
        tell(what, &sandbox, slack.port(), &ended.exits(1));
    }
    for (method, list) in
        [("users.list", "members"), ("conversations.history", "messages"), ("conversations.replies", "messages")]
    {
        let slack = workspace(12);
        let sandbox = sandbox();
        let again = json!({"ok": true, list: [], "has_more": true, "response_metadata": {"next_cursor": "again"}});
        slack.state().faults.push((method, 0, 1000, Fault::Answer(again)));
        tell(&format!("{method} without an end"), &sandbox, slack.port(), &run(&sandbox, &slack.base_url(), &[]).exits(1));
    }
    let slack = workspace(1);
    // A server with TLS.
    let other = Dovecot::start();
    for (what, base_url) in [
        ("nobody there", "http://127.0.0.1:1/api".to_owned()),
        ("no such host", "https://no-such-host.invalid/api".to_owned()),
        ("closed at once", format!("https://127.0.0.1:{}/api", slack.port())),
        ("not TLS", format!("https://localhost:{}/api", other.plain_port())),
        ("certificate not trusted", format!("https://localhost:{}/api", other.tls_port())),
        ("in the clear to another machine", "http://192.0.2.1/api".to_owned()),
        ("no address", "slack".to_owned()),
    ] {
        let sandbox = sandbox();
        let ended = run(&sandbox, &base_url, &[]).exits(1);
        let port =
            [slack.port(), other.plain_port(), other.tls_port()].into_iter().find(|port| base_url.contains(&port.to_string()));
        tell(what, &sandbox, port.unwrap_or(slack.port()), &ended);
    }
    insta::assert_snapshot!(output);
}
