//! Library files as objects: what `plugins` prints.

use super::{JsonSchema, ProblemObject};
use lorchestra_plugin_api::manifest::JobManifest;
use serde::Serialize;

/// The library files and whether they can be used, as `plugins list --json` prints them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PluginsList {
    #[schemars(extend("const" = "lorchestra.plugins-list/1"))]
    pub(crate) schema: &'static str,
    /// The searched directories, in order.
    pub(crate) directories: Vec<DirectoryObject>,
    pub(crate) files: Vec<FileObject>,
}

/// A directory that was searched for libraries.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DirectoryObject {
    pub(crate) path: String,
    /// The setting that names it.
    pub(crate) origin: String,
    #[schemars(extend("enum" = ["read", "missing", "not-a-directory", "unreadable"]))]
    pub(crate) state: &'static str,
    /// Why it is unreadable.
    pub(crate) detail: Option<String>,
}

/// A library file.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum FileObject {
    /// Its jobs can run.
    Usable {
        path: String,
        package: String,
        version: String,
        /// Names of its jobs.
        jobs: Vec<String>,
        /// Null if the file no longer exists.
        bytes: Option<u64>,
        /// Whether plugins.lock has these bytes; null if there is no plugins.lock and none is required.
        locked: Option<bool>,
    },
    /// It has a problem.
    Unusable {
        /// Null if the file does not say.
        package: Option<String>,
        #[serde(flatten)]
        problem: ProblemObject,
    },
    /// Another name of a file in the list.
    Alias { path: String, of: String },
}

/// The result of `plugins check --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PluginsCheck {
    #[schemars(extend("const" = "lorchestra.plugins-check/1"))]
    pub(crate) schema: &'static str,
    /// Whether the library can be installed and loaded.
    pub(crate) ok: bool,
    pub(crate) path: String,
    /// Why it cannot be used; null if it can, or if only loading it failed.
    pub(crate) problem: Option<ProblemObject>,
    /// Omitted if the file cannot be read as a library of jobs.
    #[serde(flatten)]
    pub(crate) library: Option<CheckedLibrary>,
}

/// A library that was checked.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckedLibrary {
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    pub(crate) bytes: Option<u64>,
    /// Version of the compiler.
    pub(crate) rustc: String,
    pub(crate) target: String,
    /// Revision of the plugin ABI.
    pub(crate) abi: u32,
    pub(crate) glibc: GlibcObject,
    pub(crate) jobs: Vec<CheckedJob>,
    pub(crate) load: LoadObject,
    /// The installed library of this package; null if there is none.
    pub(crate) installed: Option<String>,
    /// Whether plugins.lock has these bytes; null if there is no plugins.lock and none is required.
    pub(crate) locked: Option<bool>,
}

/// Versions of glibc.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GlibcObject {
    /// The oldest one with which the library loads.
    pub(crate) needed: Option<String>,
    /// That of this host.
    pub(crate) host: Option<String>,
}

/// A job of a library that was checked.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckedJob {
    pub(crate) name: String,
    /// Its parameters in Rust.
    pub(crate) signature: String,
    /// First line of its documentation.
    pub(crate) summary: String,
}

impl CheckedJob {
    pub(crate) fn of(job: &JobManifest) -> Self {
        Self { name: job.name.clone(), signature: job.signature.clone(), summary: job.summary().to_owned() }
    }
}

/// The result of loading a library in a process of its own.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum LoadObject {
    /// The library has a problem, because of which loading was not tried.
    NotTried,
    Loaded {
        /// How long it took.
        micros: u64,
    },
    /// The library was loaded, and is not a plugin of this ABI.
    Refused { detail: String },
    /// The process died.
    Died {
        detail: String,
        /// What it printed; null if nothing.
        printed: Option<String>,
    },
    /// It took too long.
    Late { detail: String },
}

/// What `plugins install --json` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PluginsInstall {
    #[schemars(extend("const" = "lorchestra.plugins-install/1"))]
    pub(crate) schema: &'static str,
    pub(crate) installed: Vec<InstalledObject>,
}

/// An installed library.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InstalledObject {
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) path: String,
    pub(crate) sha256: String,
    /// Whether the same bytes were installed before.
    pub(crate) unchanged: bool,
    /// Version of the library that it replaces; null if there was none.
    pub(crate) replaces: Option<String>,
    /// Other files of the package, which were removed.
    pub(crate) removes: Vec<String>,
    pub(crate) added: Vec<JobSignature>,
    pub(crate) removed: Vec<JobSignature>,
    pub(crate) changed: Vec<ChangedSignature>,
    /// Whether plugins.lock has these bytes; null if there is no plugins.lock and none is required.
    pub(crate) locked: Option<bool>,
}

/// A job with its parameters in Rust.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct JobSignature {
    pub(crate) name: String,
    pub(crate) signature: String,
}

/// A job whose parameters have changed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangedSignature {
    pub(crate) name: String,
    pub(crate) before: String,
    pub(crate) after: String,
}

/// What `plugins remove --json` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PluginsRemove {
    #[schemars(extend("const" = "lorchestra.plugins-remove/1"))]
    pub(crate) schema: &'static str,
    pub(crate) package: String,
    /// Paths of the removed files.
    pub(crate) removed: Vec<String>,
}

/// What `plugins lock --json` did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PluginsLock {
    #[schemars(extend("const" = "lorchestra.plugins-lock/1"))]
    pub(crate) schema: &'static str,
    /// Path of plugins.lock.
    pub(crate) path: String,
    /// All entries of the file.
    pub(crate) packages: Vec<LockedObject>,
    /// Names of packages that were added.
    pub(crate) added: Vec<String>,
    /// Names of packages with other bytes than before.
    pub(crate) changed: Vec<String>,
    /// Names of packages that were removed.
    pub(crate) removed: Vec<String>,
    /// Files that cannot be used, and are not locked.
    pub(crate) problems: Vec<ProblemObject>,
}

/// An entry of plugins.lock.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LockedObject {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}
