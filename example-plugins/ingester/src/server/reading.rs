//! Reads messages from a server's folders, one at a time, and maintains the bookmarks with which the next run starts.
//! [`extraction`](crate::extraction) reports what happened to each message, and when the archive is on disk.
//!
//! A folder is read in chunks of UIDs. The first request fetches sizes (and dates, if `since` excludes some); then whole
//! messages are fetched in batches of up to [`BATCH_BYTES`], or one larger message. One batch is in memory. A message that the
//! server does not send is set aside, and the next run retries it once. A folder that the server refuses is left out, and the run fails
//! after the others.

use super::ServerError;
use super::bookmarks::{Bookmark, Bookmarks, Distrust, Mailbox};
use super::folders::Folder;
use super::requests::{Missing, Requests, Wanted, is_temporary};
use super::tolerant::keyword;
use super::utf7;
use crate::message::Summary;
use crate::source::{Entry, Fault, MAX_MESSAGE, Place};
use crate::window::{Verdict, Window};
use imap::types::{Fetch, Flag};
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use lorchestra_plugin_api::tracing;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

/// Number of UIDs per request for sizes.
const CHUNK: usize = 500;
/// Maximum number of messages per request.
const BATCH: usize = 100;
/// Maximum size of a batch in bytes, unless a single message is larger.
const BATCH_BYTES: u64 = 4 << 20;
/// Approximate maximum size of a date field with its overhead, in bytes.
const SURVEYED: u64 = 64 << 10;
/// Overhead of a message in a response: flags, labels.
const AROUND: u64 = 16 << 10;

/// A note for the run, with a reason from a stable set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// A folder is read again from the start; `None` means all.
    Restarted { folder: Option<String>, reason: &'static str },
    /// A folder is not read, or not completely: its name, or the server's line in which no name was found.
    Skipped { folder: String, reason: &'static str },
}

/// An open session with the bookmarks of its folders.
pub(crate) struct Reading<'a> {
    requests: Requests<'a>,
    is_gmail: bool,
    window: Window,
    folders: VecDeque<Folder>,
    open: Option<Open>,
    /// Why the server refused a folder: the first one.
    refused: Option<ServerError>,
    file: PathBuf,
    mailbox: Mailbox,
    /// Set with the first message: before that, the archive is not locked.
    bookmarks: Option<Bookmarks>,
    archived: usize,
    notes: Vec<Note>,
    /// A batch is complete, so the bookmark can be updated.
    is_due: bool,
    done: u64,
    total: u64,
}

/// The folder being read.
struct Open {
    folder: Folder,
    bookmark: Bookmark,
    /// UIDs not processed yet, ascending.
    unseen: VecDeque<u32>,
    /// The first UID that no run has seen before.
    first: u32,
    /// UIDs of the current chunk.
    chunk: BTreeSet<u32>,
    /// Last UID of the current chunk.
    chunk_end: Option<u32>,
    /// Entries without a message: outside of the window, too large, gone.
    without: VecDeque<(Entry, Vec<u8>)>,
    /// UID and size of messages to fetch, ascending.
    wanted: VecDeque<(u32, u64)>,
    /// Fetched messages, ascending.
    batch: VecDeque<(Entry, Vec<u8>)>,
}

/// What is known about a message before it is fetched.
#[derive(Default)]
struct Surveyed {
    size: Option<u64>,
    /// The server's date.
    received: Option<DateTime<Utc>>,
    /// The Date field.
    header: Vec<u8>,
}

impl<'a> Reading<'a> {
    #[expect(clippy::too_many_arguments, reason = "a connection needs all of them")]
    pub(super) fn new(
        requests: Requests<'a>,
        folders: Vec<Folder>,
        is_gmail: bool,
        window: Window,
        file: PathBuf,
        mailbox: Mailbox,
    ) -> Self {
        Self {
            requests,
            is_gmail,
            window,
            folders: folders.into(),
            open: None,
            refused: None,
            file,
            mailbox,
            bookmarks: None,
            archived: 0,
            notes: Vec::new(),
            is_due: false,
            done: 0,
            total: 0,
        }
    }

