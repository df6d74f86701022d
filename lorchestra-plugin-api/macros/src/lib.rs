//! The macros `#[job]`, `plugin!`, `ParamEnum`, `Event` and `Classify`. Authors use them through `lorchestra-plugin-api`, which documents them, with
//! examples that are compiled there.
//!
//! `job` reads one function, `plugin` the list of jobs. Both expand to constants of `lorchestra_plugin_api::def` and
//! implementations of `lorchestra_plugin_api::job`. They generate no unsafe code. All errors of an item are reported at once, each
//! at its span.

use proc_macro::TokenStream;
use syn::parse_macro_input;

mod classify;
mod event;
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

#[expect(missing_docs, reason = "documented where lorchestra-plugin-api re-exports it")]
#[proc_macro_attribute]
pub fn job(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as syn::ItemFn);
    job::expand(attributes.into(), function).into()
}

#[expect(missing_docs, reason = "documented where lorchestra-plugin-api re-exports it")]
#[proc_macro_derive(Classify, attributes(permanent))]
pub fn classify(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as syn::DeriveInput);
    classify::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[expect(missing_docs, reason = "documented where lorchestra-plugin-api re-exports it")]
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as syn::DeriveInput);
    event::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[expect(missing_docs, reason = "documented where lorchestra-plugin-api re-exports it")]
#[proc_macro_derive(ParamEnum, attributes(param))]
pub fn param_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as syn::DeriveInput);
    param_enum::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[expect(missing_docs, reason = "documented where lorchestra-plugin-api re-exports it")]
#[proc_macro]
pub fn plugin(input: TokenStream) -> TokenStream {
    let package = parse_macro_input!(input as plugin::PluginInput);
    plugin::expand(&package).into()
}
