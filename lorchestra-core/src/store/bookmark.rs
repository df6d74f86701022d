//! Bookmarks: the time up to which a job's work is done, for each package, job and account. `--since last` begins there.
//!
//! Owns the rule by which a run moves one ([`after`]), which [`super::run`] applies in the transaction that ends the run: state, terminal
//! event and bookmark are one commit, of the supervisor or of recovery. Users can set and remove bookmarks on the command line. Retention
//! does not touch them.

use super::{Store, StoreError};
use crate::host::state::StateDir;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// The key of a bookmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// Package of the job.
    pub package: &'a str,
    /// Name of the job.
    pub job: &'a str,
    /// Value of its `account` parameter. `None` and an empty value share a bookmark.
    pub account: Option<&'a str>,
}

/// A bookmark. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// The account, if the bookmark is for one.
    pub account: Option<String>,
    /// Everything before this time is done.
    pub at: i64,
    /// When it was last moved.
    pub moved_at: i64,
    /// What moved it.
    pub moved_by: BookmarkMover,
}

/// What moved a bookmark. Retention may have removed the run or the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookmarkMover {
    /// A user set it.
    User,
    /// The run with this id.
    Run(String),
    /// A backfill (`--move-bookmark`): the group with this id, or one that had nothing to run.
    Backfill(Option<String>),
}

/// The effect of a completed run on the bookmark of its job and account. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Its position when the run ended.
    pub before: Option<i64>,
    /// The position to which the run moved it; `None` if it stayed.
    pub after: Option<i64>,
}

/// Returns the bookmark's new position after a completed run, if the run moves it.
///
/// `reached` is the bookmark that the job set, or else the end of its window. All work before a bookmark is done. So a bookmark never goes
/// back, and a run that started after it (`since`) leaves a gap and does not move it.
pub fn after(bookmark: Option<i64>, since: Option<i64>, reached: i64) -> Option<i64> {
    let moves = match bookmark {
        None => true,
        Some(bookmark) => reached > bookmark && since.is_none_or(|since| since <= bookmark),
    };
    moves.then_some(reached)
}

impl Store {
    /// Returns one bookmark.
    pub fn bookmark(&self, key: Key<'_>) -> Result<Option<Bookmark>, StoreError> {
        self.read("reading a bookmark", |db| find(db, key))
    }

    /// Like [`bookmark`](Self::bookmark), without creating or migrating the store if it is missing or of an older version.
    pub fn peek_bookmark(state: &StateDir, key: Key<'_>) -> Result<Option<Bookmark>, StoreError> {
        match Self::open_current(&state.store())? {
            Some(store) => store.bookmark(key),
            None => Ok(None),
        }
    }

    /// Returns all bookmarks, or those of a package or a job, ordered by name.
    pub fn bookmarks(&self, package: Option<&str>, job: Option<&str>) -> Result<Vec<Bookmark>, StoreError> {
        let list = |db: &Connection, clause: &str, names: &[&str]| {
            let mut statement = db.prepare(&format!("SELECT * FROM bookmarks {clause} ORDER BY package, job, account"))?;
            statement.query_map(rusqlite::params_from_iter(names), bookmark)?.collect()
        };
        self.read("reading bookmarks", |db| match (package, job) {
            (Some(package), Some(job)) => list(db, "WHERE package = ?1 AND job = ?2", &[package, job]),
            (Some(package), None) => list(db, "WHERE package = ?1", &[package]),
            (None, _) => list(db, "", &[]),
        })
    }

    /// Sets a bookmark to `at` for a user; returns the previous one. `now` and `at` are in microseconds since 1970.
    pub fn set_bookmark(&mut self, key: Key<'_>, at: i64, now: i64) -> Result<Option<Bookmark>, StoreError> {
        self.write("setting a bookmark", |tx| {
            let before = find(tx, key)?;
            put(tx, key, (at, now), &BookmarkMover::User)?;
            Ok(before)
        })
    }

    /// Removes a bookmark; returns the previous one, if there was one.
    pub fn reset_bookmark(&mut self, key: Key<'_>) -> Result<Option<Bookmark>, StoreError> {
        self.write("removing a bookmark", |tx| {
            let before = find(tx, key)?;
            tx.execute(
                "DELETE FROM bookmarks WHERE package = ?1 AND job = ?2 AND account = ?3",
                params![key.package, key.job, key.account.unwrap_or_default()],
            )?;
            Ok(before)
        })
    }
}

