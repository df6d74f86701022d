//! How far the folders of an account were read: one small file of JSON, beside the archive. Talks to the file system.
//!
//! A bookmark is moved only after the messages before it are on the disk, and the file is replaced as a whole. It is believed only
//! together with the archive it was made for: should that have lost messages, all is read again (the archive has each once).

use super::ServerError;
use lorchestra_plugin_api::chrono::DateTime;
use lorchestra_plugin_api::chrono::Utc;
use lorchestra_plugin_api::serde_json;
use package_support::atomic_file;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// Grows when the file means something else.
const VERSION: u32 = 1;

/// A mailbox on a server: the same folder names mean other mail elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mailbox {
    pub(crate) place: String,
    pub(crate) user: String,
}

/// How far a folder was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bookmark {
    /// While it stays, a UID means the same message.
    pub(crate) uid_validity: u32,
    /// All messages up to this one were looked at.
    pub(crate) last_uid: u32,
    /// Those of them that were left, because their date was outside of what was asked for: to be taken by a run that asks for them.
    pub(crate) left: BTreeMap<u32, Option<DateTime<Utc>>>,
    /// Those that could not be had, and are to be tried once more. (Not in files of before.)
    #[serde(default)]
    pub(crate) again: BTreeSet<u32>,
}

/// Why what was known is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// The file is not one of ours, or damaged.
    Unreadable,
    /// The archive holds fewer messages than when the bookmarks were moved.
    ArchiveShrank,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Messages in the archive.
    archived: usize,
    mailboxes: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    mailbox: Mailbox,
    /// By the server's own spelling of the folder.
    folders: BTreeMap<String, Bookmark>,
}

/// The file of an account. Who has the archive's lock has this, too.
#[derive(Debug)]
pub(crate) struct Bookmarks {
    path: PathBuf,
    mailbox: Mailbox,
    content: Content,
}

impl Bookmarks {
    /// Reads the file, for an archive of so many messages.
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

    /// Of a folder.
    pub(crate) fn of(&self, folder: &str) -> Option<&Bookmark> {
        self.content.mailboxes.iter().find(|entry| entry.mailbox == self.mailbox)?.folders.get(folder)
    }

    /// Moves it. Call it when the messages before it are on the disk; `archived` of them are in the archive.
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

    fn mailbox(user: &str) -> Mailbox {
        Mailbox { place: "imap.example.org:993".into(), user: user.into() }
    }

    #[test]
    fn what_was_set_is_there_for_the_same_mailbox_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imap/a.json");
        let left = BTreeMap::from([(3, None), (9, DateTime::from_timestamp(1, 0))]);
        let bookmark = Bookmark { uid_validity: 7, last_uid: 500, left, again: BTreeSet::from([4]) };
        let (mut bookmarks, distrust) = Bookmarks::open(path.clone(), mailbox("anna"), 0).unwrap();
        assert_eq!((bookmarks.of("INBOX"), distrust), (None, None));
        bookmarks.set("INBOX", &bookmark, 498).unwrap();
        let (again, distrust) = Bookmarks::open(path.clone(), mailbox("anna"), 498).unwrap();
        assert_eq!((again.of("INBOX"), again.of("Sent"), distrust), (Some(&bookmark), None, None));
        assert_eq!(Bookmarks::open(path, mailbox("berta"), 498).unwrap().0.of("INBOX"), None);
        assert_eq!(std::fs::read_dir(dir.path().join("imap")).unwrap().count(), 1, "nothing beside it");
    }

    #[test]
    fn no_bookmark_is_believed_for_an_archive_that_shrank() {
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
