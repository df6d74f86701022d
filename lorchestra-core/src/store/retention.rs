//! Retention: what the store removes, and when. Runs at the end of a run, after its outcome has been reported.
//!
//! No run pays for removing a year's data. One call examines `RUNS` runs for each kind of data, in the order in which they ended, and
//! changes `EVENTS` events, or twice as many as this process has ingested, so that removal keeps pace with jobs that emit many events. The
//! next calls do the rest. A run with more events than that loses them over several calls, its terminal event last.
//!
//! A run with undelivered events is skipped, and the next call continues after it, so a thousand of them block nothing. At the end of
//! everything old enough, it starts over.
//!
//! Of each job and account, the newest success, the newest failure after it and the newest end stay, however old they are: without them,
//! `status` would report a job that died as one that never was. Their logs and payloads are removed in time. [`Store::forget`] removes these
//! runs too.
//!
//! Free pages are reused. If they exceed a tenth of the file, `PAGES` of them per call are returned to the disk.

mod forget;
mod limits;
mod preview;

pub use forget::Forgotten;
pub use preview::Prunable;

use super::group::OldGroups;
use super::{Store, StoreError, outbox};
use crate::host::state::StateDir;
use rusqlite::{OptionalExtension, params};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::time::Duration;

/// How long to keep data after a run's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Output and traces of jobs.
    pub logs: Duration,
    /// Payloads and subjects of events that were delivered or refused by the server; the rest of the event stays.
    pub payloads: Duration,
    /// Runs with their events.
    pub runs: Duration,
    /// Names of the configured destinations: runs with events that one of them has not received are kept, however old they are. The same
    /// holds for a destination that is no longer configured, for [`FORGOTTEN`] after the last command that had it configured.
    pub destinations: Vec<String>,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { logs: 30 * DAY, payloads: 30 * DAY, runs: 365 * DAY, destinations: Vec::new() }
    }
}

/// How long to wait for a destination that no command has configured.
pub const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Number of runs that one call examines for each kind of data.
const RUNS: usize = 50;
/// Minimum number of events that one call may change for each kind of data, and number of events in one transaction, for which other
/// writers wait.
const EVENTS: usize = 1000;
/// Number of pages that one call returns to the disk. For each of them another page is moved.
const PAGES: u32 = 256;
/// Minimum number of free pages to keep for new data.
const SPARE: i64 = 1024;

/// Lists runs that are old enough to be removed.
const OLD_RUNS: &str = "SELECT n, run_id, ended_at FROM runs
    WHERE (ended_at, n) >= (?1, ?2) AND ended_at < ?3 AND started_at < ?3 ORDER BY ended_at, n LIMIT ?4";
/// Lists runs whose logs are old enough to be removed.
const OLD_LOGS: &str = "SELECT n, run_id, ended_at FROM runs
    WHERE logs AND (ended_at, n) >= (?1, ?2) AND ended_at < ?3 ORDER BY ended_at, n LIMIT ?4";

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Runs, with all their events.
    pub runs: usize,
    /// Log directories, including those of removed runs.
    pub logs: usize,
    /// Runs whose payloads were removed.
    pub payloads: usize,
    /// Groups, with the states of their members.
    pub groups: OldGroups,
}

impl AddAssign for Pruned {
    fn add_assign(&mut self, more: Self) {
        self.runs += more.runs;
        self.logs += more.logs;
        self.payloads += more.payloads;
        self.groups += more.groups;
    }
}

/// The runs by which `status` judges each job and account, read when they are asked for: retention never removes them.
#[derive(Debug, Default)]
struct NewestEnds(BTreeMap<[String; 3], BTreeSet<i64>>);

impl NewestEnds {
    fn contain(&mut self, store: &Store, run: i64) -> Result<bool, StoreError> {
        let key = store.read("looking for old runs", |db| {
            let mut statement = db.prepare_cached("SELECT package, job, account_key FROM runs WHERE n = ?1")?;
            statement.query_row([run], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))
        })?;
        if let Some(ends) = self.0.get(&key) {
            return Ok(ends.contains(&run));
        }
        let ends = store.newest_of(&key)?;
        let is_one = ends.contains(&run);
        self.0.insert(key, ends);
        Ok(is_one)
    }
}

