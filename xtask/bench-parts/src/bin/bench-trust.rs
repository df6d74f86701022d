//! Measures the steps of a run before its worker knows about a plugin, in microseconds on one line: the trust check of the directory, the
//! sealed copy with its checksum, plugins.lock; then, for comparison, a copy into memory without a checksum, and SHA-256 of the same bytes
//! in memory.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use lorchestra_core::packages::catalog::trust;
use lorchestra_core::packages::library::Library;
use lorchestra_core::packages::lockfile::Lockfile;
use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(library), Some(lockfile)) = (args.next(), args.next()) else {
        return Err("usage: bench-trust LIBRARY LOCKFILE".into());
    };
    let (path, lockfile) = (Path::new(&library), Path::new(&lockfile));
    let of_fault = |fault: lorchestra_core::packages::catalog::FileFault| fault.detail;

    let start = Instant::now();
    trust::directory(path.parent().ok_or("the library is in no directory")?).map_err(of_fault)?;
    let trust = start.elapsed();

    let start = Instant::now();
    let library = Library::open(path).map_err(of_fault)?;
    let open = start.elapsed();

    let start = Instant::now();
    let lock = Lockfile::read(lockfile)?.ok_or("there is no plugins.lock")?;
    lock.allows(&library).map_err(of_fault)?;
    let locked = start.elapsed();

    let start = Instant::now();
    copy(path)?;
    let copied = start.elapsed();

    let bytes = std::fs::read(path)?;
    let start = Instant::now();
    black_box(Sha256::digest(black_box(&bytes)));
    let hashed = start.elapsed();

    let micros = [trust, open, locked, copied, hashed].map(|time| (time.as_secs_f64() * 1e6).to_string());
    println!("{}", micros.join(" "));
    Ok(())
}

/// In chunks of the same size as lorchestra's.
fn copy(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut from = File::open(path)?;
    let mut to = File::from(rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC)?);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}
