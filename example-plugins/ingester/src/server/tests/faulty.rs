//! Mailboxes with messages that the server does not send, as happens with Gmail. Only those messages are set aside, and the next
//! run retries them once.

use super::*;
use std::sync::{Arc, Mutex};

/// How the server treats a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Well,
    /// `NO` to every request that includes it.
    Refused,
    /// `NO` to every request, including its size.
    RefusedAlways,
    /// `BAD` to every request that includes it.
    Bad,
    /// No response for its size that can be parsed.
    MalformedSize,
    /// No response with its text that can be parsed.
    Malformed,
    /// Found by the search, but no response for its size.
    Unanswered,
    /// All responses but the size.
    WithoutSize,
    /// Sent once, and refused from then on, as by a server with a daily limit.
    Once,
    /// `BODY[] NIL`.
    Nil,
    /// `BODY[] {0}`.
    Empty,
    /// Not found by the search, but counted when the folder was opened.
    Expunged,
}

/// Messages by UID. A test can change them between two runs.
type Mailbox = Arc<Mutex<Vec<(u32, Kept)>>>;

const NO: &str = "TAG NO Some messages could not be FETCHed (Failure)\r\n";

fn body(uid: u32) -> String {
    let date = if uid == 77 { String::new() } else { "Date: Mon, 1 Jan 2024 10:00:00 +0000\r\n".into() };
    format!("Subject: {uid}\r\n{date}\r\nx\r\n")
}

fn uids(set: &str) -> Vec<u32> {
    let bound = |text: &str| if text == "*" { u32::MAX } else { text.parse().unwrap() };
    let ranges = set.split(',').map(|part| part.split_once(':').unwrap_or((part, part)));
    ranges.flat_map(|(first, last)| bound(first)..=bound(last).min(1000)).collect()
}

fn answer(mailbox: &[(u32, Kept)], command: &str) -> Option<String> {
    let with = |set: &str| {
        let set = uids(set);
        mailbox.iter().copied().filter(move |(uid, _)| set.contains(uid))
    };
    if let Some(set) = command.strip_prefix("UID SEARCH UID ") {
        let is_first = set.ends_with('*');
        let found: String =
            with(set).filter(|(_, kept)| is_first || *kept != Kept::Expunged).map(|(uid, _)| format!(" {uid}")).collect();
        return Some(format!("* SEARCH{found}\r\nTAG OK done\r\n"));
    }
    if let Some((set, items)) = command.strip_prefix("UID FETCH ").and_then(|rest| rest.split_once(' ')) {
        let last = mailbox.last().map(|(uid, _)| uid.to_string()).unwrap_or_default();
        let set = if set == "*" { &last } else { set };
        let is_survey = items.contains("RFC822.SIZE");
        let mut text = String::new();
        for (uid, kept) in with(set) {
            let body = body(uid);
            match (kept, is_survey) {
                (Kept::RefusedAlways, _) | (Kept::Refused, false) => return Some(text + NO),
                (Kept::Bad, false) => return Some(text + "TAG BAD Error in IMAP command FETCH: invalid message\r\n"),
                (Kept::MalformedSize, true) => text += "* 1 FETCH (UID \"x RFC822.SIZE 20)\r\n",
                (Kept::Malformed, false) => text += &format!("* 1 FETCH (UID x{uid} BODY[] {{{}}}\r\n{body})\r\n", body.len()),
                (Kept::Unanswered | Kept::Expunged, _) => {}
                (_, true) => {
                    let size = if kept == Kept::WithoutSize { String::new() } else { format!(" RFC822.SIZE {}", body.len()) };
                    let date = body.lines().find(|line| line.starts_with("Date")).map(|line| format!("{line}\r\n"));
                    let date = date.unwrap_or_default() + "\r\n";
                    text += &format!("* 1 FETCH (UID {uid}{size}");
                    if items.contains("INTERNALDATE") {
                        text += " INTERNALDATE \" 1-Jan-2024 10:00:00 +0000\"";
                    }
                    if items.contains("HEADER.FIELDS") {
                        text += &format!(" BODY[HEADER.FIELDS (DATE)] {{{}}}\r\n{date}", date.len());
                    }
                    text += ")\r\n";
                }
                (_, false) => {
                    let said = match kept {
                        Kept::Nil => "NIL".to_owned(),
                        Kept::Empty => "{0}\r\n".to_owned(),
                        _ => format!("{{{}}}\r\n{body}", body.len()),
                    };
                    text += &format!(
                        "* 1 FETCH (UID {uid} FLAGS () X-GM-LABELS () INTERNALDATE \" 1-Jan-2024 10:00:00 +0000\" BODY[] {said})\r\n"
                    );
                }
            }
        }
        return Some(text + "TAG OK done\r\n");
    }
    let exists = mailbox.len();
    let next = mailbox.iter().map(|(uid, _)| uid + 1).max().unwrap_or(1);
    let examined = format!("* {exists} EXISTS\r\n* OK [UIDVALIDITY 7] ok\r\n* OK [UIDNEXT {next}] ok\r\nTAG OK done\r\n");
    let answers = [CAPABILITY, LOGIN, LIST, ("EXAMINE", &examined), ("LOGOUT", "* BYE\r\nTAG OK\r\n")];
    answers.iter().find(|(start, _)| command.starts_with(start)).map(|(_, answer)| (*answer).to_owned())
}

