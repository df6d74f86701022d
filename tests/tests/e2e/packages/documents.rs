//! The package `vector-projector` end to end: the sample mailbox through ingester, canonizer, index and search; kills and full disks; an
//! embedding model from PyPI.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use lorchestra_test_setup::venv;
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Event, Fixture, Sandbox, built, eventually, schema};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const INDEX: [&str; 3] = ["run-job", "vector-projector", "index_documents"];

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Ingester, Fixture::Canonizer, Fixture::VectorProjector])
}

/// The payload of the only event of this type in the newest run, after checking its end.
#[track_caller]
fn payload_of(sandbox: &Sandbox, event_type: &str) -> Value {
    let events = sandbox.whole_events_of(&sandbox.runs()[0]);
    let mut found = events.iter().filter(|event| event.event_type() == event_type).map(Event::payload);
    let payload = found.next().unwrap_or_else(|| panic!("no {event_type} in {events:?}")).clone();
    assert!(found.next().is_none());
    payload
}

fn hits(sandbox: &Sandbox) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.data().join("vector-projector/search/last.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Documents in canonizer's format, of about a kilobyte each.
fn emails(path: &Path, count: u32) {
    let mut text = String::new();
    for n in 0..count {
        let email = json!({
            "id": format!("m{n}"), "subject": format!("Number {n}"), "sentAt": "2024-01-01T10:00:00Z", "from": [{"name": null, "email": "a@example.org"}],
            "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": format!("word{} {}", n % 97, "filler text ".repeat(80))}},
        });
        text.push_str(&format!("{email}\n"));
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The number of documents, after checking that documents, words and vectors agree.
fn documents(index: &Path) -> u64 {
    let db = Connection::open(index).unwrap();
    db.execute_batch("INSERT INTO words (words) VALUES ('integrity-check')").unwrap();
    assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    let count = |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("documents"), count("vectors"));
    assert_eq!(count("documents"), count("words"));
    count("documents").unsigned_abs()
}

#[test]
fn the_sample_mailbox_is_found_by_words_and_by_similarity() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&INDEX).exits(1);
    assert!(ended.err().contains("run canonizer/canonicalize_email first"), "{}", ended.shown());
    let ended = sandbox.lorchestra(&["run-job", "vector-projector", "search", "--query", "x"]).exits(1);
    assert!(ended.err().contains("there is no index yet; run vector-projector/index_documents first"), "{}", ended.shown());

    let source = built::workspace().join("example-plugins/ingester/sample/takeout.mbox").display().to_string();
    sandbox.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", &source]).exits(0);
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email"]).exits(0);
    sandbox.lorchestra(&INDEX).exits(0);
    let counts = payload_of(&sandbox, "index.completed");
    assert_eq!((&counts["read"], &counts["added"], &counts["documents"]), (&json!(34), &json!(34), &json!(34)));
    assert_eq!(counts["set_aside"], json!({}));

    let search = |query: &str, mode: &str| {
        sandbox.lorchestra(&["run-job", "vector-projector", "search", "--query", query, "--mode", mode]).exits(0);
        let completed = payload_of(&sandbox, "search.completed");
        let hits = hits(&sandbox);
        assert_eq!(completed["hits"], hits.len());
        let log = sandbox.lorchestra(&["runs", "logs", sandbox.runs()[0].id()]).exits(0);
        for hit in &hits {
            assert!(log.out().contains(hit["id"].as_str().unwrap()), "{}", log.shown());
        }
        hits
    };
    // The name of the attachment.
    let by_words = search("vertrag", "both");
    assert_eq!((&by_words[0]["title"], &by_words[0]["text_rank"]), (&json!("The contract"), &json!(1)));
    assert!(by_words[0]["snippet"].as_str().unwrap().contains("Vertrag"), "{by_words:?}");
    assert!(search("signd contrakt", "text").is_empty());
    assert_eq!(search("signd contrakt", "both")[0]["title"], "The contract");
    assert!(search("qqqqqqqq", "both").is_empty());

    // Everything again: nothing is written.
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email"]).exits(0);
    sandbox.lorchestra(&INDEX).exits(0);
    let again = payload_of(&sandbox, "index.completed");
    assert_eq!((&again["unchanged"], &again["added"], &again["removed"]), (&json!(34), &json!(0), &json!(0)));
}

