//! `cargo xtask deny`: runs cargo-deny with the rules of deny.toml. Not part of the tests, because it needs a tool outside the toolchain,
//! and an advisory database from the network.

use crate::{Result, cargo};
use std::process::{Command, Stdio};

pub(crate) fn run() -> Result {
    let there = Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        return Err("cargo-deny is not installed: cargo install --locked cargo-deny".into());
    }
    // Each workspace has a lock file of its own.
    for manifest in ["Cargo.toml", "lorchestra-temporal/Cargo.toml"] {
        let mut deny = Command::new("cargo-deny");
        deny.current_dir(cargo::root()?).args([
            "--manifest-path",
            manifest,
            "--all-features",
            "--locked",
            "check",
            "--config",
            "deny.toml",
        ]);
        cargo::run(&mut deny)?;
    }
    Ok(())
}
