//! Expansion of `#[derive(ParamEnum)]`.

use crate::job::{docs, is_name};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, LitStr, Token, Variant};

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(syn::Error::new_spanned(&input.ident, "`ParamEnum` can only be derived for an enum"));
    };
    if !input.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&input.generics, "a parameter's type cannot have generic parameters"));
    }
    if data.variants.is_empty() {
        return Err(syn::Error::new_spanned(&input.ident, "the enum needs at least one variant: each variant is a value"));
    }
    let mut errors: Vec<syn::Error> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut values = Vec::new();
    let mut arms = Vec::new();
    for variant in &data.variants {
        let name = match name(variant) {
            Ok(name) => name,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if names.contains(&name) {
            errors.push(syn::Error::new_spanned(variant, format!("two variants are named `{name}`")));
        }
        let docs = docs(&variant.attrs);
        let ident = &variant.ident;
        values.push(quote!(::lorchestra_plugin_api::__private::ValueDef { name: #name, docs: #docs }));
        arms.push(quote!(::core::option::Option::Some(#name) => ::core::result::Result::Ok(Self::#ident)));
        names.push(name);
    }
    if let Some(error) = crate::combined(errors) {
        return Err(error);
    }
    let ident = &input.ident;
    let api = quote!(::lorchestra_plugin_api::__private);
    Ok(quote! {
        impl #api::Param for #ident {
            const KIND: #api::ParamKind = #api::ParamKind::Enum;
            const VALUES: &'static [#api::ValueDef] = &[#(#values),*];
            type Literal = &'static str;

            fn from_value(
                value: ::core::option::Option<#api::Value>,
            ) -> ::core::result::Result<Self, #api::ParamError> {
                match value.as_ref().and_then(#api::Value::as_str) {
                    #(#arms,)*
                    _ => ::core::result::Result::Err(#api::no_such_value::<Self>(value.as_ref())),
                }
            }
        }

        impl #api::Scalar for #ident {}
        impl #api::ListItem for #ident {}
    })
}

/// The value's name: from `#[param(name = "…")]`, or the variant's name in kebab case.
fn name(variant: &Variant) -> syn::Result<String> {
    if !matches!(variant.fields, Fields::Unit) {
        return Err(syn::Error::new_spanned(variant, "a variant of a `ParamEnum` cannot have fields"));
    }
    let mut given: Option<LitStr> = None;
    for attribute in variant.attrs.iter().filter(|attribute| attribute.path().is_ident("param")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("unknown key: use `#[param(name = \"json\")]`"));
            }
            meta.input.parse::<Token![=]>()?;
            given = Some(meta.input.parse()?);
            Ok(())
        })?;
    }
    let name = given.as_ref().map_or_else(|| kebab(&variant.ident.to_string()), LitStr::value);
    if is_name(&name) {
        return Ok(name);
    }
    let message = format!("the value `{name}` does not match [a-z][a-z0-9_-]*: set a name with #[param(name = \"…\")]");
    Err(syn::Error::new_spanned(&variant.ident, message))
}

/// `NdJson` → `nd-json`, `HTML` → `html`, `Utf8Text` → `utf8-text`.
fn kebab(ident: &str) -> String {
    let letters: Vec<char> = ident.strip_prefix("r#").unwrap_or(ident).chars().collect();
    let mut name = String::new();
    for (i, &c) in letters.iter().enumerate() {
        let begins = c.is_uppercase()
            && i > 0
            && (!letters[i - 1].is_uppercase() || letters.get(i + 1).is_some_and(|next| next.is_lowercase()));
        if begins && !name.ends_with('-') {
            name.push('-');
        }
        match c {
            '_' => name.push('-'),
            c => name.extend(c.to_lowercase()),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_variants() {
        for (variant, name) in [
            ("Json", "json"),
            ("NdJson", "nd-json"),
            ("HTML", "html"),
            ("XMLFile", "xml-file"),
            ("Utf8Text", "utf8-text"),
            ("r#Type", "type"),
        ] {
            assert_eq!(super::kebab(variant), name);
        }
    }
}
