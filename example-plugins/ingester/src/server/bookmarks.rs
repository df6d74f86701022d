//! Positions in the folders of an account: a small JSON file next to the archive.
//!
//! A bookmark is updated only after the messages before it are on disk, and the file is replaced atomically. It is used only
//! if it matches the archive: if the archive has lost messages, everything is read again (the archive stores each message
//! once).

use super::ServerError;
use super::left::Left;
use lorchestra_plugin_api::serde_json;
use package_support::atomic_file;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// Incremented when the meaning of the file changes.
const VERSION: u32 = 2;

/// A mailbox on a server. The same folder names on another server contain other mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mailbox {
    pub(crate) place: String,
    pub(crate) user: String,
}

/// Position in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bookmark {
    /// As long as it does not change, a UID identifies the same message.
    pub(crate) uid_validity: u32,
    /// All messages up to this UID have been processed.
    pub(crate) last_uid: u32,
    /// Messages up to `last_uid` that were skipped because of their date. A run with a window that includes them reads them.
    pub(crate) left: Left,
    /// UIDs that the server did not send, to be retried once.
    pub(crate) again: BTreeSet<u32>,
}

/// Why bookmarks are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// The file has another format, or is corrupt.
    Unreadable,
    /// The archive has fewer messages than when the bookmarks were updated.
    ArchiveShrank,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Number of messages in the archive.
    archived: usize,
    mailboxes: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    mailbox: Mailbox,
    /// Folders by the name as spelled by the server.
    folders: BTreeMap<String, Bookmark>,
}

/// The file of an account. The archive's lock protects it as well.
#[derive(Debug)]
pub(crate) struct Bookmarks {
    path: PathBuf,
    mailbox: Mailbox,
    content: Content,
}

impl Bookmarks {
    /// Reads the file, for an archive with this number of messages.
    pub(crate) fn open(path: PathBuf, mailbox: Mailbox, archived: usize) -> Result<(Self, Option<Distrust>), ServerError> {
        let none = Content { version: VERSION, archived, mailboxes: Vec::new() };
        let (content, distrust) = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Content>(&bytes) {
                Ok(content) if content.version != VERSION => (none, Some(Distrust::Unreadable)),
                Ok(content) if content.archived > archived => (none, Some(Distrust::ArchiveShrank)),
                Ok(content) => (content, None),
                Err(_) => (none, Some(Distrust::Unreadable)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (none, None),
            Err(source) => return Err(ServerError::Bookmark { path, doing: "reading it", source }),
        };
        Ok((Self { path, mailbox, content }, distrust))
    }

    /// Returns the bookmark of a folder.
    pub(crate) fn of(&self, folder: &str) -> Option<&Bookmark> {
        self.content.mailboxes.iter().find(|entry| entry.mailbox == self.mailbox)?.folders.get(folder)
    }

    /// Updates a bookmark. Call it after the messages before it are on disk; the archive then has `archived` messages.
    pub(crate) fn set(&mut self, folder: &str, bookmark: &Bookmark, archived: usize) -> Result<(), ServerError> {
        if self.of(folder) == Some(bookmark) && self.content.archived == archived {
            return Ok(());
        }
        self.content.archived = archived;
        let at = self.content.mailboxes.iter().position(|entry| entry.mailbox == self.mailbox).unwrap_or_else(|| {
            self.content.mailboxes.push(Entry { mailbox: self.mailbox.clone(), folders: BTreeMap::new() });
            self.content.mailboxes.len() - 1
        });
        self.content.mailboxes[at].folders.insert(folder.to_owned(), bookmark.clone());
        atomic_file::replace(&self.path, &self.content).map_err(|source| ServerError::Bookmark {
            path: self.path.clone(),
            doing: "writing it",
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::chrono::Utc;

    fn mailbox(user: &str) -> Mailbox {
        Mailbox { place: "imap.example.org:993".into(), user: user.into() }
    }

    #[test]
    fn bookmarks_apply_to_the_same_mailbox_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imap/a.json");
        let mut left = Left::default();
        left.insert(3, None, None);
        left.insert(9, Some(Utc::now()), None);
        let bookmark = Bookmark { uid_validity: 7, last_uid: 500, left, again: BTreeSet::from([4]) };
        let (mut bookmarks, distrust) = Bookmarks::open(path.clone(), mailbox("anna"), 0).unwrap();
        assert_eq!((bookmarks.of("INBOX"), distrust), (None, None));
        bookmarks.set("INBOX", &bookmark, 498).unwrap();
        let (again, distrust) = Bookmarks::open(path.clone(), mailbox("anna"), 498).unwrap();
        assert_eq!((again.of("INBOX"), again.of("Sent"), distrust), (Some(&bookmark), None, None));
        assert_eq!(Bookmarks::open(path, mailbox("berta"), 498).unwrap().0.of("INBOX"), None);
        assert_eq!(std::fs::read_dir(dir.path().join("imap")).unwrap().count(), 1, "nothing next to it");
    }

    #[test]
    fn bookmarks_are_ignored_if_the_archive_shrank() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let (mut bookmarks, _) = Bookmarks::open(path.clone(), mailbox("anna"), 0).unwrap();
        bookmarks.set("INBOX", &Bookmark { uid_validity: 7, last_uid: 5, ..Bookmark::default() }, 5).unwrap();
        let (shrank, distrust) = Bookmarks::open(path.clone(), mailbox("anna"), 4).unwrap();
        assert_eq!((shrank.of("INBOX"), distrust), (None, Some(Distrust::ArchiveShrank)));
        std::fs::write(&path, "{").unwrap();
        let (damaged, distrust) = Bookmarks::open(path, mailbox("anna"), 5).unwrap();
        assert_eq!((damaged.of("INBOX"), distrust), (None, Some(Distrust::Unreadable)));
    }
}
