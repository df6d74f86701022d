//! The macros `#[job]`, `plugin!` and `ParamEnum`. Authors use them through `lorchestra-plugin-api`.
//!
//! `job` reads one function, `plugin` the list of jobs. Both expand to constants of `lorchestra_plugin_api::def` and
//! implementations of `lorchestra_plugin_api::job`. They generate no unsafe code. All errors of an item are reported at once, each
//! at its span.

use proc_macro::TokenStream;
use syn::parse_macro_input;

mod job;
mod literal;
mod param_enum;
mod plugin;
mod policy;

/// Combines all errors of an item into one.
fn combined(errors: Vec<syn::Error>) -> Option<syn::Error> {
    errors.into_iter().reduce(|mut all, next| {
        all.combine(next);
        all
    })
}

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
///   listed in `lorchestra_plugin_api::param`.
/// - The function returns `JobResult`, or `Result<(), E>` with any error type. With the feature `async` it may be an `async fn`.
///
/// Arguments of the attribute, all optional. Flags and `config.toml` override the first three:
///
/// | argument | meaning |
/// | --- | --- |
/// | `timeout = "30m"` | time limit of an attempt |
/// | `retries = 2` | maximum number of retries after a retryable error |
/// | `overlap = "skip"` | what to do if the job already runs for this account: `fail`, `skip`, `wait`, `wait=5m`, `allow` |
/// | `deprecated = "use other_job"` | warning for everyone who shows or runs the job; also as `#[param(deprecated = "…")]` |
#[proc_macro_attribute]
pub fn job(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as syn::ItemFn);
    job::expand(attributes.into(), function).into()
}

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
#[proc_macro_derive(ParamEnum, attributes(param))]
pub fn param_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as syn::DeriveInput);
    param_enum::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

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
#[proc_macro]
pub fn plugin(input: TokenStream) -> TokenStream {
    let package = parse_macro_input!(input as plugin::PluginInput);
    plugin::expand(&package).into()
}
