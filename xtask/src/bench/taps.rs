//! Measures writing a Singer tap's records to files: `run_tap` and targets from PyPI as complete processes, alternating, on the same stream,
//! which `cat` writes as fast as it is read. JSON Lines next to `target-jsonl`, Parquet next to `target-parquet`.
//!
//! Both targets validate each record against its schema; `run_tap` has no validation. In Parquet it checks each value against its column.

use super::Site;
use super::timing::{Median, judged};
use crate::{Result, cargo, plugins};
use lorchestra_test_setup::venv;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 5;
const RECORDS: u32 = 50_000;
/// Number of records between two states.
const EVERY: u32 = 1000;

/// Its code is for Python before 3.10.
const TARGET_PARQUET: &str = "import collections, collections.abc
collections.MutableMapping = collections.abc.MutableMapping
import target_parquet
target_parquet.main()";
/// Prints the number of rows of the Parquet files in a directory.
const COUNT_ROWS: &str = "import glob, sys, pyarrow.parquet as p
print(sum(p.ParquetFile(name).metadata.num_rows for name in glob.glob(sys.argv[1] + '/*.parquet')))";

/// A target from PyPI and the format of `run_tap` that it is compared with.
struct Rival {
    name: &'static str,
    format: &'static str,
    /// Its program and arguments, before `--config`.
    program: Vec<PathBuf>,
    /// A Python with pyarrow, for Parquet.
    python: PathBuf,
    /// Minimum ratio of the records per second.
    at_least: f64,
}

pub(super) fn run(site: &Site) -> Result<String> {
    let target = cargo::target()?;
    plugins::install(&site.target.join("libmeltano_ingest.so"), &site.sandbox.plugins())?;
    let stream = site.sandbox.path().join("stream.jsonl");
    let records = if site.is_trial { 2 * EVERY } else { RECORDS };
    let bytes = write_stream(&stream, records)?;
    let lines = venv::ensure_target(&target)?.join("bin");
    let parquet = venv::ensure_target_parquet(&target)?.join("bin/python");
    let rivals = [
        Rival {
            name: "target-jsonl 0.1.4",
            format: "jsonl",
            program: vec![lines.join("target-jsonl")],
            python: lines.join("python"),
            at_least: 10.0,
        },
        Rival {
            name: "target-parquet 0.0.1",
            format: "parquet",
            program: vec![parquet.clone(), "-c".into(), TARGET_PARQUET.into()],
            python: parquet,
            at_least: 5.0,
        },
    ];
    let mut table = format!(
        "{records} records, {:.1} MB of messages, a state after every {EVERY}; {ROUNDS} rounds.\n\n| | records a second | ratio |\n\
         | --- | ---: | ---: |",
        bytes as f64 / 1e6
    );
    for rival in &rivals {
        table.push_str(&compare(site, &stream, records, rival)?);
    }
    Ok(table)
}

/// Runs both, alternating. Returns their rows of the table.
fn compare(site: &Site, stream: &Path, records: u32, rival: &Rival) -> Result<String> {
    let (theirs_dir, config) = (site.sandbox.path().join("theirs"), site.sandbox.path().join("config.json"));
    let shown = theirs_dir.display();
    let options = "\"do_timestamp_file\": false, \"disable_collection\": true";
    std::fs::write(&config, format!("{{\"destination_path\": \"{shown}\", {options}}}"))?;
    let ours_dir = site.sandbox.home().join(".local/share/lorchestra/data/meltano-ingest");
    let stream_arg = stream.display().to_string();
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=if site.is_trial { 1 } else { ROUNDS } {
        for dir in [&theirs_dir, &ours_dir] {
            if dir.exists() {
                std::fs::remove_dir_all(dir)?;
            }
        }
        std::fs::create_dir(&theirs_dir)?;
        let start = Instant::now();
        let mut command = site.sandbox.command(&rival.program[0]);
        command.args(&rival.program[1..]).arg("--config").arg(&config).stdin(File::open(stream)?).stdout(Stdio::null());
        cargo::run(command.stderr(Stdio::null()))?;
        let their = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let run = ["run-job", "-q", "meltano-ingest", "run_tap", "--tap", "cat", "--arg", &stream_arg, "--format", rival.format];
        cargo::run(site.sandbox.lorchestra(&run).stdin(Stdio::null()))?;
        let our = start.elapsed().as_secs_f64();
        for dir in [&theirs_dir, &ours_dir.join("cat/default")] {
            let found = count(site, rival, dir)?;
            if found != u64::from(records) {
                return Err(format!("{}: {found} records", dir.display()).into());
            }
        }
        // The first round warms the caches.
        if round > 0 {
            theirs.push(f64::from(records) / their);
            ours.push(f64::from(records) / our);
            ratios.push(their / our);
        }
    }
    let ratio = Median::of(&ratios).middle;
    let row = |name: &str, rates: &[f64], ratio: &str| {
        let rate = Median::of(rates);
        format!("\n| {name} | {:.0} ({:.0}–{:.0}) | {ratio} |", rate.middle, rate.low, rate.high)
    };
    let ours_ratio = format!("{} (target at least {})", judged(ratio, ratio >= rival.at_least), rival.at_least);
    Ok(row(&format!("{}, Python", rival.name), &theirs, "1.00×")
        + &row(&format!("`run-job meltano-ingest run_tap --format {}`", rival.format), &ours, &ours_ratio))
}

/// Returns the number of records in the files of a directory.
fn count(site: &Site, rival: &Rival, dir: &Path) -> Result<u64> {
    if rival.format == "jsonl" {
        let text = std::fs::read(dir.join("orders.jsonl"))?;
        return Ok(u64::try_from(text.iter().filter(|&&byte| byte == b'\n').count())?);
    }
    let mut command: Command = site.sandbox.command(&rival.python);
    let output = command.args(["-c", COUNT_ROWS]).arg(dir).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Writes orders of about 250 bytes. Returns the size of the stream.
fn write_stream(path: &Path, records: u32) -> Result<u64> {
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
    for n in 1..=records {
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
