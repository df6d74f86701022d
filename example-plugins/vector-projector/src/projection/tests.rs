//! Runs of `index_documents` on small files.

use crate::embedding::small_model;
use crate::index::Index;
use crate::index_documents;
use lorchestra_plugin_api::serde_json::{Value, json};
use lorchestra_plugin_api::testing::{self, TempDir, Test, TestRun};
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

/// Returns the counts, after checking that each line was counted once.
#[track_caller]
fn counts(ran: &TestRun) -> Value {
    let counts = ran.assert_ok().event("index.completed").payload.clone();
    let n = |key: &str| counts[key].as_u64().unwrap();
    let set_aside: u64 = counts["set_aside"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(n("read"), n("added") + n("changed") + n("unchanged") + n("duplicates") + set_aside, "{counts}");
    counts
}

#[track_caller]
fn values<const N: usize>(counts: &Value, keys: [&str; N]) -> [u64; N] {
    keys.map(|key| counts[key].as_u64().unwrap())
}

/// Returns id and body of all documents, after checking that each has a vector of the same length, and that the full-text
/// index matches.
fn documents(dir: &TempDir) -> Vec<(String, String)> {
    let db = Connection::open(dir.path().join("vector-projector/index.db")).unwrap();
    db.execute_batch("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)").unwrap();
    let sql = "SELECT count(*) FROM documents LEFT JOIN vectors USING (document) WHERE length(vector) IS NOT \
               (SELECT iif(model IS NULL, 512, 4) FROM about)";
    assert_eq!(db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    let vectors = db.query_row("SELECT count(*) FROM vectors", [], |row| row.get::<_, isize>(0)).unwrap();
    let sql = "SELECT count(*) FROM documents FULL JOIN (SELECT DISTINCT document FROM origins) AS o USING (document) \
               WHERE id IS NULL OR o.document IS NULL";
    assert_eq!(
        db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(),
        0,
        "each document has a file, and each file entry a document"
    );
    let mut all = db.prepare("SELECT id, body FROM documents ORDER BY id").unwrap();
    let all: Vec<_> = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), vectors.unsigned_abs(), "no vector is left over");
    all
}

