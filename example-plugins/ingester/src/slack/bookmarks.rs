//! How far the channels of an account were read: one small file of JSON, beside the archive. Talks to the file system.
//!
//! As with mail, a bookmark is moved only after the messages before it are on the disk, and is believed only together with the archive it
//! was made for.

use super::api::ApiError;
use lorchestra_plugin_api::serde_json;
use package_support::atomic_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Grows when the file means something else.
const VERSION: u32 = 1;

/// How far a channel was read. Times are microseconds since 1970, as Slack's `ts` without the dot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bookmark {
    /// All from here (`None`: from the beginning)…
    pub(crate) from: Option<i64>,
    /// …to before here was read, but for what `rising` says.
    pub(crate) to: i64,
    /// What is being read, newest first.
    pub(crate) rising: Option<Rising>,
}

/// A stretch that is read from its end down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rising {
    /// Where it begins; `None`: at the beginning of the channel.
    pub(crate) low: Option<i64>,
    /// All from here on was read.
    pub(crate) at: i64,
    /// Where it ends.
    pub(crate) high: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Messages in the archive.
    archived: usize,
    /// By workspace, then by channel.
    teams: BTreeMap<String, BTreeMap<String, Bookmark>>,
}

/// The file of an account. Who has the archive's lock has this, too.
#[derive(Debug)]
pub(crate) struct Bookmarks {
    path: PathBuf,
    team: String,
    content: Content,
}

impl Bookmarks {
    /// Reads the file, for an archive of so many messages; and why what was in it is not used.
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

    /// Of a channel.
    pub(crate) fn of(&self, channel: &str) -> Option<&Bookmark> {
        self.content.teams.get(&self.team)?.get(channel)
    }

    /// Moves it. Call it when the messages before it are on the disk; `archived` of them are in the archive.
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
