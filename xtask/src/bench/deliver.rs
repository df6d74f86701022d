//! Measures delivery: rows per second to a server that only acknowledges, alternating with Python's client; the same with the real
//! emulator; how large backlogs drain; and the effect of delivery on a job that emits.

use super::Site;
use super::server::{Server, TABLE};
use super::timing::{Median, judged, met};
use crate::{Result, cargo};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const ROWS: u32 = 100_000;
/// Rows for the emulator, where all senders are slow.
const FEW: u32 = 10_000;
/// Latency of a remote server in ms.
const DELAY: u32 = 50;
/// Sizes of the backlogs that `events flush` drains.
const BACKLOGS: [u32; 3] = [10_000, 100_000, 1_000_000];
const MEMORY_KIB: u64 = 128 << 10;
/// Events of the paced job: five seconds' worth.
const PACED: u32 = 50_000;

/// Results of one sender: rows per second, and CPU seconds per million rows.
#[derive(Default)]
struct Sender {
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

impl Sender {
    fn note(&mut self, rows: f64, seconds: f64, cpu: f64) {
        self.rate.push(rows / seconds);
        self.cpu.push(cpu / rows * 1e6);
    }

    /// Runs a program that prints rows, seconds and CPU seconds.
    fn add(&mut self, command: &mut Command) -> Result {
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{} failed ({})", cargo::line(command), output.status).into());
        }
        let output: Value = serde_json::from_slice(&output.stdout)?;
        let number = |name: &str| output[name].as_f64().ok_or_else(|| format!("no {name}: {output}"));
        self.note(number("rows")?, number("seconds")?, number("cpu_seconds")?);
        Ok(())
    }
}

pub(super) fn run(site: &Site) -> Result<String> {
    let python = lorchestra_test_setup::venv::ensure(&cargo::target()?)?.join("bin/python");
    let mut table = String::from("Into a server that only acknowledges:\n\n");
    table.push_str(&senders(site, &Server::acknowledging(0)?, &python, ROWS, true)?);
    table.push_str("\n\nInto the emulator:\n\n");
    table.push_str(&senders(site, &Server::emulator()?, &python, FEW, false)?);
    table.push_str("\n\nEach answer of the server comes 50 ms late:\n\n");
    table.push_str(&far_away(site)?);
    table.push_str("\n\nA backlog, by one `events flush`:\n\n");
    table.push_str(&backlogs(site)?);
    table.push_str("\n\nA job that emits 10 000 events per second for five seconds, duration of its attempt:\n\n");
    table.push_str(&during_a_job(site)?);
    Ok(table)
}

fn script() -> Result<PathBuf> {
    Ok(cargo::root()?.join("xtask/src/bench/insert_rows.py"))
}

/// Alternates between all senders: Python, both write methods from memory, and the complete command from the store.
fn senders(site: &Site, server: &Server, python: &Path, rows: u32, judge: bool) -> Result<String> {
    let count = rows.to_string();
    let send = |write: &str| {
        let mut command = site.part("bench-send");
        command.args([write, &server.rest, &server.grpc, TABLE, &count]);
        command
    };
    let mut theirs = site.sandbox.command(python);
    theirs.arg(script()?).args([&server.rest, TABLE, &count]);
    let [mut google, mut storage, mut insert, mut whole] = [const { None::<Sender> }; 4].map(Option::unwrap_or_default);
    for round in 0..ROUNDS {
        google.add(&mut theirs)?;
        storage.add(&mut send("storage-write"))?;
        insert.add(&mut send("insert-all"))?;
        let drained = drain(site, server, rows, &format!("{round}-{rows}"))?;
        whole.note(f64::from(rows), drained.seconds, drained.cpu);
    }
    let base = (Median::of(&google.rate).middle, Median::of(&google.cpu).middle);
    let mut table = String::from(
        "| | rows per second | vs. Python | CPU s per million rows | vs. Python |\n| --- | ---: | ---: | ---: | ---: |",
    );
    let mut row = |name: &str, sender: &Sender, at_least: Option<f64>, judge_cpu: bool| {
        let (rate, cpu) = (Median::of(&sender.rate), Median::of(&sender.cpu));
        let (times, share) = (rate.middle / base.0, cpu.middle / base.1);
        let times = match at_least.filter(|_| judge) {
            Some(least) => format!("{} (target at least {least})", judged(times, times >= least)),
            None => format!("{times:.2}×"),
        };
        let share = if judge && judge_cpu {
            format!("{} (target at most 0.5)", judged(share, share <= 0.5))
        } else {
            format!("{share:.2}×")
        };
        table.push_str(&format!(
            "\n| {name} | {:.0} ({:.0}–{:.0}) | {times} | {:.1} | {share} |",
            rate.middle, rate.low, rate.high, cpu.middle
        ));
    };
    row("Python `insert_rows_json`, 500 per request", &google, None, false);
    row("Storage Write, encode and send", &storage, Some(2.0), true);
    row("insert-all, encode and send", &insert, Some(1.0), true);
    row("`events flush`, from the store, whole process", &whole, None, true);
    if judge {
        let rate = Median::of(&whole.rate).middle;
        table.push_str(&format!("\n\nFrom the store: {rate:.0} rows/s (target at least 60 000) {}", met(rate >= 60_000.0)));
    }
    Ok(table)
}

