//! One extraction, from an opened source to a complete archive: what becomes of each message, the counts, the events. Talks
//! to [`source`](crate::source), [`server`](crate::server), [`archive`](crate::archive) and the run it belongs to.
//!
//! Every message that is read is counted in exactly one place: `read = written + duplicates + outside_window + the sum of
//! set_aside`. Whatever ends the extraction, what was written before is complete and on the disk.

use crate::account::{Account, AccountError};
use crate::archive::{Archive, ArchiveError, Raw, Record};
use crate::key::Key;
use crate::message::Summary;
use crate::server::{Server, ServerError};
use crate::source::{Entry, Place, Source, SourceError};
use crate::window::{Verdict, Window};
use lorchestra_plugin_api::chrono::{DateTime, SecondsFormat, Utc};
use lorchestra_plugin_api::serde_json::{Value, json};
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) source: Origin,
    pub(crate) account: Option<String>,
    pub(crate) window: Window,
    /// Where the accounts' files are.
    pub(crate) mail_dir: PathBuf,
    /// Where is kept how far servers were read.
    pub(crate) bookmark_dir: PathBuf,
}

/// Where the mail is.
#[derive(Debug)]
pub(crate) enum Origin {
    /// An mbox file or a Maildir.
    Path(PathBuf),
    /// A server.
    Server(Box<Server>),
}

impl Origin {
    /// As events name it: no address of a person.
    fn name(&self) -> String {
        match self {
            Self::Path(path) => path.to_string_lossy().into_owned(),
            Self::Server(server) => server.place(),
        }
    }
}

/// What became of the messages.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    /// Messages in the source, whatever became of them.
    pub(crate) read: u64,
    /// Messages added to the archive.
    pub(crate) written: u64,
    /// Messages that the archive has already, or twice in the source.
    pub(crate) duplicates: u64,
    /// Messages whose date is outside of what was asked for.
    pub(crate) outside_window: u64,
    /// Messages that could not be taken, by reason.
    pub(crate) set_aside: BTreeMap<&'static str, u64>,
    /// Bytes of the messages added, as they are in the source.
    pub(crate) bytes: u64,
    /// Those of `outside_window` that are dated later than now. Where no `until` was asked for, nobody meant to leave them out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) in_future: Option<InFuture>,
}

/// Messages of a date that is still to come: by a sender's wrong clock, mostly.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct InFuture {
    pub(crate) count: u64,
    /// Where the first of them are, at most [`NAMED`].
    pub(crate) first: Vec<Value>,
}

/// Messages that an event names, at most.
const NAMED: usize = 100;

/// Why an extraction did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtractionError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error(
        "cancelled after {read} messages; {written} new ones are saved in {}, run the job again to continue", .path.display()
    )]
    Cancelled { read: u64, written: u64, path: PathBuf },
}

impl ExtractionError {
    /// Whether another attempt must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Account(_) => true,
            Self::Source(error) => error.is_permanent(),
            Self::Archive(error) => error.is_permanent(),
            Self::Emit(_) | Self::Cancelled { .. } => false,
        }
    }
}

/// Extracts all that is asked for, between the events `extraction.started` and `extraction.completed`.
pub(crate) fn run(request: &Request, cx: &JobContext) -> Result<(), ExtractionError> {
    let account = Account::new(request.account.as_deref())?;
    let unopened = |error: ServerError| match error {
        ServerError::Cancelled => {
            ExtractionError::Cancelled { read: 0, written: 0, path: request.mail_dir.join(account.file_name()) }
        }
        error => SourceError::from(error).into(),
    };
    let mut source = match &request.source {
        Origin::Path(path) => Source::open(path)?,
        Origin::Server(server) => {
            let bookmarks = request.bookmark_dir.join(account.file_name()).with_extension("json");
            Source::Server(Box::new(server.open(cx, request.window, bookmarks).map_err(unopened)?))
        }
    };
    let archive = Archive::open(&request.mail_dir, account.file_name())?;
    source.start(archive.len())?;
    cx.emit(
        "extraction.started",
        json!({
            "source": request.source.name(),
            "format": source.format(),
            "since": request.window.since.map(rfc3339),
            "until": request.window.until.map(rfc3339),
            "account": account.name(),
        }),
    )?;
    tracing::info!(format = source.format(), "extraction started");
    let mut extraction =
        Extraction { source, archive, account, window: request.window, now: Utc::now(), cx, counts: Counts::default() };
    let ended = extraction.take_all();
    // On every way out: what was taken is worth keeping.
    let finished = extraction.keep();
    ended?;
    finished?;
    let counts = extraction.counts;
    tracing::info!(read = counts.read, written = counts.written, bytes = counts.bytes, "extraction completed");
    cx.emit("extraction.completed", json!(counts))?;
    Ok(())
}

