//! Measures what a run pays for checking the origin and the bytes of its library: trust check, sealed copy, checksum and plugins.lock,
//! compared with `run-job --locked` of a no-op, for a library as built and for one of 10 MB; and compares the checksum with one over
//! memory.

use super::Site;
use super::timing::{Median, whole};
use crate::{Result, cargo};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

const ROUNDS: usize = 51;
const LARGE: u64 = 10_000_000;

pub(super) fn run(site: &Site) -> Result<String> {
    let library = site.sandbox.plugins().join("libbench_plugin.so");
    let mut table = String::from(
        "| library | `run-job`, ms | trust, µs | sealed copy with sha256, ms | plugins.lock, µs | together, of the run | copy alone, ms | sha256 in it, MB/s | sha256 over memory, MB/s |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    );
    for size in [None, Some(LARGE)] {
        if let Some(size) = size {
            pad(&library, size)?;
        }
        table.push_str(&row(site, &library)?);
    }
    Ok(table)
}

fn row(site: &Site, library: &Path) -> Result<String> {
    cargo::run(site.sandbox.lorchestra(&["plugins", "lock", "--json"]).stdout(std::process::Stdio::null()))?;
    let bytes = std::fs::metadata(library)?.len() as f64;
    let mut run = site.sandbox.lorchestra(&["run-job", "-q", "--locked", "pkg-0000", "noop"]);
    let mut parts = site.part("bench-trust");
    parts.arg(library).arg(site.sandbox.home().join(".config/lorchestra/plugins.lock"));
    let mut runs = Vec::new();
    let mut measured = [const { Vec::new() }; 5];
    // The first rounds create the store.
    for round in 0..ROUNDS + 3 {
        let (whole_run, of_parts) = (whole(&mut run)?, numbers(&mut parts)?);
        if round >= 3 {
            runs.push(whole_run);
            measured.iter_mut().zip(of_parts).for_each(|(all, one)| all.push(one));
        }
    }
    let [trust, open, lock, copy, hash] = measured.each_ref().map(|times| Median::of(times));
    let run = Median::of(&runs);
    // Opening includes the check of the directory.
    let in_it = (open.middle - copy.middle - trust.middle).max(1.0);
    Ok(format!(
        "\n| {:.1} MB | {} | {:.0} | {} | {:.0} | {:.0} % | {} | {:.0} | {:.0} |",
        bytes / 1e6,
        run.in_thousands(),
        trust.middle,
        open.in_thousands(),
        lock.middle,
        100.0 * (open.middle + lock.middle) / run.middle,
        copy.in_thousands(),
        bytes / in_it,
        bytes / hash.middle,
    ))
}

/// Appends bytes after the end of the library, which only copying and hashing read.
fn pad(library: &Path, size: u64) -> Result {
    let mut file = File::options().append(true).open(library)?;
    let have = file.seek(SeekFrom::End(0))?;
    // Not a hole, which is read faster than data.
    let more = usize::try_from(size.saturating_sub(have))?;
    file.write_all(&vec![0x5a; more])?;
    Ok(())
}

/// Returns the numbers that a command prints.
fn numbers(command: &mut Command) -> Result<Vec<f64>> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", cargo::line(command), String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
}
