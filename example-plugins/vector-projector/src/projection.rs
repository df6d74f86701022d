//! One run of `index_documents`, from the input lines to a complete index: what happens to each line, the counts, the events.
//! Uses [`input`], [`embedding`](crate::embedding), [`index`](crate::index) and the job's context.
//!
//! Every line is counted exactly once: `read = added + changed + unchanged + duplicates + the sum of set_aside`.
//!
//! Batches are transactions. A run killed between two batches leaves complete documents; the next run recognizes their lines
//! by hash, does not write them again, and continues. Documents are removed only at the end, after all inputs have been read,
//! and only if no file contains them any more. If the method for vectors has changed, all vectors are recomputed first, in one
//! transaction.

use crate::document::Document;
use crate::embedding::{Embedding, EmbeddingError};
use crate::index::{self, EmbeddingInfo, Index, IndexError};
use crate::input::{self, InputError, LineState, Lines};
use lorchestra_plugin_api::serde_json::json;
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Number of documents per batch.
const BATCH: u64 = 500;
/// Approximate size of a batch's lines, in bytes.
const BATCH_BYTES: usize = 8 << 20;
/// Number of documents in memory at a time while vectors are recomputed.
const AGAIN: usize = 100;
/// Maximum number of set-aside lines that an event lists.
const NAMED: u64 = 100;

/// What to index.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) input: Vec<PathBuf>,
    pub(crate) keep_missing: bool,
    /// Directory of a model.
    pub(crate) model: Option<PathBuf>,
    pub(crate) forget: Vec<PathBuf>,
    /// Directory of canonizer's files.
    pub(crate) canonizer: PathBuf,
    /// Directory of the index.
    pub(crate) data_dir: PathBuf,
}

/// Counts of the lines by outcome.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    /// All lines in the inputs.
    read: u64,
    added: u64,
    changed: u64,
    unchanged: u64,
    /// Lines of documents that were already read in this run.
    duplicates: u64,
    /// Lines that are not documents, by reason.
    set_aside: BTreeMap<&'static str, u64>,
    /// Documents with a truncated text.
    cut: u64,
    /// Documents that were removed because no file contains them any more.
    removed: u64,
}

/// Why indexing failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectionError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error("cancelled while recomputing vectors; the index is unchanged, run the job again")]
    CancelledAgain,
    #[error("cancelled after {0} lines; documents indexed so far are saved, run the job again to continue")]
    Cancelled(u64),
    #[error("none of the lines is a document ({reasons}); the index is unchanged. Set --input to files written by canonizer")]
    NothingTaken { reasons: String },
    #[error(
        "{path}: is empty, but the index has {documents} documents from it; nothing was removed. Run with --forget {path} \
         to remove them, or write the file again", path = .path.display()
    )]
    Emptied { path: PathBuf, documents: usize },
    #[error("{}: the index has no documents from this file; it has documents from {known}. Set --forget to one of these", .path.display())]
    Unknown { path: PathBuf, known: String },
    #[error("{}: the index has no documents from this file, or from any other; there is nothing to forget", .0.display())]
    NothingKnown(PathBuf),
}

impl ProjectionError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Input(error) => error.is_permanent(),
            Self::Index(error) => error.is_permanent(),
            Self::Embedding(error) => error.is_permanent(),
            Self::NothingTaken { .. } | Self::Emptied { .. } | Self::Unknown { .. } | Self::NothingKnown(_) => true,
            Self::Emit(_) | Self::CancelledAgain | Self::Cancelled(_) => false,
        }
    }
}

/// Runs the indexing, between the events `index.started` and `index.completed`.
pub(crate) fn run(request: &Request, cx: &JobContext) -> Result<(), ProjectionError> {
    let files = match input::find(&request.input, &request.canonizer) {
        // --forget works even if there is no input.
        Err(InputError::NothingCanonical(_)) if !request.forget.is_empty() => Vec::new(),
        found => found?,
    };
    let mut index = Index::to_write(&request.data_dir)?;
    let forgotten: Vec<i64> = request.forget.iter().map(|path| known(&index, path)).collect::<Result<_, _>>()?;
    let embedding = Embedding::load(request.model.as_deref(), index.made.model.as_deref())?;
    let names: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
    let started = json!({"input": names, "anew": index.is_rebuilt, "documents": index.len()?, "embedding": embedding.name()});
    cx.emit("index.started", started)?;
    let embedded_again = embed_again(&mut index, &embedding, cx)?;
    let mut projection = Projection { index, embedding, cx, counts: Counts::default(), seen: Seen::default(), done: 0, total: 0 };
    for file in &files {
        projection.total += Lines::open(file)?.size;
    }
    let taken: Vec<Taken> = files.iter().map(|file| projection.take_file(file)).collect::<Result<_, _>>()?;
    let counts = &projection.counts;
    // Probably the wrong files, so do not remove existing documents.
    if counts.read > 0 && counts.set_aside.values().sum::<u64>() == counts.read {
        let reasons: Vec<String> = counts.set_aside.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
        return Err(ProjectionError::NothingTaken { reasons: reasons.join(", ") });
    }
    projection.remove_missing(&taken, request.keep_missing, &forgotten)?;
    projection.tell_gone(&files)?;
    let mut payload = json!(projection.counts);
    payload["embedding"] = projection.embedding.name().into();
    payload["embedded_again"] = embedded_again.into();
    payload["documents"] = projection.index.len()?.into();
    payload["index_bytes"] = projection.index.size()?.into();
    tracing::info!(read = projection.counts.read, added = projection.counts.added, "index completed");
    cx.emit("index.completed", payload)?;
    Ok(())
}

