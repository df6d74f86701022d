//! The recorded end of a run: state, terminal event and measurements. Made by the run's own supervisor, or by
//! [`crate::run::recovery`] from what a dead supervisor left.

use crate::host::process::ProcessorTime;
use crate::outcome::Outcome;
use crate::run::decision::{Death, Evidence, cancelled_between_attempts, decide, supervisor_lost_between_attempts};
use crate::run::note;
use crate::spool::record::Final;
use crate::store::event::IngestState;
use crate::store::{EarlierAttempt, RunEnd, Store, StoreError, Terminal};
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum number of earlier attempts in the terminal event: the last ones.
const EARLIER: usize = 20;
/// Maximum number of characters of each one's message.
const MAX_MESSAGE: usize = 500;

/// The measurements of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub(crate) duration: Duration,
    /// `None` if it is not known.
    pub(crate) time: Option<ProcessorTime>,
    pub(crate) max_rss_kib: Option<u64>,
    pub(crate) damaged: u64,
    /// Bytes of the job's output that the disk refused.
    pub(crate) output_lost: u64,
    /// Number of the job's processes that could not be killed.
    pub(crate) processes_left: usize,
}

impl Facts {
    /// Adds another attempt: times add up, for memory the maximum counts.
    pub(crate) fn add(&mut self, attempt: &Self) {
        self.time = match (self.time, attempt.time) {
            (Some(a), Some(b)) => Some(ProcessorTime { user_ms: a.user_ms + b.user_ms, system_ms: a.system_ms + b.system_ms }),
            (a, b) => a.or(b),
        };
        self.max_rss_kib = self.max_rss_kib.max(attempt.max_rss_kib);
        self.damaged += attempt.damaged;
        self.output_lost += attempt.output_lost;
        self.processes_left += attempt.processes_left;
    }
}

/// Returns how the earlier attempts ended, for the terminal event. They have no events of their own: lorchestra's own events for a run are
/// one `job.started` and one terminal event.
pub(crate) fn earlier(store: &Store, run_id: &str, last: u32) -> Result<Vec<EarlierAttempt>, StoreError> {
    if last == 1 {
        return Ok(Vec::new());
    }
    let attempts: Vec<_> = store.attempts(run_id)?.into_iter().filter(|attempt| attempt.attempt < last).collect();
    let last_ones = attempts.iter().skip(attempts.len().saturating_sub(EARLIER));
    Ok(last_ones
        .map(|attempt| EarlierAttempt {
            attempt: attempt.attempt,
            cause: attempt.cause,
            message: attempt.message.as_ref().map(|message| message.chars().take(MAX_MESSAGE).collect()),
            duration_ms: attempt.ended_at.map(|ended| (ended - attempt.started_at) / 1000),
        })
        .collect())
}

/// Builds the payload of the terminal event.
pub(crate) fn terminal(outcome: &Outcome, attempt: u32, facts: &Facts, earlier: Vec<EarlierAttempt>) -> Terminal {
    Terminal {
        attempt,
        duration_ms: u64::try_from(facts.duration.as_millis()).unwrap_or(u64::MAX),
        user_ms: facts.time.map(|time| time.user_ms),
        system_ms: facts.time.map(|time| time.system_ms),
        max_rss_kib: facts.max_rss_kib,
        damaged: facts.damaged,
        output_lost: facts.output_lost,
        processes_left: facts.processes_left as u64,
        result: None,
        artifacts: Vec::new(),
        counters: BTreeMap::new(),
        progress: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        earlier_attempts: earlier,
        failure: match outcome {
            Outcome::Completed => None,
            Outcome::Failed(failure) => Some(failure.clone()),
        },
    }
}

/// What is known about a run whose supervisor is dead.
pub(crate) struct DeadRun {
    /// Its last attempt, counted from 1.
    pub(crate) attempt: u32,
    /// Whether the end of that attempt was recorded, so that another one was to follow.
    pub(crate) over: bool,
    /// The contents of the attempt's spool.
    pub(crate) ingested: IngestState,
    /// The supervisor's note.
    pub(crate) seen: note::NotedFacts,
    /// Whether its log has content.
    pub(crate) printed: bool,
    /// How the earlier attempts ended.
    pub(crate) earlier: Vec<EarlierAttempt>,
    /// When it started, in microseconds since 1970.
    pub(crate) started_at: i64,
    /// The last sign of it, in microseconds since 1970.
    pub(crate) ended_at: i64,
}

/// Determines the end of a run whose supervisor is dead.
pub(crate) fn reconstruct_end(dead: DeadRun) -> (Outcome, RunEnd) {
    let DeadRun { attempt, over, ingested, seen, printed, earlier, started_at, ended_at } = dead;
    let max_rss_kib = match &ingested.end {
        Some(Final::Returned { max_rss_kib, .. }) => *max_rss_kib,
        _ => None,
    };
    let bookmark = ingested.end.as_ref().and_then(Final::bookmark);
    let (damaged, between, results) = (ingested.damaged, seen.between, ingested.results.clone());
    let outcome = match decide(&evidence(ingested, seen, printed)) {
        Outcome::Failed(failure) if over => match between {
            Some(signal) => cancelled_between_attempts(signal, attempt, &failure),
            None => supervisor_lost_between_attempts(attempt, &failure),
        },
        outcome => outcome,
    };
    let duration = Duration::from_micros(u64::try_from(ended_at - started_at).unwrap_or(0));
    let facts = Facts { duration, max_rss_kib, damaged, ..Facts::default() };
    let terminal = terminal(&outcome, attempt, &facts, earlier).with_results(&results);
    let end = RunEnd { ended_at, bookmark, results, terminal };
    (outcome, end)
}

/// Combines a dead supervisor's note and the spool.
pub(crate) fn evidence(ingested: IngestState, seen: note::NotedFacts, printed: bool) -> Evidence {
    Evidence {
        ending: seen.ending,
        end: ingested.end,
        entered: ingested.entered,
        death: seen.death.unwrap_or(Death::Unknown),
        damaged: ingested.damaged,
        fault: seen.fault,
        printed,
        memory: None,
        processor_limit: None,
    }
}
