//! Expansion of `#[job]`.
//!
//! The function is kept, without the attributes and doc comments of its parameters. The expansion adds a type of the same name (types
//! and functions have different namespaces) that implements `Job`. `plugin!` lists that type. Importing the function imports
//! both.

use crate::literal;
use crate::policy::{Policy, option};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Expr, FnArg, ItemFn, LitStr, Meta, Pat, ReturnType, Token, Type};

/// Flags of `run-job` itself, including planned ones. A parameter with such a name could not be set.
const RESERVED: &[&str] = &[
    "timeout",
    "grace",
    "dry_run",
    "json",
    "quiet",
    "param",
    "verbose",
    "help",
    "version",
    "plugin_dir",
    "require_delivery",
    "delivery_timeout",
    "on_overlap",
    "retries",
    "memory_max",
    "show_output",
    "locked",
];

/// A parameter after `cx`.
struct Param {
    name: String,
    ident: syn::Ident,
    ty: Type,
    docs: String,
    default: Option<(Expr, String)>,
    deprecated: Option<LitStr>,
}

pub(crate) fn expand(attributes: TokenStream, mut function: ItemFn) -> TokenStream {
    let mut errors = Vec::new();
    let policy = syn::parse2::<Policy>(attributes).unwrap_or_else(|error| {
        errors.push(error);
        Policy::default()
    });
    check_signature(&function, &mut errors);
    let params = take_params(&mut function, &mut errors);
    let described = describe(&function, &policy, &params);
    // On errors the function and the type are still generated, so that uses of them cause no further errors.
    match crate::combined(errors) {
        // Each parameter is a flag; no Rust code passes them all positionally. The compiler does not report an expectation that a macro
        // writes and that nothing fulfils: a job with few parameters.
        None => quote! {
            #[expect(clippy::too_many_arguments, reason = "each is a flag")]
            #function
            #described
        },
        Some(errors) => {
            let errors = errors.into_compile_error();
            let placeholder = placeholder(&function);
            quote! { #function #placeholder #errors }
        }
    }
}

/// An empty `Job` implementation for a function with errors. Not for a method, because an impl block cannot hold a type.
fn placeholder(function: &ItemFn) -> TokenStream {
    let (vis, ident) = (&function.vis, &function.sig.ident);
    if function.sig.receiver().is_some() {
        return TokenStream::new();
    }
    let api = quote!(::lorchestra_plugin_api::__private);
    let policy = Policy::default().fields();
    quote! {
        #[doc(hidden)]
        #[expect(non_camel_case_types, reason = "named like the job, so that one path names both")]
        #vis struct #ident {}

        impl #ident {
            pub(crate) const THIS_JOB_IS_NOT_LISTED_IN_PLUGIN: () = ();
        }

        // A job with errors causes no warning as well, listed or not.
        const _: () = #ident::THIS_JOB_IS_NOT_LISTED_IN_PLUGIN;

        impl #api::Job for #ident {
            const DEF: #api::JobDef =
                #api::JobDef { name: "job", signature: "", docs: "", file: "", line: 1, params: &[], #policy };

            fn call(
                _: &::lorchestra_plugin_api::JobContext,
                _: &mut #api::Map<::std::string::String, #api::Value>,
            ) -> ::core::result::Result<::lorchestra_plugin_api::JobResult, #api::ParamError> {
                ::core::result::Result::Ok(::core::result::Result::Ok(()))
            }
        }
    }
}

