//! The job `index_documents`: its parameters, and nothing else. [`projection`] does the work.

use crate::projection::{self, Request};
use lorchestra_plugin_api::prelude::*;

/// Index documents: what canonizer left, to be found by words and by likeness.
///
/// Reads JSON Lines and keeps `index.db` in the package's data directory as they are: new documents are added, changed ones replaced,
/// and those that are in no file any more are removed. What has not changed costs a look. Files that are not read keep their documents.
///
/// A run that is killed leaves whole documents; the next one goes on.
///
/// The vectors are made of hashed words: texts that share words or parts of words are near, "car" finds no "automobile". With --model
/// they are made with a static embedding model, and near is what means the same. The index remembers the model: later runs and searches
/// need not name it. With another model, all vectors are made again, in one transaction.
#[job]
pub fn index_documents(
    cx: &JobContext,
    /// A file of JSON Lines that canonizer wrote; repeat it for more. Without it: its `email.jsonl` and `message.jsonl`.
    input: Vec<PathBuf>,
    /// Keep documents that are no longer in their file.
    keep_missing: bool,
    /// A file whose documents are removed, unless they are in another one, or it is read and they are in it; repeat it for more.
    forget: Vec<PathBuf>,
    /// A directory with `model.safetensors` and `tokenizer.json` of a static embedding model (model2vec, wordllama), or `none` for hashed
    /// words. Without it: what the index was made with, and hashed words for a new one.
    model: Option<PathBuf>,
) -> JobResult {
    let canonizer = cx.package_data_dir("canonizer")?;
    let request = Request { input, keep_missing, forget, model, canonizer, data_dir: cx.data_dir()? };
    match projection::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
