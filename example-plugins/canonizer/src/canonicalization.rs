//! One canonicalization, from the lines that were found to the files that are put in place: what becomes of each line, the
//! counts, the events. Talks to [`input`], [`output`](crate::output) and the run it belongs to.
//!
//! Every line that is read is counted in exactly one place: `read = written + duplicates + the sum of set_aside`.

use crate::email::Email;
use crate::input::{self, InputError, Line, LineState, Lines};
use crate::key::Key;
use crate::output::{Output, OutputError};
use crate::record::Record;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lorchestra_plugin_api::serde_json::json;
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) input: Option<PathBuf>,
    /// Where ingester leaves its mail.
    pub(crate) default_input: PathBuf,
    /// Where the results go.
    pub(crate) data_dir: PathBuf,
}

/// What became of the lines.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    /// Lines in the input, whatever became of them.
    pub(crate) read: u64,
    /// Email objects.
    pub(crate) written: u64,
    /// Messages that were there before, in this or another file.
    pub(crate) duplicates: u64,
    /// Lines that no object could be made of, by reason.
    pub(crate) set_aside: BTreeMap<&'static str, u64>,
    /// Bytes of the messages that objects were made of.
    pub(crate) bytes: u64,
}

/// Why a canonicalization did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CanonicalizationError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error("cancelled after {0} lines; the results of the last run are untouched")]
    Cancelled(u64),
    #[error(
        "none of the {read} lines is a message ({reasons}); the results of the last run are untouched. Give --input what \
         ingester/extract_gmail wrote"
    )]
    NothingTaken { read: u64, reasons: String },
}

impl CanonicalizationError {
    /// Whether another attempt must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Input(error) => error.is_permanent(),
            Self::NothingTaken { .. } => true,
            Self::Output(_) | Self::Emit(_) | Self::Cancelled(_) => false,
        }
    }
}

/// Canonicalizes all that is asked for, between the events `canonicalization.started` and `canonicalization.completed`.
pub(crate) fn run(request: &Request, cx: &JobContext) -> Result<(), CanonicalizationError> {
    let files = input::find(request.input.as_deref(), &request.default_input)?;
    let output = Output::begin(&request.data_dir)?;
    let names: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
    cx.emit("canonicalization.started", json!({ "input": names }))?;
    tracing::info!(files = files.len(), "canonicalization started");
    let mut canonicalization = Canonicalization { output, cx, known: HashSet::new(), counts: Counts::default() };
    for file in &files {
        canonicalization.take_file(file)?;
    }
    let Canonicalization { output, counts, .. } = canonicalization;
    // The wrong file, most likely: not a reason to put nothing in the place of what is there.
    if counts.read > 0 && counts.written == 0 {
        let reasons: Vec<String> = counts.set_aside.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
        return Err(CanonicalizationError::NothingTaken { read: counts.read, reasons: reasons.join(", ") });
    }
    output.commit()?;
    tracing::info!(read = counts.read, written = counts.written, bytes = counts.bytes, "canonicalization completed");
    cx.emit("canonicalization.completed", json!(counts))?;
    Ok(())
}

struct Canonicalization<'a> {
    output: Output,
    cx: &'a JobContext,
    /// Messages that objects were made of.
    known: HashSet<Key>,
    counts: Counts,
}

impl Canonicalization<'_> {
    fn take_file(&mut self, path: &Path) -> Result<(), CanonicalizationError> {
        let mut lines = Lines::open(path)?;
        let mut bytes = Vec::new();
        loop {
            if self.cx.is_cancelled() {
                return Err(CanonicalizationError::Cancelled(self.counts.read));
            }
            let Some(line) = lines.next(&mut bytes)? else { return Ok(()) };
            self.counts.read += 1;
            if let Err(reason) = self.take(&line, &bytes)? {
                self.set_aside(path, &line, &bytes, reason)?;
            }
            if self.counts.read.is_multiple_of(10_000) {
                tracing::debug!(read = self.counts.read, written = self.counts.written, "canonicalizing");
            }
        }
    }

    /// Makes an object of a line. The inner error is the reason why there is none.
    fn take(&mut self, line: &Line, bytes: &[u8]) -> Result<Result<(), &'static str>, CanonicalizationError> {
        match line.state {
            LineState::Whole => {}
            LineState::Torn => return Ok(Err("torn")),
            LineState::TooLong => return Ok(Err("too_long")),
        }
        let record = match Record::parse(bytes) {
            Ok(record) => record,
            Err(fault) => return Ok(Err(fault.reason())),
        };
        if self.known.contains(&record.key) {
            self.counts.duplicates += 1;
            return Ok(Ok(()));
        }
        let email = match guarded(|| Email::of(&record)) {
            Some(Ok(email)) => email,
            Some(Err(refusal)) => return Ok(Err(refusal.reason())),
            None => return Ok(Err("parser_panicked")),
        };
        self.output.email(&email)?;
        self.known.insert(record.key);
        self.counts.written += 1;
        self.counts.bytes += record.raw.len() as u64;
        Ok(Ok(()))
    }

    fn set_aside(&mut self, path: &Path, line: &Line, bytes: &[u8], reason: &'static str) -> Result<(), CanonicalizationError> {
        *self.counts.set_aside.entry(reason).or_default() += 1;
        let row = SetAside {
            file: path.to_string_lossy().into_owned(),
            line: line.number,
            offset: line.offset,
            reason,
            text: std::str::from_utf8(bytes).ok().filter(|_| line.state != LineState::TooLong),
            base64: std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes)),
        };
        self.output.set_aside(&row)?;
        self.cx.emit("canonicalization.set_aside", json!({"file": row.file, "line": line.number, "reason": reason}))?;
        Ok(())
    }
}

/// One line that no object was made of, with the line itself: mending it needs nothing else.
#[derive(Serialize)]
struct SetAside<'a> {
    file: String,
    /// From 1.
    line: u64,
    /// Where the line starts, in bytes.
    offset: u64,
    reason: &'static str,
    /// The line; `null` if it is not UTF-8, or longer than any line of ingester's.
    text: Option<&'a str>,
    /// The line, if it is not UTF-8.
    base64: Option<String>,
}

/// Lets a panic of the parser cost one message, and not the run. Its message is not used: it may quote the mail.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
pub(crate) mod tests;
