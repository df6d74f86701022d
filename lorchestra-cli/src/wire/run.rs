//! Runs as objects: a line of `runs list`, `runs show`, the outcome that `run-job` prints.

use super::JsonSchema;
use crate::show::exact_time;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::{Run, short_id};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A run, as `runs list --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunLine {
    #[schemars(extend("const" = "lorchestra.run/1"))]
    pub(crate) schema: &'static str,
    #[serde(flatten)]
    pub(crate) run: RunObject,
    /// The group that the run belongs to: the id of a backfill or of a `run-group`, or the name given with `run-job --group`.
    pub(crate) group: Option<String>,
    /// Number of attempts started.
    pub(crate) attempts: u32,
    /// Why the run could not be closed although its supervisor is dead; omitted for every other run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unclosed: Option<String>,
}

/// What is known of every run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunObject {
    pub(crate) run_id: String,
    /// The end of the id, which all commands print and accept.
    pub(crate) short_id: String,
    pub(crate) package: String,
    pub(crate) job: String,
    pub(crate) account: Option<String>,
    #[schemars(extend("enum" = ["running", "completed", "failed", "skipped", "refused", "superseded", "claimed"]))]
    pub(crate) state: &'static str,
    pub(crate) cause: Option<Cause>,
    /// The cause for people.
    pub(crate) message: Option<String>,
    /// The job's own result, if the run ended differently (timeout, cancelled).
    pub(crate) job_result: Option<String>,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    /// Beginning of its window.
    pub(crate) since: Option<String>,
    /// End of its window.
    pub(crate) until: Option<String>,
    pub(crate) plugin_path: Option<String>,
    pub(crate) plugin_version: Option<String>,
    pub(crate) plugin_sha256: Option<String>,
    /// `file:line` of the job.
    pub(crate) location: Option<String>,
    pub(crate) host: String,
    pub(crate) supervisor_pid: u32,
}

impl RunObject {
    pub(crate) fn of(run: &Run) -> Self {
        // A refused run has no library.
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            run_id: run.run_id.clone(),
            short_id: short_id(&run.run_id).to_owned(),
            package: run.package.clone(),
            job: run.job.clone(),
            account: run.account.clone(),
            state: run.state.as_str(),
            cause: run.cause,
            message: run.message.clone(),
            job_result: run.job_result.clone(),
            started_at: exact_time(run.started_at),
            ended_at: run.ended_at.map(exact_time),
            since: run.since.map(exact_time),
            until: run.until.map(exact_time),
            plugin_path: known(&run.plugin_path),
            plugin_version: known(&run.plugin_version),
            plugin_sha256: known(&run.plugin_sha256),
            location: known(&run.location),
            host: run.host.clone(),
            supervisor_pid: run.supervisor_pid,
        }
    }
}

/// A run with everything about it, as `runs show --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunDetails {
    #[schemars(extend("const" = "lorchestra.runs-show/1"))]
    pub(crate) schema: &'static str,
    #[serde(flatten)]
    pub(crate) run: RunObject,
    /// Why the run could not be closed although its supervisor is dead; omitted for every other run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unclosed: Option<String>,
    /// Its spec (schema `run-spec`) with the parameters; null if the run was refused before there was one.
    pub(crate) spec: Value,
    /// Number of events by type.
    pub(crate) events: BTreeMap<String, u64>,
    pub(crate) attempts: Vec<AttemptObject>,
    pub(crate) bookmark: Option<BookmarkMove>,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) max_rss_kib: Option<u64>,
    /// What the job reported as its result.
    pub(crate) result: Option<Value>,
    pub(crate) counters: Option<BTreeMap<String, u64>>,
    /// The last progress that the job reported: an object with `done` and `total`, or null.
    pub(crate) progress: Value,
    pub(crate) artifacts: Vec<ArtifactObject>,
    /// Paths of its log files.
    pub(crate) logs: Vec<String>,
    /// The run that held the overlap lock of a skipped one.
    pub(crate) held_by: Option<String>,
    /// Undelivered events by destination; null if none is configured.
    pub(crate) delivery: Option<Map<String, Value>>,
}

/// An attempt.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AttemptObject {
    pub(crate) attempt: u32,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    pub(crate) worker_pid: Option<u32>,
    pub(crate) cause: Option<Cause>,
    pub(crate) message: Option<String>,
}

/// A file that the job listed as an artifact.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ArtifactObject {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// Whether it still exists.
    pub(crate) exists: bool,
}

/// The effect of a run on its bookmark.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BookmarkMove {
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
}

/// The outcome of a run, as `run-job --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunOutcome {
    #[schemars(extend("const" = "lorchestra.run-job/1"))]
    pub(crate) schema: &'static str,
    pub(crate) run_id: String,
    pub(crate) package: String,
    pub(crate) job: String,
    #[schemars(extend("enum" = ["completed", "failed", "skipped", "refused", "running", "superseded"]))]
    pub(crate) state: &'static str,
    pub(crate) cause: Option<Cause>,
    pub(crate) message: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) duration_ms: u64,
    /// What the job reported as its result.
    pub(crate) result: Option<Value>,
    /// The run that held the overlap lock of a skipped one; omitted for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held_by: Option<String>,
}

/// A run in a few words.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunSummary {
    pub(crate) run_id: String,
    pub(crate) short_id: String,
    pub(crate) state: &'static str,
    pub(crate) cause: Option<Cause>,
    pub(crate) message: Option<String>,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    pub(crate) duration_ms: Option<u64>,
}