/// A remote server: alternates between several batches in flight and one at a time.
fn far_away(site: &Site) -> Result<String> {
    let server = Server::acknowledging(DELAY)?;
    let send = |how: &str| {
        let mut command = site.part("bench-send");
        command.args([how, &server.rest, &server.grpc, TABLE, &ROWS.to_string()]);
        command
    };
    let [mut one, mut several, mut whole] = [const { None::<Sender> }; 3].map(Option::unwrap_or_default);
    for round in 0..ROUNDS {
        one.add(&mut send("storage-write"))?;
        several.add(&mut send("pipelined"))?;
        let drained = drain(site, &server, ROWS, &format!("late-{round}"))?;
        whole.note(f64::from(ROWS), drained.seconds, drained.cpu);
    }
    let [one, several, whole] = [&one, &several, &whole].map(|sender| Median::of(&sender.rate));
    let times = several.middle / one.middle;
    let mut table = String::from("| | rows per second | vs. one at a time |\n| --- | ---: | ---: |");
    let shown = |rate: &Median| format!("{:.0} ({:.0}–{:.0})", rate.middle, rate.low, rate.high);
    table.push_str(&format!("\n| Storage Write, one batch at a time | {} | 1.00× |", shown(&one)));
    table.push_str(&format!(
        "\n| several batches on their way | {} | {} (target at least 5) |",
        shown(&several),
        judged(times, times >= 5.0)
    ));
    let times = whole.middle / one.middle;
    table.push_str(&format!("\n| `events flush`, from the store, whole process | {} | {times:.2}× |", shown(&whole)));
    Ok(table)
}

struct Drained {
    seconds: f64,
    cpu: f64,
    peak_kib: u64,
}

/// Fills a separate store, and delivers all of it with one command.
fn drain(site: &Site, server: &Server, rows: u32, name: &str) -> Result<Drained> {
    let state = site.sandbox.path().join(format!("state-{name}"));
    cargo::run(site.part("bench-fill").arg(&state).arg(rows.to_string()))?;
    let config = site.sandbox.home().join(".config/lorchestra");
    std::fs::create_dir_all(&config)?;
    std::fs::write(config.join("config.toml"), format!("state_dir = \"{}\"\n{}", state.display(), server.config()))?;
    let mut command = site.sandbox.lorchestra(&["events", "flush", "--timeout", "20m"]);
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let stat_file = format!("/proc/{}/stat", child.id());
    let (mut peak_kib, mut cpu) = (0, 0.0);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let text = std::fs::read_to_string(&status_file).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak_kib = kib.unwrap_or(0).max(peak_kib);
        cpu = processor(&std::fs::read_to_string(&stat_file).unwrap_or_default()).unwrap_or(0.0).max(cpu);
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = start.elapsed().as_secs_f64();
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !status.success() || said.trim() != format!("Delivered {rows} events.") {
        return Err(format!("events flush of {rows} ({status}): {said}").into());
    }
    std::fs::remove_dir_all(&state)?;
    std::fs::remove_file(config.join("config.toml"))?;
    Ok(Drained { seconds, cpu, peak_kib })
}

/// CPU seconds from /proc/PID/stat: fields 14 and 15, in hundredths.
fn processor(stat: &str) -> Option<f64> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / 100.0)
}

fn backlogs(site: &Site) -> Result<String> {
    let server = Server::acknowledging(0)?;
    let mut table =
        String::from("| events | s | events per second | peak memory (target under 128 MiB) |\n| ---: | ---: | ---: | ---: |");
    let mut rates = Vec::new();
    for rows in BACKLOGS {
        let Drained { seconds, peak_kib, .. } = drain(site, &server, rows, &rows.to_string())?;
        rates.push(f64::from(rows) / seconds);
        table.push_str(&format!(
            "\n| {rows} | {seconds:.2} | {:.0} | {:.1} MiB {} |",
            f64::from(rows) / seconds,
            peak_kib as f64 / 1024.0,
            met(peak_kib < MEMORY_KIB)
        ));
    }
    let (small, large) = (rates[0], rates[rates.len() - 1]);
    table.push_str(&format!(
        "\n\nTime per event, a million to ten thousand: {:.2}× (linear: at most 1.5) {}",
        small / large,
        met(small / large <= 1.5)
    ));
    Ok(table)
}

/// Runs the job with delivery off, on, and on with a slow server.
fn during_a_job(site: &Site) -> Result<String> {
    let (quick, slow) = (Server::acknowledging(0)?, Server::acknowledging(500)?);
    let config = site.sandbox.home().join(".config/lorchestra");
    std::fs::create_dir_all(&config)?;
    let count = PACED.to_string();
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (server, took) in [None, Some(&quick), Some(&slow)].into_iter().zip(&mut took) {
            std::fs::write(config.join("config.toml"), server.map_or_else(String::new, Server::config))?;
            let output = site.sandbox.lorchestra(&["run-job", "--json", "pkg-0000", "paced", "--count", &count]).output()?;
            let output: Value = serde_json::from_slice(&output.stdout)?;
            let duration = output["duration_ms"].as_f64().filter(|_| output["state"] == "completed");
            took.push(duration.ok_or_else(|| format!("run-job paced: {output}"))?);
        }
    }
    let off = Median::of(&took[0]).middle;
    let mut table = String::from("| delivery | ms | vs. delivery off (target at most 1.2) |\n| --- | ---: | ---: |");
    for (name, took) in ["off", "on", "on, the server answers half a second late"].iter().zip(&took) {
        let took = Median::of(took);
        let ratio = took.middle / off;
        table.push_str(&format!(
            "\n| {name} | {:.0} ({:.0}–{:.0}) | {} |",
            took.middle,
            took.low,
            took.high,
            judged(ratio, ratio <= 1.2)
        ));
    }
    Ok(table)
}