fn check_signature(function: &ItemFn, errors: &mut Vec<syn::Error>) {
    let sig = &function.sig;
    let mut error = |at: &dyn quote::ToTokens, message: &str| errors.push(syn::Error::new_spanned(at, message));
    if let syn::Safety::Unsafe(token) = &sig.safety {
        error(token, "a job cannot be `unsafe`");
    }
    if !sig.generics.params.is_empty() {
        error(&sig.generics, "a job cannot have generic parameters: its parameter types must be known at compile time");
    }
    if let Some(variadic) = &sig.variadic {
        error(variadic, "a job cannot have variadic parameters");
    }
    let name = ident_text(&sig.ident);
    if !is_name(&name) {
        error(&sig.ident, "a job's name must match [a-z][a-z0-9_]* and have at most 64 characters");
    }
    if matches!(sig.output, ReturnType::Default) {
        error(&sig.ident, "a job must return a result: write `-> JobResult` and end with `Ok(())`");
    }
    match sig.inputs.first() {
        None => error(&sig.ident, "the first parameter of a job must be `cx: &JobContext`"),
        Some(FnArg::Receiver(receiver)) => {
            error(receiver, "a job must be a free function, and its first parameter must be `cx: &JobContext`")
        }
        Some(FnArg::Typed(typed)) if !matches!(&*typed.ty, Type::Reference(cx) if cx.mutability.is_none()) => {
            error(&typed.ty, "the first parameter of a job must be `cx: &JobContext`");
        }
        Some(FnArg::Typed(_)) => {}
    }
}

/// Reads the parameters after `cx` and removes their `#[param]` attributes and doc comments.
fn take_params(function: &mut ItemFn, errors: &mut Vec<syn::Error>) -> Vec<Param> {
    let mut params: Vec<Param> = Vec::new();
    for (i, input) in function.sig.inputs.iter_mut().enumerate() {
        let FnArg::Typed(typed) = input else { continue };
        let attributes = std::mem::take(&mut typed.attrs);
        let (ours, others): (Vec<Attribute>, Vec<Attribute>) =
            attributes.into_iter().partition(|a| a.path().is_ident("param") || a.path().is_ident("doc"));
        typed.attrs = others;
        if i == 0 {
            continue;
        }
        let Pat::Ident(pattern) = &*typed.pat else {
            errors.push(syn::Error::new_spanned(
                &typed.pat,
                "a parameter of a job must have a plain name, because it becomes a flag",
            ));
            continue;
        };
        let name = ident_text(&pattern.ident);
        let at = pattern.ident.span();
        if !is_name(&name) {
            errors.push(syn::Error::new(
                at,
                "a parameter's name must match [a-z][a-z0-9_]* and have at most 64 characters, because it becomes a flag",
            ));
        }
        if RESERVED.contains(&name.as_str()) {
            let flag = name.replace('_', "-");
            errors.push(syn::Error::new(at, format!("`--{flag}` is a flag of run-job itself: rename the parameter")));
        }
        if let Some(other) =
            params.iter().find(|p| p.name.strip_prefix("no_") == Some(&name) || name.strip_prefix("no_") == Some(&p.name))
        {
            errors.push(syn::Error::new(
                at,
                format!("`{name}` and `{}` would share a flag, because `--no-x` turns off a bool `--x`: rename one", other.name),
            ));
        }
        if params.iter().any(|p| p.name == name) {
            errors.push(syn::Error::new(at, format!("two parameters are named `{name}`")));
        }
        let (default, deprecated) = param_attributes(&ours).unwrap_or_else(|error| {
            errors.push(error);
            (None, None)
        });
        params.push(Param {
            name,
            ident: pattern.ident.clone(),
            ty: (*typed.ty).clone(),
            docs: docs(&ours),
            default,
            deprecated,
        });
    }
    params
}

/// Reads `#[param(…)]`: the default as a literal and as JSON, and the deprecation message.
#[expect(clippy::type_complexity, reason = "the only caller destructures it at once")]
fn param_attributes(attributes: &[Attribute]) -> syn::Result<(Option<(Expr, String)>, Option<LitStr>)> {
    let mut default = None;
    let mut deprecated = None;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("param")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("deprecated") {
                meta.input.parse::<Token![=]>()?;
                deprecated = Some(meta.input.parse::<LitStr>()?);
                return Ok(());
            }
            if !meta.path.is_ident("default") {
                return Err(meta.error("unknown key: use `default = LITERAL` or `deprecated = \"use --other\"`"));
            }
            if default.is_some() {
                return Err(meta.error("`default` is given twice"));
            }
            meta.input.parse::<Token![=]>()?;
            let expr: Expr = meta.input.parse()?;
            let json = literal::to_json(&expr)?;
            default = Some((expr, json));
            Ok(())
        })?;
    }
    Ok((default, deprecated))
}

