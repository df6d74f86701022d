//! Claimed runs: runs on other hosts that have the claim of their window ([`crate::run::claim`]).
//!
//! Any process that reads the claim of another run records that run: the host that watches a group, a run that has lost, and a later
//! attempt of the window. So the events of the winner count even if its own host never delivers its `job.completed`.
//!
//! A claimed run has the id of the winner, no attempt and no `job.started`. Its only event is `job.claimed`, which is delivered like any other.
//! Nothing is recorded in the store that has the run itself: that store delivers the run's own end.

use super::event::{OwnEvent, insert_own};
use super::own::OwnType;
use super::{RunState, Store, StoreError};
use crate::plan::RunSpec;
use rusqlite::{Transaction, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The run that has a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHolder {
    /// Its id.
    pub run_id: String,
    /// The host on which it ran.
    pub host: String,
}

/// Payload of `job.claimed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Claimed {
    /// The host on which the run ran.
    pub host: String,
    /// The host that has read the claim.
    pub recorded_by: String,
    /// The group of the run.
    pub group: Option<String>,
    /// Start of the window.
    pub since: Option<String>,
    /// End of the window.
    pub until: Option<String>,
}

impl Store {
    /// Records that a run on another host has the claim of the window of `spec`. Returns `false`, and
    /// changes nothing, if this store has the run.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn record_claimed(&mut self, holder: &ClaimHolder, spec: &RunSpec) -> Result<bool, StoreError> {
        self.write("recording a claimed run", |tx| insert_claimed(tx, holder, spec))
    }
}

/// Inserts the run and its event. Returns whether the store did not have the run.
pub(super) fn insert_claimed(tx: &Transaction<'_>, holder: &ClaimHolder, spec: &RunSpec) -> rusqlite::Result<bool> {
    let time = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    let (since, until) = (spec.window.and_then(|window| window.since), spec.window.map(|window| window.until));
    let at = crate::host::clock::now_micros();
    let inserted = tx
        .prepare_cached(
            "INSERT INTO runs (run_id, package, job, account, account_key, state, started_at, ended_at, spec, since, until,
                plugin_path, plugin_version, plugin_sha256, location, host, supervisor_pid, supervisor_start, boot_id, logs)
             VALUES (?1, ?2, ?3, ?4, coalesce(?4, ''), ?5, ?6, ?6, ?7, ?8, ?9, '', ?10, ?11, '', ?12, 0, 0, '', 0)
             ON CONFLICT (run_id) DO NOTHING",
        )?
        .execute(params![
            holder.run_id,
            spec.package,
            spec.job,
            spec.account,
            RunState::Claimed.as_str(),
            at,
            spec.to_json(),
            since.map(|since| since.timestamp_micros()),
            until.map(|until| until.timestamp_micros()),
            spec.version,
            spec.sha256.as_deref().unwrap_or_default(),
            holder.host,
        ])?;
    if inserted == 0 {
        return Ok(false);
    }
    let payload = Claimed {
        host: holder.host.clone(),
        recorded_by: crate::host::process::host(),
        group: spec.group.clone(),
        since: since.map(time),
        until: until.map(time),
    };
    let event = OwnEvent { run: tx.last_insert_rowid(), attempt: 0, event_type: OwnType::Claimed, at, terminal: true };
    insert_own(tx, &event, &payload)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{end, new_run, site, spec, started};
    use super::*;
    use crate::store::event::EventFilter;

    #[test]
    fn a_claimed_run_is_recorded_once_and_never_in_the_store_that_has_the_run() {
        let site = site();
        let mut store = Store::open(&site.state).unwrap();
        let holder = |run_id: &str| ClaimHolder { run_id: run_id.into(), host: "node".into() };
        for _ in 0..2 {
            store.record_claimed(&holder("elsewhere"), &spec()).unwrap();
        }
        store.begin_run(&new_run("here"), &started()).unwrap();
        store.record_claimed(&holder("here"), &spec()).unwrap();
        assert!(store.end_run("here", &end()).unwrap(), "its own end is recorded");
        store.record_claimed(&holder("here"), &spec()).unwrap();
        let states: Vec<(String, RunState)> =
            store.runs(&super::super::RunFilter::default()).unwrap().into_iter().map(|run| (run.run_id, run.state)).collect();
        assert_eq!(states, [("here".to_owned(), RunState::Completed), ("elsewhere".to_owned(), RunState::Claimed)]);
        let mut events = Vec::new();
        let filter = EventFilter { event_type: Some("job.claimed".into()), ..EventFilter::default() };
        store
            .events(&filter, |event| {
                events
                    .push((event.run_id.clone(), event.payload.map(|json| serde_json::from_str::<Claimed>(json.get()).unwrap())));
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap()
            .unwrap();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((events[0].0.as_str(), events[0].1.as_ref().unwrap().host.as_str()), ("elsewhere", "node"));
        let success = |store: &Store| {
            let health = store.health(&crate::store::RunQuery::default()).unwrap().remove(0);
            (health.last_success.unwrap().run_id, health.last.unwrap().run_id)
        };
        store.record_claimed(&holder("later"), &spec()).unwrap();
        assert_eq!(success(&store), ("later".to_owned(), "later".to_owned()), "a claimed window is complete");
    }
}
