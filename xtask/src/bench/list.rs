//! Measures `jobs list` as complete processes, against a minimal program that opens the same files and reads the same parts of them.

use super::Site;
use super::timing::{Median, judged, whole};
use crate::{Result, cargo};

/// Numbers of packages, and of rounds for each.
const SIZES: [(usize, usize); 3] = [(1, 101), (100, 61), (1000, 31)];
const TARGET: f64 = 3.0;

pub(super) fn run(site: &Site) -> Result<String> {
    let mut table = String::from(
        "| packages of 10 jobs | `jobs list`, ms | bare reader, ms | ratio (target at most 3) | µs per package |\n| ---: | ---: | ---: | ---: | ---: |",
    );
    for (packages, rounds) in SIZES {
        let dir = site.sandbox.path().join(packages.to_string());
        std::fs::create_dir(&dir)?;
        let mut copies = site.part("bench-copies");
        cargo::run(copies.arg(site.target.join("libbench_plugin.so")).arg(&dir).arg(packages.to_string()))?;
        let mut list = site.sandbox.lorchestra(&["jobs", "list", "--plugin-dir"]);
        list.arg(&dir);
        let mut bare = site.part("bench-bare");
        bare.arg(&dir);
        seen(&mut list, packages)?;
        let (mut lists, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            lists.push(whole(&mut list)?);
            bares.push(whole(&mut bare)?);
        }
        let (list, bare) = (Median::of(&lists), Median::of(&bares));
        let ratio = list.middle / bare.middle;
        table.push_str(&format!(
            "\n| {packages} | {} | {} | {} | {:.1} |",
            list.in_thousands(),
            bare.in_thousands(),
            judged(ratio, ratio <= TARGET),
            list.middle / packages as f64,
        ));
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(table)
}

/// Checks that the copies are valid packages: all of them are listed, with all their jobs.
fn seen(list: &mut std::process::Command, packages: usize) -> Result {
    let output = list.output()?;
    let lines = output.stdout.iter().filter(|&&byte| byte == b'\n').count();
    if lines == packages * 11 { Ok(()) } else { Err(format!("{lines} lines for {packages} packages of 10 jobs").into()) }
}
