//! One run of `index_documents`, from the lines of its inputs to a complete index: what becomes of each line, the counts, the events.
//! Talks to [`input`], [`embedding`](crate::embedding), [`index`](crate::index) and the run it belongs to.
//!
//! Every line that is read is counted in exactly one place: `read = added + changed + unchanged + duplicates + the sum of set_aside`.
//!
//! Batches are transactions. Killed between two of them, the run has left whole documents; the next one finds their lines by their
//! hashes, writes nothing for them, and goes on. Documents are removed at the end only, when all inputs were read. Where vectors are to be
//! made in another way than before, all are made again, first of all and in one transaction.

use crate::document::Document;
use crate::embedding::{Embedding, EmbeddingError};
use crate::index::{self, Index, IndexError, Made};
use crate::input::{self, InputError, LineState, Lines};
use lorchestra_plugin_api::serde_json::json;
use lorchestra_plugin_api::{EmitError, JobContext, tracing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Documents of a batch.
const BATCH: u64 = 500;
/// Bytes of lines of a batch, about.
const BATCH_BYTES: usize = 8 << 20;
/// Documents whose texts are in memory at a time while vectors are made again.
const AGAIN: usize = 100;
/// Lines set aside that an event names, at most.
const NAMED: u64 = 100;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) input: Vec<PathBuf>,
    pub(crate) keep_missing: bool,
    /// A model's directory.
    pub(crate) model: Option<PathBuf>,
    /// Where canonizer leaves its files.
    pub(crate) canonizer: PathBuf,
    /// Where the index is.
    pub(crate) data_dir: PathBuf,
}

/// What became of the lines.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    /// Lines in the inputs, whatever became of them.
    read: u64,
    added: u64,
    changed: u64,
    unchanged: u64,
    /// Lines of a document that was in this run before.
    duplicates: u64,
    /// Lines that no document could be made of, by reason.
    set_aside: BTreeMap<&'static str, u64>,
    /// Documents whose text was longer than what is indexed of one.
    cut: u64,
    /// Documents that were in the index and are not in the inputs any more.
    removed: u64,
}

/// Why an index was not completed.
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
    #[error("cancelled while vectors were made again; the index is as it was, run the job again")]
    CancelledAgain,
    #[error("cancelled after {0} lines; what was indexed is in the index, run the job again to go on")]
    Cancelled(u64),
    #[error(
        "none of the {read} lines is a document ({reasons}); the index has the documents it had. Give --input files that canonizer wrote"
    )]
    NothingTaken { read: u64, reasons: String },
}

impl ProjectionError {
    /// Whether another attempt must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Input(error) => error.is_permanent(),
            Self::Index(error) => error.is_permanent(),
            Self::Embedding(error) => error.is_permanent(),
            Self::NothingTaken { .. } => true,
            Self::Emit(_) | Self::CancelledAgain | Self::Cancelled(_) => false,
        }
    }
}

/// Indexes all that is asked for, between the events `index.started` and `index.completed`.
pub(crate) fn run(request: &Request, cx: &JobContext) -> Result<(), ProjectionError> {
    let files = input::find(&request.input, &request.canonizer)?;
    let mut index = Index::to_write(&request.data_dir)?;
    let embedding = Embedding::load(request.model.as_deref(), index.made.model.as_deref())?;
    let names: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
    let started = json!({"input": names, "anew": index.is_anew, "documents": index.len()?, "embedding": embedding.name()});
    cx.emit("index.started", started)?;
    let embedded_again = embed_again(&mut index, &embedding, cx)?;
    let mut projection = Projection { index, embedding, cx, counts: Counts::default(), seen: Seen::default(), done: 0, total: 0 };
    for file in &files {
        projection.total += Lines::open(file)?.size;
    }
    let mut complete = Vec::new();
    for file in &files {
        if projection.take_file(file)? {
            complete.push(file);
        }
    }
    let counts = &projection.counts;
    // The wrong files, most likely: not a reason to remove what is there.
    if counts.read > 0 && counts.set_aside.values().sum::<u64>() == counts.read {
        let reasons: Vec<String> = counts.set_aside.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
        return Err(ProjectionError::NothingTaken { read: counts.read, reasons: reasons.join(", ") });
    }
    if !request.keep_missing {
        projection.remove_missing(&complete)?;
    }
    let mut payload = json!(projection.counts);
    payload["embedding"] = projection.embedding.name().into();
    payload["embedded_again"] = embedded_again.into();
    payload["documents"] = projection.index.len()?.into();
    payload["index_bytes"] = projection.index.size()?.into();
    tracing::info!(read = projection.counts.read, added = projection.counts.added, "index completed");
    cx.emit("index.completed", payload)?;
    Ok(())
}

