//! Prints the microseconds of a search for runs to close where there are none: `bench-look STATE close|readdir`. `readdir` only lists the
//! directory of spools, the minimum for such a search.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::recovery::close_abandoned;
use std::error::Error;
use std::time::Instant;

/// Number of searches in one measurement.
const LOOKS: u32 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(path), Some(what)) = (args.next(), args.next()) else { return Err("usage: bench-look STATE close|readdir".into()) };
    let state = StateDir::open(path.as_ref())?;
    let start = Instant::now();
    for _ in 0..LOOKS {
        if what == "readdir" {
            if let Some(entry) = std::fs::read_dir(state.spools())?.next() {
                return Err(format!("{} is not empty", entry?.path().display()).into());
            }
        } else if !close_abandoned(&state)?.recovered.is_empty() {
            return Err("there was a run to close".into());
        }
    }
    println!("{}", start.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKS));
    Ok(())
}
