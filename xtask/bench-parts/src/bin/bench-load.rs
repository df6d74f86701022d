//! Loads one plugin with the layout check, and prints how many microseconds that took.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: bench-load LIBRARY")?;
    let start = Instant::now();
    let header = abi_stable::library::abi_header_from_path(path.as_ref()).map_err(|e| e.to_string())?;
    let root = lorchestra_plugin_api::abi::root_module(header)?;
    let jobs = root.jobs().len();
    let took = start.elapsed();
    if jobs == 0 {
        Err("the plugin has no jobs")?;
    }
    println!("{}", took.as_micros());
    Ok(())
}
