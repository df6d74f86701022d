//! One run of a tap, from its start to what is kept of it: what becomes of each message, the counts, the events. Talks to
//! [`tap`](crate::tap), [`archive`](crate::archive) and the run it belongs to.

use crate::archive::{Archive, ArchiveError};
use crate::message::{Fault, Message};
use crate::name::{self, NameError};
use crate::output::{Heard, MAX_LINE};
use crate::schema::Schema;
use crate::stream::Taken;
use crate::tap::{self, Call, Process, TapError};
use lorchestra_plugin_api::mask::Mask;
use lorchestra_plugin_api::serde_json::{json, value::RawValue};
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) call: Call,
    pub(crate) name: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) state: Option<PathBuf>,
    /// The longest silence; zero for no limit.
    pub(crate) idle: Duration,
    pub(crate) data_dir: PathBuf,
}

/// What a run did, over all streams.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Totals {
    /// Lines of the tap's output.
    messages: u64,
    /// Records in the files.
    records: u64,
    /// Bytes of their lines.
    bytes: u64,
    /// Streams that records were added to.
    streams: u64,
    /// States that the tap sent.
    states: u64,
    /// Messages of types that the specification does not know.
    ignored: u64,
    /// Records that are in no stream's file, by reason.
    set_aside: BTreeMap<&'static str, u64>,
}

/// Records set aside that an event names, at most.
const NAMED: u64 = 100;
/// Time a closed output has to become an ended tap, and an ended tap a closed output.
const BETWEEN_ENDS: Duration = Duration::from_secs(2);
/// Bytes of a line that is no message which go into the log.
const QUOTED: usize = 500;

