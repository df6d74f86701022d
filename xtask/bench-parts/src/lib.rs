//! Small programs with which `cargo xtask bench` compares lorchestra, one per file in `src/bin`.
//!
//! - `bench-bare DIR`: opens the libraries of a directory and reads only what `jobs list` must read.
//! - `bench-nothing`: exits immediately, to measure the cost of a process.
//! - `bench-load LIBRARY`: loads one plugin with the layout check, and prints how long that took.
//! - `bench-store STATE`: opens a store, makes the commits of a run, closes it, and prints how long that took.
//! - `bench-copies LIBRARY DIR N`: creates N packages from one library, which differ only in their names.
//! - `bench-fill STATE N`: creates a store with N pending events.
//! - `bench-history fill|open|prune|drain STATE …`: creates a store with years of history, and measures operations on it.
//! - `bench-abandon STATE N`: leaves N runs whose processes are dead.
//! - `bench-look STATE close|readdir`: searches for such runs where there are none, and prints how long that took.
//! - `bench-send WRITE REST GRPC TABLE N`: sends N events from memory to a table, and prints how long that took.

pub mod events;
pub mod runs;
