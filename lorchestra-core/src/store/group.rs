//! Groups of runs: what a backfill or a group file has planned, and how far each member is.
//!
//! A group is stored completely before its first member runs. A member is one spec, its place in the group, and the id of its next or last
//! run. That id is a function of group, place and attempt ([`member_run_id`]), so a crash at any point leads to the same id again, and one id is
//! one run. `store::run` changes a member's state in the transactions that begin and end its run, whether the supervisor or recovery
//! ends it. So a member's state is never ahead of or behind that of its run, and stays when retention removes the run.
//!
//! A member that has completed never gets another run id. A later run outside the group may complete a member that has failed
//! (`completed_by`); see `covered`.

mod attempts;
mod bookmarks;
mod covered;
mod member;
mod old;

pub use attempts::PinnedLibrary;
pub use bookmarks::MovedAccounts;
pub(super) use covered::{Obstacle, obstacle};
pub use member::{GroupCounts, Member, MemberState, Selection, member_run_id};
pub use old::OldGroups;

use super::claimed::{ClaimHolder, insert_claimed};
use super::{Store, StoreError};
use crate::plan::RunSpec;
use member::run_id;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

/// Minimum number of characters of an id that name a group, as for a run. The index for the end of ids has the same number.
const NAMED: usize = super::history::NAMED;
/// Maximum number of groups to read that share a beginning or end.
const CANDIDATES: i64 = 6;

/// How a group is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSettings {
    /// Maximum number of members that run at once.
    pub parallel: u32,
    /// Whether the last members run first.
    pub newest_first: bool,
    /// No more members are started after this many have failed.
    pub max_failures: Option<u32>,
    /// Whether a stage starts although a member of an earlier one failed.
    pub keep_going: bool,
    /// The range of a backfill whose members' bookmarks move to its end when all of it is complete, in microseconds since 1970.
    pub moves_bookmark: Option<(i64, i64)>,
    /// The engine that runs it; `None` for this host.
    pub engine: Option<GroupEngine>,
    /// The group file that it was made from.
    pub file: Option<GroupSource>,
}

/// What a group file said when a group was made from it, as it was written: resolved, times such as `last:` differ each day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSource {
    /// The file.
    pub path: String,
    /// Whether it said that later stages start after a failure.
    pub keep_going: bool,
    /// Its jobs, in order.
    pub jobs: Vec<WrittenJob>,
}

/// A job of a group file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenJob {
    /// Its stage, from 0.
    pub stage: u32,
    /// Its name in the group.
    pub label: String,
    /// Its entry in the file.
    pub entry: serde_json::Value,
}

/// The engine that runs a group, and what is needed to find its windows again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEngine {
    /// Which one.
    pub name: EngineName,
    /// The directory that all nodes share, with plan, claims and results.
    pub shared: String,
    /// The parent of the state directory on each node.
    pub node_state: String,
    /// Flags of the engine's own command.
    pub flags: Vec<String>,
    /// Flags of `run-window`.
    pub window_flags: Vec<String>,
}

/// An engine that runs windows on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum EngineName {
    Slurm,
    Temporal,
}

impl EngineName {
    /// The name as in flags and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slurm => "slurm",
            Self::Temporal => "temporal",
        }
    }

    /// The name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slurm => "Slurm",
            Self::Temporal => "Temporal",
        }
    }
}

/// What has become of a member that an engine runs elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledMember {
    /// The member's place.
    pub place: u32,
    /// Its state.
    pub state: MemberState,
    /// The run that decided that, if known: the last one that failed, or the one that completed it.
    pub run_id: Option<String>,
    /// The host of that run, if it has the claim.
    pub claimed_on: Option<String>,
}

/// A group that is about to be stored.
#[derive(Debug)]
pub struct NewGroup {
    /// Its id, a UUIDv7.
    pub group_id: String,
    /// `backfill` or `run-group`.
    pub kind: String,
    /// What it runs, for people: `PACKAGE/JOB`, or the name of the group file.
    pub name: String,
    /// When it was created, in microseconds since 1970.
    pub created_at: i64,
    /// How it is run.
    pub settings: GroupSettings,
    /// Its members, in order.
    pub members: Vec<NewMember>,
}

/// A member that is about to be stored.
#[derive(Debug, Clone)]
pub struct NewMember {
    /// Its stage: all members of a stage end before the next one starts.
    pub stage: u32,
    /// Its name in the group, for people.
    pub label: String,
    /// Its spec as JSON.
    pub spec: String,
}

/// A group in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its number in the store.
    pub n: i64,
    /// Its id.
    pub group_id: String,
    /// `backfill` or `run-group`.
    pub kind: String,
    /// What it runs.
    pub name: String,
    /// When it was created, in microseconds since 1970.
    pub created_at: i64,
    /// How it is run.
    pub settings: GroupSettings,
    /// When it was cancelled, unless it was resumed since.
    pub cancelled_at: Option<i64>,
}

