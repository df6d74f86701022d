//! The job `index_documents`: its parameters. [`projection`] does the work.

use crate::projection::{self, Request};
use lorchestra_plugin_api::prelude::*;

/// Index the documents of canonizer for full-text and similarity search.
///
/// Reads JSON Lines files and updates `index.db` in the package's data directory: adds new documents, replaces changed ones, and removes
/// those that are no longer in their file. Unchanged documents are only compared. Documents of files that are not read are kept.
///
/// A killed run leaves complete documents; the next run continues.
///
/// By default, vectors are computed from hashed words: texts with common words or parts of words are similar, but "car" does not find
/// "automobile". With --model, vectors come from a static embedding model, and texts with similar meaning are similar. The index
/// remembers its model: later runs and searches need no --model. Another model recomputes all vectors in one transaction.
#[job]
pub fn index_documents(
    cx: &JobContext,
    /// JSON Lines file written by canonizer (repeatable) [default: its `email.jsonl` and `message.jsonl`]
    input: Vec<PathBuf>,
    /// Keep documents that are no longer in their file
    keep_missing: bool,
    /// Remove the documents of this file, unless they are also in another file or still in this one (repeatable)
    forget: Vec<PathBuf>,
    /// Directory with `model.safetensors` and `tokenizer.json` of a static embedding model (model2vec, wordllama), or `none` for hashed
    /// words [default: the model of the index; hashed words for a new index]
    model: Option<PathBuf>,
) -> JobResult {
    let canonizer = cx.package_data_dir("canonizer")?;
    let request = Request { input, keep_missing, forget, model, canonizer, data_dir: cx.data_dir()? };
    match projection::run(&request, cx) {
        Ok(()) => Ok(()),
        // Retrying would fail in the same way.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
