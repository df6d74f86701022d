//! What tests and benches need and cargo does not bring. Each part is made once below cargo's target directory, in pinned versions, without
//! touching the system, and is found there afterwards.

pub mod dovecot;
pub mod venv;