fn start(messages: impl IntoIterator<Item = (u32, Kept)>) -> (u16, Mailbox) {
    let mailbox: Mailbox = Arc::new(Mutex::new(messages.into_iter().collect()));
    let its = Arc::clone(&mailbox);
    let answered = move |command: &str| {
        let mut messages = its.lock().unwrap();
        let answer = answer(&messages, command);
        let sent = command
            .strip_prefix("UID FETCH ")
            .and_then(|rest| rest.split_once(' '))
            .filter(|(_, items)| items.contains("BODY.PEEK[]"));
        if let Some((set, _)) = sent.filter(|_| answer.as_ref().is_some_and(|text| text.ends_with("TAG OK done\r\n"))) {
            let set = uids(set);
            messages
                .iter_mut()
                .filter(|(uid, kept)| *kept == Kept::Once && set.contains(uid))
                .for_each(|(_, kept)| *kept = Kept::Refused);
        }
        answer
    };
    (serve(GREETING, answered), mailbox)
}

fn change(mailbox: &Mailbox, uid: u32, to: Kept) {
    mailbox.lock().unwrap().iter_mut().filter(|(its, _)| *its == uid).for_each(|(_, kept)| *kept = to);
}

/// Returns the counts, and the UIDs that were set aside with their reasons.
fn outcome(ran: &TestRun) -> (Value, Vec<(u64, String)>) {
    ran.assert_ok();
    let counts = ran.event("extraction.completed").payload.clone();
    let n = |key: &str| counts[key].as_u64().unwrap();
    let aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("written") + n("duplicates") + n("outside_window") + aside, "{counts}");
    let aside = ran.events_of("extraction.set_aside").into_iter().map(|event| &event.payload);
    let aside = aside.map(|payload| (payload["uid"].as_u64().unwrap(), payload["reason"].as_str().unwrap().to_owned()));
    (counts, aside.collect())
}

fn subjects(dir: &TempDir) -> Vec<u32> {
    let text = dir.read("ingester/mail/default.jsonl");
    let of = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["raw"].as_str().unwrap()[9..].split('\r').next().unwrap().parse()
    };
    let mut subjects: Vec<u32> = text.lines().map(|line| of(line).unwrap()).collect();
    subjects.sort();
    subjects
}

#[test]
fn a_refused_message_is_set_aside_and_retried_once() {
    for kept in [Kept::Refused, Kept::RefusedAlways, Kept::Bad, Kept::Unanswered, Kept::Malformed, Kept::Nil, Kept::Empty] {
        let reason = match kept {
            Kept::Refused | Kept::RefusedAlways | Kept::Bad => "refused",
            Kept::Unanswered => "unanswered",
            Kept::Malformed => "malformed",
            Kept::Nil => "gone",
            _ => "empty",
        };
        let dir = TempDir::new();
        let (port, mailbox) = start((1..=250).map(|uid| (uid, if [3, 99, 250].contains(&uid) { kept } else { Kept::Well })));
        let all = |without: &[u32]| (1..=250).filter(|uid| !without.contains(uid)).collect::<Vec<u32>>();
        let (counts, aside) = outcome(&run(port, &dir));
        assert_eq!((&counts["read"], &counts["written"]), (&250.into(), &247.into()), "{reason}: {counts}");
        assert_eq!(counts["set_aside"], serde_json::json!({reason: 3}));
        let mut sorted = aside;
        sorted.sort();
        assert_eq!(sorted, [(3, reason.to_owned()), (99, reason.to_owned()), (250, reason.to_owned())]);
        assert_eq!(subjects(&dir), all(&[3, 99, 250]));

        change(&mailbox, 99, Kept::Well);
        let (counts, mut aside) = outcome(&run(port, &dir));
        aside.sort();
        assert_eq!((&counts["read"], &counts["written"]), (&3.into(), &1.into()), "{reason}: they are retried once: {counts}");
        assert_eq!(aside, [(3, reason.to_owned()), (250, reason.to_owned())]);
        assert_eq!(subjects(&dir), all(&[3, 250]));

        let (counts, aside) = outcome(&run(port, &dir));
        assert_eq!((&counts["read"], aside.len()), (&0.into(), 0), "{reason}: no further retries: {counts}");
    }
}

#[test]
fn a_server_that_refuses_everything_is_an_error_and_no_message_is_skipped() {
    let dir = TempDir::new();
    let (port, mailbox) = start((1..=150).map(|uid| (uid, if uid > 50 { Kept::Refused } else { Kept::Once })));
    let ran = run(port, &dir);
    let error = ran.assert_retryable("refused fetching messages").error().unwrap();
    let named = "(folder \"[Gmail]/Alle Nachrichten\"): Some messages could not be FETCHed";
    assert!(error.contains(named) && !error.contains('\n'), "{error}");
    assert_eq!(ran.event("extraction.folder_skipped").payload["reason"], "refused");
    for uid in 1..=150 {
        change(&mailbox, uid, Kept::Well);
    }
    let (counts, aside) = outcome(&run(port, &dir));
    assert_eq!((counts["set_aside"].to_string(), aside.len()), ("{}".to_owned(), 0), "{counts}");
    assert_eq!(subjects(&dir), (1..=150).collect::<Vec<u32>>());
}

