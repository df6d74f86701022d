//! The job `search`: from its parameters to hits. Talks to [`index`](crate::index) and [`hits`].

use crate::hits;
use crate::index::{Index, IndexError};
use crate::query::Query;
use lorchestra_plugin_api::EmitError;
use lorchestra_plugin_api::prelude::*;
use std::io;
use std::time::Instant;

/// The most hits that are asked for.
const MOST: u32 = 1000;

/// What documents are compared by.
#[derive(ParamEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The words that are in them.
    Text,
    /// Their vectors: likeness of words and parts of words, not of meaning.
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
) -> JobResult {
    match run(cx, &query, limit, mode) {
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
            Self::NoWord | Self::Limit(_) => true,
            Self::Index(error) => error.is_permanent(),
            Self::Write { .. } | Self::Print { .. } | Self::DataDir(_) | Self::Emit(_) => false,
        }
    }
}

fn run(cx: &JobContext, text: &str, limit: u32, mode: Mode) -> Result<(), SearchError> {
    let query = Query::parse(text).ok_or(SearchError::NoWord)?;
    if !(1..=MOST).contains(&limit) {
        return Err(SearchError::Limit(limit));
    }
    let data_dir = cx.data_dir().map_err(SearchError::DataDir)?;
    let index = Index::to_search(&data_dir)?;
    let by = (mode != Mode::Vector, mode != Mode::Text);
    let begun = Instant::now();
    let found = hits::find(&index, &query, text, by, usize::try_from(limit).unwrap_or(usize::MAX))?;
    let took = begun.elapsed();
    let file = hits::last(&data_dir);
    hits::write(&found, &file).map_err(|source| SearchError::Write { path: file.clone(), source })?;
    hits::print(&found, &mut io::stdout().lock()).map_err(|source| SearchError::Print { path: file.clone(), source })?;
    let payload = json!({
        "mode": format!("{mode:?}").to_lowercase(),
        "words": query.len(),
        "hits": found.len(),
        "documents": index.len()?,
        "search_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "file": file.to_string_lossy(),
    });
    cx.emit("search.completed", payload)?;
    Ok(())
}

#[cfg(test)]
mod tests;
