//! [`RunSpec`]: everything that defines one run, as a value that can be printed, stored, sent to another machine, and run again.
//!
//! Owns its JSON form. [`super::resolve`] creates one from the user's input. [`RunSpec::from_json`] parses one, and [`RunSpec::check`]
//! compares it with the job that will run, so that parameters of the wrong type never reach plugin code, even from a spec that was edited.
//! A spec has no relative times and no secret values. Pure functions only.
//!
//! ```text
//! {"schema": "lorchestra.run-spec/1",
//!  "package": "ingester", "job": "extract_gmail", "version": "0.1.0", "sha256": "9f86…" or null (any),
//!  "params": {…}, "secrets": {"token": "env:TOKEN"}, "account": null,
//!  "window": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}, "since_last": false,
//!  "timeout": 90 or null, "grace": 10, "on_overlap": "fail", "overlap_key": "account" or "window", "moves_bookmark": true,
//!  "retries": {"limit": 0, "on": ["error", …], "wait": 1}, "memory_max": null,
//!  "directory": "/home/anna" or null (the directory in which lorchestra is started),
//!  "claim": "/shared/claims/7" or null, "group": null, "trace_parent": null, "requested_by": "command-line",
//!  "resolved_at": "2026-01-02T03:04:05Z"}
//! ```
//!
//! Durations are in seconds, sizes in bytes, times in RFC 3339 in UTC. An unknown key is an error, because it could change what the run
//! does.

use super::fault::{self, PlanError, PlanFault};
use super::policy::RunLimits;
use super::retries::{MOST, RETRYABLE};
use super::source::Source;
use super::{OnOverlap, Retries, Window, find, is_end, last, size, time, value};
use crate::host::locks;
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// The value of `schema`, up to its version.
const SCHEMA: &str = "lorchestra.run-spec/";
/// The version that this code writes and reads.
const VERSION: u32 = 1;

/// A run before it starts: every value is checked, every time is absolute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a run spec")]
pub struct RunSpec {
    /// Version of the format.
    #[schemars(with = "String", extend("const" = "lorchestra.run-spec/1"))]
    pub(crate) schema: Schema,
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Version of the package.
    pub version: String,
    /// SHA-256 of the library in hexadecimal; `None` accepts any library.
    pub sha256: Option<String>,
    /// Parameters by name, as the job receives them. Omits optional parameters that were not given.
    pub params: Map<String, Value>,
    /// Secret parameters and the source of each, including optional ones, whose source may have no secret.
    #[schemars(with = "BTreeMap<String, String>")]
    pub secrets: BTreeMap<String, Source>,
    /// Value of the `account` parameter, if the job has one: runs for one account do not overlap.
    pub account: Option<String>,
    /// The time span that the run covers, if the job has a time parameter `since` or `until`.
    pub window: Option<Window>,
    /// Whether `since` is the bookmark: the run uses the bookmark's position when it starts.
    pub since_last: bool,
    /// Time limit of an attempt; `None` for no limit.
    #[serde(with = "optional_seconds")]
    #[schemars(with = "Option<f64>")]
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    #[serde(with = "seconds")]
    #[schemars(with = "f64")]
    pub grace: Duration,
    /// What to do if another run of the job and account is running.
    #[schemars(with = "String")]
    pub on_overlap: OnOverlap,
    /// Which runs of the job exclude each other.
    #[schemars(with = "String")]
    pub overlap_key: OverlapKey,
    /// Whether success may move the bookmark of job and account.
    pub moves_bookmark: bool,
    /// Which failures to retry, how many times, and after which delay.
    pub retries: Retries,
    /// Memory limit in bytes for each of the job's processes; `None` for no limit.
    pub memory_max: Option<u64>,
    /// Working directory of the job; `None` for that of the process that runs it.
    pub directory: Option<String>,
    /// The file that decides which of several runs of one window counts ([`crate::run::claim`]); `None` if there is one run.
    pub claim: Option<String>,
    /// The group of runs to which this one belongs.
    pub group: Option<String>,
    /// W3C trace context (`traceparent`) of the requester.
    pub trace_parent: Option<String>,
    /// Who requested the run.
    #[schemars(with = "String")]
    pub requested_by: RequestedBy,
    /// The time to which relative times refer, to the microsecond.
    #[schemars(with = "String")]
    pub resolved_at: DateTime<Utc>,
}

/// Which runs of a job exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlapKey {
    /// Those for the same account.
    #[default]
    Account,
    /// Those for the same account with the same window and parameters: the windows of a backfill run side by side.
    Window,
}

/// Who requested a run. As text: `command-line`, `schedule`, `rerun:RUN`, `engine:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RequestedBy {
    /// A person, or a script.
    #[default]
    CommandLine,
    /// A timer: cron, a systemd timer.
    Schedule,
    /// A repetition of this run.
    Rerun(String),
    /// An engine with this name.
    Engine(String),
}

