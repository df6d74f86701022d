//! Measures `index_documents` and `search` of vector-projector on generated documents: documents per second, the cost of a second run,
//! search latency, and how all of these grow; the cost of a model compared with hashed words; and the same vectors in an approximate index
//! (`usearch` from PyPI, in a virtual environment), which is what a search in more documents needs.

use super::Site;
use super::timing::{Median, met};
use crate::{Result, cargo, plugins};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];
const TRIAL_SIZES: [u32; 3] = [100, 200, 300];
/// Number of different words in the texts.
const VOCABULARY: u64 = 20_000;
const WORDS: u64 = 150;
/// Number of documents in the comparison with a model.
const WITH_MODEL: u32 = 10_000;
/// Number of searches in each mode.
const SEARCHES: u64 = 15;
/// Number of searches in the approximate index.
const APPROXIMATE_SEARCHES: u32 = 200;
/// Time of a vector search that is fast enough, in milliseconds.
const FAST: f64 = 20.0;
/// Maximum ratio of the time per document between most and fewest documents: more would not be linear.
const LINEAR: f64 = 2.0;

pub(super) fn run(site: &Site) -> Result<String> {
    plugins::install(&site.target.join("libvector_projector.so"), &site.sandbox.plugins())?;
    let data = site.sandbox.home().join(".local/share/lorchestra/data");
    let input = data.join("canonizer/email.jsonl");
    std::fs::create_dir_all(data.join("canonizer"))?;
    let mut table = String::from(
        "| documents | MB | documents/s, new | documents/s, unchanged | 1 % changed, s | index, bytes per document | `search`: text, ms | vector, ms | both, ms | \
         `run-job search`, whole, ms |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    );
    let mut each = Vec::new();
    let sizes = if site.is_trial { TRIAL_SIZES } else { SIZES };
    let mut fast = String::new();
    for size in sizes {
        let megabytes = write_documents(&input, size, None)? as f64 / 1e6;
        let index = data.join("vector-projector");
        if index.exists() {
            std::fs::remove_dir_all(&index)?;
        }
        let (new, counts) = index_once(site, &[])?;
        expect(&counts, "added", size)?;
        let (same, counts) = index_once(site, &[])?;
        expect(&counts, "unchanged", size)?;
        write_documents(&input, size, Some(100))?;
        let (changed, counts) = index_once(site, &[])?;
        expect(&counts, "changed", size / 100)?;
        let bytes = counts["index_bytes"].as_f64().ok_or("no size of the index")? / f64::from(size);
        let searches = searches(site, &["text", "vector", "both"])?;
        each.push(new / f64::from(size));
        let vector = searches.middles[1];
        fast = format!(
            "A search by vectors takes {:.2} ms for each thousand documents: up to {FAST} ms with {:.0} documents.",
            vector / f64::from(size) * 1e3,
            FAST / vector * f64::from(size),
        );
        table.push_str(&format!(
            "\n| {size} | {megabytes:.1} | {:.0} | {:.0} | {changed:.2} | {bytes:.0} | {} | {} |",
            f64::from(size) / new,
            f64::from(size) / same,
            searches.shown,
            searches.whole,
        ));
    }
    let growth = each[each.len() - 1] / each[0];
    table.push_str(&format!(
        "\n\nTime per new document, of {} to {}: {growth:.2}× (linear: at most {LINEAR}) {}",
        sizes[sizes.len() - 1],
        sizes[0],
        met(growth <= LINEAR)
    ));
    table.push_str(&format!("\n\n{fast}"));
    table.push_str(&with_model(site, &data, &input)?);
    Ok(table)
}

/// Indexes the same documents with hashed words and with a model, and converts from each to the other.
fn with_model(site: &Site, data: &Path, input: &Path) -> Result<String> {
    let model = lorchestra_test_setup::venv::ensure_model(&cargo::target()?)?.display().to_string();
    let count = if site.is_trial { 50 } else { WITH_MODEL };
    write_documents(input, count, None)?;
    let index = data.join("vector-projector");
    let (mut rows, mut approximate) = (Vec::new(), Vec::new());
    // Index from scratch and search, then convert all vectors to the other kind.
    for (vectors, way, other) in [("hashed words", "none", &*model), ("wordllama 0.4.0.post1", &*model, "none")] {
        std::fs::remove_dir_all(&index)?;
        let (new, counts) = index_once(site, &["--model", way])?;
        expect(&counts, "added", count)?;
        let bytes = counts["index_bytes"].as_f64().ok_or("no size of the index")? / f64::from(count);
        let searches = searches(site, &["vector", "both"])?;
        approximate.push(Approximate::measure(vectors, &index.join("index.db"), searches.middles[0])?);
        let (again, counts) = index_once(site, &["--model", other])?;
        expect(&counts, "embedded_again", count)?;
        rows.push((vectors, new, bytes, searches.shown, searches.whole, again));
    }
    let mut table = format!(
        "\n\n{count} of these documents, their vectors made of hashed words and with a model; all vectors again: an index of the other kind is \
         turned into this one.\n\n| vectors | documents/s, new | all vectors again, s | index, bytes per document | `search`: vector, ms | both, ms | \
         `run-job search`, whole, ms |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for (row, (vectors, new, bytes, searches, whole, _)) in rows.iter().enumerate() {
        let again = rows[1 - row].5;
        table.push_str(&format!(
            "\n| {vectors} | {:.0} | {again:.2} | {bytes:.0} | {searches} | {whole} |",
            f64::from(count) / new
        ));
    }
    table.push_str(
        "\n\nThe same vectors in an approximate index: HNSW of `usearch` 2.26.6 with its default settings, called from Python. Queries are \
         vectors of documents; the share is that of their ten nearest that it finds.\n\n| vectors | number | dimensions | `search`: vector, ms | \
         usearch: search, ms | share found | build, s | MB |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    );
    table.extend(approximate.iter().map(Approximate::row));
    Ok(table)
}

/// An approximate index of the vectors of an index.
struct Approximate {
    vectors: &'static str,
    /// Time of a search that compares all vectors, in milliseconds.
    exact_ms: f64,
    /// What the script prints.
    measured: Value,
}

impl Approximate {
    fn measure(vectors: &'static str, index: &Path, exact_ms: f64) -> Result<Self> {
        let python = lorchestra_test_setup::venv::ensure_vectors(&cargo::target()?)?.join("bin/python");
        let script = cargo::root()?.join("xtask/src/bench/vectors.py");
        let output = Command::new(python).arg(script).arg(index).arg(APPROXIMATE_SEARCHES.to_string()).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(Self { vectors, exact_ms, measured: serde_json::from_slice(&output.stdout)? })
    }

    fn row(&self) -> String {
        let number = |key: &str| self.measured[key].as_f64().unwrap_or(f64::NAN);
        format!(
            "\n| {} | {} | {} | {:.2} | {:.2} | {:.0} % | {:.1} | {:.1} |",
            self.vectors,
            number("vectors"),
            number("dimensions"),
            self.exact_ms,
            number("search_ms"),
            number("found") * 100.0,
            number("build_s"),
            number("megabytes"),
        )
    }
}

/// Durations of searches, in milliseconds.
struct Searches {
    /// Inside the job, for each mode.
    middles: Vec<f64>,
    /// The same with quartiles, as cells of a table.
    shown: String,
    /// Complete processes, in all modes.
    whole: String,
}

fn searches(site: &Site, modes: &[&str]) -> Result<Searches> {
    let (mut middles, mut shown, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for mode in modes {
        let mut times = Vec::new();
        for n in 0..if site.is_trial { 1 } else { SEARCHES } {
            let query = format!("{} {}", word(n * 31 + 400), word(n * 57 + 2000));
            let start = Instant::now();
            let arguments = ["run-job", "-q", "vector-projector", "search", "--query", &query, "--mode", mode];
            cargo::run(site.sandbox.lorchestra(&arguments).stdin(Stdio::null()))?;
            whole.push(start.elapsed().as_secs_f64() * 1e6);
            times.push(newest_payload(site, "search.completed")?["search_us"].as_f64().ok_or("no time of the search")?);
        }
        let median = Median::of(&times);
        middles.push(median.middle / 1e3);
        shown.push(median.in_thousands());
    }
    Ok(Searches { middles, shown: shown.join(" | "), whole: Median::of(&whole).in_thousands() })
}

/// Returns the seconds of a complete `run-job`, and the payload of its event.
fn index_once(site: &Site, more: &[&str]) -> Result<(f64, Value)> {
    let start = Instant::now();
    let arguments = [&["run-job", "-q", "vector-projector", "index_documents"], more].concat();
    cargo::run(site.sandbox.lorchestra(&arguments).stdin(Stdio::null()))?;
    let took = start.elapsed().as_secs_f64();
    Ok((took, newest_payload(site, "index.completed")?))
}

/// Returns the payload of the newest event of this type.
fn newest_payload(site: &Site, event_type: &str) -> Result<Value> {
    let output = site.sandbox.lorchestra(&["events", "list", "--type", event_type, "--json", "--payload"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let newest: Value = serde_json::from_str(text.lines().last().ok_or_else(|| format!("no {event_type}"))?)?;
    Ok(newest["payload"].clone())
}

fn expect(counts: &Value, key: &str, wanted: u32) -> Result {
    if counts[key] == wanted { Ok(()) } else { Err(format!("{wanted} should be {key}: {counts}").into()) }
}

/// Writes emails in canonizer's format, with the fields that are read; each `changed`th one has another text. Returns the number of bytes.
fn write_documents(path: &Path, count: u32, changed: Option<u32>) -> Result<u64> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for n in 0..count {
        let mut text = String::new();
        for _ in 0..WORDS {
            // The product of two uniform numbers makes few words frequent, as in any language.
            let at = next(VOCABULARY) * next(VOCABULARY) / VOCABULARY;
            text.push_str(&word(at));
            text.push(' ');
        }
        if changed.is_some_and(|changed| n.is_multiple_of(changed)) {
            text.push_str("changed");
        }
        let sender = json!([{"name": format!("Person {}", n % 500), "email": format!("person{}@example.org", n % 500)}]);
        let email = json!({
            "id": format!("m{n}"), "subject": format!("{} {}", word(next(VOCABULARY)), word(next(VOCABULARY))), "from": sender,
            "sentAt": "2024-01-01T10:00:00Z", "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": text}},
        });
        writeln!(out, "{email}")?;
    }
    out.flush()?;
    Ok(std::fs::metadata(path)?.len())
}

/// Returns a distinct word for each number, with two to five syllables.
fn word(number: u64) -> String {
    const SYLLABLES: [&str; 16] =
        ["ba", "ke", "li", "mo", "nu", "ras", "tel", "vin", "dor", "gup", "sha", "fre", "hil", "jo", "wen", "zar"];
    let mut rest = number + 16;
    let mut word = String::new();
    while rest > 0 {
        word.push_str(SYLLABLES[usize::try_from(rest % 16).unwrap_or(0)]);
        rest /= 16;
    }
    word
}
