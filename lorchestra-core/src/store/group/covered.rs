//! Members that a later run outside their group has completed: `runs rerun`, `run-job` with the same parameters, another group.
//!
//! A member that has failed is complete as soon as a run that was recorded after its own has completed and covers it
//! ([`RunSpec::covers`]). The order of recording does not depend on the clock.
//! The transactions that end runs record that, so counts, lists and `resume` agree without asking. A member that has never failed is not
//! concerned: without `--merge`, a group runs its members regardless of other runs.
//!
//! The next run of a member that has failed is recorded only if no such run has completed it by then: the transaction that begins it checks
//! that ([`obstacle`]), and whether the group is cancelled. If it has begun, it runs, even if the other run ends a moment later: the two were
//! running at the same time.
//!
//! Both directions are index searches: from a run that has completed to the members that have failed, of which there are usually none
//! (`members_failed`), and from a run that fails to the runs that completed while it ran.

use super::super::RunState;
use crate::plan::RunSpec;
use chrono::DateTime;
use rusqlite::{OptionalExtension, Transaction, params};

/// Why the run of a member must not begin.
pub(in crate::store) enum Obstacle {
    /// This run, which is not of the group, has completed the member.
    CompletedBy(String),
    /// The group is cancelled. A supervisor may have got the member before, and waited for another run since then.
    Cancelled,
}

/// Returns why a run must not begin, if it is that of a member.
pub(in crate::store) fn obstacle(tx: &Transaction<'_>, run_id: &str) -> rusqlite::Result<Option<Obstacle>> {
    let sql = "SELECT completed_by, (SELECT cancelled_at IS NOT NULL FROM run_groups WHERE n = run_group) FROM members WHERE run_id = ?1";
    let found = tx.prepare_cached(sql)?.query_row([run_id], |row| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, bool>(1)?)));
    Ok(found.optional()?.and_then(|(by, is_cancelled)| match by {
        Some(by) => Some(Obstacle::CompletedBy(by)),
        None => is_cancelled.then_some(Obstacle::Cancelled),
    }))
}

/// Records the consequences of a run's end, which `runs` has already.
pub(super) fn settle(tx: &Transaction<'_>, run_id: &str, state: RunState) -> rusqlite::Result<()> {
    match state {
        RunState::Completed | RunState::Claimed => complete_failed_members(tx, run_id),
        RunState::Failed | RunState::Skipped => complete_member_of(tx, run_id),
        _ => Ok(()),
    }
}