impl fmt::Display for RequestedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command-line"),
            Self::Schedule => f.write_str("schedule"),
            Self::Rerun(run_id) => write!(f, "rerun:{run_id}"),
            Self::Engine(name) => write!(f, "engine:{name}"),
        }
    }
}

impl FromStr for RequestedBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| !name.is_empty() && name.len() <= MAX_LABEL && name.bytes().all(|b| b.is_ascii_graphic());
        match text.split_once(':') {
            None if text == "command-line" => Ok(Self::CommandLine),
            None if text == "schedule" => Ok(Self::Schedule),
            Some(("rerun", run_id)) if named(run_id) => Ok(Self::Rerun(run_id.to_owned())),
            Some(("engine", name)) if named(name) => Ok(Self::Engine(name.to_owned())),
            _ => Err("write command-line, schedule, rerun:RUN or engine:NAME".into()),
        }
    }
}

impl Serialize for RequestedBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestedBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Maximum number of characters in a group, and in a name in [`RequestedBy`].
const MAX_LABEL: usize = 128;

/// Parses the name of a group: up to 128 printable ASCII characters without spaces.
///
/// # Errors
/// What to write instead.
pub fn group(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= MAX_LABEL && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err(format!("write 1 to {MAX_LABEL} printable ASCII characters without blanks")) }
}

/// Parses a W3C `traceparent`: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, neither id all zeros.
///
/// # Errors
/// What to write instead.
pub fn trace_parent(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    match parts.as_slice() {
        [version, trace, span, flags]
            if hex(version, 2)
                && *version != "ff"
                && hex(trace, 32)
                && some(trace)
                && hex(span, 16)
                && some(span)
                && hex(flags, 2) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("write a W3C traceparent, such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
    }
}

/// Who requested a run, and in which context.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "documented at RunSpec")]
pub struct Context {
    pub directory: Option<String>,
    pub group: Option<String>,
    pub trace_parent: Option<String>,
    pub requested_by: RequestedBy,
}

/// The parameters as [`super::resolve`] has resolved them.
pub(super) struct Resolved {
    pub(super) params: Map<String, Value>,
    pub(super) secrets: BTreeMap<String, Source>,
    pub(super) account: Option<String>,
    pub(super) window: Option<Window>,
    pub(super) since_last: bool,
    pub(super) at: DateTime<Utc>,
}

/// Why a text is not a spec that this lorchestra can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It is not JSON, or it is truncated.
    #[error("not JSON: {0}")]
    Json(String),
    /// It is JSON, but not a run spec.
    #[error("not a run spec: its \"schema\" is not \"{SCHEMA}{VERSION}\"")]
    OtherSchema,
    /// A newer lorchestra wrote it.
    #[error("written by a newer lorchestra (run spec version {0}; this one reads {VERSION})")]
    Newer(String),
    /// A key is missing, unknown, or of the wrong type.
    #[error("not a valid run spec: {0}")]
    Invalid(String),
}

impl RunSpec {
    /// Assembles a spec.
    pub(super) fn new(names: [&str; 3], resolved: Resolved, limits: RunLimits, context: Context) -> Self {
        let [package, job, version] = names.map(str::to_owned);
        let Resolved { params, secrets, account, window, since_last, at } = resolved;
        let RunLimits { timeout, grace, on_overlap, retries, memory_max } = limits;
        let Context { directory, group, trace_parent, requested_by } = context;
        Self {
            schema: Schema,
            package,
            job,
            version,
            sha256: None,
            params,
            secrets,
            account,
            window,
            since_last,
            timeout,
            grace,
            on_overlap,
            overlap_key: OverlapKey::default(),
            moves_bookmark: true,
            retries,
            memory_max,
            directory,
            claim: None,
            group,
            trace_parent,
            requested_by,
            resolved_at: at,
        }
    }

    /// Returns the spec of a job without parameters, with default limits, resolved at `at`.
    pub fn bare(package: &str, job: &str, version: &str, at: DateTime<Utc>) -> Self {
        let resolved = Resolved {
            params: Map::new(),
            secrets: BTreeMap::new(),
            account: None,
            window: None,
            since_last: false,
            at: time::to_micros(at),
        };
        Self::new([package, job, version], resolved, super::RunPolicy::default().limits(), Context::default())
    }

