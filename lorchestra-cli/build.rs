//! Sets `LORCHESTRA_REVISION` for `--version --json`: the variable of that name if the build sets it, otherwise the commit that is checked out.
//! Without either, for example in an unpacked archive, the revision is null.

#[path = "build/checkout.rs"]
mod checkout;

use std::path::Path;

const VARIABLE: &str = "LORCHESTRA_REVISION";

#[expect(clippy::disallowed_methods, reason = "a build script has no settings but its environment")]
fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/checkout.rs");
    let given = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let checkout = std::env::var_os("CARGO_MANIFEST_DIR").and_then(|manifest| {
        // Only the workspace's own repository: sources in another project's repository do not have its commit.
        checkout::Checkout::at(Path::new(&manifest).parent()?)
    });
    if let Some(checkout) = &checkout {
        for path in checkout.changing() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    if let Some(revision) = given.or_else(|| checkout?.commit()) {
        println!("cargo::rustc-env={VARIABLE}={revision}");
    }
}