struct Extraction<'a> {
    source: Source<'a>,
    archive: Archive,
    account: Account,
    window: Window,
    now: DateTime<Utc>,
    cx: &'a JobContext,
    counts: Counts,
}

impl Extraction<'_> {
    fn take_all(&mut self) -> Result<(), ExtractionError> {
        let mut raw = Vec::new();
        loop {
            if self.cx.is_cancelled() {
                return Err(self.cancelled());
            }
            let next = self.source.next(&mut raw).map_err(|error| match error {
                SourceError::Server(ServerError::Cancelled) => self.cancelled(),
                error => error.into(),
            })?;
            for note in self.source.take_notes() {
                self.cx.emit("extraction.restarted", json!({"folder": note.folder, "reason": note.reason}))?;
            }
            let Some(entry) = next else { return Ok(()) };
            self.counts.read += 1;
            let left = self.take(&entry, &raw)?;
            self.source.settle(&entry, left);
            if self.source.is_due() {
                self.keep()?;
            }
            if let Some((done, total)) = self.source.progress() {
                self.cx.progress(done, total);
            }
            if self.counts.read.is_multiple_of(10_000) {
                tracing::debug!(read = self.counts.read, written = self.counts.written, "extracting");
            }
        }
    }

    /// Brings the archive to the disk; then the source may remember how far it was read.
    fn keep(&mut self) -> Result<(), ExtractionError> {
        self.archive.finish()?;
        self.source.checkpoint(self.archive.len())?;
        Ok(())
    }

    fn cancelled(&self) -> ExtractionError {
        let Counts { read, written, .. } = self.counts;
        ExtractionError::Cancelled { read, written, path: self.archive.path().to_owned() }
    }

    /// Takes a message, or says by what date it was left.
    fn take(&mut self, entry: &Entry, raw: &[u8]) -> Result<Option<Option<DateTime<Utc>>>, ExtractionError> {
        if let Some(fault) = entry.fault {
            self.set_aside(&entry.place, fault.reason())?;
            return Ok(None);
        }
        let summary = Summary::of(raw);
        // A server knows when it got a message that does not say when it was written.
        let of_server = if let Place::Uid { .. } = entry.place { entry.received } else { None };
        let date = summary.date.or(of_server);
        match self.window.judge(date) {
            Verdict::Inside => {}
            Verdict::Outside => {
                self.counts.outside_window += 1;
                if date.is_some_and(|date| date > self.now) {
                    self.note_future(&entry.place, entry.is_whole.then(|| Key::of(raw)));
                }
                return Ok(Some(date));
            }
            Verdict::Undated => {
                self.set_aside(&entry.place, "no_date")?;
                return Ok(Some(None));
            }
        }
        let key = Key::of(raw);
        if self.archive.contains(&key) {
            self.counts.duplicates += 1;
            return Ok(None);
        }
        let record = Record {
            sha256: key,
            message_id: summary.message_id.as_deref(),
            date: summary.date.map(rfc3339),
            received: entry.received.map(rfc3339),
            labels: entry.labels.as_ref().unwrap_or(&summary.labels),
            flags: entry.flags.as_deref(),
            size: raw.len(),
            account: self.account.name(),
            raw: Raw::of(raw),
        };
        self.archive.append(key, &record)?;
        self.counts.written += 1;
        self.counts.bytes += raw.len() as u64;
        Ok(None)
    }

    fn set_aside(&mut self, place: &Place, reason: &'static str) -> Result<(), ExtractionError> {
        *self.counts.set_aside.entry(reason).or_default() += 1;
        let mut payload = self.place(place);
        payload["reason"] = reason.into();
        self.cx.emit("extraction.set_aside", payload)?;
        Ok(())
    }

    fn note_future(&mut self, place: &Place, key: Option<Key>) {
        let mut named = self.place(place);
        if let Some(key) = key {
            named["sha256"] = key.to_string().into();
        }
        let future = self.counts.in_future.get_or_insert_default();
        future.count += 1;
        if future.first.len() < NAMED {
            future.first.push(named);
        }
    }

    /// Where the message that was read last is.
    fn place(&self, place: &Place) -> Value {
        match place {
            Place::Offset(offset) => json!({"position": self.counts.read, "offset": offset}),
            Place::File(file) => json!({"position": self.counts.read, "file": file}),
            Place::Uid { folder, uid } => json!({"position": self.counts.read, "folder": folder, "uid": uid}),
        }
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests;
