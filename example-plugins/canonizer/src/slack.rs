//! Parsing of one line of ingester's `slack/*.jsonl`: a message from Slack's Web API or an export, with its context. Handles
//! everything specific to Slack: edits, deletions, times, and system messages. [`mrkdwn`] parses the text.

use crate::record::RecordFault;
use lorchestra_plugin_api::chrono::{DateTime, SecondsFormat};
use lorchestra_plugin_api::serde_json::{self, Value};
use serde::Deserialize;

pub(crate) mod mrkdwn;

/// A message with the context added by ingester.
#[derive(Debug, Deserialize)]
struct Line {
    account: String,
    /// Channel name without `#`; for a direct conversation, its id.
    channel: Named,
    /// The sender, a user or a bot.
    user: Option<Named>,
    message: Raw,
}

/// An id with its name.
#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
}

/// Slack's message. Other fields stay only in ingester's file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Raw {
    pub(crate) ts: Option<String>,
    pub(crate) thread_ts: Option<String>,
    pub(crate) subtype: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) bot_id: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) user_profile: Option<Profile>,
    pub(crate) bot_profile: Option<Profile>,
    pub(crate) text: Option<String>,
    pub(crate) blocks: Option<Value>,
    pub(crate) edited: Option<Edited>,
    pub(crate) files: Option<Vec<File>>,
    /// The only file of a message before 2018.
    pub(crate) file: Option<File>,
    pub(crate) attachments: Option<Vec<Attachment>>,
    pub(crate) reactions: Option<Vec<Reaction>>,
    /// Of `message_deleted`.
    deleted_ts: Option<String>,
    /// Of `message_changed`: the current message.
    message: Option<Box<Raw>>,
    /// Of `message_deleted`: the previous message.
    previous_message: Option<Box<Raw>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Profile {
    pub(crate) display_name: Option<String>,
    pub(crate) real_name: Option<String>,
    pub(crate) name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Edited {
    pub(crate) ts: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) mimetype: Option<String>,
    pub(crate) size: Option<u64>,
    pub(crate) url_private: Option<String>,
    pub(crate) permalink: Option<String>,
    pub(crate) mode: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Attachment {
    pub(crate) title: Option<String>,
    pub(crate) pretext: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) fallback: Option<String>,
    pub(crate) author_name: Option<String>,
    pub(crate) title_link: Option<String>,
    pub(crate) from_url: Option<String>,
    pub(crate) original_url: Option<String>,
    pub(crate) image_url: Option<String>,
    pub(crate) fields: Option<Vec<Field>>,
    pub(crate) blocks: Option<Value>,
    /// Blocks of a shared message.
    pub(crate) message_blocks: Option<Value>,
    pub(crate) footer: Option<String>,
}

/// A row of an attachment's table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Field {
    pub(crate) title: Option<String>,
    pub(crate) value: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Reaction {
    pub(crate) name: String,
    pub(crate) count: Option<u64>,
    pub(crate) users: Option<Vec<String>>,
}

/// Slack's time, which also identifies a message in its channel: seconds since 1970 and six digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ts {
    micros: i64,
}

/// A message in its latest known version.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) account: String,
    pub(crate) channel: Named,
    /// Ingester's name of the sender.
    pub(crate) user: Option<Named>,
    pub(crate) ts: Ts,
    pub(crate) thread: Ts,
    pub(crate) edited: Option<Ts>,
    pub(crate) deleted: bool,
    pub(crate) raw: Raw,
}

/// Version of a message. A deletion is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Created or edited at this time.
    At(Ts),
    Deleted,
}

/// The kind of message of a subtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MessageKind {
    /// Written by a user.
    Message,
    Join,
    Leave,
    /// Written by Slack itself: a topic was set, a channel archived.
    Notice,
}