fn ids(dir: &TempDir) -> Vec<String> {
    documents(dir).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn changed_documents_are_written_and_missing_ones_removed() {
    let dir = TempDir::new();
    let file = "canonizer/email.jsonl";
    dir.write(file, email("a", "one") + &email("b", "two") + &email("a", "one") + &email("b", "again") + &email("c", "three"));
    let first = counts(&job(&dir).run());
    assert_eq!(values(&first, ["added", "duplicates", "documents", "removed"]), [3, 2, 3, 0]);
    let path = dir.path().join("vector-projector/index.db");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let before = std::fs::read(&path).unwrap();
    let same = counts(&job(&dir).run());
    assert_eq!(values(&same, ["unchanged", "added", "changed", "removed"]), [3, 0, 0, 0]);
    assert!(std::fs::read(&path).unwrap() == before, "nothing was written");

    dir.write(file, email("b", "two") + &email("c", "other") + &email("d", "four"));
    let kept = counts(&job(&dir).param("keep_missing", true).run());
    assert_eq!(values(&kept, ["unchanged", "changed", "added", "documents"]), [1, 1, 1, 4]);
    let removed = counts(&job(&dir).run());
    assert_eq!(values(&removed, ["unchanged", "removed", "documents", "added"]), [3, 1, 3, 0]);
    let expected = [("b", "two"), ("c", "other"), ("d", "four")].map(|(id, body)| (id.to_owned(), body.to_owned()));
    assert_eq!(documents(&dir), expected);
}

#[test]
fn documents_of_other_and_of_damaged_files_stay() {
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
        .assert_permanent("none of the lines is a document (not_json: 1); the index is unchanged");
    dir.write("other.jsonl", email("c", "three"));
    assert_eq!(counts(&job(&dir).param("input", [&other]).run())["removed"], 1);
    assert_eq!(ids(&dir), ["a", "b", "c"]);
}

#[test]
fn a_document_is_removed_with_the_last_file_that_contains_it() {
    let dir = TempDir::new();
    let three = email("1", "one") + &email("2", "two") + &email("3", "three");
    let a = dir.write("a.jsonl", &three);
    let b = dir.write("b.jsonl", &three);
    counts(&job(&dir).param("input", [&a]).run());
    let second = counts(&job(&dir).param("input", [&b]).run());
    assert_eq!(values(&second, ["unchanged", "added", "removed", "documents"]), [3, 0, 0, 3]);

    // b was not read, so its documents stay.
    dir.write("a.jsonl", email("2", "two"));
    assert_eq!(counts(&job(&dir).param("input", [&a]).run())["removed"], 0);
    assert_eq!(ids(&dir), ["1", "2", "3"]);
    // Now only b contained 3, and a still contains 2.
    dir.write("b.jsonl", email("1", "one"));
    assert_eq!(counts(&job(&dir).param("input", [&b]).run())["removed"], 1);
    assert_eq!(ids(&dir), ["1", "2"]);
    // Both in one run.
    dir.write("a.jsonl", email("1", "one"));
    dir.write("b.jsonl", email("4", "four"));
    assert_eq!(values(&counts(&job(&dir).param("input", [&a, &b]).run()), ["removed", "added"]), [1, 1]);
    assert_eq!(ids(&dir), ["1", "4"]);
}

#[test]
fn the_version_read_last_wins_and_within_one_run_the_first() {
    let dir = TempDir::new();
    let a = dir.write("a.jsonl", email("1", "of a"));
    let b = dir.write("b.jsonl", email("1", "of b"));
    let body = |dir: &TempDir| documents(dir).into_iter().map(|(_, body)| body).collect::<Vec<_>>();
    counts(&job(&dir).param("input", [&a]).run());
    assert_eq!(values(&counts(&job(&dir).param("input", [&b]).run()), ["changed", "removed", "added", "cut"]), [1, 0, 0, 0]);
    assert_eq!(body(&dir), ["of b"]);
    let both = counts(&job(&dir).param("input", [&a, &b]).run());
    assert_eq!(
        (values(&both, ["changed", "duplicates", "removed", "added"]), body(&dir)),
        ([1, 1, 0, 0], vec!["of a".to_owned()])
    );
    // The remaining version is that of the file that still contains it.
    dir.write("a.jsonl", email("2", "other"));
    counts(&job(&dir).param("input", [&a, &b]).run());
    assert_eq!(body(&dir), ["of b", "other"]);
}

#[test]
fn a_missing_file_is_reported_and_removed_with_forget() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one") + &email("b", "two"));
    let copy = dir.write("copy.jsonl", email("b", "two") + &email("c", "three"));
    counts(&job(&dir).run());
    counts(&job(&dir).param("input", [&copy]).run());
    assert!(job(&dir).run().assert_ok().events_of("index.file_gone").is_empty());
    std::fs::remove_file(&copy).unwrap();
    let ran = job(&dir).run();
    assert_eq!(counts(&ran)["removed"], 0);
    let gone = &ran.event("index.file_gone").payload;
    assert_eq!((gone["file"].as_str().unwrap().ends_with("/copy.jsonl"), &gone["documents"]), (true, &json!(2)));

    let known = "the index has no documents from this file; it has documents from ";
    job(&dir).param("forget", [dir.path().join("copi.jsonl")]).run().assert_permanent(known);
    let ran = job(&dir).param("forget", [&copy]).param("keep_missing", true).run();
    assert_eq!(values(&counts(&ran), ["removed", "unchanged", "documents", "added"]), [1, 2, 2, 0]);
    assert!(ran.events_of("index.file_gone").is_empty());
    assert_eq!(ids(&dir), ["a", "b"]);
    job(&dir).param("forget", [&copy]).run().assert_permanent(known);

    // Nothing is left to read, but --forget still works.
    std::fs::remove_file(dir.path().join("canonizer/email.jsonl")).unwrap();
    job(&dir).run().assert_permanent("there is nothing to index");
    let all = job(&dir).param("forget", [dir.path().join("canonizer/email.jsonl")]).run();
    assert_eq!(values(&counts(&all), ["removed", "documents", "read", "added"]), [2, 0, 0, 0]);
    job(&dir).param("forget", [dir.path().join("canonizer/email.jsonl")]).run().assert_permanent("there is nothing to forget");
}

