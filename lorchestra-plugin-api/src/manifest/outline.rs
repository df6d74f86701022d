//! [`Outline`], the part of a manifest that a listing needs. The whole manifest is validated, but most texts are dropped.

use super::{ManifestError, ValueManifest, check_names, check_params, kind_by_name, read_json};
use crate::def::ParamKind;
use serde::Deserialize;
use std::fmt;

/// The part of a [`Manifest`](super::Manifest) that a listing needs. Allocating the texts of all jobs would be most of the time of listing many
/// packages. The same rules are checked as for a `Manifest`.
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

/// One job of an [`Outline`]. The fields are those of [`JobDef`](crate::def::JobDef).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a job")]
pub struct JobOutline {
    pub name: String,
    #[serde(rename = "signature")]
    _signature: Unread,
    #[serde(rename = "docs")]
    _docs: Unread,
    #[serde(rename = "file")]
    _file: Unread,
    #[serde(rename = "line")]
    _line: u32,
    pub params: Vec<ParamOutline>,
    #[serde(default)]
    pub timeout: Option<String>,
    #[serde(default)]
    pub retries: Option<u32>,
    #[serde(default)]
    pub overlap: Option<String>,
    #[serde(default)]
    pub deprecated: Option<String>,
}

/// One parameter of a [`JobOutline`]. The fields are those of [`ParamManifest`](super::ParamManifest).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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

/// A text that must be present and is not stored.
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
    /// Parses a whole section. Fails where [`Manifest::from_section`](super::Manifest::from_section) fails.
    pub fn from_section(bytes: &[u8]) -> Result<Self, ManifestError> {
        let outline: Self = read_json(bytes)?;
        check_names(&outline.package, &outline.version, outline.jobs.iter().map(|job| job.name.as_str()))?;
        for job in &outline.jobs {
            check_params(&job.name, job.params.iter().map(|param| (&*param.name, param.kind, param.repeated, &*param.values)))?;
        }
        Ok(outline)
    }
}
