//! The archive for every distribution: the tree and an install script, in one directory.

use super::{Release, Tree, gzip, source};
use crate::{Result, cargo};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes the archive and returns its path.
pub(super) fn make(tree: &Tree, work: &Path, release: &Release) -> Result<PathBuf> {
    let name = format!("lorchestra-{}-{}-linux", release.version, std::env::consts::ARCH);
    let script = work.join("install.sh");
    fs::write(&script, source("install.sh")?)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let path = release.out.join(format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=root:0", "--group=root:0", "--numeric-owner", "--format=gnu"]);
    tar.arg(format!("--mtime=@{}", release.time)).arg(format!("--transform=s,^[^/]*,{name}/&,;s,/usr/,/,"));
    tar.arg("--file").arg(&path).arg("--directory").arg(work).arg("install.sh");
    tar.args(entries(tree)?.iter().map(|entry| format!("usr/{entry}")));
    cargo::run(&mut tar)?;
    let compressed = path.with_extension("tar.gz");
    if compressed.exists() {
        fs::remove_file(&compressed)?;
    }
    gzip(&path, if release.is_small { "-9" } else { "-1" })?;
    Ok(compressed)
}

/// The directories directly below the tree.
fn entries(tree: &Tree) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(tree.root())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