#[test]
fn an_empty_file_removes_nothing_without_forget() {
    let dir = TempDir::new();
    let file = dir.write("canonizer/email.jsonl", email("a", "one") + &email("b", "two"));
    let empty = dir.write("empty.jsonl", "");
    counts(&job(&dir).run());
    assert_eq!(counts(&job(&dir).param("input", [&empty]).run())["documents"], 2, "it never had any");

    dir.write("canonizer/email.jsonl", "");
    dir.write("canonizer/message.jsonl", email("c", "three"));
    let ran = job(&dir).run();
    ran.assert_permanent("email.jsonl: is empty, but the index has 2 documents from it; nothing was removed. Run with --forget");
    assert_eq!(ids(&dir), ["a", "b", "c"]);
    assert_eq!(counts(&job(&dir).param("keep_missing", true).run())["removed"], 0);
    assert_eq!(counts(&job(&dir).param("forget", [&file]).run())["removed"], 2);
    assert_eq!(ids(&dir), ["c"]);
    assert_eq!(counts(&job(&dir).run())["documents"], 1, "after that it is treated like any file");
}

#[test]
fn an_index_with_the_old_layout_is_rebuilt() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one"));
    counts(&job(&dir).run());
    let db = Connection::open(dir.path().join("vector-projector/index.db")).unwrap();
    db.execute_batch("DROP TABLE origins; ALTER TABLE documents ADD COLUMN source INTEGER; PRAGMA user_version = 1;").unwrap();
    drop(db);
    let ran = job(&dir).run();
    assert_eq!((&counts(&ran)["added"], &ran.event("index.started").payload["anew"]), (&json!(1), &json!(true)));
    assert_eq!(ids(&dir), ["a"]);
}

#[test]
fn the_next_run_completes_an_interrupted_one() {
    let dir = TempDir::new();
    let all: String = (0..1200).map(|n| email(&format!("m{n:04}"), "text")).collect();
    dir.write("canonizer/email.jsonl", all);
    job(&dir).cancel_after_checks(2).run().assert_retryable("cancelled after 1000 lines; documents indexed so far are saved");
    assert_eq!(ids(&dir).len(), 1000, "whole batches");
    let rest = counts(&job(&dir).run());
    assert_eq!(values(&rest, ["unchanged", "added", "removed", "documents"]), [1000, 200, 0, 1200]);
}

#[test]
fn an_invalid_index_is_an_error_and_an_old_one_is_rebuilt() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one"));
    let path = dir.write("vector-projector/index.db", "x".repeat(5000));
    job(&dir).run().assert_permanent("is corrupt or not an index; move it away and run vector-projector/index_documents");
    std::fs::remove_file(&path).unwrap();
    counts(&job(&dir).run());
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA user_version = 1").unwrap();
    drop(db);
    assert!(matches!(Index::to_search(path.parent().unwrap()), Err(error) if error.is_permanent()));
    let ran = job(&dir).run();
    assert_eq!((&counts(&ran)["added"], &ran.event("index.started").payload["anew"]), (&json!(1), &json!(true)));
}

#[test]
fn hashed_words_of_another_version_are_recomputed() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one") + &email("b", "two"));
    let first = counts(&job(&dir).run());
    assert_eq!((&first["embedding"], &first["embedded_again"]), (&json!("hashed-words-and-trigrams/2/512"), &json!(0)));
    let before = vectors(&dir);
    let db = Connection::open(dir.path().join("vector-projector/index.db")).unwrap();
    db.execute_batch("UPDATE about SET embedding = 'another'; UPDATE vectors SET vector = x'00'").unwrap();
    drop(db);
    let again = counts(&job(&dir).run());
    assert_eq!(values(&again, ["embedded_again", "unchanged", "added", "changed"]), [2, 2, 0, 0]);
    assert_eq!(vectors(&dir), before);
}

