//! What is asked of a server that one is logged in to: a folder opened, UIDs searched, messages fetched. Owns the session. Talks to
//! the server; [`reading`](super::reading) decides what is asked for.
//!
//! Gmail answers `NO` to a request with one message in it that it cannot hand out, and to the same request ever after. So what is
//! refused is asked for in halves, down to the message that is the reason.

use super::ServerError;
use super::link::Budget;
use super::tls::Stream;
use super::tolerant::Tolerant;
use imap::Session;
use imap::types::{Fetch, Mailbox, Uid};
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;

/// Messages refused one after the other that are about each of them, at most. More are about something else: nothing is given up then.
const REFUSED_IN_A_ROW: usize = 20;

/// Bytes of a UID in an answer to a search.
const FOUND: u64 = 11;

/// An open session, and what it was refused.
pub(super) struct Requests<'a> {
    session: Session<Tolerant<Stream<'a>>>,
    budget: Budget,
    place: String,
    refused_in_a_row: usize,
}

/// What is asked for of messages.
pub(super) struct Wanted<'w> {
    /// As `UID FETCH` has it.
    pub(super) items: &'static str,
    /// Bytes of the answer, about, at most.
    pub(super) bytes: &'w dyn Fn(&[Uid]) -> u64,
    /// For messages of ours.
    pub(super) doing: &'static str,
}

impl<'a> Requests<'a> {
    pub(super) fn new(session: Session<Tolerant<Stream<'a>>>, budget: Budget, place: String) -> Self {
        Self { session, budget, place, refused_in_a_row: 0 }
    }

    /// Opens a folder, read-only: nothing becomes seen by this. With its UIDVALIDITY.
    pub(super) fn examine(&mut self, folder: &str) -> Result<(Mailbox, u32), ServerError> {
        const DOING: &str = "opening a folder";
        self.budget.allow(0);
        let mailbox = self.session.examine(folder).map_err(|e| ServerError::from_imap(&self.place, DOING, e))?;
        let garbled = || ServerError::Garbled { place: self.place.clone(), doing: DOING };
        let uid_validity = mailbox.uid_validity.ok_or_else(garbled)?;
        Ok((mailbox, uid_validity))
    }

    /// UIDs of messages that are there from this one on; `exists` are in the folder. (`n:*` has the last message, also where that is before n.)
    pub(super) fn since(&mut self, first: Uid, exists: u32) -> Result<HashSet<Uid>, ServerError> {
        self.search(&format!("{first}:*"), u64::from(exists))
    }

    /// Those of these messages that are there.
    pub(super) fn there(&mut self, uids: &[Uid]) -> Result<HashSet<Uid>, ServerError> {
        self.search(&set(uids), uids.len() as u64)
    }

    fn search(&mut self, set: &str, count: u64) -> Result<HashSet<Uid>, ServerError> {
        self.budget.allow(count * FOUND);
        let found = self.session.uid_search(format!("UID {set}"));
        found.map_err(|e| ServerError::from_imap(&self.place, "the search for new messages", e))
    }

    /// Fetches messages, hands over what is said of them, and answers with those that were refused.
    pub(super) fn fetch(
        &mut self,
        uids: &BTreeSet<Uid>,
        wanted: &Wanted<'_>,
        mut take: impl FnMut(&Fetch<'_>),
    ) -> Result<Vec<Uid>, ServerError> {
        let uids: Vec<Uid> = uids.iter().copied().collect();
        let mut refused = Vec::new();
        // The next to ask for is the last: ascending, for what is said to come in order.
        let mut to_ask: Vec<&[Uid]> = vec![&uids];
        while let Some(uids) = to_ask.pop() {
            self.budget.allow((wanted.bytes)(uids));
            match self.session.uid_fetch(set(uids), wanted.items) {
                Ok(fetched) => {
                    self.refused_in_a_row = 0;
                    fetched.iter().for_each(&mut take);
                }
                Err(imap::Error::No(no)) if !is_for_now(&no.information) && self.refused_in_a_row < REFUSED_IN_A_ROW => {
                    if let [uid] = uids {
                        refused.push(*uid);
                        self.refused_in_a_row += 1;
                    } else {
                        let (first, second) = uids.split_at(uids.len() / 2);
                        to_ask.extend([second, first]);
                    }
                }
                Err(error) => return Err(ServerError::from_imap(&self.place, wanted.doing, error)),
            }
        }
        Ok(refused)
    }

    /// All is here; what becomes of the connection is nobody's loss.
    pub(super) fn end(&mut self) {
        let _ = self.session.logout();
    }
}

/// Whether a refusal is about the hour and not about the message: RFC 5530, and what Gmail says to who fetched too much.
fn is_for_now(said: &str) -> bool {
    let said = said.to_ascii_uppercase();
    ["UNAVAILABLE", "INUSE", "LIMIT", "TOO MANY", "TEMPORAR", "TRY AGAIN", "THROTTLED", "BANDWIDTH", "OVERQUOTA"]
        .iter()
        .any(|word| said.contains(word))
}

/// A set of UIDs, ascending, as IMAP has it: `1:3,7`.
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
    fn sets_are_short() {
        assert_eq!(set(&[1, 2, 3, 7, 9, 10]), "1:3,7,9:10");
        assert_eq!(set(&[u32::MAX]), "4294967295");
    }
}