impl MessageKind {
    pub(crate) fn of(subtype: Option<&str>) -> Self {
        match subtype {
            None
            | Some(
                "bot_message"
                | "me_message"
                | "thread_broadcast"
                | "reply_broadcast"
                | "file_share"
                | "file_comment"
                | "file_mention"
                | "slackbot_response"
                | "assistant_app_thread"
                | "tombstone",
            ) => Self::Message,
            Some("channel_join" | "group_join") => Self::Join,
            Some("channel_leave" | "group_leave") => Self::Leave,
            Some(_) => Self::Notice,
        }
    }
}

impl Ts {
    /// `1700000000.123456`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (seconds, micros) = text.split_once('.')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        // Ten digits are enough until 2286; twelve give years with four digits.
        if !(1..=12).contains(&seconds.len()) || micros.len() != 6 || !digits(seconds) || !digits(micros) {
            return None;
        }
        let micros = seconds.parse::<i64>().ok()? * 1_000_000 + micros.parse::<i64>().ok()?;
        let ts = Self { micros };
        (ts.micros > 0 && DateTime::from_timestamp_micros(ts.micros)?.format("%Y").to_string().len() == 4).then_some(ts)
    }

    /// RFC 3339 in UTC, always with microseconds, so that the texts sort like the times.
    pub(crate) fn rfc3339(self) -> String {
        DateTime::from_timestamp_micros(self.micros).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true)
    }
}

impl std::fmt::Display for Ts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.micros / 1_000_000, self.micros % 1_000_000)
    }
}

impl Raw {
    /// Clears the content of a deleted message.
    pub(crate) fn emptied(self) -> Self {
        Self { subtype: self.subtype, ..Self::default() }
    }
}

impl Post {
    /// Parses a line.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, RecordFault> {
        let line: Line = serde_json::from_slice(line).map_err(|e| RecordFault::of(&e))?;
        Self::of(line).ok_or(RecordFault::NotARecord)
    }

    fn of(line: Line) -> Option<Self> {
        let Line { account, channel: Named { id, name }, user, message } = line;
        if account.is_empty() || id.is_empty() {
            return None;
        }
        let channel = Named { name: name.filter(|name| !name.is_empty() && *name != id), id };
        let user = user.filter(|user| !user.id.is_empty());
        let (raw, ts, mut deleted) = current(message)?;
        let ts = Ts::parse(&ts)?;
        // The placeholder for a deleted message with replies.
        deleted |= raw.subtype.as_deref() == Some("tombstone");
        let thread = raw.thread_ts.as_deref().and_then(Ts::parse).unwrap_or(ts);
        let edited = raw.edited.as_ref().and_then(|edited| Ts::parse(edited.ts.as_deref()?));
        Some(Self { account, channel, user, ts, thread, edited, deleted, raw })
    }

    pub(crate) fn version(&self) -> Version {
        if self.deleted { Version::Deleted } else { Version::At(self.edited.unwrap_or(self.ts)) }
    }

    /// Returns the message's id, the same in every run.
    pub(crate) fn id(&self) -> String {
        self.id_of(self.ts)
    }

    /// Returns the id of the first message in the thread.
    pub(crate) fn thread_id(&self) -> String {
        self.id_of(self.thread)
    }

    fn id_of(&self, ts: Ts) -> String {
        format!("slack:{}:{}:{ts}", self.account, self.channel.id)
    }
}

/// Returns the affected message, its ts, and whether it was deleted. Slack wraps changes in messages of their own.
fn current(mut raw: Raw) -> Option<(Raw, String, bool)> {
    match raw.subtype.as_deref() {
        Some("message_changed" | "message_replied") => {
            let raw = *raw.message.take()?;
            let ts = raw.ts.clone()?;
            Some((raw, ts, false))
        }
        Some("message_deleted") => {
            let was = raw.previous_message.take().map(|was| *was).unwrap_or_default();
            let ts = raw.deleted_ts.or_else(|| was.ts.clone())?;
            Some((was, ts, true))
        }
        _ => {
            let ts = raw.ts.clone()?;
            Some((raw, ts, false))
        }
    }
}

#[cfg(test)]
mod tests;
