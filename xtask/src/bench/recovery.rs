//! Measures recovery: closing a thousand runs with one command, and the check for open runs if there are none.

use super::Site;
use super::timing::{Median, inside, judged, met, whole};
use crate::Result;
use crate::cargo;

/// Number of rounds, each with new runs.
const ROUNDS: usize = 5;
const RUNS: usize = 1000;
/// Milliseconds for all of them.
const TARGET: f64 = 1000.0;
/// The check is short, so it is measured in more rounds.
const LOOKS: usize = 21;

pub(super) fn run(site: &Site) -> Result<String> {
    let mut list = site.sandbox.lorchestra(&["runs", "list", "--limit", "1"]);
    let (mut closing, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // A new history each time, so that earlier rounds do not influence the result.
        if site.sandbox.state().exists() {
            std::fs::remove_dir_all(site.sandbox.state())?;
        }
        let mut abandon = site.part("bench-abandon");
        cargo::run(abandon.arg(site.sandbox.state()).arg(RUNS.to_string()))?;
        let mut close = site.sandbox.lorchestra(&["runs", "list", "--limit", "1"]);
        // It reports each of them.
        close.stderr(std::process::Stdio::null());
        closing.push(whole(&mut close)?);
        nothing.push(whole(&mut list)?);
        let closed = site.sandbox.lorchestra(&["runs", "list", "--limit", "100000"]).output()?;
        let closed = String::from_utf8(closed.stdout)?.matches("failed (abandoned)").count();
        if closed != RUNS {
            return Err(format!("{closed} of {RUNS} runs were closed").into());
        }
    }
    let (mut close, mut readdir) = (site.part("bench-look"), site.part("bench-look"));
    close.arg(site.sandbox.state()).arg("close");
    readdir.arg(site.sandbox.state()).arg("readdir");
    let (mut closes, mut readdirs) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        closes.push(inside(&mut close)?);
        readdirs.push(inside(&mut readdir)?);
    }
    let (closing, nothing) = (Median::of(&closing), Median::of(&nothing));
    let (look, bare) = (Median::of(&closes), Median::of(&readdirs));
    let mut table = String::from("| | |\n| --- | ---: |");
    let mut row = |name: &str, text: String| table.push_str(&format!("\n| {name} | {text} |"));
    row("`runs list` that closes 1000 abandoned runs, ms", closing.in_thousands());
    row("`runs list` with none to close, ms", nothing.in_thousands());
    let took = (closing.middle - nothing.middle) / 1e3;
    row("closing all of them (target under 1 s)", format!("{took:.0} ms {}", met(took < TARGET)));
    row("a look where there is none, µs", format!("{:.2} ({:.2}–{:.2})", look.middle, look.low, look.high));
    row("one bare readdir, µs", format!("{:.2} ({:.2}–{:.2})", bare.middle, bare.low, bare.high));
    row(
        "ratio (one readdir, and nothing else: at most 1.2)",
        judged(look.middle / bare.middle, look.middle <= 1.2 * bare.middle),
    );
    Ok(table)
}
