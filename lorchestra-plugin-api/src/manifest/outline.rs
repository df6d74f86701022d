//! The manifest as a listing reads it: all of it is checked, and only names are kept.

use super::{ManifestError, ValueManifest, check_names, check_params, kind_by_name, read_json};
use crate::def::ParamKind;
use serde::Deserialize;
use std::fmt;

/// What a listing needs of a [`Manifest`](super::Manifest): read without keeping the texts of all jobs, which is most of the time of listing many
/// packages. What is no manifest is no outline either: both are checked by the same rules.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a manifest")]
pub struct Outline {
    /// [`ABI_REVISION`](crate::abi::ABI_REVISION) the plugin was built with.
    pub abi: u32,
    /// Package name.
    pub package: String,
    /// Package version.
    pub version: String,
    #[serde(rename = "rustc")]
    _rustc: Unread,
    #[serde(rename = "target")]
    _target: Unread,
    /// Jobs, in the order of `plugin!`.
    pub jobs: Vec<JobOutline>,
}

/// One job of an [`Outline`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a job")]
pub struct JobOutline {
    /// Its name.
    pub name: String,
    #[serde(rename = "signature")]
    _signature: Unread,
    #[serde(rename = "docs")]
    _docs: Unread,
    #[serde(rename = "file")]
    _file: Unread,
    #[serde(rename = "line")]
    _line: u32,
    /// Its parameters, in order.
    pub params: Vec<ParamOutline>,
    /// As in [`JobDef`](crate::def::JobDef).
    #[serde(default)]
    pub timeout: Option<String>,
    /// As in [`JobDef`](crate::def::JobDef).
    #[serde(default)]
    pub retries: Option<u32>,
    /// As in [`JobDef`](crate::def::JobDef).
    #[serde(default)]
    pub overlap: Option<String>,
    /// Why it is not to be used any more.
    #[serde(default)]
    pub deprecated: Option<String>,
}

/// One parameter of a [`JobOutline`]; fields as in [`ParamManifest`](super::ParamManifest).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "documented at ParamDef")]
#[serde(expecting = "a parameter")]
pub struct ParamOutline {
    pub name: String,
    #[serde(rename = "rust_type")]
    _rust_type: Unread,
    #[serde(deserialize_with = "kind_by_name")]
    pub kind: ParamKind,
    #[serde(rename = "optional")]
    _optional: bool,
    pub default: serde_json::Value,
    #[serde(rename = "docs")]
    _docs: Unread,
    #[serde(default)]
    pub repeated: bool,
    #[serde(default)]
    pub values: Vec<ValueManifest>,
    #[serde(rename = "deprecated", default)]
    _deprecated: Option<Unread>,
}

/// A text that must be there and is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Unread;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, _: &str) -> Result<Unread, E> {
                Ok(Unread)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Outline {
    /// Reads a whole section, and refuses what [`Manifest::from_section`](super::Manifest::from_section) refuses.
    pub fn from_section(bytes: &[u8]) -> Result<Self, ManifestError> {
        let outline: Self = read_json(bytes)?;
        check_names(&outline.package, &outline.version, outline.jobs.iter().map(|job| job.name.as_str()))?;
        for job in &outline.jobs {
            check_params(&job.name, job.params.iter().map(|param| (&*param.name, param.kind, param.repeated, &*param.values)))?;
        }
        Ok(outline)
    }
}