/// Japanese, Chinese and Korean, letters that only one language has, mail that is HTML only, calendar invitations, names of attachments.
#[test]
fn mail_in_many_languages_is_found() {
    let sandbox = sandbox();
    let source = built::workspace().join("example-plugins/ingester/sample/world.mbox").display().to_string();
    sandbox.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", &source]).exits(0);
    assert_eq!(payload_of(&sandbox, "extraction.completed")["written"], 8);
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email"]).exits(0);
    let results = sandbox.data().join("canonizer");
    assert_eq!(schema::check_lines(&results.join("email.jsonl"), &results.join("email.schema.json")), 8);
    sandbox.lorchestra(&INDEX).exits(0);
    for (query, title, snippet) in [
        ("京都", "会議のお知らせ", "来週の会議は京都で"),
        ("会議のお知らせ", "会議のお知らせ", ""),
        ("料", "会議のお知らせ", ""),
        ("山田", "会議のお知らせ", ""),
        ("shipment 4711", "Your order", "Shipment"),
        ("bicycle", "Your order", "bicycle"),
        ("warehouse", "Your order", "bicycle left the"),
        ("LODZ", "Your order", "Łódź"),
        ("quarterly planning", "Invitation", "Quarterly planning"),
        ("zugspitze", "Invitation", "Zugspitze"),
        ("grossentabelle", "As agreed", "Größentabelle"),
        ("見積", "As agreed", "見積"),
        ("上海", "季度预算", "会议在上海"),
        ("预算表2024", "季度预算", ""),
        ("chart-of-costs.png", "季度预算", ""),
        ("李雷", "季度预算", ""),
        ("서울", "출장 보고서", "서울에서"),
        ("보고서", "출장 보고서", ""),
        ("김민수", "출장 보고서", ""),
        ("台北", "您的訂單", "台北"),
        ("AB12345678", "您的訂單", "發票號碼 AB12345678"),
        ("harbour authority", "Invitation: kick-off", "harbour"),
        ("부산", "Invitation: kick-off", "부산"),
        ("kowalska", "Invitation: kick-off", ""),
        ("invite.ics", "Invitation: kick-off", ""),
    ] {
        sandbox.lorchestra(&["run-job", "vector-projector", "search", "--query", query, "--mode", "text"]).exits(0);
        let hits = hits(&sandbox);
        assert_eq!(hits.len(), 1, "{query}: {hits:?}");
        assert_eq!(hits[0]["title"], title, "{query}");
        assert!(hits[0]["snippet"].as_str().unwrap().contains(snippet), "{query}: {hits:?}");
    }
    for query in ["京料", "都京", "lod", "zzz"] {
        sandbox.lorchestra(&["run-job", "vector-projector", "search", "--query", query, "--mode", "text"]).exits(0);
        assert!(hits(&sandbox).is_empty(), "{query}");
    }
}

/// Mails with faults that have hidden words from other tools: words are found, so the text of the index is that of the preview.
#[test]
fn words_of_damaged_mail_are_found() {
    let sandbox = sandbox();
    let cases = built::workspace().join("example-plugins/canonizer/sample/cases");
    let mut lines = String::new();
    for (n, entry) in fs::read_dir(cases).unwrap().enumerate() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            let raw = URL_SAFE.encode(fs::read(path).unwrap());
            lines.push_str(&format!("{}\n", json!({"id": format!("m{n}"), "threadId": "1", "labelIds": [], "raw": raw})));
        }
    }
    fs::write(sandbox.path("cases.jsonl"), lines).unwrap();
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_email", "--input", "cases.jsonl"]).exits(0);
    sandbox.lorchestra(&INDEX).exits(0);
    for query in ["attached", "regards", "eighty", "middle", "two", "after", "payment 4711", "grusse", "bucher.pdf", "jorg"] {
        sandbox.lorchestra(&["run-job", "vector-projector", "search", "--query", query, "--mode", "text"]).exits(0);
        assert!(!hits(&sandbox).is_empty(), "{query}");
    }
}

