#![doc = include_str!("../README.md")]
//!
//! # Modules for hosts
//!
//! `abi`, `def`, `invoke`, `job`, `limits` and `manifest` are hidden from this documentation: only a host (lorchestra itself) and the
//! macros use them, and their Rust API may change in any release. They are part of this crate, and not of a second one, for
//! two reasons: the macros expand to paths into them, and `abi_stable` compares one crate version at the plugin boundary. Data flows
//! through them in this order: `def` (constants that the macros generate) → `manifest` (the ELF section that a host reads without
//! running code) and `abi` (the root module that it loads) → `invoke` (one call, with panics caught) → [`JobContext`] and [`Event`].

#[cfg(not(panic = "unwind"))]
compile_error!("lorchestra plugins need panic = \"unwind\" to report a job's panic: remove `panic = \"abort\"` from the profile");

#[doc(hidden)]
pub mod abi;
mod bridge;
mod context;
#[doc(hidden)]
pub mod def;
mod error;
mod event;
#[doc(hidden)]
pub mod invoke;
#[doc(hidden)]
pub mod job;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod manifest;
pub mod mask;
pub mod param;
#[cfg(feature = "async")]
mod runtime;
mod secret;
pub mod testing;

pub use context::JobContext;
pub use error::{EmitError, EmitErrorKind, IntoJobResult, JobError, JobResult, Permanent};
pub use event::Event;
pub use lorchestra_plugin_api_macros::{ParamEnum, job, plugin};
#[cfg(feature = "async")]
pub use runtime::Cancelled;
pub use secret::Secret;

/// Version of this crate, for the dependency in a package's `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

// Re-exported so that a plugin needs only one dependency.
pub use chrono;
pub use serde;
pub use serde_json;
pub use tracing;

/// The items that most jobs use: `use lorchestra_plugin_api::prelude::*;`.
pub mod prelude {
    pub use crate::{Event, JobContext, JobError, JobResult, ParamEnum, Permanent, Secret, job, plugin};
    pub use chrono::{DateTime, NaiveDate, Utc};
    pub use serde_json::json;
    pub use std::path::PathBuf;
    pub use std::time::Duration;
}

/// Items that the macros' expansions refer to. Not for authors: they change with any release, together with the macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi::{ABI_REVISION, Enter, Entry, header};
    pub use crate::def::{JobDef, PackageDef, ParamDef, ParamKind, ValueDef};
    pub use crate::job::{Job, Plugin};
    pub use crate::manifest::{section, section_len};
    pub use crate::param::{
        ListItem, Param, ParamError, Scalar, default_or_off, is_default, is_limit, is_overlap, no_such_value, take,
    };
    #[cfg(feature = "async")]
    pub use crate::runtime::block_on;

    /// Whether the feature `async` is on.
    pub const ASYNC: bool = cfg!(feature = "async");

    /// Replaces the runtime if the feature `async` is off, so that an `async` job causes one compile error and not two.
    #[cfg(not(feature = "async"))]
    pub fn block_on<F: Future>(_: F) -> Result<F::Output, crate::JobError> {
        Err("enable the feature `async` of lorchestra-plugin-api".into())
    }

    pub use abi_stable::library::LibHeader;
    pub use serde_json::{Map, Value};
}

/// Compiles the examples of the guide. Some are `async`.
#[cfg(all(doctest, feature = "async"))]
#[doc = include_str!("../../docs/jobs.md")]
struct JobsGuide;
