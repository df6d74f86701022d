//! The run of the events. Pure functions only.

use crate::events;
use lorchestra_core::host::process::Identity;
use lorchestra_core::plan::RunSpec;
use lorchestra_core::store::{NewRun, RunEnd, Started, Terminal};

/// A run that is about to start.
pub fn new_run(run_id: &str) -> NewRun {
    NewRun {
        run_id: run_id.to_owned(),
        spec: spec(),
        started_at: events::BEGIN,
        plugin_path: "/plugins/libbench_plugin.so".into(),
        plugin_sha256: "0".repeat(64),
        location: "src/lib.rs:25".into(),
        host: "host".into(),
        supervisor: Identity { pid: 1, start: 0, boot_id: "0".repeat(36) },
        worker_pid: Some(1),
        keeps_bookmark: false,
    }
}

fn spec() -> RunSpec {
    RunSpec::bare(events::PACKAGE, events::JOB, "0.1.0", chrono::DateTime::UNIX_EPOCH)
}

/// The payload of its first event.
pub fn started() -> Started {
    Started {
        parameters: serde_json::Map::new(),
        since: None,
        until: None,
        host: "host".into(),
        lorchestra_version: "0.1.0".into(),
        plugin_path: "/plugins/libbench_plugin.so".into(),
        plugin_version: "0.1.0".into(),
        plugin_sha256: "0".repeat(64),
        retries: 0,
        memory_max: None,
        requested_by: lorchestra_core::plan::RequestedBy::CommandLine,
        group: None,
        trace_parent: None,
        held_by: None,
    }
}

/// A successful end after a millisecond.
pub fn end() -> RunEnd {
    let terminal = Terminal {
        attempt: 1,
        duration_ms: 1,
        user_ms: Some(0),
        system_ms: Some(0),
        max_rss_kib: None,
        damaged: 0,
        output_lost: 0,
        processes_left: 0,
        result: None,
        artifacts: Vec::new(),
        counters: Default::default(),
        progress: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        earlier_attempts: Vec::new(),
        failure: None,
    };
    RunEnd { ended_at: events::BEGIN, bookmark: None, results: Default::default(), terminal }
}
