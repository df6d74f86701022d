//! The session of `cargo xtask demo`: two small packages, `hello` and `shop` (`xtask/demo-plugin`), which are quick to build.

use super::Stage;
use crate::Result;

/// The packages to build.
pub(super) const PACKAGES: [&str; 2] = ["hello", "demo-plugin"];
/// Their libraries.
const LIBRARIES: [&str; 2] = ["hello", "shop"];

/// All events of the session, oldest first.
const EVENTS: [&str; 16] = [
    "job.started",
    "greeting.said",
    "job.completed",
    // The crash: both events before it are there, and its end is recorded.
    "job.started",
    "label.printed",
    "label.printed",
    "job.failed",
    // The retry: one run, one end.
    "job.started",
    "stock.copied",
    "job.completed",
    "job.started",
    "orders.imported",
    "job.completed",
    "job.started",
    "orders.imported",
    "job.completed",
];

pub(super) fn show(stage: &Stage) -> Result {
    stage.install(&LIBRARIES)?;
    stage.lorchestra(&["jobs", "list"])?;
    stage.lorchestra(&["run-job", "hello", "greet", "--name", "Anna"])?;
    println!("\n# A job that crashes: its events and its end are recorded.");
    stage.ends_with(1, &["run-job", "shop", "print_labels"])?;
    println!("\n# A job that fails at first and is retried.");
    stage.lorchestra(&["run-job", "shop", "sync_stock"])?;
    println!("\n# A job that continues where its last success ended.");
    stage.lorchestra(&["run-job", "shop", "import_orders"])?;
    stage.lorchestra(&["run-job", "shop", "import_orders", "--since", "last"])?;
    stage.lorchestra(&["events", "list", "--type", "orders.imported", "--payload"])?;
    println!();
    stage.lorchestra(&["runs", "list"])?;
    check(stage)
}

/// Compares the recorded events with the story.
fn check(stage: &Stage) -> Result {
    let events = stage.json(&["events", "list", "--payload", "--json"])?;
    let types: Vec<&str> = events.iter().filter_map(|event| event["event_type"].as_str()).collect();
    if types != EVENTS {
        return Err(format!("the recorded events are {}", types.join(", ")).into());
    }
    let windows: Vec<_> =
        events.iter().filter(|event| event["event_type"] == "orders.imported").map(|event| &event["payload"]).collect();
    match windows[..] {
        [first, second] if first["to"] == second["from"] => Ok(()),
        _ => Err(format!("the second import should start where the first one ended: {windows:?}").into()),
    }
}