/// Applies the rule to the run with this number, which completes with this transaction at `now`. `set` is the bookmark that its job set.
pub(super) fn advance(tx: &Transaction<'_>, run: i64, set: Option<i64>, now: i64) -> rusqlite::Result<()> {
    let ended = tx
        .prepare_cached("SELECT run_id, package, job, account, since, until FROM runs WHERE n = ?1 AND keeps_bookmark")?
        .query_row([run], |row| {
            let names: (String, String, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((names, row.get::<_, Option<i64>>(4)?, row.get::<_, Option<i64>>(5)?))
        })
        .optional()?;
    let Some(((run_id, package, job, account), since, until)) = ended else { return Ok(()) };
    let Some(reached) = set.or(until) else { return Ok(()) };
    let key = Key { package: &package, job: &job, account: account.as_deref() };
    let before = find(tx, key)?.map(|bookmark| bookmark.at);
    let after = after(before, since, reached);
    if let Some(at) = after {
        put(tx, key, (at, now), &BookmarkMover::Run(run_id))?;
    }
    tx.prepare_cached("UPDATE runs SET bookmark_before = ?2, bookmark_after = ?3 WHERE n = ?1")?
        .execute(params![run, before, after])
        .map(drop)
}

/// Moves a bookmark as a completed run over `[from, to)` would, for a backfill.
pub(super) fn advance_to(
    tx: &Transaction<'_>,
    key: Key<'_>,
    (from, to): (i64, i64),
    (now, group): (i64, Option<&str>),
) -> rusqlite::Result<Moved> {
    let before = find(tx, key)?.map(|bookmark| bookmark.at);
    let after = after(before, Some(from), to);
    if let Some(at) = after {
        put(tx, key, (at, now), &BookmarkMover::Backfill(group.map(str::to_owned)))?;
    }
    Ok(Moved { before, after })
}

fn find(db: &Connection, key: Key<'_>) -> rusqlite::Result<Option<Bookmark>> {
    db.prepare_cached("SELECT * FROM bookmarks WHERE package = ?1 AND job = ?2 AND account = ?3")?
        .query_row(params![key.package, key.job, key.account.unwrap_or_default()], bookmark)
        .optional()
}

fn put(tx: &Transaction<'_>, key: Key<'_>, (at, now): (i64, i64), by: &BookmarkMover) -> rusqlite::Result<()> {
    let (run_id, group_id) = match by {
        BookmarkMover::User => (None, None),
        BookmarkMover::Run(run_id) => (Some(run_id.as_str()), None),
        BookmarkMover::Backfill(group) => (None, Some(group.as_deref().unwrap_or_default())),
    };
    tx.prepare_cached(
        "INSERT INTO bookmarks (package, job, account, at, moved_at, run_id, group_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (package, job, account) DO UPDATE SET at = excluded.at, moved_at = excluded.moved_at, run_id = excluded.run_id,
            group_id = excluded.group_id",
    )?
    .execute(params![key.package, key.job, key.account.unwrap_or_default(), at, now, run_id, group_id])
    .map(drop)
}

fn bookmark(row: &Row<'_>) -> rusqlite::Result<Bookmark> {
    let account: String = row.get("account")?;
    let group: Option<String> = row.get("group_id")?;
    let of_backfill = |group: String| BookmarkMover::Backfill((!group.is_empty()).then_some(group));
    let by_run = row.get::<_, Option<String>>("run_id")?.map(BookmarkMover::Run);
    Ok(Bookmark {
        package: row.get("package")?,
        job: row.get("job")?,
        account: (!account.is_empty()).then_some(account),
        at: row.get("at")?,
        moved_at: row.get("moved_at")?,
        moved_by: by_run.or(group.map(of_backfill)).unwrap_or(BookmarkMover::User),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{end_with, new_run, site, spec, started};
    use super::super::{NewRun, RunEnd, RunState, retention};
    use super::*;
    use crate::outcome::Cause;
    use crate::plan::{RunSpec, Window};
    use proptest::prelude::*;
    use std::time::Duration;

    const KEY: Key<'static> = Key { package: "pkg", job: "job", account: None };

    #[test]
    fn the_rule() {
        // Bookmark, since, reached, new position.
        for (bookmark, since, reached, then, why) in [
            (None, None, 50, Some(50), "the first one"),
            (None, Some(40), 50, Some(50), "the first one, from somewhere on"),
            (Some(40), Some(40), 50, Some(50), "from the bookmark on"),
            (Some(40), Some(30), 50, Some(50), "starts before it, ends after it"),
            (Some(40), None, 50, Some(50), "all there is"),
            (Some(40), Some(41), 50, None, "a gap"),
            (Some(40), Some(10), 20, None, "a backfill"),
            (Some(40), None, 20, None, "all there is, to before it"),
            (Some(40), Some(30), 40, None, "just up to it"),
            (Some(40), Some(40), 39, None, "the job came nowhere"),
            (Some(-40), Some(-40), 0, Some(0), "before 1970"),
        ] {
            assert_eq!(after(bookmark, since, reached), then, "{why}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Runs in any order: a bookmark never goes back, and runs have covered everything between the first run's beginning and the
        /// bookmark.
        #[test]
        fn everything_before_a_bookmark_was_covered(runs in prop::collection::vec((prop::option::of(0_i64..40), 1_i64..20), 1..30)) {
            let mut bookmark = None;
            let mut covered = std::collections::HashSet::new();
            let mut first = None;
            for (since, length) in runs {
                let from = since.unwrap_or(-100);
                let until = from.max(0) + length;
                covered.extend(from..until);
                let began = *first.get_or_insert(from);
                let then = after(bookmark, since, until);
                prop_assert!(then.is_none() || then > bookmark, "{then:?} after {bookmark:?}");
                bookmark = then.or(bookmark);
                for at in began..bookmark.unwrap() {
                    prop_assert!(covered.contains(&at), "{at} before {bookmark:?} was left out");
                }
            }
        }
    }

    fn run(run_id: &str, account: Option<&str>, since: Option<i64>, until: i64) -> NewRun {
        let at = |micros| chrono::DateTime::from_timestamp_micros(micros).unwrap();
        let window = Some(Window { since: since.map(at), until: at(until) });
        let spec = RunSpec { account: account.map(str::to_owned), window, ..spec() };
        NewRun { spec, keeps_bookmark: true, ..new_run(run_id) }
    }

    fn end(state: RunState, bookmark: Option<i64>) -> RunEnd {
        RunEnd { bookmark, ..end_with((state == RunState::Failed).then_some(Cause::Error)) }
    }

    fn at(store: &Store, account: Option<&str>) -> Option<i64> {
        store.bookmark(Key { account, ..KEY }).unwrap().map(|bookmark| bookmark.at)
    }

    #[test]
    fn success_moves_the_bookmark_in_the_final_transaction() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&run("r1", None, None, 50), &started()).unwrap();
        assert_eq!(at(&store, None), None, "only at its end");
        // If the terminal event is refused, so is the bookmark.
        store.db.execute_batch("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
        store.end_run("r1", &end(RunState::Completed, None)).unwrap_err();
        assert_eq!(at(&store, None), None);
        store.db.execute_batch("DROP TRIGGER no").unwrap();
        assert!(store.end_run("r1", &end(RunState::Completed, None)).unwrap());
        let moved_at = end(RunState::Completed, None).ended_at;
        let moved_by = BookmarkMover::Run("r1".into());
        let expected = Bookmark { package: "pkg".into(), job: "job".into(), account: None, at: 50, moved_at, moved_by };
        assert_eq!(store.bookmark(KEY).unwrap(), Some(expected));
        assert!(!store.end_run("r1", &end(RunState::Completed, Some(60))).unwrap(), "a second end");
        assert_eq!(at(&store, None), Some(50));
        assert_eq!(store.find_run("r1").unwrap().unwrap().bookmark, Some(Moved { before: None, after: Some(50) }));
    }

    #[test]
    fn a_run_that_failed_or_has_no_since_leaves_the_bookmark() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.set_bookmark(KEY, 40, 1).unwrap();
        store.begin_run(&run("failed", None, Some(40), 50), &started()).unwrap();
        store.end_run("failed", &end(RunState::Failed, Some(50))).unwrap();
        store.begin_run(&NewRun { keeps_bookmark: false, ..run("until", None, None, 50) }, &started()).unwrap();
        store.end_run("until", &end(RunState::Completed, None)).unwrap();
        store.skip_run(&run("skipped", None, Some(40), 50), &started()).unwrap();
        assert_eq!(at(&store, None), Some(40));
        for id in ["failed", "until", "skipped"] {
            assert_eq!(store.find_run(id).unwrap().unwrap().bookmark, None, "{id}");
        }
    }

    #[test]
    fn each_account_has_its_own_and_the_jobs_value_takes_precedence() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        for (id, account, until) in [("r1", None, 50), ("r2", Some("a"), 60), ("r3", Some("b"), 70)] {
            store.begin_run(&run(id, account, None, until), &started()).unwrap();
        }
        // Several at once, as recovery ends them.
        let (plain, set) = (end(RunState::Completed, None), end(RunState::Completed, Some(65)));
        store.end_runs(&[("r1", &plain), ("r2", &plain), ("r3", &set)]).unwrap();
        assert_eq!([at(&store, None), at(&store, Some("a")), at(&store, Some("b"))], [Some(50), Some(60), Some(65)]);
        // A gap after a's; a backfill of b's.
        store.begin_run(&run("r4", Some("a"), Some(61), 90), &started()).unwrap();
        store.begin_run(&run("r5", Some("b"), Some(0), 10), &started()).unwrap();
        store.end_runs(&[("r4", &plain), ("r5", &plain)]).unwrap();
        assert_eq!([at(&store, Some("a")), at(&store, Some("b"))], [Some(60), Some(65)]);
        assert_eq!(store.find_run("r4").unwrap().unwrap().bookmark, Some(Moved { before: Some(60), after: None }));
    }

    #[test]
    fn by_hand() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let of_a = Key { account: Some("a"), ..KEY };
        assert_eq!(store.set_bookmark(of_a, 7, 1).unwrap(), None);
        assert_eq!(store.set_bookmark(of_a, 5, 2).unwrap().map(|was| was.at), Some(7));
        store.set_bookmark(KEY, 9, 3).unwrap();
        assert_eq!(store.bookmark(KEY).unwrap().map(|bookmark| bookmark.moved_by), Some(BookmarkMover::User));
        store.set_bookmark(Key { package: "other", ..KEY }, 9, 3).unwrap();
        let names = |found: Vec<Bookmark>| -> Vec<String> {
            found.iter().map(|b| format!("{}/{} {:?} {}", b.package, b.job, b.account.as_deref(), b.at)).collect()
        };
        assert_eq!(names(store.bookmarks(Some("pkg"), None).unwrap()), ["pkg/job None 9", "pkg/job Some(\"a\") 5"]);
        assert_eq!(store.bookmarks(None, None).unwrap().len(), 3);
        assert_eq!(store.bookmarks(Some("pkg"), Some("no")).unwrap(), []);
        assert_eq!(store.reset_bookmark(of_a).unwrap().map(|was| was.at), Some(5));
        assert_eq!(store.reset_bookmark(of_a).unwrap(), None);
        assert_eq!(at(&store, None), Some(9), "the others stay");
    }

    #[test]
    fn retention_leaves_bookmarks() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        store.begin_run(&run("r1", None, None, 50), &started()).unwrap();
        store.end_run("r1", &end(RunState::Completed, None)).unwrap();
        store.begin_run(&new_run("r2"), &started()).unwrap();
        store.end_run("r2", &end(RunState::Completed, None)).unwrap();
        let none = Duration::ZERO;
        let retention = retention::Retention { logs: none, payloads: none, runs: none, destinations: Vec::new() };
        assert_eq!(store.prune(&site.state, &retention, crate::host::clock::now_micros()).unwrap().runs, 1);
        assert_eq!(at(&store, None), Some(50));
    }

    #[test]
    fn a_peek_creates_and_migrates_nothing() {
        let site = site();
        assert_eq!(Store::peek_bookmark(&site.state, KEY).unwrap(), None);
        assert!(!site.state.store().exists());
        let mut store = Store::open(&site.state).unwrap();
        store.set_bookmark(KEY, 7, 1).unwrap();
        assert_eq!(Store::peek_bookmark(&site.state, KEY).unwrap().map(|bookmark| bookmark.at), Some(7));
        store.db.execute_batch("DROP TABLE bookmarks; PRAGMA user_version = 0;").unwrap();
        drop(store);
        assert_eq!(Store::peek_bookmark(&site.state, KEY).unwrap(), None);
        let version: i64 =
            Connection::open(site.state.store()).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 0);
    }
}
