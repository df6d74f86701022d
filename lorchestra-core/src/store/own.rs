//! Payloads of lorchestra's own events as types: `job.*` events are written and read back as the same type.

use super::{Claimed, Refused, RunState};
use crate::outcome::{Failure, Outcome};
use crate::plan::{RequestedBy, RunSpec};
use lorchestra_plugin_api::results::{Artifact, Dataset, Results};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The type of one of lorchestra's own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented by `meaning`")]
pub enum OwnType {
    Started,
    Completed,
    Failed,
    Superseded,
    Skipped,
    Refused,
    Claimed,
}

impl OwnType {
    /// Every type.
    pub const ALL: [Self; 7] =
        [Self::Started, Self::Completed, Self::Failed, Self::Superseded, Self::Skipped, Self::Refused, Self::Claimed];

    /// The type as stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "job.started",
            Self::Completed => "job.completed",
            Self::Failed => "job.failed",
            Self::Superseded => "job.superseded",
            Self::Skipped => "job.skipped",
            Self::Refused => "job.refused",
            Self::Claimed => "job.claimed",
        }
    }

    /// Returns the type with this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.as_str() == text)
    }

    /// The state of a run after the event.
    pub fn state(self) -> RunState {
        match self {
            Self::Started => RunState::Running,
            Self::Completed => RunState::Completed,
            Self::Failed => RunState::Failed,
            Self::Superseded => RunState::Superseded,
            Self::Skipped => RunState::Skipped,
            Self::Refused => RunState::Refused,
            Self::Claimed => RunState::Claimed,
        }
    }

    /// What the event reports, for the reference.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Started => "A run has started.",
            Self::Completed => "A run has completed: its job returned `Ok`, and all of its events are in the store.",
            Self::Failed => "A run has failed.",
            Self::Superseded => "The job of a run succeeded, but another run of the same window counts.",
            Self::Skipped => "A run was skipped because another run of the same job and account was running.",
            Self::Refused => "A run was requested but could not start.",
            Self::Claimed => "Another host has read that this run has the claim of its window: the run counts.",
        }
    }

    /// Returns the JSON Schema of the payload, with the type as its title and the meaning as its description.
    pub fn schema(self) -> Schema {
        let mut schema = match self {
            Self::Started => without(schema_for!(Started), &["held_by"]),
            Self::Skipped => schema_for!(Started),
            Self::Completed => {
                let failure = keys(&schema_for!(Failure));
                without(schema_for!(Terminal), &failure.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Self::Failed | Self::Superseded => with_required(schema_for!(Terminal), keys(&schema_for!(Failure))),
            Self::Refused => schema_for!(Refused),
            Self::Claimed => schema_for!(Claimed),
        };
        schema.insert("title".into(), self.as_str().into());
        schema.insert("description".into(), self.meaning().into());
        schema
    }
}

fn keys(schema: &Schema) -> Vec<String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(Map::keys).cloned().collect()
}

fn without(mut schema: Schema, keys: &[&str]) -> Schema {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|key, _| !keys.contains(&key.as_str()));
    }
    schema
}

fn with_required(mut schema: Schema, keys: Vec<String>) -> Schema {
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.extend(keys.into_iter().map(Value::from));
    }
    schema
}

/// Payload of `job.started`; with `held_by`, of `job.skipped`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Parameters as the job receives them, without secrets.
    pub parameters: Map<String, Value>,
    /// Start of the window.
    pub since: Option<String>,
    /// End of the window.
    pub until: Option<String>,
    /// The host on which the run was requested.
    pub host: String,
    /// Version of lorchestra.
    pub lorchestra_version: String,
    /// Path of the library.
    pub plugin_path: String,
    /// Version of the package.
    pub plugin_version: String,
    /// SHA-256 of the library that ran.
    pub plugin_sha256: String,
    /// Maximum number of retries.
    pub retries: u32,
    /// Limit on the memory of each of the job's processes, in bytes.
    pub memory_max: Option<u64>,
    /// Who requested the run: `command-line`, `schedule`, `rerun:RUN` or `engine:NAME`.
    #[schemars(with = "String")]
    pub requested_by: RequestedBy,
    /// The group of the run.
    pub group: Option<String>,
    /// W3C trace context of the requester.
    pub trace_parent: Option<String>,
    /// The run that held the overlap lock; only for a skipped run, and if known.
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

/// Payload of `job.completed`, `job.failed` and `job.superseded`: how a run ended, and the measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Terminal {
    /// The last attempt, counted from 1.
    pub attempt: u32,
    /// Time from the start of the run to its end. If its supervisor died: to the last sign of the run.
    pub duration_ms: u64,
    /// Processor time of all attempts in user mode, if known.
    pub user_ms: Option<u64>,
    /// Processor time of all attempts in kernel mode, if known.
    pub system_ms: Option<u64>,
    /// Peak memory of any attempt, if known.
    pub max_rss_kib: Option<u64>,
    /// Number of spool records that were skipped because they were unreadable or forged. A forged record has a valid checksum, but no
    /// worker writes such a record: it has an event type of lorchestra, an invalid time, or a payload that is not an object.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub damaged: u64,
    /// Bytes of output that were lost because the disk was full.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_lost: u64,
    /// Number of child processes that could not be killed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub processes_left: u64,
    /// What the job reported as its result in the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The files that the job listed as artifacts in the last attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ListedArtifact>,
    /// Counters of the job in the last attempt.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
    /// The last progress that the job reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// Data sets that the job reported as read, each with `namespace` and `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<BTreeMap<String, String>>")]
    pub inputs: Vec<Dataset>,
    /// Data sets that the job reported as written, each with `namespace` and `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<BTreeMap<String, String>>")]
    pub outputs: Vec<Dataset>,
    /// How earlier attempts ended: the last 20, oldest first.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedArtifact {
    /// Absolute path.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// How far a job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgress {
    /// Units done.
    pub done: u64,
    /// Units in total; 0 if unknown.
    pub total: u64,
}

/// An attempt before the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

    /// A job that emitted one of these types could forge the end of a run.
    #[test]
    fn no_job_may_emit_an_own_type() {
        for own in OwnType::ALL {
            assert!(lorchestra_plugin_api::limits::RESERVED_TYPES.contains(&own.as_str()), "{own:?}");
            let schema = own.schema();
            assert!(keys(&schema).len() > 4 && schema.get("title") == Some(&own.as_str().into()), "{schema:?}");
        }
    }

    #[test]
    fn a_terminal_payload_survives_its_json() {
        let completed = Terminal {
            attempt: 1,
            duration_ms: 2,
            user_ms: Some(3),
            system_ms: Some(4),
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