#[test]
fn a_run_killed_halfway_is_completed_by_the_next() {
    let sandbox = sandbox();
    let input = sandbox.data().join("canonizer/email.jsonl");
    emails(&input, 6000);
    let index = sandbox.data().join("vector-projector/index.db");
    for at_least in [1, 2500] {
        let mut running = sandbox.start(&INDEX);
        eventually("some documents are indexed", || {
            let count = || -> rusqlite::Result<i64> {
                Connection::open(&index)?.query_row("SELECT count(*) FROM documents", [], |row| row.get(0))
            };
            index.exists() && count().is_ok_and(|count| count >= at_least)
        });
        let worker = running.children();
        running.signal(Signal::KILL);
        eventually("all processes have ended", || {
            running.has_ended() && !worker.iter().any(|&pid| lorchestra_tests::processes::is_alive(pid))
        });
        let left = documents(&index);
        assert!((1..6000).contains(&left) && left.is_multiple_of(500), "complete batches, but not all documents: {left}");
    }
    sandbox.lorchestra(&INDEX).exits(0);
    assert_eq!(documents(&index), 6000);
    let counts = payload_of(&sandbox, "index.completed");
    assert_eq!(counts["unchanged"].as_u64().unwrap() + counts["added"].as_u64().unwrap(), 6000);
    assert!(counts["unchanged"].as_u64().unwrap() >= 2500, "existing vectors were not recomputed: {counts}");
}

#[test]
fn a_full_disk_leaves_whole_documents() {
    let sandbox = sandbox();
    let input = sandbox.path("email.jsonl");
    emails(&input, 4000);
    let data = sandbox.data();
    let Some(disks) = SmallDisks::mount(&sandbox, &[(data.clone(), 6000)]) else { return };
    let named = input.display().to_string();
    let args = [&INDEX[..], &["--input", &named]].concat();
    let ended = disks.start(&sandbox, &args).wait().exits(1);
    assert!(ended.err().contains("index.db: writing failed") && ended.err().contains("full"), "{}", ended.shown());
    disks.remount(&data, "size=64m");
    disks.start(&sandbox, &args).wait().exits(0);
    // SQLite does not open a file by a path through another process.
    let copy = sandbox.path("copy.db");
    fs::copy(disks.path(&data.join("vector-projector/index.db")), &copy).unwrap();
    assert_eq!(documents(&copy), 4000);
}

#[test]
fn searches_run_concurrently() {
    let sandbox = sandbox();
    emails(&sandbox.data().join("canonizer/email.jsonl"), 3);
    sandbox.lorchestra(&INDEX).exits(0);
    // An exclusive lock on the index keeps all searches waiting until they have all started.
    let held = Connection::open(sandbox.data().join("vector-projector/index.db")).unwrap();
    held.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; DELETE FROM vectors WHERE document < 0; COMMIT;")
        .unwrap();
    let search = ["run-job", "vector-projector", "search", "--query", "filler"];
    let mut searches: Vec<_> = (0..4).map(|_| sandbox.start(&search)).collect();
    eventually("four searches run at once", || {
        assert!(!searches.iter_mut().any(|search| search.has_ended()), "a search ended although the index was locked");
        sandbox.runs().iter().filter(|run| run.state() == "running").count() == 4
    });
    drop(held);
    for search in searches {
        search.wait().exits(0);
    }
    assert_eq!(hits(&sandbox).len(), 3, "the file of the last search is complete");
}

