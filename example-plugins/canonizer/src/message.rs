//! A chat message in our own schema, `schemas/message.schema.json`: the common subset of Slack and similar services.
//!
//! - `id` is `slack:<account>:<channel>:<ts>`, the same in every run. `thread_id` is the `id` of the first message in the
//!   thread; for a message without replies, its own.
//! - `text` is plain text for people and search, `raw_text` is Slack's. Text of blocks is appended if it is not already
//!   included.
//! - Of a deleted message, only its existence is kept.

use crate::directory::Directory;
use crate::slack::mrkdwn::{self, Names};
use crate::slack::{Attachment, File, MessageKind, Post, Profile};
use lorchestra_plugin_api::serde_json::Value;
use serde::Serialize;

/// The object.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    id: String,
    source: &'static str,
    account: String,
    channel: Channel,
    thread_id: String,
    sender: Sender,
    kind: MessageKind,
    subtype: Option<String>,
    sent_at: String,
    edited_at: Option<String>,
    deleted: bool,
    text: String,
    raw_text: Option<String>,
    files: Vec<SharedFile>,
    attachments: Vec<Shown>,
    reactions: Vec<Reactions>,
}

#[derive(Debug, Serialize)]
struct Channel {
    id: String,
    name: Option<String>,
}

#[derive(Debug, Serialize)]
struct Sender {
    id: Option<String>,
    name: Option<String>,
    is_bot: bool,
}

#[derive(Debug, Serialize)]
struct SharedFile {
    id: Option<String>,
    name: Option<String>,
    /// Displayed title, if it differs from the name.
    title: Option<String>,
    media_type: Option<String>,
    /// Size in bytes.
    size: Option<u64>,
    url: Option<String>,
    deleted: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    title: Option<String>,
    text: Option<String>,
    author: Option<String>,
    url: Option<String>,
    image_url: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reactions {
    name: String,
    count: u64,
    users: Vec<String>,
}

impl Message {
    /// Converts a message.
    pub(crate) fn of(post: Post, directory: &Directory) -> Self {
        let names = directory.of(&post.account);
        let (id, thread_id) = (post.id(), post.thread_id());
        let (sent_at, edited_at) = (post.ts.rfc3339(), post.edited.map(|edited| edited.rfc3339()));
        let sender = sender(&post, &names);
        let channel_name = post.channel.name.or_else(|| names.channel(&post.channel.id).map(str::to_owned));
        let deleted = post.deleted;
        // Nothing of the content, even if Slack still provides it.
        let raw = if deleted { post.raw.emptied() } else { post.raw };
        let plain = raw.text.as_deref().filter(|text| !text.is_empty()).map(|text| mrkdwn::plain(text, &names));
        let blocks = raw.blocks.as_ref().map(|blocks| mrkdwn::of_blocks(blocks, &names));
        let text = mrkdwn::with_blocks(plain.unwrap_or_default(), blocks.as_deref().unwrap_or_default());
        Self {
            id,
            source: "slack",
            account: post.account,
            channel: Channel { id: post.channel.id, name: channel_name },
            thread_id,
            sender,
            kind: MessageKind::of(raw.subtype.as_deref()),
            subtype: raw.subtype,
            sent_at,
            edited_at,
            deleted,
            text,
            raw_text: raw.text,
            files: raw.files.unwrap_or_else(|| raw.file.into_iter().collect()).into_iter().map(shared).collect(),
            attachments: raw.attachments.into_iter().flatten().map(|attachment| shown(attachment, &names)).collect(),
            reactions: raw.reactions.into_iter().flatten().filter(|reaction| !reaction.name.is_empty()).map(reactions).collect(),
        }
    }
}

fn sender(post: &Post, names: &impl Names) -> Sender {
    let raw = &post.raw;
    // The tombstone was created by Slack itself.
    let is_somebody = |id: &str| !(post.deleted && id == "USLACKBOT");
    let user = raw.user.as_ref().filter(|id| is_somebody(id));
    let id = user.or(raw.bot_id.as_ref()).cloned();
    let known = post.user.as_ref().filter(|user| is_somebody(&user.id) && id.as_ref().is_none_or(|id| *id == user.id));
    let name = [
        known.and_then(|user| user.name.as_deref()),
        raw.username.as_deref(),
        user.and_then(|id| names.user(id)),
        raw.user_profile.as_ref().and_then(profile_name),
        raw.bot_profile.as_ref().and_then(profile_name),
    ];
    let name = name.into_iter().flatten().find(|name| !name.is_empty()).map(str::to_owned);
    let is_bot = raw.bot_id.is_some() || raw.subtype.as_deref() == Some("bot_message");
    Sender { id: id.or_else(|| known.map(|user| user.id.clone())), name, is_bot }
}

/// Returns the name shown by Slack: the display name, or the real name.
pub(crate) fn profile_name(profile: &Profile) -> Option<&str> {
    let names = [&profile.display_name, &profile.real_name, &profile.name];
    names.into_iter().filter_map(|name| name.as_deref()).find(|name| !name.is_empty())
}

fn shared(file: File) -> SharedFile {
    SharedFile {
        id: file.id,
        title: file.title.clone().filter(|title| file.name.as_ref().is_some_and(|name| name != title)),
        name: file.name.or(file.title),
        media_type: file.mimetype,
        size: file.size,
        url: file.url_private.or(file.permalink),
        deleted: file.mode.as_deref() == Some("tombstone"),
    }
}

fn shown(attachment: Attachment, names: &impl Names) -> Shown {
    let plain = |text: Option<String>| text.filter(|text| !text.is_empty()).map(|text| mrkdwn::plain(&text, names));
    let mut lines: Vec<String> = [plain(attachment.pretext), plain(attachment.text)].into_iter().flatten().collect();
    for field in attachment.fields.into_iter().flatten() {
        match (plain(field.title), plain(field.value)) {
            (Some(title), Some(value)) => lines.push(format!("{title}: {value}")),
            (one, other) => lines.extend(one.or(other)),
        }
    }
    let blocks: Vec<String> = [attachment.blocks, attachment.message_blocks.as_ref().map(blocks_of_messages)]
        .into_iter()
        .flatten()
        .map(|blocks| mrkdwn::of_blocks(&blocks, names))
        .collect();
    let text = mrkdwn::with_blocks(lines.join("\n"), &blocks.join("\n"));
    // Generated by Slack from the other fields, for clients that do not show attachments.
    let text = if text.is_empty() { plain(attachment.fallback) } else { Some(text) };
    let text = match (text, plain(attachment.footer)) {
        (Some(text), Some(footer)) => Some(format!("{text}\n{footer}")),
        (text, footer) => text.or(footer),
    };
    Shown {
        title: attachment.title.map(|title| mrkdwn::plain(&title, names)),
        text,
        author: plain(attachment.author_name),
        url: attachment.title_link.or(attachment.from_url).or(attachment.original_url),
        image_url: attachment.image_url,
    }
}

/// `[{"message": {"blocks": […]}}]`.
fn blocks_of_messages(messages: &Value) -> Value {
    let blocks = |one: &Value| one.pointer("/message/blocks").cloned();
    Value::Array(messages.as_array().into_iter().flatten().filter_map(blocks).collect())
}

fn reactions(reaction: crate::slack::Reaction) -> Reactions {
    let users = reaction.users.unwrap_or_default();
    Reactions { name: reaction.name, count: reaction.count.unwrap_or(users.len() as u64), users }
}

#[cfg(test)]
pub(crate) mod tests;
