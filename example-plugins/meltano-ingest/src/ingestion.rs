//! One run of a tap, from its start to the stored data: what happens to each message, the counts, the events. Uses
//! [`tap`](crate::tap), [`archive`](crate::archive) and the job's context.

use crate::archive::{Archive, ArchiveError, Stale, Widening};
use crate::batch::{BatchError, BatchFile};
use crate::checkpoint::Format;
use crate::message::{self, Encoding, Fault, Message, Text};
use crate::name::{self, NameError};
use crate::schema::{Forms, Schema};
use crate::stream::Taken;
use crate::tap::{self, Call, Process, TapError};
use lorchestra_plugin_api::mask::Mask;
use lorchestra_plugin_api::serde_json::{self, json, value::RawValue};
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use package_support::lines::{LineEvent, MAX_LINE};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// What to run.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) call: Call,
    pub(crate) name: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) format: Format,
    /// Maximum time without output; zero means no limit.
    pub(crate) idle: Duration,
    /// Interval of the progress in the log; zero means never.
    pub(crate) progress: Duration,
    pub(crate) data_dir: PathBuf,
}

/// Counts of a run, over all streams.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Totals {
    /// Lines of the tap's output.
    messages: u64,
    /// Records in the files.
    records: u64,
    /// Size of their lines, in bytes.
    bytes: u64,
    /// Streams with new records.
    streams: u64,
    /// States sent by the tap.
    states: u64,
    /// Files of BATCH messages.
    batch_files: u64,
    /// Messages of types that are not in the specification.
    ignored: u64,
    /// Records that were set aside, by reason.
    set_aside: BTreeMap<&'static str, u64>,
}

/// Maximum number of set-aside records that an event lists.
const NAMED: u64 = 100;
/// Maximum time between the end of the tap's output and the end of its process, in either order.
const BETWEEN_ENDS: Duration = Duration::from_secs(2);
/// Maximum number of streams that a progress line lists.
const LISTED: usize = 20;
/// Maximum number of bytes of an invalid line that are logged.
const QUOTED: usize = 500;

/// Why a run of a tap failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestionError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("cannot read the output of {tap}")]
    Read { tap: String, source: io::Error },
    #[error("{tap} failed ({status}) after {messages} messages; {hint}")]
    Failed { tap: String, status: ExitStatus, messages: u64, hint: String },
    #[error("{tap}: line {line} of its output {fault}; see the line in the log of this run")]
    Garbage { tap: String, line: u64, fault: Fault },
    #[error("{tap}: its output ends in the middle of a message, in line {line} ({status})")]
    Torn { tap: String, line: u64, status: ExitStatus },
    #[error("{tap}: line {line} of its output is longer than {} MiB", MAX_LINE >> 20)]
    TooLong { tap: String, line: u64 },
    #[error("{tap}: BATCH message in line {line} of its output: {source}")]
    Batch { tap: String, line: u64, source: BatchError },
    #[error("stopped {tap} after {seconds} s without output ({messages} messages received); raise --idle to allow more")]
    Silent { tap: String, seconds: u64, messages: u64 },
    #[error("cancelled after {0} messages; everything up to the last state is saved, run the job again to continue")]
    Cancelled(u64),
    #[error("cannot write the schema of stream {stream}")]
    Schema { stream: String, source: io::Error },
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl IngestionError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Name(_) => true,
            Self::Batch { source, .. } => source.is_permanent(),
            Self::Archive(error) => error.is_permanent(),
            Self::Tap(error) => error.is_permanent(),
            _ => false,
        }
    }
}

