//! What a run's job reported, for `runs show`: result, counters, the last progress, artifacts.

use crate::failure::CommandError;
use lorchestra_core::store::{JobProgress, Run, Store};
use std::path::Path;

/// Maximum number of counters and of artifacts to show; `--json` has all.
const SHOWN: usize = 20;

/// Returns a name and a value for each line.
pub(super) fn rows(store: &Store, run: &Run) -> Result<Vec<(&'static str, String)>, CommandError> {
    let mut rows = Vec::new();
    if let Some(terminal) = store.terminal(&run.run_id)? {
        rows.extend(terminal.result.map(|result| ("result", result.to_string())));
        rows.extend(terminal.progress.map(|progress| ("progress", shown(progress))));
        let counters: Vec<String> = terminal.counters.iter().map(|(name, n)| format!("{n} {name}")).collect();
        rows.extend(limited("counter", counters));
    }
    let artifacts = store.artifacts(&run.run_id)?;
    let artifacts = artifacts.iter().map(|artifact| {
        let gone = if Path::new(&artifact.path).exists() { "" } else { ", removed since" };
        format!("{} ({} bytes{gone})", artifact.path, artifact.bytes)
    });
    rows.extend(limited("artifact", artifacts.collect()));
    Ok(rows)
}

/// One line each, and one with the number of those that are left out.
fn limited(name: &'static str, values: Vec<String>) -> Vec<(&'static str, String)> {
    let more = values.len().saturating_sub(SHOWN);
    let mut rows: Vec<_> = values.into_iter().take(SHOWN).map(|value| (name, value)).collect();
    if more > 0 {
        rows.push((name, format!("and {more} more (--json shows all)")));
    }
    rows
}

fn shown(JobProgress { done, total }: JobProgress) -> String {
    if total == 0 { done.to_string() } else { format!("{done} of {total}") }
}
