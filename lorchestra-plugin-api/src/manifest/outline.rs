//! [`Outline`], the first line of a manifest: what the host checks and acts on.

use super::{Lines, MAX_VERSION, Manifest, ManifestError, ValueManifest, bad_name, flag_of, is_name, quoted};
use crate::def::ParamKind;
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;

/// The part of a [`Manifest`](super::Manifest) that a listing needs, with all its rules checked: names, flags, enum values.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a manifest")]
pub struct Outline {
    /// [`ABI_REVISION`](crate::abi::ABI_REVISION) the plugin was built with.
    pub abi: u32,
    /// Package name.
    pub package: String,
    /// Package version.
    pub version: String,
    /// Jobs, in the order of `plugin!`.
    pub jobs: Vec<JobOutline>,
}

/// One job of an [`Outline`]. The fields are those of [`JobDef`](crate::def::JobDef).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a job")]
pub struct JobOutline {
    pub name: String,
    #[serde(default)]
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
    #[serde(deserialize_with = "kind_by_name")]
    pub kind: ParamKind,
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub default: serde_json::Value,
    #[serde(default)]
    pub repeated: bool,
    #[serde(default)]
    pub values: Vec<ValueManifest>,
    #[serde(default)]
    pub deprecated: Option<String>,
}

/// Reads a kind without allocating its name.
fn kind_by_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ParamKind, D::Error> {
    struct Kind;
    impl serde::de::Visitor<'_> for Kind {
        type Value = ParamKind;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ParamKind, E> {
            ParamKind::from_name(name).ok_or_else(|| {
                E::custom(format!("unknown parameter kind {}: the plugin may need a newer lorchestra", quoted(name)))
            })
        }
    }
    deserializer.deserialize_str(Kind)
}

impl Outline {
    /// Parses the outline of a whole section. Fails where [`Manifest::from_section`](super::Manifest::from_section) fails, except for
    /// mistakes in the texts, which it does not read.
    pub fn from_section(bytes: &[u8]) -> Result<Self, ManifestError> {
        Lines::of(bytes)?.outline()
    }

    /// Adds the texts, from the section that this is the outline of.
    pub fn with_texts(self, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        Manifest::merged(self, Lines::of(bytes)?.texts()?)
    }

    /// Checks names and flags.
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if !is_name(&self.package) {
            return Err(bad_name("package", &self.package));
        }
        if self.version.len() > MAX_VERSION {
            let why = format!(
                "the version {} has {} bytes, but at most {MAX_VERSION} are allowed",
                quoted(&self.version),
                self.version.len()
            );
            return Err(ManifestError::Name(why));
        }
        if let Some(job) = self.jobs.iter().find(|job| !is_name(&job.name)) {
            return Err(bad_name("job", &job.name));
        }
        let mut names: Vec<&str> = self.jobs.iter().map(|job| &*job.name).collect();
        names.sort_unstable();
        if let Some([job, _]) = names.array_windows().find(|[a, b]| a == b) {
            return Err(ManifestError::Name(format!("the job {job:?} is listed twice")));
        }
        self.jobs.iter().try_for_each(JobOutline::check)
    }
}

/// Flags that every lorchestra command accepts in any position. No parameter can have such a flag.
const GLOBAL_FLAGS: [&str; 4] = ["help", "version", "verbose", "plugin-dir"];

/// Parameters that cannot be lists: a run has one account and one window.
const SINGLE_VALUED: [&str; 3] = ["account", "since", "until"];

impl JobOutline {
    /// Checks names and flags of the parameters. `#[job]` refuses the same mistakes; other tools may write manifests too.
    fn check(&self) -> Result<(), ManifestError> {
        // Each flag with its parameter's name.
        let mut flags: Vec<(Cow<'_, str>, &str)> = Vec::with_capacity(2 * self.params.len());
        for param in &self.params {
            param.check(&self.name)?;
            let flag = flag_of(&param.name);
            if param.kind == ParamKind::Bool {
                flags.push((Cow::Owned(format!("no-{flag}")), &param.name));
            }
            flags.push((flag, &param.name));
        }
        // Stable: of two parameters with one flag, the first is named first.
        flags.sort_by(|(a, _), (b, _)| a.cmp(b));
        for [(flag, name), (next, other)] in flags.array_windows() {
            if flag == next {
                return Err(ManifestError::Name(if name == other {
                    format!("the parameter {name:?} of {:?} is listed twice", self.name)
                } else {
                    format!("the parameters {name:?} and {other:?} of {:?} share the flag --{flag}", self.name)
                }));
            }
        }
        Ok(())
    }
}

impl ParamOutline {
    /// Checks what does not depend on the job's other parameters.
    fn check(&self, job: &str) -> Result<(), ManifestError> {
        let Self { name, kind, values, .. } = self;
        let refused = |why: String| Err(ManifestError::Name(format!("the parameter {name:?} of {job:?} {why}")));
        if !is_name(name) {
            return Err(bad_name("parameter", name));
        }
        if (*kind == ParamKind::Enum) == values.is_empty() {
            return refused(format!("has {} enum values, but its kind is {:?}", values.len(), kind.as_str()));
        }
        if self.repeated && matches!(kind, ParamKind::Bool | ParamKind::Secret) {
            return refused(format!("is a list of {}s", kind.as_str()));
        }
        if self.repeated && SINGLE_VALUED.contains(&&**name) {
            return refused("cannot be a list".to_owned());
        }
        if let Some(value) = values.iter().find(|value| !is_name(&value.name)) {
            return Err(bad_name("value", &value.name));
        }
        let flag = flag_of(name);
        if GLOBAL_FLAGS.contains(&&*flag) {
            return refused(format!("has the flag --{flag}, which lorchestra itself uses"));
        }
        Ok(())
    }
}
