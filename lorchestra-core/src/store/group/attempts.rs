//! What a resume changes: the settings and libraries of a group, and the next attempts of members that have failed.
//!
//! A member that has failed stays so until its next attempt is given to the process or the engine that runs it. So a resume that is refused,
//! or that stops early, changes nothing about the members that it does not reach.

use super::member::run_id;
use super::{Group, Member};
use crate::store::{Store, StoreError};
use rusqlite::params;

/// A library that the members of a package use from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedLibrary {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The sha256 of the file, in hexadecimal.
    pub sha256: String,
}

impl Store {
    /// Prepares a group to be run again, all or nothing: clears its cancellation, stores its settings, and sets the libraries of the members
    /// that have not completed. A cancellation since the group was read stays. Returns the number of members that each library has changed.
    pub fn resume_group(&mut self, group: &Group, libraries: &[PinnedLibrary]) -> Result<Vec<u64>, StoreError> {
        let settings = serde_json::to_string(&group.settings).unwrap_or_default();
        self.write("resuming the group", |tx| {
            tx.execute(
                "UPDATE run_groups SET cancelled_at = CASE WHEN cancelled_at IS NOT ?3 THEN cancelled_at END, settings = ?2 WHERE n = ?1",
                params![group.n, settings, group.cancelled_at],
            )?;
            let mut pin = tx.prepare(
                "UPDATE members SET spec = json_set(spec, '$.version', ?3, '$.sha256', ?4)
                 WHERE run_group = ?1 AND state <> 'completed' AND spec ->> '$.package' = ?2
                    AND (spec ->> '$.version', spec ->> '$.sha256') IS NOT (?3, ?4)",
            )?;
            let changed = libraries.iter().map(|PinnedLibrary { package, version, sha256 }| {
                pin.execute(params![group.n, package, version, sha256]).map(|changed| changed as u64)
            });
            changed.collect()
        })
    }

    /// Gives members that have failed their next attempt: they are pending again, with the id of its run. Changes nothing about one that has
    /// another state or attempt by now, such as one that a run outside the group has completed.
    pub fn start_attempts(&mut self, group: &Group, failed: &[Member]) -> Result<(), StoreError> {
        self.write("starting new attempts of members", |tx| {
            let mut start = tx.prepare_cached(
                "UPDATE members SET attempt = ?3 + 1, run_id = ?4, state = 'pending'
                 WHERE run_group = ?1 AND place = ?2 AND attempt = ?3 AND state IN ('failed', 'skipped', 'refused')",
            )?;
            failed.iter().try_for_each(|Member { place, attempt, .. }| {
                start.execute(params![group.n, place, attempt, run_id(&group.group_id, *place, attempt + 1)]).map(drop)
            })
        })
    }

    /// Takes back the attempts that [`Store::start_attempts`] has started and whose runs have not begun, and will not: the members have failed
    /// as before. `failed` is what that call was given.
    pub fn withdraw_attempts(&mut self, group: &Group, failed: &[Member]) -> Result<(), StoreError> {
        if failed.is_empty() {
            return Ok(());
        }
        self.write("taking back attempts of members", |tx| {
            let mut withdraw = tx.prepare_cached(
                "UPDATE members SET attempt = ?3, run_id = ?4, state = ?5
                 WHERE run_group = ?1 AND place = ?2 AND attempt = ?3 + 1 AND state = 'pending'",
            )?;
            failed.iter().try_for_each(|Member { place, attempt, run_id, state, .. }| {
                withdraw.execute(params![group.n, place, attempt, run_id, state.as_str()]).map(drop)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{new_group, run_to_end};
    use super::super::{MemberState, Selection};
    use super::*;
    use crate::outcome::Cause;
    use crate::store::NewRun;
    use crate::store::tests::{new_run, site, started};

    fn pinned(package: &str) -> [PinnedLibrary; 1] {
        [PinnedLibrary { package: package.into(), version: "2.0.0".into(), sha256: "ff".into() }]
    }

    #[test]
    fn members_use_a_new_library_unless_they_have_completed() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.create_group(&new_group("0193a000-0000-7000-8000-00000000abcd", 3)).unwrap();
        let group = store.find_group("backfill", "last").unwrap().unwrap();
        let done = store.member(group.n, 0).unwrap().unwrap();
        run_to_end(&mut store, &done.run_id, None);
        assert_eq!(store.resume_group(&group, &pinned("other")).unwrap(), [0]);
        assert_eq!(store.resume_group(&group, &pinned("pkg")).unwrap(), [2]);
        assert_eq!(store.resume_group(&group, &pinned("pkg")).unwrap(), [0], "it is already set");
        let read =
            |place| crate::plan::RunSpec::from_json(store.member_spec(group.n, place).unwrap().unwrap().as_bytes()).unwrap();
        assert_eq!((read(0).sha256, read(1).sha256.as_deref(), read(2).version.as_str()), (None, Some("ff"), "2.0.0"));
    }

    #[test]
    fn a_resumed_group_keeps_its_new_settings() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.create_group(&new_group("0193a000-0000-7000-8000-00000000abcd", 1)).unwrap();
        let find = |store: &Store| store.find_group("backfill", "last").unwrap().unwrap();
        let before = find(&store);
        store.cancel_group(before.n, 1).unwrap();
        store.resume_group(&before, &[]).unwrap();
        let mut group = find(&store);
        assert_eq!(group.cancelled_at, Some(1), "cancelled after the command that resumes it has read it");
        group.settings.max_failures = Some(3);
        store.resume_group(&group, &[]).unwrap();
        let resumed = find(&store);
        assert_eq!((resumed.cancelled_at, resumed.settings), (None, group.settings));
    }

    /// Only attempts whose runs have not begun are taken back, to the state before.
    #[test]
    fn an_attempt_that_does_not_begin_is_taken_back() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.create_group(&new_group("0193a000-0000-7000-8000-00000000abcd", 4)).unwrap();
        let group = store.find_group("backfill", "last").unwrap().unwrap();
        let members = |store: &Store| store.selected_members(group.n, Selection::ALL).unwrap();
        let first = members(&store);
        run_to_end(&mut store, &first[0].run_id, Some(Cause::Error));
        run_to_end(&mut store, &first[1].run_id, Some(Cause::Error));
        store.refuse_member(&first[2].run_id).unwrap();
        let before = members(&store);
        let failed: Vec<Member> = before.iter().filter(|member| member.has_failed()).cloned().collect();
        assert_eq!(failed.len(), 3);
        store.start_attempts(&group, &failed).unwrap();
        let retried = members(&store);
        assert!(retried.iter().all(|member| member.state == MemberState::Pending));
        assert_eq!(retried.iter().map(|member| member.attempt).collect::<Vec<_>>(), [2, 2, 2, 1]);
        let missing = store.selected_members(group.n, Selection { failed: false, missing: true }).unwrap();
        assert_eq!(missing, [retried[3].clone()], "a member that has failed is not one that has never run");
        store.start_attempts(&group, &failed).unwrap();
        assert_eq!(members(&store), retried, "once");
        store.begin_run(&NewRun { ..new_run(&retried[0].run_id) }, &started()).unwrap();
        store.withdraw_attempts(&group, &failed).unwrap();
        assert_eq!(members(&store), before[1..]);
        assert_eq!(store.member(group.n, 0).unwrap().unwrap().state, MemberState::Running);
        // The same id again.
        store.start_attempts(&group, &failed[1..]).unwrap();
        assert_eq!(members(&store)[..2], retried[1..3]);
    }
}
