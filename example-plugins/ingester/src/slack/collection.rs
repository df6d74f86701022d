//! One collection of Slack messages, from an opened source to a complete archive: what happens to each message, the counts,
//! the events. Uses the source, the [`archive`](crate::archive), and the job's context.
//!
//! Every message is counted exactly once: `read = written + duplicates + outside_window + the sum of set_aside`.

use super::api::{Api, ApiError};
use super::export::{Export, ExportError};
use super::found::{Found, People};
use super::rfc3339;
use super::workspace::{Next, Wanted, Workspace};
use crate::account::{Account, AccountError};
use crate::archive::{Archive, ArchiveError};
use crate::window::{Verdict, Window};
use lorchestra_plugin_api::serde_json::{Value, json};
use lorchestra_plugin_api::{EmitError, JobContext, Secret, tracing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What to collect.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) origin: Origin,
    pub(crate) account: Option<String>,
    pub(crate) window: Window,
    /// Directory of the accounts' archives.
    pub(crate) directory: PathBuf,
}

/// Where to read messages from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The zip of an export.
    Export(PathBuf),
    /// Slack's Web API.
    Web(Box<Web>),
}

/// Access to the Web API, and what to read from it.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) base_url: String,
    pub(crate) token: Option<Secret>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) idle_timeout: Duration,
    pub(crate) wanted: Wanted,
    /// Directory of the bookmarks.
    pub(crate) bookmark_dir: PathBuf,
}

enum Source<'a> {
    Export(Box<Export>),
    Workspace(Box<Workspace<'a>>),
}

/// Counts of the messages by outcome.
#[derive(Debug, Default, Serialize)]
struct Counts {
    /// All messages in the source.
    read: u64,
    /// Messages added to the archive.
    written: u64,
    /// Messages that were already in the archive, or are repeated in the source.
    duplicates: u64,
    /// Messages with a time outside of the window.
    outside_window: u64,
    /// Messages that could not be extracted, by reason.
    set_aside: BTreeMap<&'static str, u64>,
    /// Channels that could not be read, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    channels_skipped: BTreeMap<&'static str, u64>,
}

/// Why a collection failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectionError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error(
        "cancelled after {read} messages; {written} new ones are saved in {}, run the job again to continue", .path.display()
    )]
    Cancelled { read: u64, written: u64, path: PathBuf },
}

impl CollectionError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Account(_) | Self::Export(_) => true,
            Self::Api(error) => error.is_permanent(),
            Self::Archive(error) => error.is_permanent(),
            Self::Emit(_) | Self::Cancelled { .. } => false,
        }
    }
}

/// Runs the collection, between the events `extraction.started` and `extraction.completed`.
pub(crate) fn run(request: &Request, cx: &JobContext) -> Result<(), CollectionError> {
    let account = Account::new(request.account.as_deref())?;
    let unopened = |error: ApiError| match error {
        ApiError::Cancelled => {
            CollectionError::Cancelled { read: 0, written: 0, path: request.directory.join(account.file_name()) }
        }
        error => error.into(),
    };
    let (mut source, name, format) = match &request.origin {
        Origin::Export(path) => (Source::Export(Box::new(Export::open(path)?)), path.to_string_lossy(), "slack-export"),
        Origin::Web(web) => {
            let token = web.token.clone().ok_or(ApiError::NoToken)?;
            let api = Api::new(&web.base_url, token, web.ca_file.as_deref(), web.idle_timeout, cx)?;
            let bookmarks = web.bookmark_dir.join(account.file_name()).with_extension("json");
            let workspace = Workspace::open(api, web.wanted.clone(), bookmarks).map_err(unopened)?;
            (Source::Workspace(Box::new(workspace)), web.base_url.as_str().into(), "slack-api")
        }
    };
    let archive = Archive::open(&request.directory, account.file_name())?;
    cx.emit(
        "extraction.started",
        json!({
            "source": name,
            "format": format,
            "since": request.window.since.map(rfc3339),
            "until": request.window.until.map(rfc3339),
            "account": account.name(),
        }),
    )?;
    let mut collection = Collection { archive, account, window: request.window, cx, counts: Counts::default() };
    let ended = match &mut source {
        Source::Export(export) => collection.read_export(export),
        Source::Workspace(workspace) => collection.read_workspace(workspace),
    };
    // Also after an error: the messages written so far are worth keeping.
    let finished = collection.archive.finish();
    ended?;
    finished?;
    let counts = collection.counts;
    tracing::info!(read = counts.read, written = counts.written, "extraction completed");
    cx.emit("extraction.completed", json!(counts))?;
    Ok(())
}

struct Collection<'a> {
    archive: Archive,
    account: Account,
    window: Window,
    cx: &'a JobContext,
    counts: Counts,
}

impl Collection<'_> {
    fn read_export(&mut self, export: &mut Export) -> Result<(), CollectionError> {
        loop {
            if self.cx.is_cancelled() {
                return Err(self.cancelled());
            }
            match export.next()? {
                None => return Ok(()),
                Some(Ok(found)) => self.add(&found, export.people())?,
                Some(Err(unreadable)) => {
                    // Counted as one, because the number of messages in the file is unknown.
                    self.counts.read += 1;
                    self.set_aside("not_messages", json!({"file": unreadable.file}))?;
                }
            }
            let (done, total) = export.progress();
            self.cx.progress(done, total);
        }
    }

    fn read_workspace(&mut self, workspace: &mut Workspace<'_>) -> Result<(), CollectionError> {
        workspace.start(self.archive.len())?;
        loop {
            if self.cx.is_cancelled() {
                return Err(self.cancelled());
            }
            let next = workspace.next().map_err(|error| match error {
                ApiError::Cancelled => self.cancelled(),
                error => error.into(),
            })?;
            match next {
                None => return Ok(()),
                Some(Next::Message(found)) => self.add(&found, workspace.people())?,
                Some(Next::CheckpointDue) => {
                    self.archive.finish()?;
                    workspace.checkpoint(self.archive.len())?;
                }
                Some(Next::Skipped { channel_id, reason }) => {
                    *self.counts.channels_skipped.entry(reason).or_default() += 1;
                    self.cx.emit("extraction.channel_skipped", json!({"channel_id": channel_id, "reason": reason}))?;
                }
                Some(Next::Restarted { reason }) => {
                    self.cx.emit("extraction.restarted", json!({"folder": Value::Null, "reason": reason}))?;
                }
            }
            let (done, total) = workspace.progress();
            self.cx.progress(done, total);
        }
    }

    fn cancelled(&self) -> CollectionError {
        let Counts { read, written, .. } = self.counts;
        CollectionError::Cancelled { read, written, path: self.archive.path().to_owned() }
    }

    fn add(&mut self, found: &Found, people: &People) -> Result<(), CollectionError> {
        self.counts.read += 1;
        let key = found.key();
        let Some((line, (_, at))) = found.line(key, people, self.account.name()).zip(found.ts()) else {
            return self.set_aside("no_ts", json!({"channel_id": found.channel.id}));
        };
        if self.window.judge(Some(at)) != Verdict::Inside {
            self.counts.outside_window += 1;
        } else if self.archive.contains(&key) {
            self.counts.duplicates += 1;
        } else {
            self.archive.append(key, &line)?;
            self.counts.written += 1;
        }
        Ok(())
    }

    fn set_aside(&mut self, reason: &'static str, mut place: Value) -> Result<(), CollectionError> {
        *self.counts.set_aside.entry(reason).or_default() += 1;
        place["reason"] = reason.into();
        self.cx.emit("extraction.set_aside", place)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
