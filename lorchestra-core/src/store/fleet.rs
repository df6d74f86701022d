//! A store that is filled from the lifecycle events of many hosts, so that what the store of one host answers can be asked
//! about all of them. Such a store is temporary and is only read: it has no spools, no locks and no bookmarks.
//!
//! What the events do not have is missing: bookmarks, pids, the account of a refused run, and the start of a run whose `job.started` lies
//! before the first event (its duration gives it).

use super::{OwnType, RunState, Store, StoreError};
use rusqlite::{Transaction, params};
use serde::Deserialize;
use serde_json::{Value, json};

/// Maximum number of attempts to record of a run.
const ATTEMPTS: u64 = 1000;

/// A lifecycle event of a run on any host.
#[derive(Debug, Clone, Deserialize)]
pub struct FleetEvent {
    /// The run's id.
    pub run_id: String,
    /// That of an [`OwnType`].
    pub event_type: String,
    /// `package/job`.
    pub source: String,
    /// Microseconds since 1970.
    pub at: i64,
    /// The payload.
    pub payload: Value,
}

impl Store {
    /// Records the runs of these events, which are ordered by time. An event that is there twice counts once. A run is shown as claimed only
    /// if its own end is missing.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn fill(&mut self, events: &[FleetEvent]) -> Result<(), StoreError> {
        self.write("recording the runs of all hosts", |tx| {
            let is_claim = |event: &&FleetEvent| event.event_type == OwnType::Claimed.as_str();
            let own = events.iter().filter(|event| !is_claim(event));
            own.chain(events.iter().filter(is_claim)).try_for_each(|event| add(tx, event))
        })
    }
}

fn add(tx: &Transaction<'_>, event: &FleetEvent) -> rusqlite::Result<()> {
    let FleetEvent { run_id, event_type, source, at, payload } = event;
    let Some(state) = OwnType::parse(event_type).map(OwnType::state) else { return Ok(()) };
    // A column of text has the payload as text.
    let parsed = payload.as_str().and_then(|text| serde_json::from_str(text).ok());
    let payload: &Value = parsed.as_ref().unwrap_or(payload);
    let (package, job) = source.split_once('/').unwrap_or((source, ""));
    let text = |key: &str| payload[key].as_str();
    let micros =
        |key: &str| text(key).and_then(|at| chrono::DateTime::parse_from_rfc3339(at).ok()).map(|at| at.timestamp_micros());
    let spec = text("group").map(|group| json!({ "group": group }).to_string()).unwrap_or_default();
    let is_end = state != RunState::Running;
    let took = payload["duration_ms"].as_i64().unwrap_or(0).saturating_mul(1000);
    let started_at = if is_end { at.saturating_sub(took) } else { *at };
    let account = payload["parameters"]["account"].as_str();
    let known = |key: &str| text(key).unwrap_or_default();
    tx.prepare_cached(
        "INSERT INTO runs (run_id, package, job, account, account_key, state, started_at, spec, since, until, plugin_path,
            plugin_version, plugin_sha256, location, host, supervisor_pid, supervisor_start, boot_id, logs, payloads)
         VALUES (?1, ?2, ?3, ?4, coalesce(?4, ''), 'running', ?5, ?6, ?7, ?8, ?9, ?10, ?11, '', ?12, 0, 0, '', 0, 1)
         ON CONFLICT (run_id) DO NOTHING",
    )?
    .execute(params![
        run_id,
        package,
        job,
        account,
        started_at,
        spec,
        micros("since"),
        micros("until"),
        known("plugin_path"),
        known("plugin_version"),
        known("plugin_sha256"),
        known("host"),
    ])?;
    if !is_end {
        return Ok(());
    }
    let n: i64 = tx.prepare_cached("SELECT n FROM runs WHERE run_id = ?1")?.query_row([run_id], |row| row.get(0))?;
    let cause = text("cause");
    tx.prepare_cached(
        "UPDATE runs SET state = ?2, cause = ?3, cause_key = coalesce(?3, ''), message = ?4, job_result = ?5, ended_at = ?6,
            max_rss_kib = ?7 WHERE n = ?1 AND state = 'running'",
    )?
    .execute(params![n, state.as_str(), cause, text("message"), text("job_result"), at, payload["max_rss_kib"].as_i64()])?;
    let attempts = payload["attempt"].as_u64().unwrap_or(0).min(ATTEMPTS);
    for attempt in 1..=attempts {
        tx.prepare_cached("INSERT OR IGNORE INTO attempts (run, attempt, started_at, ended_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![n, i64::try_from(attempt).unwrap_or(0), started_at, at])?;
    }
    tx.prepare_cached(
        "INSERT INTO events (event_id, run, attempt, event_type, created_at, payload, terminal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![format!("{run_id} {event_type}"), n, i64::try_from(attempts).unwrap_or(0), event_type, at, payload.to_string()])
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::tests::site;
    use super::*;

    #[test]
    fn a_run_is_claimed_only_if_its_own_end_is_missing() {
        let site = site();
        let event = |run_id: &str, event_type: &str| FleetEvent {
            run_id: run_id.into(),
            event_type: event_type.into(),
            source: "pkg/job".into(),
            at: 7,
            payload: json!({ "host": "node", "duration_ms": 0 }),
        };
        let mut store = Store::open(&site.state).unwrap();
        let events = [
            event("delivered", "job.started"),
            event("delivered", "job.claimed"),
            event("delivered", "job.completed"),
            event("lost", "job.started"),
            event("lost", "job.claimed"),
            event("earlier", "job.claimed"),
        ];
        store.fill(&events).unwrap();
        for (run_id, expected) in
            [("delivered", RunState::Completed), ("lost", RunState::Claimed), ("earlier", RunState::Claimed)]
        {
            assert_eq!(store.run(run_id).unwrap().unwrap().state, expected, "{run_id}");
        }
    }
}
