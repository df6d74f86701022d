//! One extraction, from an opened source to a complete archive: what happens to each message, the counts, the events. Uses
//! [`source`](crate::source), [`server`](crate::server), [`archive`](crate::archive) and the job's context.
//!
//! Every message is counted exactly once: `read = written + duplicates + outside_window + the sum of set_aside`. However the
//! extraction ends, everything written so far is complete and on disk.

use crate::account::{Account, AccountError};
use crate::archive::{Archive, ArchiveError, Raw, Record};
use crate::key::Key;
use crate::message::Summary;
use crate::server::{Note, Server, ServerError};
use crate::source::{Entry, Place, Source, SourceError};
use crate::window::{Verdict, Window};
use lorchestra_plugin_api::chrono::{DateTime, SecondsFormat, Utc};
use lorchestra_plugin_api::serde_json::{Value, json};
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What to extract.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) source: Origin,
    pub(crate) account: Option<String>,
    pub(crate) window: Window,
    /// Directory of the accounts' archives.
    pub(crate) mail_dir: PathBuf,
    /// Directory of the bookmarks for servers.
    pub(crate) bookmark_dir: PathBuf,
}

/// Where to read mail from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// An mbox file or a Maildir.
    Path(PathBuf),
    /// A mail server.
    Server(Box<Server>),
}

impl Origin {
    /// Name of the source for events. Contains no personal address.
    fn name(&self) -> String {
        match self {
            Self::Path(path) => path.to_string_lossy().into_owned(),
            Self::Server(server) => server.place(),
        }
    }
}

/// Counts of the messages by outcome.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    /// All messages in the source.
    pub(crate) read: u64,
    /// Messages added to the archive.
    pub(crate) written: u64,
    /// Messages that were already in the archive, or are repeated in the source.
    pub(crate) duplicates: u64,
    /// Messages with a date outside of the window.
    pub(crate) outside_window: u64,
    /// Messages that could not be extracted, by reason.
    pub(crate) set_aside: BTreeMap<&'static str, u64>,
    /// Size of the added messages in the source, in bytes.
    pub(crate) bytes: u64,
    /// Lines of an mbox that have only some signs of a separator.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) suspect_separators: u64,
    /// The part of `outside_window` with a date in the future. Without `--until`, excluding them was probably not intended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) in_future: Option<InFuture>,
}

/// Messages with a date in the future, usually because of a sender's wrong clock.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct InFuture {
    pub(crate) count: u64,
    /// Positions of the first ones, at most [`NAMED`].
    pub(crate) first: Vec<Value>,
}

/// Maximum number of messages that an event lists.
const NAMED: usize = 100;

/// Why an extraction failed.
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
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Account(_) => true,
            Self::Source(error) => error.is_permanent(),
            Self::Archive(error) => error.is_permanent(),
            Self::Emit(_) | Self::Cancelled { .. } => false,
        }
    }
}

/// Runs the extraction, between the events `extraction.started` and `extraction.completed`.
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
    // Also after an error: the messages written so far are worth keeping.
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
            let next = self.source.next(&mut raw);
            // Also after an error, which names only the first of several folders.
            for note in self.source.take_notes() {
                match note {
                    Note::Restarted { folder, reason } => {
                        self.cx.emit("extraction.restarted", json!({"folder": folder, "reason": reason}))?
                    }
                    Note::Skipped { folder, reason } => {
                        self.cx.emit("extraction.folder_skipped", json!({"folder": folder, "reason": reason}))?
                    }
                }
            }
            for suspect in self.source.take_suspects() {
                self.counts.suspect_separators += 1;
                if self.counts.suspect_separators <= NAMED as u64 {
                    let (offset, missing, is_separator) = (suspect.offset, suspect.missing, suspect.is_separator);
                    let payload = json!({"offset": offset, "missing": missing, "is_separator": is_separator});
                    self.cx.emit("extraction.suspect_separator", payload)?;
                }
            }
            let next = next.map_err(|error| match error {
                SourceError::Server(ServerError::Cancelled) => self.cancelled(),
                error => error.into(),
            })?;
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

    /// Syncs the archive to disk; after that the source may store its position.
    fn keep(&mut self) -> Result<(), ExtractionError> {
        self.archive.finish()?;
        self.source.checkpoint(self.archive.len())?;
        Ok(())
    }

    fn cancelled(&self) -> ExtractionError {
        let Counts { read, written, .. } = self.counts;
        ExtractionError::Cancelled { read, written, path: self.archive.path().to_owned() }
    }

    /// Adds a message; if its date excludes it, returns that date.
    fn take(&mut self, entry: &Entry, raw: &[u8]) -> Result<Option<Option<DateTime<Utc>>>, ExtractionError> {
        if let Some(fault) = entry.fault {
            self.set_aside(&entry.place, fault.reason())?;
            return Ok(None);
        }
        let summary = Summary::of(raw);
        // A server knows when it received a message without a date.
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

    /// Position of the message that was read last.
    fn place(&self, place: &Place) -> Value {
        match place {
            Place::Offset(offset) => json!({"position": self.counts.read, "offset": offset}),
            Place::File(file) => json!({"position": self.counts.read, "file": file}),
            Place::Uid { folder, uid } => json!({"position": self.counts.read, "folder": folder, "uid": uid}),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests;
