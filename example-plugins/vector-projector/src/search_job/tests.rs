//! Searches in a small index.

use super::search;
use crate::embedding::{Embedding, small_model};
use crate::index::Index;
use crate::index_documents;
use lorchestra_plugin_api::serde_json::{self, Value, json};
use lorchestra_plugin_api::testing::{self, TempDir, Test};

fn indexed(documents: &[(&str, &str, &str)]) -> TempDir {
    let dir = TempDir::new();
    index(&dir, documents).run().assert_ok();
    dir
}

fn index(dir: &TempDir, documents: &[(&str, &str, &str)]) -> Test {
    let line = |(id, subject, text): &(&str, &str, &str)| {
        let email = json!({
            "id": id, "subject": subject, "sentAt": "2024-01-01T10:00:00Z",
            "from": [{"name": "Anna Berg", "email": "anna@example.org"}], "to": [{"name": null, "email": "bert@example.org"}],
            "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": text}},
        });
        format!("{email}\n")
    };
    dir.write("canonizer/email.jsonl", documents.iter().map(line).collect::<String>());
    testing::job::<index_documents>().package("vector-projector").data(dir)
}

fn job(dir: &TempDir, query: &str) -> Test {
    testing::job::<search>().package("vector-projector").data(dir).param("query", query)
}