/// A hundred in a row: in the middle, and at the start, where the server has sent nothing before.
#[test]
fn a_hundred_refused_messages_in_a_row_do_not_stop_a_folder() {
    for (kept, refused) in [(Kept::Refused, 61..=170), (Kept::RefusedAlways, 61..=170), (Kept::Refused, 1..=130)] {
        let dir = TempDir::new();
        let (port, _) = start((1..=250).map(|uid| (uid, if refused.contains(&uid) { kept } else { Kept::Well })));
        let (counts, aside) = outcome(&run(port, &dir));
        assert_eq!(counts["set_aside"], serde_json::json!({"refused": refused.clone().count()}));
        assert_eq!(aside.len(), refused.clone().count());
        assert_eq!(subjects(&dir), (1..=250).filter(|uid| !refused.contains(uid)).collect::<Vec<u32>>());
    }
}

/// Every second UID is gone, as after years of deleting.
#[test]
fn messages_outside_the_window_are_stored_compactly_and_read_with_a_wider_one() {
    let dir = TempDir::new();
    let (port, _) = start((1..=450).map(|n| (2 * n, Kept::Well)));
    let run = |since: &str| {
        let test = testing::job::<extract_gmail>().data(&dir).param("host", "127.0.0.1").param("port", port);
        let test = test.param("tls", "plain").param("user", "anna@gmail.com").secret("password", "kept-secret");
        outcome(&test.param("since", since).run()).0
    };
    assert_eq!(run("2024-01-02")["outside_window"], 450);
    let bookmarks: Value = serde_json::from_str(&dir.read("ingester/imap/default.json")).unwrap();
    let left = bookmarks["mailboxes"][0]["folders"].as_object().unwrap().values().map(|of| of["left"].as_object().unwrap().len());
    assert_eq!(left.sum::<usize>(), 1, "{bookmarks}");
    assert_eq!(run("2024-01-03")["read"], 0);
    assert_eq!(run("2023-12-31")["written"], 450);
    assert_eq!(subjects(&dir), (1..=450).map(|n| 2 * n).collect::<Vec<u32>>());
    assert_eq!(run("2023-12-30")["read"], 0, "nothing is left");
}

#[test]
fn a_message_whose_size_cannot_be_parsed_is_fetched() {
    let dir = TempDir::new();
    let (port, _) = start((1..=9).map(|uid| (uid, if uid == 4 { Kept::MalformedSize } else { Kept::Well })));
    let (counts, aside) = outcome(&run(port, &dir));
    assert_eq!((&counts["written"], aside.len()), (&9.into(), 0), "{counts}");
    assert_eq!(subjects(&dir), (1..=9).collect::<Vec<u32>>());
}

#[test]
fn a_message_without_a_size_is_fetched() {
    let dir = TempDir::new();
    let (port, _) = start([(3, Kept::Well), (4, Kept::WithoutSize), (5, Kept::Well)]);
    let (counts, _) = outcome(&run(port, &dir));
    assert_eq!((&counts["read"], &counts["written"]), (&3.into(), &3.into()), "{counts}");
    assert_eq!(subjects(&dir), [3, 4, 5]);
}

#[test]
fn a_message_deleted_during_the_run_is_not_an_error() {
    let dir = TempDir::new();
    let (port, mailbox) = start([(3, Kept::Well), (4, Kept::Expunged), (5, Kept::Refused)]);
    let (counts, aside) = outcome(&run(port, &dir));
    assert_eq!((&counts["read"], aside), (&2.into(), vec![(5, "refused".to_owned())]), "{counts}");
    mailbox.lock().unwrap().retain(|(uid, _)| *uid == 3);
    let (counts, aside) = outcome(&run(port, &dir));
    assert_eq!((&counts["read"], aside.len()), (&0.into(), 0), "the refused one was deleted, too: {counts}");
}

#[test]
fn the_window_uses_the_servers_date_if_the_message_has_none() {
    let dir = TempDir::new();
    let (port, _) = start([(3, Kept::Well), (77, Kept::Well)]);
    let run = |since: &str| {
        let test = testing::job::<extract_gmail>().data(&dir).param("host", "127.0.0.1").param("port", port);
        let test = test.param("tls", "plain").param("user", "anna@gmail.com").secret("password", "kept-secret");
        outcome(&test.param("since", since).run()).0
    };
    let later = run("2024-01-02");
    assert_eq!((&later["outside_window"], later["set_aside"].to_string()), (&2.into(), "{}".to_owned()), "{later}");
    assert_eq!(run("2024-01-03")["read"], 0);
    assert_eq!(run("2023-12-31")["written"], 2);
    assert_eq!(subjects(&dir), [3, 77]);
}
