//! Hands the compiler's version and the target on to the manifest: they are asked first when a plugin does not load.

use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|out| String::from_utf8(out.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=LORCHESTRA_RUSTC={}", version.trim());
    println!("cargo::rustc-env=LORCHESTRA_TARGET={target}");
}
