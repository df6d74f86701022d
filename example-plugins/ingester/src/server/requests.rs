//! Requests to a server after login: open a folder, search UIDs, fetch messages. Owns the session. [`reading`](super::reading)
//! decides what to request.
//!
//! Gmail permanently answers `NO` to a request that includes a message it cannot send, other servers answer `BAD`. A refused request is
//! therefore split in halves, down to the message that causes the refusal. After many refusals in a row, a message that the server has
//! sent before is requested again: a server that refuses that one, too, refuses everything, and no message is at fault.

use super::ServerError;
use super::link::Budget;
use super::tls::Stream;
use super::tolerant::{Losses, Tolerant};
use crate::source::MAX_MESSAGE;
use imap::Session;
use imap::types::{Fetch, Mailbox, Uid};
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;

/// Number of consecutive refusals of single messages after which the server is probed.
const MAX_CONSECUTIVE_REFUSALS: usize = 20;
/// Maximum size of the answer to a probe, in bytes.
const PROBE_BYTES: u64 = 2 * MAX_MESSAGE as u64;

/// Maximum number of ranges in a search: servers limit the length of a command, many to 8 kB.
const MAX_RANGES: usize = 200;

/// Size of a UID in a search response, in bytes.
const UID_SIZE: u64 = 11;

/// An open session with its count of refusals.
pub(super) struct Requests<'a> {
    session: Session<Tolerant<Stream<'a>>>,
    losses: Losses,
    budget: Budget,
    place: String,
    consecutive_refusals: usize,
    /// A message of the open folder that the server has sent, and for which request.
    sent: Option<(&'static str, Uid)>,
}

/// The messages that did not arrive.
pub(super) struct Missing {
    /// Refused by the server.
    pub(super) refused: Vec<Uid>,
    /// Whether a response could not be parsed, so that its message was not passed on.
    pub(super) is_garbled: bool,
}

/// What to fetch.
pub(super) struct Wanted<'w> {
    /// Items in the syntax of `UID FETCH`.
    pub(super) items: &'static str,
    /// Approximate maximum size of the response, in bytes.
    pub(super) bytes: &'w dyn Fn(&[Uid]) -> u64,
    /// Name of the request for error messages.
    pub(super) doing: &'static str,
}

impl<'a> Requests<'a> {
    pub(super) fn new(session: Session<Tolerant<Stream<'a>>>, losses: Losses, budget: Budget, place: String) -> Self {
        Self { session, losses, budget, place, consecutive_refusals: 0, sent: None }
    }

    /// Opens a folder read-only, so that no message is marked as seen. Returns its UIDVALIDITY.
    pub(super) fn examine(&mut self, folder: &str) -> Result<(Mailbox, u32), ServerError> {
        const DOING: &str = "opening a folder";
        self.sent = None;
        self.budget.allow(0);
        let mailbox = self.session.examine(folder).map_err(|e| ServerError::from_imap(&self.place, DOING, e))?;
        let place = || self.place.clone();
        let none = || ServerError::Refused { place: place(), doing: DOING, reply: "it sent no UIDVALIDITY".to_owned() };
        let uid_validity = mailbox.uid_validity.ok_or_else(none)?;
        Ok((mailbox, uid_validity))
    }

    /// Returns the UIDs from this one on; the folder has `exists` messages. (`n:*` always includes the last message, even if
    /// its UID is less than n.)
    pub(super) fn since(&mut self, first: Uid, exists: u32) -> Result<HashSet<Uid>, ServerError> {
        self.search(&format!("{first}:*"), u64::from(exists))
    }

