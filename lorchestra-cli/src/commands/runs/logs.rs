//! `runs logs`: a job's output, byte for byte, and its trace; with `--follow`, also what the job writes until its run ends.

use crate::commands::unclosed::Unclosed;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::follow::readable;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::show::counted;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::log::{self, LogChunk, LogReader, Part};
use lorchestra_core::run::recovery::close_all_abandoned;
use lorchestra_core::store::{Run, RunState, Store, short_id};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

/// Interval between two reads of a log that is followed.
const INTERVAL: Duration = Duration::from_millis(100);
const BUFFER: usize = 64 << 10;

pub(super) fn logs(state: &StateDir, store: &Store, run: &Run, trace: bool, printer: &mut Printer) -> Result<Code, CommandError> {
    if run.state == RunState::Claimed {
        printer.note(format_args!("This run has no log here: it ran on {}.", run.host));
        return Ok(Code::Success);
    }
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
        let mut reader = LogReader::new(path);
        copy(&mut reader, path, printer)?;
        found |= reader.found();
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
    } else if !printed && lost == 0 {
        printer.note(empty(store, run, trace)?);
    }
    Ok(Code::Success)
}

/// Explains an empty log, and names the commands that show what the run has left.
fn empty(store: &Store, run: &Run, trace: bool) -> Result<String, CommandError> {
    let id = short_id(&run.run_id);
    let what = match (run.state, trace) {
        (RunState::Running, false) => "no output yet",
        (RunState::Running, true) => "no trace yet",
        (_, false) => "no output and no trace",
        (_, true) => "no trace",
    };
    let of_job: u64 =
        store.event_counts(&run.run_id)?.iter().filter(|(name, _)| !name.starts_with("job.")).map(|(_, n)| *n).sum();
    let events = match of_job {
        0 => String::new(),
        n => format!(" or, for its {}, lorchestra events list --run {id}", counted(n, "event")),
    };
    Ok(format!("this run has {what}; run lorchestra runs show {id}{events}"))
}

/// Like [`logs`], until the run has ended. A job that prints nothing is followed by its trace.
pub(super) fn follow(
    (state, store): (&StateDir, &mut Store),
    mut run: Run,
    trace: bool,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    if run.state != RunState::Running {
        return logs(state, store, &run, trace, printer);
    }
    let trace_path = state.trace(&run.run_id);
    let mut traces = LogReader::new(&trace_path);
    // The start of a line of the trace whose end is not written yet.
    let mut line = Vec::new();
    let mut attempt = 1;
    let mut output = (LogReader::new(&state.output(&run.run_id, 1)), state.output(&run.run_id, 1));
    let mut printed = false;
    // Why the run cannot be closed, if its supervisor is dead.
    let mut unclosed: Option<String> = None;
    loop {
        // Read the state first: what was written before the run ended is then in the files.
        let now = match store.run(&run.run_id)? {
            Some(now) => now,
            // Retention removed it in the meantime.
            None => return Ok(Code::Success),
        };
        let ended = now.state != RunState::Running;
        if trace {
            copy(&mut traces, &trace_path, printer)?;
        } else {
            loop {
                printed |= copy(&mut output.0, &output.1, printer)?;
                if attempt >= now.attempts {
                    break;
                }
                attempt += 1;
                let path = state.output(&run.run_id, attempt);
                output = (LogReader::new(&path), path);
            }
            if !printed {
                follow_trace(&mut traces, &trace_path, &mut line, printer)?;
            }
        }
        printer.flush();
        if printer.is_broken() {
            return Ok(Code::Success);
        }
        if ended {
            let cause = now.cause.map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default();
            printer.note(format_args!("Run {} has ended: {}{cause}.", short_id(&run.run_id), now.state.as_str()));
            return Ok(Code::Success);
        }
        if let Some(why) = unclosed {
            let id = short_id(&run.run_id);
            printer.note(format_args!("Run {id} has ended: its supervisor died, and the run cannot be closed yet: {why}"));
            return Ok(Code::Success);
        }
        if !now.is_supervised() {
            let closed = close_all_abandoned(state, store)?;
            unclosed = Unclosed::of(&closed).reason(&now).map(str::to_owned);
            if unclosed.is_some() {
                // Reported once, after what it has printed until now.
                notices.add_recovered(&closed);
                continue;
            }
            crate::commands::report_recovered(&closed, notices, printer);
        }
        run = now;
        std::thread::sleep(INTERVAL);
    }
}

/// Prints the complete new lines of a trace in readable form.
fn follow_trace(reader: &mut LogReader, path: &Path, line: &mut Vec<u8>, printer: &mut Printer) -> Result<(), CommandError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer).map_err(|e| unreadable(path, &e))? {
            LogChunk::Bytes(n) => line.extend_from_slice(&buffer[..n]),
            LogChunk::Missing { .. } => line.clear(),
            LogChunk::End => return Ok(()),
        }
        while let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            if end > 0 {
                printer.line(readable(&line[..end]));
            }
            line.drain(..=end);
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::new(Code::Failed, format!("{} cannot be read: {error}", path.display()))
}

/// Prints a trace in readable form; returns `false` if there is none.
fn print_trace(path: &Path, printer: &mut Printer) -> Result<bool, CommandError> {
    let mut any = false;
    for part in log::parts(path).unwrap_or_default() {
        let Ok(file) = part.open() else { continue };
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|e| unreadable(&part.path, &e))?;
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

/// Prints the bytes of a log up to its current end, and notes missing ones; returns whether it printed any.
fn copy(reader: &mut LogReader, path: &Path, printer: &mut Printer) -> Result<bool, CommandError> {
    let mut buffer = vec![0; BUFFER];
    let mut printed = false;
    loop {
        match reader.read(&mut buffer).map_err(|e| unreadable(path, &e))? {
            LogChunk::Bytes(n) => {
                printer.bytes(&buffer[..n]);
                printed = true;
            }
            LogChunk::Missing { after, bytes } => {
                printer.note(format_args!("… {bytes} bytes after byte {after} were not kept (logs.max): the end follows …"));
            }
            LogChunk::End => return Ok(printed),
        }
        if printer.is_broken() {
            return Ok(printed);
        }
    }
}
