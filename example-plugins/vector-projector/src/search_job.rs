//! The job `search`: from its parameters to hits. Talks to [`index`](crate::index), [`embedding`](crate::embedding) and [`hits`].

use crate::embedding::{Embedding, EmbeddingError, ModelError};
use crate::hits;
use crate::index::{Index, IndexError};
use crate::query::Query;
use lorchestra_plugin_api::EmitError;
use lorchestra_plugin_api::prelude::*;
use std::io;
use std::path::Path;
use std::time::Instant;

/// The most hits that are asked for.
const MOST: u32 = 1000;

/// What documents are compared by.
#[derive(ParamEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The words that are in them.
    Text,
    /// Their vectors: likeness of words and parts of words, or of meaning where the index was made with a model.
    Vector,
    /// Both rankings, made one.
    Both,
}

/// Search the index that index_documents made.
///
/// The hits are in the run's log (`lorchestra runs logs RUN`) and, one JSON object a line, in `search/last.jsonl` of the package's data
/// directory. `"several words"` in quotes are looked for in this order, `wor*` by their beginning.
///
/// The event `search.completed` has counts only. The query itself is in `job.started`, as all parameters are.
///
/// Any number of searches may run at once; the file is that of the one that ended last.
#[job(overlap = "allow")]
pub fn search(
    cx: &JobContext,
    /// What to look for.
    query: String,
    /// How many hits, 1 to 1000.
    #[param(default = 10)]
    limit: u32,
    /// What documents are compared by.
    #[param(default = "both")]
    mode: Mode,
    /// Where the model is now that the index was made with; without it, it is looked for where it was then.
    model: Option<PathBuf>,
) -> JobResult {
    match run(cx, &query, limit, mode, model.as_deref()) {
        Ok(()) => Ok(()),
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// Why there are no hits, not even none.
#[derive(Debug, thiserror::Error)]
enum SearchError {
    #[error("there is no word in the query; give --query letters or digits to look for")]
    NoWord,
    #[error("--limit {0} is not between 1 and {MOST}")]
    Limit(u32),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Embedding(EmbeddingError),
    #[error("the model that the index was made with cannot be used (--mode text needs none)")]
    ModelOfIndex(#[source] ModelError),
    #[error(
        "the index was made of hashed words, without a model; run vector-projector/index_documents --model DIR, or search without \
         --model"
    )]
    NoModel,
    #[error(
        "{}: is another model than when the index was made; run vector-projector/index_documents, which makes all vectors again, \
         or put the old one back; --mode text needs no model", .0.display()
    )]
    ChangedModel(PathBuf),
    #[error(
        "the index was made with another model, which was in {}; give --model that one, or run vector-projector/index_documents \
         --model DIR, which makes all vectors again; --mode text needs no model", .0.display()
    )]
    OtherModel(PathBuf),
    #[error("{}: the hits could not be written; make room for it, and see that the user who runs the job may write it", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the hits could not be printed into the run's log; they are in {}", .path.display())]
    Print { path: PathBuf, source: io::Error },
    #[error("the data directory cannot be used")]
    DataDir(#[source] io::Error),
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl SearchError {
    /// Whether another attempt must end the same way.
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
    if !(1..=MOST).contains(&limit) {
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

/// The way in which the vectors of the index were made.
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
