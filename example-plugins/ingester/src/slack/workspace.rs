//! A workspace in the Web API: reads each channel page by page from the newest message back, with the threads of each page.
//! Uses the [`api`](super::api); the [`collection`](super::collection) reports when the archive is on disk.
//!
//! After each page is in the archive, the bookmark moves to its start. Edits of known messages and replies to them are found
//! as far back as `look_back`.

use super::Kind;
use super::api::{Api, ApiError, next_cursor};
use super::bookmarks::{Bookmark, Bookmarks, Rising};
use super::found::{Channel, Found, People, person, time};
use crate::window::Window;
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use lorchestra_plugin_api::serde_json::{Map, Value};
use lorchestra_plugin_api::tracing;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Number of messages per page. Slack recommends at most 200.
const PAGE: &str = "200";

/// What to read from a workspace.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Empty means all channels of these kinds that the app is in.
    pub(crate) channels: Vec<String>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) window: Window,
    pub(crate) look_back: Duration,
}

impl Wanted {
    /// Returns the range to read beyond a bookmark, which may be new or existing.
    fn stretch(&self, bookmark: &Bookmark, is_known: bool) -> Option<Rising> {
        let since = self.window.since.map(|at| at.timestamp_micros());
        let until = self.window.until.unwrap_or_else(Utc::now).timestamp_micros();
        if until <= bookmark.to {
            return None;
        }
        let back = i64::try_from(self.look_back.as_micros()).unwrap_or(i64::MAX);
        let low = if is_known {
            // Not before the start of the window, now or in an earlier run.
            Some(bookmark.to.saturating_sub(back)).max(bookmark.from).max(since).filter(|low| *low > 0)
        } else {
            since
        };
        Some(Rising { low, at: until, high: until })
    }
}

/// The next item.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Found),
    /// A channel that is not read, and the reason, from a stable set.
    Skipped {
        channel_id: String,
        reason: &'static str,
    },
    /// The bookmarks are ignored, for this reason.
    Restarted {
        reason: &'static str,
    },
    /// A page is complete: sync the archive, then call [`Workspace::checkpoint`].
    CheckpointDue,
}

/// An opened workspace.
pub(crate) struct Workspace<'a> {
    api: Api<'a>,
    wanted: Wanted,
    team: String,
    people: People,
    channels: VecDeque<Rc<Channel>>,
    /// Items to return before anything else.
    pending: VecDeque<Next>,
    total: u64,
    open: Option<Open>,
    file: PathBuf,
    bookmarks: Option<Bookmarks>,
    archived: usize,
}

/// The channel being read.
struct Open {
    channel: Rc<Channel>,
    bookmark: Bookmark,
    /// Replies from this time on are new.
    known: Option<i64>,
    /// Ranges to read: those that an earlier run left incomplete first, then the new one.
    is_resumed: bool,
    /// Cursor of the next page before this time. Empty: not requested yet.
    cursor: String,
    latest: i64,
    /// Messages and threads of the page, in order of time.
    page: VecDeque<Piece>,
    /// Start of the page, and whether there is another page before it.
    bottom: Option<(i64, bool)>,
}

enum Piece {
    Message(Map<String, Value>),
    /// The replies to the message with this `ts`, starting at this cursor.
    Thread {
        ts: String,
        cursor: String,
    },
}

impl<'a> Workspace<'a> {
    /// Checks the token, and lists users and channels.
    pub(crate) fn open(api: Api<'a>, wanted: Wanted, file: PathBuf) -> Result<Self, ApiError> {
        let me = api.call("auth.test", &[])?;
        let team = me["team_id"].as_str().unwrap_or_default().to_owned();
        let people: People = match api.all("users.list", &[], "members") {
            Ok(people) => people.iter().filter_map(person).collect(),
            Err(ApiError::Scope { .. }) => {
                tracing::warn!("the token lacks the scope users:read: messages will not include user names");
                People::new()
            }
            Err(error) => return Err(error),
        };
        let mut workspace = Self {
            api,
            wanted,
            team,
            people,
            channels: VecDeque::new(),
            pending: VecDeque::new(),
            total: 0,
            open: None,
            file,
            bookmarks: None,
            archived: 0,
        };
        workspace.list()?;
        Ok(workspace)
    }

