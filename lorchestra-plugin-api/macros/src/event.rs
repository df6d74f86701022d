//! Expansion of `#[derive(Event)]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Data, DeriveInput, Fields, Ident, LitStr, Token};

/// What `#[event(…)]` says about a type.
#[derive(Default)]
struct Declared {
    event_type: Option<LitStr>,
    schema_ref: Option<LitStr>,
}

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(syn::Error::new_spanned(&input.ident, "`Event` can only be derived for a struct"));
    };
    let declared = declared(input)?;
    let missing = r#"name the event's type: #[event("message.received")]"#;
    let event_type = declared.event_type.ok_or_else(|| syn::Error::new(Span::call_site(), missing))?;
    if event_type.value().trim().is_empty() {
        return Err(syn::Error::new_spanned(event_type, "an event's type cannot be empty"));
    }
    let [subject_id, correlation_id] = ids(&data.fields)?;
    let set = |field: Option<Ident>, setter: TokenStream| {
        field.map(|field| quote!(let event = #setter(event, ::std::string::ToString::to_string(&self.#field));))
    };
    let subject_id = set(subject_id, quote!(::lorchestra_plugin_api::Event::subject_id));
    let correlation_id = set(correlation_id, quote!(::lorchestra_plugin_api::Event::correlation_id));
    let schema_ref =
        declared.schema_ref.map(|schema| quote!(let event = ::lorchestra_plugin_api::Event::schema_ref(event, #schema);));
    let ident = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics ::lorchestra_plugin_api::TypedEvent for #ident #arguments #bounds {
            const TYPE: &'static str = #event_type;

            fn to_event(&self) -> ::core::result::Result<::lorchestra_plugin_api::Event, ::lorchestra_plugin_api::EmitError> {
                let event = ::lorchestra_plugin_api::Event::new(#event_type, self)?;
                #schema_ref
                #subject_id
                #correlation_id
                ::core::result::Result::Ok(event)
            }
        }
    })
}

fn declared(input: &DeriveInput) -> syn::Result<Declared> {
    let mut declared = Declared::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("event")) {
        attribute.parse_args_with(|input: syn::parse::ParseStream<'_>| {
            while !input.is_empty() {
                if input.peek(LitStr) {
                    set_once(&mut declared.event_type, input.parse()?)?;
                } else {
                    let key: Ident = input.parse()?;
                    if key != "schema" {
                        let message = r#"unknown key: write #[event("type", schema = "https://…")]"#;
                        return Err(syn::Error::new(key.span(), message));
                    }
                    input.parse::<Token![=]>()?;
                    set_once(&mut declared.schema_ref, input.parse()?)?;
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        })?;
    }
    Ok(declared)
}

fn set_once(slot: &mut Option<LitStr>, text: LitStr) -> syn::Result<()> {
    if slot.is_some() {
        return Err(syn::Error::new_spanned(text, "given twice"));
    }
    *slot = Some(text);
    Ok(())
}

/// The fields marked `#[event(subject_id)]` and `#[event(correlation_id)]`.
fn ids(fields: &Fields) -> syn::Result<[Option<Ident>; 2]> {
    let mut found = [None, None];
    for field in fields {
        for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("event")) {
            let key: Ident = attribute.parse_args()?;
            let index = match key.to_string().as_str() {
                "subject_id" => 0,
                "correlation_id" => 1,
                _ => return Err(syn::Error::new(key.span(), "unknown key: expected `subject_id` or `correlation_id`")),
            };
            let Some(ident) = &field.ident else {
                return Err(syn::Error::new_spanned(field, "only a field with a name can be an id of the event"));
            };
            if found[index].replace(ident.clone()).is_some() {
                return Err(syn::Error::new_spanned(field, format!("two fields are the event's `{key}`")));
            }
        }
    }
    Ok(found)
}