    /// Returns the notes for the run since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Returns the number of messages processed and the total known so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.done, self.total)
    }

    /// Reads the bookmarks. The archive is now locked and has this number of messages.
    pub(crate) fn start(&mut self, archived: usize) -> Result<(), ServerError> {
        let (bookmarks, distrust) = Bookmarks::open(self.file.clone(), self.mailbox.clone(), archived)?;
        self.bookmarks = Some(bookmarks);
        self.archived = archived;
        let reason = match distrust {
            None => return Ok(()),
            Some(Distrust::Unreadable) => "bookmarks_unreadable",
            Some(Distrust::ArchiveShrank) => "archive_shrank",
        };
        tracing::warn!(reason, "ignoring the bookmarks: reading all folders from the start");
        self.notes.push(Note::Restarted { folder: None, reason });
        Ok(())
    }

    /// Returns the next message, see [`Source::next`](crate::source::Source::next).
    pub(crate) fn next(&mut self, raw: &mut Vec<u8>) -> Result<Option<Entry>, ServerError> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(folder) = self.folders.pop_front() else {
                    self.requests.end();
                    // Last, so that a folder that the server never opens does not keep the others from being read.
                    return self.refused.take().map_or(Ok(None), Err);
                };
                let name = folder.name.clone();
                match self.open_folder(folder) {
                    Ok(open) => self.open = Some(open),
                    Err(error) => self.skip_refused(name, error)?,
                }
                continue;
            };
            if let Some((entry, bytes)) = open.without.pop_front() {
                *raw = bytes;
                self.done += 1;
                return Ok(Some(entry));
            }
            if let Some((entry, bytes)) = open.batch.pop_front() {
                *raw = bytes;
                self.done += 1;
                self.is_due = open.batch.is_empty();
                return Ok(Some(entry));
            }
            if !open.wanted.is_empty() {
                let fetched = self.fetch();
                self.or_skip(fetched)?;
                continue;
            }
            if let Some(end) = open.chunk_end.take() {
                open.bookmark.last_uid = open.bookmark.last_uid.max(end);
            }
            if !open.unseen.is_empty() {
                let surveyed = self.survey();
                self.or_skip(surveyed)?;
                continue;
            }
            self.save()?;
            self.open = None;
        }
    }

    /// Reports the outcome of the last message: done (extracted or permanently refused), or `left` because of its date.
    pub(crate) fn settle(&mut self, entry: &Entry, left: Option<Option<DateTime<Utc>>>) {
        let (Place::Uid { uid, .. }, Some(open)) = (&entry.place, &mut self.open) else { return };
        match left {
            Some(date) => {
                // Of new messages, all that exist are in the chunk.
                let before = open.chunk.range(..uid).next_back().filter(|before| **before >= open.first);
                open.bookmark.left.insert(*uid, date, before.copied());
            }
            None => open.bookmark.left.remove(*uid),
        }
        // A message is retried only once.
        if !open.bookmark.again.remove(uid) && entry.fault.is_some_and(Fault::may_pass) {
            open.bookmark.again.insert(*uid);
        }
        // Whole messages arrive in the order of their UIDs, after all other entries of their chunk.
        if entry.is_whole {
            open.bookmark.last_uid = open.bookmark.last_uid.max(*uid);
        }
    }

    /// Returns whether to sync the archive and call [`checkpoint`](Self::checkpoint).
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Reports that all processed messages are on disk, in an archive with this number of messages.
    pub(crate) fn checkpoint(&mut self, archived: usize) -> Result<(), ServerError> {
        self.archived = archived;
        self.is_due = false;
        self.save()
    }

    fn save(&mut self) -> Result<(), ServerError> {
        match (&self.open, &mut self.bookmarks) {
            (Some(open), Some(bookmarks)) => bookmarks.set(&open.folder.wire, &open.bookmark, self.archived),
            _ => Ok(()),
        }
    }

    /// Notes lines of the server's list in which no folder was found.
    pub(super) fn note_unreadable(&mut self, lines: Vec<String>) {
        for line in lines {
            tracing::warn!(line, "the server listed a folder in a way that cannot be parsed: skipping it");
            self.notes.push(Note::Skipped { folder: line, reason: "unreadable" });
        }
    }

    /// Leaves the open folder if the server has refused a request about it.
    fn or_skip(&mut self, result: Result<(), ServerError>) -> Result<(), ServerError> {
        match (result, &self.open) {
            (Err(error), Some(open)) => {
                let name = open.folder.name.clone();
                self.skip_refused(name, error)
            }
            (result, _) => result,
        }
    }

    /// Continues with the next folder if the server has refused this one permanently. The next run starts where this one has stored
    /// its bookmark.
    fn skip_refused(&mut self, folder: String, error: ServerError) -> Result<(), ServerError> {
        let error = match error {
            ServerError::Refused { place, doing, reply } if !is_temporary(&reply) => {
                ServerError::FolderRefused { place, folder: folder.clone(), doing, reply }
            }
            error @ ServerError::FolderRefused { .. } => error,
            error => return Err(error),
        };
        tracing::warn!(folder, error = %error, "the server refused a folder");
        self.open = None;
        self.notes.push(Note::Skipped { folder, reason: "refused" });
        self.refused.get_or_insert(error);
        Ok(())
    }

    fn open_folder(&mut self, folder: Folder) -> Result<Open, ServerError> {
        let (mailbox, uid_validity) = self.requests.examine(&folder.wire).map_err(|error| match error {
            // Also if it is in use: the others may not be.
            ServerError::Refused { place, reply, .. } => {
                ServerError::FolderRefused { place, folder: folder.name.clone(), doing: "to open it", reply }
            }
            error => error,
        })?;
        let known = self.bookmarks.as_ref().and_then(|bookmarks| bookmarks.of(&folder.wire)).cloned();
        let bookmark = match known {
            Some(bookmark) if bookmark.uid_validity == uid_validity => bookmark,
            Some(_) => {
                tracing::warn!("a folder was recreated on the server (UIDVALIDITY changed): reading it from the start");
                self.notes.push(Note::Restarted { folder: Some(folder.name.clone()), reason: "uidvalidity_changed" });
                Bookmark { uid_validity, ..Bookmark::default() }
            }
            None => Bookmark { uid_validity, ..Bookmark::default() },
        };
        let mut bookmark = bookmark;
        let ranges = bookmark.left.touched_by(&self.window);
        let mut unseen = if ranges.is_empty() { BTreeSet::new() } else { self.requests.within(&ranges)? };
        for &(first, last) in ranges.iter().filter(|(first, last)| unseen.range(first..=last).next().is_none()) {
            tracing::debug!(first, last, "skipped messages no longer exist");
            bookmark.left.remove_range(first);
        }
        unseen.extend(&bookmark.again);
        let first = bookmark.last_uid.saturating_add(1);
        if mailbox.exists > 0 && mailbox.uid_next.is_none_or(|next| next > first) {
            let found = self.requests.since(first, mailbox.exists)?;
            unseen.extend(found.into_iter().filter(|uid| *uid >= first));
        }
        self.total += unseen.len() as u64;
        tracing::debug!(new = unseen.len(), "opened a folder");
        Ok(Open {
            folder,
            bookmark,
            unseen: unseen.into_iter().collect(),
            first,
            chunk: BTreeSet::new(),
            chunk_end: None,
            without: VecDeque::new(),
            wanted: VecDeque::new(),
            batch: VecDeque::new(),
        })
    }

    /// Determines what to fetch of the next chunk.
    fn survey(&mut self) -> Result<(), ServerError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let chunk: BTreeSet<u32> = open.unseen.drain(..open.unseen.len().min(CHUNK)).collect();
        // Without `since`, almost all messages are extracted, and the whole message contains its date.
        let by_date = self.window.since.is_some();
        let wanted = Wanted {
            items: if by_date { "(UID RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS (DATE)])" } else { "(UID RFC822.SIZE)" },
            bytes: &|uids| uids.len() as u64 * if by_date { SURVEYED } else { AROUND },
            doing: "the search for new messages",
        };
        let mut found: BTreeMap<u32, Surveyed> = BTreeMap::new();
        let Missing { refused, is_garbled } = self.requests.fetch(&chunk, &wanted, |fetch| {
            if let Some(uid) = fetch.uid.filter(|uid| chunk.contains(uid)) {
                // If a message's flags change at this moment, the server sends two responses for it.
                let one = found.entry(uid).or_default();
                one.size = one.size.or(fetch.size.map(u64::from));
                one.received = one.received.or(fetch.internal_date().map(|at| at.to_utc()));
                one.header.extend_from_slice(fetch.header().unwrap_or_default());
            }
        })?;
        let unanswered: Vec<u32> =
            chunk.iter().copied().filter(|uid| !found.contains_key(uid) && !refused.contains(uid)).collect();
        // Deleted after they were listed, unless the server still lists them.
        let there = if unanswered.is_empty() { Default::default() } else { self.requests.existing(&unanswered)? };
        let without = |uid, received, fault| Entry {
            place: Place::Uid { folder: open.folder.name.clone(), uid },
            received,
            flags: None,
            labels: None,
            is_whole: false,
            fault,
        };
        for (uid, Surveyed { size, received, header }) in found {
            // A message of unknown size is fetched alone, assuming the maximum size.
            let size = size.unwrap_or(MAX_MESSAGE as u64);
            if by_date && self.window.judge(Summary::of(&header).date.or(received)) != Verdict::Inside {
                open.without.push_back((without(uid, received, None), header));
            } else if size > MAX_MESSAGE as u64 {
                open.without.push_back((without(uid, received, Some(Fault::TooLarge)), Vec::new()));
            } else {
                open.wanted.push_back((uid, size));
            }
        }
        let unanswered_here = unanswered.iter().copied().filter(|uid| there.contains(uid));
        let mut without_fault = vec![(refused, Fault::Refused)];
        if is_garbled {
            // Perhaps only the answer about its size cannot be parsed.
            open.wanted.extend(unanswered_here.map(|uid| (uid, MAX_MESSAGE as u64)));
            open.wanted.make_contiguous().sort_unstable();
        } else {
            without_fault.push((unanswered_here.collect(), Fault::Unanswered));
        }
        for (uids, fault) in without_fault {
            open.without.extend(uids.into_iter().map(|uid| (without(uid, None, Some(fault)), Vec::new())));
        }
        // Messages to retry that no longer exist.
        for uid in unanswered.iter().filter(|uid| !there.contains(uid)) {
            open.bookmark.left.remove(*uid);
            open.bookmark.again.remove(uid);
        }
        let here = (open.wanted.len() + open.without.len()) as u64;
        self.total = self.total.saturating_sub(chunk.len() as u64 - here.min(chunk.len() as u64));
        open.chunk_end = chunk.last().copied();
        open.chunk = chunk;
        Ok(())
    }

    /// Fetches the next batch.
    fn fetch(&mut self) -> Result<(), ServerError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut batch: BTreeMap<u32, u64> = BTreeMap::new();
        let mut bytes = 0;
        while let Some(&(uid, size)) = open.wanted.front() {
            if batch.len() == BATCH || (bytes + size > BATCH_BYTES && !batch.is_empty()) {
                break;
            }
            open.wanted.pop_front();
            batch.insert(uid, size);
            bytes += size;
        }
        let wanted = Wanted {
            items: if self.is_gmail {
                "(UID FLAGS INTERNALDATE X-GM-LABELS BODY.PEEK[])"
            } else {
                "(UID FLAGS INTERNALDATE BODY.PEEK[])"
            },
            // Some servers report sizes that are slightly too small.
            bytes: &|uids| uids.iter().filter_map(|uid| batch.get(uid)).sum::<u64>() * 2 + uids.len() as u64 * AROUND,
            doing: "fetching messages",
        };
        let mut missing: BTreeSet<u32> = batch.keys().copied().collect();
        let mut arrived = Vec::with_capacity(batch.len());
        let Missing { refused, is_garbled } = self.requests.fetch(&missing.clone(), &wanted, |fetch| {
            let (Some(uid), Some(body)) = (fetch.uid, fetch.body()) else { return };
            if !missing.remove(&uid) {
                return;
            }
            let fault = match body.len() {
                0 => Some(Fault::Empty),
                n if n > MAX_MESSAGE => Some(Fault::TooLarge),
                _ => None,
            };
            let (flags, labels) = marks(fetch, &open.folder);
            let entry = Entry {
                place: Place::Uid { folder: open.folder.name.clone(), uid },
                received: fetch.internal_date().map(|at| at.to_utc()),
                flags: Some(flags),
                labels: Some(labels),
                is_whole: true,
                fault,
            };
            arrived.push((uid, entry, body.to_vec()));
        })?;
        let lost: Vec<u32> = missing.iter().copied().filter(|uid| is_garbled && !refused.contains(uid)).collect();
        let there = if lost.is_empty() { Default::default() } else { self.requests.existing(&lost)? };
        arrived.extend(missing.into_iter().map(|uid| {
            let place = Place::Uid { folder: open.folder.name.clone(), uid };
            let fault = match uid {
                uid if refused.contains(&uid) => Fault::Refused,
                uid if there.contains(&uid) => Fault::Malformed,
                _ => Fault::Gone,
            };
            let fault = Some(fault);
            let entry = Entry { place, received: None, flags: None, labels: None, is_whole: true, fault };
            (uid, entry, Vec::new())
        }));
        arrived.sort_by_key(|(uid, ..)| *uid);
        open.batch = arrived.into_iter().map(|(_, entry, bytes)| (entry, bytes)).collect();
        Ok(())
    }
}

/// Returns a message's flags as Maildir letters, and its labels: the folder, Gmail's labels, and user-defined flags.
fn marks(fetch: &Fetch<'_>, folder: &Folder) -> (String, Vec<String>) {
    let mut letters = BTreeSet::new();
    let mut labels: Vec<String> = Vec::new();
    let mut add = |label: &str| {
        if !label.is_empty() && !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    };
    if !folder.is_all {
        add(&folder.name);
    }
    for label in fetch.gmail_labels().into_iter().flatten() {
        // Quoted, as received: `"\\Inbox"` and `"a \"b\""`.
        let label = label.replace("\\\"", "\"").replace("\\\\", "\\");
        add(&utf7::decode(label.trim_start_matches('\\')));
    }
    for flag in fetch.flags() {
        match flag {
            Flag::Draft => drop(letters.insert('D')),
            Flag::Flagged => drop(letters.insert('F')),
            Flag::Answered => drop(letters.insert('R')),
            Flag::Seen => drop(letters.insert('S')),
            Flag::Deleted => drop(letters.insert('T')),
            Flag::Custom(custom) if !custom.starts_with('\\') => add(&keyword(custom)),
            _ => {}
        }
    }
    (letters.into_iter().collect(), labels)
}
