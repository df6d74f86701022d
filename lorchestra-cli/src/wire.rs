//! Objects that commands print with `--json`, and that hooks get, as types: the one place that names their keys. `lorchestra schemas`
//! generates their JSON Schemas, which are in docs/reference/schemas.
//!
//! Times are RFC 3339 in UTC. Where a field does not say that its key is omitted, an unknown or inapplicable value is null.

mod changes;
mod group;
mod packages;
mod plugins;
mod run;
mod window;

pub(crate) use changes::{BookmarkChange, FlushObject, PruneObject, SetupObject, StopObject};
pub(crate) use group::{BackfillWindow, GroupDetails, GroupLine, GroupObject, WindowObject};
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::RunSpec;
use lorchestra_core::store::{Event, OwnType};
pub(crate) use packages::{JobDetails, JobOverview, JobsList, PackageObject, ProblemObject};
pub(crate) use plugins::{
    ChangedSignature, CheckedJob, CheckedLibrary, DirectoryObject, FileObject, GlibcObject, InstalledObject, JobSignature,
    LoadObject, LockedObject, PluginsCheck, PluginsInstall, PluginsList, PluginsLock, PluginsRemove,
};
pub(crate) use run::{ArtifactObject, AttemptObject, BookmarkMove, RunDetails, RunLine, RunObject, RunOutcome, RunSummary};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
pub(crate) use window::{WindowReport, WindowResult};

/// Returns the schema of every object, by its name without `lorchestra.`, and of the payload of each of lorchestra's own events, by the type
/// of the event.
pub(crate) fn schemas() -> Vec<(&'static str, Schema)> {
    let payloads = OwnType::ALL.map(|own| (own.as_str(), own.schema()));
    let objects = vec![
        ("backfill-window", schema_for!(BackfillWindow)),
        ("bookmark", schema_for!(BookmarkObject)),
        ("bookmark-change", schema_for!(BookmarkChange)),
        ("claim", lorchestra_core::run::claim::schema()),
        ("config", schema_for!(SettingsObject)),
        ("config-keys", schema_for!(KeysObject)),
        ("doctor", schema_for!(DoctorObject)),
        ("event", schema_for!(EventLine<'static>)),
        ("events-flush", schema_for!(FlushObject)),
        ("events-setup", schema_for!(SetupObject)),
        ("group", schema_for!(GroupLine)),
        ("group-show", schema_for!(GroupDetails)),
        ("hook", schema_for!(HookInput)),
        ("jobs-list", schema_for!(JobsList)),
        ("jobs-show", schema_for!(JobDetails)),
        ("plan", lorchestra_core::group::plan_file::schema()),
        ("plugins-check", schema_for!(PluginsCheck)),
        ("plugins-install", schema_for!(PluginsInstall)),
        ("plugins-list", schema_for!(PluginsList)),
        ("plugins-lock", schema_for!(PluginsLock)),
        ("plugins-remove", schema_for!(PluginsRemove)),
        ("run", schema_for!(RunLine)),
        ("run-job", schema_for!(RunOutcome)),
        ("run-spec", schema_for!(RunSpec)),
        ("runs-prune", schema_for!(PruneObject)),
        ("runs-show", schema_for!(RunDetails)),
        ("runs-stop", schema_for!(StopObject)),
        ("schedule", schema_for!(ScheduleObject)),
        ("status", schema_for!(StatusObject)),
        ("version", schema_for!(Version)),
        ("window-report", schema_for!(WindowReport)),
        ("window-result", schema_for!(WindowResult)),
    ];
    objects.into_iter().chain(payloads).collect()
}

/// A bookmark, as `bookmarks show --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BookmarkObject {
    #[schemars(extend("const" = "lorchestra.bookmark/1"))]
    pub(crate) schema: &'static str,
    pub(crate) package: String,
    pub(crate) job: String,
    pub(crate) account: Option<String>,
    /// Where the next `--since last` starts.
    pub(crate) at: String,
    /// When the bookmark was moved.
    pub(crate) moved_at: String,
    /// What moved it: a person (`bookmarks set`), a run, or `backfill --move-bookmark`.
    #[schemars(extend("enum" = ["user", "run", "backfill"]))]
    pub(crate) moved_by: &'static str,
    /// The run that moved it; null if something else did.
    pub(crate) run_id: Option<String>,
    /// The backfill that moved it; null if something else did, or a backfill that had nothing to run.
    pub(crate) group_id: Option<String>,
}

/// The settings, as `config show --json` prints them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SettingsObject {
    #[schemars(extend("const" = "lorchestra.config/1"))]
    pub(crate) schema: &'static str,
    /// Path of the configuration file, which need not exist.
    pub(crate) file: String,
    pub(crate) settings: Vec<Setting>,
}

/// A setting with its origin.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Setting {
    /// A key of the file with its tables, such as `retention.logs` or `job."package/job".timeout`; or `plugin_dir`, once for each directory
    /// that is searched.
    pub(crate) key: String,
    /// `none` if the key has no value. Of a secret its source; of a monitor's URL the host.
    pub(crate) value: String,
    /// A flag, the name of an environment variable, the path of the file, or `default`.
    pub(crate) origin: String,
}

/// Every key of config.toml, as `config keys --json` prints them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeysObject {
    #[schemars(extend("const" = "lorchestra.config-keys/1"))]
    pub(crate) schema: &'static str,
    pub(crate) keys: Vec<KeyObject>,
}

/// A key of config.toml.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyObject {
    /// With its tables, as in `retention.logs`.
    pub(crate) key: &'static str,
    /// For people: a value, or where it comes from.
    pub(crate) default: &'static str,
    pub(crate) meaning: &'static str,
}

