//! One canonicalization, from the input lines to the replaced result files: the counts, the events, and the lines that cannot
//! be converted. Uses [`input`], [`output`](crate::output) and the job's context. A [`Converter`] converts the lines.
//!
//! Every line is counted exactly once: `read = written + duplicates + the sum of set_aside`.

use crate::input::{self, InputError, Line, LineState, Lines};
use crate::kind::Kind;
use crate::output::{Output, OutputError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lorchestra_plugin_api::serde_json::json;
use lorchestra_plugin_api::{EmitError, Event, JobContext, tracing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What to canonicalize.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) input: Option<PathBuf>,
    /// Where ingester writes its lines.
    pub(crate) default_input: PathBuf,
    /// Where to write the results.
    pub(crate) data_dir: PathBuf,
}

/// Counts of the lines by outcome.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// All lines in the input.
    pub(crate) read: u64,
    /// Objects written.
    pub(crate) written: u64,
    /// Lines whose object was already written for another line, in this or another file.
    pub(crate) duplicates: u64,
    /// Lines that could not be converted, by reason.
    pub(crate) set_aside: BTreeMap<&'static str, u64>,
    /// Size of the messages converted, in bytes.
    pub(crate) bytes: u64,
}

/// Why a canonicalization failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CanonicalizationError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error("cancelled after {0} lines; the previous results are unchanged")]
    Cancelled(u64),
    #[error(
        "none of the lines is {thing} ({reasons}); the previous results are unchanged. Set --input to the \
         output of {extractor}"
    )]
    NothingTaken { thing: &'static str, reasons: String, extractor: &'static str },
    #[error(
        "{}: has no lines, so the result would be empty; the previous results are unchanged. Run {extractor}, or \
         remove {results} if it should be empty", .path.display()
    )]
    NothingRead { path: PathBuf, extractor: &'static str, results: &'static str },
    #[error("{}: was modified while it was being read; the previous results are unchanged, run the job again", .0.display())]
    Changed(PathBuf),
}

impl CanonicalizationError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Input(error) => error.is_permanent(),
            Self::NothingTaken { .. } | Self::NothingRead { .. } => true,
            Self::Output(_) | Self::Emit(_) | Self::Cancelled(_) | Self::Changed(_) => false,
        }
    }
}

/// The conversion of lines to objects, which differs between jobs.
pub(crate) trait Converter {
    /// Names of files and texts for messages.
    fn kind(&self) -> &'static Kind;

    /// Reads the files with [`Canonicalization::each_line`], and writes the objects.
    fn canonicalize(self, files: &[PathBuf], run: &mut Canonicalization<'_>) -> Result<(), CanonicalizationError>;
}

/// Runs the canonicalization, between the events `canonicalization.started` and `canonicalization.completed`.
pub(crate) fn run(request: &Request, converter: impl Converter, cx: &JobContext) -> Result<(), CanonicalizationError> {
    let kind = converter.kind();
    let files = input::find(kind, request.input.as_deref(), &request.default_input)?;
    let output = Output::begin(&request.data_dir, kind)?;
    let names: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
    cx.emit("canonicalization.started", json!({ "input": names }))?;
    tracing::info!(files = files.len(), "canonicalization started");
    let mut run = Canonicalization { output, cx, counts: Counts::default() };
    converter.canonicalize(&files, &mut run)?;
    let Canonicalization { output, counts, .. } = run;
    // Probably the wrong file, so do not replace the results with nothing.
    if counts.read > 0 && counts.written == 0 {
        let reasons: Vec<String> = counts.set_aside.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
        let (thing, extractor) = (kind.thing, kind.extractor);
        return Err(CanonicalizationError::NothingTaken { thing, reasons: reasons.join(", "), extractor });
    }
    // Perhaps an extraction that has just started or lost its data: keep the results as well.
    if counts.read == 0 && output.replaces_something() {
        let path = files.into_iter().next().unwrap_or_default();
        return Err(CanonicalizationError::NothingRead { path, extractor: kind.extractor, results: kind.results });
    }
    output.commit()?;
    tracing::info!(read = counts.read, written = counts.written, bytes = counts.bytes, "canonicalization completed");
    cx.emit_with(Event::new("canonicalization.completed", &counts)?.schema_ref(kind.schema_ref))?;
    Ok(())
}

/// A canonicalization in progress.
pub(crate) struct Canonicalization<'a> {
    pub(crate) output: Output,
    pub(crate) counts: Counts,
    cx: &'a JobContext,
}

/// A complete line.
pub(crate) struct InputLine<'a> {
    /// Line number over all files, from 1.
    pub(crate) number: u64,
    pub(crate) bytes: &'a [u8],
}

/// A line of a batch.
pub(crate) struct BatchLine {
    line: Line,
    bytes: Vec<u8>,
}

impl BatchLine {
    /// Returns the line if it is complete, or why it is set aside.
    pub(crate) fn whole(&self) -> Result<&[u8], Reason> {
        match self.line.state {
            LineState::Whole => Ok(&self.bytes),
            LineState::Torn => Err("torn"),
            LineState::TooLong => Err("too_long"),
        }
    }
}

/// Size of a batch in bytes, unless its last line is longer.
const BATCH_BYTES: usize = 2 << 20;
/// Maximum number of lines in a batch.
const BATCH_LINES: usize = 512;

/// Why a line is set aside.
pub(crate) type Reason = &'static str;