/// Why a tap did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestionError {
    #[error("{0}; give it another one")]
    Name(#[from] NameError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("reading what {tap} sends failed")]
    Read { tap: String, source: io::Error },
    #[error("{tap} failed ({status}) after {messages} messages; {words}")]
    Failed { tap: String, status: ExitStatus, messages: u64, words: String },
    #[error("{tap}: line {line} of its output {fault}; the line is in the log of this run")]
    Garbage { tap: String, line: u64, fault: Fault },
    #[error("{tap}: its output ends within a message, line {line} ({status})")]
    Torn { tap: String, line: u64, status: ExitStatus },
    #[error("{tap}: line {line} of its output is longer than {} MiB", MAX_LINE >> 20)]
    TooLong { tap: String, line: u64 },
    #[error("{tap} sends records as BATCH files (line {line}), and not as messages; take batch_config out of its config")]
    Batch { tap: String, line: u64 },
    #[error("{tap} was silent for {seconds} s, after {messages} messages, and was ended; --idle says how long it may be")]
    Silent { tap: String, seconds: u64, messages: u64 },
    #[error("cancelled after {0} messages; what was kept is complete, run the job again to go on")]
    Cancelled(u64),
    #[error("keeping the schema of stream {stream} failed")]
    Schema { stream: String, source: io::Error },
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl IngestionError {
    /// Whether another attempt must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Name(_) | Self::Batch { .. } => true,
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
    let dir = request.data_dir.join(name::file_name("the tap", &tap)?).join(name::file_name("the account", account)?);
    request.call.check()?;
    if let Some(state) = &request.state {
        tap::check_object("state", state)?;
    }
    let archive = Archive::open(&dir)?;
    let state = match &request.state {
        Some(state) => Some(state.clone()),
        None => archive.state_file()?,
    };
    let mut more = Vec::new();
    if let Some(state) = &state {
        more.extend([OsString::from("--state"), state.into()]);
    }
    let process = request.call.start(&more)?;
    let mut ingestion =
        Ingestion { tap, archive, process, cx, idle: request.idle, schemas: HashMap::new(), totals: Totals::default() };
    let started =
        json!({"tap": ingestion.tap, "account": account, "resumes": state.is_some(), "directory": dir.to_string_lossy()});
    let ended = cx.emit("tap.started", started).map_err(IngestionError::from).and_then(|()| ingestion.take_all());
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
    /// The SCHEMA message that each stream had last in this run: most taps send it again and again.
    schemas: HashMap<String, Vec<u8>>,
    totals: Totals,
}

impl Ingestion<'_> {
    /// Takes all that the tap sends, and looks how it ends.
    fn take_all(&mut self) -> Result<(), IngestionError> {
        let mut line = Vec::new();
        let mut quiet_since: Option<Instant> = None;
        loop {
            if self.cx.is_cancelled() {
                return Err(IngestionError::Cancelled(self.totals.messages));
            }
            let heard = self.process.output.next(&mut line);
            match heard.map_err(|source| IngestionError::Read { tap: self.tap.clone(), source })? {
                Heard::Line => {
                    self.process.was_heard();
                    self.totals.messages += 1;
                    self.take(&line)?;
                    line.clear();
                    quiet_since = None;
                }
                Heard::Nothing => {
                    self.archive.tick()?;
                    self.tell_activations()?;
                    self.look_at_silence()?;
                    // It has ended, and a process that it left holds its output open.
                    if self.process.ended()?.is_some() && quiet_since.get_or_insert_with(Instant::now).elapsed() > BETWEEN_ENDS {
                        return self.look_at_end(&line);
                    }
                }
                Heard::TooLong => {
                    return Err(IngestionError::TooLong { tap: self.tap.clone(), line: self.totals.messages + 1 });
                }
                Heard::Torn | Heard::End => return self.look_at_end(&line),
            }
        }
    }

    /// Its output has ended: waits for its own end. `rest` is what is behind the last line end.
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
        if !status.success() {
            // What ends the run ends the tap as well, and it may be seen first.
            if self.cx.is_cancelled() {
                return Err(IngestionError::Cancelled(self.totals.messages));
            }
            let words = self.process.last_words();
            return Err(IngestionError::Failed { tap: self.tap.clone(), status, messages: self.totals.messages, words });
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
        let silence = self.process.silence();
        if self.idle.is_zero() || silence < self.idle {
            return Ok(());
        }
        Err(IngestionError::Silent { tap: self.tap.clone(), seconds: silence.as_secs(), messages: self.totals.messages })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), IngestionError> {
        let number = self.totals.messages;
        if line.trim_ascii().is_empty() {
            self.totals.ignored += 1;
            return Ok(());
        }
        let message = match Message::parse(line) {
            Ok(message) => message,
            Err(Fault::NotANumber) => return self.set_aside(line, "not_a_number"),
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
                match self.archive.record(&stream, version, record, time_extracted.as_deref())? {
                    None => self.set_aside(line, "no_schema")?,
                    Some(Taken::Retired) => self.set_aside(line, "retired_version")?,
                    Some(_) => {
                        self.totals.records += 1;
                        if self.totals.records.is_multiple_of(1000) {
                            // How many there are, nobody knows.
                            self.cx.progress(self.totals.records, 0);
                        }
                    }
                }
            }
            Message::State(state) => {
                self.totals.states += 1;
                self.archive.mark(state)?;
                self.tell_activations()?;
            }
            Message::Schema { stream, schema, key_properties, bookmark_properties } => {
                if self.schemas.get(&*stream).is_none_or(|last| last != line) {
                    self.take_schema(&stream, schema, key_properties, bookmark_properties)?;
                    self.schemas.insert(stream.into_owned(), line.to_vec());
                }
            }
            Message::ActivateVersion { stream, version } => match self.archive.activate(&stream, version)? {
                Some(Taken::Retired) => {
                    tracing::warn!(stream = &*stream, version, "a version older than the active one; ignored")
                }
                None => tracing::warn!(stream = &*stream, version, "a version of a stream without a schema; ignored"),
                Some(_) => {}
            },
            Message::Batch => return Err(IngestionError::Batch { tap: self.tap.clone(), line: number }),
            Message::Other => self.totals.ignored += 1,
        }
        Ok(())
    }

    fn take_schema(
        &mut self,
        stream: &str,
        schema: &RawValue,
        key_properties: Option<&RawValue>,
        bookmark_properties: Option<&RawValue>,
    ) -> Result<(), IngestionError> {
        let number = self.totals.messages;
        let schema = Schema::of(stream, schema, key_properties, bookmark_properties).map_err(|fault| {
            quote(&self.tap, number, schema.get().as_bytes(), self.process.mask());
            IngestionError::Garbage { tap: self.tap.clone(), line: number, fault }
        })?;
        self.archive.begin_stream(stream)?;
        let file = name::file_name("a stream", stream)?;
        if let Some(change) = schema.change_from(Schema::read(self.archive.dir(), &file).as_ref()) {
            // Told first: killed in between, it is told again.
            let changed = json!({
                "stream": stream,
                "first": change.is_first,
                "added": change.added,
                "removed": change.removed,
                "changed": change.changed,
                "other": change.other,
            });
            self.cx.emit("tap.schema.changed", changed)?;
            let written = schema.write(self.archive.dir(), &file);
            written.map_err(|source| IngestionError::Schema { stream: stream.to_owned(), source })?;
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

    /// All is kept: tells of each stream, and of the whole.
    fn complete(mut self) -> Result<(), IngestionError> {
        self.process.hear_last_words();
        let schemas = &self.schemas;
        let told = |stream: &&crate::stream::Stream| schemas.contains_key(&stream.name) || stream.counts.records > 0;
        for stream in self.archive.streams().iter().filter(told) {
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

    /// The run has failed: ends the tap, takes away what belongs to no state, and tells what is left. Why it failed is more
    /// important than what goes wrong here; the next run does what was not done.
    fn interrupt(&mut self) {
        let _ = self.process.stop();
        self.process.hear_last_words();
        let cut = self.archive.give_up();
        if let Err(error) = &cut {
            tracing::warn!(error = %error, "what is behind the last state stays until the next run");
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
            tracing::warn!(error = %error, "what is kept is not told");
        }
    }
}

/// A line that is no message goes into the log, and not into the error: it may hold anything.
pub(crate) fn quote(tap: &str, number: u64, line: &[u8], mask: &Mask) {
    let line = mask.text(&String::from_utf8_lossy(&line[..line.len().min(QUOTED)]));
    let _ =
        writeln!(io::stderr().lock(), "meltano-ingest: line {number} of {tap}'s output: {}", line.replace(char::is_control, "?"));
}

#[cfg(test)]
mod tests;