/// The findings of `doctor --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DoctorObject {
    #[schemars(extend("const" = "lorchestra.doctor/1"))]
    pub(crate) schema: &'static str,
    /// Whether there is no error.
    pub(crate) healthy: bool,
    pub(crate) findings: Vec<FindingObject>,
}

/// A finding of `doctor`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FindingObject {
    /// What was checked.
    pub(crate) check: &'static str,
    #[schemars(extend("enum" = ["error", "warning", "ok", "fixed"]))]
    pub(crate) level: &'static str,
    pub(crate) cause: String,
    /// What to do.
    pub(crate) fix: Option<String>,
}

/// An event in its envelope, as `events list --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventLine<'a> {
    #[schemars(extend("const" = "lorchestra.event/1"))]
    pub(crate) schema: &'static str,
    #[serde(flatten)]
    pub(crate) event: &'a Event,
    /// The destination, for undelivered events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<&'a str>,
}

/// The standard input of hooks.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct HookInput {
    #[schemars(extend("const" = "lorchestra.hook/1"))]
    pub(crate) schema: &'static str,
    #[schemars(extend("enum" = ["start", "success", "failure", "skip", "stale"]))]
    pub(crate) event: &'static str,
    pub(crate) package: String,
    pub(crate) job: String,
    pub(crate) account: Option<String>,
    pub(crate) host: String,
    /// The run; omitted for a stale job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<String>,
    /// Why the run failed; only for failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<Cause>,
    /// The cause for people, which may be the job's own text; only for failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// The run that held the overlap lock of a skipped one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held_by: Option<String>,
    /// When the last success of a stale job ended; omitted if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_success: Option<String>,
    /// The command that shows more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logs: Option<String>,
}

/// Something installed that runs a job, as `schedule list --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ScheduleObject {
    #[schemars(extend("const" = "lorchestra.schedule/1"))]
    pub(crate) schema: &'static str,
    #[schemars(extend("enum" = ["systemd", "cron"]))]
    pub(crate) kind: &'static str,
    /// When it runs, in the syntax of its kind; null for a service that no timer starts.
    pub(crate) when: Option<String>,
    /// The command that runs jobs.
    #[schemars(extend("enum" = ["run-job", "run-group", "backfill"]))]
    pub(crate) command: &'static str,
    /// The package of the job; null for a group, and if the command or its spec cannot be read.
    pub(crate) package: Option<String>,
    pub(crate) job: Option<String>,
    /// The group file, or the file of `--spec`.
    pub(crate) input: Option<String>,
    /// Where it was found.
    pub(crate) file: String,
    /// What keeps it from running.
    pub(crate) problems: Vec<String>,
}

/// The health of all jobs, as `status --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StatusObject {
    #[schemars(extend("const" = "lorchestra.status/1"))]
    pub(crate) schema: &'static str,
    /// Whether no job is failing or stale.
    pub(crate) healthy: bool,
    pub(crate) jobs: Vec<JobStatus>,
    pub(crate) delivery: Vec<UndeliveredEvents>,
}

/// The health of a job for an account.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobStatus {
    pub(crate) package: String,
    pub(crate) job: String,
    pub(crate) account: Option<String>,
    #[schemars(extend("enum" = ["ok", "running", "stale", "failing", "idle"]))]
    pub(crate) status: &'static str,
    /// `expect_every` in seconds.
    pub(crate) expected_every_s: Option<u64>,
    pub(crate) last_success: Option<RunSummary>,
    pub(crate) last_success_age_s: Option<i64>,
    pub(crate) last: Option<RunSummary>,
    /// The oldest run that is running.
    pub(crate) running: Option<RunSummary>,
    /// A run whose supervisor is dead and that could not be closed, so that its state still is running. The message is the reason.
    pub(crate) abandoned: Option<RunSummary>,
    /// The newest failed or refused run after the last success.
    pub(crate) failure: Option<RunSummary>,
    /// Failed or refused runs since the last success.
    pub(crate) failures_in_row: u64,
    /// Median duration of successful runs.
    pub(crate) usual_ms: Option<u64>,
    /// Where the next `--since last` starts.
    pub(crate) next_since: Option<String>,
    /// For each destination, the job's events that it has not received; empty with `--from bigquery`.
    pub(crate) pending: Vec<JobPending>,
}

/// Events of a job that a destination has not received.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobPending {
    pub(crate) destination: String,
    pub(crate) pending: u64,
    /// Whether there may be more: counting stopped at 10000 events of all jobs.
    pub(crate) is_minimum: bool,
}

/// Events that a destination has not received. Each number is 10001 if there are more than 10000.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UndeliveredEvents {
    pub(crate) destination: String,
    /// Events to send.
    pub(crate) pending: u64,
    /// Events that the destination refused: `events list --failed`.
    pub(crate) refused: u64,
    /// Events that may have arrived: `events list --uncertain`.
    pub(crate) uncertain: u64,
}

/// The binary, as `--version --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Version {
    #[schemars(extend("const" = "lorchestra.version/1"))]
    pub(crate) schema: &'static str,
    pub(crate) version: &'static str,
    /// The commit that was checked out, or what `LORCHESTRA_REVISION` was during the build; null if it was built without either. Whether files
    /// were changed since that commit is not known.
    pub(crate) revision: Option<&'static str>,
    pub(crate) abi_revision: u32,
    /// Processor and system.
    pub(crate) target: String,
    /// Optional features that it was built with: `otel`.
    pub(crate) features: Vec<&'static str>,
}
