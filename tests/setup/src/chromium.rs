//! Chromium, unpacked from Debian's packages below cargo's target directory, without touching the system: 110 MB to download and 370 MB on
//! the disk.
//!
//! The stamp is written last, so a partial installation is never used.

use crate::debian::{Apt, exclusive};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the directory with the contents of its packages. Creates it if it is missing, which takes half a minute and access to Debian's
/// archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    let _held = exclusive(target)?;
    let home = target.join("chromium");
    let (root, stamp) = (home.join("root"), home.join("lorchestra-stamp"));
    if stamp.is_file() {
        return Ok(root);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed)?;
    }
    Apt::new(target, &home).unpack_with_dependencies("chromium", &root)?;
    fs::write(stamp, "").map_err(failed)?;
    Ok(root)
}

/// A headless browser of these packages, which loads nothing by itself.
pub fn headless(root: &Path, profile: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(root.join("usr/lib/chromium/chromium"));
    command.env("LD_LIBRARY_PATH", format!("{0}:{0}/pulseaudio", libraries.display()));
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-dev-shm-usage"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command
}
