//! Pending events of a destination, counted for each job and account. Reads only.
//!
//! No index has the pending events of a job: an entry for each event would slow down every run. So this reads the oldest pending events up
//! to [`COUNTED`], like [`Store::pending`], and counts them by run. Cost grows neither with the history nor with the backlog beyond that.

use super::super::{Store, StoreError};
use super::backlog::{COUNTED, delivered_to, unsent, unsettled};
use rusqlite::{OptionalExtension, params};
use std::collections::BTreeMap;

/// Pending events of one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingJobs {
    /// The number of all of them, at most one more than [`COUNTED`].
    pub total: u64,
    /// Whether events were left uncounted: then each number is a minimum.
    pub is_cut: bool,
    /// By package, job and account; the account is empty for none.
    jobs: BTreeMap<[String; 3], u64>,
}

impl PendingJobs {
    /// The counted events of a job and account.
    pub fn of(&self, package: &str, job: &str, account: Option<&str>) -> u64 {
        let key = [package, job, account.unwrap_or_default()].map(str::to_owned);
        self.jobs.get(&key).copied().unwrap_or(0)
    }
}

impl Store {
    /// Counts the pending events of a destination by job and account. May include events that are settled individually, like
    /// [`pending`](Self::pending).
    pub fn pending_jobs(&self, destination: &str) -> Result<PendingJobs, StoreError> {
        let most = COUNTED.cast_signed() + 1;
        let runs = self.read("counting what is not delivered", |db| {
            let unsent = format!("SELECT e.run FROM events e WHERE {} ORDER BY e.n LIMIT ?2", unsent("?1"));
            let suspects = "SELECT e.run FROM settled s CROSS JOIN events e ON e.n = s.event
                            WHERE s.destination = ?1 AND s.how = 'suspect' LIMIT ?2";
            // By number, which is the order of the rows that are read next.
            let mut runs: BTreeMap<i64, u64> = BTreeMap::new();
            for sql in [unsent.as_str(), suspects] {
                let mut statement = db.prepare_cached(sql)?;
                let mut rows = statement.query(params![destination, most])?;
                while let Some(row) = rows.next()? {
                    *runs.entry(row.get(0)?).or_default() += 1;
                }
            }
            Ok(runs)
        })?;
        let total = runs.values().sum::<u64>();
        let jobs = self.read("reading the jobs of what is not delivered", |db| {
            let mut job = db.prepare_cached("SELECT package, job, account_key FROM runs WHERE n = ?1")?;
            let mut jobs: BTreeMap<[String; 3], u64> = BTreeMap::new();
            for (run, events) in runs {
                // Retention may have removed the run since.
                if let Some(key) = job.query_row([run], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?])).optional()? {
                    *jobs.entry(key).or_default() += events;
                }
            }
            Ok(jobs)
        })?;
        Ok(PendingJobs { total: total.min(COUNTED + 1), is_cut: total > COUNTED, jobs })
    }

    /// Counts the unsent events of a run at a destination, up to [`COUNTED`]: for a job of which [`pending_jobs`](Self::pending_jobs) saw
    /// none before it stopped.
    pub fn unsent_of(&self, destination: &str, run_id: &str) -> Result<u64, StoreError> {
        self.read("counting what is not delivered", |db| {
            let sql = format!(
                "SELECT count(*) FROM (SELECT 1 FROM events e WHERE run = (SELECT n FROM runs WHERE run_id = ?2)
                    AND e.n > {} AND {} LIMIT ?3)",
                delivered_to("?1"),
                unsettled("?1")
            );
            let values = params![destination, run_id, COUNTED.cast_signed()];
            db.prepare_cached(&sql)?.query_row(values, |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outbox, RowDisposition, tests::batch};
    use super::*;
    use crate::plan::RunSpec;
    use crate::store::tests::{end, lines, new_run, parsed, site, spec, started};
    use crate::store::{NewRun, Portion};

    fn begin(store: &mut Store, run_id: &str, account: Option<&str>) {
        let spec = RunSpec { account: account.map(str::to_owned), ..spec() };
        store.begin_run(&NewRun { spec, ..new_run(run_id) }, &started()).unwrap();
    }

    #[test]
    fn each_job_and_account_has_its_own_pending_events() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        for (run_id, account) in [("r1", Some("anna")), ("r2", None), ("r3", Some("anna"))] {
            begin(&mut store, run_id, account);
            store.end_run(run_id, &end()).unwrap();
        }
        let counts = |store: &Store, to: &str| {
            let pending = store.pending_jobs(to).unwrap();
            assert_eq!((pending.total, pending.is_cut), (store.pending(to).unwrap(), false));
            (pending.of("pkg", "job", Some("anna")), pending.of("pkg", "job", None), pending.of("pkg", "other", None))
        };
        assert_eq!(counts(&store, "unknown to the store"), (4, 2, 0));
        let mut outbox = Outbox::open(Store::open(&site.state).unwrap(), "there").unwrap();
        assert_eq!(counts(&store, "there"), (4, 2, 0));
        // The first run is delivered, except for one event that is suspected.
        let rows = outbox.pending_rows(0, 2, usize::MAX).unwrap();
        let frozen = outbox.advance(None, Some(&batch(&rows))).unwrap().unwrap();
        outbox.release(&frozen, &[(rows[0].n, RowDisposition::Suspect("no".into()))], 1, "no").unwrap();
        let left = outbox.pending_rows(0, 1, usize::MAX).unwrap();
        let frozen = outbox.advance(None, Some(&batch(&left))).unwrap().unwrap();
        outbox.advance(Some(&frozen), None).unwrap();
        assert_eq!(counts(&store, "there"), (3, 2, 0));
        assert_eq!(counts(&store, "elsewhere"), (4, 2, 0));
        assert_eq!((store.unsent_of("there", "r1").unwrap(), store.unsent_of("there", "r2").unwrap()), (0, 2));
    }

    #[test]
    fn counting_stops_at_a_limit() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        begin(&mut store, "large", None);
        let many = lines(usize::try_from(COUNTED).unwrap());
        let mut ingested = store.ingested("large", 1).unwrap();
        let portion =
            Portion { records: &parsed(&many), after: ingested.cursor, end: crate::spool::Cursor::default(), damaged: 0 };
        store.ingest("large", 1, portion, &mut ingested).unwrap();
        let pending = store.pending_jobs("there").unwrap();
        // With the start of the run, one more than is counted.
        assert_eq!((pending.total, pending.is_cut, pending.of("pkg", "job", None)), (COUNTED + 1, true, COUNTED + 1));
        begin(&mut store, "later", Some("anna"));
        let pending = store.pending_jobs("there").unwrap();
        assert_eq!((pending.total, pending.is_cut, pending.of("pkg", "job", Some("anna"))), (COUNTED + 1, true, 0));
        assert_eq!((store.unsent_of("there", "later").unwrap(), store.unsent_of("there", "large").unwrap()), (1, COUNTED));
    }
}
