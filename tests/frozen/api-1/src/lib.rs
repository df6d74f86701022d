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
pub mod manifest;
pub mod param;

pub use context::JobContext;
pub use error::{EmitError, IntoJobResult, JobError, JobResult, Permanent};
pub use event::Event;
pub use lorchestra_plugin_api_macros::{job, plugin};

// The types that parameters and payloads are made of, so that a plugin needs one dependency.
pub use chrono;
pub use serde;
pub use serde_json;
pub use tracing;

/// Everything a job's source usually names.
pub mod prelude {
    pub use crate::{Event, JobContext, JobError, JobResult, Permanent, job, plugin};
    pub use chrono::{DateTime, NaiveDate, Utc};
    pub use serde_json::json;
    pub use std::path::PathBuf;
}

/// What the macros' expansions name. Not for authors; may change with any release, together with the macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi::{ABI_REVISION, Entry, entry_of, header};
    pub use crate::def::{JobDef, PackageDef, ParamDef};
    pub use crate::job::{Job, Plugin};
    pub use crate::manifest::{section, section_len};
    pub use crate::param::{Param, ParamError, default_or_off, is_default, take};
    pub use abi_stable::library::LibHeader;
    pub use serde_json::{Map, Value};
}
