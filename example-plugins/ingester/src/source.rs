//! Sources of mail. [`Source`] detects the type of a path, opens it and returns one message at a time. A mail server is a
//! source as well, opened in [`server`](crate::server). [`extraction`](crate::extraction) decides what happens to each
//! message.
//!
//! At most one message of a file is in memory, and at most [`MAX_MESSAGE`] bytes of it.

use crate::server::{Note, Reading, ServerError};
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

mod maildir;
mod mbox;

use maildir::Maildir;
use mbox::Mbox;
pub(crate) use mbox::Suspect;

/// Maximum size of a message, in bytes. Gmail accepts 50 MB; anything larger is not mail.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// An opened mailbox.
pub(crate) enum Source<'a> {
    Mbox(Box<Mbox<File>>),
    Maildir(Maildir),
    Server(Box<Reading<'a>>),
}

/// One message of a source, or an entry without one. The bytes are in the buffer passed to [`Source::next`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    /// Time of receipt: the date of an mbox separator line, or the server's date.
    pub(crate) received: Option<DateTime<Utc>>,
    /// Flag letters as in a Maildir file name (`RS`); `None` in an mbox.
    pub(crate) flags: Option<String>,
    /// Labels from the server; `None` if the labels are in the message itself.
    pub(crate) labels: Option<Vec<String>>,
    /// Whether the buffer contains the message. For a message outside of the window, a server sends only the date.
    pub(crate) is_whole: bool,
    /// Why there is no message.
    pub(crate) fault: Option<Fault>,
}

/// Position of a message. Not personal: contains no person and no content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Byte offset of the separator line in an mbox.
    Offset(u64),
    /// Directory and name of a Maildir file, `cur/…`.
    File(String),
    /// Folder on a server, and the UID of the message.
    Uid { folder: String, uid: u32 },
}

/// Why a message cannot be extracted. The names are those of the `set_aside` counts and are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The message has no bytes.
    Empty,
    /// Larger than [`MAX_MESSAGE`] bytes.
    TooLarge,
    /// A Maildir entry that is not a regular file (a directory, a pipe, a dangling link).
    NotAFile,
    /// A Maildir file or server message that was moved or deleted after it was listed.
    Gone,
    /// A Maildir file without read permission.
    Unreadable,
    /// The server refused to send the message.
    Refused,
    /// The server lists the message but sends no response for it.
    Unanswered,
    /// The server's response with the message cannot be parsed.
    Malformed,
}

impl Fault {
    /// Returns the name used in the counts.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::NotAFile => "not_a_file",
            Self::Gone => "gone",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Malformed => "malformed",
        }
    }

    /// Returns whether a server may send the message later.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Self::Empty | Self::Gone | Self::Refused | Self::Unanswered | Self::Malformed)
    }
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{}: no such file or directory; set --source to a Takeout mbox file or a Maildir", .path.display())]
    Missing { path: PathBuf },
    #[error("{}: cannot open it; check that the user running the job may read it", .path.display())]
    Denied { path: PathBuf, source: io::Error },
    #[error("{}: is {kind}, not a file; set --source to an mbox file or a Maildir", .path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error("{}: is empty, but an mbox file has at least one message; check that it was unpacked completely", .path.display())]
    Empty { path: PathBuf },
    #[error("{}: is {looks}; set --source to {wanted}", .path.display())]
    NotAnMbox { path: PathBuf, looks: &'static str, wanted: &'static str },
    #[error("{}: is a directory without `cur` and `new`, so not a Maildir; {hint}", .path.display())]
    NotAMaildir { path: PathBuf, hint: String },
    #[error("{}: reading failed at {at}; messages already read are saved, run the job again to continue", .path.display())]
    Read { path: PathBuf, at: String, source: io::Error },
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl SourceError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Read { .. } => false,
            Self::Server(error) => error.is_permanent(),
            _ => true,
        }
    }

    fn open(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path, source: error },
            _ => Self::Read { path, at: "the start".into(), source: error },
        }
    }
}

