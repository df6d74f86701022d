//! `systemd-analyze` and the units that others refer to, unpacked from Debian's packages (`debian.rs`): the machine's own may be missing, as
//! in a container, or of another release.

use crate::debian::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SYSTEMD: Server = Server {
    name: "systemd",
    packages: &["systemd"],
    programs: &["usr/bin/systemd-analyze"],
    libraries: &["usr/lib/x86_64-linux-gnu/systemd"],
    layout: 1,
    complete,
};

/// Returns the directory with the contents of systemd's package below this target directory. Creates it if it is missing, which takes some
/// seconds and access to Debian's archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    SYSTEMD.ensure(target)
}

/// Checks units of a user, or of the system, all of which are in this directory. The output names what is wrong; so does the exit status.
///
/// # Errors
/// Those of [`ensure`], and if the program does not start.
pub fn verify(target: &Path, units: &Path, of_user: bool) -> Result<Output, String> {
    let root = ensure(target)?;
    let failed = |error: std::io::Error| format!("{}: {error}", units.display());
    let mut command = Command::new(root.join("usr/bin/systemd-analyze"));
    let known = root.join(if of_user { "usr/lib/systemd/user" } else { "lib/systemd/system" });
    command.env_clear().env("LD_LIBRARY_PATH", SYSTEMD.library_path(&root));
    command.env("SYSTEMD_UNIT_PATH", format!("{}:{}", units.display(), known.display()));
    command.env("XDG_RUNTIME_DIR", units).env("HOME", units).arg("verify").args(of_user.then_some("--user"));
    for entry in std::fs::read_dir(units).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A template is checked with the units that use it.
        if path.is_file() && !path.to_string_lossy().contains('@') {
            command.arg(path);
        }
    }
    command.output().map_err(|error| format!("systemd-analyze: {error}"))
}

fn complete(root: &Path) -> Result<(), String> {
    // Without them, every unit would be wrong.
    let missing = ["usr/lib/systemd/user/basic.target", "lib/systemd/system/sysinit.target"];
    match missing.into_iter().find(|path| !root.join(path).exists()) {
        None => Ok(()),
        Some(path) => Err(format!("Debian's package systemd has no {path}")),
    }
}
