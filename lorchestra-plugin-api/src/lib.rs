//! Writing jobs for lorchestra.
//!
//! A job is a function; a package is a library of them. This crate is the one dependency it takes:
//!
//! ```
//! use lorchestra_plugin_api::prelude::*;
//!
//! /// Count the words of a file.
//! #[job]
//! fn count_words(cx: &JobContext, input: PathBuf, #[param(default = 10)] at_least: u64) -> JobResult {
//!     let words = std::fs::read_to_string(&input)?.split_whitespace().count() as u64;
//!     if words < at_least {
//!         Err(format!("{} has only {words} words", input.display()))?;
//!     }
//!     cx.emit("words.counted", json!({"words": words}))?;
//!     Ok(())
//! }
//!
//! plugin! { package = "words", jobs = [count_words] }
//! # fn main() {}
//! ```
//!
//! Built as a `cdylib` and put into the plugin directory, it is run by `lorchestra run-job words count_words --input FILE`.
//!
//! The modules, in the direction of the data: [`def`] (what the macros say of a package) → [`manifest`] (the section a host
//! reads without running anything) and [`abi`] (the root module it loads) → [`invoke`] (one call, behind the panic wall) →
//! [`JobContext`] and [`Event`] (the way out).

#[cfg(not(panic = "unwind"))]
compile_error!(
    "lorchestra plugins are built with panic = \"unwind\": the panic wall needs it (remove `panic = \"abort\"` from the profile)"
);

pub mod abi;
mod bridge;
mod context;
pub mod def;
mod error;
mod event;
pub mod invoke;
pub mod job;
#[doc(hidden)]
pub mod limits;
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

/// Version of this crate: what a package asks a registry for.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

// The types that parameters and payloads are made of, so that a plugin needs one dependency.
pub use chrono;
pub use serde;
pub use serde_json;
pub use tracing;

/// Everything a job's source usually names.
pub mod prelude {
    pub use crate::{Event, JobContext, JobError, JobResult, ParamEnum, Permanent, Secret, job, plugin};
    pub use chrono::{DateTime, NaiveDate, Utc};
    pub use serde_json::json;
    pub use std::path::PathBuf;
    pub use std::time::Duration;
}

/// What the macros' expansions name. Not for authors; may change with any release, together with the macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi::{ABI_REVISION, Enter, Entry, header};
    pub use crate::def::{JobDef, PackageDef, ParamDef, ParamKind, ValueDef};
    pub use crate::job::{Job, Plugin};
    pub use crate::manifest::{section, section_len};
    pub use crate::param::{
        Listed, One, Param, ParamError, default_or_off, is_default, is_limit, is_overlap, no_such_value, take,
    };
    #[cfg(feature = "async")]
    pub use crate::runtime::block_on;

    /// Whether a job may be `async`.
    pub const ASYNC: bool = cfg!(feature = "async");

    /// Stands in for the runtime of the feature `async`, so that its absence is one error and not two: the crate does not compile.
    #[cfg(not(feature = "async"))]
    pub fn block_on<F: Future>(_: F) -> Result<F::Output, crate::JobError> {
        Err("the feature `async` of lorchestra-plugin-api is off".into())
    }

    pub use abi_stable::library::LibHeader;
    pub use serde_json::{Map, Value};
}

/// Compiles the examples of the guides and the tutorial, some of which are `async`.
#[cfg(all(doctest, feature = "async"))]
#[doc = include_str!("../../docs/guides/jobs.md")]
#[doc = include_str!("../../docs/guides/python.md")]
#[doc = include_str!("../../docs/tutorial/first-package.md")]
struct Guides;