/// A run that is old enough.
struct Old {
    n: i64,
    run_id: String,
    ended_at: i64,
}

/// Where the last call stopped: at this run, and in it at this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    ended_at: i64,
    run: i64,
    event: i64,
}

const START: Position = Position { ended_at: i64::MIN, run: 0, event: 0 };

impl Position {
    fn after(old: &Old) -> Self {
        Self { ended_at: old.ended_at, run: old.n, event: i64::MAX }
    }
}

/// The result of handling an old run.
enum PruneStep {
    Done,
    Kept,
    /// It has more events than may be changed; done up to this one.
    Unfinished(i64),
}

/// How far the events of a run are delivered.
enum DeliveryState {
    Settled,
    /// Some have an unknown result, or are suspects.
    Open,
    /// Some are pending, and so are those of later runs.
    Pending,
}

/// A pass over runs that are old enough.
#[derive(Clone, Copy)]
struct Pass<'a> {
    /// The key of its position.
    what: &'static str,
    /// Selects the runs from a position on.
    sql: &'a str,
    /// Runs that ended before this time are old enough, in microseconds since 1970.
    before: i64,
    /// Destinations that must have received the events.
    waiting: &'a [String],
}

impl Store {
    /// Removes some of the data that is older than `retention` allows at `now` (microseconds since 1970). Never touches running runs. Also
    /// checkpoints the WAL after a flood of events.
    pub fn prune(&mut self, state: &StateDir, retention: &Retention, now: i64) -> Result<Pruned, StoreError> {
        self.end_flood()?;
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let events = EVENTS.max(self.taken_in.saturating_mul(2));
        // Data that a power loss brings back is removed again.
        self.deferred(|store| {
            let waiting = store.waiting(&retention.destinations, before(FORGOTTEN))?;
            store.remove_forgotten(state, &waiting)?;
            let (runs, of_runs) = store.prune_runs(state, (before(retention.runs), &waiting), events)?;
            let groups = store.prune_groups(before(retention.runs))?;
            let logs = of_runs + store.prune_logs(state, before(retention.logs))?;
            // Delivered data is removed even if no destination is configured any more.
            let waiting = if waiting.is_empty() { store.destinations()? } else { waiting };
            let payloads = store.prune_payloads((before(retention.payloads), &waiting), events)?;
            store.give_back()?;
            Ok(Pruned { runs, logs, payloads, groups })
        })?
    }

