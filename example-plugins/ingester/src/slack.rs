//! The job `extract_slack`: its parameters, and nothing else. [`collection`] does the work.
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

/// A kind of conversation.
#[derive(ParamEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Channels that everybody may join (scopes channels:read, channels:history).
    Public,
    /// Channels by invitation (groups:read, groups:history).
    Private,
    /// Conversations of several people (mpim:read, mpim:history).
    Group,
    /// Conversations of two (im:read, im:history).
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

/// Extract messages from Slack: through its Web API, or from a workspace export.
///
/// Writes one JSON line a message into `slack/<account>.jsonl` of the package's data directory: sha256, account, channel and user
/// (id and name), ts, date, thread_ts, and the message as Slack gave it.
///
/// The sha256 of channel and message, without what others do to it (reactions, counts of replies), is the key: running again adds
/// nothing twice. A message that was edited is a line of its own beside the first one; the last line of a channel and ts is the newest.
///
/// Without `--source` messages are fetched from Slack, with `--token`. How far each channel was read is kept in
/// `slack-api/<account>.json`; the next run fetches what is new, and looks for edits and answers as far back as `--look-back`.
///
/// `--since` and `--until` select by the message's ts (half open).
///
/// What cannot be taken is named in an `extraction.set_aside` or `extraction.channel_skipped` event; the rest goes on.
#[job]
pub fn extract_slack(
    cx: &JobContext,
    /// The zip of a workspace export.
    source: Option<PathBuf>,
    /// Whose messages they are; names the output file. Without it: `default`.
    account: Option<String>,
    /// Only messages said at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only messages said before this time. Without it: before now.
    until: Option<DateTime<Utc>>,
    /// Token of a Slack app, `xoxb-…` or `xoxp-…`.
    token: Option<Secret>,
    /// A channel, by name or id; again for each. Without it: all that the app is in.
    channel: Vec<String>,
    /// A kind of conversation to read; again for each. Without it: public and private channels.
    kind: Vec<Kind>,
    /// How far before the last message that is known it is looked for edits and answers.
    #[param(default = "1w")]
    look_back: Duration,
    /// How long one answer may take.
    #[param(default = "1m")]
    patience: Duration,
    /// Certificates (PEM) to trust beside the machine's own: a company's.
    ca_file: Option<PathBuf>,
    /// Where the Web API is.
    #[param(default = "https://slack.com/api")]
    base_url: String,
) -> JobResult {
    let window = Window { since, until };
    let data_dir = cx.data_dir()?;
    let origin = match source {
        Some(_) if token.is_some() || !channel.is_empty() || !kind.is_empty() => {
            return Err(
                "--source is an export on this machine, and --token, --channel, --kind are for Slack itself; give one of both",
            )
            .permanent();
        }
        Some(path) => Origin::Export(path),
        None => {
            let kinds = if kind.is_empty() { vec![Kind::Public, Kind::Private] } else { kind };
            let wanted = Wanted { channels: channel, kinds, window, look_back };
            Origin::Web(Box::new(Web { base_url, token, ca_file, patience, wanted, bookmark_dir: data_dir.join("slack-api") }))
        }
    };
    let request = Request { origin, account, window, directory: data_dir.join("slack") };
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
