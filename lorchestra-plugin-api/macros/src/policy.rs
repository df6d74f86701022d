//! The arguments of `#[job(…)]`: default time limit, retries and overlap policy of a job, and its deprecation.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Ident, LitInt, LitStr, Token};

const EXPECTED: &str = "expected `timeout = \"30m\"`, `retries = 2`, `overlap = \"skip\"` or `deprecated = \"use other_job\"`";

/// Maximum number of retries that a host accepts.
const MAX_RETRIES: u32 = 1000;

/// The arguments of one `#[job]`.
#[derive(Default)]
pub(crate) struct Policy {
    timeout: Option<LitStr>,
    retries: Option<LitInt>,
    overlap: Option<LitStr>,
    deprecated: Option<LitStr>,
}

impl Parse for Policy {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut policy = Self::default();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            match key.to_string().as_str() {
                "timeout" => drop(set_once(&mut policy.timeout, input)?),
                "overlap" => drop(set_once(&mut policy.overlap, input)?),
                "retries" => {
                    let number = set_once(&mut policy.retries, input)?;
                    if number.base10_parse::<u32>()? > MAX_RETRIES {
                        return Err(syn::Error::new(number.span(), format!("`retries` can be at most {MAX_RETRIES}")));
                    }
                }
                "deprecated" => {
                    let text = set_once(&mut policy.deprecated, input)?;
                    if text.value().trim().is_empty() {
                        return Err(syn::Error::new(text.span(), "`deprecated` must not be empty: name the replacement"));
                    }
                }
                _ => return Err(syn::Error::new(key.span(), format!("unknown key: {EXPECTED}"))),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(policy)
    }
}

/// Parses `= value` after a key and stores it. A key may be given only once.
fn set_once<'a, T: Parse + Spanned>(slot: &'a mut Option<T>, input: ParseStream<'_>) -> syn::Result<&'a T> {
    input.parse::<Token![=]>()?;
    let value: T = input.parse().map_err(|error: syn::Error| syn::Error::new(error.span(), EXPECTED))?;
    if slot.is_some() {
        return Err(syn::Error::new(value.span(), "this argument is given twice"));
    }
    Ok(slot.insert(value))
}

impl Policy {
    /// The policy fields of `JobDef`.
    pub(crate) fn fields(&self) -> TokenStream {
        let timeout = option(self.timeout.as_ref());
        let retries = option(self.retries.as_ref());
        let overlap = option(self.overlap.as_ref());
        let deprecated = option(self.deprecated.as_ref());
        quote!(timeout: #timeout, retries: #retries, overlap: #overlap, deprecated: #deprecated,)
    }

    /// Compile-time checks of the texts.
    pub(crate) fn checks(&self) -> TokenStream {
        let api = quote!(::lorchestra_plugin_api::__private);
        let timeout = self.timeout.as_ref().map(|text| {
            quote_spanned!(text.span()=> const _: () = ::core::assert!(
                #api::is_limit(#text), "invalid time limit: write a duration above zero, such as `90s`, `5m` or `1h30m` (units w d h m s, largest first)"
            );)
        });
        let overlap = self.overlap.as_ref().map(|text| {
            quote_spanned!(text.span()=> const _: () = ::core::assert!(
                #api::is_overlap(#text), "`overlap` must be `fail`, `skip`, `wait`, `wait=5m` or `allow`"
            );)
        });
        quote!(#timeout #overlap)
    }
}

/// Generates an `Option` expression.
pub(crate) fn option(value: Option<impl quote::ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}
