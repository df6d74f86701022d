//! The manifest of a package: one ELF section that can be read without running the library's code.
//!
//! Owns both directions of the format, so that they cannot diverge: [`section`] writes it at compile time from a [`PackageDef`],
//! [`Manifest::from_section`] reads it in the host.
//!
//! ```text
//! section .lorchestra
//!   0  magic     6 bytes  "LORCH\0"
//!   6  format    u16 LE   1
//!   8  length    u32 LE   bytes of JSON, at most 1 MiB
//!  12  crc32     u32 LE   of the JSON (ISO-HDLC, as in zip)
//!  16  JSON      UTF-8
//! ```
//!
//! A reader of format 1 ignores unknown JSON keys. A change that it could not ignore would be format 2.

mod outline;
#[cfg(test)]
mod tests;

pub use outline::{JobOutline, Outline, ParamOutline};

use crate::def::{JobDef, PackageDef, ParamDef, ParamKind, ValueDef};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

/// Slow, but usable in const evaluation. The reader uses crc32fast for the same checksum.
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// A manifest as read by the host. Names have been validated. Other strings come from the author unchecked: a host must truncate
/// them and remove terminal control characters before it shows them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a manifest")]
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

/// One job of a [`Manifest`]. The fields are those of [`JobDef`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a job")]
pub struct JobManifest {
    pub name: String,
    pub signature: String,
    pub docs: String,
    pub file: String,
    pub line: u32,
    pub params: Vec<ParamManifest>,
    #[serde(default)]
    pub timeout: Option<String>,
    #[serde(default)]
    pub retries: Option<u32>,
    #[serde(default)]
    pub overlap: Option<String>,
    #[serde(default)]
    pub deprecated: Option<String>,
}

/// One parameter of a [`JobManifest`]. The fields are those of [`ParamDef`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a parameter")]
pub struct ParamManifest {
    pub name: String,
    pub rust_type: String,
    #[serde(deserialize_with = "kind_by_name")]
    pub kind: ParamKind,
    pub optional: bool,
    /// The default; `null` if there is none.
    pub default: serde_json::Value,
    pub docs: String,
    #[serde(default)]
    pub repeated: bool,
    #[serde(default)]
    pub values: Vec<ValueManifest>,
    #[serde(default)]
    pub deprecated: Option<String>,
}

/// One value of an enum parameter. The fields are those of [`ValueDef`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a value")]
pub struct ValueManifest {
    pub name: String,
    pub docs: String,
}

fn kind_by_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ParamKind, D::Error> {
    let name = String::deserialize(deserializer)?;
    ParamKind::from_name(&name).ok_or_else(|| {
        serde::de::Error::custom(format!("unknown parameter kind {}: the plugin may need a newer lorchestra", quoted(&name)))
    })
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
    /// Not UTF-8, not JSON, or a key is missing.
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
        let manifest: Self = read_json(bytes)?;
        check_names(&manifest.package, &manifest.version, manifest.jobs.iter().map(|job| job.name.as_str()))?;
        for job in &manifest.jobs {
            check_params(&job.name, job.params.iter().map(|param| (&*param.name, param.kind, param.repeated, &*param.values)))?;
        }
        Ok(manifest)
    }

    /// Returns the job with this name.
    pub fn job(&self, name: &str) -> Option<&JobManifest> {
        self.jobs.iter().find(|job| job.name == name)
    }
}

/// Checks the header and the checksum, and parses the JSON.
fn read_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ManifestError> {
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
    serde_json::from_str(json).map_err(|e| ManifestError::Json(e.to_string()))
}

fn check_names<'a>(package: &str, version: &str, jobs: impl Iterator<Item = &'a str>) -> Result<(), ManifestError> {
    if !is_name(package) {
        return Err(bad_name("package", package));
    }
    if version.len() > MAX_VERSION {
        let why = format!("the version {} has {} bytes, but at most {MAX_VERSION} are allowed", quoted(version), version.len());
        return Err(ManifestError::Name(why));
    }
    let mut seen = BTreeSet::new();
    for job in jobs {
        if !is_name(job) {
            return Err(bad_name("job", job));
        }
        if !seen.insert(job) {
            return Err(ManifestError::Name(format!("the job {job:?} is listed twice")));
        }
    }
    Ok(())
}

