//! The servers to which tests deliver events.
//!
//! - [`fake`]: a BigQuery in this process, in memory: REST and gRPC, strict where the real one is, with faults on demand.
//! - [`emulator`]: a real emulator as a child process, an independent implementation of the API with SQL, for the same clients.

pub mod emulator;
pub mod fake;
pub mod site;
