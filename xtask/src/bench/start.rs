//! Compares commands that a person or a shell waits for with spawn and wait of a program that does nothing: what a process of this size costs.

use super::Site;
use super::timing::{Median, judged, whole};
use crate::{Result, cargo};

const ROUNDS: usize = 101;
/// Number of packages that are listed, of ten jobs each.
const PACKAGES: usize = 20;
const TARGET: f64 = 2.0;

pub(super) fn run(site: &Site) -> Result<String> {
    let dir = site.sandbox.path().join("start");
    std::fs::create_dir(&dir)?;
    let mut copies = site.part("bench-copies");
    cargo::run(copies.arg(site.target.join("libbench_plugin.so")).arg(&dir).arg(PACKAGES.to_string()))?;
    let dir = dir.display().to_string();
    let list = format!("`jobs list` with {PACKAGES} plugins");
    let commands: [(&str, &[&str]); 3] =
        [("`--version`", &["--version"]), ("`--help`", &["--help"]), (&list, &["jobs", "list", "--plugin-dir", &dir])];
    let mut nothing = site.part("bench-nothing");
    let mut empty = Vec::new();
    let mut took = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        let none = whole(&mut nothing)?;
        let each = commands.map(|(_, args)| whole(&mut site.sandbox.lorchestra(args)));
        // The first round reads the files.
        if round > 0 {
            empty.push(none);
            for (all, one) in took.iter_mut().zip(each) {
                all.push(one?);
            }
        }
    }
    let empty = Median::of(&empty);
    let mut table = String::from("| | ms | to an empty program (target at most 2) |\n| --- | ---: | ---: |");
    table.push_str(&format!("\n| an empty Rust program | {} | |", empty.in_thousands()));
    for ((name, _), times) in commands.iter().zip(&took) {
        let time = Median::of(times);
        let ratio = time.middle / empty.middle;
        table.push_str(&format!("\n| {name} | {} | {} |", time.in_thousands(), judged(ratio, ratio <= TARGET)));
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(table)
}
