//! The servers that events are delivered to in tests.
//!
//! - [`fake`]: a BigQuery in this process, in memory: REST and gRPC, strict where the real one is, with faults on demand.
//! - [`emulator`]: a real emulator as a child process: the same clients against somebody else's reading of the API, and SQL.

pub mod emulator;
pub mod fake;
pub mod site;
