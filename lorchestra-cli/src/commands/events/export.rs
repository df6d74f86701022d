//! `events export`: events with their payloads as JSON Lines, CSV or Parquet, on standard output or into a file.

mod table;

use crate::commands::history;
use crate::commands::to_file;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show::counted;
use crate::values;
use clap::{Args, ValueEnum};
use lorchestra_core::host::atomic_file::{OutputFile, unless_reader_left};
use lorchestra_core::store::Event;
use lorchestra_core::text::path_text;
use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use table::EventTable;

/// Columns of a CSV or Parquet file, in order.
const COLUMNS: [&str; 12] = [
    "event_id",
    "event_type",
    "source",
    "schema_ref",
    "created_at",
    "correlation_id",
    "subject_id",
    "payload",
    "run_id",
    "attempt",
    "package",
    "job",
];

/// Which events are exported, and in which format.
#[derive(Debug, Args)]
pub(crate) struct EventExport {
    /// jsonl: one JSON object per line (schema lorchestra.event/1); csv: with a header, the payload as JSON; parquet: the columns
    /// of csv, times as timestamps (needs --output)
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: ExportFormat,
    /// Export only events of this run (id, short id, `last`, or PACKAGE/JOB for its newest run)
    #[arg(long, add = clap_complete::engine::ArgValueCompleter::new(crate::complete::runs))]
    run: Option<String>,
    /// Export only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Export only events emitted at or after this time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Write to this file instead of stdout; a regular file appears only once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    Jsonl,
    Csv,
    Parquet,
}

pub(super) fn export(
    wanted: &EventExport,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let since = values::time("--since", wanted.since.as_deref())?;
    let history = history(settings, notices, printer)?;
    let store = history.as_ref().map(|(_, store)| store);
    let filter = super::filter(wanted.run.as_deref(), wanted.event_type.as_deref(), since, store, settings)?;
    if wanted.format == ExportFormat::Parquet {
        let Some(path) = to_file(wanted.output.as_deref()) else {
            let message = "--format parquet cannot be written to stdout";
            return Err(CommandError::new(Code::Usage, message).hint("add --output FILE"));
        };
        let (exported, is_file) = into_table(path, &mut |push| {
            let Some(store) = store else { return Ok(()) };
            let _ = store.events(&filter, push)?;
            Ok(())
        })?;
        exported_to(is_file.then_some(path), exported, printer);
        return Ok(Code::Success);
    }
    let mut lines = 0_u64;
    let mut each = |write: &mut LineSink<'_>| -> Result<(), CommandError> {
        if wanted.format == ExportFormat::Csv && write(&COLUMNS.join(",")).is_err() {
            return Ok(());
        }
        let Some(store) = store else { return Ok(()) };
        // Err means that no more lines are read.
        let _ = store.events(&filter, |event| {
            lines += 1;
            write(&if wanted.format == ExportFormat::Csv { csv_line(&event) } else { super::json_line(&event) })
        })?;
        Ok(())
    };
    match to_file(wanted.output.as_deref()) {
        None => each(&mut |text| {
            printer.line(text);
            if printer.is_broken() { Err(()) } else { Ok(()) }
        })?,
        Some(path) => {
            let is_file = into_file(path, &mut each)?;
            exported_to(is_file.then_some(path), lines, printer);
        }
    }
    Ok(Code::Success)
}

/// Reports an export into a file. Into anything else, it is not reported: that may be standard output.
fn exported_to(file: Option<&Path>, events: u64, printer: &mut Printer) {
    if let Some(path) = file {
        printer.good(format_args!("{} exported to {}", counted(events, "event"), path_text(path)));
    }
}

/// Receives one line. Returns an error if no more lines are read.
type LineSink<'a> = dyn FnMut(&str) -> Result<(), ()> + 'a;

/// Receives one event. Returns an error if no more are read.
type EventSink<'a> = dyn FnMut(Event) -> Result<(), ()> + 'a;

/// Begins a file that other users cannot read.
fn begun(path: &Path) -> io::Result<BufWriter<OutputFile>> {
    OutputFile::create(path, Permissions::from_mode(0o600)).map(BufWriter::new)
}

/// Gives a complete file its name. Returns whether there is such a file.
fn finished(out: BufWriter<OutputFile>) -> io::Result<bool> {
    out.into_inner().map_err(|e| e.into_error())?.finish()
}

/// Writes all events into a Parquet file, and returns their number and what [`finished`] returns.
fn into_table(
    path: &Path,
    each: &mut dyn FnMut(&mut EventSink<'_>) -> Result<(), CommandError>,
) -> Result<(u64, bool), CommandError> {
    let failed = |error: &io::Error| CommandError::not_written(path, error);
    let mut table = begun(path).and_then(EventTable::new).map_err(|e| failed(&e))?;
    let (mut count, mut error) = (0_u64, None);
    each(&mut |event| {
        count += 1;
        table.push(event).map_err(|e| error = Some(e))
    })?;
    let result = error.map_or(Ok(()), Err).and_then(|()| finished(table.finish()?));
    unless_reader_left(result).map(|is_file| (count, is_file)).map_err(|e| failed(&e))
}

/// Writes all lines into a file that other users cannot read. Returns what [`finished`] returns.
fn into_file(path: &Path, each: &mut dyn FnMut(&mut LineSink<'_>) -> Result<(), CommandError>) -> Result<bool, CommandError> {
    let failed = |error: &io::Error| CommandError::not_written(path, error);
    let mut out = begun(path).map_err(|e| failed(&e))?;
    let mut error = None;
    each(&mut |text| writeln!(out, "{text}").map_err(|e| error = Some(e)))?;
    unless_reader_left(error.map_or(Ok(()), Err).and_then(|()| finished(out))).map_err(|e| failed(&e))
}

fn csv_line(event: &Event) -> String {
    let value = |column| match column {
        "created_at" => quoted(&event.created_at),
        "attempt" => event.attempt.to_string(),
        column => quoted(table::text(event, column).unwrap_or_default()),
    };
    COLUMNS.map(value).join(",")
}

/// Quotes a value according to RFC 4180.
fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) { format!("\"{}\"", value.replace('"', "\"\"")) } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn only_fields_that_need_quotes_are_quoted() {
        assert_eq!(["a b", "a,b", "say \"a\"", "a\nb", ""].map(quoted), ["a b", "\"a,b\"", "\"say \"\"a\"\"\"", "\"a\nb\"", ""]);
    }
}
