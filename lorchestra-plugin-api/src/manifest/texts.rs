//! [`Texts`], the second line of a manifest: what only people read. Entries correspond to those of the outline by position.

use serde::Deserialize;

/// Texts of a package.
#[derive(Debug, Deserialize)]
#[serde(expecting = "the texts of a manifest")]
pub(super) struct Texts {
    pub(super) rustc: String,
    pub(super) target: String,
    pub(super) jobs: Vec<JobTexts>,
}

/// Texts of a job.
#[derive(Debug, Deserialize)]
#[serde(expecting = "the texts of a job")]
pub(super) struct JobTexts {
    pub(super) signature: String,
    pub(super) docs: String,
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) params: Vec<ParamTexts>,
}

/// Texts of a parameter.
#[derive(Debug, Deserialize)]
#[serde(expecting = "the texts of a parameter")]
pub(super) struct ParamTexts {
    pub(super) rust_type: String,
    #[serde(default)]
    pub(super) docs: String,
}