    /// Returns the destinations for which events are kept.
    fn waiting(&self, configured: &[String], seen_after: i64) -> Result<Vec<String>, StoreError> {
        let mut names = configured.to_vec();
        let seen: Vec<String> = self.read("reading the state of delivery", |db| {
            let mut statement = db.prepare_cached("SELECT destination FROM outbox WHERE seen_at > ?1")?;
            statement.query_map([seen_after], |row| row.get(0))?.collect()
        })?;
        names.extend(seen);
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Returns the numbers of removed runs and of their log directories.
    fn prune_runs(
        &mut self,
        state: &StateDir,
        (before, waiting): (i64, &[String]),
        mut left: usize,
    ) -> Result<(usize, usize), StoreError> {
        let (mut logs, mut ends) = (0, NewestEnds::default());
        // The newest event stays: its number must not be reused, or the next event would count as delivered.
        let newest = self.newest_run()?;
        let runs = self.pass(Pass { what: "runs", sql: OLD_RUNS, before, waiting }, |store, old, _| {
            if newest == Some(old.n) || ends.contain(store, old.n)? {
                return Ok(PruneStep::Kept);
            }
            logs += usize::from(store.remove_files(state, old)?);
            store.remove_rows(old.n, &mut left)
        })?;
        Ok((runs, logs))
    }

    /// Removes the logs and artifacts of a run, before its rows: if the process is killed in between, the next call finds the run again.
    /// Returns whether it had logs.
    fn remove_files(&self, state: &StateDir, old: &Old) -> Result<bool, StoreError> {
        let had_logs = remove_dir(&state.run_logs(&old.run_id))?;
        self.remove_artifacts(old.n)?;
        Ok(had_logs)
    }

    /// Removes at most `left` events of a run, and with the last one the run.
    fn remove_rows(&mut self, run: i64, left: &mut usize) -> Result<PruneStep, StoreError> {
        loop {
            let some = EVENTS.min(*left);
            let removed = self.write("removing an old run", |tx| {
                let sql =
                    "DELETE FROM events WHERE n IN (SELECT n FROM events WHERE run = ?1 AND NOT terminal ORDER BY n LIMIT ?2)";
                let removed = tx.prepare_cached(sql)?.execute(params![run, rows(some)])?;
                if removed < some {
                    tx.prepare_cached("DELETE FROM runs WHERE n = ?1")?.execute([run])?;
                }
                Ok(removed)
            })?;
            *left -= removed;
            if removed < some {
                return Ok(PruneStep::Done);
            }
            if *left == 0 {
                return Ok(PruneStep::Unfinished(0));
            }
        }
    }

    /// The run that has the newest event.
    fn newest_run(&self) -> Result<Option<i64>, StoreError> {
        self.read("looking for old runs", |db| {
            db.query_row("SELECT run FROM events WHERE n = (SELECT max(n) FROM events)", [], |row| row.get(0)).optional()
        })
    }

    /// Returns the number of removed log directories.
    fn prune_logs(&mut self, state: &StateDir, before: i64) -> Result<usize, StoreError> {
        let old = self.old(OLD_LOGS, START, before)?;
        if old.is_empty() {
            return Ok(0);
        }
        // In this order: if the process is killed in between, the next call finds them again.
        let mut removed = 0;
        for old in &old {
            removed += usize::from(remove_dir(&state.run_logs(&old.run_id))?);
        }
        self.write("removing old logs", |tx| {
            let mut statement = tx.prepare_cached("UPDATE runs SET logs = 0 WHERE n = ?1")?;
            old.iter().try_for_each(|old| statement.execute([old.n]).map(drop))
        })?;
        Ok(removed)
    }

    fn prune_payloads(&mut self, (before, waiting): (i64, &[String]), mut left: usize) -> Result<usize, StoreError> {
        // If nothing is ever delivered, payloads are kept.
        if waiting.is_empty() {
            return Ok(0);
        }
        let sql = "SELECT n, run_id, ended_at FROM runs
            WHERE payloads AND (ended_at, n) >= (?1, ?2) AND ended_at < ?3 ORDER BY ended_at, n LIMIT ?4";
        self.pass(Pass { what: "payloads", sql, before, waiting }, |store, old, mut after| {
            loop {
                let some = EVENTS.min(left);
                let cleared: Vec<i64> = store.write("removing old payloads", |tx| {
                    let sql = "UPDATE events SET payload = NULL, subject_id = NULL, checksum = -1
                        WHERE n IN (SELECT n FROM events WHERE run = ?1 AND n > ?2 ORDER BY n LIMIT ?3) RETURNING n";
                    let mut statement = tx.prepare_cached(sql)?;
                    let cleared: Vec<i64> =
                        statement.query_map(params![old.n, after, rows(some)], |row| row.get(0))?.collect::<Result<_, _>>()?;
                    if cleared.len() < some {
                        tx.prepare_cached("UPDATE runs SET payloads = 0 WHERE n = ?1")?.execute([old.n])?;
                    }
                    Ok(cleared)
                })?;
                left -= cleared.len();
                if cleared.len() < some {
                    return Ok(PruneStep::Done);
                }
                after = cleared.into_iter().max().unwrap_or(after);
                if left == 0 {
                    return Ok(PruneStep::Unfinished(after));
                }
            }
        })
    }

    /// Makes one pass over runs that are old enough, starting where the last one stopped. Returns the number of runs for which `each`
    /// finished. `each` receives the event after which to continue in the run.
    fn pass(
        &mut self,
        pass: Pass<'_>,
        mut each: impl FnMut(&mut Self, &Old, i64) -> Result<PruneStep, StoreError>,
    ) -> Result<usize, StoreError> {
        let Pass { what, sql, before, waiting } = pass;
        let from = self.position(what)?;
        let found = self.old(sql, from, before)?;
        // At the end of everything old enough, the next pass starts over with the oldest.
        let mut next = found.last().filter(|_| found.len() == RUNS).map_or(START, Position::after);
        let mut done = 0;
        for old in &found {
            let event = if old.n == from.run { from.event } else { 0 };
            if event == i64::MAX {
                continue;
            }
            match self.delivery_of(old.n, waiting)? {
                DeliveryState::Settled => match each(self, old, event)? {
                    PruneStep::Done => done += 1,
                    PruneStep::Kept => {}
                    PruneStep::Unfinished(event) => {
                        next = Position { ended_at: old.ended_at, run: old.n, event };
                        break;
                    }
                },
                DeliveryState::Open => {}
                DeliveryState::Pending => {
                    next = START;
                    break;
                }
            }
        }
        if next != from {
            self.write("recording what was removed", |tx| {
                tx.prepare_cached("INSERT OR REPLACE INTO retention (what, ended_at, run, event) VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![what, next.ended_at, next.run, next.event])
            })?;
        }
        Ok(done)
    }

    fn position(&self, what: &str) -> Result<Position, StoreError> {
        self.read("looking for old runs", |db| {
            let mut statement = db.prepare_cached("SELECT ended_at, run, event FROM retention WHERE what = ?1")?;
            let position = statement
                .query_row([what], |row| Ok(Position { ended_at: row.get(0)?, run: row.get(1)?, event: row.get(2)? }))
                .optional()?;
            Ok(position.unwrap_or(START))
        })
    }

    /// Returns runs that ended before a time, starting at a position.
    fn old(&self, sql: &str, from: Position, before: i64) -> Result<Vec<Old>, StoreError> {
        self.read("looking for old runs", |db| {
            let mut statement = db.prepare_cached(sql)?;
            let values = params![from.ended_at, from.run, before, rows(RUNS)];
            statement.query_map(values, |row| Ok(Old { n: row.get(0)?, run_id: row.get(1)?, ended_at: row.get(2)? }))?.collect()
        })
    }

    /// Returns how far the events of a run are delivered, at the destination that has received the least.
    fn delivery_of(&self, run: i64, destinations: &[String]) -> Result<DeliveryState, StoreError> {
        self.read("reading the state of delivery", |db| {
            let is = |sql: &str, destination: &String| {
                db.prepare_cached(sql)?.query_row(params![run, destination], |row| row.get::<_, bool>(0))
            };
            let (is_pending, mut open) = (is_pending(), false);
            for destination in destinations {
                if is(&is_pending, destination)? {
                    return Ok(DeliveryState::Pending);
                }
                open = open || is(IS_OPEN, destination)?;
            }
            Ok(if open { DeliveryState::Open } else { DeliveryState::Settled })
        })
    }

    /// Returns free pages to the disk if there are many.
    fn give_back(&mut self) -> Result<(), StoreError> {
        self.read("giving space back to the disk", |db| {
            let free: i64 = db.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            let all: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
            if free > SPARE.max(all / 10) {
                let mut statement = db.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
                let mut pages = statement.query([])?;
                while pages.next()?.is_some() {}
            }
            Ok(())
        })
    }
}

/// Whether an event of a run must still be sent to a destination.
fn is_pending() -> String {
    format!("SELECT EXISTS (SELECT 1 FROM events WHERE run = ?1 AND n > {})", outbox::delivered_to("?2"))
}

/// Whether an event of a run is a suspect, in flight, or has an unknown result. Searches among such events within the range of the run.
const IS_OPEN: &str = "SELECT EXISTS (
        SELECT 1 FROM settled s CROSS JOIN events e ON e.n = s.event WHERE s.destination = ?2 AND s.how = 'suspect' AND e.run = ?1
        AND s.event BETWEEN (SELECT min(n) FROM events WHERE run = ?1) AND (SELECT max(n) FROM events WHERE run = ?1)
    ) OR EXISTS (
        SELECT 1 FROM batches b WHERE b.destination = ?2 AND EXISTS (SELECT 1 FROM events e WHERE e.run = ?1 AND e.n BETWEEN b.first AND b.last)
    )";

/// A number of rows as an SQL integer.
fn rows(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Returns whether the directory existed.
fn remove_dir(dir: &std::path::Path) -> Result<bool, StoreError> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => Ok(true),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::Io { path: dir.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
