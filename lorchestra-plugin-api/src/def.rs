//! What a package says of itself, as constants.
//!
//! `#[job]` and `plugin!` expand to these structs. They are the one source of both descriptions a library carries: the
//! [manifest section](crate::manifest) that the host reads without running anything, and the jobs of the root module
//! ([`crate::abi`]) that the worker sees after loading. Nothing here allocates or runs at load time.

/// A package: what `plugin!` was given, and what the compiler knew.
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
    /// `(cx, account: Option<String> = None)`: for people.
    pub signature: &'static str,
    /// The doc comment, lines joined by `\n`, one leading space of each line removed.
    pub docs: &'static str,
    /// Source file, relative to the crate where that is possible.
    pub file: &'static str,
    /// Line of the function's name, from 1.
    pub line: u32,
    /// Parameters without `cx`, in order.
    pub params: &'static [ParamDef],
    /// How long an attempt may take where nobody says otherwise: `30m`.
    pub timeout: Option<&'static str>,
    /// How often it is tried again where nobody says otherwise.
    pub retries: Option<u32>,
    /// What happens beside another run where nobody says otherwise: `fail`, `skip`, `wait`, `wait=5m`, `allow`.
    pub overlap: Option<&'static str>,
    /// Why it is not to be used any more, and what is instead.
    pub deprecated: Option<&'static str>,
}

/// One parameter of a job.
#[derive(Debug)]
pub struct ParamDef {
    /// Name as in the source; the flag is `--` and the name with `-` for `_`.
    pub name: &'static str,
    /// The type as the author wrote it: for people.
    pub rust_type: &'static str,
    /// What values it takes.
    pub kind: ParamKind,
    /// Whether the job runs without a value (`Option<T>`).
    pub optional: bool,
    /// The default as JSON text; `None` where there is none.
    pub default: Option<&'static str>,
    /// The parameter's doc comment.
    pub docs: &'static str,
    /// Whether it takes any number of values (`Vec<T>`); `kind` is that of each.
    pub repeated: bool,
    /// The values there are, for [`ParamKind::Enum`].
    pub values: &'static [ValueDef],
    /// Why it is not to be used any more, and what is instead.
    pub deprecated: Option<&'static str>,
}

/// One value of an enum that derives `ParamEnum`.
#[derive(Debug)]
pub struct ValueDef {
    /// As it is typed: `[a-z][a-z0-9_-]{0,63}`.
    pub name: &'static str,
    /// The variant's doc comment.
    pub docs: &'static str,
}

/// What values a parameter takes. The names in [`ParamKind::as_str`] are part of the manifest's format.
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
    /// An instant in UTC; crosses the boundary as RFC 3339.
    DateTime,
    /// A calendar day, `2024-01-31`.
    Date,
    /// A path, as UTF-8.
    Path,
    /// A length of time, `1h30m`; crosses the boundary as whole seconds.
    Duration,
    /// One of a closed set of names.
    Enum,
    /// A text that is never typed, shown or recorded: what is typed is where it is to be found.
    Secret,
}

impl ParamKind {
    /// The name in the manifest.
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

    /// The kind a manifest names; `None` for a name this host does not know.
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
