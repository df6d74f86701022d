//! The run that events belong to. Talks to nobody.

use crate::events;
use lorchestra_core::store::NewRun;
use serde_json::json;

/// One that is about to begin.
pub fn new_run(run_id: &str) -> NewRun {
    NewRun {
        run_id: run_id.to_owned(),
        package: events::PACKAGE.into(),
        job: events::JOB.into(),
        account: None,
        started_at: events::BEGIN,
        params: json!({}),
        since: None,
        until: None,
        plugin_path: "/plugins/libbench_plugin.so".into(),
        plugin_version: "0.1.0".into(),
        plugin_sha256: "0".repeat(64),
        location: "src/lib.rs:25".into(),
        host: "host".into(),
        supervisor_pid: 1,
        supervisor_start: 0,
        boot_id: "0".repeat(36),
        worker_pid: Some(1),
        keeps_bookmark: false,
    }
}
