//! The manifest of a package: one ELF section that can be read without running the library's code.
//!
//! Owns both directions of the format, so that they cannot diverge: [`section`] writes it at compile time from a
//! [`PackageDef`](crate::def::PackageDef), [`Outline::from_section`] and [`Manifest::from_section`] read it in the host.
//!
//! ```text
//! section .lorchestra
//!   0  magic     6 bytes  "LORCH\0"
//!   6  format    u16 LE   1
//!   8  length    u32 LE   bytes of JSON, at most 1 MiB
//!  12  crc32     u32 LE   of the JSON (ISO-HDLC, as in zip)
//!  16  JSON      UTF-8, two lines with one object each
//! ```
//!
//! The first line is the outline: all that the host checks and acts on (names, kinds, defaults, timeouts). The second line has the texts
//! for people (signatures, docstrings, types, source locations), for the same jobs and parameters in the same order. A listing reads
//! only the outline, which is a small part of the section; the checksum covers both lines.
//!
//! A reader of format 1 ignores unknown JSON keys. A change that it could not ignore would be format 2.

mod outline;
#[cfg(test)]
mod tests;
mod texts;
mod write;

pub use outline::{JobOutline, Outline, ParamOutline};
pub use write::{section, section_len};

use crate::def::ParamKind;
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use texts::{JobTexts, ParamTexts, Texts};

/// Name of the ELF section.
pub const SECTION: &str = ".lorchestra";
/// The first bytes of the section.
pub const MAGIC: [u8; 6] = *b"LORCH\0";
/// The format version that this crate writes and reads.
pub const FORMAT: u16 = 1;
/// Length of the header before the JSON, in bytes.
pub const HEADER_LEN: usize = 16;
/// Maximum length of the JSON, in bytes.
pub const MAX_JSON: usize = 1 << 20;

/// Maximum length of a package version, in bytes.
pub const MAX_VERSION: usize = 128;

/// A manifest as read by the host. Names have been validated. Other strings come from the author unchecked: a host must truncate
/// them and remove terminal control characters before it shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// [`ABI_REVISION`](crate::abi::ABI_REVISION) the plugin was built with.
    pub abi: u32,
    /// Package name.
    pub package: String,
    /// Package version.
    pub version: String,
    /// `rustc --version` of the build.
    pub rustc: String,
    /// Target triple of the build.
    pub target: String,
    /// Jobs, in the order of `plugin!`.
    pub jobs: Vec<JobManifest>,
}

/// One job of a [`Manifest`]. The fields are those of [`JobDef`](crate::def::JobDef).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobManifest {
    pub name: String,
    pub signature: String,
    pub docs: String,
    pub file: String,
    pub line: u32,
    pub params: Vec<ParamManifest>,
    pub timeout: Option<String>,
    pub retries: Option<u32>,
    pub overlap: Option<String>,
    pub deprecated: Option<String>,
}

/// One parameter of a [`JobManifest`]. The fields are those of [`ParamDef`](crate::def::ParamDef).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamManifest {
    pub name: String,
    pub rust_type: String,
    pub kind: ParamKind,
    pub optional: bool,
    /// The default; `null` if there is none.
    pub default: serde_json::Value,
    pub docs: String,
    pub repeated: bool,
    pub values: Vec<ValueManifest>,
    pub deprecated: Option<String>,
}

/// One value of an enum parameter. The fields are those of [`ValueDef`](crate::def::ValueDef).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a value")]
pub struct ValueManifest {
    pub name: String,
    pub docs: String,
}

/// Why a section is not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestError {
    /// Shorter than the header, or than the length given in the header.
    Short {
        have: usize,
        need: usize,
    },
    /// Does not start with [`MAGIC`].
    Magic,
    /// An unknown format version, probably from a newer plugin API.
    Format(u16),
    /// The header announces more than [`MAX_JSON`] bytes.
    TooLong(usize),
    Checksum,
    /// Another manifest follows.
    Multiple,
    /// Not UTF-8, not two lines of JSON, a key is missing, or the two lines describe different jobs.
    Json(String),
    /// An invalid or duplicate name, or two parameters with the same flag.
    Name(String),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { have, need } => write!(f, "the manifest is truncated: {have} of {need} bytes"),
            Self::Magic => write!(f, "the manifest does not start with the magic bytes LORCH"),
            Self::Format(n) => write!(f, "the manifest has format {n}, but this host reads only format {FORMAT}"),
            Self::TooLong(n) => write!(f, "the manifest announces {n} bytes, but at most {MAX_JSON} are allowed"),
            Self::Multiple => write!(
                f,
                "the library has two manifests because it links another package: move the shared code to a separate crate"
            ),
            Self::Checksum => write!(f, "the manifest's checksum does not match"),
            Self::Json(why) => write!(f, "the manifest's JSON is invalid: {why}"),
            Self::Name(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Returns the length of the JSON given in a section header. `header` must hold at least the first [`HEADER_LEN`] bytes.
    ///
    /// For readers that read the JSON separately. The length is checked against [`MAX_JSON`], so that a header that announces 1 GiB
    /// allocates nothing.
    pub fn json_len(header: &[u8]) -> Result<usize, ManifestError> {
        let Some(header) = header.first_chunk::<HEADER_LEN>() else {
            return Err(ManifestError::Short { have: header.len(), need: HEADER_LEN });
        };
        if header[..6] != MAGIC {
            return Err(ManifestError::Magic);
        }
        let format = u16::from_le_bytes([header[6], header[7]]);
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if len > MAX_JSON { Err(ManifestError::TooLong(len)) } else { Ok(len) }
    }

    /// Parses a whole section. Bytes after the JSON (a linker's padding) are ignored.
    pub fn from_section(bytes: &[u8]) -> Result<Self, ManifestError> {
        Outline::from_section(bytes)?.with_texts(bytes)
    }

    /// Joins each job and parameter with its texts.
    fn merged(outline: Outline, texts: Texts) -> Result<Self, ManifestError> {
        let jobs = paired("jobs", outline.jobs, texts.jobs)?;
        let jobs = jobs.map(|(job, texts)| JobManifest::from(job).with_texts(texts)).collect::<Result<_, _>>()?;
        let Outline { abi, package, version, .. } = outline;
        Ok(Self { abi, package, version, rustc: texts.rustc, target: texts.target, jobs })
    }

    /// Returns the job with this name.
    pub fn job(&self, name: &str) -> Option<&JobManifest> {
        self.jobs.iter().find(|job| job.name == name)
    }
}

