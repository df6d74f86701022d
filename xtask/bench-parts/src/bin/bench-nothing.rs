//! Ends at once: what a process costs.

fn main() {}
