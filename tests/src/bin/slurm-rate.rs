//! Prints windows per second of a backfill on Slurm next to tasks per second of an array of `true`, on a cluster of three nodes on this host.
//!
//! ```text
//! slurm-rate WINDOWS
//! ```

#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use lorchestra_tests::slurm::site::Site;
use std::time::{Duration, Instant};

fn main() {
    let windows: u32 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("slurm-rate WINDOWS");
    let site = Site::new(windows + 1);
    let script = site.sandbox.path("true.sh");
    std::fs::write(&script, "#!/bin/sh\nexec true\n").expect("a script");
    let begun = Instant::now();
    let (array, output) = (format!("--array=0-{}", windows - 1), "--output=/dev/null");
    let submitted = site.cluster.command("sbatch", &[&array, output, script.to_str().expect("UTF-8")]);
    assert!(submitted.status.success(), "{submitted:?}");
    while !site.cluster.command("squeue", &["--noheader"]).stdout.is_empty() {
        std::thread::sleep(Duration::from_millis(200));
    }
    let alone = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    site.backfill(windows, &["-q"]).wait_within(Duration::from_secs(60 + u64::from(windows))).exits(0);
    let took = begun.elapsed().as_secs_f64();
    let rate = |seconds: f64| f64::from(windows) / seconds;
    println!(
        "{windows} windows on Slurm: {:.1}/s, `true`: {:.1}/s, ratio {:.2} (target at least 0.8)",
        rate(took),
        rate(alone),
        alone / took
    );
}