fn hits(dir: &TempDir) -> Vec<Value> {
    dir.read("vector-projector/search/last.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn found(dir: &TempDir, query: &str, mode: &str) -> Vec<String> {
    let ran = job(dir, query).param("mode", mode).run();
    let hits = hits(dir);
    assert_eq!(ran.assert_ok().event("search.completed").payload["hits"], hits.len());
    hits.iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
}

const DOCUMENTS: [(&str, &str, &str); 5] = [
    ("kitchen", "Invoice 17", "For the renovation of the kitchen, payable until the end of March."),
    ("garden", "The garden", "Roses and an invoice for them."),
    ("trip", "Holiday", "We go to Zürich by train, and see the invoice later."),
    ("empty", "", ""),
    ("steer", "\u{1b}[31mred\u{7}", "\u{1b}]0;title\u{7} escape\n\n\tsequences"),
];

#[test]
fn hits_rank_by_field_and_number_of_words() {
    let dir = indexed(&DOCUMENTS);
    assert_eq!(found(&dir, "invoice", "text")[0], "kitchen", "in the subject");
    assert_eq!(found(&dir, "invoice kitchen", "text"), ["kitchen", "garden", "trip"], "all words, then some");
    assert_eq!(found(&dir, "zurich", "text"), ["trip"], "without its diaeresis");
    assert_eq!(found(&dir, "reno*", "text"), ["kitchen"]);
    assert_eq!(found(&dir, "\"end of march\"", "text"), ["kitchen"]);
    assert!(found(&dir, "\"march of end\"", "text").is_empty());
    assert_eq!(found(&dir, "bert@example.org", "text").len(), 5);
    let ran = job(&dir, "invoice").param("mode", "text").param("limit", 1).run();
    assert_eq!(ran.assert_ok().event("search.completed").payload["hits"], 1);
    let hit = &hits(&dir)[0];
    assert_eq!((&hit["rank"], &hit["text_rank"], &hit["vector_rank"]), (&json!(1), &json!(1), &json!(null)));
    assert_eq!((&hit["from"], &hit["date"]), (&json!("Anna Berg <anna@example.org>"), &json!("2024-01-01T10:00:00Z")));
}

#[test]
fn vectors_find_misspelled_words() {
    let dir = indexed(&DOCUMENTS);
    assert!(found(&dir, "invioce kitchn renovaton", "text").is_empty());
    assert_eq!(found(&dir, "invioce kitchn renovaton", "vector").first().map(String::as_str), Some("kitchen"));
    assert_eq!(found(&dir, "kitchen renovaton", "both")[0], "kitchen");
    let hit = &hits(&dir)[0];
    assert_eq!((&hit["text_rank"], &hit["vector_rank"]), (&json!(1), &json!(1)));
    assert!(found(&dir, "qqqq wwww", "both").is_empty());
}

#[test]
fn meaning_is_found_with_a_model_and_not_without() {
    let documents =
        [("auto", "Brakes", "The automobile needs new ones"), ("rose", "Garden", "A rose for Anna"), ("none", "Other", "things")];
    let dir = indexed(&documents);
    assert!(found(&dir, "car", "both").is_empty());
    let model = dir.path().join("model");
    small_model::write(&model);
    index(&dir, &documents).param("model", &model).run().assert_ok();
    assert_eq!(found(&dir, "car", "both"), ["auto"]);
    let hit = &hits(&dir)[0];
    assert_eq!((&hit["text_rank"], &hit["vector_rank"]), (&json!(null), &json!(1)));
    assert_eq!(found(&dir, "flower", "vector"), ["rose"]);
    assert!(found(&dir, "car", "text").is_empty());
    // By words first, then by meaning.
    assert_eq!(found(&dir, "things car", "both").len(), 2);
    assert!(found(&dir, "unknownword", "both").is_empty());
    let ran = job(&dir, "car").run();
    assert!(ran.event("search.completed").payload["embedding"].as_str().unwrap().starts_with("static/1/4/"));
}

#[test]
fn a_search_needs_the_model_of_the_index() {
    let documents = [("auto", "Brakes", "The automobile needs new ones")];
    let dir = indexed(&documents);
    let (model, moved) = (dir.path().join("model"), dir.path().join("moved"));
    small_model::write(&model);
    let with = |model: &std::path::Path| job(&dir, "car").param("model", model).run();
    with(&model).assert_permanent("the index uses hashed words, not a model; run vector-projector/index_documents --model DIR");
    job(&dir, "car").param("model", "none").run().assert_ok();
    index(&dir, &documents).param("model", &model).run().assert_ok();

    std::fs::rename(&model, &moved).unwrap();
    let gone = job(&dir, "car").run();
    gone.assert_permanent("cannot use the model of the index (--mode text needs no model): ");
    assert!(gone.error().unwrap().contains("model: no such directory; set --model to a directory"), "{:?}", gone.error());
    assert!(found(&dir, "car", "text").is_empty());
    with(&moved).assert_ok();
    assert_eq!(hits(&dir).len(), 1);
    with(&dir.path().join("no")).assert_permanent("no: no such directory; set --model to");
    job(&dir, "car").param("model", "none").run().assert_permanent("the index was built with another model, in ");

    small_model::write(&model);
    std::fs::write(model.join("model.safetensors"), small_model::table(0.5)).unwrap();
    job(&dir, "car").run().assert_permanent("model: has changed since the index was built; run vector-projector/index_documents");
    with(&model).assert_permanent("the index was built with another model, in ");
    with(&moved).assert_ok();
    // The error contains the command that fixes it.
    index(&dir, &documents).run().assert_ok();
    job(&dir, "car").run().assert_ok();
}

#[test]
fn a_search_never_mixes_vectors_of_two_models() {
    let dir = indexed(&DOCUMENTS);
    let data_dir = dir.path().join("vector-projector");
    let wanted = Embedding::load(None, None).unwrap().of_query("invoice kitchen").unwrap();
    let index = Index::to_search(&data_dir).unwrap();
    let made = index.made.clone();
    // What a run with another model does during the search.
    let db = rusqlite::Connection::open(data_dir.join("index.db")).unwrap();
    db.execute_batch("BEGIN; UPDATE vectors SET vector = zeroblob(512); UPDATE about SET embedding = 'another'; COMMIT").unwrap();
    let found = |index: &Index| index.by_vector(&wanted, 10, 0.15).unwrap().len();
    assert!(found(&index) > 0, "the previous hits");
    drop(index);
    let index = Index::to_search(&data_dir).unwrap();
    assert_eq!((found(&index), index.made == made), (0, false));
}

#[test]
fn an_index_with_other_vectors_is_an_error() {
    let dir = indexed(&DOCUMENTS);
    let db = rusqlite::Connection::open(dir.path().join("vector-projector/index.db")).unwrap();
    for (change, says) in [
        (
            "UPDATE about SET embedding = 'another'",
            "was created by another version; run vector-projector/index_documents to rebuild it",
        ),
        ("UPDATE about SET embedding = ''", "there is no index yet; run vector-projector/index_documents first"),
    ] {
        db.execute_batch(change).unwrap();
        job(&dir, "invoice").run().assert_permanent(says);
    }
}

#[test]
fn no_query_causes_a_syntax_error() {
    let dir = indexed(&DOCUMENTS);
    for query in [
        "AND",
        "OR OR",
        "NEAR(",
        "a NOT",
        "(",
        "x)",
        "title:invoice",
        "^invoice",
        "invoice*",
        "-invoice",
        "+a + b",
        "\"",
        "\"\"a",
        "a\"b",
        "'a'",
        "{people title}: a",
        "a AND AND b",
        "ü*",
        "日本",
        "😀 a",
        "%_",
        "a;b--c",
        "\\",
    ] {
        for mode in ["text", "vector", "both"] {
            let ran = job(&dir, query).param("mode", mode).run();
            match ran.error() {
                None => {}
                Some(error) => assert!(error.contains("the query contains no words"), "{query}: {error}"),
            }
        }
    }
}

#[test]
fn an_impossible_search_is_an_error() {
    let dir = TempDir::new();
    job(&dir, "x").run().assert_permanent("there is no index yet; run vector-projector/index_documents first");
    let dir = indexed(&DOCUMENTS);
    for query in ["", "  ", "***", "\"\""] {
        job(&dir, query).run().assert_permanent("the query contains no words");
    }
    job(&dir, "x").param("limit", 0).run().assert_permanent("--limit 0 must be between 1 and 1000");
}

#[test]
fn the_event_contains_no_personal_data_and_output_cannot_control_a_terminal() {
    let dir = indexed(&DOCUMENTS);
    let ran = job(&dir, "escape sequences").run();
    let payload = ran.assert_ok().event("search.completed").payload.to_string();
    assert!(!payload.contains("escape") && !payload.contains("anna"), "{payload}");
    let hit = &hits(&dir)[0];
    assert_eq!(
        (&hit["id"], &hit["title"], &hit["snippet"]),
        (&json!("steer"), &json!("[31mred"), &json!("]0;title escape sequences"))
    );
    let mut out = Vec::new();
    crate::hits::print(&[], &mut out).unwrap();
    assert_eq!(out, b"Nothing was found.\n");
}
