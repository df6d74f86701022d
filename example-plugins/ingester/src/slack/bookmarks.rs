//! Positions in the channels of an account: a small JSON file next to the archive.
//!
//! As with mail, a bookmark is updated only after the messages before it are on disk, and is used only if it matches the
//! archive.

use super::api::ApiError;
use lorchestra_plugin_api::serde_json;
use package_support::atomic_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Incremented when the meaning of the file changes.
const VERSION: u32 = 1;

/// Position in a channel. Times are microseconds since 1970, as Slack's `ts` without the dot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bookmark {
    /// Start of the range that has been read; `None` means the start of the channel.
    pub(crate) from: Option<i64>,
    /// End of the range that has been read (exclusive), except for `rising`.
    pub(crate) to: i64,
    /// Ranges being read, newest first.
    pub(crate) rising: Option<Rising>,
}

/// A range that is read backward from its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rising {
    /// Start of the range; `None` means the start of the channel.
    pub(crate) low: Option<i64>,
    /// Everything from here to the end has been read.
    pub(crate) at: i64,
    /// End of the range.
    pub(crate) high: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Number of messages in the archive.
    archived: usize,
    /// By workspace, then by channel.
    teams: BTreeMap<String, BTreeMap<String, Bookmark>>,
}

/// The file of an account. The archive's lock protects it as well.
#[derive(Debug)]
pub(crate) struct Bookmarks {
    path: PathBuf,
    team: String,
    content: Content,
}

impl Bookmarks {
    /// Reads the file, for an archive with this number of messages. Also returns why its content is ignored.
    pub(crate) fn open(path: PathBuf, team: String, archived: usize) -> Result<(Self, Option<&'static str>), ApiError> {
        let none = Content { version: VERSION, archived, teams: BTreeMap::new() };
        let (content, distrust) = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Content>(&bytes) {
                Ok(content) if content.version == VERSION && content.archived <= archived => (content, None),
                Ok(content) if content.version == VERSION => (none, Some("archive_shrank")),
                _ => (none, Some("bookmarks_unreadable")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (none, None),
            Err(source) => return Err(ApiError::Bookmark { path, doing: "reading it", source }),
        };
        Ok((Self { path, team, content }, distrust))
    }

    /// Returns the bookmark of a channel.
    pub(crate) fn of(&self, channel: &str) -> Option<&Bookmark> {
        self.content.teams.get(&self.team)?.get(channel)
    }

    /// Updates a bookmark. Call it after the messages before it are on disk; the archive then has `archived` messages.
    pub(crate) fn set(&mut self, channel: &str, bookmark: &Bookmark, archived: usize) -> Result<(), ApiError> {
        if self.of(channel) == Some(bookmark) && self.content.archived == archived {
            return Ok(());
        }
        self.content.archived = archived;
        self.content.teams.entry(self.team.clone()).or_default().insert(channel.to_owned(), bookmark.clone());
        atomic_file::replace(&self.path, &self.content).map_err(|source| ApiError::Bookmark {
            path: self.path.clone(),
            doing: "writing it",
            source,
        })
    }
}