    /// Parses a spec. The caller must compare it with its job: [`check`](Self::check).
    ///
    /// # Errors
    /// If the text is not a spec, or one of a newer version.
    pub fn from_json(text: &[u8]) -> Result<Self, SpecError> {
        let json: Value = serde_json::from_slice(text).map_err(|e| SpecError::Json(e.to_string()))?;
        let version = json.get("schema").and_then(Value::as_str).and_then(|schema| schema.strip_prefix(SCHEMA));
        // Compared as text: a version with more digits than a number type holds is newer too.
        let is_version = |text: &&str| text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') && !text.is_empty();
        match version.filter(is_version) {
            Some(version) if version == VERSION.to_string() => {}
            Some(newer) => return Err(SpecError::Newer(crate::text::shortened(newer, 20))),
            None => return Err(SpecError::OtherSchema),
        }
        serde_json::from_value(json).map_err(|e| SpecError::Invalid(fault::first_line(&e.to_string()).to_owned()))
    }

    /// Returns the spec as JSON.
    pub fn to_json(&self) -> String {
        // Maps with text keys, numbers and strings: serialization cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Checks that the spec matches the job: the parameters exist and have the job's types, none that is required is missing, and account
    /// and window match the parameters. `job` is the manifest of the library that will run.
    ///
    /// # Errors
    /// All mismatches. No code of the job has run.
    pub fn check(&self, job: &JobManifest) -> Result<(), PlanError> {
        let mut faults: Vec<PlanFault> = Vec::new();
        let mut wrong = |field: String, reason: String| faults.push(PlanFault::Spec { field, reason });
        let secret = |param: &&ParamManifest| param.kind == ParamKind::Secret;
        for name in self.params.keys().filter(|name| !job.params.iter().any(|p| p.name == **name && !secret(&p))) {
            let names: Vec<&str> = job.params.iter().filter(|p| !secret(p)).map(|p| p.name.as_str()).collect();
            wrong(
                format!("params.{}", crate::text::quote(name)),
                format!("is not a parameter of {}{}", job.name, nearest(name, &names)),
            );
        }
        for name in self.secrets.keys().filter(|name| !job.params.iter().any(|p| p.name == **name && secret(&p))) {
            wrong(format!("secrets.{}", crate::text::quote(name)), format!("is not a secret of {}", job.name));
        }
        for param in &job.params {
            if secret(&param) {
                if !self.secrets.contains_key(&param.name) {
                    wrong(format!("secrets.{}", param.name), "is missing; set a source, such as env:NAME".into());
                }
                continue;
            }
            match self.params.get(&param.name) {
                Some(json) => {
                    if let Err(reason) = value::check_resolved(param.into(), json) {
                        wrong(format!("params.{}", param.name), reason);
                    }
                }
                None if param.optional && !param.repeated => {}
                None => wrong(format!("params.{}", param.name), format!("is missing; it is {}", value::describe(param.into()))),
            }
        }
        let account = account(job, &self.params);
        if self.account != account {
            wrong("account".into(), "differs from params.account".into());
        }
        let window = self.params_window(job);
        if self.window != window {
            wrong("window".into(), "differs from params.since and params.until".into());
        }
        if self.window.is_some_and(|window| window.since.is_some_and(|since| since >= window.until)) {
            wrong("window".into(), "is empty: `since` is not before `until`".into());
        }
        if self.since_last && window.is_none_or(|window| window.since.is_none()) {
            wrong("since_last".into(), "is true, but params.since is missing".into());
        }
        if self.overlap_key == OverlapKey::Window && self.on_overlap == OnOverlap::Allow {
            wrong("overlap_key".into(), "is \"window\", which excludes `\"on_overlap\": \"allow\"`".into());
        }
        if self.overlap_key == OverlapKey::Window && self.since_last {
            wrong(
                "overlap_key".into(),
                "is \"window\", but with `since_last` the window is known only when the run starts".into(),
            );
        }
        if self.retries.limit > MOST {
            wrong("retries.limit".into(), format!("is {}; the maximum is {MOST}", self.retries.limit));
        }
        if let Some(cause) = self.retries.on.iter().find(|cause| !RETRYABLE.contains(cause)) {
            wrong("retries.on".into(), format!("has {}, which is never retried", cause.as_str()));
        }
        if self.timeout == Some(Duration::ZERO) {
            wrong("timeout".into(), "is 0; write null for no limit".into());
        }
        if let Some(bytes) = self.memory_max.filter(|bytes| *bytes < size::LEAST) {
            wrong("memory_max".into(), format!("is {bytes}; a worker needs at least {}", size::LEAST));
        }
        for (field, text, read) in [
            ("group", &self.group, group as fn(&str) -> Result<String, String>),
            ("trace_parent", &self.trace_parent, trace_parent),
        ] {
            if let Some(Err(reason)) = text.as_deref().map(read) {
                wrong(field.into(), format!("cannot be read; {reason}"));
            }
        }
        if self.directory.as_ref().is_some_and(|directory| !Path::new(directory).is_absolute()) {
            wrong("directory".into(), "is not an absolute path".into());
        }
        if self.claim.as_ref().is_some_and(|claim| !Path::new(claim).is_absolute()) {
            wrong("claim".into(), "is not an absolute path".into());
        }
        if faults.is_empty() { Ok(()) } else { Err(PlanError { faults, is_configured: false }) }
    }

    /// Whether this run does at least the work of `other`: the same job with the same parameters, and a window that contains that of
    /// `other`.
    pub fn covers(&self, other: &Self) -> bool {
        let same_job = (&self.package, &self.job) == (&other.package, &other.job);
        let windowed = self.window.is_some();
        let is_other_param = |name: &str| !windowed || (name != "since" && name != "until");
        fn rest(spec: &RunSpec, keep: impl Fn(&str) -> bool) -> Vec<(&String, &Value)> {
            spec.params.iter().filter(|(name, _)| keep(name)).collect()
        }
        same_job
            && rest(self, is_other_param) == rest(other, is_other_param)
            && match (self.window, other.window) {
                (Some(window), Some(inner)) => {
                    let begins_before = match (window.since, inner.since) {
                        (None, _) => true,
                        (Some(since), Some(inner)) => since <= inner,
                        (Some(_), None) => false,
                    };
                    begins_before && inner.until <= window.until
                }
                (None, None) => true,
                _ => false,
            }
    }

    /// Returns the job, the parameters without those of the window, and whether there is a window, as a key: of runs with equal keys, one covers
    /// another if its window contains that of the other. See [`covers`](Self::covers).
    pub(crate) fn work(&self) -> String {
        let windowed = self.window.is_some();
        let params: Vec<(&String, &Value)> =
            self.params.iter().filter(|(name, _)| !windowed || (*name != "since" && *name != "until")).collect();
        serde_json::json!([self.package, self.job, windowed, params]).to_string()
    }

    /// Returns the window that the parameters define; `None` if the job has none. If the job has no `until`, uses that of the spec.
    fn params_window(&self, job: &JobManifest) -> Option<Window> {
        if !job.params.iter().any(is_end) {
            return None;
        }
        let at = |name: &str| {
            let param = find(job, name).filter(|param| is_end(param))?;
            self.params.get(&param.name)?.as_str()?.parse::<DateTime<Utc>>().ok()
        };
        // If the spec has no window, any end will do: the comparison fails anyway.
        let until = at("until").or_else(|| self.window.map(|window| window.until)).unwrap_or(self.resolved_at);
        Some(Window { since: at("since"), until })
    }

    /// Returns the name of the overlap lock: runs whose names are equal exclude each other.
    pub fn overlap_name(&self) -> String {
        let name = locks::overlap_name(&self.package, &self.job, self.account.as_deref());
        match self.overlap_key {
            OverlapKey::Account => name,
            OverlapKey::Window => {
                // Maps of JSON are ordered by key, so equal parameters have equal text.
                let text = serde_json::to_string(&(&self.window, &self.params)).unwrap_or_default();
                locks::window_name(&name, &text)
            }
        }
    }

    /// Returns the same run with a window that begins at `since`, because the bookmark has moved since the spec was created; `None` if the
    /// window would be empty.
    pub fn beginning_at(&self, since: DateTime<Utc>) -> Option<Self> {
        let mut spec = self.clone();
        let window = spec.window.as_mut().filter(|window| since < window.until)?;
        window.since = Some(since);
        spec.params.insert("since".into(), time::show(since).into());
        Some(spec)
    }
}

/// Returns the value of the job's account parameter.
pub(super) fn account(job: &JobManifest, params: &Map<String, Value>) -> Option<String> {
    let param = job.params.iter().find(|param| last::is_account(param))?;
    params.get(&param.name)?.as_str().map(str::to_owned)
}

fn nearest(name: &str, names: &[&str]) -> String {
    match crate::text::nearest(name, names.iter().copied()).first() {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    }
}

/// The `schema` key. Always the current version: [`RunSpec::from_json`] has already checked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schema;

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{SCHEMA}{VERSION}"))
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self)
    }
}

/// (De)serializes a duration as a number of seconds.
pub(super) mod seconds {
    use crate::plan::duration::MAX;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        if duration.subsec_nanos() == 0 {
            serializer.serialize_u64(duration.as_secs())
        } else {
            serializer.serialize_f64(duration.as_secs_f64())
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        of(f64::deserialize(deserializer)?)
    }

    pub(super) fn of<E: serde::de::Error>(seconds: f64) -> Result<Duration, E> {
        // The same limit as for flags and configuration: sums of such durations never overflow.
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= MAX);
        duration.ok_or_else(|| E::custom(format!("{seconds:e} is not a duration in seconds from 0 to {}", MAX.as_secs())))
    }
}

mod optional_seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::seconds::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(deserializer)?.map(super::seconds::of).transpose()
    }
}

#[cfg(test)]
mod tests;
