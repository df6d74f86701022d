//! The job `extract_gmail`: its parameters, and nothing else. [`extraction`] does the work.

use crate::extraction::{self, Request};
use crate::window::Window;
use lorchestra_plugin_api::prelude::*;

/// Extract mail from Gmail: a Google Takeout mbox file, or a Maildir.
///
/// Writes one JSON line a message into `mail/<account>.jsonl` of the package's data directory: sha256, message_id, date,
/// received, labels, flags, size, account, and the exact bytes as `raw` (text) or `raw_base64`. The sha256 of the bytes is
/// the key: running again adds nothing twice, and a run that was killed is completed by the next one.
///
/// `--since` and `--until` select by the message's own Date (half open). A message without a readable Date is taken,
/// unless `--since` is given: then it is set aside, and counted as such.
///
/// What cannot be taken is named in an `extraction.set_aside` event; the rest goes on.
#[job]
pub fn extract_gmail(
    cx: &JobContext,
    /// An unpacked Takeout file (`All mail Including Spam and Trash.mbox`), or a directory with `cur/` and `new/`.
    source: PathBuf,
    /// Whose mail it is; names the output file. Without it: `default`.
    account: Option<String>,
    /// Only messages dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only messages dated before this time. Without it: before now; `extraction.completed` names mail dated in the future.
    until: Option<DateTime<Utc>>,
) -> JobResult {
    let request = Request { source, account, window: Window { since, until }, mail_dir: cx.data_dir()?.join("mail") };
    match extraction::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
