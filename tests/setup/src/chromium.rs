//! Chromium, unpacked from Debian's packages below cargo's target directory, without touching the system. Only for `cargo xtask soak`: it
//! is 110 MB to download and 450 MB on the disk.
//!
//! The stamp is written last, so a partial installation is never used.

use crate::debian::Apt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the directory with the contents of its packages, if it was set up.
pub fn found(target: &Path) -> Option<PathBuf> {
    let home = target.join("chromium");
    home.join("lorchestra-stamp").is_file().then(|| home.join("root"))
}

/// Sets it up if it is missing, with access to Debian's archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    if let Some(root) = found(target) {
        return Ok(root);
    }
    let home = target.join("chromium");
    let failed = |error: std::io::Error| format!("{}: {error}", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed)?;
    }
    let root = home.join("root");
    Apt::new(target, &home).unpack_with_dependencies("chromium", &root)?;
    fs::write(home.join("lorchestra-stamp"), "").map_err(failed)?;
    Ok(root)
}

/// A headless browser of these packages that loads nothing but the file and writes a picture of it.
pub fn screenshot(root: &Path, profile: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(root.join("usr/lib/chromium/chromium"));
    command.env("LD_LIBRARY_PATH", format!("{0}:{0}/pulseaudio", libraries.display()));
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command
}
