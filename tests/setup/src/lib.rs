//! What tests and benches need and cargo does not provide. Each part is created once below cargo's target directory, in pinned versions,
//! without touching the system.

pub mod chromium;
pub mod corpora;
mod debian;
pub mod dovecot;
pub mod slurm;
pub mod venv;