impl Source<'_> {
    /// Opens a mailbox. Only regular files and directories are opened, because a pipe would block.
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let kind = fs::metadata(path).map_err(|e| SourceError::open(path, e))?.file_type();
        if kind.is_dir() {
            return Maildir::open(path).map(Self::Maildir);
        }
        if !kind.is_file() {
            let kind = match () {
                () if kind.is_fifo() => "a named pipe",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(SourceError::Kind { path: path.to_owned(), kind });
        }
        let file = File::open(path).map_err(|e| SourceError::open(path, e))?;
        Mbox::open(path, file).map(|mbox| Self::Mbox(Box::new(mbox)))
    }

    /// Returns `mbox`, `maildir` or `imap`.
    pub(crate) fn format(&self) -> &'static str {
        match self {
            Self::Mbox(_) => "mbox",
            Self::Maildir(_) => "maildir",
            Self::Server(_) => "imap",
        }
    }

    /// Returns the next message, and writes its bytes to `raw`. Returns `None` at the end.
    ///
    /// # Errors
    /// Fails if the source itself cannot be read. A message that cannot be read is returned as an entry with a fault.
    pub(crate) fn next(&mut self, raw: &mut Vec<u8>) -> Result<Option<Entry>, SourceError> {
        match self {
            Self::Mbox(mbox) => mbox.next(raw),
            Self::Maildir(maildir) => Ok(maildir.next(raw)),
            Self::Server(server) => Ok(server.next(raw)?),
        }
    }

    /// Reports that the archive is open and locked, and its number of messages. Must be called before the first
    /// [`next`](Self::next).
    pub(crate) fn start(&mut self, archived: usize) -> Result<(), SourceError> {
        match self {
            Self::Server(server) => Ok(server.start(archived)?),
            Self::Mbox(_) | Self::Maildir(_) => Ok(()),
        }
    }

    /// Reports the outcome of the last entry: `left` because of its date, or anything else.
    pub(crate) fn settle(&mut self, entry: &Entry, left: Option<Option<DateTime<Utc>>>) {
        if let Self::Server(server) = self {
            server.settle(entry, left);
        }
    }

    /// Returns whether the source waits for the archive to be synced.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self, Self::Server(server) if server.is_due())
    }

    /// Reports that the archive is on disk, with this number of messages. The source may now store its position.
    pub(crate) fn checkpoint(&mut self, archived: usize) -> Result<(), SourceError> {
        match self {
            Self::Server(server) => Ok(server.checkpoint(archived)?),
            Self::Mbox(_) | Self::Maildir(_) => Ok(()),
        }
    }

    /// Returns the notes for the run since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        match self {
            Self::Server(server) => server.take_notes(),
            Self::Mbox(_) | Self::Maildir(_) => Vec::new(),
        }
    }

    /// Returns the lines since the last call that have only some signs of a separator.
    pub(crate) fn take_suspects(&mut self) -> Vec<Suspect> {
        match self {
            Self::Mbox(mbox) => mbox.take_suspects(),
            Self::Maildir(_) | Self::Server(_) => Vec::new(),
        }
    }

    /// Returns the number of messages read and the total known so far, or `None` if the total is unknown.
    pub(crate) fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Server(server) => Some(server.progress()),
            Self::Mbox(_) | Self::Maildir(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn error(path: &Path) -> String {
        match Source::open(path) {
            Ok(source) => panic!("{} opened as {}", path.display(), source.format()),
            Err(error) => {
                assert!(error.is_permanent());
                error.to_string().replace(&path.display().to_string(), "PATH")
            }
        }
    }

    #[test]
    fn errors_for_invalid_mailboxes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let texts = [
            error(&dir.path().join("missing")),
            error(&at("file", b"x").join("below")),
            error(&at("empty.mbox", b"")),
            error(&at("letter.eml", b"Subject: a letter\n\nFrom me\n")),
            error(&at("short", b"Fro")),
            error(&at("takeout.zip", b"PK\x03\x04rest")),
            error(&at("takeout.tgz", b"\x1f\x8brest")),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn a_pipe_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(error(&path), "PATH: is a named pipe, not a file; set --source to an mbox file or a Maildir");
    }

    #[test]
    fn a_directory_without_a_maildir_suggests_its_mbox() {
        let dir = tempfile::tempdir().unwrap();
        assert!(error(dir.path()).ends_with("use the directory that contains both, or an mbox file"));
        fs::create_dir(dir.path().join("cur")).unwrap();
        assert!(error(dir.path()).contains("not a Maildir"), "half a Maildir is not one");
        fs::create_dir(dir.path().join("Mail")).unwrap();
        fs::write(dir.path().join("Mail/All mail.mbox"), "From ").unwrap();
        assert!(error(dir.path()).ends_with("use `Mail/All mail.mbox` in it"), "{}", error(dir.path()));
    }
}