/// Recomputes all vectors if the method has changed, in one transaction. Returns their number.
fn embed_again(index: &mut Index, embedding: &Embedding, cx: &JobContext) -> Result<u64, ProjectionError> {
    let made = EmbeddingInfo::by(embedding);
    if index.made == made {
        return Ok(0);
    }
    let is_same = index.made.embedding == made.embedding;
    index.begin()?;
    let mut done = 0;
    if !is_same {
        let total = index.len()?;
        let mut last = 0;
        loop {
            let batch = index.texts_after(last, AGAIN)?;
            for texts in &batch {
                let vector = embedding.of_document(&texts.title, &texts.people, &texts.body);
                index.put_vector(texts.document, &vector.map_err(EmbeddingError::Given)?)?;
            }
            let Some(texts) = batch.last() else { break };
            // The transaction is rolled back when the index is closed.
            if cx.is_cancelled() {
                return Err(ProjectionError::CancelledAgain);
            }
            last = texts.document;
            done += batch.len() as u64;
            cx.progress(done, total);
        }
    }
    // Perhaps only the model's directory has changed.
    index.remember(made)?;
    index.commit()?;
    Ok(done)
}

/// Returns the number of a file to forget.
fn known(index: &Index, path: &Path) -> Result<i64, ProjectionError> {
    for path in [path, &input::real(path)] {
        if let Some(source) = index.source(path)? {
            return Ok(source);
        }
    }
    let sources = index.sources()?;
    let mut known: Vec<String> = sources.iter().take(3).map(|path| path.display().to_string()).collect();
    match sources.len() {
        0 => return Err(ProjectionError::NothingKnown(path.to_owned())),
        1..=3 => {}
        more => known.push(format!("{} more", more - 3)),
    }
    Err(ProjectionError::Unknown { path: path.to_owned(), known: known.join(", ") })
}

/// A file that was read.
struct Taken {
    path: PathBuf,
    source: i64,
    lines: u64,
    /// Whether all lines were documents. Only then is a missing document known to be gone.
    is_complete: bool,
    /// Documents that are no longer in it.
    missing: Vec<i64>,
}

/// The file being read.
struct Current {
    source: i64,
    /// Its documents in the index, ascending.
    had: Vec<i64>,
    has: Seen,
}

struct Projection<'a> {
    index: Index,
    embedding: Embedding,
    cx: &'a JobContext,
    counts: Counts,
    seen: Seen,
    /// Size of the inputs in bytes: read so far, and total.
    done: u64,
    total: u64,
}

