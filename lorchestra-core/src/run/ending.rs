//! The end of a run as it is recorded: state, terminal event and what was measured. Made by the run's own supervisor, or by
//! [`crate::run::recovery`] of what that one left.

use crate::host::process::ProcessorTime;
use crate::outcome::Outcome;
use crate::run::decision::{Death, Evidence, decide, died_between, told_between};
use crate::run::note;
use crate::spool::record::Final;
use crate::store::event::Taken;
use crate::store::{RunEnd, RunState, Store, StoreError};
use serde_json::{Value, json};
use std::time::Duration;

/// Earlier attempts that the terminal event tells of, at most: the last ones.
const EARLIER: usize = 20;
/// Characters of what each of them said, at most.
const SAID: usize = 500;

/// What is measured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub(crate) duration: Duration,
    pub(crate) time: ProcessorTime,
    pub(crate) max_rss_kib: Option<u64>,
    pub(crate) damaged: u64,
    /// Bytes of what the job printed that the disk did not take.
    pub(crate) output_lost: u64,
    /// Processes that the job started and nobody could end.
    pub(crate) processes_left: usize,
}

impl Facts {
    /// Another attempt: what it used comes to what was used before; of memory it is the most that counts.
    pub(crate) fn add(&mut self, attempt: &Self) {
        self.time.user_ms += attempt.time.user_ms;
        self.time.system_ms += attempt.time.system_ms;
        self.max_rss_kib = self.max_rss_kib.max(attempt.max_rss_kib);
        self.damaged += attempt.damaged;
        self.output_lost += attempt.output_lost;
        self.processes_left += attempt.processes_left;
    }
}

/// How the attempts before the last one ended, for the terminal event. They have no events of their own: what a run says of itself
/// is one `job.started` and one end.
pub(crate) fn earlier(store: &Store, run_id: &str, last: u32) -> Result<Vec<Value>, StoreError> {
    if last == 1 {
        return Ok(Vec::new());
    }
    let attempts: Vec<_> = store.attempts(run_id)?.into_iter().filter(|attempt| attempt.attempt < last).collect();
    let told = attempts.iter().skip(attempts.len().saturating_sub(EARLIER));
    Ok(told
        .map(|attempt| {
            let message: Option<String> = attempt.message.as_ref().map(|message| message.chars().take(SAID).collect());
            let took = attempt.ended_at.map(|ended| (ended - attempt.started_at) / 1000);
            json!({"attempt": attempt.attempt, "cause": attempt.cause, "message": message, "duration_ms": took})
        })
        .collect())
}

/// State and terminal event of an outcome, and how far the job said it came.
pub(crate) fn run_end(outcome: &Outcome, attempt: u32, facts: &Facts, bookmark: Option<i64>, earlier: Vec<Value>) -> RunEnd {
    let mut payload = json!({
        "attempt": attempt,
        "duration_ms": u64::try_from(facts.duration.as_millis()).unwrap_or(u64::MAX),
        "user_ms": facts.time.user_ms,
        "system_ms": facts.time.system_ms,
        "max_rss_kib": facts.max_rss_kib,
    });
    if facts.damaged > 0 {
        payload["damaged"] = facts.damaged.into();
    }
    if facts.output_lost > 0 {
        payload["output_lost"] = facts.output_lost.into();
    }
    if facts.processes_left > 0 {
        payload["processes_left"] = facts.processes_left.into();
    }
    if !earlier.is_empty() {
        payload["earlier_attempts"] = earlier.into();
    }
    let (state, cause, message, job_result) = match outcome {
        Outcome::Completed => (RunState::Completed, None, None, None),
        Outcome::Failed(failure) => {
            payload["cause"] = failure.cause.as_str().into();
            payload["message"] = failure.message.clone().into();
            payload["permanent"] = failure.permanent.into();
            payload["signal"] = failure.signal.into();
            payload["exit_code"] = failure.exit_code.into();
            payload["job_result"] = failure.job_result.clone().into();
            (RunState::Failed, Some(failure.cause.as_str()), Some(failure.message.clone()), failure.job_result.clone())
        }
    };
    RunEnd { state, cause, message, job_result, ended_at: crate::host::clock::now_micros(), attempt, bookmark, payload }
}

/// What is left of a run whose supervisor is dead.
pub(crate) struct Left {
    /// Its last attempt, from 1.
    pub(crate) attempt: u32,
    /// Whether that was recorded as over: another one was to come.
    pub(crate) over: bool,
    /// What the attempt's spool says.
    pub(crate) taken: Taken,
    /// What the supervisor had noted.
    pub(crate) seen: note::Seen,
    /// Whether its log has something in it.
    pub(crate) printed: bool,
    /// How the attempts before it ended.
    pub(crate) earlier: Vec<Value>,
    /// From the run's start until now.
    pub(crate) lived: Duration,
}

/// The end of a run whose supervisor is dead.
pub(crate) fn unseen_end(left: Left) -> (Outcome, RunEnd) {
    let Left { attempt, over, taken, seen, printed, earlier, lived } = left;
    let max_rss_kib = match &taken.end {
        Some(Final::Returned { max_rss_kib, .. }) => *max_rss_kib,
        _ => None,
    };
    let bookmark = taken.end.as_ref().and_then(Final::bookmark);
    let (damaged, between) = (taken.damaged, seen.between);
    let outcome = match decide(&evidence(taken, seen, printed)) {
        Outcome::Failed(failure) if over => match between {
            Some(signal) => told_between(signal, attempt, &failure),
            None => died_between(attempt, &failure),
        },
        outcome => outcome,
    };
    let facts = Facts { duration: lived, max_rss_kib, damaged, ..Facts::default() };
    let end = run_end(&outcome, attempt, &facts, bookmark, earlier);
    (outcome, end)
}

/// What a dead supervisor's note and the spool come to.
pub(crate) fn evidence(taken: Taken, seen: note::Seen, printed: bool) -> Evidence {
    Evidence {
        ending: seen.ending,
        end: taken.end,
        entered: taken.entered,
        death: seen.death.unwrap_or(Death::Unseen),
        damaged: taken.damaged,
        fault: seen.fault,
        printed,
        memory: None,
    }
}