    fn list(&mut self) -> Result<(), ApiError> {
        let types: Vec<&str> = self.wanted.kinds.iter().map(|kind| kind.of_slack()).collect();
        let listed = self.api.all("conversations.list", &[("types", &types.join(","))], "channels")?;
        let mut missing: Vec<&String> = self.wanted.channels.iter().collect();
        for channel in &listed {
            let Some(id) = channel["id"].as_str() else { continue };
            let with = channel["user"].as_str().map(|user| self.people.get(user).map_or(user, String::as_str));
            let name = channel["name"].as_str().or(with).unwrap_or(id);
            let is_it = |wanted: &str| wanted == id || wanted.trim_start_matches('#') == name;
            missing.retain(|wanted| !is_it(wanted));
            if self.wanted.channels.is_empty() {
                if channel["is_member"] == false {
                    self.pending.push_back(Next::Skipped { channel_id: id.to_owned(), reason: "not_in_channel" });
                    continue;
                }
            } else if !self.wanted.channels.iter().any(|wanted| is_it(wanted)) {
                continue;
            }
            self.channels.push_back(Rc::new(Channel { id: id.to_owned(), name: name.to_owned() }));
        }
        if let Some(channel) = missing.first() {
            return Err(ApiError::NoChannel { channel: (*channel).clone() });
        }
        self.total = self.channels.len() as u64;
        Ok(())
    }

    /// Returns the users.
    pub(crate) fn people(&self) -> &People {
        &self.people
    }