/// Flags that every lorchestra command accepts in any position. No parameter can have such a flag.
const GLOBAL_FLAGS: [&str; 4] = ["help", "version", "verbose", "plugin-dir"];

/// Parameters that cannot be lists: a run has one account and one window.
const SINGLE_VALUED: [&str; 3] = ["account", "since", "until"];

/// Checks names and flags of the parameters. `#[job]` refuses the same mistakes; other tools may write manifests too.
fn check_params<'a>(
    job: &str,
    params: impl Iterator<Item = (&'a str, ParamKind, bool, &'a [ValueManifest])>,
) -> Result<(), ManifestError> {
    let mut flags: BTreeMap<Cow<'_, str>, &str> = BTreeMap::new();
    for (name, kind, repeated, values) in params {
        if !is_name(name) {
            return Err(bad_name("parameter", name));
        }
        if (kind == ParamKind::Enum) == values.is_empty() {
            let why = format!(
                "the parameter {name:?} of {job:?} has {} enum values, but its kind is {:?}",
                values.len(),
                kind.as_str()
            );
            return Err(ManifestError::Name(why));
        }
        if repeated && matches!(kind, ParamKind::Bool | ParamKind::Secret) {
            return Err(ManifestError::Name(format!("the parameter {name:?} of {job:?} is a list of {}s", kind.as_str())));
        }
        if repeated && SINGLE_VALUED.contains(&name) {
            return Err(ManifestError::Name(format!("the parameter {name:?} of {job:?} cannot be a list")));
        }
        if let Some(value) = values.iter().find(|value| !is_name(&value.name)) {
            return Err(bad_name("value", &value.name));
        }
        let flag = flag_of(name);
        if GLOBAL_FLAGS.contains(&&*flag) {
            return Err(ManifestError::Name(format!(
                "the parameter {name:?} of {job:?} has the flag --{flag}, which lorchestra itself uses"
            )));
        }
        let off = (kind == ParamKind::Bool).then(|| Cow::Owned(format!("no-{flag}")));
        for flag in [Some(flag), off].into_iter().flatten() {
            match flags.get(&flag) {
                None => flags.insert(flag, name),
                Some(&other) if other == name => {
                    return Err(ManifestError::Name(format!("the parameter {name:?} of {job:?} is listed twice")));
                }
                Some(other) => {
                    let why = format!("the parameters {other:?} and {name:?} of {job:?} share the flag --{flag}");
                    return Err(ManifestError::Name(why));
                }
            };
        }
    }
    Ok(())
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

impl JobManifest {
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

// ---- writing, at compile time -------------------------------------------------------------------------------------

/// Returns the total length of the section for `package`.
pub const fn section_len(package: &PackageDef, abi: u32) -> usize {
    let mut out = Writer::<0> { bytes: [], len: 0 };
    out.package(package, abi);
    HEADER_LEN + out.len
}

/// Returns the section for `package`. `N` must be [`section_len`].
pub const fn section<const N: usize>(package: &PackageDef, abi: u32) -> [u8; N] {
    let mut out = Writer::<N> { bytes: [0; N], len: HEADER_LEN };
    out.package(package, abi);
    assert!(out.len == N, "N is not section_len(package)");
    let json_len = N - HEADER_LEN;
    assert!(json_len <= MAX_JSON, "plugin!: the descriptions of all jobs together exceed 1 MiB");
    let mut bytes = out.bytes;
    let (_, json) = bytes.split_at(HEADER_LEN);
    let crc = CRC.checksum(json).to_le_bytes();
    let len = (json_len as u32).to_le_bytes();
    let format = FORMAT.to_le_bytes();
    let mut i = 0;
    while i < HEADER_LEN {
        bytes[i] = match i {
            0..6 => MAGIC[i],
            6..8 => format[i - 6],
            8..12 => len[i - 8],
            _ => crc[i - 12],
        };
        i += 1;
    }
    bytes
}

/// Writes JSON in const evaluation. With `N == 0` it only counts bytes.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    const fn byte(&mut self, byte: u8) {
        if N > 0 {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
    }

    const fn raw(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    const fn string(&mut self, text: &str) {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        self.byte(b'"');
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                b'"' => self.raw("\\\""),
                b'\\' => self.raw("\\\\"),
                b'\n' => self.raw("\\n"),
                b @ 0..0x20 => {
                    self.raw("\\u00");
                    self.byte(HEX[(b >> 4) as usize]);
                    self.byte(HEX[(b & 15) as usize]);
                }
                b => self.byte(b),
            }
            i += 1;
        }
        self.byte(b'"');
    }

    const fn number(&mut self, n: u32) {
        if n >= 10 {
            self.number(n / 10);
        }
        self.byte(b'0' + (n % 10) as u8);
    }

    const fn key(&mut self, first: bool, name: &str) {
        if !first {
            self.byte(b',');
        }
        self.string(name);
        self.byte(b':');
    }

    const fn package(&mut self, package: &PackageDef, abi: u32) {
        self.byte(b'{');
        self.key(true, "abi");
        self.number(abi);
        self.key(false, "package");
        self.string(package.name);
        self.key(false, "version");
        self.string(package.version);
        self.key(false, "rustc");
        self.string(env!("LORCHESTRA_RUSTC"));
        self.key(false, "target");
        self.string(env!("LORCHESTRA_TARGET"));
        self.key(false, "jobs");
        self.byte(b'[');
        let mut i = 0;
        while i < package.jobs.len() {
            if i > 0 {
                self.byte(b',');
            }
            self.job(&package.jobs[i]);
            i += 1;
        }
        self.raw("]}");
    }

    const fn job(&mut self, job: &JobDef) {
        self.byte(b'{');
        self.key(true, "name");
        self.string(job.name);
        self.key(false, "signature");
        self.string(job.signature);
        self.key(false, "docs");
        self.string(job.docs);
        self.key(false, "file");
        self.string(job.file);
        self.key(false, "line");
        self.number(job.line);
        self.key(false, "params");
        self.byte(b'[');
        let mut i = 0;
        while i < job.params.len() {
            if i > 0 {
                self.byte(b',');
            }
            self.param(&job.params[i]);
            i += 1;
        }
        self.byte(b']');
        self.text("timeout", job.timeout);
        if let Some(retries) = job.retries {
            self.key(false, "retries");
            self.number(retries);
        }
        self.text("overlap", job.overlap);
        self.text("deprecated", job.deprecated);
        self.byte(b'}');
    }

    /// Writes a key only if it has a value.
    const fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(false, name);
            self.string(value);
        }
    }

    const fn values(&mut self, values: &[ValueDef]) {
        self.key(false, "values");
        self.byte(b'[');
        let mut i = 0;
        while i < values.len() {
            if i > 0 {
                self.byte(b',');
            }
            self.byte(b'{');
            self.key(true, "name");
            self.string(values[i].name);
            self.key(false, "docs");
            self.string(values[i].docs);
            self.byte(b'}');
            i += 1;
        }
        self.byte(b']');
    }

    const fn param(&mut self, param: &ParamDef) {
        self.byte(b'{');
        self.key(true, "name");
        self.string(param.name);
        self.key(false, "rust_type");
        self.string(param.rust_type);
        self.key(false, "kind");
        self.string(param.kind.as_str());
        self.key(false, "optional");
        self.raw(if param.optional { "true" } else { "false" });
        self.key(false, "default");
        self.raw(match param.default {
            Some(json) => json,
            None => "null",
        });
        self.key(false, "docs");
        self.string(param.docs);
        if param.repeated {
            self.key(false, "repeated");
            self.raw("true");
        }
        if !param.values.is_empty() {
            self.values(param.values);
        }
        self.text("deprecated", param.deprecated);
        self.byte(b'}');
    }
}
