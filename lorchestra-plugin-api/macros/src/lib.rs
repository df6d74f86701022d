//! Expansion of `#[job]` and `plugin!`. Authors reach both through `lorchestra-plugin-api`, where they are documented.
//!
//! `job` reads one function, `plugin` the list of them; both expand to constants of
//! `lorchestra_plugin_api::def` and implementations of `lorchestra_plugin_api::job`, and contain no unsafe of their own.
//! All errors of one item are reported at once, each at its place.

use proc_macro::TokenStream;
use syn::parse_macro_input;

mod choice;
mod job;
mod literal;
mod plugin;
mod policy;

/// All errors of an item as one; `None` where there is none.
fn combined(errors: Vec<syn::Error>) -> Option<syn::Error> {
    errors.into_iter().reduce(|mut all, next| {
        all.combine(next);
        all
    })
}

/// Makes a job of a function.
///
/// The first parameter is `cx: &JobContext`; every other one becomes a flag. `Option<T>` may be missing, `#[param(default =
/// LITERAL)]` gives a default, doc comments on the function and on its parameters become the help. The function returns
/// `JobResult`, or a `Result<(), E>` of any error. With the feature `async` it may be an `async fn`.
///
/// `#[job(timeout = "30m", retries = 2, overlap = "skip")]` says how it is run where neither a flag nor config.toml does;
/// `#[job(deprecated = "use other_job")]` and `#[param(deprecated = "…")]` are shown to whoever looks at it or uses it.
#[proc_macro_attribute]
pub fn job(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as syn::ItemFn);
    job::expand(attributes.into(), function).into()
}

/// Makes a parameter's type of an enum: each variant is a value, named in kebab case or by `#[param(name = "…")]`; doc comments become
/// the help.
#[proc_macro_derive(ParamEnum, attributes(param))]
pub fn param_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as syn::DeriveInput);
    choice::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a package of a library: `plugin! { package = "ingester", jobs = [extract_gmail, slack::extract_slack] }`.
///
/// Written once, at the root of a `cdylib`. Exports the manifest section and the root module.
#[proc_macro]
pub fn plugin(input: TokenStream) -> TokenStream {
    let package = parse_macro_input!(input as plugin::PluginInput);
    plugin::expand(&package).into()
}
