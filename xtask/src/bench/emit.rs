//! Measures `emit` and `emit_all` of 200 bytes, as the job experiences them, against a bare write(2) of the same record: with bytes that
//! are already JSON (the bare sink), and with an object created by `json!` each time (the whole SDK). The job itself measures, while the
//! supervisor ingests the events as usual.

use super::Site;
use super::timing::{Median, judged};
use crate::{Result, cargo};
use serde_json::Value;

const TARGET_EMIT: f64 = 2.0;
const TARGET_SDK: f64 = 3.0;
const TARGET_ALL: f64 = 3.0;

pub(super) fn run(site: &Site) -> Result<String> {
    let report = site.sandbox.path().join("emit.json");
    let mut run = site.sandbox.lorchestra(&["run-job", "-q", "pkg-0000", "compare_emit", "--rounds", "21", "--events", "5000"]);
    run.arg("--report").arg(&report).arg("--bare").arg(site.sandbox.path().join("bare"));
    cargo::run(&mut run)?;
    let report: Value = serde_json::from_slice(&std::fs::read(report)?)?;
    let rounds = report["rounds"].as_array().filter(|rounds| !rounds.is_empty()).ok_or("the job reported no rounds")?;
    let times = |key: &str| -> Vec<f64> { rounds.iter().filter_map(|round| round[key].as_f64()).collect() };
    let (bare, emit, made, all) = (times("bare"), times("emit"), times("made"), times("emit_all"));
    // Ratios within one round: a disturbance of one affects its neighbours too.
    let ratios = |a: &[f64], b: &[f64]| Median::of(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>()).middle;
    let (to_bare, to_all) = (ratios(&emit, &bare), ratios(&emit, &all));
    let (sdk_to_bare, sdk_to_sink) = (ratios(&made, &bare), ratios(&made, &emit));
    let mut table = format!(
        "A record has {} bytes; {} rounds of {} events of each kind.\n\n| | µs per event |\n| --- | ---: |",
        report["record_bytes"],
        rounds.len(),
        report["events"]
    );
    for (name, times) in [
        ("bare `write(2)` in append mode", &bare),
        ("`emit` of JSON text: the bare sink", &emit),
        ("`emit` of `json!({…})`, with making it: the whole SDK", &made),
        ("`emit_all`, with making the events", &all),
    ] {
        table.push_str(&format!("\n| {name} | {} |", Median::of(times).in_thousands()));
    }
    table.push_str(&format!("\n| `emit` to bare write (target at most 2) | {} |", judged(to_bare, to_bare <= TARGET_EMIT)));
    table.push_str(&format!("\n| the whole SDK to bare write | {sdk_to_bare:.2}× |"));
    table.push_str(&format!(
        "\n| the whole SDK to the bare sink (target at most 3) | {} |",
        judged(sdk_to_sink, sdk_to_sink <= TARGET_SDK)
    ));
    table.push_str(&format!("\n| `emit` to `emit_all` (target at least 3) | {} |", judged(to_all, to_all >= TARGET_ALL)));
    Ok(table)
}
