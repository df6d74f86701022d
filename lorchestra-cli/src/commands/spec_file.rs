//! Reads a run spec from a file, and prints one for people.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use lorchestra_core::plan::{self, RunSpec, SpecError};
use lorchestra_core::text::{path_text, printable};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a spec in bytes, the same as for a worker's order.
const MAX: u64 = 16 << 20;

/// Reads a spec; `-` means stdin.
///
/// # Errors
/// If it cannot be read, or is not a spec that this lorchestra can run.
pub(super) fn read(file: &Path) -> Result<RunSpec, CommandError> {
    let stdin = file == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { path_text(file) };
    let text = if stdin { bounded(io::stdin().lock()) } else { File::open(file).and_then(bounded) };
    let text = text.map_err(|e| {
        CommandError::new(Code::Usage, format!("{name} cannot be read: {e}"))
            .hint("run lorchestra run-job PACKAGE JOB … --dry-run --json > spec.json to write a spec")
    })?;
    if text.len() as u64 > MAX {
        return Err(CommandError::new(Code::Usage, format!("{name} is not a run spec: it is larger than {} MiB", MAX >> 20)));
    }
    RunSpec::from_json(&text).map_err(|error| {
        let hint = match error {
            SpecError::Newer(_) => "upgrade lorchestra, or create the spec with this version: run-job … --dry-run --json",
            _ => "run lorchestra run-job PACKAGE JOB … --dry-run --json to print a spec",
        };
        CommandError::new(Code::Usage, format!("{name}: {}", printable(&error.to_string()))).hint(hint)
    })
}

/// One byte more than a spec may have is enough to refuse it.
fn bounded(file: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Prints a spec for a person.
pub(super) fn print(spec: &RunSpec, library: &Path, printer: &mut Printer) {
    // Includes text from the plugin and text that was typed.
    let mut line = |text: String| printer.line(printable(&text));
    line(format!("{}/{} (dry run: nothing was started)", spec.package, spec.job));
    line(format!("  plugin: {} {} ({})", spec.package, spec.version, path_text(library)));
    if let Some(window) = &spec.window {
        let since = window.since.map_or_else(|| "the beginning".to_owned(), plan::time::show);
        let last = if spec.since_last { " (last)" } else { "" };
        line(format!("  window: from {since}{last} up to {}", plan::time::show(window.until)));
    }
    for (name, value) in &spec.params {
        line(format!("  {name} = {value}"));
    }
    for (name, source) in &spec.secrets {
        line(format!("  {name} = (secret from {source})"));
    }
    let timeout = spec.timeout.map_or_else(|| "none".to_owned(), plan::duration::show);
    line(format!("  timeout: {timeout}, grace: {}", plan::duration::show(spec.grace)));
    let memory = spec.memory_max.map_or_else(|| "not limited".to_owned(), plan::size::show);
    line(format!("  on overlap: {}, retries: {}, memory: {memory}", spec.on_overlap, spec.retries.limit));
}
