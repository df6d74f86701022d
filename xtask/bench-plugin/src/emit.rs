//! Measures the cost of emitting from within a job; and a job that emits faster than the store can ingest.

use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde_json::Value;
use lorchestra_plugin_api::serde_json::value::RawValue;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Compares a bare write(2), `emit` of the same bytes, `emit` of an object made with `json!`, and `emit_all`, in turns, and writes the
/// nanoseconds per event of each round to `report` as JSON.
#[job]
pub(crate) fn compare_emit(
    cx: &JobContext,
    /// File to write the report to.
    report: PathBuf,
    /// An empty file on the spool's disk, for the bare writes.
    bare: PathBuf,
    #[param(default = 15)] rounds: u32,
    /// Events of each kind in a round.
    #[param(default = 5000)]
    events: u32,
    /// Bytes of the payload.
    #[param(default = 200)]
    bytes: u32,
) -> JobResult {
    let payload = payload(bytes)?;
    let record = own_record(cx, &payload)?;
    let mut all = Vec::new();
    // The first round has cold caches and an empty file: it is measured, but not reported.
    for round in 0..=rounds {
        // Alternates the order, so that drift (the disk, other load) affects all of them equally.
        let mut measured = [0.0; 4];
        let turns: [usize; 4] = if round % 2 == 0 { [0, 1, 2, 3] } else { [3, 2, 1, 0] };
        for turn in turns {
            measured[turn] = match turn {
                0 => bare_writes(&bare, &record, events)?,
                1 => emits(cx, &payload, events)?,
                2 => emits_made(cx, events)?,
                _ => emits_at_once(cx, &payload, events)?,
            };
        }
        if round > 0 {
            all.push(json!({"bare": measured[0], "emit": measured[1], "made": measured[2], "emit_all": measured[3]}));
        }
    }
    let text = json!({"record_bytes": record.len(), "events": events, "rounds": all}).to_string();
    std::fs::write(report, text)?;
    Ok(())
}

/// Emits many events as fast as it can.
#[job]
pub(crate) fn flood(cx: &JobContext, count: u64, #[param(default = 200)] bytes: u32) -> JobResult {
    let payload = payload(bytes)?;
    let mut failed = None;
    let events = (0..count).map_while(|_| Event::new("bench.flood", &payload).map_err(|e| failed = Some(e)).ok());
    let taken = cx.emit_all(events)?;
    if taken == count { Ok(()) } else { Err(format!("{taken} of {count} events were taken; {failed:?}"))? }
}

/// Emits one event after the other, no faster than `rate`, as a job does that has other work too.
#[job]
pub(crate) fn paced(
    cx: &JobContext,
    count: u32,
    /// Events per second.
    #[param(default = 10000)]
    rate: u32,
) -> JobResult {
    let payload = payload(200)?;
    let start = Instant::now();
    for n in 0..count {
        cx.emit("bench.paced", &payload)?;
        // Ten milliseconds' worth at a time.
        if (n + 1).is_multiple_of((rate / 100).max(1)) {
            let due = Duration::from_secs_f64(f64::from(n + 1) / f64::from(rate));
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(())
}

/// A payload with this many bytes, already JSON.
fn payload(bytes: u32) -> Result<Box<RawValue>, JobError> {
    let filler = usize::try_from(bytes)?.checked_sub(r#"{"text":""}"#.len()).ok_or("a payload has at least 11 bytes")?;
    Ok(RawValue::from_string(format!("{{\"text\":\"{}\"}}", "x".repeat(filler)))?)
}

/// The record that one `emit` of `payload` writes to the spool, read back from it.
fn own_record(cx: &JobContext, payload: &RawValue) -> Result<Vec<u8>, JobError> {
    cx.emit("bench.emit", payload)?;
    let spool = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .find(|path| path.components().any(|part| part.as_os_str() == "spool") && path.extension().is_none())
        .ok_or("the spool's descriptor was not found")?;
    let mut last = Vec::new();
    for line in BufReader::new(File::open(spool)?).split(b'\n') {
        last = line?;
    }
    last.push(b'\n');
    Ok(last)
}

fn bare_writes(path: &Path, record: &[u8], events: u32) -> Result<f64, JobError> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let start = Instant::now();
    for _ in 0..events {
        file.write_all(record)?;
    }
    Ok(per_event(start, events))
}

fn emits(cx: &JobContext, payload: &RawValue, events: u32) -> Result<f64, JobError> {
    let start = Instant::now();
    for _ in 0..events {
        cx.emit("bench.emit", payload)?;
    }
    Ok(per_event(start, events))
}

/// As authors write it: an object with several types of values, created for each event, with the same 200 bytes as the others.
fn emits_made(cx: &JobContext, events: u32) -> Result<f64, JobError> {
    let start = Instant::now();
    for n in 0..events {
        cx.emit("bench.emit", made(n))?;
    }
    Ok(per_event(start, events))
}

fn made(n: u32) -> Value {
    json!({
        "message": format!("<{n:012}@mail.example.com>"),
        "thread": 1_000_000_000 + n / 4,
        "folder": "archive/2026",
        "labels": ["inbox", "unread"],
        "bytes": 100_000 + n % 65_536,
        "attachments": [],
        "is_reply": true,
        "digest": "0123456789a",
        "seen": null,
    })
}

/// Includes creating the events, which a job cannot avoid.
fn emits_at_once(cx: &JobContext, payload: &RawValue, events: u32) -> Result<f64, JobError> {
    let start = Instant::now();
    let made = (0..events).map_while(|_| Event::new("bench.emit", payload).ok());
    let taken = cx.emit_all(made)?;
    let time = per_event(start, events);
    if taken == u64::from(events) { Ok(time) } else { Err(format!("{taken} of {events} events were taken"))? }
}

fn per_event(start: Instant, events: u32) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / f64::from(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_payloads_have_the_same_size() {
        for n in [0, 4999] {
            assert_eq!(made(n).to_string().len(), 200, "{}", made(n));
        }
    }
}
