//! A workspace as the Web API shows it: channel by channel, page by page from the newest down, and the threads of each page. Talks to the
//! [`api`](super::api); the [`collection`](super::collection) says when the archive is on the disk.
//!
//! A page is the step: when all of it is in the archive, the bookmark moves below it. What changes in messages that were read already,
//! and answers to them, are seen as far back as `look_back`.

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

/// Messages of a page. Slack recommends no more than 200.
const PAGE: &str = "200";

/// What is asked for of a workspace.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Empty: all of these kinds that the app is in.
    pub(crate) channels: Vec<String>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) window: Window,
    pub(crate) look_back: Duration,
}

impl Wanted {
    /// What is to be read beyond a bookmark: a new one, or one that is known.
    fn stretch(&self, bookmark: &Bookmark, is_known: bool) -> Option<Rising> {
        let since = self.window.since.map(|at| at.timestamp_micros());
        let until = self.window.until.unwrap_or_else(Utc::now).timestamp_micros();
        if until <= bookmark.to {
            return None;
        }
        let back = i64::try_from(self.look_back.as_micros()).unwrap_or(i64::MAX);
        let low = if is_known {
            // Not below what was asked for, now or then.
            Some(bookmark.to.saturating_sub(back)).max(bookmark.from).max(since).filter(|low| *low > 0)
        } else {
            since
        };
        Some(Rising { low, at: until, high: until })
    }
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Found),
    /// A channel that is not read, and why: a closed set, stable.
    Skipped {
        channel_id: String,
        reason: &'static str,
    },
    /// What was known is not used, and why.
    Restarted {
        reason: &'static str,
    },
    /// A page was handed out: bring the archive to the disk, then call [`Workspace::checkpoint`].
    Due,
}

/// An opened workspace.
pub(crate) struct Workspace<'a> {
    api: Api<'a>,
    wanted: Wanted,
    team: String,
    people: People,
    channels: VecDeque<Rc<Channel>>,
    /// To be said before anything else.
    told: VecDeque<Next>,
    total: u64,
    open: Option<Open>,
    file: PathBuf,
    bookmarks: Option<Bookmarks>,
    archived: usize,
}

/// The channel that is read now.
struct Open {
    channel: Rc<Channel>,
    bookmark: Bookmark,
    /// Answers from here on are new.
    known: Option<i64>,
    /// What an earlier run left half read comes first, and then what is new.
    is_resumed: bool,
    /// Where the next page is, of those before this time. Empty: not asked for yet.
    cursor: String,
    latest: i64,
    /// Messages and threads of the page, in the order of time.
    page: VecDeque<Piece>,
    /// Where the page begins, and whether one is below it.
    bottom: Option<(i64, bool)>,
}

enum Piece {
    Message(Map<String, Value>),
    /// The answers to the message of this `ts`, from this cursor on.
    Thread {
        ts: String,
        cursor: String,
    },
}

impl<'a> Workspace<'a> {
    /// Shows the token, and lists people and channels.
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
            told: VecDeque::new(),
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
                    self.told.push_back(Next::Skipped { channel_id: id.to_owned(), reason: "not_in_channel" });
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

    /// Who is who.
    pub(crate) fn people(&self) -> &People {
        &self.people
    }

    /// Channels read, of how many.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let left = self.channels.len() as u64 + u64::from(self.open.is_some());
        (self.total.saturating_sub(left), self.total)
    }

    /// Reads the bookmarks. The archive is locked now, and has so many messages.
    pub(crate) fn start(&mut self, archived: usize) -> Result<(), ApiError> {
        let (bookmarks, distrust) = Bookmarks::open(self.file.clone(), self.team.clone(), archived)?;
        self.bookmarks = Some(bookmarks);
        self.archived = archived;
        self.told.extend(distrust.map(|reason| Next::Restarted { reason }));
        Ok(())
    }

    /// All that was handed out before is on the disk, in an archive of so many messages.
    pub(crate) fn checkpoint(&mut self, archived: usize) -> Result<(), ApiError> {
        self.archived = archived;
        match (&self.open, &mut self.bookmarks) {
            (Some(open), Some(bookmarks)) => bookmarks.set(&open.channel.id, &open.bookmark, self.archived),
            _ => Ok(()),
        }
    }

    /// The next message. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Next>, ApiError> {
        loop {
            if let Some(next) = self.told.pop_front() {
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

    /// Decides where to begin: where the last run came to, unless more is asked for than that has read.
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

    /// Goes below the page that was handed out, and fetches the next one. Answers with whether there is more of the channel.
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
            self.told.push_back(Next::Due);
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
            // More of nothing would be asked for for ever.
            return Err(self.api.garbled("conversations.history"));
        }
        if rising.at == rising.high {
            // What Slack calls now, not this machine: nothing that comes yet is before it.
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

    /// Fetches a page of a thread, in front of what is there.
    fn thread(&mut self, ts: &str, cursor: &str) -> Result<bool, ApiError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let params = [("channel", open.channel.id.as_str()), ("ts", ts), ("limit", PAGE), ("cursor", cursor)];
        let mut answer = match self.api.call("conversations.replies", &params) {
            // Deleted since.
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
            // The first of each page is what is answered.
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

/// A time as Slack has it.
fn spelled(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros.max(0))
        .map_or_else(String::new, |at| format!("{}.{:06}", at.timestamp(), at.timestamp_subsec_micros()))
}
