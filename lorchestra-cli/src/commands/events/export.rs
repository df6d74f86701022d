//! `events export`: events with their payloads as JSON Lines or CSV, on standard output or into a file.

use crate::commands::history;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::values;
use clap::{Args, ValueEnum};
use lorchestra_core::store::Event;
use lorchestra_core::text::path_text;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Columns of a CSV file, in order.
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
    /// jsonl: one JSON object per line (schema lorchestra.event/1); csv: with a header, the payload as JSON
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: ExportFormat,
    /// Export only events of this run (id, short id, `last`, or PACKAGE/JOB for its newest run)
    #[arg(long)]
    run: Option<String>,
    /// Export only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Export only events emitted at or after this time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Write to this file instead of stdout; it appears only once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    Jsonl,
    Csv,
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
    let mut lines = 0_u64;
    let mut each = |write: &mut LineSink<'_>| -> Result<(), CommandError> {
        if wanted.format == ExportFormat::Csv && write(&COLUMNS.join(",")).is_err() {
            return Ok(());
        }
        let Some(store) = store else { return Ok(()) };
        // Err means that no more lines are read.
        let _ = store.events(&filter, |event| {
            lines += 1;
            write(&line(&event, wanted.format))
        })?;
        Ok(())
    };
    match &wanted.output {
        None => each(&mut |text| {
            printer.line(text);
            if printer.is_broken() { Err(()) } else { Ok(()) }
        })?,
        Some(path) => {
            into_file(path, &mut each)?;
            printer.good(format_args!("{lines} events exported to {}", path_text(path)));
        }
    }
    Ok(Code::Success)
}

/// Receives one line. Returns an error if no more lines are read.
type LineSink<'a> = dyn FnMut(&str) -> Result<(), ()> + 'a;

/// Writes all lines into a file that other users cannot read. The file appears under its name only when it is complete.
fn into_file(path: &Path, each: &mut dyn FnMut(&mut LineSink<'_>) -> Result<(), CommandError>) -> Result<(), CommandError> {
    let failed = |error: &std::io::Error| CommandError::refused(Code::NotWritable, &path_text(path), path, error);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir).map_err(|e| failed(&e))?;
    let mut out = BufWriter::new(file);
    let mut error = None;
    each(&mut |text| writeln!(out, "{text}").map_err(|e| error = Some(e)))?;
    if let Some(error) = error {
        return Err(failed(&error));
    }
    let file = out.into_inner().map_err(|e| failed(e.error()))?;
    file.as_file().sync_all().map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e.error))?;
    Ok(())
}

fn line(event: &Event, format: ExportFormat) -> String {
    match format {
        ExportFormat::Jsonl => super::json_line(event),
        ExportFormat::Csv => {
            let attempt = event.attempt.to_string();
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let payload = event.payload.as_ref().map(|payload| payload.get().to_owned()).unwrap_or_default();
            let values: [&str; 12] = [
                &event.event_id,
                &event.event_type,
                &event.source,
                &text(&event.schema_ref),
                &event.created_at,
                &event.correlation_id,
                &text(&event.subject_id),
                &payload,
                &event.run_id,
                &attempt,
                &event.package,
                &event.job,
            ];
            values.map(quoted).join(",")
        }
    }
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