impl Canonicalization<'_> {
    /// Reads and counts the lines of all files, passes the complete ones to `take`, and sets aside those for which it returns
    /// a reason.
    pub(crate) fn each_line(
        &mut self,
        files: &[PathBuf],
        mut take: impl FnMut(&mut Self, &InputLine<'_>) -> Result<Result<(), Reason>, CanonicalizationError>,
    ) -> Result<(), CanonicalizationError> {
        let mut bytes = Vec::new();
        for path in files {
            let mut lines = Lines::open(path)?;
            while let Some(line) = self.next(&mut lines, &mut bytes)? {
                self.counts.read += 1;
                let taken = match line.state {
                    LineState::Whole => take(self, &InputLine { number: self.counts.read, bytes: &bytes })?,
                    LineState::Torn => Err("torn"),
                    LineState::TooLong => Err("too_long"),
                };
                if let Err(reason) = taken {
                    self.set_aside(path, &line, &bytes, reason)?;
                }
                if self.counts.read.is_multiple_of(10_000) {
                    tracing::debug!(read = self.counts.read, written = self.counts.written, "canonicalizing");
                }
            }
        }
        Ok(())
    }

    /// Reads and counts the lines of all files in batches. `take` returns an outcome for each line of a batch; those with a reason
    /// are set aside.
    pub(crate) fn each_batch(
        &mut self,
        files: &[PathBuf],
        mut take: impl FnMut(&mut Self, &[BatchLine]) -> Result<Vec<Result<(), Reason>>, CanonicalizationError>,
    ) -> Result<(), CanonicalizationError> {
        let mut batch: Vec<BatchLine> = Vec::new();
        for path in files {
            let mut lines = Lines::open(path)?;
            loop {
                let count = self.fill(&mut lines, &mut batch)?;
                if count == 0 {
                    break;
                }
                let taken = take(self, &batch[..count])?;
                for (BatchLine { line, bytes }, taken) in batch.iter().zip(taken) {
                    if let Err(reason) = taken {
                        self.set_aside(path, line, bytes, reason)?;
                    }
                }
                tracing::trace!(read = self.counts.read, written = self.counts.written, "canonicalizing");
            }
        }
        Ok(())
    }

    /// Reads and counts lines, into the first places of a batch, whose buffers are used again. Returns their number.
    fn fill(&mut self, lines: &mut Lines<std::fs::File>, batch: &mut Vec<BatchLine>) -> Result<usize, CanonicalizationError> {
        let (mut count, mut size) = (0, 0);
        while count < BATCH_LINES && size < BATCH_BYTES {
            let mut bytes = batch.get_mut(count).map(|line| std::mem::take(&mut line.bytes)).unwrap_or_default();
            if bytes.capacity() > BATCH_BYTES {
                bytes = Vec::new();
            }
            let Some(line) = self.next(lines, &mut bytes)? else { break };
            self.counts.read += 1;
            size += bytes.len();
            let read = BatchLine { line, bytes };
            match batch.get_mut(count) {
                Some(place) => *place = read,
                None => batch.push(read),
            }
            count += 1;
        }
        Ok(count)
    }

    /// Reads the files again, and passes the lines with these numbers, which are sorted, to `take`. It returns whether the
    /// line is unchanged.
    pub(crate) fn again(
        &mut self,
        files: &[PathBuf],
        numbers: &[u64],
        mut take: impl FnMut(&mut Self, &InputLine<'_>) -> Result<bool, CanonicalizationError>,
    ) -> Result<(), CanonicalizationError> {
        let mut numbers = numbers.iter().copied().peekable();
        let (mut bytes, mut number) = (Vec::new(), 0);
        for path in files {
            let mut lines = Lines::open(path)?;
            while numbers.peek().is_some() {
                let Some(line) = self.next(&mut lines, &mut bytes)? else { break };
                number += 1;
                if numbers.next_if_eq(&number).is_none() {
                    continue;
                }
                if line.state != LineState::Whole || !take(self, &InputLine { number, bytes: &bytes })? {
                    return Err(CanonicalizationError::Changed(path.clone()));
                }
            }
        }
        match (numbers.next(), files.last()) {
            (Some(_), Some(path)) => Err(CanonicalizationError::Changed(path.clone())),
            _ => Ok(()),
        }
    }

    fn next(&self, lines: &mut Lines<std::fs::File>, bytes: &mut Vec<u8>) -> Result<Option<Line>, CanonicalizationError> {
        if self.cx.is_cancelled() {
            return Err(CanonicalizationError::Cancelled(self.counts.read));
        }
        Ok(lines.next(bytes)?)
    }

    fn set_aside(&mut self, path: &Path, line: &Line, bytes: &[u8], reason: Reason) -> Result<(), CanonicalizationError> {
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

/// A line that could not be converted, stored with its content so that it can be fixed and read again.
#[derive(Serialize)]
struct SetAside<'a> {
    file: String,
    /// Line number in the file, from 1.
    line: u64,
    /// Offset of the line, in bytes.
    offset: u64,
    reason: &'static str,
    /// The line; `null` if it is not UTF-8, or longer than any line of ingester.
    text: Option<&'a str>,
    /// The line in base64, if it is not UTF-8.
    base64: Option<String>,
}

/// Catches a panic of a parser, so that it affects one message and not the run. The panic message is dropped, because it may
/// quote the mail.
pub(crate) fn catch_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
pub(crate) mod tests;
