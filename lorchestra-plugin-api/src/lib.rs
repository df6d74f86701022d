#![doc = include_str!("../README.md")]
//!
//! # Modules for hosts
//!
//! `abi`, `def`, `invoke`, `job`, `limits`, `manifest` and `results` are hidden from this documentation: only a host (lorchestra itself) and the
//! macros use them, and their Rust API may change in any release. They are part of this crate, and not of a second one, for
//! two reasons: the macros expand to paths into them, and `abi_stable` compares one crate version at the plugin boundary. Data flows
//! through them in this order: `def` (constants that the macros generate) → `manifest` (the ELF section that a host reads without
//! running code) and `abi` (the root module that it loads) → `invoke` (one call, with panics caught) → [`JobContext`] and [`Event`](struct@Event).

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
#[doc(hidden)]
pub mod results;
#[cfg(feature = "async")]
mod runtime;
mod secret;
pub mod testing;

pub use context::JobContext;
pub use error::{Classify, EmitError, EmitErrorKind, IntoJobResult, JobError, JobResult, Permanent};
pub use event::{Event, TypedEvent};
/// Implements [`Classify`](trait@Classify): `#[permanent]` marks the variants, or the whole type, that lorchestra does not retry.
///
/// See the [trait](trait@Classify) for an example.
pub use lorchestra_plugin_api_macros::Classify;
/// Implements [`TypedEvent`]: the struct is the payload, and `#[event("type")]` names the event's type.
///
/// See the [trait](TypedEvent) for an example.
pub use lorchestra_plugin_api_macros::Event;
/// Lets an enum be the type of a parameter.
///
/// Each variant is a value, named after the variant in kebab case or with `#[param(name = "…")]`. Doc comments become the help
/// text.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
///
/// #[derive(ParamEnum, Clone, Copy, Debug)]
/// enum Format {
///     /// One JSON array
///     Json,
///     /// One JSON object per line (`--format nd-json`)
///     NdJson,
///     /// Comma-separated values
///     #[param(name = "csv")]
///     CommaSeparated,
/// }
///
/// /// Export records.
/// #[job]
/// fn export(cx: &JobContext, #[param(default = "nd-json")] format: Format) -> JobResult {
///     cx.emit("records.exported", json!({ "format": format!("{format:?}") }))?;
///     Ok(())
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// # assert_eq!(testing::job::<export>().run().event("records.exported").payload["format"], "NdJson");
/// # assert_eq!(testing::job::<export>().param("format", "csv").run().event("records.exported").payload["format"], "CommaSeparated");
/// # }
/// ```
pub use lorchestra_plugin_api_macros::ParamEnum;
/// Turns a function into a job.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
///
/// /// Copy a mailbox.
/// #[job(timeout = "30m", retries = 2, overlap = "skip")]
/// pub fn copy_mailbox(
///     cx: &JobContext,
///     /// Mailbox to read
///     source: PathBuf,
///     /// Account to label the messages with
///     account: Option<String>,
///     /// Messages per request
///     #[param(default = 500)]
///     page_size: u32,
/// ) -> JobResult {
///     cx.emit("mailbox.copied", json!({ "source": source, "account": account, "page_size": page_size }))?;
///     Ok(())
/// }
/// # fn main() {}
/// ```
///
/// - The first parameter is `cx: &JobContext`. Every other parameter becomes a flag (`--page-size`).
/// - Doc comments on the function and its parameters become the help text.
/// - `Option<T>` and `Vec<T>` parameters may be omitted. `#[param(default = LITERAL)]` sets a default. The parameter types are
///   listed in [`param`].
/// - The function returns `JobResult`, or `Result<(), E>` with any error type; if `E` implements [`Classify`](trait@Classify), it decides
///   which errors are retried. With the feature `async` it may be an `async fn`.
///
/// Arguments of the attribute, all optional. Flags and `config.toml` override the first three:
///
/// | argument | meaning |
/// | --- | --- |
/// | `timeout = "30m"` | time limit of an attempt |
/// | `retries = 2` | maximum number of retries after a retryable error |
/// | `overlap = "skip"` | what to do if the job already runs for this account: `fail`, `skip`, `wait`, `wait=5m`, `allow` |
/// | `deprecated = "use other_job"` | warning for everyone who shows or runs the job; also as `#[param(deprecated = "…")]` |
pub use lorchestra_plugin_api_macros::job;
/// Declares the package and lists its jobs.
///
/// Use it once, in the root module of a `cdylib`. It adds the manifest section and the root module to the library.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
///
/// plugin! { package = "greetings", jobs = [hello, slow::goodbye] }
///
/// /// Say hello.
/// #[job]
/// pub fn hello(cx: &JobContext) -> JobResult {
///     cx.emit("greeting.sent", json!({ "text": "hello" }))?;
///     Ok(())
/// }
///
/// mod slow {
///     use lorchestra_plugin_api::prelude::*;
///
///     /// Say goodbye.
///     #[job]
///     pub fn goodbye(cx: &JobContext) -> JobResult {
///         cx.emit("greeting.sent", json!({ "text": "goodbye" }))?;
///         Ok(())
///     }
/// }
/// # fn main() {}
/// ```
pub use lorchestra_plugin_api_macros::plugin;
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
    pub use crate::{Classify, Event, JobContext, JobError, JobResult, ParamEnum, Permanent, Secret, TypedEvent, job, plugin};
    pub use chrono::{DateTime, NaiveDate, Utc};
    pub use serde_json::{Value, json};
    pub use std::path::PathBuf;
    pub use std::time::Duration;
}

/// Items that the macros' expansions refer to. Not for authors: they change with any release, together with the macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi::{ABI_REVISION, Enter, Entry, header};
    pub use crate::def::{JobDef, PackageDef, ParamDef, ParamKind, ValueDef};

    /// The traits that choose the conversion of a job's result.
    pub mod conversion {
        pub use crate::error::{AnyResult, ClassifiedResult};
    }

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

/// Compiles the examples of the guides and the tutorial, some of which are `async`.
#[cfg(all(doctest, feature = "async"))]
#[doc = include_str!("../../docs/guides/jobs.md")]
#[doc = include_str!("../../docs/guides/python.md")]
#[doc = include_str!("../../docs/tutorial/first-package.md")]
struct Guides;