/// Runs the tap between the events `tap.started` and `tap.completed` or `tap.interrupted`.
pub(crate) fn run(request: &Request, cx: &JobContext) -> Result<(), IngestionError> {
    let tap = request.name.clone().unwrap_or_else(|| request.call.name());
    let account = request.account.as_deref().unwrap_or("default");
    let dir = request
        .data_dir
        .join(name::file_name("the tap (--name)", &tap)?)
        .join(name::file_name("the account (--account)", account)?);
    request.call.check()?;
    if let Some(state) = &request.state {
        tap::check_object("state", state)?;
    }
    let archive = Archive::open(&dir, request.format)?;
    let state = match &request.state {
        Some(state) => Some(archive.state_by_hand(state)?),
        None => archive.state_file()?,
    };
    let mut more = Vec::new();
    if let Some(state) = &state {
        more.extend([OsString::from("--state"), state.into()]);
    }
    let process = request.call.start(&more)?;
    let mut ingestion = Ingestion {
        tap,
        archive,
        process,
        cx,
        idle: request.idle,
        progress: request.progress,
        reported: Instant::now(),
        schemas: HashMap::new(),
        totals: Totals::default(),
    };
    let started =
        json!({"tap": ingestion.tap, "account": account, "resumes": state.is_some(), "directory": dir.to_string_lossy()});
    let ended = cx.emit("tap.started", started).map_err(IngestionError::from).and_then(|()| ingestion.report_stale());
    let ended = ended.and_then(|()| ingestion.take_all()).and_then(|()| ingestion.store_last_schemas());
    let finished = ended.and_then(|()| Ok(ingestion.archive.finish()?));
    let finished = finished.and_then(|()| ingestion.tell_activations());
    match finished {
        Ok(()) => ingestion.complete(),
        Err(error) => {
            ingestion.interrupt();
            Err(error)
        }
    }
}

struct Ingestion<'a> {
    tap: String,
    archive: Archive,
    process: Process,
    cx: &'a JobContext,
    idle: Duration,
    progress: Duration,
    /// When the progress was last logged.
    reported: Instant,
    /// The SCHEMA messages of each stream in this run.
    schemas: HashMap<String, Forms>,
    totals: Totals,
}

