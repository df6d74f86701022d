//! Packages: the libraries in the plugin directories, without running any of their code.
//!
//! [`catalog`] finds them and gives reasons for those that cannot be used, [`library`] seals the bytes of one for a run,
//! [`lockfile`] holds which bytes may run, [`install`] puts libraries into a directory and removes them, and [`changes`] compares
//! two versions of a package. Knows the plan's rules (a default has to be one the plan accepts) and the host; knows no run.

pub mod catalog;
pub mod changes;
pub mod install;
pub mod library;
pub mod lockfile;
