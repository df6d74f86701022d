//! Expansion of `#[derive(Classify)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Fields};

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let all = is_permanent(&input.attrs)?;
    let body = match &input.data {
        Data::Struct(_) => quote!(#all),
        Data::Enum(data) if data.variants.is_empty() => quote!(match *self {}),
        Data::Enum(data) => {
            let mut arms = Vec::new();
            for variant in &data.variants {
                let permanent = is_permanent(&variant.attrs)?;
                if all && permanent {
                    let message = "the whole enum is `#[permanent]`: remove one of the two attributes";
                    return Err(syn::Error::new_spanned(variant, message));
                }
                let ident = &variant.ident;
                let fields = match variant.fields {
                    Fields::Named(_) => quote!({ .. }),
                    Fields::Unnamed(_) => quote!((..)),
                    Fields::Unit => TokenStream::new(),
                };
                let permanent = all || permanent;
                arms.push(quote!(Self::#ident #fields => #permanent));
            }
            quote!(match self { #(#arms),* })
        }
        Data::Union(_) => {
            return Err(syn::Error::new_spanned(&input.ident, "`Classify` can only be derived for an enum or a struct"));
        }
    };
    let ident = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics ::lorchestra_plugin_api::Classify for #ident #arguments #bounds {
            fn is_permanent(&self) -> bool {
                #body
            }
        }
    })
}

/// Whether there is an attribute `#[permanent]`.
fn is_permanent(attributes: &[Attribute]) -> syn::Result<bool> {
    let mut permanent = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("permanent")) {
        attribute.meta.require_path_only()?;
        if std::mem::replace(&mut permanent, true) {
            return Err(syn::Error::new_spanned(attribute, "`#[permanent]` is given twice"));
        }
    }
    Ok(permanent)
}