fn vectors(dir: &TempDir) -> Vec<Vec<u8>> {
    let db = Connection::open(dir.path().join("vector-projector/index.db")).unwrap();
    let mut all = db.prepare("SELECT vector FROM vectors ORDER BY document").unwrap();
    all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_model_is_stored_and_another_one_recomputes_all_vectors() {
    let dir = TempDir::new();
    let file = "canonizer/email.jsonl";
    dir.write(file, email("a", "car") + &email("b", "a rose"));
    counts(&job(&dir).run());
    let model = dir.path().join("model");
    small_model::write(&model);
    let with = counts(&job(&dir).param("model", &model).run());
    assert_eq!(values(&with, ["embedded_again", "unchanged", "added", "changed"]), [2, 2, 0, 0]);
    assert!(with["embedding"].as_str().unwrap().starts_with("static/1/4/"), "{with}");
    assert_eq!(vectors(&dir), [vec![127, 0, 0, 0], vec![0, 127, 13, 0]]);

    // Without --model the stored method is used, also for new documents.
    dir.write(file, email("a", "car") + &email("b", "a rose") + &email("c", "invoice"));
    let later = counts(&job(&dir).run());
    assert_eq!(values(&later, ["embedded_again", "unchanged", "added", "changed"]), [0, 2, 1, 0]);
    assert_eq!((&later["embedding"], vectors(&dir)[2].clone()), (&with["embedding"], vec![0, 0, 0, 127]));

    // The same model in another directory: only the directory changes.
    let moved = dir.path().join("moved");
    std::fs::rename(&model, &moved).unwrap();
    let error = "cannot use the model of the index (--model none uses hashed words instead): ";
    let gone = job(&dir).run();
    gone.assert_permanent(error);
    assert!(gone.error().unwrap().contains("model: no such directory; set --model"), "{:?}", gone.error());
    assert_eq!(
        values(&counts(&job(&dir).param("model", &moved).run()), ["embedded_again", "unchanged", "documents", "read"]),
        [0, 3, 3, 3]
    );
    assert_eq!(values(&counts(&job(&dir).run()), ["embedded_again", "unchanged", "documents", "read"]), [0, 3, 3, 3]);

    // Another model in its place, and documents that are in no file any more.
    dir.write("moved/model.safetensors", small_model::table(0.5));
    dir.write(file, email("c", "invoice"));
    let other = counts(&job(&dir).param("keep_missing", true).run());
    assert_eq!(values(&other, ["embedded_again", "unchanged", "documents", "removed"]), [3, 1, 3, 0]);
    assert_ne!(other["embedding"], with["embedding"]);
    assert_eq!(vectors(&dir)[2], [64, 0, 0, 127]);

    let without = counts(&job(&dir).param("keep_missing", true).param("model", "none").run());
    assert_eq!((&without["embedding"], &without["embedded_again"]), (&json!("hashed-words-and-trigrams/2/512"), &json!(3)));
    assert_eq!(ids(&dir), ["a", "b", "c"]);
    assert_eq!(counts(&job(&dir).run())["embedded_again"], 0, "the choice of no model is stored too");
}

#[test]
fn recomputing_vectors_is_atomic() {
    let dir = TempDir::new();
    let all: String = (0..250).map(|n| email(&format!("m{n:04}"), "car")).collect();
    dir.write("canonizer/email.jsonl", all);
    counts(&job(&dir).run());
    let before = vectors(&dir);
    let model = dir.path().join("model");
    small_model::write(&model);
    let cancelled = job(&dir).param("model", &model).cancel_after_checks(2).run();
    cancelled.assert_retryable("cancelled while recomputing vectors; the index is unchanged");
    assert_eq!(vectors(&dir), before);
    assert_eq!(ids(&dir).len(), 250);
    assert_eq!(counts(&job(&dir).run())["embedded_again"], 0);
    assert_eq!(counts(&job(&dir).param("model", &model).run())["embedded_again"], 250);
    assert!(vectors(&dir).iter().all(|vector| *vector == [127, 0, 0, 0]));

    // A model that fails halfway also leaves the index unchanged.
    let mut tokenizer = small_model::tokenizer();
    tokenizer["model"]["unk_token"] = json!("?");
    dir.write("model/tokenizer.json", tokenizer.to_string());
    job(&dir).run().assert_permanent("its tokenizer failed (");
    dir.write("model/tokenizer.json", small_model::tokenizer().to_string());
    assert_eq!(counts(&job(&dir).run())["embedded_again"], 0);
}

#[test]
fn an_invalid_model_leaves_the_index_unchanged() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one"));
    job(&dir).param("model", dir.path().join("no")).run().assert_permanent("no: no such directory; set --model to");
    assert_eq!(counts(&job(&dir).run())["added"], 1);
    job(&dir).param("model", dir.path().join("no")).run().assert_permanent("no: no such directory; set --model to");
    assert_eq!(values(&counts(&job(&dir).run()), ["embedded_again", "unchanged", "added", "changed"]), [0, 1, 0, 0]);
}

#[test]
fn a_second_writer_fails() {
    let dir = TempDir::new();
    dir.write("canonizer/email.jsonl", email("a", "one"));
    counts(&job(&dir).run());
    let _first = Index::to_write(&dir.path().join("vector-projector")).unwrap();
    job(&dir).run().assert_retryable("another run is writing to it");
}
