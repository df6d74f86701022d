//! The Debian package. Made by `dpkg-deb`, which checks the control file: `cargo-deb` would be another program to install, for a control
//! file of ten lines.

use super::{Release, Tree, printed, source};
use crate::{Result, cargo};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes the package and returns its path.
pub(super) fn make(tree: &Tree, work: &Path, release: &Release) -> Result<PathBuf> {
    let architecture = printed(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let version = format!("{}-{}", release.version, release.revision);
    let root = work.join("deb");
    let control = root.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let glibc = newest_glibc(&fs::read(tree.path("bin/lorchestra"))?);
    let text = format!(
        "Package: lorchestra
Version: {version}
Architecture: {architecture}
Maintainer: The lorchestra developers <lorchestra@localhost.invalid>
Installed-Size: {}
Depends: libc6 (>= {glibc}), libgcc-s1
Recommends: ca-certificates
Section: admin
Priority: optional
Description: job orchestrator that runs plugin libraries
 lorchestra lists the jobs of plugin libraries, runs each in a process of its
 own, records what happened, and delivers the jobs' events to BigQuery or to
 files, each event exactly once. It runs under cron, systemd timers, Kubernetes
 or a workflow engine.
",
        tree.kib()?
    );
    fs::write(control.join("control"), text)?;
    for script in ["postinst", "postrm"] {
        fs::write(control.join(script), source(script)?)?;
        fs::set_permissions(control.join(script), fs::Permissions::from_mode(0o755))?;
    }
    // Last: the archive was made of it before.
    fs::rename(tree.root(), root.join("usr"))?;
    // Everyone may enter, whatever the umask.
    cargo::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&root))?;
    let path = release.out.join(format!("lorchestra_{version}_{architecture}.deb"));
    let compression = if release.is_small { "-Zxz" } else { "-Znone" };
    let mut build = Command::new("dpkg-deb");
    build.env("SOURCE_DATE_EPOCH", &release.time).args(["--root-owner-group", compression, "--build"]).arg(&root).arg(&path);
    printed(&mut build)?;
    Ok(path)
}

/// The newest version of the C library that a binary names.
fn newest_glibc(binary: &[u8]) -> String {
    const NAME: &[u8] = b"GLIBC_2.";
    let minor = |at: usize| {
        let digits = binary[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    };
    let found = binary.windows(NAME.len()).enumerate().filter(|(_, bytes)| *bytes == NAME);
    format!("2.{}", found.map(|(at, _)| minor(at)).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::newest_glibc;

    #[test]
    fn the_newest_version_is_by_number() {
        assert_eq!(newest_glibc(b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE"), "2.34");
        assert_eq!(newest_glibc(b"GLIBC_2."), "2.0");
    }
}
