//! Packages, jobs and library files as objects: what `jobs` and `plugins` print.

use super::JsonSchema;
use lorchestra_core::packages::catalog::Problem;
use lorchestra_core::text::one_line;
use lorchestra_plugin_api::manifest::{JobManifest, Manifest, ParamManifest};
use serde::Serialize;
use serde_json::Value;

/// The usable packages with their jobs, as `jobs list --json` prints them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobsList {
    #[schemars(extend("const" = "lorchestra.jobs-list/1"))]
    pub(crate) schema: &'static str,
    pub(crate) packages: Vec<PackageObject>,
    pub(crate) problems: Vec<ProblemObject>,
}

/// A package.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PackageObject {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Its library.
    pub(crate) path: String,
    /// Size of the library; null if the file no longer exists.
    pub(crate) bytes: Option<u64>,
    pub(crate) jobs: Vec<JobOverview>,
}

/// A job in a list.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobOverview {
    pub(crate) name: String,
    /// First line of its documentation.
    pub(crate) summary: String,
    /// What to use instead; null if it is not deprecated.
    pub(crate) deprecated: Option<String>,
}

impl JobOverview {
    pub(crate) fn of(job: &JobManifest) -> Self {
        Self { name: job.name.clone(), summary: job.summary().to_owned(), deprecated: job.deprecated.as_deref().map(one_line) }
    }
}

/// A file or directory that cannot be used.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProblemObject {
    pub(crate) path: String,
    /// The kind of the problem, such as `not-trusted`.
    pub(crate) reason: &'static str,
    /// The problem for people.
    pub(crate) detail: String,
    /// What to do.
    pub(crate) fix: String,
}

impl ProblemObject {
    pub(crate) fn of(problem: &Problem) -> Self {
        Self {
            path: problem.path.display().to_string(),
            reason: problem.reason.as_str(),
            detail: problem.detail.clone(),
            fix: problem.fix.clone(),
        }
    }
}

/// A job with its parameters, as `jobs show --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobDetails {
    #[schemars(extend("const" = "lorchestra.jobs-show/1"))]
    pub(crate) schema: &'static str,
    pub(crate) package: String,
    /// Version of the package.
    pub(crate) version: String,
    pub(crate) job: String,
    /// The library.
    pub(crate) path: String,
    /// Source file of the job.
    pub(crate) file: String,
    /// Line in the source file.
    pub(crate) line: u32,
    /// Its parameters in Rust.
    pub(crate) signature: String,
    pub(crate) docs: String,
    pub(crate) params: Vec<ParamObject>,
    /// Default timeout, such as `30m`.
    pub(crate) timeout: Option<String>,
    /// Default number of retries.
    pub(crate) retries: Option<u32>,
    /// Default overlap policy.
    pub(crate) overlap: Option<String>,
    /// What to use instead; null if it is not deprecated.
    pub(crate) deprecated: Option<String>,
}

impl JobDetails {
    pub(crate) fn of(manifest: &Manifest, job: &JobManifest, path: String) -> Self {
        Self {
            schema: "lorchestra.jobs-show/1",
            package: manifest.package.clone(),
            version: manifest.version.clone(),
            job: job.name.clone(),
            path,
            file: job.file.clone(),
            line: job.line,
            signature: job.signature.clone(),
            docs: job.docs.clone(),
            params: job.params.iter().map(ParamObject::of).collect(),
            timeout: job.timeout.clone(),
            retries: job.retries,
            overlap: job.overlap.clone(),
            deprecated: job.deprecated.clone(),
        }
    }
}

/// A parameter of a job.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ParamObject {
    pub(crate) name: String,
    /// Its flag, with `--`.
    pub(crate) flag: String,
    /// Its type in Rust.
    #[serde(rename = "type")]
    pub(crate) rust_type: String,
    /// The kind of values that it accepts, such as `datetime`.
    pub(crate) kind: &'static str,
    pub(crate) required: bool,
    /// Null if there is none.
    pub(crate) default: Value,
    pub(crate) docs: String,
    /// Whether it is a list.
    pub(crate) repeated: bool,
    /// The accepted values of an enum; empty for other kinds.
    pub(crate) values: Vec<ValueObject>,
    /// What to use instead; null if it is not deprecated.
    pub(crate) deprecated: Option<String>,
}

impl ParamObject {
    fn of(param: &ParamManifest) -> Self {
        Self {
            name: param.name.clone(),
            flag: format!("--{}", param.flag()),
            rust_type: param.rust_type.clone(),
            kind: param.kind.as_str(),
            required: param.is_required(),
            default: param.default.clone(),
            docs: param.docs.clone(),
            repeated: param.repeated,
            values: param.values.iter().map(|value| ValueObject { name: value.name.clone(), docs: value.docs.clone() }).collect(),
            deprecated: param.deprecated.clone(),
        }
    }
}

/// A value of an enum.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ValueObject {
    pub(crate) name: String,
    pub(crate) docs: String,
}
