//! `cargo xtask demo --pipeline`: extracts, canonizes, indexes and searches sample mail and a sample chat, as jobs. Then runs all steps up
//! to the index again, with nothing new.
//!
//! Fails if documents are lost on the way, or if a search does not find the expected ones.

use super::{MAILBOX, MESSAGES, Stage};
use crate::Result;
use serde_json::Value;

/// The packages, in the order in which data passes through them.
pub(super) const PACKAGES: [&str; 3] = ["ingester", "canonizer", "vector-projector"];
/// Their libraries.
const LIBRARIES: [&str; 3] = ["ingester", "canonizer", "vector_projector"];

/// Mail in Japanese, Chinese and Korean, HTML only, with attachments, and calendar invitations, one of them in a multipart/alternative.
const WORLD: &str = "example-plugins/ingester/sample/world.mbox";
/// Messages in it.
const WORLD_MESSAGES: u64 = 8;
/// Queries, each with the title of the only message that the search may show: one for each way in which a text or a name can be in it.
const FINDS: [(&str, &str); 17] = [
    ("京都", "会議のお知らせ"),
    ("山田", "会議のお知らせ"),
    ("bicycle lodz", "Your order"),
    ("shipment 4711", "Your order"),
    ("quarterly planning", "Invitation"),
    ("grossentabelle", "As agreed"),
    ("見積", "As agreed"),
    ("上海", "季度预算"),
    ("李雷", "季度预算"),
    ("预算表2024", "季度预算"),
    ("chart-of-costs", "季度预算"),
    ("서울", "출장 보고서"),
    ("김민수", "출장 보고서"),
    ("台北", "您的訂單"),
    ("發票號碼 AB12345678", "您的訂單"),
    ("harbour authority", "Invitation: kick-off"),
    ("kowalska 부산 invite.ics", "Invitation: kick-off"),
];
const CHAT: &str = "example-plugins/canonizer/sample/slack.jsonl";
/// Number of messages in it, including deleted ones.
const CHAT_MESSAGES: u64 = 14;

pub(super) fn show(stage: &Stage) -> Result {
    stage.install(&LIBRARIES)?;
    stage.lorchestra(&["jobs", "list"])?;
    to_the_index(stage)?;
    search(stage, &["--query", "lunch friday", "--limit", "3"], "Lunch on Friday?")?;
    search(stage, &["--query", "\"the meeting\"", "--mode", "text"], "The meeting is at 11")?;
    search(stage, &["--query", "signd contrakt"], "The contract")?;
    for (query, title) in FINDS {
        search(stage, &["--query", query, "--limit", "1"], &format!("\"title\":\"{title}\""))?;
    }
    to_the_index(stage)?;
    stage.lorchestra(&["runs", "list"])?;
    for event_type in ["extraction.completed", "canonicalization.completed", "index.completed"] {
        stage.lorchestra(&["events", "list", "--payload", "--type", event_type])?;
    }
    check(stage)
}

fn to_the_index(stage: &Stage) -> Result {
    stage.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", MAILBOX, "--account", "demo"])?;
    stage.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", WORLD, "--account", "world"])?;
    stage.lorchestra(&["run-job", "canonizer", "canonicalize_email"])?;
    stage.lorchestra(&["run-job", "canonizer", "canonicalize_message", "--input", CHAT])?;
    stage.lorchestra(&["run-job", "vector-projector", "index_documents"])
}

/// Runs a search and checks its hits, which are in the run's log.
fn search(stage: &Stage, args: &[&str], expected: &str) -> Result {
    stage.lorchestra(&[&["run-job", "vector-projector", "search"], args].concat())?;
    let runs = stage.json(&["runs", "list", "--json"])?;
    let newest = runs.first().and_then(|run| run["run_id"].as_str()).ok_or("the search has no run")?;
    stage.lorchestra(&["runs", "logs", newest])?;
    let hits = std::fs::read_to_string(stage.data().join("vector-projector/search/last.jsonl"))?;
    if hits.contains(expected) { Ok(()) } else { Err(format!("{args:?} should have found {expected:?}").into()) }
}

/// Checks that all input is in the index, and that nothing was new the second time.
fn check(stage: &Stage) -> Result {
    let events = stage.json(&["events", "list", "--payload", "--json", "--type", "index.completed"])?;
    let payloads: Vec<&Value> = events.iter().map(|event| &event["payload"]).collect();
    let [first, second] = payloads[..] else { return Err(format!("{} runs of index_documents, not two", payloads.len()).into()) };
    let documents = MESSAGES + WORLD_MESSAGES + CHAT_MESSAGES;
    println!("\n{documents} documents; the second time {} of them as before", second["unchanged"]);
    if first["added"] != documents || second["unchanged"] != documents || second["documents"] != documents {
        return Err(format!("{documents} documents should be in the index: {first} {second}").into());
    }
    Ok(())
}