/// Makes all vectors in this way, if they were made in another: all of them or none. Answers how many.
fn embed_again(index: &mut Index, embedding: &Embedding, cx: &JobContext) -> Result<u64, ProjectionError> {
    let made = Made::by(embedding);
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
            // What was begun is undone when the index is closed.
            if cx.is_cancelled() {
                return Err(ProjectionError::CancelledAgain);
            }
            last = texts.document;
            done += batch.len() as u64;
            cx.progress(done, total);
        }
    }
    // Perhaps only the place of the model is another.
    index.remember(made)?;
    index.commit()?;
    Ok(done)
}

struct Projection<'a> {
    index: Index,
    embedding: Embedding,
    cx: &'a JobContext,
    counts: Counts,
    seen: Seen,
    /// Bytes of the inputs: read, and all.
    done: u64,
    total: u64,
}

impl Projection<'_> {
    /// Takes all lines of a file. Answers whether all of them were documents: only then is what is missing in it known to be gone.
    fn take_file(&mut self, path: &Path) -> Result<bool, ProjectionError> {
        let mut lines = Lines::open(path)?;
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
                if let Err(reason) = self.take(path, state, &line)? {
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
                return Ok(is_complete);
            }
        }
    }

    /// Puts the document of a line into the index. The inner error is the reason why there is none.
    fn take(&mut self, path: &Path, state: LineState, line: &[u8]) -> Result<Result<(), &'static str>, ProjectionError> {
        match state {
            LineState::Whole => {}
            LineState::Torn => return Ok(Err("torn")),
            LineState::TooLong => return Ok(Err("too_long")),
        }
        let hash = index::hash(line);
        if let Some(number) = self.index.of_line(&hash)? {
            let count = if self.seen.add(number) { &mut self.counts.unchanged } else { &mut self.counts.duplicates };
            *count += 1;
            return Ok(Ok(()));
        }
        // A panic of a parser costs one document. Its message is not used: it may quote it.
        let document = match catch_unwind(AssertUnwindSafe(|| Document::parse(line))) {
            Ok(Ok(document)) => document,
            Ok(Err(fault)) => return Ok(Err(fault.reason())),
            Err(_) => return Ok(Err("parser_panicked")),
        };
        let old = self.index.of_id(&document.id)?;
        if old.is_some_and(|old| self.seen.contains(old)) {
            self.counts.duplicates += 1;
            return Ok(Ok(()));
        }
        let vector = self.embedding.of_document(&document.title, &document.people, &document.body);
        let vector = vector.map_err(EmbeddingError::Given)?;
        let number = self.index.put(old, &document, &vector, &hash, path)?;
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

    fn remove_missing(&mut self, files: &[&PathBuf]) -> Result<(), ProjectionError> {
        for file in files {
            let mut missing = self.index.of_source(file)?;
            missing.retain(|number| !self.seen.contains(*number));
            for batch in missing.chunks(500) {
                if self.cx.is_cancelled() {
                    return Err(ProjectionError::Cancelled(self.counts.read));
                }
                self.index.remove(batch)?;
                self.counts.removed += batch.len() as u64;
            }
        }
        Ok(())
    }
}

/// Numbers of documents: a bit each, they are dense.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Adds a number; answers whether it was not there.
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

/// SQLite counts from 1.
fn place(number: i64) -> (usize, u64) {
    let number = number.unsigned_abs();
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}

#[cfg(test)]
mod tests;