/// Generates the type with its `Job` implementation, and the compile-time checks of the defaults.
fn describe(function: &ItemFn, policy: &Policy, params: &[Param]) -> TokenStream {
    let api = quote!(::lorchestra_plugin_api::__private);
    let vis = &function.vis;
    let ident = &function.sig.ident;
    let name = ident_text(ident);
    let docs = docs(&function.attrs);
    let signature = signature(params);
    let (file, line) = location(ident.span());

    let defs = params.iter().map(|p| {
        let Param { name, ty, docs, .. } = p;
        let rust_type = type_text(ty);
        let default = option(p.default.as_ref().map(|(_, json)| json));
        let deprecated = option(p.deprecated.as_ref());
        let of_type = quote_spanned!(ty.span()=> <#ty as #api::Param>);
        quote! {
            #api::ParamDef {
                name: #name,
                rust_type: #rust_type,
                kind: #of_type::KIND,
                optional: #of_type::OPTIONAL,
                default: #api::default_or_off(#of_type::KIND, #of_type::OPTIONAL, #default),
                docs: #docs,
                repeated: #of_type::REPEATED,
                values: #of_type::VALUES,
                deprecated: #deprecated,
            }
        }
    });
    let checks = params.iter().filter_map(|p| {
        let ty = &p.ty;
        let (expr, _) = p.default.as_ref()?;
        let typed = quote_spanned!(expr.span()=> const _: <#ty as #api::Param>::Literal = #expr;);
        let optional = quote_spanned!(expr.span()=> const _: () = ::core::assert!(
            !<#ty as #api::Param>::OPTIONAL, "a parameter with a default always has a value: remove `Option` or the default"
        ););
        let readable = match expr {
            Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(_), .. }) => quote_spanned!(expr.span()=> const _: () = ::core::assert!(
                #api::is_default(<#ty as #api::Param>::KIND, <#ty as #api::Param>::VALUES, #expr),
                "invalid default: a time is `2024-01-31`, `-7d` (s min h d w mo y), `now`, `today` or `yesterday`; \
                 a duration is `90s` or `1h30m`; an enum's default is one of its values"
            );),
            _ => TokenStream::new(),
        };
        Some(quote!(#typed #optional #readable))
    });
    let single = params.iter().filter(|p| ["account", "since", "until"].contains(&p.name.as_str())).map(|p| {
        let ty = &p.ty;
        quote_spanned!(ty.span()=> const _: () = ::core::assert!(
            !<#ty as #api::Param>::REPEATED, "`account`, `since` and `until` cannot be lists: a run has one account and one window"
        );)
    });
    let values: Vec<_> = params.iter().map(|p| format_ident!("param_{}", ident_text(&p.ident))).collect();
    let takes = params.iter().zip(&values).map(|(p, value)| {
        let Param { name, ty, .. } = p;
        quote_spanned!(ty.span()=> let #value = #api::take::<#ty>(#name, params)?;)
    });
    // Which conversion: the method is found by autoref, so that an error that implements `Classify` is classified.
    let convert = |result: TokenStream| {
        let span = match &function.sig.output {
            ReturnType::Type(_, ty) => ty.span(),
            ReturnType::Default => Span::call_site(),
        };
        quote_spanned!(span=> {
            // Both traits: one of them applies.
            use #api::conversion::*;
            let result = #result;
            let conversion = (&result).conversion();
            conversion.apply(result)
        })
    };
    // Only `plugin!` uses it, so that rustc warns of a job that no package lists: a job is used by nothing else.
    let listed = quote_spanned!(ident.span()=> #[doc(hidden)] pub(crate) const THIS_JOB_IS_NOT_LISTED_IN_PLUGIN: () = (););
    let policy_fields = policy.fields();
    let policy_checks = policy.checks();
    let call = quote!(#ident(cx #(, #values)*));
    let (runtime_check, returned) = match &function.sig.asyncness {
        None => (TokenStream::new(), convert(call)),
        Some(token) => (
            quote_spanned!(token.span()=> const _: () = ::core::assert!(
                #api::ASYNC, "an async job needs the feature `async`: lorchestra-plugin-api = {{ …, features = [\"async\"] }}"
            );),
            {
                let converted = convert(quote!(result));
                quote!(#api::block_on(#call).and_then(|result| #converted))
            },
        ),
    };
    quote! {
        #[doc(hidden)]
        #[expect(non_camel_case_types, reason = "named like the job, so that one path names both")]
        #vis struct #ident {}

        impl #ident {
            #listed
        }

        const _: () = {
            #(#checks)*
            #(#single)*
            #policy_checks
            #runtime_check

            impl #api::Job for #ident {
                const DEF: #api::JobDef = #api::JobDef {
                    name: #name,
                    signature: #signature,
                    docs: #docs,
                    file: #file,
                    line: #line,
                    params: &[#(#defs),*],
                    #policy_fields
                };

                fn call(
                    cx: &::lorchestra_plugin_api::JobContext,
                    params: &mut #api::Map<::std::string::String, #api::Value>,
                ) -> ::core::result::Result<::lorchestra_plugin_api::JobResult, #api::ParamError> {
                    let _ = &params;
                    #(#takes)*
                    ::core::result::Result::Ok(#returned)
                }
            }
        };
    }
}

/// `(cx, account: Option<String> = None, page_size: u32 = 500)`.
fn signature(params: &[Param]) -> String {
    let mut text = String::from("(cx");
    for p in params {
        let ty = type_text(&p.ty);
        text.push_str(&format!(", {}: {ty}", p.name));
        match &p.default {
            Some((_, json)) => text.push_str(&format!(" = {json}")),
            None if ty.starts_with("Option<") => text.push_str(" = None"),
            None if ty.starts_with("Vec<") => text.push_str(" = []"),
            None => {}
        }
    }
    text.push(')');
    text
}

/// Formats a type without the spaces that a token stream prints between tokens.
fn type_text(ty: &Type) -> String {
    let spaced = quote!(#ty).to_string();
    let mut text = String::with_capacity(spaced.len());
    for word in spaced.split(' ') {
        let tight = matches!(word, "<" | ">" | "::" | "," | ">>") || text.is_empty() || text.ends_with(['<', ':', '&', '(', '[']);
        if !tight {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// Joins the lines of doc comments and removes one space after `///`.
pub(crate) fn docs(attributes: &[Attribute]) -> String {
    let lines: Vec<String> = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        })
        .flat_map(|text| {
            text.split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// File and line of a name. The path is relative to the crate if the file is inside it.
fn location(span: Span) -> (String, u32) {
    let span = span.unwrap();
    let line = u32::try_from(span.line()).unwrap_or(0);
    let file = std::path::PathBuf::from(span.file());
    let inside = std::env::current_dir().ok().zip(crate_dir()).and_then(|(cwd, root)| {
        let absolute = cwd.join(&file);
        absolute.strip_prefix(root).ok().map(std::path::Path::to_path_buf)
    });
    (inside.unwrap_or(file).display().to_string(), line)
}

#[expect(clippy::disallowed_methods, reason = "cargo passes the crate being compiled to a macro in an environment variable")]
fn crate_dir() -> Option<std::ffi::OsString> {
    std::env::var_os("CARGO_MANIFEST_DIR")
}

/// A name without the `r#` prefix of raw identifiers.
fn ident_text(ident: &syn::Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").unwrap_or(&text).to_owned()
}

/// Same rule as `lorchestra_plugin_api::manifest::is_name`, which checks names again when the manifest is read.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}
