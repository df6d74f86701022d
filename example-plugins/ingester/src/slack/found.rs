//! One Slack message with its context, its line in the archive, and its key.

use crate::key::Key;
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use lorchestra_plugin_api::serde_json::{Map, Value};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Fields that other users change, or that only the Web API or only the export contains: not part of the key.
const NOT_ITS_OWN: [&str; 19] = [
    "reactions",
    "reply_count",
    "reply_users",
    "reply_users_count",
    "latest_reply",
    "replies",
    "subscribed",
    "last_read",
    "unread_count",
    "is_locked",
    "is_starred",
    "pinned_to",
    "pinned_info",
    "team",
    "user_team",
    "source_team",
    "user_profile",
    "assistant_app_thread",
    "root",
];

/// A channel or conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) id: String,
    /// Without `#`; for a direct conversation, its id.
    pub(crate) name: String,
}

/// User names by id.
pub(crate) type People = HashMap<String, String>;

/// A message with its context.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) channel: Rc<Channel>,
    pub(crate) message: Map<String, Value>,
}

/// An id with its name.
#[derive(Debug, Serialize)]
pub(crate) struct Named<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: Option<&'a str>,
}

/// A message in the archive. The order of the fields is their order in the line.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// Must be first: the archive searches for it there.
    pub(crate) sha256: Key,
    pub(crate) account: &'a str,
    pub(crate) channel: Named<'a>,
    /// The sender, a user or a bot.
    pub(crate) user: Option<Named<'a>>,
    /// Slack's id of the message in its channel.
    pub(crate) ts: &'a str,
    /// `ts` as a time, RFC 3339 in UTC.
    pub(crate) date: String,
    /// The `ts` of the thread's first message.
    pub(crate) thread_ts: Option<&'a str>,
    /// The message as received from Slack.
    pub(crate) message: &'a Map<String, Value>,
}

impl Found {
    /// Returns the message's ts and its time; `None` if it has no valid one.
    pub(crate) fn ts(&self) -> Option<(&str, DateTime<Utc>)> {
        let ts = self.message.get("ts")?.as_str()?;
        Some((ts, time(ts)?))
    }

    /// Returns the sha256 of channel and message, in canonical JSON, without [`NOT_ITS_OWN`]. An edited message has a
    /// different key.
    pub(crate) fn key(&self) -> Key {
        let own: BTreeMap<&String, &Value> =
            self.message.iter().filter(|(name, _)| !NOT_ITS_OWN.contains(&name.as_str())).collect();
        let mut text = self.channel.id.clone();
        for (name, value) in own {
            text.push('\n');
            spell(&Value::String(name.clone()), &mut text);
            spell(value, &mut text);
        }
        Key::of(text.as_bytes())
    }

    /// Returns the line for the archive.
    pub(crate) fn line<'a>(&'a self, key: Key, people: &'a People, account: &'a str) -> Option<Line<'a>> {
        let (ts, at) = self.ts()?;
        let text = |name: &str| self.message.get(name).and_then(Value::as_str);
        let user = text("user").or_else(|| text("bot_id"));
        let name = |id: &str| people.get(id).map(String::as_str).or_else(|| text("username"));
        Some(Line {
            sha256: key,
            account,
            channel: Named { id: &self.channel.id, name: Some(&self.channel.name) },
            user: user.map(|id| Named { id, name: name(id) }),
            ts,
            date: super::rfc3339(at),
            thread_ts: text("thread_ts"),
            message: &self.message,
        })
    }
}

/// Parses a `ts` such as `1704103200.000100`.
pub(crate) fn time(ts: &str) -> Option<DateTime<Utc>> {
    let (seconds, fraction) = ts.split_once('.').unwrap_or((ts, ""));
    let micros: u32 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    DateTime::from_timestamp(seconds.parse().ok()?, micros * 1000)
}

/// Returns a user's display name, or the account name.
pub(crate) fn person(user: &Value) -> Option<(String, String)> {
    let name = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let profile = &user["profile"];
    let shown = name(&profile["display_name"])
        .or_else(|| name(&profile["real_name"]))
        .or_else(|| name(&user["real_name"]))
        .or_else(|| name(&user["name"]))?;
    Some((name(&user["id"])?, shown))
}

/// Serializes canonical JSON: sorted fields, no spaces.
fn spell(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            text.push('{');
            for (name, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                text.push_str(&Value::String(name.clone()).to_string());
                spell(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                spell(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::serde_json::json;

    fn key(message: Value) -> Key {
        let channel = Rc::new(Channel { id: "C1".into(), name: "general".into() });
        Found { channel, message: message.as_object().unwrap().clone() }.key()
    }

    #[test]
    fn the_key_depends_only_on_what_the_author_wrote() {
        let first = key(json!({"ts": "1.2", "text": "a", "user": "U1"}));
        assert_eq!(first, key(json!({"user": "U1", "text": "a", "ts": "1.2", "reactions": [1], "reply_count": 3})));
        assert_ne!(first, key(json!({"ts": "1.2", "text": "b", "user": "U1", "edited": {"ts": "2.0"}})));
        assert_ne!(first, key(json!({"ts": "1.3", "text": "a", "user": "U1"})));
    }

    #[test]
    fn times_of_messages() {
        assert_eq!(time("1704103200.000100").unwrap().to_rfc3339(), "2024-01-01T10:00:00.000100+00:00");
        for bad in ["", "x", "1.x", "99999999999999999999.0", "1.ä00000"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
