//! Loads one plugin with the layout check, and prints how many microseconds that took.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]
#![expect(unsafe_code, reason = "the linker trusts the declared type of the symbol")]

use abi_stable::library::{AbiHeaderRef, RawLibrary};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(path), Some(package)) = (args.next(), args.next().and_then(|package| package.into_string().ok())) else {
        return Err("usage: bench-load LIBRARY PACKAGE".into());
    };
    let symbol = lorchestra_plugin_api::abi::header_symbol(&package);
    let start = Instant::now();
    let library = RawLibrary::load_at(Path::new(&path)).map_err(|e| e.to_string())?;
    // SAFETY: the bench has built this library: `plugin!` exports a valid header with this name. It is never closed.
    let header = *unsafe { library.get::<AbiHeaderRef>(symbol.as_bytes()) }.map_err(|e| e.to_string())?;
    let root = lorchestra_plugin_api::abi::root_module(header)?;
    let jobs = root.jobs().len();
    let took = start.elapsed();
    std::mem::forget(library);
    if jobs == 0 {
        Err("the plugin has no jobs")?;
    }
    println!("{}", took.as_micros());
    Ok(())
}
