//! Compares `run-job` of a no-op with the sum of the parts that it needs: two processes, one load with the layout check, one store that is
//! opened, committed to and closed.

use super::Site;
use super::timing::{Median, inside, judged, whole};
use crate::Result;

const ROUNDS: usize = 151;
const TARGET: f64 = 1.5;

pub(super) fn run(site: &Site) -> Result<String> {
    let library = site.sandbox.plugins().join("libbench_plugin.so");
    let mut run = site.sandbox.lorchestra(&["run-job", "-q", "pkg-0000", "noop"]);
    let mut nothing = site.part("bench-nothing");
    let mut load = site.part("bench-load");
    load.arg(library).arg("pkg-0000");
    // A separate store, as old and as large as the other one, so that both do the same work.
    let mut store = site.part("bench-store");
    store.arg(site.sandbox.path().join("state"));
    let (mut runs, mut sums) = (Vec::new(), Vec::new());
    let mut parts = [const { Vec::new() }; 3];
    // The first rounds create the stores.
    for round in 0..ROUNDS + 3 {
        let whole_run = whole(&mut run)?;
        let spawns = whole(&mut nothing)? + whole(&mut nothing)?;
        let measured = [spawns, inside(&mut load)?, inside(&mut store)?];
        if round >= 3 {
            runs.push(whole_run);
            sums.push(measured.iter().sum());
            parts.iter_mut().zip(measured).for_each(|(part, time)| part.push(time));
        }
    }
    let (run, sum) = (Median::of(&runs), Median::of(&sums));
    let ratio = run.middle / sum.middle;
    let mut table = String::from("| | ms |\n| --- | ---: |");
    let mut row = |name: &str, text: String| table.push_str(&format!("\n| {name} | {text} |"));
    for (name, times) in ["two spawns and waits", "load with check", "store: open, two commits, close"].iter().zip(&parts) {
        row(name, Median::of(times).in_thousands());
    }
    row("sum of the parts", sum.in_thousands());
    row("`run-job` of a no-op", run.in_thousands());
    row("ratio (target at most 1.5)", judged(ratio, ratio <= TARGET));
    Ok(table)
}
