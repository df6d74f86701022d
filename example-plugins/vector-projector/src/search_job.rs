//! The job `search`: its parameters, and the search from query to hits. Uses [`index`](crate::index), [`embedding`](crate::embedding) and [`hits`].

use crate::embedding::{Embedding, EmbeddingError, ModelError};
use crate::hits;
use crate::index::{Index, IndexError};
use crate::query::Query;
use lorchestra_plugin_api::EmitError;
use lorchestra_plugin_api::prelude::*;
use std::io;
use std::path::Path;
use std::time::Instant;

/// Maximum value of `--limit`.
const MAX_HITS: u32 = 1000;

/// What the search compares.
#[derive(ParamEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Words (full-text search)
    Text,
    /// Vectors: similar words, or similar meaning if the index has a model
    Vector,
    /// Both, merged into one ranking
    Both,
}

/// Search the index of index_documents.
///
/// Prints the hits to the run's log (`lorchestra runs logs RUN`) and writes them to `search/last.jsonl` in the package's data directory,
/// one JSON object per line. `"several words"` in quotes match as a phrase, `wor*` matches the start of a word.
///
/// The event `search.completed` contains only counts. The query itself is in `job.started`, like all parameters.
///
/// Searches may run concurrently; the file then contains the hits of the one that finished last.
#[job(overlap = "allow")]
pub fn search(
    cx: &JobContext,
    /// Text to search for
    query: String,
    /// Maximum number of hits, 1 to 1000
    #[param(default = 10)]
    limit: u32,
    /// What the search compares
    #[param(default = "both")]
    mode: Mode,
    /// Current directory of the index's model [default: its directory when the index was built]
    model: Option<PathBuf>,
) -> JobResult {
    match run(cx, &query, limit, mode, model.as_deref()) {
        Ok(()) => Ok(()),
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
enum SearchError {
    #[error("the query contains no words; set --query to a text with letters or digits")]
    NoWord,
    #[error("--limit {0} must be between 1 and {MAX_HITS}")]
    Limit(u32),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Embedding(EmbeddingError),
    #[error("cannot use the model of the index (--mode text needs no model)")]
    ModelOfIndex(#[source] ModelError),
    #[error(
        "the index uses hashed words, not a model; run vector-projector/index_documents --model DIR, or search without \
         --model"
    )]
    NoModel,
    #[error(
        "{}: has changed since the index was built; run vector-projector/index_documents to recompute all vectors, \
         or restore the old model; --mode text needs no model", .0.display()
    )]
    ChangedModel(PathBuf),
    #[error(
        "the index was built with another model, in {}; set --model to that one, or run vector-projector/index_documents \
         --model DIR to recompute all vectors; --mode text needs no model", .0.display()
    )]
    OtherModel(PathBuf),
    #[error("{}: cannot write the hits; check the free disk space, and that the user running the job may write the file", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot print the hits to the run's log; they are in {}", .path.display())]
    Print { path: PathBuf, source: io::Error },
    #[error("cannot use the data directory")]
    DataDir(#[source] io::Error),
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl SearchError {
    /// Returns whether a retry would fail in the same way.
    fn is_permanent(&self) -> bool {
        match self {
            Self::NoWord | Self::Limit(_) | Self::NoModel | Self::ChangedModel(_) | Self::OtherModel(_) => true,
            Self::Embedding(error) => error.is_permanent(),
            Self::ModelOfIndex(error) => error.is_permanent(),
            Self::Index(error) => error.is_permanent(),
            Self::Write { .. } | Self::Print { .. } | Self::DataDir(_) | Self::Emit(_) => false,
        }
    }
}

fn run(cx: &JobContext, text: &str, limit: u32, mode: Mode, model: Option<&Path>) -> Result<(), SearchError> {
    let query = Query::parse(text).ok_or(SearchError::NoWord)?;
    if !(1..=MAX_HITS).contains(&limit) {
        return Err(SearchError::Limit(limit));
    }
    let data_dir = cx.data_dir().map_err(SearchError::DataDir)?;
    let index = Index::to_search(&data_dir)?;
    let embedding = if mode == Mode::Text { None } else { Some(embedding(&index, model)?) };
    let begun = Instant::now();
    let vector = embedding.map(|embedding| Ok((embedding.of_query(text)?, embedding.near()))).transpose();
    let vector = vector.map_err(SearchError::ModelOfIndex)?;
    let by_vector = vector.as_ref().map(|(vector, near)| (vector, *near));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = hits::find(&index, &query, mode != Mode::Vector, by_vector, limit)?;
    let took = begun.elapsed();
    let file = hits::last(&data_dir);
    hits::write(&found, &file).map_err(|source| SearchError::Write { path: file.clone(), source })?;
    hits::print(&found, &mut io::stdout().lock()).map_err(|source| SearchError::Print { path: file.clone(), source })?;
    let payload = json!({
        "mode": format!("{mode:?}").to_lowercase(),
        "words": query.len(),
        "hits": found.len(),
        "documents": index.len()?,
        "embedding": index.made.embedding,
        "search_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "file": file.to_string_lossy(),
    });
    cx.emit("search.completed", payload)?;
    Ok(())
}

/// The method of the index's vectors.
fn embedding(index: &Index, given: Option<&Path>) -> Result<Embedding, SearchError> {
    let embedding = Embedding::load(given, index.made.model.as_deref()).map_err(|error| match error {
        EmbeddingError::OfIndex(error) => SearchError::ModelOfIndex(error),
        EmbeddingError::Given(_) => SearchError::Embedding(error),
    })?;
    if embedding.name() == index.made.embedding {
        return Ok(embedding);
    }
    Err(match (&index.made.model, embedding.model()) {
        (Some(dir), _) if given.is_none() => SearchError::ChangedModel(dir.clone()),
        (Some(dir), _) => SearchError::OtherModel(dir.clone()),
        (None, Some(_)) => SearchError::NoModel,
        (None, None) => index.other_version().into(),
    })
}

#[cfg(test)]
mod tests;
