//! `last` and `last:EXPR`: the bookmark as the beginning of a window. Owns which parameter takes them, what they mean, and whose bookmark a
//! request asks for, so that its maker can look that one up ([`asked_by`]). Called by [`super::resolve`]; pure.
//!
//! | form | is |
//! | --- | --- |
//! | `last` | the bookmark of the job and its account; there must be one |
//! | `last:-30d` | the bookmark; where there is none, the time behind the colon ([`super::time`]) |

use super::time::{self, TimeError};
use super::value::ValueError;
use super::{Given, find};
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use serde_json::Value;

/// A bookmark that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Of which account.
    pub account: Option<String>,
}

/// The bookmark that is to be looked up before the request can be resolved; `None`: it asks for none. A request that is faulty otherwise may ask
/// for any.
pub fn asked_by(job: &JobManifest, values: &[Given]) -> Option<Asked> {
    let since = job.params.iter().find(|param| takes(&param.name, param.kind))?;
    texts(job, values, since).into_iter().find_map(read)?;
    let account = job.params.iter().find(|param| is_account(param));
    let account = account.and_then(|param| texts(job, values, param).pop().map(str::to_owned));
    Some(Asked { account })
}

/// The parameter that says whose run it is.
pub fn is_account(param: &ParamManifest) -> bool {
    param.name == "account" && matches!(param.kind, ParamKind::String | ParamKind::Enum)
}

/// Whether this parameter may be `last`.
pub(super) fn takes(name: &str, kind: ParamKind) -> bool {
    name == "since" && kind == ParamKind::DateTime
}

/// The texts of a parameter: as typed, else its default.
fn texts<'a>(job: &'a JobManifest, values: &'a [Given], param: &'a ParamManifest) -> Vec<&'a str> {
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

/// One of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last<'a> {
    /// What stands behind the colon.
    otherwise: Option<&'a str>,
}

/// `text`, if it has one of the two forms.
pub(super) fn read(text: &str) -> Option<Last<'_>> {
    match text.strip_prefix("last")? {
        "" => Some(Last { otherwise: None }),
        rest => rest.strip_prefix(':').map(|otherwise| Last { otherwise: Some(otherwise) }),
    }
}

impl Last<'_> {
    /// The time it is; `None`: there is no bookmark, and nothing behind a colon. That is looked at in any case: a fault in it must not show
    /// up on the day when the bookmark is gone.
    pub(super) fn at(self, bookmark: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, ValueError> {
        let otherwise = self.otherwise.map(|text| time::parse(text, now)).transpose().map_err(ValueError::AfterLast)?;
        Ok(bookmark.map(time::to_micros).or(otherwise))
    }
}

/// The error for one of the two forms where a plain time is asked for.
pub(super) fn misplaced(text: &str) -> Option<TimeError> {
    read(text).map(|_| TimeError::Last)
}
