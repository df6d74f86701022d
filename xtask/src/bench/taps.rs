//! Measures writing a Singer tap's records to files: `run_tap` and `target-jsonl` from PyPI as complete processes, alternating, on the same
//! stream, which `cat` writes as fast as it is read.

use super::Site;
use super::timing::{Median, judged};
use crate::{Result, cargo, plugins};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

const ROUNDS: usize = 5;
const RECORDS: u32 = 50_000;
/// Number of records between two states.
const EVERY: u32 = 1000;
const TARGET: f64 = 10.0;

pub(super) fn run(site: &Site) -> Result<String> {
    let venv = lorchestra_test_setup::venv::ensure_target(&cargo::target()?)?;
    plugins::install(&site.target.join("libmeltano_ingest.so"), &site.sandbox.plugins())?;
    let stream = site.sandbox.path().join("stream.jsonl");
    let bytes = write_stream(&stream)?;
    let (theirs_dir, config) = (site.sandbox.path().join("theirs"), site.sandbox.path().join("config.json"));
    let shown = theirs_dir.display();
    std::fs::write(&config, format!("{{\"destination_path\": \"{shown}\", \"do_timestamp_file\": false}}"))?;
    let ours_dir = site.sandbox.home().join(".local/share/lorchestra/data/meltano-ingest");
    let stream_arg = stream.display().to_string();
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for dir in [&theirs_dir, &ours_dir] {
            if dir.exists() {
                std::fs::remove_dir_all(dir)?;
            }
        }
        let start = Instant::now();
        let mut command = site.sandbox.command(&venv.join("bin/target-jsonl"));
        command.arg("--config").arg(&config).stdin(File::open(&stream)?).stdout(Stdio::null());
        cargo::run(&mut command)?;
        let their = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut command =
            site.sandbox.lorchestra(&["run-job", "-q", "meltano-ingest", "run_tap", "--tap", "cat", "--arg", &stream_arg]);
        cargo::run(command.stdin(Stdio::null()))?;
        let our = start.elapsed().as_secs_f64();
        for file in [theirs_dir.join("orders.jsonl"), ours_dir.join("cat/default/orders.jsonl")] {
            let lines = std::fs::read(&file)?.iter().filter(|&&byte| byte == b'\n').count();
            if lines != usize::try_from(RECORDS)? {
                return Err(format!("{}: {lines} records", file.display()).into());
            }
        }
        // The first round warms the caches.
        if round > 0 {
            theirs.push(f64::from(RECORDS) / their);
            ours.push(f64::from(RECORDS) / our);
            ratios.push(their / our);
        }
    }
    let ratio = Median::of(&ratios).middle;
    let mut table = format!(
        "{RECORDS} records, {:.1} MB of messages, a state after every {EVERY}; {ROUNDS} rounds.\n\n| | records a second | vs. target-jsonl |\n\
         | --- | ---: | ---: |",
        bytes as f64 / 1e6
    );
    let mut row = |name: &str, rates: &[f64], ratio_text: String| {
        let rate = Median::of(rates);
        table.push_str(&format!("\n| {name} | {:.0} ({:.0}–{:.0}) | {ratio_text} |", rate.middle, rate.low, rate.high));
    };
    row("target-jsonl 0.1.4, Python", &theirs, "1.00×".to_owned());
    row("`run-job meltano-ingest run_tap`", &ours, format!("{} (target at least {TARGET})", judged(ratio, ratio >= TARGET)));
    Ok(table)
}

/// Writes orders of about 250 bytes. Returns the size of the stream.
fn write_stream(path: &Path) -> Result<u64> {
    let mut out = BufWriter::new(File::create(path)?);
    let properties = ["id", "customer", "city", "note", "ordered_at", "price"].map(|name| {
        format!(
            "\"{name}\":{{\"type\":[\"null\",\"{}\"]}}",
            match name {
                "id" => "integer",
                "price" => "number",
                _ => "string",
            }
        )
    });
    let schema = properties.join(",");
    writeln!(
        out,
        "{{\"type\":\"SCHEMA\",\"stream\":\"orders\",\"schema\":{{\"type\":\"object\",\"properties\":{{{schema}}}}},\"key_properties\":[\"id\"]}}"
    )?;
    for n in 1..=RECORDS {
        writeln!(
            out,
            "{{\"type\":\"RECORD\",\"stream\":\"orders\",\"record\":{{\"id\":{n},\"customer\":\"customer {}\",\"city\":\"Köln\",\"note\":\"{}\",\
             \"ordered_at\":\"2024-01-01T10:00:00Z\",\"price\":{}.25}},\"time_extracted\":\"2024-01-02T00:00:00Z\"}}",
            n % 977,
            "to be sent on Friday ".repeat(4),
            n % 300
        )?;
        if n % EVERY == 0 {
            writeln!(out, "{{\"type\":\"STATE\",\"value\":{{\"bookmarks\":{{\"orders\":{{\"id\":{n}}}}}}}}}")?;
        }
    }
    out.flush()?;
    Ok(std::fs::metadata(path)?.len())
}
