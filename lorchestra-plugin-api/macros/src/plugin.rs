//! Expansion of `plugin!`: the package definition, its manifest section, and the header of its root module.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Ident, LitStr, Path, Token, bracketed};

/// The arguments of `plugin!`.
pub(crate) struct PluginInput {
    package: LitStr,
    jobs: Vec<Path>,
}

impl Parse for PluginInput {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let form = r#"write plugin! { package = "name", jobs = [first_job, second_job] }"#;
        let mut package = None;
        let mut jobs = None;
        while !input.is_empty() {
            let key: Ident = input.parse().map_err(|error| syn::Error::new(error.span(), form))?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "package" if package.is_none() => package = Some(input.parse::<LitStr>()?),
                "jobs" if jobs.is_none() => {
                    let list;
                    bracketed!(list in input);
                    if list.peek(LitStr) {
                        return Err(list
                            .error("remove the quotes: jobs are listed by path, as in jobs = [first_job, module::second_job]"));
                    }
                    jobs = Some(Punctuated::<Path, Token![,]>::parse_terminated(&list)?);
                }
                "package" | "jobs" => return Err(syn::Error::new(key.span(), format!("`{key}` is given twice"))),
                _ => return Err(syn::Error::new(key.span(), format!("unknown key `{key}`: expected `package` or `jobs`"))),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        // `input.error` would begin with "unexpected end of input".
        let missing = |key: &str| syn::Error::new(Span::call_site(), format!("`{key}` is missing; {form}"));
        let package = package.ok_or_else(|| missing("package"))?;
        let jobs: Vec<Path> = jobs.ok_or_else(|| missing("jobs"))?.into_iter().collect();
        let this = Self { package, jobs };
        this.check()?;
        Ok(this)
    }
}

impl PluginInput {
    fn check(&self) -> syn::Result<()> {
        let mut errors = Vec::new();
        if !crate::job::is_name(&self.package.value()) {
            errors.push(syn::Error::new(
                self.package.span(),
                "a package's name must match [a-z][a-z0-9_-]* and have at most 64 characters",
            ));
        }
        if self.jobs.is_empty() {
            errors.push(syn::Error::new(self.package.span(), "a package must have at least one job"));
        }
        for (i, path) in self.jobs.iter().enumerate() {
            let name = |path: &Path| path.segments.last().map(|segment| segment.ident.to_string());
            if self.jobs[..i].iter().any(|other| name(other) == name(path)) {
                errors.push(syn::Error::new_spanned(path, "two jobs have this name: rename one"));
            }
        }
        crate::combined(errors).map_or(Ok(()), Err)
    }
}

pub(crate) fn expand(input: &PluginInput) -> TokenStream {
    let package = &input.package;
    let jobs = &input.jobs;
    let symbol = header_symbol(&package.value());
    let api = quote!(::lorchestra_plugin_api::__private);
    quote! {
        #[doc(hidden)]
        struct LorchestraPlugin;

        impl #api::Plugin for LorchestraPlugin {
            const DEF: #api::PackageDef = #api::PackageDef {
                name: #package,
                version: ::core::env!("CARGO_PKG_VERSION"),
                jobs: &[#(<#jobs as #api::Job>::DEF),*],
            };

            fn entries() -> ::std::vec::Vec<(&'static #api::JobDef, #api::Entry)> {
                ::std::vec![#(<#jobs as #api::Enter>::entry()),*]
            }
        }

        const _: &[()] = &[#(<#jobs>::THIS_JOB_IS_NOT_LISTED_IN_PLUGIN),*];

        // A short manifest takes few steps, and the compiler does not report what a macro expects in vain.
        #[expect(long_running_const_eval, reason = "writing a long manifest takes many steps")]
        const _: () = {
            const PACKAGE: &#api::PackageDef = &<LorchestraPlugin as #api::Plugin>::DEF;
            const LEN: usize = #api::section_len(PACKAGE, #api::ABI_REVISION);

            #[used]
            #[unsafe(link_section = ".lorchestra")]
            static MANIFEST: [u8; LEN] = #api::section(PACKAGE, #api::ABI_REVISION);

            #[unsafe(export_name = #symbol)]
            static HEADER: #api::LibHeader = #api::header::<LorchestraPlugin>();
        };
    }
}

/// Same rule as `lorchestra_plugin_api::abi::header_symbol`, which the worker uses to find the symbol. Every test that loads a library
/// compares the two.
fn header_symbol(package: &str) -> String {
    format!("lorchestra_root_module_of_{}", package.replace('-', "H"))
}
