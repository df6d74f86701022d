//! Time measurement and statistics.

use crate::Result;
use crate::cargo;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Runs a command with its output discarded. Returns the microseconds from before its start until it was reaped.
pub(super) fn whole(command: &mut Command) -> Result<f64> {
    whole_ending(command, &[0])
}

/// Like [`whole`], for a command that may end with any of these exit codes.
pub(super) fn whole_ending(command: &mut Command, codes: &[i32]) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let took = start.elapsed().as_secs_f64() * 1e6;
    let expected = status.code().is_some_and(|code| codes.contains(&code));
    if expected { Ok(took) } else { Err(format!("{} failed ({status})", cargo::line(command)).into()) }
}

/// Runs a command that prints how many microseconds its own work took.
pub(super) fn inside(command: &mut Command) -> Result<f64> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} failed ({})", cargo::line(command), output.status).into());
    }
    Ok(std::str::from_utf8(&output.stdout)?.trim().parse()?)
}

/// The median and the quartiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Median {
    pub(super) low: f64,
    pub(super) middle: f64,
    pub(super) high: f64,
}

impl Median {
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| sorted.get((sorted.len().saturating_sub(1)) * part / 4).copied().unwrap_or(f64::NAN);
        Self { low: at(1), middle: at(2), high: at(3) }
    }

    /// Formats as `1.23 (1.10–1.40)`, in thousands of the unit.
    pub(super) fn in_thousands(self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.middle / 1e3, self.low / 1e3, self.high / 1e3)
    }
}

/// Formats a ratio, and whether it is within its target.
pub(super) fn judged(ratio: f64, within: bool) -> String {
    format!("{ratio:.2}× {}", met(within))
}

pub(super) fn met(within: bool) -> &'static str {
    if within { "met" } else { "**missed**" }
}
