//! Descriptions of packages, jobs and parameters as constants.
//!
//! `#[job]` and `plugin!` expand to these structs. Both descriptions in a library are generated from them: the
//! [manifest section](crate::manifest), which the host reads without running code, and the jobs of the root module
//! ([`crate::abi`]), which the worker reads after loading. Nothing here allocates or runs at load time.

/// A package: the arguments of `plugin!`, and the version of its crate.
#[derive(Debug)]
pub struct PackageDef {
    /// Name of the package: `[a-z][a-z0-9_-]{0,63}`.
    pub name: &'static str,
    /// Version of the crate that called `plugin!`.
    pub version: &'static str,
    /// The jobs, in the order they were listed.
    pub jobs: &'static [JobDef],
}

/// A job: one function marked with `#[job]`.
#[derive(Debug)]
pub struct JobDef {
    /// Name of the function, `[a-z][a-z0-9_-]{0,63}`.
    pub name: &'static str,
    /// Signature for display: `(cx, account: Option<String> = None)`.
    pub signature: &'static str,
    /// The doc comment. Lines are joined by `\n`, and one leading space is removed from each.
    pub docs: &'static str,
    /// Source file, relative to the crate if it is inside.
    pub file: &'static str,
    /// Line of the function's name, from 1.
    pub line: u32,
    /// Parameters without `cx`, in order.
    pub params: &'static [ParamDef],
    /// Default time limit of an attempt, such as `30m`.
    pub timeout: Option<&'static str>,
    /// Default number of retries.
    pub retries: Option<u32>,
    /// Default overlap policy: `fail`, `skip`, `wait`, `wait=5m` or `allow`.
    pub overlap: Option<&'static str>,
    /// Deprecation message: why, and what to use instead.
    pub deprecated: Option<&'static str>,
}

/// One parameter of a job.
#[derive(Debug)]
pub struct ParamDef {
    /// Name as in the source. The flag is `--` and the name with `_` replaced by `-`.
    pub name: &'static str,
    /// The type as written in the source, for display.
    pub rust_type: &'static str,
    /// Which values it accepts.
    pub kind: ParamKind,
    /// Whether the job runs without a value (`Option<T>`).
    pub optional: bool,
    /// The default as JSON text.
    pub default: Option<&'static str>,
    /// The parameter's doc comment.
    pub docs: &'static str,
    /// Whether it accepts any number of values (`Vec<T>`). `kind` is the kind of each value.
    pub repeated: bool,
    /// The allowed values, if `kind` is [`ParamKind::Enum`].
    pub values: &'static [ValueDef],
    /// Deprecation message: why, and what to use instead.
    pub deprecated: Option<&'static str>,
}

/// One value of an enum that derives `ParamEnum`.
#[derive(Debug)]
pub struct ValueDef {
    /// The value on the command line: `[a-z][a-z0-9_-]{0,63}`.
    pub name: &'static str,
    /// The variant's doc comment.
    pub docs: &'static str,
}

/// Which values a parameter accepts. The names in [`ParamKind::as_str`] are part of the manifest's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// UTF-8 text.
    String,
    /// Signed integer of 8, 16, 32 or 64 bits.
    Int(u8),
    /// Unsigned integer of 8, 16, 32 or 64 bits.
    Uint(u8),
    /// Finite 64-bit float.
    Float,
    /// `--name` or `--no-name`.
    Bool,
    /// A point in time in UTC, sent to the plugin as RFC 3339.
    DateTime,
    /// A calendar day, `2024-01-31`.
    Date,
    /// A path, as UTF-8.
    Path,
    /// A duration such as `1h30m`, sent to the plugin in whole seconds.
    Duration,
    /// One of a closed set of names.
    Enum,
    /// A text that is never typed, shown or recorded: the caller gives its source.
    Secret,
}

impl ParamKind {
    /// Returns the name used in the manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int(8) => "i8",
            Self::Int(16) => "i16",
            Self::Int(32) => "i32",
            Self::Int(_) => "i64",
            Self::Uint(8) => "u8",
            Self::Uint(16) => "u16",
            Self::Uint(32) => "u32",
            Self::Uint(_) => "u64",
            Self::Float => "f64",
            Self::Bool => "bool",
            Self::DateTime => "datetime",
            Self::Date => "date",
            Self::Path => "path",
            Self::Duration => "duration",
            Self::Enum => "enum",
            Self::Secret => "secret",
        }
    }

    /// Returns the kind with this name, or `None` if this host does not know it.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "i8" => Self::Int(8),
            "i16" => Self::Int(16),
            "i32" => Self::Int(32),
            "i64" => Self::Int(64),
            "u8" => Self::Uint(8),
            "u16" => Self::Uint(16),
            "u32" => Self::Uint(32),
            "u64" => Self::Uint(64),
            "f64" => Self::Float,
            "bool" => Self::Bool,
            "datetime" => Self::DateTime,
            "date" => Self::Date,
            "path" => Self::Path,
            "duration" => Self::Duration,
            "enum" => Self::Enum,
            "secret" => Self::Secret,
            _ => return None,
        })
    }
}
