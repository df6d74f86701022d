//! `runs logs`: a job's output, byte for byte, and its trace.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::follow::readable;
use crate::printer::Printer;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::log::{self, Part};
use lorchestra_core::store::{Run, RunState, Store};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

pub(super) fn logs(state: &StateDir, store: &Store, run: &Run, trace: bool, printer: &mut Printer) -> Result<Code, CommandError> {
    if matches!(run.state, RunState::Skipped | RunState::Refused) {
        let what = if trace { "trace" } else { "log" };
        printer.note(format_args!("This run has no {what}: it was {}.", run.state.as_str()));
        return Ok(Code::Success);
    }
    let paths: Vec<_> = match trace {
        true => vec![state.trace(&run.run_id)],
        false => (1..=run.attempts).map(|attempt| state.output(&run.run_id, attempt)).collect(),
    };
    let mut found = false;
    for path in &paths {
        found |= copy(path, printer)?;
    }
    let printed = paths.iter().any(|path| log::parts(path).is_ok_and(|parts| parts.iter().any(Part::has_content)));
    if !trace && !printed && print_trace(&state.trace(&run.run_id), printer)? {
        printer.note("This run printed nothing; this is its trace (with --trace: as JSON).");
        return Ok(Code::Success);
    }
    let lost = store.terminal(&run.run_id)?.map_or(0, |terminal| terminal.output_lost);
    if lost > 0 && !trace {
        printer.note(format_args!("{lost} bytes of this log were lost: the disk was full."));
    }
    if !found {
        printer.note(match trace {
            true => "This run has no trace: the job wrote none, or retention removed it.",
            false => "The log of this run no longer exists (removed by retention, or by another program).",
        });
    }
    Ok(Code::Success)
}

/// Prints a trace in readable form; returns `false` if there is none.
fn print_trace(path: &Path, printer: &mut Printer) -> Result<bool, CommandError> {
    let mut any = false;
    for part in log::parts(path).unwrap_or_default() {
        let Ok(file) = part.open() else { continue };
        for line in BufReader::new(file).split(b'\n') {
            let line =
                line.map_err(|e| CommandError::new(Code::Failed, format!("{} cannot be read: {e}", part.path.display())))?;
            if !line.is_empty() {
                printer.line(readable(&line));
                any = true;
            }
            if printer.is_broken() {
                return Ok(true);
            }
        }
    }
    Ok(any)
}

/// Prints a log's bytes, and notes missing ones; returns `false` if there is no log.
fn copy(path: &Path, printer: &mut Printer) -> Result<bool, CommandError> {
    let failed =
        |path: &Path, e: std::io::Error| CommandError::new(Code::Failed, format!("{} cannot be read: {e}", path.display()));
    let parts = log::parts(path).map_err(|e| failed(path, e))?;
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    for part in &parts {
        let mut file = match part.open() {
            Ok(file) => file,
            // The run continues and has removed this part: it counts as missing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(&part.path, e)),
        };
        if part.from > at {
            let missing = part.from - at;
            printer.note(format_args!("… {missing} bytes after byte {at} were not kept (logs.max): the end follows …"));
            at = part.from;
        }
        loop {
            match file.read(&mut buffer).map_err(|e| failed(&part.path, e))? {
                0 => break,
                n => {
                    printer.bytes(&buffer[..n]);
                    at += n as u64;
                }
            }
            if printer.is_broken() {
                return Ok(true);
            }
        }
    }
    Ok(!parts.is_empty())
}
