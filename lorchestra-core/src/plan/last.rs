//! `last` and `last:EXPR`: the bookmark as the beginning of a window. Owns which parameter accepts them, what they mean, and whose bookmark
//! a request uses, so that the caller can look it up ([`requested_bookmark`]). Called by [`super::resolve`]; pure.
//!
//! | form | meaning |
//! | --- | --- |
//! | `last` | the bookmark of the job and its account; there must be one |
//! | `last:-30d` | the bookmark; if there is none, the time after the colon ([`super::time`]) |

use super::time::{self, TimeError};
use super::value::ValueError;
use super::{ParamArg, find};
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use serde_json::Value;

/// A bookmark that a request uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedBookmark {
    /// The account whose bookmark it is.
    pub account: Option<String>,
}

/// Returns the bookmark that must be looked up before the request can be resolved; `None` if it uses none. For a request with other faults
/// the result is arbitrary.
pub fn requested_bookmark(job: &JobManifest, values: &[ParamArg]) -> Option<RequestedBookmark> {
    let since = job.params.iter().find(|param| accepts_last(&param.name, param.kind))?;
    texts(job, values, since).into_iter().find_map(read)?;
    let account = job.params.iter().find(|param| is_account(param));
    let account = account.and_then(|param| texts(job, values, param).pop().map(str::to_owned));
    Some(RequestedBookmark { account })
}

/// Whether this parameter holds the run's account.
pub fn is_account(param: &ParamManifest) -> bool {
    param.name == "account" && matches!(param.kind, ParamKind::String | ParamKind::Enum)
}

/// Whether this parameter accepts `last`.
pub(super) fn accepts_last(name: &str, kind: ParamKind) -> bool {
    name == "since" && kind == ParamKind::DateTime
}

/// The texts of a parameter: as typed, or else its default.
fn texts<'a>(job: &'a JobManifest, values: &'a [ParamArg], param: &'a ParamManifest) -> Vec<&'a str> {
    let typed: Vec<&str> = values
        .iter()
        .filter(|given| find(job, &given.name).is_some_and(|found| found.name == param.name))
        .map(|given| given.text.as_str())
        .collect();
    match &param.default {
        Value::String(default) if typed.is_empty() => vec![default],
        _ => typed,
    }
}

/// A parsed `last` or `last:EXPR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last<'a> {
    /// The text after the colon.
    otherwise: Option<&'a str>,
}

/// Parses either form; `None` for other texts.
pub(super) fn read(text: &str) -> Option<Last<'_>> {
    match text.strip_prefix("last")? {
        "" => Some(Last { otherwise: None }),
        rest => rest.strip_prefix(':').map(|otherwise| Last { otherwise: Some(otherwise) }),
    }
}

impl Last<'_> {
    /// Returns the time; `None` if there is no bookmark and nothing after the colon. Always parses the text after the colon, so that a
    /// mistake in it does not first show up when the bookmark is gone.
    pub(super) fn at(self, bookmark: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, ValueError> {
        let otherwise = self.otherwise.map(|text| time::parse(text, now)).transpose().map_err(ValueError::AfterLast)?;
        Ok(bookmark.map(time::to_micros).or(otherwise))
    }
}

/// Returns the error for using `last` where only a plain time is accepted.
pub(super) fn misplaced(text: &str) -> Option<TimeError> {
    read(text).map(|_| TimeError::Last)
}
