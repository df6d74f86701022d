//! The faults of a request and their messages. Each fault of [`super::resolve`] is one line that names the flag, the value, the reason and
//! the fix, whatever the value contains.

use super::value::ValueError;
use crate::text::{one_line, quote, shortened};
use std::fmt;
use thiserror::Error;

/// Maximum number of characters of a typed value in a message.
const SHOWN_VALUE: usize = 60;
/// Maximum number of characters of a plugin's own text in a message.
const SHOWN_DOCS: usize = 100;

/// All faults of a request, at least one. Displayed one per line: unknown names, then the job's parameters in order, then the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// The faults, one line each.
    pub faults: Vec<PlanFault>,
    /// Whether one of them is in a value from the configuration.
    pub is_configured: bool,
}

impl PlanError {
    /// Whether all faults are bugs of the plugin, and none is in the typed values.
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

/// One fault. All texts are ready for display: quoted, shortened, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanFault {
    /// A value that its parameter does not accept.
    #[error("{typed}: {reason}")]
    Value {
        /// Flag and value.
        typed: String,
        /// The reason and the correction.
        reason: ValueError,
    },
    /// A parameter that the job does not have.
    #[error("{typed}: {job} has no parameter {name}; {hint}")]
    Unknown {
        /// Flag and value.
        typed: String,
        /// `package/job`.
        job: String,
        /// The name.
        name: String,
        /// The nearest name, or all names.
        hint: String,
    },
    /// A required parameter without a value.
    #[error("{flag} is missing; add {usage}: {summary}")]
    Missing {
        /// The flag, with its dashes.
        flag: String,
        /// The flag with a placeholder.
        usage: String,
        /// Its type, and the first line of its documentation.
        summary: String,
    },
    /// A parameter that accepts one value and was given several.
    #[error("{flag} is given {times} times, as {typed}, but {job} accepts it once; keep one")]
    Repeated {
        /// The flag, with its dashes.
        flag: String,
        /// The number of times it was given.
        times: usize,
        /// Each flag and value as typed.
        typed: String,
        /// `package/job`.
        job: String,
    },
    /// An empty window.
    #[error(
        "the window is empty: since {since} ({since_origin}) is not before until {until} ({until_origin}); {}",
        hint(until_origin)
    )]
    Window {
        /// The absolute beginning.
        since: String,
        /// The origin of the beginning.
        since_origin: String,
        /// The absolute end.
        until: String,
        /// The origin of the end.
        until_origin: String,
    },
    /// The request uses the bookmark, and there is none.
    #[error("{typed}: {whose} has no bookmark yet; use --{flag} last:-30d to start there, or set one: {command}")]
    NoBookmark {
        /// Flag and value, or the default.
        typed: String,
        /// The flag, without its dashes.
        flag: String,
        /// Job and account.
        whose: String,
        /// The command that sets the bookmark.
        command: String,
    },
    /// A window that is empty because the bookmark is at or after its end.
    #[error(
        "{typed}: the bookmark of {whose} is at {bookmark}, which is not before until {until} ({until_origin}): {}",
        all_done(until_origin)
    )]
    AllDone {
        /// Flag and value, or the default.
        typed: String,
        /// Job and account.
        whose: String,
        /// The absolute position of the bookmark.
        bookmark: String,
        /// The absolute end.
        until: String,
        /// The origin of the end.
        until_origin: String,
    },
    /// The manifest's own default is not a value of its parameter: a bug of the plugin.
    #[error("{flag}: {reason}; this is a bug in the plugin: pass {flag} explicitly, and report the bug to its author")]
    Default {
        /// The flag, with its dashes.
        flag: String,
        /// The default, and what is wrong with it.
        reason: String,
    },
    /// A spec that does not match its job.
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

/// Describes a job and its account for a message.
pub(super) fn whose(package: &str, job: &str, account: Option<&str>) -> String {
    let account = account.map(|account| format!(" for account {}", bare_or_quoted(account))).unwrap_or_default();
    format!("{package}/{job}{account}")
}

/// Returns the command that sets a bookmark.
pub(super) fn set_command(package: &str, job: &str, account: Option<&str>) -> String {
    let account = account.map(|account| format!(" --account {}", bare_or_quoted(account))).unwrap_or_default();
    format!("lorchestra bookmarks set {package} {job}{account} TIME")
}

/// Quotes a text only if a shell needs it.
fn bare_or_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+:/".contains(c);
    if !text.is_empty() && text.len() <= SHOWN_VALUE && text.chars().all(plain) { text.to_owned() } else { quote(text) }
}

/// Returns the first line of a plugin's text, for a message.
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
