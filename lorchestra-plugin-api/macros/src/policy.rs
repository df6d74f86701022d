//! What stands in `#[job(…)]`: how the job is run where nobody says otherwise.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Ident, LitInt, LitStr, Token};

const FORM: &str = "there are `timeout = \"30m\"`, `retries = 2`, `overlap = \"skip\"` and `deprecated = \"use other_job\"`";

/// The most retries that a host takes.
const MOST: u32 = 1000;

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
                "timeout" => drop(once(&mut policy.timeout, input)?),
                "overlap" => drop(once(&mut policy.overlap, input)?),
                "retries" => {
                    let number = once(&mut policy.retries, input)?;
                    if number.base10_parse::<u32>()? > MOST {
                        return Err(syn::Error::new(number.span(), format!("there are at most {MOST} retries")));
                    }
                }
                "deprecated" => {
                    let text = once(&mut policy.deprecated, input)?;
                    if text.value().trim().is_empty() {
                        return Err(syn::Error::new(text.span(), "say what to use instead"));
                    }
                }
                _ => return Err(syn::Error::new(key.span(), format!("unknown; {FORM}"))),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(policy)
    }
}

/// The value behind a key that is given once at most.
fn once<'a, T: Parse + Spanned>(slot: &'a mut Option<T>, input: ParseStream<'_>) -> syn::Result<&'a T> {
    input.parse::<Token![=]>()?;
    let value: T = input.parse().map_err(|error: syn::Error| syn::Error::new(error.span(), FORM))?;
    if slot.is_some() {
        return Err(syn::Error::new(value.span(), "this is given twice"));
    }
    Ok(slot.insert(value))
}

impl Policy {
    /// The fields of `JobDef` that it is about.
    pub(crate) fn fields(&self) -> TokenStream {
        let timeout = option(self.timeout.as_ref());
        let retries = option(self.retries.as_ref());
        let overlap = option(self.overlap.as_ref());
        let deprecated = option(self.deprecated.as_ref());
        quote!(timeout: #timeout, retries: #retries, overlap: #overlap, deprecated: #deprecated,)
    }

    /// What the compiler is to hold the texts to.
    pub(crate) fn checks(&self) -> TokenStream {
        let api = quote!(::lorchestra_plugin_api::__private);
        let timeout = self.timeout.as_ref().map(|text| {
            quote_spanned!(text.span()=> const _: () = ::core::assert!(
                #api::is_limit(#text), "this is not a limit: write `90s`, `5m` or `1h30m` (w d h m s, largest first), and more than 0"
            );)
        });
        let overlap = self.overlap.as_ref().map(|text| {
            quote_spanned!(text.span()=> const _: () = ::core::assert!(
                #api::is_overlap(#text), "`overlap` is `fail`, `skip`, `wait`, `wait=5m` or `allow`"
            );)
        });
        quote!(#timeout #overlap)
    }
}

/// An `Option` as an expression.
pub(crate) fn option(value: Option<impl quote::ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}
