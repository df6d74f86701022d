//! Runs of `index_documents` over small files.

use crate::index::Index;
use crate::index_documents;
use lorchestra_plugin_api::serde_json::{Value, json};
use lorchestra_plugin_api::testing::{self, Ran, TempDir, Test};
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;

fn email(id: &str, text: &str) -> String {
    let email = json!({
        "id": id, "subject": format!("about {id}"), "sentAt": "2024-01-01T10:00:00Z",
        "from": [{"name": "Anna", "email": "anna@example.org"}],
        "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": text}},
    });
    format!("{email}\n")
}

fn job(dir: &TempDir) -> Test {
    testing::job::<index_documents>().package("vector-projector").data(dir)
}

/// What became of the lines, after looking that each was counted once.
#[track_caller]
fn counts(ran: &Ran) -> Value {
    let counts = ran.assert_ok().event("index.completed").payload.clone();
    let n = |key: &str| counts[key].as_u64().unwrap();
    let set_aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("added") + n("changed") + n("unchanged") + n("duplicates") + set_aside, "{counts}");
    counts
}

#[track_caller]
fn told(counts: &Value, keys: [&str; 4]) -> [u64; 4] {
    keys.map(|key| counts[key].as_u64().unwrap())
}

/// Id, title and body of all documents; every one has a vector, and the words agree with them.
fn documents(dir: &TempDir) -> Vec<(String, String)> {
    let db = Connection::open(dir.path().join("vector-projector/index.db")).unwrap();
    db.execute_batch("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)").unwrap();
    let sql = "SELECT count(*) FROM documents LEFT JOIN vectors USING (document) WHERE length(vector) IS NOT 512";
    assert_eq!(db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    let vectors = db.query_row("SELECT count(*) FROM vectors", [], |row| row.get::<_, isize>(0)).unwrap();
    let mut all = db.prepare("SELECT id, body FROM documents ORDER BY id").unwrap();
    let all: Vec<_> = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), vectors.unsigned_abs(), "no vector is left over");
    all
}

fn ids(dir: &TempDir) -> Vec<String> {
    documents(dir).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn only_what_has_changed_is_written_and_what_is_gone_is_removed() {
    let dir = TempDir::new();
    let file = "canonizer/email.jsonl";
    dir.write(file, email("a", "one") + &email("b", "two") + &email("a", "one") + &email("b", "again") + &email("c", "three"));
    let first = counts(&job(&dir).run());
    assert_eq!(told(&first, ["added", "duplicates", "documents", "removed"]), [3, 2, 3, 0]);
    let path = dir.path().join("vector-projector/index.db");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let before = std::fs::read(&path).unwrap();
    let same = counts(&job(&dir).run());
    assert_eq!(told(&same, ["unchanged", "added", "changed", "removed"]), [3, 0, 0, 0]);
    assert!(std::fs::read(&path).unwrap() == before, "nothing was written");

    dir.write(file, email("b", "two") + &email("c", "other") + &email("d", "four"));
    let kept = counts(&job(&dir).param("keep_missing", true).run());
    assert_eq!(told(&kept, ["unchanged", "changed", "added", "documents"]), [1, 1, 1, 4]);
    let removed = counts(&job(&dir).run());
    assert_eq!(told(&removed, ["unchanged", "removed", "documents", "added"]), [3, 1, 3, 0]);
    let expected = [("b", "two"), ("c", "other"), ("d", "four")].map(|(id, body)| (id.to_owned(), body.to_owned()));
    assert_eq!(documents(&dir), expected);
}

#[test]
fn documents_of_other_files_stay_and_those_of_a_damaged_one_too() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one") + &email("b", "two"));
    let other = dir.write("other.jsonl", email("c", "three") + &email("d", "four"));
    counts(&job(&dir).run());
    counts(&job(&dir).param("input", [&other]).run());
    assert_eq!(ids(&dir), ["a", "b", "c", "d"]);

    dir.write("other.jsonl", email("c", "three") + "{}\n{\"id\":");
    let ran = job(&dir).param("input", [&other]).run();
    let damaged = counts(&ran);
    assert_eq!((&damaged["removed"], &damaged["set_aside"]), (&json!(0), &json!({"not_a_document": 1, "torn": 1})));
    assert_eq!(ran.events_of("index.set_aside")[0].payload["line"], 2);
    assert_eq!(ids(&dir), ["a", "b", "c", "d"]);

    dir.write("other.jsonl", "x\n");
    job(&dir)
        .param("input", [&other])
        .run()
        .assert_permanent("none of the 1 lines is a document (not_json: 1); the index is as it was");
    dir.write("other.jsonl", email("c", "three"));
    assert_eq!(counts(&job(&dir).param("input", [&other]).run())["removed"], 1);
    assert_eq!(ids(&dir), ["a", "b", "c"]);
}

#[test]
fn a_run_that_is_ended_half_way_is_completed_by_the_next() {
    let dir = TempDir::new();
    let all: String = (0..1200).map(|n| email(&format!("m{n:04}"), "text")).collect();
    dir.write("canonizer/email.jsonl", all);
    job(&dir).cancel_after_looks(2).run().assert_retryable("cancelled after 1000 lines; what was indexed is in the index");
    assert_eq!(ids(&dir).len(), 1000, "whole batches");
    let rest = counts(&job(&dir).run());
    assert_eq!(told(&rest, ["unchanged", "added", "removed", "documents"]), [1000, 200, 0, 1200]);
}

#[test]
fn a_file_that_is_no_index_is_told_and_one_of_another_version_is_made_anew() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one"));
    let path = dir.write("vector-projector/index.db", "x".repeat(5000));
    job(&dir).run().assert_permanent("is damaged, or no index; move it away and run vector-projector/index_documents");
    std::fs::remove_file(&path).unwrap();
    counts(&job(&dir).run());
    let db = Connection::open(&path).unwrap();
    db.execute_batch("UPDATE about SET embedding = 'another'").unwrap();
    drop(db);
    assert!(matches!(Index::to_search(path.parent().unwrap()), Err(error) if error.is_permanent()));
    let ran = job(&dir).run();
    assert_eq!((&counts(&ran)["added"], &ran.event("index.started").payload["anew"]), (&json!(1), &json!(true)));
}

#[test]
fn a_second_writer_is_told_to_wait() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one"));
    counts(&job(&dir).run());
    let _first = Index::to_write(&dir.path().join("vector-projector")).unwrap();
    job(&dir).run().assert_retryable("another run is writing it");
}
