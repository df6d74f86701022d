//! What is wrong with a request, in words. Owns the messages of [`super::resolve`]: each fault is one line that names the
//! flag, the value, the reason and the hint, whatever is in the value.

use super::value::ValueError;
use crate::text::{one_line, quote, shortened};
use std::fmt;
use thiserror::Error;

/// Characters of a typed value that are repeated in a message.
const SHOWN_VALUE: usize = 60;
/// Characters of a plugin's own text that are repeated in a message.
const SHOWN_DOCS: usize = 100;

/// Everything that is wrong with a request: at least one fault. Printed, one line each: names the job does not have, then
/// its parameters in their order, then the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// The faults, each a line of its own.
    pub faults: Vec<PlanFault>,
}

impl PlanError {
    /// Whether all of it is the plugin's fault, and nothing the caller typed.
    pub fn is_of_plugin(&self) -> bool {
        self.faults.iter().all(|fault| matches!(fault, PlanFault::Default { .. }))
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanError {}

/// One thing that is wrong. All texts are ready to be shown: quoted, shortened, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanFault {
    /// A value that its parameter does not take.
    #[error("{typed}: {reason}")]
    Value {
        /// Flag and value.
        typed: String,
        /// Why, and what to write.
        reason: ValueError,
    },
    /// A name that the job does not have.
    #[error("{typed}: {job} has no parameter {name}; {hint}")]
    Unknown {
        /// Flag and value.
        typed: String,
        /// `package/job`.
        job: String,
        /// The name.
        name: String,
        /// The nearest name, or all there are.
        hint: String,
    },
    /// A parameter without which the job does not run.
    #[error("{flag} is missing; add {usage}: {summary}")]
    Missing {
        /// The flag, with its dashes.
        flag: String,
        /// The flag as it would be typed.
        usage: String,
        /// Its type, and the first line of its documentation.
        summary: String,
    },
    /// One parameter, several values.
    #[error("{flag} is given {times} times, as {typed}, but {job} accepts it once; keep one")]
    Repeated {
        /// The flag, with its dashes.
        flag: String,
        /// How often.
        times: usize,
        /// Each flag and value, as typed.
        typed: String,
        /// `package/job`.
        job: String,
    },
    /// A window with nothing in it.
    #[error(
        "the window is empty: since {since} ({since_origin}) is not before until {until} ({until_origin}); {}",
        hint(until_origin)
    )]
    Window {
        /// The beginning, absolute.
        since: String,
        /// What it came from.
        since_origin: String,
        /// The end, absolute.
        until: String,
        /// What it came from.
        until_origin: String,
    },
    /// A bookmark was asked for, and there is none.
    #[error("{typed}: {whose} has no bookmark yet; use --{flag} last:-30d to start there, or set one: {command}")]
    NoBookmark {
        /// Flag and value, or the default.
        typed: String,
        /// The flag, without its dashes.
        flag: String,
        /// Job and account.
        whose: String,
        /// The command that sets it.
        command: String,
    },
    /// A window with nothing in it, because the bookmark stands at its end or behind it.
    #[error(
        "{typed}: the bookmark of {whose} is at {bookmark}, which is not before until {until} ({until_origin}): {}",
        all_done(until_origin)
    )]
    AllDone {
        /// Flag and value, or the default.
        typed: String,
        /// Job and account.
        whose: String,
        /// Where it is, absolute.
        bookmark: String,
        /// The end, absolute.
        until: String,
        /// What it came from.
        until_origin: String,
    },
    /// The manifest's own default does not fit its parameter: the plugin is broken.
    #[error("{flag}: {reason}; this is a bug in the plugin: pass {flag} explicitly, and report the bug to its author")]
    Default {
        /// The flag, with its dashes.
        flag: String,
        /// The default, and what is wrong with it.
        reason: String,
    },
    /// A spec that does not fit its job.
    #[error("{field} {reason}")]
    Spec {
        /// The key in the spec.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn hint(until_origin: &str) -> &'static str {
    if until_origin == super::START { "use an earlier since" } else { "use an earlier since or a later until" }
}

fn all_done(until_origin: &str) -> &'static str {
    if until_origin == super::START {
        "there is nothing new, or the clock went back; use lorchestra bookmarks set to move it"
    } else {
        "the whole window is done; use a later until, or another since to repeat it"
    }
}

/// A job and its account for a message.
pub(super) fn whose(package: &str, job: &str, account: Option<&str>) -> String {
    let account = account.map(|account| format!(" for account {}", bare_or_quoted(account))).unwrap_or_default();
    format!("{package}/{job}{account}")
}

/// The command that sets a bookmark.
pub(super) fn set_command(package: &str, job: &str, account: Option<&str>) -> String {
    let account = account.map(|account| format!(" --account {}", bare_or_quoted(account))).unwrap_or_default();
    format!("lorchestra bookmarks set {package} {job}{account} TIME")
}

/// A text as a shell would take it, where nothing in it needs quotes.
fn bare_or_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+:/".contains(c);
    if !text.is_empty() && text.len() <= SHOWN_VALUE && text.chars().all(plain) { text.to_owned() } else { quote(text) }
}

/// The first line of what a plugin says of itself, for a message.
pub(super) fn first_line(docs: &str) -> String {
    shortened(&one_line(docs.lines().next().unwrap_or_default()), SHOWN_DOCS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_text_stays_on_its_line() {
        assert_eq!(first_line("Which\tmailbox \u{1b}[31m.\nMore."), "Which mailbox [31m.");
        assert_eq!(first_line(&"x".repeat(500)).chars().count(), SHOWN_DOCS + 2);
        assert_eq!(first_line(""), "");
    }
}
