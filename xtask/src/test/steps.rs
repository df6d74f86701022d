//! The steps of a test run: printed as a plan, then run with their number and times.
//!
//! How long a step takes is what it took the last time, from a file in the target directory, or else a typical duration.

use super::progress::{clock, shown};
use crate::{Result, cargo};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One step.
struct Step<'a> {
    name: String,
    /// What it does, for the plan.
    what: String,
    /// Typical duration on two cores.
    typical: Duration,
    work: Box<dyn FnOnce() -> Result + 'a>,
}

/// The steps of a run, in order.
pub(super) struct Steps<'a> {
    steps: Vec<Step<'a>>,
    fail_fast: bool,
    durations: Durations,
}

impl<'a> Steps<'a> {
    /// No steps yet. With `fail_fast`, a step that fails ends the run.
    pub(super) fn new(fail_fast: bool) -> Result<Self> {
        Ok(Self { steps: Vec::new(), fail_fast, durations: Durations::read()? })
    }

    /// Adds a step.
    pub(super) fn add(&mut self, name: &str, what: impl Into<String>, seconds: u64, work: impl FnOnce() -> Result + 'a) {
        let typical = Duration::from_secs(seconds);
        self.steps.push(Step { name: name.to_owned(), what: what.into(), typical, work: Box::new(work) });
    }

    /// Prints the plan, and runs the steps.
    pub(super) fn run(mut self) -> Result {
        let expected: Vec<Duration> = self.steps.iter().map(|step| self.durations.of(step)).collect();
        let total: Duration = expected.iter().sum();
        println!("{} steps, about {} in total:", self.steps.len(), shown(total));
        for (step, expected) in self.steps.iter().zip(&expected) {
            println!("  {:<16} {:>6}  {}", step.name, shown(*expected), step.what);
        }
        let begun = Instant::now();
        let (mut failed, count) = (Vec::new(), self.steps.len());
        for (number, step) in std::mem::take(&mut self.steps).into_iter().enumerate() {
            println!("\n== {}/{count} {} [{} of about {}]", number + 1, step.name, clock(begun), shown(total));
            let step_begun = Instant::now();
            let done = (step.work)();
            println!("-- {}: {}", step.name, clock(step_begun));
            match done {
                Ok(()) => self.durations.record(&step.name, &step.what, step_begun.elapsed()),
                Err(error) if self.fail_fast => {
                    println!("-- total: {}", clock(begun));
                    return Err(error);
                }
                Err(error) => {
                    println!("xtask: {error}");
                    failed.push(step.name);
                }
            }
        }
        println!("\n-- total: {}", clock(begun));
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
    }
}

/// Seconds that steps took the last time, by name and what they did.
struct Durations {
    file: PathBuf,
    seconds: BTreeMap<String, u64>,
}

impl Durations {
    fn read() -> Result<Self> {
        let file = cargo::target()?.join("lorchestra-test-durations.json");
        let seconds = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Ok(Self { file, seconds })
    }

    fn of(&self, step: &Step<'_>) -> Duration {
        self.seconds.get(&key(&step.name, &step.what)).map_or(step.typical, |seconds| Duration::from_secs(*seconds))
    }

    /// Keeps a duration. A file that cannot be written costs only the estimate.
    fn record(&mut self, name: &str, what: &str, took: Duration) {
        self.seconds.insert(key(name, what), took.as_secs());
        if let Ok(text) = serde_json::to_string_pretty(&self.seconds) {
            let _ = std::fs::write(&self.file, text);
        }
    }
}

fn key(name: &str, what: &str) -> String {
    format!("{name}: {what}")
}