impl Store {
    /// Stores a group with all of its members.
    pub fn create_group(&mut self, group: &NewGroup) -> Result<(), StoreError> {
        let settings = serde_json::to_string(&group.settings).unwrap_or_default();
        self.write("storing the group", |tx| {
            tx.execute(
                "INSERT INTO run_groups (group_id, kind, name, created_at, settings) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![group.group_id, group.kind, group.name, group.created_at, settings],
            )?;
            let n = tx.last_insert_rowid();
            let mut insert = tx.prepare(
                "INSERT INTO members (run_group, place, stage, label, spec, attempt, run_id, state) VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, 'pending')",
            )?;
            for (member, place) in group.members.iter().zip(0_u32..) {
                let run_id = run_id(&group.group_id, place, 1);
                insert.execute(params![n, place, member.stage, member.label, member.spec, run_id])?;
            }
            Ok(())
        })
    }

    /// Returns the groups of a kind, newest first.
    pub fn groups(&self, kind: &str, limit: u64) -> Result<Vec<Group>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.select_groups("WHERE kind = ?1 ORDER BY n DESC LIMIT ?2", params![kind, limit])
    }

    /// Returns the group that a person named by its id, or the beginning or end of it; `last` is the newest one of this kind. Returns `Err` with
    /// the candidates if no group or several match.
    pub fn find_group(&self, kind: &str, text: &str) -> Result<Result<Group, Vec<Group>>, StoreError> {
        if text == "last" {
            let newest = self.select_groups("WHERE kind = ?1 ORDER BY n DESC LIMIT ?2", params![kind, 1])?.pop();
            return Ok(newest.ok_or_else(Vec::new));
        }
        if text.len() < NAMED || !text.is_ascii() {
            return Ok(Err(Vec::new()));
        }
        let mut found = self.select_groups(
            "WHERE substr(group_id, -4) = substr(?1, -4) AND substr(group_id, -length(?1)) = ?1 ORDER BY n DESC LIMIT ?2",
            params![text, CANDIDATES],
        )?;
        found.extend(self.select_groups(
            "WHERE group_id BETWEEN ?1 AND ?1 || char(127) ORDER BY group_id DESC LIMIT ?2",
            params![text, CANDIDATES],
        )?);
        found.dedup_by(|a, b| a.n == b.n);
        Ok(if found.len() == 1 { Ok(found.remove(0)) } else { Err(found) })
    }

    /// Returns the number of a group's members in each state.
    pub fn group_counts(&self, group: i64) -> Result<GroupCounts, StoreError> {
        self.read("counting the members of a group", |db| {
            let mut counts = GroupCounts::default();
            let sql = "SELECT count(*) FROM members WHERE run_group = ?1 AND state = ?2";
            let mut statement = db.prepare_cached(sql)?;
            for state in MemberState::ALL {
                let count: i64 = statement.query_row(params![group, state.as_str()], |row| row.get(0))?;
                counts.0[state as usize] = count.unsigned_abs();
            }
            Ok(counts)
        })
    }

    /// Returns the number of a group's members that failed on their own: they were not cancelled.
    pub fn group_failures(&self, group: i64) -> Result<u64, StoreError> {
        self.read("counting the failures of a group", |db| {
            let mut statement = db.prepare_cached(
                "SELECT count(*) FROM members LEFT JOIN runs ON runs.run_id = members.run_id
                 WHERE run_group = ?1 AND members.state = ?2 AND coalesce(cause_key, '') <> 'cancelled'",
            )?;
            let mut failures = 0;
            for state in MemberState::ALL.into_iter().filter(|state| state.is_failure()) {
                let count: i64 = statement.query_row(params![group, state.as_str()], |row| row.get(0))?;
                failures += count.unsigned_abs();
            }
            Ok(failures)
        })
    }

    /// Returns a group's members in one state, in order.
    pub fn members(&self, group: i64, state: MemberState, limit: u64) -> Result<Vec<Member>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("reading the members of a group", |db| {
            let mut statement = db.prepare_cached(
                "SELECT place, stage, label, attempt, run_id, state, completed_by FROM members WHERE run_group = ?1 AND state = ?2 ORDER BY place LIMIT ?3",
            )?;
            statement.query_map(params![group, state.as_str(), limit], member)?.collect()
        })
    }

    /// Returns the members of a selection, in order.
    pub fn selected_members(&self, group: i64, selection: Selection) -> Result<Vec<Member>, StoreError> {
        let mut selected = Vec::new();
        for state in MemberState::ALL.into_iter().filter(|state| *state == MemberState::Pending || state.can_retry()) {
            selected.extend(self.members(group, state, u64::MAX)?.into_iter().filter(|member| selection.has(member)));
        }
        selected.sort_unstable_by_key(|member| member.place);
        Ok(selected)
    }

    /// Returns a group's members that a run outside the group has completed, in order.
    pub fn members_completed_elsewhere(&self, group: i64) -> Result<Vec<Member>, StoreError> {
        self.read("reading the members of a group", |db| {
            let mut statement = db.prepare_cached(
                "SELECT place, stage, label, attempt, run_id, state, completed_by FROM members WHERE run_group = ?1 AND completed_by IS NOT NULL ORDER BY place",
            )?;
            statement.query_map([group], member)?.collect()
        })
    }

    /// Returns one member.
    pub fn member(&self, group: i64, place: u32) -> Result<Option<Member>, StoreError> {
        self.read("reading a member of a group", |db| {
            let sql =
                "SELECT place, stage, label, attempt, run_id, state, completed_by FROM members WHERE run_group = ?1 AND place = ?2";
            db.prepare_cached(sql)?.query_row(params![group, place], member).optional()
        })
    }

    /// Returns the spec of a member as JSON.
    pub fn member_spec(&self, group: i64, place: u32) -> Result<Option<String>, StoreError> {
        self.read("reading the spec of a member", |db| {
            db.prepare_cached("SELECT spec FROM members WHERE run_group = ?1 AND place = ?2")?
                .query_row(params![group, place], |row| row.get(0))
                .optional()
        })
    }

    /// Marks a group as cancelled.
    pub fn cancel_group(&mut self, group: i64, now: i64) -> Result<(), StoreError> {
        self.write("cancelling the group", |tx| {
            tx.execute("UPDATE run_groups SET cancelled_at = ?2 WHERE n = ?1", params![group, now]).map(drop)
        })
    }

    /// Whether a group is cancelled.
    pub fn is_cancelled(&self, group: i64) -> Result<bool, StoreError> {
        self.read("reading a group", |db| {
            let sql = "SELECT cancelled_at IS NOT NULL FROM run_groups WHERE n = ?1";
            // A group that is missing was not cancelled: its members are missing too, and that is an error where they are read.
            Ok(db.prepare_cached(sql)?.query_row([group], |row| row.get(0)).optional()?.unwrap_or(false))
        })
    }

    /// Records that the run of a member could not start. Changes nothing if it has begun.
    pub fn refuse_member(&mut self, run_id: &str) -> Result<(), StoreError> {
        self.write("recording a refused member", |tx| {
            tx.execute("UPDATE members SET state = 'refused' WHERE run_id = ?1 AND state = 'pending'", [run_id]).map(drop)
        })
    }

    /// Records the states of members that an engine runs elsewhere. A member that has completed stays so; the run that completed it is
    /// recorded as claimed in the same transaction.
    pub fn settle_members(&mut self, group: i64, ended: &[SettledMember]) -> Result<(), StoreError> {
        self.write("recording windows of an engine", |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE members SET state = ?3, run_id = coalesce(?4, run_id)
                 WHERE run_group = ?1 AND place = ?2 AND state <> 'completed' RETURNING spec",
            )?;
            for SettledMember { place, state, run_id, claimed_on } in ended {
                let spec: Option<String> =
                    update.query_row(params![group, place, state.as_str(), run_id], |row| row.get(0)).optional()?;
                let (Some(spec), Some(run_id), Some(host)) = (spec, run_id, claimed_on) else { continue };
                let spec = RunSpec::from_json(spec.as_bytes()).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
                })?;
                if insert_claimed(tx, &ClaimHolder { run_id: run_id.clone(), host: host.clone() }, &spec)? {
                    covered::settle(tx, run_id, super::RunState::Claimed)?;
                }
            }
            Ok(())
        })
    }

    /// Returns the specs of a group's members with their labels, in order.
    pub fn member_specs(&self, group: i64) -> Result<Vec<(String, String)>, StoreError> {
        self.read("reading the members of a group", |db| {
            let mut statement = db.prepare_cached("SELECT label, spec FROM members WHERE run_group = ?1 ORDER BY place")?;
            statement.query_map([group], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    fn select_groups(&self, clause: &str, values: impl rusqlite::Params) -> Result<Vec<Group>, StoreError> {
        self.read("reading groups", |db| {
            let mut statement = db.prepare(&format!("SELECT * FROM run_groups {clause}"))?;
            statement.query_map(values, group)?.collect()
        })
    }
}

/// Sets the state of the member to which a run belongs, if it belongs to one, and completes the members of other groups that it covers.
pub(super) fn follow_run(tx: &Transaction<'_>, run_id: &str, state: super::RunState) -> rusqlite::Result<()> {
    // The window is complete, by another run.
    let of_member = if state == super::RunState::Superseded { super::RunState::Completed } else { state };
    tx.prepare_cached("UPDATE members SET state = ?2 WHERE run_id = ?1 AND completed_by IS NULL")?
        .execute(params![run_id, of_member.as_str()])?;
    covered::settle(tx, run_id, state)
}

fn member(row: &Row<'_>) -> rusqlite::Result<Member> {
    let state: String = row.get("state")?;
    Ok(Member {
        place: row.get("place")?,
        stage: row.get("stage")?,
        label: row.get("label")?,
        attempt: row.get("attempt")?,
        run_id: row.get("run_id")?,
        state: MemberState::from_name(&state),
        completed_by: row.get("completed_by")?,
    })
}

fn group(row: &Row<'_>) -> rusqlite::Result<Group> {
    let settings: String = row.get("settings")?;
    let settings = serde_json::from_str(&settings)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(Group {
        n: row.get("n")?,
        group_id: row.get("group_id")?,
        kind: row.get("kind")?,
        name: row.get("name")?,
        created_at: row.get("created_at")?,
        settings,
        cancelled_at: row.get("cancelled_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::NewRun;
    use super::super::tests::{end, end_with, new_run, site, spec, started};
    use super::*;
    use crate::outcome::Cause;

    pub(crate) fn new_group(group_id: &str, members: usize) -> NewGroup {
        let settings = GroupSettings {
            parallel: 2,
            newest_first: false,
            max_failures: None,
            keep_going: true,
            moves_bookmark: None,
            engine: None,
            file: None,
        };
        let member = |n: usize| NewMember { stage: 0, label: format!("window {n}"), spec: spec().to_json() };
        NewGroup {
            group_id: group_id.into(),
            kind: "backfill".into(),
            name: "pkg/job".into(),
            created_at: 7,
            settings,
            members: (0..members).map(member).collect(),
        }
    }

    pub(super) fn run_to_end(store: &mut Store, run_id: &str, cause: Option<Cause>) {
        store.begin_run(&NewRun { ..new_run(run_id) }, &started()).unwrap();
        store.end_run(run_id, &end_with(cause)).unwrap();
    }

    #[test]
    fn a_member_follows_its_run_and_a_completed_one_never_runs_again() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.create_group(&new_group("0193a000-0000-7000-8000-00000000abcd", 4)).unwrap();
        let group = store.find_group("backfill", "0000abcd").unwrap().unwrap();
        let member = |store: &Store, place| store.member(group.n, place).unwrap().unwrap();
        let first: Vec<Member> = (0..4).map(|place| member(&store, place)).collect();
        assert!(first.iter().all(|member| member.state == MemberState::Pending && member.attempt == 1));
        store.begin_run(&new_run(&first[0].run_id), &started()).unwrap();
        assert_eq!(member(&store, 0).state, MemberState::Running);
        store.end_run(&first[0].run_id, &end()).unwrap();
        run_to_end(&mut store, &first[1].run_id, Some(Cause::Error));
        store.refuse_member(&first[2].run_id).unwrap();
        // A run that has ended is not refused.
        store.refuse_member(&first[0].run_id).unwrap();
        let counts = store.group_counts(group.n).unwrap();
        assert_eq!((counts.of(MemberState::Completed), counts.failed(), counts.of(MemberState::Pending)), (1, 2, 1));
        let failed = store.selected_members(group.n, Selection { failed: true, missing: false }).unwrap();
        store.resume_group(&group, &[]).unwrap();
        assert_eq!(store.group_counts(group.n).unwrap(), counts, "failed until they are run again");
        store.start_attempts(&group, &failed).unwrap();
        let attempts: Vec<u32> = (0..4).map(|place| member(&store, place).attempt).collect();
        assert_eq!(attempts, [1, 2, 2, 1]);
        assert_ne!(member(&store, 1).run_id, first[1].run_id);
        assert_eq!(member(&store, 0), Member { state: MemberState::Completed, ..first[0].clone() });
        // The end of an earlier attempt, recorded late, does not touch the new one.
        run_to_end(&mut store, "another-run", Some(Cause::Error));
        assert_eq!(member(&store, 1).state, MemberState::Pending);
    }

    #[test]
    fn run_ids_differ_by_group_place_and_attempt_and_in_nothing_else() {
        let mut seen = std::collections::HashSet::new();
        for group in ["a", "b"] {
            for place in 0..20 {
                for attempt in ["1", "2", "12"] {
                    let id = member_run_id(group, place, attempt);
                    assert_eq!(id, member_run_id(group, place, attempt));
                    assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
                    assert!(seen.insert(id));
                }
            }
        }
    }
}
