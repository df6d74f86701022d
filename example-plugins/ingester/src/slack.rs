//! The job `extract_slack`: its parameters. [`collection`] does the work.
//!
//! ```text
//! export (zip) ──────────────┐
//! api ─► workspace ──────────┴─► found ─► collection ─► archive (slack/<account>.jsonl)
//!            └──► bookmarks ◄────────────────┘
//! ```

mod api;
mod bookmarks;
mod collection;
mod export;
mod found;
mod workspace;

use crate::window::Window;
use collection::{Origin, Request, Web};
use lorchestra_plugin_api::chrono::SecondsFormat;
use lorchestra_plugin_api::prelude::*;
use workspace::Wanted;

/// Kind of conversation.
#[derive(ParamEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Channels that everyone may join (scopes channels:read, channels:history)
    Public,
    /// Channels by invitation (groups:read, groups:history)
    Private,
    /// Direct messages between several people (mpim:read, mpim:history)
    Group,
    /// Direct messages between two people (im:read, im:history)
    Direct,
}

impl Kind {
    fn of_slack(self) -> &'static str {
        match self {
            Self::Public => "public_channel",
            Self::Private => "private_channel",
            Self::Group => "mpim",
            Self::Direct => "im",
        }
    }
}

/// Extract messages from Slack, through its Web API or from a workspace export.
///
/// Writes one JSON line per message to `slack/<account>.jsonl` in the package's data directory: sha256, account, channel and user
/// (id and name), ts, date, thread_ts, and the message as received from Slack.
///
/// The key is the sha256 of channel and message, excluding what other users change (reactions, reply counts). Running the job again
/// adds no duplicates. An edited message gets a new line after the original one; the last line with the same channel and ts is the
/// current version.
///
/// Without `--source`, the job fetches messages from Slack with `--token`. It stores its position in each channel in
/// `slack-api/<account>.json`. The next run fetches new messages, and checks for edits and replies as far back as `--look-back`.
///
/// `--since` and `--until` select messages by ts (`--since` inclusive, `--until` exclusive).
///
/// A message that cannot be extracted is reported in an `extraction.set_aside` event, a channel in an
/// `extraction.channel_skipped` event, and the job continues.
#[job]
pub fn extract_slack(
    cx: &JobContext,
    /// Zip file of a workspace export
    source: Option<PathBuf>,
    /// Account name, used for the output file [default: `default`]
    account: Option<String>,
    /// Extract only messages sent at or after this time
    since: Option<DateTime<Utc>>,
    /// Extract only messages sent before this time [default: now]
    until: Option<DateTime<Utc>>,
    /// Token of a Slack app (`xoxb-…` or `xoxp-…`)
    token: Option<Secret>,
    /// Channel to read, by name or id (repeatable) [default: all channels the app is in]
    channel: Vec<String>,
    /// Kind of conversation to read (repeatable) [default: public and private channels]
    kind: Vec<Kind>,
    /// How far before the last known message to check for edits and replies
    #[param(default = "1w")]
    look_back: Duration,
    /// Give up when a response takes longer than this
    #[param(default = "1m")]
    idle_timeout: Duration,
    /// Additional root certificates (PEM), for example a company's
    ca_file: Option<PathBuf>,
    /// URL of the Web API
    #[param(default = "https://slack.com/api")]
    base_url: String,
) -> JobResult {
    let window = Window { since, until };
    let data_dir = cx.data_dir()?;
    let origin = match source {
        Some(_) if token.is_some() || !channel.is_empty() || !kind.is_empty() => {
            return Err("--source reads an export file, but --token, --channel and --kind read from Slack; remove one side")
                .permanent();
        }
        Some(path) => Origin::Export(path),
        None => {
            let kinds = if kind.is_empty() { vec![Kind::Public, Kind::Private] } else { kind };
            let wanted = Wanted { channels: channel, kinds, window, look_back };
            Origin::Web(Box::new(Web {
                base_url,
                token,
                ca_file,
                idle_timeout,
                wanted,
                bookmark_dir: data_dir.join("slack-api"),
            }))
        }
    };
    let request = Request { origin, account, window, directory: data_dir.join("slack") };
    match collection::run(&request, cx) {
        Ok(()) => Ok(()),
        // Retrying would fail in the same way.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
