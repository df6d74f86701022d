//! Packages: the libraries in the plugin directories, read without running any of their code.
//!
//! [`catalog`] finds them and explains which files cannot be used and why, [`library`] seals the bytes of one for a run, [`lockfile`] lists
//! which bytes may run, [`install`] installs libraries into a directory and removes them, and [`changes`] compares two versions of a
//! package. Uses the plan's rules (a default must be a value that the plan accepts) and the host; does not know about runs.

pub mod catalog;
pub mod changes;
pub mod install;
pub mod library;
pub mod lockfile;