    /// Returns the number of channels read, and the total.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let left = self.channels.len() as u64 + u64::from(self.open.is_some());
        (self.total.saturating_sub(left), self.total)
    }

    /// Reads the bookmarks. The archive is now locked and has this number of messages.
    pub(crate) fn start(&mut self, archived: usize) -> Result<(), ApiError> {
        let (bookmarks, distrust) = Bookmarks::open(self.file.clone(), self.team.clone(), archived)?;
        self.bookmarks = Some(bookmarks);
        self.archived = archived;
        self.pending.extend(distrust.map(|reason| Next::Restarted { reason }));
        Ok(())
    }

    /// Reports that everything returned so far is on disk, in an archive with this number of messages.
    pub(crate) fn checkpoint(&mut self, archived: usize) -> Result<(), ApiError> {
        self.archived = archived;
        match (&self.open, &mut self.bookmarks) {
            (Some(open), Some(bookmarks)) => bookmarks.set(&open.channel.id, &open.bookmark, self.archived),
            _ => Ok(()),
        }
    }

    /// Returns the next item. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Next>, ApiError> {
        loop {
            if let Some(next) = self.pending.pop_front() {
                return Ok(Some(next));
            }
            let Some(open) = &mut self.open else {
                let Some(channel) = self.channels.pop_front() else { return Ok(None) };
                self.open = Some(self.begin(channel));
                continue;
            };
            let done = match open.page.pop_front() {
                Some(Piece::Message(message)) => {
                    return Ok(Some(Next::Message(Found { channel: Rc::clone(&open.channel), message })));
                }
                Some(Piece::Thread { ts, cursor }) => self.thread(&ts, &cursor),
                None => self.page(),
            };
            match done {
                Ok(true) => {}
                Ok(false) => self.open = None,
                Err(ApiError::NotInChannel { .. } | ApiError::NoChannel { .. }) => {
                    let Some(open) = self.open.take() else { continue };
                    let (channel_id, name) = (open.channel.id.clone(), format!("{} ({})", open.channel.name, open.channel.id));
                    if !self.wanted.channels.is_empty() {
                        return Err(ApiError::NotInChannel { channel: name });
                    }
                    return Ok(Some(Next::Skipped { channel_id, reason: "not_in_channel" }));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Decides where to start: at the bookmark, unless the window starts before the range that has been read.
    fn begin(&self, channel: Rc<Channel>) -> Open {
        let since = self.wanted.window.since.map(|at| at.timestamp_micros());
        let usable = |bookmark: &&Bookmark| match (bookmark.from, since) {
            (None, Some(since)) => since <= bookmark.to,
            (None, None) => true,
            (Some(_), None) => false,
            (Some(from), Some(since)) => from <= since && since <= bookmark.to,
        };
        let known = self.bookmarks.as_ref().and_then(|bookmarks| bookmarks.of(&channel.id)).filter(usable).cloned();
        let mut bookmark = known.clone().unwrap_or(Bookmark { from: since, to: since.unwrap_or(0), rising: None });
        let is_resumed = bookmark.rising.is_some();
        if !is_resumed {
            bookmark.rising = self.wanted.stretch(&bookmark, known.is_some());
        }
        let known = known.map(|known| known.to);
        Open { channel, bookmark, known, is_resumed, cursor: String::new(), latest: 0, page: VecDeque::new(), bottom: None }
    }

    /// Moves the bookmark to the start of the page, and fetches the next page. Returns whether the channel has more.
    fn page(&mut self) -> Result<bool, ApiError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let Some(rising) = &mut open.bookmark.rising else { return Ok(false) };
        if let Some((bottom, has_more)) = open.bottom.take() {
            rising.at = rising.at.min(bottom);
            if !has_more {
                open.bookmark.to = open.bookmark.to.max(rising.high);
                open.bookmark.rising = None;
                if std::mem::take(&mut open.is_resumed) {
                    open.bookmark.rising = self.wanted.stretch(&open.bookmark, true);
                }
            }
            self.pending.push_back(Next::CheckpointDue);
            return Ok(true);
        }
        if open.cursor.is_empty() {
            open.latest = rising.at;
        }
        let (oldest, latest) = (rising.low.map(|low| spelled(low - 1)).unwrap_or_default(), spelled(open.latest));
        let channel = open.channel.id.as_str();
        let params = [("channel", channel), ("limit", PAGE), ("oldest", &oldest), ("latest", &latest), ("cursor", &open.cursor)];
        let mut answer = self.api.call("conversations.history", &params)?;
        let Value::Array(messages) = answer["messages"].take() else { return Err(self.api.garbled("conversations.history")) };
        let next = next_cursor(&answer);
        if !next.is_empty() && next == open.cursor {
            return Err(self.api.circles("conversations.history"));
        }
        open.cursor = next;
        let has_more = answer["has_more"] == true || !open.cursor.is_empty();
        let times: Vec<i64> = messages.iter().filter_map(|m| micros(&m["ts"])).collect();
        let bottom = times.iter().min().copied();
        if has_more && open.cursor.is_empty() && bottom.is_none_or(|bottom| bottom >= rising.at) {
            // An empty page with a cursor would be requested forever.
            return Err(self.api.garbled("conversations.history"));
        }
        if rising.at == rising.high {
            // Use Slack's clock, not this host's: no later message can be older than this.
            rising.high = times.iter().max().map_or(open.bookmark.to.max(rising.low.unwrap_or(0)), |newest| newest + 1);
            rising.at = rising.high;
        }
        open.bottom = Some((bottom.unwrap_or(rising.at), has_more));
        for message in messages.into_iter().rev() {
            let Value::Object(message) = message else { return Err(self.api.garbled("conversations.history")) };
            let text = |name: &str| message.get(name).and_then(Value::as_str);
            let thread = text("ts").filter(|ts| text("thread_ts") == Some(ts)).map(str::to_owned);
            let has_new = match (open.known, message.get("latest_reply").and_then(micros)) {
                (Some(known), Some(latest)) => {
                    latest >= known || message.get("ts").and_then(micros).is_some_and(|ts| ts >= known)
                }
                _ => true,
            };
            open.page.push_back(Piece::Message(message));
            if let Some(ts) = thread.filter(|_| has_new) {
                open.page.push_back(Piece::Thread { ts, cursor: String::new() });
            }
        }
        Ok(true)
    }

    /// Fetches a page of a thread and puts it before the remaining items.
    fn thread(&mut self, ts: &str, cursor: &str) -> Result<bool, ApiError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let params = [("channel", open.channel.id.as_str()), ("ts", ts), ("limit", PAGE), ("cursor", cursor)];
        let mut answer = match self.api.call("conversations.replies", &params) {
            // Deleted in the meantime.
            Err(ApiError::Refused { error, .. }) if error == "thread_not_found" => return Ok(true),
            answer => answer?,
        };
        let Value::Array(messages) = answer["messages"].take() else { return Err(self.api.garbled("conversations.replies")) };
        let next = next_cursor(&answer);
        if !next.is_empty() && next == cursor {
            return Err(self.api.circles("conversations.replies"));
        }
        if !next.is_empty() {
            open.page.push_front(Piece::Thread { ts: ts.to_owned(), cursor: next });
        }
        for message in messages.into_iter().rev() {
            let Value::Object(message) = message else { return Err(self.api.garbled("conversations.replies")) };
            // The first message of each page is the parent.
            if message.get("ts").and_then(Value::as_str) != Some(ts) {
                open.page.push_front(Piece::Message(message));
            }
        }
        Ok(true)
    }
}

fn micros(ts: &Value) -> Option<i64> {
    time(ts.as_str()?).map(|at| at.timestamp_micros())
}

/// Formats a time as Slack does.
fn spelled(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros.max(0))
        .map_or_else(String::new, |at| format!("{}.{:06}", at.timestamp(), at.timestamp_subsec_micros()))
}
