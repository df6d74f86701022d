//! Groups that a person names: by the id of a backfill or of a `run-group`, its short form, its beginning or end, or `last`; where runs are
//! meant, also by the name that they got with `run-job --group`.

use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::store::group::Group;
use lorchestra_core::store::history::NAMED;
use lorchestra_core::store::{Run, RunFilter, RunQuery, Store, short_id};
use std::collections::BTreeSet;

/// The kind of the groups of `backfill` in the store, of which the newest is `last`.
pub(super) const BACKFILL: &str = "backfill";
/// Maximum number of groups to list.
const LISTED: usize = 5;

/// Returns the group that a user named.
pub(super) fn find(store: &Store, text: &str) -> Result<Group, CommandError> {
    store.find_group(BACKFILL, text)?.map_err(|found| {
        if found.is_empty() {
            return unknown(text).hint("run lorchestra backfill list to see the newest ones");
        }
        let failure = several(text);
        found
            .iter()
            .take(LISTED)
            .fold(failure, |failure, group| failure.hint(format!("{}  {}", short_id(&group.group_id), group.name)))
    })
}

/// Returns the name of the group in the runs of this host that a user named.
pub(super) fn of_runs(store: Option<&Store>, text: &str) -> Result<String, CommandError> {
    // Also groups of `run-group`, and those that exist only in runs (`run-job --group`).
    let no_group = || unknown(text).hint("run lorchestra runs list --json, which prints the group of each run");
    let store = store.ok_or_else(no_group)?;
    let literally = RunQuery { group: Some(text.to_owned()), ..RunQuery::default() };
    if !store.find_runs(&literally, 1)?.is_empty() {
        return Ok(text.to_owned());
    }
    match store.find_group(BACKFILL, text)? {
        Ok(group) => Ok(group.group_id),
        Err(found) if found.is_empty() => Err(no_group()),
        Err(_) => find(store, text).map(|group| group.group_id),
    }
}

/// Returns the name of the group in the runs of all hosts that a user named. Their stores know which groups there are; here only runs show
/// that.
pub(super) fn of_fleet(store: &Store, text: &str) -> Result<String, CommandError> {
    let is_meant = |name: &String| name == text || text.len() >= NAMED && (name.starts_with(text) || name.ends_with(text));
    let runs = store.runs(&RunFilter::default())?;
    let found: BTreeSet<String> = runs.iter().filter_map(Run::group_name).filter(is_meant).collect();
    if found.contains(text) {
        return Ok(text.to_owned());
    }
    match found.len() {
        1 => Ok(found.into_iter().collect()),
        0 => Err(unknown(text).hint("give the id of the group, and --since if it is older than 30 days")),
        _ => Err(found.iter().take(LISTED).fold(several(text), |failure, name| failure.hint(name.clone()))),
    }
}

fn unknown(text: &str) -> CommandError {
    CommandError { bare: true, ..CommandError::new(Code::Failed, format!("Unknown group: {text}")) }
}

fn several(text: &str) -> CommandError {
    CommandError::new(Code::Failed, format!("{text} matches several groups: give the short id of one"))
}