/// Completes the members of groups that have failed and that this run covers.
fn complete_failed_members(tx: &Transaction<'_>, run_id: &str) -> rusqlite::Result<()> {
    let mut found =
        tx.prepare_cached("SELECT package, job, account_key, n, started_at, since, until FROM runs WHERE run_id = ?1")?;
    let (names, (n, started_at), (since, until)) = found.query_row([run_id], |row| {
        let names: [String; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
        let order: (i64, i64) = (row.get(3)?, row.get(4)?);
        Ok((names, order, (row.get::<_, Option<i64>>(5)?, row.get::<_, Option<i64>>(6)?)))
    })?;
    let [package, job, account] = &names;
    // The condition of the index `members_failed`, and its columns. Members of the run's own group are other work, even if they look equal.
    let mut failed = tx.prepare_cached(
        "SELECT run_group, place, spec FROM members
         WHERE (state IN ('failed', 'skipped', 'refused') OR state = 'pending' AND attempt > 1)
            AND spec ->> '$.package' = ?1 AND spec ->> '$.job' = ?2 AND coalesce(spec ->> '$.account', '') = ?3
            AND coalesce(substr(spec ->> '$.window.since', 1, 19), '') BETWEEN ?4 AND ?5
            AND coalesce((SELECT runs.n < ?6 FROM runs WHERE runs.run_id = members.run_id),
                (SELECT created_at < ?7 FROM run_groups WHERE run_groups.n = run_group))
            AND run_group IS NOT (SELECT run_group FROM members WHERE run_id = ?8)",
    )?;
    let values = params![package, job, account, second(since), second(until), n, started_at, run_id];
    let failed: Vec<(i64, u32, String)> =
        failed.query_map(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
    if failed.is_empty() {
        return Ok(());
    }
    let Some(run) = spec_of(tx, run_id)? else { return Ok(()) };
    for (group, place, spec) in failed {
        if covers(&run, &spec) {
            complete(tx, (group, place), run_id)?;
        }
    }
    Ok(())
}

/// Completes the member whose run this is, and which has failed, if a run that was recorded later has completed before it and covers it.
fn complete_member_of(tx: &Transaction<'_>, run_id: &str) -> rusqlite::Result<()> {
    let mut found = tx.prepare_cached("SELECT run_group, place, spec FROM members WHERE run_id = ?1 AND completed_by IS NULL")?;
    let member = found.query_row([run_id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?, row.get::<_, String>(2)?)));
    let Some((group, place, spec)) = member.optional()? else { return Ok(()) };
    let mut later = tx.prepare_cached(
        "SELECT later.run_id, later.spec FROM runs AS failed CROSS JOIN runs AS later
         WHERE failed.run_id = ?1 AND later.package = failed.package AND later.job = failed.job
            AND later.account_key = failed.account_key AND later.state = 'completed' AND later.cause_key = ''
            AND later.n > failed.n
            AND (later.since IS NULL OR later.since <= failed.since) AND (failed.until IS NULL OR later.until >= failed.until)
            AND NOT EXISTS (SELECT 1 FROM members WHERE members.run_id = later.run_id AND run_group = ?2)",
    )?;
    let mut later = later.query(params![run_id, group])?;
    while let Some(row) = later.next()? {
        let (other, run): (String, String) = (row.get(0)?, row.get(1)?);
        if RunSpec::from_json(run.as_bytes()).is_ok_and(|run| covers(&run, &spec)) {
            return complete(tx, (group, place), &other);
        }
    }
    Ok(())
}

fn complete(tx: &Transaction<'_>, (group, place): (i64, u32), run_id: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE members SET state = 'completed', completed_by = ?3 WHERE run_group = ?1 AND place = ?2")?
        .execute(params![group, place, run_id])
        .map(drop)
}

fn spec_of(tx: &Transaction<'_>, run_id: &str) -> rusqlite::Result<Option<RunSpec>> {
    let spec: String = tx.prepare_cached("SELECT spec FROM runs WHERE run_id = ?1")?.query_row([run_id], |row| row.get(0))?;
    Ok(RunSpec::from_json(spec.as_bytes()).ok())
}

fn covers(run: &RunSpec, member: &str) -> bool {
    RunSpec::from_json(member.as_bytes()).is_ok_and(|member| run.covers(&member))
}

/// The beginning of a time in a spec, which orders times as text; empty for none.
fn second(micros: Option<i64>) -> String {
    let at = micros.and_then(DateTime::from_timestamp_micros);
    at.map(|at| at.format("%FT%T").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{end_with, new_run, site, spec, started};
    use super::super::super::{NewRun, RunStart, Store};
    use super::super::tests::new_group;
    use super::super::{Group, Member, MemberState, NewGroup, NewMember, Selection};
    use crate::outcome::Cause;
    use crate::plan::{RunSpec, Window};

    const GROUP: &str = "0193a000-0000-7000-8000-00000000abcd";

    fn window(since: Option<i64>, until: i64) -> RunSpec {
        let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap();
        let mut spec = RunSpec { window: Some(Window { since: since.map(at), until: at(until) }), ..spec() };
        for (name, end) in [("since", since), ("until", Some(until))] {
            if let Some(end) = end {
                spec.params.insert(name.into(), at(end).to_rfc3339().into());
            }
        }
        spec
    }

    fn days(from: i64, to: i64) -> RunSpec {
        window(Some(from * 86_400), to * 86_400)
    }

    fn group_of(store: &mut Store, specs: &[RunSpec]) -> Group {
        let new = new_group(GROUP, 0);
        let member = |spec: &RunSpec| NewMember { stage: 0, label: "one".into(), spec: spec.to_json() };
        store.create_group(&NewGroup { members: specs.iter().map(member).collect(), ..new }).unwrap();
        store.find_group("backfill", "last").unwrap().unwrap()
    }

    fn begin(store: &mut Store, run_id: &str, spec: RunSpec, at: i64) {
        store.begin_run(&NewRun { spec, started_at: at, ..new_run(run_id) }, &started()).unwrap();
    }

    fn finish(store: &mut Store, run_id: &str, completed: bool) {
        store.end_run(run_id, &end_with((!completed).then_some(Cause::Timeout))).unwrap();
    }

    fn member(store: &Store, group: &Group, place: u32) -> Member {
        store.member(group.n, place).unwrap().unwrap()
    }

    /// Three windows that fail at 10, 20 and 30.
    fn three_failed(store: &mut Store) -> Group {
        let group = group_of(store, &[days(0, 1), days(1, 2), days(2, 3)]);
        for place in 0..3 {
            let run_id = member(store, &group, place).run_id;
            begin(store, &run_id, days(place.into(), i64::from(place) + 1), (i64::from(place) + 1) * 10);
            finish(store, &run_id, false);
        }
        group
    }

    fn states(store: &Store, group: &Group) -> Vec<bool> {
        (0..3).map(|place| member(store, group, place).state == MemberState::Completed).collect()
    }

    #[test]
    fn a_later_run_completes_the_windows_that_it_covers() {
        let other = |name: &str| {
            let mut spec = days(0, 3);
            spec.params.insert(name.into(), 1.into());
            spec
        };
        let account = RunSpec { account: Some("anna".into()), ..days(0, 3) };
        // Spec, start, whether it completes, and the windows that are complete then.
        for (spec, at, completes, expected) in [
            (days(1, 2), 40, true, [false, true, false]),
            (days(0, 3), 40, true, [true, true, true]),
            (window(None, 2 * 86_400), 40, true, [true, true, false]),
            (window(Some(1), 3 * 86_400), 40, true, [false, true, true]),
            (window(Some(0), 3 * 86_400 - 1), 40, true, [true, true, false]),
            // The clock was set back since the windows failed.
            (days(0, 3), 5, true, [true, true, true]),
            (days(0, 3), 40, false, [false; 3]),
            (days(3, 9), 40, true, [false; 3]),
            (other("n"), 40, true, [false; 3]),
            (account, 40, true, [false; 3]),
            (RunSpec { job: "other".into(), ..days(0, 3) }, 40, true, [false; 3]),
            (super::super::super::tests::spec(), 40, true, [false; 3]),
        ] {
            let site = site();
            let mut store = Store::open(&site.state).unwrap();
            let group = three_failed(&mut store);
            let shown = format!("{spec:?} at {at}");
            begin(&mut store, "later", spec, at);
            assert_eq!(states(&store, &group), [false; 3], "only at its end: {shown}");
            finish(&mut store, "later", completes);
            assert_eq!(states(&store, &group), expected, "{shown}");
            let by: Vec<Option<String>> = (0..3).map(|place| member(&store, &group, place).completed_by).collect();
            assert_eq!(by, expected.map(|is| is.then(|| "later".to_owned())), "{shown}");
            let listed = store.members_completed_elsewhere(group.n).unwrap();
            assert_eq!(listed.len(), expected.iter().filter(|is| **is).count());
            let again = expected.iter().filter(|is| !**is).count();
            assert_eq!(store.selected_members(group.n, Selection::ALL).unwrap().len(), again, "{shown}");
        }
    }

    #[test]
    fn a_window_that_is_about_to_run_again_is_completed_too_but_none_that_never_failed() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let group = group_of(&mut store, &[days(0, 1), days(1, 2), days(2, 3)]);
        let first = member(&store, &group, 0).run_id;
        begin(&mut store, &first, days(0, 1), 10);
        finish(&mut store, &first, false);
        store.refuse_member(&member(&store, &group, 1).run_id).unwrap();
        let failed = store.selected_members(group.n, Selection { failed: true, missing: false }).unwrap();
        store.start_attempts(&group, &failed).unwrap();
        begin(&mut store, "later", days(0, 3), 40);
        finish(&mut store, "later", true);
        assert_eq!(states(&store, &group), [true, true, false]);
        // Its own next attempt, which had already been given to a supervisor, does not begin.
        let second = member(&store, &group, 0);
        assert_eq!(second.attempt, 2);
        let start = store.begin_run(&NewRun { spec: days(0, 1), ..new_run(&second.run_id) }, &started()).unwrap();
        assert!(matches!(start, RunStart::NotNeeded(by) if by.run_id == "later"));
        assert_eq!(store.run(&second.run_id).unwrap(), None);
        assert_eq!(member(&store, &group, 0).completed_by.as_deref(), Some("later"));
        assert_eq!(states(&store, &group), [true, true, false]);
    }

    /// A supervisor that got it before the cancellation, and has waited since, does not start it.
    #[test]
    fn a_member_of_a_cancelled_group_does_not_begin_until_the_group_is_resumed() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let group = group_of(&mut store, &[days(0, 1)]);
        let own = member(&store, &group, 0).run_id;
        let begin = |store: &mut Store, run_id: &str| {
            let start = store.begin_run(&NewRun { spec: days(0, 1), ..new_run(run_id) }, &started()).unwrap();
            matches!(start, RunStart::Begun)
        };
        store.cancel_group(group.n, 1).unwrap();
        assert!(!begin(&mut store, &own) && store.run(&own).unwrap().is_none());
        assert_eq!(member(&store, &group, 0).state, MemberState::Pending);
        assert!(begin(&mut store, "rerun"), "another run with the spec of the member may start");
        let group = store.find_group("backfill", "last").unwrap().unwrap();
        store.resume_group(&group, &[]).unwrap();
        assert!(begin(&mut store, &own));
    }

    #[test]
    fn a_window_that_fails_after_a_later_run_has_completed_is_complete() {
        for (spec, at, is_later, expected) in [
            (days(0, 2), 20, true, true),
            (days(0, 2), 5, true, true),
            (days(0, 2), 5, false, false),
            (days(1, 2), 20, true, false),
        ] {
            let site = site();
            let mut store = Store::open(&site.state).unwrap();
            let group = group_of(&mut store, &[days(0, 1)]);
            let own = member(&store, &group, 0).run_id;
            let runs = [(&*own, days(0, 1), 10), ("later", spec, at)];
            let order = if is_later { [0, 1] } else { [1, 0] };
            for (run_id, spec, at) in order.map(|place| runs[place].clone()) {
                begin(&mut store, run_id, spec, at);
            }
            finish(&mut store, "later", true);
            assert_eq!(member(&store, &group, 0).state, MemberState::Running);
            finish(&mut store, &own, false);
            assert_eq!(member(&store, &group, 0).state == MemberState::Completed, expected, "at {at}, {is_later}");
        }
    }

    /// Two jobs of a group file may have the same parameters: each of them runs.
    #[test]
    fn members_of_one_group_do_not_complete_each_other() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let group = group_of(&mut store, &[spec(), spec(), spec()]);
        for (place, at, completes) in [(0, 10, false), (1, 20, true), (2, 15, false)] {
            let run_id = member(&store, &group, place).run_id;
            begin(&mut store, &run_id, spec(), at);
            finish(&mut store, &run_id, completes);
        }
        assert_eq!(states(&store, &group), [false, true, false]);
        begin(&mut store, "rerun", spec(), 30);
        finish(&mut store, "rerun", true);
        assert_eq!(states(&store, &group), [true; 3]);
    }
}
