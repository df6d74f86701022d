//! Retention of groups: removes those whose last run ended long ago, together with the states of their members.
//!
//! A group with members that have failed can be resumed until it is removed: its age counts from the last end of any of its runs.

use crate::store::{Store, StoreError};
use rusqlite::params;
use std::ops::AddAssign;

/// Maximum number of old groups that one call removes.
const REMOVED: u32 = 5;
/// Groups that were created before a time, have no member that may still run without a resume, and no run that ended later.
const OLD: &str = "created_at < ?1
    AND NOT EXISTS (SELECT 1 FROM members WHERE run_group = run_groups.n AND state IN ('pending', 'running'))
    AND NOT EXISTS (SELECT 1 FROM runs WHERE group_name = run_groups.group_id AND coalesce(ended_at, ?1) >= ?1)";
/// Whether a group has members that a resume would run again.
const IS_RESUMABLE: &str =
    "EXISTS (SELECT 1 FROM members WHERE run_group = run_groups.n AND state IN ('failed', 'skipped', 'refused'))";

/// Number of groups that are old enough to be removed, or were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OldGroups {
    /// All of them.
    pub groups: u64,
    /// Those with members that have not completed: a resume could have run them again.
    pub resumable: u64,
}

impl AddAssign for OldGroups {
    fn add_assign(&mut self, more: Self) {
        self.groups += more.groups;
        self.resumable += more.resumable;
    }
}

impl Store {
    /// Removes some groups whose creation and last run are before a time, in microseconds since 1970. Keeps a group with members that are
    /// running or have not run: a process may be driving it. Returns what was removed.
    pub(in crate::store) fn prune_groups(&mut self, before: i64) -> Result<OldGroups, StoreError> {
        // Most calls find none: they do not lock the store for writing.
        let old: Vec<i64> = self.read("looking for old groups", |db| {
            let sql = format!("SELECT n FROM run_groups WHERE {OLD} ORDER BY created_at LIMIT ?2");
            db.prepare_cached(&sql)?.query_map(params![before, REMOVED], |row| row.get(0))?.collect()
        })?;
        let mut removed = OldGroups::default();
        for n in old {
            removed += self.write("removing an old group", |tx| {
                let sql = format!("SELECT {IS_RESUMABLE} FROM run_groups WHERE n = ?1");
                let is_resumable: bool = tx.prepare_cached(&sql)?.query_row([n], |row| row.get(0))?;
                // A person may have resumed it since.
                let removed = tx
                    .prepare_cached(&format!("DELETE FROM run_groups WHERE {OLD} AND n = ?2"))?
                    .execute(params![before, n])? as u64;
                Ok(OldGroups { groups: removed, resumable: removed * u64::from(is_resumable) })
            })?;
        }
        Ok(removed)
    }

    /// Counts the groups that repeated calls of [`Store::prune_groups`] would remove.
    pub(in crate::store) fn old_groups(&self, before: i64) -> Result<OldGroups, StoreError> {
        self.read("counting old groups", |db| {
            let sql = format!("SELECT {IS_RESUMABLE} FROM run_groups WHERE {OLD} ORDER BY created_at");
            let mut statement = db.prepare_cached(&sql)?;
            let mut found = OldGroups::default();
            for is_resumable in statement.query_map([before], |row| row.get::<_, bool>(0))? {
                found += OldGroups { groups: 1, resumable: is_resumable?.into() };
            }
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::new_group;
    use super::*;
    use crate::outcome::Cause;
    use crate::plan::RunSpec;
    use crate::store::NewRun;
    use crate::store::tests::{end, end_with, new_run, site, spec, started};

    const GROUP: &str = "0193a000-0000-7000-8000-00000000abcd";

    fn begin(store: &mut Store, run_id: &str) {
        let spec = RunSpec { group: Some(GROUP.into()), ..spec() };
        store.begin_run(&NewRun { spec, ..new_run(run_id) }, &started()).unwrap();
    }

    #[test]
    fn a_group_is_kept_until_its_last_member_has_ended_long_ago() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.create_group(&new_group(GROUP, 2)).unwrap();
        let group = store.find_group("backfill", "last").unwrap().unwrap();
        let kept = |store: &mut Store, before: i64| {
            assert_eq!(store.old_groups(before).unwrap(), OldGroups::default());
            store.prune_groups(before).unwrap() == OldGroups::default() && !store.groups("backfill", 1).unwrap().is_empty()
        };
        let ids: Vec<String> = (0..2).map(|place| store.member(group.n, place).unwrap().unwrap().run_id).collect();
        assert!(kept(&mut store, i64::MAX), "both are pending");
        begin(&mut store, &ids[0]);
        store.end_run(&ids[0], &end_with(Some(Cause::Error))).unwrap();
        assert!(kept(&mut store, i64::MAX), "one is pending");
        begin(&mut store, &ids[1]);
        assert!(kept(&mut store, i64::MAX), "one is running");
        store.end_run(&ids[1], &end()).unwrap();
        assert!(kept(&mut store, end().ended_at), "its creation is old, its last end is not");
        let (before, removed) = (end().ended_at + 1, OldGroups { groups: 1, resumable: 1 });
        assert_eq!(store.old_groups(before).unwrap(), removed);
        assert_eq!(store.prune_groups(before).unwrap(), removed);
        assert_eq!(store.prune_groups(before).unwrap(), OldGroups::default());
        assert!(store.groups("backfill", 1).unwrap().is_empty());
        assert!(!store.is_cancelled(group.n).unwrap(), "a missing group is not cancelled");
    }

    /// The runs of its members' last attempts are in no row of `members`: refused runs have ids of their own.
    #[test]
    fn a_group_whose_members_were_refused_is_as_old_as_its_last_refusal() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.create_group(&new_group(GROUP, 1)).unwrap();
        let group = store.find_group("backfill", "last").unwrap().unwrap();
        store.refuse_member(&store.member(group.n, 0).unwrap().unwrap().run_id).unwrap();
        begin(&mut store, "refused");
        store.end_run("refused", &end_with(Some(Cause::Plugin))).unwrap();
        assert_eq!(store.prune_groups(end().ended_at).unwrap(), OldGroups::default());
        assert_eq!(store.prune_groups(end().ended_at + 1).unwrap(), OldGroups { groups: 1, resumable: 1 });
    }
}
