//! Slurm and munge, unpacked from Debian's packages (`debian.rs`).

use crate::debian::{Server, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release for which the tests write a configuration.
const RELEASE: &str = "slurm-wlm 22.05.";

const SLURM: Server = Server {
    name: "slurm",
    packages: &["slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge"],
    programs: &[
        "usr/sbin/slurmctld-wlm",
        "usr/sbin/slurmd-wlm",
        "usr/sbin/slurmstepd-wlm",
        "usr/sbin/munged",
        "usr/bin/sbatch",
        "usr/bin/squeue",
        "usr/lib/x86_64-linux-gnu/slurm-wlm/auth_munge.so",
        "usr/lib/x86_64-linux-gnu/slurm-wlm/serializer_json.so",
    ],
    libraries: &["usr/lib/x86_64-linux-gnu/slurm-wlm"],
    layout: 1,
    complete,
};

/// Returns the directory with the contents of Slurm's packages below this target directory. Creates it if it is missing, which takes some
/// seconds and access to Debian's archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    SLURM.ensure(target)
}

/// Returns the `LD_LIBRARY_PATH` for its programs.
pub fn library_path(root: &Path) -> String {
    SLURM.library_path(root)
}

/// Returns the directory of its plugins.
pub fn plugins(root: &Path) -> PathBuf {
    root.join("usr/lib/x86_64-linux-gnu/slurm-wlm")
}

fn complete(root: &Path) -> Result<(), String> {
    let version = run(Command::new(root.join("usr/sbin/slurmd-wlm")).arg("-V").env("LD_LIBRARY_PATH", library_path(root)))?;
    if version.starts_with(RELEASE) {
        return Ok(());
    }
    Err(format!("the tests need {RELEASE}x (Debian 12), but this machine has {}", version.trim()))
}