impl Projection<'_> {
    /// Processes all lines of a file.
    fn take_file(&mut self, path: &Path) -> Result<Taken, ProjectionError> {
        let mut lines = Lines::open(path)?;
        let source = self.index.enter_source(path)?;
        let mut file = Current { source, had: self.index.of_source(source)?, has: Seen::default() };
        let mut line = Vec::new();
        let mut is_complete = true;
        loop {
            if self.cx.is_cancelled() {
                return Err(ProjectionError::Cancelled(self.counts.read));
            }
            self.index.begin()?;
            let mut bytes = 0;
            let mut is_over = false;
            for _ in 0..BATCH {
                let Some(state) = lines.next(&mut line)? else {
                    is_over = true;
                    break;
                };
                self.counts.read += 1;
                bytes += line.len();
                if let Err(reason) = self.take(&mut file, state, &line)? {
                    is_complete = false;
                    self.set_aside(path, lines.number, reason)?;
                }
                if bytes > BATCH_BYTES {
                    break;
                }
            }
            self.index.commit()?;
            self.cx.progress(self.done + lines.at, self.total);
            if is_over {
                self.done += lines.at;
                file.had.retain(|number| !file.has.contains(*number));
                return Ok(Taken { path: path.to_owned(), source, lines: lines.number, is_complete, missing: file.had });
            }
        }
    }

    /// Adds the document of a line to the index. The inner error is the reason why the line is not a document.
    fn take(&mut self, file: &mut Current, state: LineState, line: &[u8]) -> Result<Result<(), &'static str>, ProjectionError> {
        match state {
            LineState::Whole => {}
            LineState::Torn => return Ok(Err("torn")),
            LineState::TooLong => return Ok(Err("too_long")),
        }
        let hash = index::hash(line);
        if let Some(number) = self.index.of_line(&hash)? {
            self.is_in(file, number)?;
            let count = if self.seen.add(number) { &mut self.counts.unchanged } else { &mut self.counts.duplicates };
            *count += 1;
            return Ok(Ok(()));
        }
        // A panic of a parser affects one document. The panic message is dropped, because it may quote the document.
        let document = match catch_unwind(AssertUnwindSafe(|| Document::parse(line))) {
            Ok(Ok(document)) => document,
            Ok(Err(fault)) => return Ok(Err(fault.reason())),
            Err(_) => return Ok(Err("parser_panicked")),
        };
        let old = self.index.of_id(&document.id)?;
        if let Some(old) = old.filter(|old| self.seen.contains(*old)) {
            self.is_in(file, old)?;
            self.counts.duplicates += 1;
            return Ok(Ok(()));
        }
        let vector = self.embedding.of_document(&document.title, &document.people, &document.body);
        let vector = vector.map_err(EmbeddingError::Given)?;
        let number = self.index.put(old, &document, &vector, &hash)?;
        self.is_in(file, number)?;
        self.seen.add(number);
        self.counts.cut += u64::from(document.is_cut);
        let count = if old.is_some() { &mut self.counts.changed } else { &mut self.counts.added };
        *count += 1;
        Ok(Ok(()))
    }

    fn set_aside(&mut self, path: &Path, line: u64, reason: &'static str) -> Result<(), ProjectionError> {
        *self.counts.set_aside.entry(reason).or_default() += 1;
        if self.counts.set_aside.values().sum::<u64>() <= NAMED {
            self.cx.emit("index.set_aside", json!({"file": path.to_string_lossy(), "line": line, "reason": reason}))?;
        }
        Ok(())
    }

    /// Records that a document is in a file; writes nothing if that is already known.
    fn is_in(&self, file: &mut Current, number: i64) -> Result<(), ProjectionError> {
        if file.has.add(number) && file.had.binary_search(&number).is_err() {
            self.index.add_origin(file.source, number)?;
        }
        Ok(())
    }

    /// Removes documents that are no longer in any file: of the files read, and of those to forget.
    fn remove_missing(&mut self, taken: &[Taken], keep_missing: bool, forgotten: &[i64]) -> Result<(), ProjectionError> {
        let is_forgotten = |file: &Taken| forgotten.contains(&file.source);
        let mut leaving: Vec<&Taken> = taken.iter().filter(|file| is_forgotten(file)).collect();
        if !keep_missing {
            let missed = taken.iter().filter(|file| file.is_complete && !is_forgotten(file));
            leaving.extend(missed);
            // Its writer has probably failed.
            let emptied = leaving.iter().find(|file| file.lines == 0 && !file.missing.is_empty() && !is_forgotten(file));
            if let Some(Taken { path, missing, .. }) = emptied {
                return Err(ProjectionError::Emptied { path: path.clone(), documents: missing.len() });
            }
        }
        for file in leaving {
            self.leave(file.source, &file.missing)?;
        }
        for &source in forgotten {
            if !taken.iter().any(|file| file.source == source) {
                self.leave(source, &self.index.of_source(source)?)?;
                self.index.drop_source(source)?;
            }
        }
        Ok(())
    }

    fn leave(&mut self, source: i64, documents: &[i64]) -> Result<(), ProjectionError> {
        for batch in documents.chunks(500) {
            if self.cx.is_cancelled() {
                return Err(ProjectionError::Cancelled(self.counts.read));
            }
            self.counts.removed += self.index.leave(source, batch)?;
        }
        Ok(())
    }

    /// Reports files that no longer exist but have documents: only the user knows whether they are gone permanently.
    fn tell_gone(&self, read: &[PathBuf]) -> Result<(), ProjectionError> {
        let sources = self.index.sources()?;
        let gone = sources.iter().filter(|path| !read.contains(path) && matches!(path.try_exists(), Ok(false)));
        for path in gone.take(NAMED as usize) {
            let Some(source) = self.index.source(path)? else { continue };
            let documents = self.index.of_source(source)?.len();
            if documents > 0 {
                self.cx.emit("index.file_gone", json!({"file": path.to_string_lossy(), "documents": documents}))?;
            }
        }
        Ok(())
    }
}

/// A set of document numbers, with one bit each because they are dense.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Adds a number; returns whether it was new.
    fn add(&mut self, number: i64) -> bool {
        let (at, bit) = place(number);
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        let is_new = self.0[at] & bit == 0;
        self.0[at] |= bit;
        is_new
    }

    fn contains(&self, number: i64) -> bool {
        let (at, bit) = place(number);
        self.0.get(at).is_some_and(|bits| bits & bit != 0)
    }
}

/// SQLite numbers rows from 1.
fn place(number: i64) -> (usize, u64) {
    let number = number.unsigned_abs();
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}

#[cfg(test)]
mod tests;
