//! The job `index_documents`: its parameters, and nothing else. [`projection`] does the work.

use crate::projection::{self, Request};
use lorchestra_plugin_api::prelude::*;

/// Index documents: what canonizer left, to be found by words and by likeness.
///
/// Reads JSON Lines and keeps `index.db` in the package's data directory as they are: new documents are added, changed ones replaced,
/// and those that are in no file any more are removed. What has not changed costs a look. Files that are not read keep their documents.
///
/// A run that is killed leaves whole documents; the next one goes on.
#[job]
pub fn index_documents(
    cx: &JobContext,
    /// A file of JSON Lines that canonizer wrote; repeat it for more. Without it: its `email.jsonl` and `message.jsonl`.
    input: Vec<PathBuf>,
    /// Keep documents that are no longer in their file.
    keep_missing: bool,
    /// A file whose documents are removed, unless they are in another one, or it is read and they are in it; repeat it for more.
    forget: Vec<PathBuf>,
) -> JobResult {
    let canonizer = cx.package_data_dir("canonizer")?;
    let request = Request { input, keep_missing, forget, canonizer, data_dir: cx.data_dir()? };
    match projection::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