/// The two lines of a section whose header, checksum and encoding are right.
struct Lines<'a> {
    outline: &'a str,
    texts: &'a str,
}

impl<'a> Lines<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let len = Manifest::json_len(bytes)?;
        let crc = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let Some(json) = bytes.get(HEADER_LEN..HEADER_LEN + len) else {
            return Err(ManifestError::Short { have: bytes.len(), need: HEADER_LEN + len });
        };
        if crc32fast::hash(json) != crc {
            return Err(ManifestError::Checksum);
        }
        // A package that links another package has both manifests, in an undefined order.
        if bytes[HEADER_LEN + len..].starts_with(&MAGIC) {
            return Err(ManifestError::Multiple);
        }
        // Checking UTF-8 once for the whole text is faster than for each string.
        let json = std::str::from_utf8(json).map_err(|e| ManifestError::Json(format!("not UTF-8: {e}")))?;
        let (outline, texts) = json.split_once('\n').ok_or_else(|| ManifestError::Json("the second line is missing".into()))?;
        Ok(Self { outline, texts })
    }

    fn outline(&self) -> Result<Outline, ManifestError> {
        let outline: Outline = parse(self.outline)?;
        outline.check()?;
        Ok(outline)
    }

    fn texts(&self) -> Result<Texts, ManifestError> {
        parse(self.texts)
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, ManifestError> {
    serde_json::from_str(json).map_err(|e| ManifestError::Json(e.to_string()))
}

/// Pairs entries of the outline with their texts.
fn paired<A, B>(what: &str, outline: Vec<A>, texts: Vec<B>) -> Result<impl Iterator<Item = (A, B)>, ManifestError> {
    if outline.len() == texts.len() {
        Ok(outline.into_iter().zip(texts))
    } else {
        Err(ManifestError::Json(format!("there are {} {what}, but texts for {}", outline.len(), texts.len())))
    }
}

fn flag_of(name: &str) -> Cow<'_, str> {
    if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) }
}

fn bad_name(what: &str, name: &str) -> ManifestError {
    ManifestError::Name(format!("the {what} name {} must match [a-z][a-z0-9_-]* and have at most 64 characters", quoted(name)))
}

/// Quotes a text and truncates it to 64 characters.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// A job with empty texts.
impl From<JobOutline> for JobManifest {
    fn from(outline: JobOutline) -> Self {
        let JobOutline { name, params, timeout, retries, overlap, deprecated } = outline;
        let params = params.into_iter().map(ParamManifest::from).collect();
        let (signature, docs, file, line) = (String::new(), String::new(), String::new(), 0);
        Self { name, signature, docs, file, line, params, timeout, retries, overlap, deprecated }
    }
}

/// A parameter with empty texts.
impl From<ParamOutline> for ParamManifest {
    fn from(outline: ParamOutline) -> Self {
        let ParamOutline { name, kind, optional, default, repeated, values, deprecated } = outline;
        Self { name, rust_type: String::new(), kind, optional, default, docs: String::new(), repeated, values, deprecated }
    }
}

impl JobManifest {
    fn with_texts(self, texts: JobTexts) -> Result<Self, ManifestError> {
        let JobTexts { signature, docs, file, line, params } = texts;
        let params = paired("parameters", self.params, params)?
            .map(|(param, ParamTexts { rust_type, docs })| ParamManifest { rust_type, docs, ..param })
            .collect();
        Ok(Self { signature, docs, file, line, params, ..self })
    }

    /// Returns whether the job has a `since` of type time, and therefore a bookmark.
    pub fn has_since(&self) -> bool {
        self.params.iter().any(|param| param.name == "since" && param.kind == ParamKind::DateTime)
    }

    /// Returns the first line of the documentation.
    pub fn summary(&self) -> &str {
        self.docs.lines().next().unwrap_or_default().trim()
    }
}

impl ParamManifest {
    /// Returns whether the caller must give a value.
    pub fn is_required(&self) -> bool {
        !self.optional && !self.repeated && self.default.is_null()
    }

    /// Returns the flag, without the two dashes.
    pub fn flag(&self) -> String {
        flag_of(&self.name).into_owned()
    }
}

/// Returns whether `name` is a valid name for a package, job or parameter: `[a-z][a-z0-9_-]{0,63}`.
pub const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 64 || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut i = 1;
    while i < bytes.len() {
        let b = bytes[i];
        if !(b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-') {
            return false;
        }
        i += 1;
    }
    true
}
