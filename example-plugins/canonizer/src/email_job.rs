//! The job `canonicalize_email`: its parameter, and nothing else. [`canonicalization`] does the
//! work.

use crate::canonicalization::{self, Request};
use lorchestra_plugin_api::prelude::*;

/// Canonicalize email: JMAP Email objects (RFC 8621) of all mail that ingester/extract_gmail left.
///
/// Reads its JSON Lines and writes `email.jsonl` into the package's data directory, one object a message, each message once.
/// The file is replaced as a whole at the end: a run that fails or is killed leaves the old one.
///
/// What cannot be read is named in a `canonicalization.set_aside` event and kept in `set_aside.jsonl`; the rest goes on.
#[job]
pub fn canonicalize_email(
    cx: &JobContext,
    /// A file of JSON Lines, or a directory of such; without it, all that ingester has extracted.
    input: Option<PathBuf>,
) -> JobResult {
    let request = Request { input, default_input: cx.package_data_dir("ingester")?.join("mail"), data_dir: cx.data_dir()? };
    match canonicalization::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
