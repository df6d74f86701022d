//! What tests and benches need and cargo does not provide. Each part is created once below cargo's target directory, in pinned versions,
//! without touching the system.

pub mod chromium;
pub mod corpora;
mod debian;
pub mod dovecot;
pub mod slurm;
pub mod systemd;
pub mod venv;

use std::path::{Path, PathBuf};

/// Cargo's target directory, of a test or bench that is running. `None` if it was copied elsewhere.
#[must_use]
pub fn target() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    // Cargo marks it with this file.
    exe.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
}