#[test]
fn a_full_disk_leaves_the_hits_of_the_previous_search() {
    let sandbox = sandbox();
    emails(&sandbox.data().join("canonizer/email.jsonl"), 100);
    sandbox.lorchestra(&INDEX).exits(0);
    let dir = sandbox.data().join("vector-projector/search");
    let Some(disks) = SmallDisks::mount(&sandbox, &[(dir.clone(), 16)]) else { return };
    let search = |limit| {
        let args = ["run-job", "vector-projector", "search", "--query", "filler", "--limit", limit];
        disks.start(&sandbox, &args).wait()
    };
    search("3").exits(0);
    let ended = search("100").exits(1);
    assert!(ended.err().contains(&format!("{}: cannot write the hits", dir.join("last.jsonl").display())), "{}", ended.shown());
    assert!(ended.err().contains("check the free disk space") && ended.err().contains("No space left"), "{}", ended.shown());
    let left: Vec<_> = fs::read_dir(disks.path(&dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["last.jsonl"], "nothing else is left");
    assert_eq!(fs::read_to_string(disks.path(&dir.join("last.jsonl"))).unwrap().lines().count(), 3);
}

#[test]
fn invalid_input_is_reported() {
    let sandbox = sandbox();
    fs::write(sandbox.path("x.jsonl"), "no json\n{}\n").unwrap();
    for (input, says) in [
        ("nowhere.jsonl", "no such file"),
        (".", "is not a file"),
        ("x.jsonl", "none of the lines is a document (not_a_document: 1, not_json: 1)"),
    ] {
        let ended = sandbox.lorchestra(&[&INDEX[..], &["--input", input]].concat()).exits(1);
        assert!(ended.err().contains(says), "{}", ended.shown());
    }
    let damaged = sandbox.data().join("vector-projector/index.db");
    fs::write(&damaged, "x".repeat(9000)).unwrap();
    emails(&sandbox.path("y.jsonl"), 1);
    let ended = sandbox.lorchestra(&[&INDEX[..], &["--input", "y.jsonl"]].concat()).exits(1);
    assert!(ended.err().contains("is corrupt or not an index; move it away"), "{}", ended.shown());
}

#[test]
fn messages_of_a_chat_are_found_together_with_mail() {
    let sandbox = sandbox();
    let sample = built::workspace().join("example-plugins/canonizer/sample/slack.jsonl").display().to_string();
    sandbox.lorchestra(&["run-job", "canonizer", "canonicalize_message", "--input", &sample]).exits(0);
    emails(&sandbox.data().join("canonizer/email.jsonl"), 3);
    sandbox.lorchestra(&INDEX).exits(0);
    let counts = payload_of(&sandbox, "index.completed");
    assert_eq!((&counts["added"], &counts["set_aside"]), (&json!(14 + 3), &json!({})));
    let text = fs::read_to_string(sandbox.data().join("canonizer/message.jsonl")).unwrap();
    for message in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        // Some words of the message.
        let words: Vec<&str> = message["text"].as_str().unwrap().split_whitespace().take(6).collect();
        if words.len() < 3 {
            continue;
        }
        sandbox.lorchestra(&["run-job", "vector-projector", "search", "--query", &words.join(" ")]).exits(0);
        let found = hits(&sandbox);
        assert!(found.iter().any(|hit| hit["id"] == message["id"] && hit["kind"] == "message"), "{words:?}: {found:?}");
    }
}

/// Mails, each with a search that has the same meaning but shares no word with it.
const MEANT: [(&str, &str, &str); 12] = [
    ("Sold", "The automobile needs new brakes before the winter; the garage asks 400 euros.", "car"),
    ("The garden", "Roses and an invoice for them.", "flowers"),
    ("Holiday", "We go to Zürich by train, and see the museum there.", "vacation"),
    ("Appointment", "The physician can see you on Tuesday at nine; please bring your insurance card.", "medical visit"),
    ("Lost puppy", "A small brown terrier ran away near the park. Call us if you find him.", "missing pet"),
    ("Outage", "The database server was unreachable for ten minutes last night; a disk was full.", "computer failure"),
    ("Invitation", "Clara and Tom are getting married in June, and we would love to have you there.", "marriage"),
    ("Rent", "The landlord raises the rent of the apartment by two percent from January.", "housing costs"),
    ("Tickets", "Two seats for the soccer match on Saturday, row 12.", "sports event"),
    ("Booking confirmation", "Your plane to Lisbon departs at 7:15 from terminal 2.", "airline"),
    ("Concert", "The orchestra plays Brahms, the violin part is by a young soloist.", "classical music"),
    ("Tomorrow", "Heavy rain and storms are expected along the coast.", "bad weather"),
];

