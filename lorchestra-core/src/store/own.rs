//! Payloads of lorchestra's own events as types: `job.*` events are written and read back as the same type.

use crate::outcome::{Failure, Outcome};
use crate::plan::{RequestedBy, RunSpec};
use lorchestra_plugin_api::results::{Artifact, Dataset, Results};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Payload of `job.started`; with `held_by`, of `job.skipped`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented in docs/reference/events.md, or at RunSpec")]
pub struct Started {
    pub parameters: Map<String, Value>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub host: String,
    pub lorchestra_version: String,
    pub plugin_path: String,
    pub plugin_version: String,
    pub plugin_sha256: String,
    pub retries: u32,
    pub memory_max: Option<u64>,
    pub requested_by: RequestedBy,
    pub group: Option<String>,
    pub trace_parent: Option<String>,
    /// For a skipped run, the run that held the overlap lock, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

/// The environment of a run, in addition to its spec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOrigin<'a> {
    pub(crate) host: &'a str,
    pub(crate) lorchestra_version: &'a str,
    pub(crate) plugin_path: &'a str,
    pub(crate) plugin_sha256: &'a str,
}

impl Started {
    /// Creates the payload for a run of `spec`.
    pub(crate) fn of(spec: &RunSpec, place: RunOrigin<'_>) -> Self {
        let time = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        Self {
            parameters: spec.params.clone(),
            since: spec.window.and_then(|window| window.since).map(time),
            until: spec.window.map(|window| time(window.until)),
            host: place.host.to_owned(),
            lorchestra_version: place.lorchestra_version.to_owned(),
            plugin_path: place.plugin_path.to_owned(),
            plugin_version: spec.version.clone(),
            plugin_sha256: place.plugin_sha256.to_owned(),
            retries: spec.retries.limit,
            memory_max: spec.memory_max,
            requested_by: spec.requested_by.clone(),
            group: spec.group.clone(),
            trace_parent: spec.trace_parent.clone(),
            held_by: None,
        }
    }
}

/// Payload of `job.completed` and `job.failed`: how a run ended, and the measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terminal {
    /// The last attempt, counted from 1.
    pub attempt: u32,
    /// Time from the start of the run to its end.
    pub duration_ms: u64,
    /// Processor time of all attempts in user mode.
    pub user_ms: u64,
    /// Processor time of all attempts in kernel mode.
    pub system_ms: u64,
    /// Peak memory of any attempt, if known.
    pub max_rss_kib: Option<u64>,
    /// Number of spool records that could not be read, or that no worker writes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub damaged: u64,
    /// Bytes of output that the disk refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_lost: u64,
    /// Number of the job's processes that could not be killed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub processes_left: u64,
    /// The job's result in the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The files that it listed as artifacts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ListedArtifact>,
    /// Its counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
    /// The last progress that it reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// Data that it has read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Dataset>,
    /// Data that it has written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Dataset>,
    /// How earlier attempts ended: the last ones, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_attempts: Vec<EarlierAttempt>,
    /// Why it failed; `None` if it completed.
    #[serde(flatten)]
    pub failure: Option<Failure>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A file that a job listed as an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedArtifact {
    /// Absolute path.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// How far a job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Units done.
    pub done: u64,
    /// Units in total; 0 if unknown.
    pub total: u64,
}

/// An attempt before the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at Attempt")]
pub struct EarlierAttempt {
    pub attempt: u32,
    pub cause: Option<crate::outcome::Cause>,
    pub message: Option<String>,
    pub duration_ms: Option<i64>,
}

impl Terminal {
    /// Adds what the job reported.
    #[must_use]
    pub(crate) fn with_results(self, results: &Results) -> Self {
        let listed = |artifact: &Artifact| ListedArtifact { path: artifact.path.clone(), bytes: artifact.bytes };
        Self {
            result: results.result.clone(),
            artifacts: results.artifacts.iter().map(listed).collect(),
            counters: results.counters.clone(),
            progress: results.progress.map(|(done, total)| JobProgress { done, total }),
            inputs: results.inputs.clone(),
            outputs: results.outputs.clone(),
            ..self
        }
    }

    /// Returns the outcome of the run.
    pub fn outcome(&self) -> Outcome {
        self.failure.clone().map_or(Outcome::Completed, Outcome::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Cause;
    use serde_json::json;

    #[test]
    fn a_terminal_payload_survives_its_json() {
        let completed = Terminal {
            attempt: 1,
            duration_ms: 2,
            user_ms: 3,
            system_ms: 4,
            max_rss_kib: None,
            damaged: 0,
            output_lost: 0,
            processes_left: 0,
            result: None,
            artifacts: Vec::new(),
            counters: BTreeMap::new(),
            progress: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            earlier_attempts: Vec::new(),
            failure: None,
        };
        let json = serde_json::to_value(&completed).unwrap();
        assert_eq!(json, json!({"attempt": 1, "duration_ms": 2, "user_ms": 3, "system_ms": 4, "max_rss_kib": null}));
        assert_eq!(serde_json::from_value::<Terminal>(json).unwrap(), completed);
        let artifact = Artifact { path: "/a.csv".into(), bytes: 7, version: (1, 2) };
        let results = Results {
            result: Some(json!({"rows": 3})),
            artifacts: vec![artifact],
            counters: BTreeMap::from([("rows.read".into(), 3)]),
            progress: Some((3, 4)),
            inputs: vec![Dataset { namespace: "file".into(), name: "/in".into() }],
            outputs: Vec::new(),
        };
        let completed = completed.with_results(&results);
        let json = serde_json::to_value(&completed).unwrap();
        assert_eq!((&json["result"], &json["artifacts"]), (&json!({"rows": 3}), &json!([{"path": "/a.csv", "bytes": 7}])));
        assert_eq!((&json["inputs"], json.get("outputs")), (&json!([{"namespace": "file", "name": "/in"}]), None));
        assert_eq!((&json["counters"], &json["progress"]), (&json!({"rows.read": 3}), &json!({"done": 3, "total": 4})));
        assert_eq!(serde_json::from_value::<Terminal>(json).unwrap(), completed);
        let failure = Failure {
            cause: Cause::Signal,
            message: "m".into(),
            permanent: false,
            job_result: None,
            signal: Some(9),
            exit_code: None,
        };
        let earlier = EarlierAttempt { attempt: 1, cause: Some(Cause::Error), message: Some("x".into()), duration_ms: Some(5) };
        let failed = Terminal { attempt: 2, damaged: 1, earlier_attempts: vec![earlier], failure: Some(failure), ..completed };
        let json = serde_json::to_value(&failed).unwrap();
        assert_eq!((&json["cause"], &json["signal"], &json["exit_code"]), (&json!("signal"), &json!(9), &json!(null)));
        assert_eq!(serde_json::from_value::<Terminal>(json).unwrap(), failed);
    }
}
