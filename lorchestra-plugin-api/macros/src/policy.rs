//! What stands in `#[job(…)]`: how the job is run where nobody says otherwise.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
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

/// One `key = value`.
enum Argument {
    Timeout(LitStr),
    Retries(LitInt),
    Overlap(LitStr),
    Deprecated(LitStr),
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key: Ident = input.parse()?;
        let unknown = || syn::Error::new(key.span(), format!("unknown; {FORM}"));
        if !["timeout", "retries", "overlap", "deprecated"].contains(&key.to_string().as_str()) {
            return Err(unknown());
        }
        input.parse::<Token![=]>()?;
        let wrong = |error: syn::Error| syn::Error::new(error.span(), FORM);
        Ok(match key.to_string().as_str() {
            "timeout" => Self::Timeout(input.parse().map_err(wrong)?),
            "retries" => Self::Retries(input.parse().map_err(wrong)?),
            "overlap" => Self::Overlap(input.parse().map_err(wrong)?),
            _ => Self::Deprecated(input.parse().map_err(wrong)?),
        })
    }
}

impl Parse for Policy {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut policy = Self::default();
        for argument in Punctuated::<Argument, Token![,]>::parse_terminated(input)? {
            let (twice, span) = match argument {
                Argument::Timeout(text) => {
                    let span = text.span();
                    (policy.timeout.replace(text).is_some(), span)
                }
                Argument::Retries(number) => {
                    let span = number.span();
                    if number.base10_parse::<u32>()? > MOST {
                        return Err(syn::Error::new(span, format!("there are at most {MOST} retries")));
                    }
                    (policy.retries.replace(number).is_some(), span)
                }
                Argument::Overlap(text) => {
                    let span = text.span();
                    (policy.overlap.replace(text).is_some(), span)
                }
                Argument::Deprecated(text) => {
                    let span = text.span();
                    if text.value().trim().is_empty() {
                        return Err(syn::Error::new(span, "say what to use instead"));
                    }
                    (policy.deprecated.replace(text).is_some(), span)
                }
            };
            if twice {
                return Err(syn::Error::new(span, "this is given twice"));
            }
        }
        Ok(policy)
    }
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