#[test]
fn a_model_finds_texts_by_meaning_and_hashed_words_do_not() {
    let sandbox = sandbox();
    let mut text = String::new();
    for (subject, body, _) in MEANT {
        let email = json!({
            "id": subject, "subject": subject, "sentAt": "2024-01-01T10:00:00Z", "from": [{"name": "Anna Berg", "email": "anna@example.org"}],
            "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": body}},
        });
        text.push_str(&format!("{email}\n"));
    }
    fs::write(sandbox.path("mail.jsonl"), text).unwrap();
    let index = |more: &[&str]| {
        sandbox.lorchestra(&[&INDEX[..], &["--input", "mail.jsonl"], more].concat()).exits(0);
        payload_of(&sandbox, "index.completed")
    };
    let search = |more: &[&str]| sandbox.lorchestra(&[&["run-job", "vector-projector", "search"], more].concat());
    let best = |query: &str| {
        search(&["--query", query]).exits(0);
        hits(&sandbox).first().map(|hit| hit["title"].as_str().unwrap().to_owned())
    };
    assert_eq!(index(&[])["embedding"], "hashed-words-and-trigrams/2/512");
    let lexical: Vec<_> = MEANT.iter().filter(|(subject, _, query)| best(query).as_deref() == Some(*subject)).collect();
    assert!(lexical.is_empty(), "no query shares a word with its mail: {lexical:?}");

    let model = venv::ensure_model(&built::target()).unwrap_or_else(|error| panic!("{error}"));
    let place = model.display().to_string();
    let again = index(&["--model", &place]);
    assert_eq!((&again["embedded_again"], &again["unchanged"]), (&json!(MEANT.len()), &json!(MEANT.len())));
    for (subject, _, query) in MEANT {
        assert_eq!(best(query).as_deref(), Some(subject), "{query}");
    }
    assert_eq!(best("qqqq wwww"), None);
    assert_eq!(index(&[])["embedded_again"], 0, "the model is stored");
    // By words and by meaning at once.
    assert_eq!(best("rent of the flat").as_deref(), Some("Rent"));

    let ended = search(&["--query", "car", "--model", "nowhere"]).exits(1);
    assert!(ended.err().contains("nowhere: no such directory; set --model to a directory with"), "{}", ended.shown());
    // A truncated copy.
    let cut = sandbox.path("cut");
    fs::create_dir(&cut).unwrap();
    let table = fs::read(model.join("weights/l2_supercat_256.safetensors")).unwrap();
    fs::write(cut.join("model.safetensors"), &table[..table.len() / 2]).unwrap();
    fs::copy(model.join("tokenizers/l2_supercat_tokenizer_config.json"), cut.join("tokenizer.json")).unwrap();
    let ended = sandbox.lorchestra(&[&INDEX[..], &["--input", "mail.jsonl", "--model", "cut"]].concat()).exits(1);
    assert!(ended.err().contains("cut/model.safetensors: is not a complete safetensors file ("), "{}", ended.shown());
    assert_eq!(best("car").as_deref(), Some("Sold"), "the index is unchanged");

    assert_eq!(index(&["--model", "none"])["embedded_again"], MEANT.len());
    assert_eq!(best("car"), None);
}

#[test]
fn a_kill_while_all_vectors_are_recomputed_leaves_the_index_unchanged() {
    let sandbox = sandbox();
    emails(&sandbox.data().join("canonizer/email.jsonl"), 400);
    sandbox.lorchestra(&INDEX).exits(0);
    let path = sandbox.data().join("vector-projector/index.db");
    let vectors = || -> Vec<Vec<u8>> {
        let db = Connection::open(&path).unwrap();
        let mut all = db.prepare("SELECT vector FROM vectors ORDER BY document").unwrap();
        all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = vectors();
    let model = venv::ensure_model(&built::target()).unwrap_or_else(|error| panic!("{error}")).display().to_string();
    let with_model = [&INDEX[..], &["--model", &model]].concat();
    let mut running = sandbox.start(&with_model);
    let db = Connection::open(&path).unwrap();
    db.busy_timeout(Duration::ZERO).unwrap();
    eventually("the transaction has started", || {
        let is_free = db.execute_batch("BEGIN IMMEDIATE").is_ok();
        if is_free {
            db.execute_batch("ROLLBACK").unwrap();
        }
        !is_free
    });
    let worker = running.children();
    running.signal(Signal::KILL);
    eventually("all processes have ended", || {
        running.has_ended() && !worker.iter().any(|&pid| lorchestra_tests::processes::is_alive(pid))
    });
    drop(db);
    assert!(vectors() == before, "all old vectors are kept");
    // The index agrees: there is nothing to do.
    sandbox.lorchestra(&INDEX).exits(0);
    assert_eq!((&payload_of(&sandbox, "index.completed")["embedded_again"], documents(&path)), (&json!(0), 400));
    sandbox.lorchestra(&with_model).exits(0);
    assert_eq!(payload_of(&sandbox, "index.completed")["embedded_again"], 400);
    assert!(vectors().iter().all(|vector| vector.len() == 256));
}
