//! Exits immediately, to measure the cost of a process.

fn main() {}