    /// Returns the messages that exist in these ranges, both ends included.
    pub(super) fn within(&mut self, ranges: &[(Uid, Uid)]) -> Result<BTreeSet<Uid>, ServerError> {
        let mut found = BTreeSet::new();
        for ranges in ranges.chunks(MAX_RANGES) {
            let set: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}:{last}")).collect();
            let count = ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
            found.extend(self.search(&set.join(","), count)?);
        }
        found.retain(|uid| ranges.iter().any(|(first, last)| (first..=last).contains(&uid)));
        Ok(found)
    }

    /// Returns which of these messages exist.
    pub(super) fn existing(&mut self, uids: &[Uid]) -> Result<HashSet<Uid>, ServerError> {
        self.search(&set(uids), uids.len() as u64)
    }

    fn search(&mut self, set: &str, count: u64) -> Result<HashSet<Uid>, ServerError> {
        self.budget.allow(count * UID_SIZE);
        let found = self.session.uid_search(format!("UID {set}"));
        found.map_err(|e| ServerError::from_imap(&self.place, "the search for new messages", e))
    }

    /// Fetches messages, passes the responses to the caller, and returns what is missing.
    pub(super) fn fetch(
        &mut self,
        uids: &BTreeSet<Uid>,
        wanted: &Wanted<'_>,
        mut take: impl FnMut(&Fetch<'_>),
    ) -> Result<Missing, ServerError> {
        self.losses.take();
        let uids: Vec<Uid> = uids.iter().copied().collect();
        let mut refused = Vec::new();
        // A stack: the last range is fetched next, so that UIDs are ascending.
        let mut pending: Vec<&[Uid]> = vec![&uids];
        while let Some(uids) = pending.pop() {
            self.budget.allow((wanted.bytes)(uids));
            match self.session.uid_fetch(set(uids), wanted.items) {
                Ok(fetched) => {
                    self.consecutive_refusals = 0;
                    self.sent = fetched.iter().find_map(|one| Some((wanted.doing, one.uid?))).or(self.sent);
                    fetched.iter().for_each(&mut take);
                }
                Err(error) if refusal(&error).is_some_and(|reply| !is_temporary(reply)) => {
                    if let [uid] = uids {
                        refused.push(*uid);
                        self.consecutive_refusals += 1;
                        if self.consecutive_refusals > MAX_CONSECUTIVE_REFUSALS && !self.answers(wanted)? {
                            return Err(ServerError::from_imap(&self.place, wanted.doing, error));
                        }
                    } else {
                        let (first, second) = uids.split_at(uids.len() / 2);
                        pending.extend([second, first]);
                    }
                }
                Err(error) => return Err(ServerError::from_imap(&self.place, wanted.doing, error)),
            }
        }
        Ok(Missing { refused, is_garbled: self.losses.take().messages > 0 })
    }

    /// Returns whether the server still sends a message that it has sent before; if there is none, the folder's last one.
    fn answers(&mut self, wanted: &Wanted<'_>) -> Result<bool, ServerError> {
        let known = self.sent.filter(|(doing, _)| *doing == wanted.doing);
        let known = known.map_or_else(|| "*".to_owned(), |(_, uid)| uid.to_string());
        self.budget.allow(PROBE_BYTES);
        match self.session.uid_fetch(known, wanted.items) {
            Ok(fetched) => {
                self.consecutive_refusals = 0;
                Ok(!fetched.is_empty())
            }
            Err(error) if refusal(&error).is_some() => Ok(false),
            Err(error) => Err(ServerError::from_imap(&self.place, wanted.doing, error)),
        }
    }

    /// Everything has been read, so errors on closing do not matter.
    pub(super) fn end(&mut self) {
        let _ = self.session.logout();
    }
}

/// Returns the server's reply if it has refused a command.
fn refusal(error: &imap::Error) -> Option<&str> {
    match error {
        imap::Error::No(no) => Some(&no.information),
        imap::Error::Bad(bad) => Some(&bad.information),
        _ => None,
    }
}

/// Returns whether a refusal is temporary and not about a message: RFC 5530 codes, and Gmail's response to too many downloads.
pub(super) fn is_temporary(reply: &str) -> bool {
    let reply = reply.to_ascii_uppercase();
    ["UNAVAILABLE", "INUSE", "LIMIT", "TOO MANY", "TEMPORAR", "TRY AGAIN", "THROTTLED", "BANDWIDTH", "OVERQUOTA"]
        .iter()
        .any(|word| reply.contains(word))
}

/// Formats ascending UIDs as an IMAP set: `1:3,7`.
fn set(uids: &[Uid]) -> String {
    let mut text = String::new();
    let mut uids = uids.iter().copied().peekable();
    while let Some(first) = uids.next() {
        let mut last = first;
        while let Some(next) = uids.next_if(|next| *next == last + 1) {
            last = next;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = if first == last { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}:{last}") };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_use_ranges() {
        assert_eq!(set(&[1, 2, 3, 7, 9, 10]), "1:3,7,9:10");
        assert_eq!(set(&[u32::MAX]), "4294967295");
    }
}
