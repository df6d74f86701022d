//! Compares canonicalize_email with a Python program that creates the same objects from the same lines with the standard library's `email`
//! and `json`: complete processes, alternating. Uses copies of the sample mailbox's messages; then the same with an attachment each.

use super::Site;
use super::timing::{Median, judged, whole};
use crate::{Result, cargo, plugins};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROUNDS: usize = 11;
const AT_LEAST: f64 = 10.0;
/// Number of copies of the 35 messages, and of random bytes attached to each.
const INPUTS: [(u32, u32); 2] = [(100, 0), (20, 100_000)];
const TRIAL: [(u32, u32); 2] = [(1, 0), (1, 1000)];

pub(super) fn run(site: &Site) -> Result<String> {
    plugins::install(&site.target.join("libcanonizer.so"), &site.sandbox.plugins())?;
    let mut table = String::from(
        "| messages | MB | `run-job canonizer canonicalize_email`, ms | Python, ms | messages per second | ratio (target at least 10) |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |",
    );
    let mut agreement = Vec::new();
    for (copies, attachment) in if site.is_trial { TRIAL } else { INPUTS } {
        let (row, agreed) = compare(site, copies, attachment)?;
        table.push_str(&row);
        agreement.push(agreed);
    }
    table.push_str("\n\n");
    table.push_str(&agreement.join("\n"));
    Ok(table)
}

fn compare(site: &Site, copies: u32, attachment: u32) -> Result<(String, String)> {
    let at = |name: &str| site.sandbox.path().join(name);
    let (lines, theirs) = (at("lines.jsonl"), at("python.jsonl"));
    let ours = site.sandbox.home().join(".local/share/lorchestra/data/canonizer/email.jsonl");
    let mailbox = cargo::root()?.join("example-plugins/ingester/sample/takeout.mbox");
    cargo::run(python(site, "make", &[&mailbox, &lines])?.args([copies.to_string(), attachment.to_string()]))?;
    let input = lines.display().to_string();
    let mut job = site.sandbox.lorchestra(&["run-job", "-q", "canonizer", "canonicalize_email", "--input", &input]);
    let mut script = python(site, "canonicalize", &[&lines, &theirs])?;
    let (mut job_took, mut script_took) = (Vec::new(), Vec::new());
    // The first round creates the store and warms Python's caches.
    for round in 0..=if site.is_trial { 1 } else { ROUNDS } {
        let (job, script) = (whole(&mut job)?, whole(&mut script)?);
        if round > 0 {
            job_took.push(job);
            script_took.push(script);
        }
    }
    let output = python(site, "compare", &[&ours, &theirs])?.output()?;
    let output: Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| output[key].as_u64().ok_or_else(|| format!("no {key}: {output}"));
    let (messages, both) = (number("a")?, number("both")?);
    if messages == 0 || messages != both || messages != number("b")? {
        return Err(format!("not the same messages on both sides: {output}").into());
    }
    let (job, script) = (Median::of(&job_took), Median::of(&script_took));
    let ratio = script.middle / job.middle;
    let what = if attachment == 0 { String::new() } else { format!(", {} kB attached to each", attachment / 1000) };
    let row = format!(
        "\n| {messages}{what} | {:.1} | {} | {} | {:.0} | {} |",
        std::fs::metadata(&lines)?.len() as f64 / 1e6,
        job.in_thousands(),
        script.in_thousands(),
        messages as f64 / (job.middle / 1e6),
        judged(ratio, ratio >= AT_LEAST),
    );
    Ok((row, agreement(&output, messages, &what)))
}

/// Returns, by field, for how many messages both sides agree.
fn agreement(output: &Value, messages: u64, what: &str) -> String {
    let fields = output["same"].as_object();
    let differing: Vec<String> = fields
        .into_iter()
        .flatten()
        .filter_map(|(field, same)| Some((field, same.as_u64()?)))
        .filter(|(_, same)| *same < messages)
        .map(|(field, same)| format!("`{field}` {:.0} %", 100.0 * same as f64 / messages as f64))
        .collect();
    let all = fields.map_or(0, serde_json::Map::len);
    let equal = all - differing.len();
    let differing = if differing.is_empty() { String::new() } else { format!("; in {}", differing.join(", ")) };
    format!("{messages} messages{what}: {equal} of {all} fields are the same on both sides in every message{differing}.")
}

fn python(site: &Site, task: &str, paths: &[&Path]) -> Result<Command> {
    let script: PathBuf = cargo::root()?.join("xtask/src/bench/canonicalize.py");
    let mut command = site.sandbox.command(Path::new("python3"));
    command.arg(script).arg(task).args(paths);
    Ok(command)
}
