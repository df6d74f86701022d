//! The job `extract_slack`: its parameters, and nothing else. [`collection`] does the work.

mod collection;
mod export;
mod found;

use crate::window::Window;
use collection::Request;
use lorchestra_plugin_api::chrono::SecondsFormat;
use lorchestra_plugin_api::prelude::*;

/// Extract messages from Slack: a workspace export.
///
/// Writes one JSON line a message into `slack/<account>.jsonl` of the package's data directory: sha256, channel_id, channel, user,
/// user_name, ts, date, thread_ts, account, and the message as Slack gave it.
///
/// The sha256 of channel and message, without what others do to it (reactions, counts of replies), is the key: running again adds
/// nothing twice. A message that was edited is a line of its own beside the first one; the last line of a channel and ts is the newest.
///
/// `--since` and `--until` select by the message's ts (half open).
///
/// What cannot be taken is named in an `extraction.set_aside` event; the rest goes on.
#[job]
pub fn extract_slack(
    cx: &JobContext,
    /// The zip of a workspace export.
    source: PathBuf,
    /// Whose messages they are; names the output file. Without it: `default`.
    account: Option<String>,
    /// Only messages said at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only messages said before this time. Without it: before now.
    until: Option<DateTime<Utc>>,
) -> JobResult {
    let request = Request { source, account, window: Window { since, until }, directory: cx.data_dir()?.join("slack") };
    match collection::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
