//! Small programs that `cargo xtask bench` compares lorchestra with, one a file under `src/bin`.
//!
//! - `bench-bare DIR`: opens the libraries of a directory and reads what `jobs list` has to read, and nothing else.
//! - `bench-nothing`: ends at once; what a process costs.
//! - `bench-load LIBRARY`: loads one plugin with the layout check, and prints how long that took.
//! - `bench-store STATE`: opens a store, makes the commits of a run, closes it, and prints how long that took.
//! - `bench-copies LIBRARY DIR N`: makes N packages of one library, alike except for their names.
//! - `bench-fill STATE N`: makes a store with N events that are to be delivered.
//! - `bench-history fill|open|prune|drain STATE …`: makes a store with years of history, and times what is done in it.
//! - `bench-abandon STATE N`: leaves N runs behind whose processes are dead.
//! - `bench-look STATE close|readdir`: looks for such runs where there are none, and prints how long that took.
//! - `bench-send WRITE REST GRPC TABLE N`: sends N events from memory to a table, and prints how long that took.

pub mod events;
pub mod runs;