impl Ingestion<'_> {
    /// Processes all output of the tap, and checks how it ends.
    fn take_all(&mut self) -> Result<(), IngestionError> {
        let mut line = Vec::new();
        let mut quiet_since: Option<Instant> = None;
        loop {
            if self.cx.is_cancelled() {
                return Err(IngestionError::Cancelled(self.totals.messages));
            }
            let heard = self.process.output.next(&mut line);
            match heard.map_err(|source| IngestionError::Read { tap: self.tap.clone(), source })? {
                LineEvent::Line => {
                    self.process.reset_idle_time();
                    self.totals.messages += 1;
                    self.take(&line)?;
                    line.clear();
                    quiet_since = None;
                }
                LineEvent::Nothing => {
                    self.archive.tick()?;
                    self.tell_activations()?;
                    self.look_at_silence()?;
                    self.report_progress();
                    // The tap has exited, but a child process holds its output open.
                    if self.process.ended()?.is_some() && quiet_since.get_or_insert_with(Instant::now).elapsed() > BETWEEN_ENDS {
                        return self.look_at_end(&line);
                    }
                }
                LineEvent::TooLong => {
                    return Err(IngestionError::TooLong { tap: self.tap.clone(), line: self.totals.messages + 1 });
                }
                LineEvent::Torn | LineEvent::End => return self.look_at_end(&line),
            }
        }
    }

    /// The output has ended: waits for the process to end. `rest` is the text after the last line break.
    fn look_at_end(&mut self, rest: &[u8]) -> Result<(), IngestionError> {
        let status = loop {
            if let Some(status) = self.process.ended()? {
                break status;
            }
            if self.cx.is_cancelled() {
                return Err(IngestionError::Cancelled(self.totals.messages));
            }
            self.look_at_silence()?;
            std::thread::sleep(Duration::from_millis(2));
        };
        self.process.drain_stderr();
        let messages = self.totals.messages;
        let _ = writeln!(io::stderr().lock(), "meltano-ingest: {} ended ({status}) after {messages} messages", self.tap);
        if !status.success() {
            // A signal that cancels the run also ends the tap, which may be noticed first.
            if self.cx.is_cancelled() {
                return Err(IngestionError::Cancelled(self.totals.messages));
            }
            let hint = self.process.failure_hint();
            return Err(IngestionError::Failed { tap: self.tap.clone(), status, messages: self.totals.messages, hint });
        }
        if !rest.is_empty() {
            self.totals.messages += 1;
            if Message::parse(rest).is_err() {
                return Err(IngestionError::Torn { tap: self.tap.clone(), line: self.totals.messages, status });
            }
            self.take(rest)?;
        }
        Ok(())
    }

    fn look_at_silence(&mut self) -> Result<(), IngestionError> {
        let idle_time = self.process.idle_time();
        if self.idle.is_zero() || idle_time < self.idle {
            return Ok(());
        }
        Err(IngestionError::Silent { tap: self.tap.clone(), seconds: idle_time.as_secs(), messages: self.totals.messages })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), IngestionError> {
        let number = self.totals.messages;
        // Some programs start their output with a byte order mark.
        let line = if number == 1 { without_mark(line) } else { line };
        if line.trim_ascii().is_empty() {
            self.totals.ignored += 1;
            return Ok(());
        }
        let message = match Message::parse(line) {
            Ok(message) => message,
            Err(Fault::NotANumber) => return self.set_aside(line, "not_a_number"),
            Err(Fault::NotUtf8) => return self.set_aside(line, "not_utf8"),
            Err(fault) => {
                quote(&self.tap, number, line, self.process.mask());
                return Err(IngestionError::Garbage { tap: self.tap.clone(), line: number, fault });
            }
        };
        match message {
            Message::Record { stream, record, version, time_extracted } => {
                if !record.get().starts_with('{') {
                    return self.set_aside(line, "not_an_object");
                }
                let taken = self.archive.record(&stream, version, record, time_extracted.as_deref())?;
                self.count(taken, line)?;
                self.report_widened()?;
            }
            Message::State(state) => {
                self.totals.states += 1;
                self.archive.mark(state)?;
                self.tell_activations()?;
            }
            Message::Schema { stream, schema, key_properties, bookmark_properties } => {
                let forms = self.schemas.get_mut(&*stream);
                if forms.as_ref().is_some_and(|forms| forms.is_current(line)) {
                    return Ok(());
                }
                if let Some(earlier) = forms.and_then(|forms| forms.select(line)) {
                    self.archive.set_schema(&stream, earlier.json())?;
                    return Ok(());
                }
                let schema = Schema::of(&stream, schema, key_properties, bookmark_properties).map_err(|fault| {
                    quote(&self.tap, number, schema.get().as_bytes(), self.process.mask());
                    IngestionError::Garbage { tap: self.tap.clone(), line: number, fault }
                })?;
                self.take_schema(&stream, schema, line)?;
            }
            Message::ActivateVersion { stream, version } => match self.archive.activate(&stream, version)? {
                Some(Taken::Retired) => {
                    tracing::warn!(stream = &*stream, version, "ignoring a version older than the active one")
                }
                None => tracing::warn!(stream = &*stream, version, "ignoring a version of a stream without a schema"),
                Some(_) => {}
            },
            Message::Batch { stream, version, encoding, manifest } => {
                for url in &manifest {
                    self.take_batch(&stream, version, url, &encoding)?;
                }
            }
            Message::Other => self.totals.ignored += 1,
        }
        Ok(())
    }

    /// Counts a record, or sets it aside with the line that contains it.
    fn count(&mut self, taken: Option<Taken>, line: &[u8]) -> Result<(), IngestionError> {
        match taken {
            None => self.set_aside(line, "no_schema")?,
            Some(Taken::Retired) => self.set_aside(line, "retired_version")?,
            Some(Taken::NotText) => self.set_aside(line, "not_text")?,
            Some(_) => {
                self.totals.records += 1;
                if self.totals.records.is_multiple_of(1000) {
                    // The total is unknown.
                    self.cx.progress(self.totals.records, 0);
                    self.report_progress();
                }
            }
        }
        Ok(())
    }

    /// Appends the records of a batch file, byte for byte.
    fn take_batch(
        &mut self,
        stream: &str,
        version: Option<i64>,
        url: &Text<'_>,
        encoding: &Encoding<'_>,
    ) -> Result<(), IngestionError> {
        let (tap, number) = (self.tap.clone(), self.totals.messages);
        let failed = |source| IngestionError::Batch { tap: tap.clone(), line: number, source };
        let mut file = BatchFile::open(url, encoding).map_err(failed)?;
        self.totals.batch_files += 1;
        let mut line = Vec::new();
        while file.next(&mut line).map_err(failed)? {
            if file.lines.is_multiple_of(1000) && self.cx.is_cancelled() {
                return Err(IngestionError::Cancelled(self.totals.messages));
            }
            let line = if file.lines == 1 { without_mark(&line) } else { &line };
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<&RawValue>(line) {
                Ok(record) if record.get().starts_with('{') => {
                    let taken = self.archive.record(stream, version, record, None)?;
                    self.count(taken, line)?;
                    self.report_widened()?;
                }
                Ok(_) => self.set_aside(line, "not_an_object")?,
                Err(_) if message::without_odd_numbers(line).is_some() => self.set_aside(line, "not_a_number")?,
                Err(_) if message::in_utf8(line).is_some() => self.set_aside(line, "not_utf8")?,
                Err(_) => {
                    quote(&self.tap, number, line, self.process.mask());
                    return Err(failed(BatchError::NotJson { path: file.path, line: file.lines }));
                }
            }
        }
        // Reading it took time in which the tap may have waited.
        self.process.reset_idle_time();
        Ok(())
    }

    /// Logs the records of this run by stream, at the interval that the user has set.
    fn report_progress(&mut self) {
        if self.progress.is_zero() || self.reported.elapsed() < self.progress {
            return;
        }
        self.reported = Instant::now();
        let mut counts: Vec<(u64, &str)> = self
            .archive
            .streams()
            .iter()
            .map(|stream| (stream.counts.records, &*stream.name))
            .filter(|count| count.0 > 0)
            .collect();
        counts.sort_by(|a, b| b.cmp(a));
        let more = counts.len().saturating_sub(LISTED);
        let mut texts: Vec<String> = counts
            .iter()
            .take(LISTED)
            .map(|(records, name)| format!("{} {records}", name.replace(char::is_control, "?")))
            .collect();
        texts.extend((more > 0).then(|| format!("{more} more streams")));
        let total = self.totals.records;
        let _ = writeln!(io::stderr().lock(), "meltano-ingest: {total} records so far: {}", texts.join(", "));
    }

    /// Handles a schema that this run has not seen before, in the message `line`.
    fn take_schema(&mut self, stream: &str, schema: Schema, line: &[u8]) -> Result<(), IngestionError> {
        self.archive.begin_stream(stream)?;
        self.report_stale()?;
        self.archive.set_schema(stream, schema.json())?;
        match self.schemas.get(stream) {
            Some(forms) => self.store_schema(stream, &schema, Some(forms.stored()))?,
            None => {
                let before = Schema::read(self.archive.dir(), &name::file_name("a stream", stream)?);
                self.store_schema(stream, &schema, before.as_ref())?;
            }
        }
        match self.schemas.get_mut(stream) {
            Some(forms) => forms.add(line, schema),
            None => drop(self.schemas.insert(stream.to_owned(), Forms::new(line, schema))),
        }
        Ok(())
    }

    /// Reports and stores a schema, if it differs from the one before it.
    fn store_schema(&self, stream: &str, schema: &Schema, before: Option<&Schema>) -> Result<(), IngestionError> {
        let Some(change) = schema.change_from(before) else { return Ok(()) };
        // Emit the event first: after a kill in between, it is emitted again.
        let changed = json!({
            "stream": stream,
            "first": change.is_first,
            "added": change.added,
            "removed": change.removed,
            "changed": change.changed,
            "other": change.other,
        });
        self.cx.emit("tap.schema.changed", changed)?;
        let written = schema.write(self.archive.dir(), &name::file_name("a stream", stream)?);
        written.map_err(|source| IngestionError::Schema { stream: stream.to_owned(), source })
    }

    /// Stores the schemas to which streams have returned after another one was stored.
    fn store_last_schemas(&mut self) -> Result<(), IngestionError> {
        let unstored: Vec<_> =
            self.schemas.iter_mut().filter_map(|(stream, forms)| Some((stream.clone(), forms.take_unstored()?))).collect();
        unstored.iter().try_for_each(|(stream, (before, schema))| self.store_schema(stream, schema, Some(before)))
    }

    /// Emits an event for each column of a Parquet file that differs from the schema because of the last record.
    fn report_widened(&mut self) -> Result<(), IngestionError> {
        for Widening { stream, column } in self.archive.take_widened() {
            let reason = if column.is_some() { "value_does_not_fit" } else { "not_in_schema" };
            self.cx.emit("tap.column.widened", json!({"stream": stream, "column": column, "reason": reason}))?;
        }
        Ok(())
    }

    /// Emits an event for each stream with files that belong to no state.
    fn report_stale(&mut self) -> Result<(), IngestionError> {
        for Stale { stream, files, bytes } in self.archive.take_stale() {
            self.cx.emit("tap.files.stale", json!({"stream": stream, "files": files, "bytes": bytes}))?;
        }
        Ok(())
    }

    fn set_aside(&mut self, line: &[u8], reason: &'static str) -> Result<(), IngestionError> {
        self.archive.set_aside(line)?;
        *self.totals.set_aside.entry(reason).or_default() += 1;
        if self.totals.set_aside.values().sum::<u64>() <= NAMED {
            self.cx.emit("tap.set_aside", json!({"line": self.totals.messages, "reason": reason}))?;
        }
        Ok(())
    }

    fn tell_activations(&mut self) -> Result<(), IngestionError> {
        for activated in self.archive.take_activated() {
            let payload = json!({"stream": activated.stream, "version": activated.version, "retired_bytes": activated.retired});
            self.cx.emit("tap.version.activated", payload)?;
        }
        Ok(())
    }

    /// Everything is stored: emits an event for each stream, and one for the run.
    fn complete(mut self) -> Result<(), IngestionError> {
        self.process.drain_stderr();
        let schemas = &self.schemas;
        let is_reported = |stream: &&crate::stream::Stream| schemas.contains_key(&stream.name) || stream.counts.records > 0;
        for stream in self.archive.streams().iter().filter(is_reported) {
            let mut payload = json!(stream.counts);
            payload["stream"] = stream.name.clone().into();
            payload["file"] = stream.path().to_string_lossy().into();
            payload["version"] = stream.marked().0.version.into();
            payload["waiting_versions"] = stream.waiting().into();
            self.totals.bytes += stream.counts.bytes;
            self.totals.streams += u64::from(stream.counts.records > 0);
            self.cx.emit("tap.stream.completed", payload)?;
        }
        let mut payload = json!(self.totals);
        payload["tap"] = self.tap.clone().into();
        self.cx.emit("tap.completed", payload)?;
        Ok(())
    }

    /// Handles a failed run: stops the tap, removes records that belong to no state, and emits a summary. Errors here are only
    /// logged, because the reason of the failure is more important, and the next run completes the cleanup.
    fn interrupt(&mut self) {
        let _ = self.process.stop();
        self.process.drain_stderr();
        if let Err(error) = self.store_last_schemas() {
            tracing::warn!(error = %error, "could not store the last schemas");
        }
        let cut = self.archive.roll_back();
        if let Err(error) = &cut {
            tracing::warn!(error = %error, "could not remove the records after the last state; the next run removes them");
        }
        let kept = |f: fn(&crate::stream::Stream) -> u64| self.archive.streams().iter().map(f).sum::<u64>();
        let payload = json!({
            "tap": self.tap,
            "messages": self.totals.messages,
            "kept_records": kept(|stream| stream.marked().1.records),
            "kept_bytes": kept(|stream| stream.marked().1.bytes),
            "cut_bytes": cut.ok().flatten(),
        });
        if let Err(error) = self.cx.emit("tap.interrupted", payload) {
            tracing::warn!(error = %error, "could not emit the summary of the saved records");
        }
    }
}

/// Returns a text without its byte order mark.
fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

/// Writes an invalid line to the log and not to the error, because it may contain anything.
pub(crate) fn quote(tap: &str, number: u64, line: &[u8], mask: &Mask) {
    let line = mask.text(&String::from_utf8_lossy(&line[..line.len().min(QUOTED)]));
    let _ =
        writeln!(io::stderr().lock(), "meltano-ingest: line {number} of {tap}'s output: {}", line.replace(char::is_control, "?"));
}

#[cfg(test)]
mod tests;
