//! Records and reads runs and attempts.

use super::event::{OwnEvent, insert_own};
use super::own::{OwnType, Started, Terminal};
use super::{Moved, Store, StoreError, bookmark, group, results};
use crate::host::process::Identity;
use crate::outcome::{Cause, Outcome};
use crate::plan::{RunSpec, SpecError};
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::results::Results;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// State of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum RunState {
    Running,
    Completed,
    Failed,
    /// Another run of the same job and account was running.
    Skipped,
    /// It was requested but could not start; nothing ran.
    Refused,
    /// Its job succeeded, but another run of the same window counts.
    Superseded,
    /// It ran on another host and has the claim of its window, which is complete. How it ended is known there.
    Claimed,
}

impl RunState {
    /// The state as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
            Self::Claimed => "claimed",
        }
    }

    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Running, Self::Completed, Self::Failed, Self::Skipped, Self::Refused, Self::Superseded, Self::Claimed];

    /// Parses a stored state. The store has only states that this version knows: a newer lorchestra would have written a newer store.
    pub(super) fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == name).unwrap_or(Self::Failed)
    }
}

/// A run that is about to start.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented at Run")]
pub struct NewRun {
    pub run_id: String,
    pub spec: RunSpec,
    pub started_at: i64,
    pub plugin_path: String,
    pub plugin_sha256: String,
    pub location: String,
    pub host: String,
    pub supervisor: Identity,
    /// The worker, which already waits for its order; `None` for a skipped run.
    pub worker_pid: Option<u32>,
    /// Whether the job has a `since`, so that its success may move the bookmark of job and account.
    pub keeps_bookmark: bool,
}

/// A run in the store. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The run's UUIDv7.
    pub run_id: String,
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Value of its `account` parameter, if it has one.
    pub account: Option<String>,
    /// Running, or how it ended.
    pub state: RunState,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// The cause for people.
    pub message: Option<String>,
    /// The job's own result, if the run ended differently (timeout, cancelled).
    pub job_result: Option<String>,
    /// When the run started.
    pub started_at: i64,
    /// When its terminal event was created.
    pub ended_at: Option<i64>,
    /// Number of attempts started; 0 if it was skipped.
    pub attempts: u32,
    /// Its spec as JSON; [`spec`](Self::spec) parses it.
    pub spec_json: String,
    /// Beginning of its window.
    pub since: Option<i64>,
    /// End of its window.
    pub until: Option<i64>,
    /// Path of the library.
    pub plugin_path: String,
    /// Version of the package.
    pub plugin_version: String,
    /// SHA-256 of the library that ran.
    pub plugin_sha256: String,
    /// `file:line` of the job.
    pub location: String,
    /// The host on which it ran.
    pub host: String,
    /// The pid of its supervisor.
    pub supervisor_pid: u32,
    /// Start time of the supervisor in clock ticks since boot, because pids are reused.
    pub supervisor_start: u64,
    /// The boot during which it ran.
    pub boot_id: String,
    /// Its effect on the bookmark of its job and account; `None` if it has not completed, or its job has no `since`.
    pub bookmark: Option<Moved>,
}

impl Run {
    /// Returns the spec that describes the run, and can be run again.
    ///
    /// # Errors
    /// If the stored text is not a spec: another program has changed the store.
    pub fn spec(&self) -> Result<RunSpec, SpecError> {
        RunSpec::from_json(self.spec_json.as_bytes())
    }

    /// The name of its group. A run of another host has no complete spec.
    pub fn group_name(&self) -> Option<String> {
        let spec: serde_json::Value = serde_json::from_str(&self.spec_json).ok()?;
        spec["group"].as_str().map(str::to_owned)
    }

    /// Whether it is a run of this job and account.
    pub fn has_key(&self, package: &str, job: &str, account: Option<&str>) -> bool {
        (self.package.as_str(), self.job.as_str(), self.account.as_deref()) == (package, job, account)
    }

    /// The process that supervises it.
    pub fn supervisor(&self) -> Identity {
        Identity { pid: self.supervisor_pid, start: self.supervisor_start, boot_id: self.boot_id.clone() }
    }

    /// Whether its supervisor is alive.
    pub fn is_supervised(&self) -> bool {
        // If that cannot be determined, the run's lock shows it.
        !matches!(self.supervisor().open(), Ok(None))
    }
}

/// An attempt of a run. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// When its worker was started.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// The pid of the worker.
    pub worker_pid: Option<u32>,
    /// Why it failed; `None` if it is running or completed.
    pub cause: Option<Cause>,
    /// The cause for people.
    pub message: Option<String>,
}

/// The end of an attempt that another one follows.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Why it failed.
    pub cause: Cause,
    /// The cause for people.
    pub message: String,
    /// When it ended, in microseconds since 1970.
    pub ended_at: i64,
    /// What its job reported.
    pub results: Results,
}

/// The end of a run: its terminal event, which determines its state.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEnd {
    /// When it ended, in microseconds since 1970.
    pub ended_at: i64,
    /// The bookmark that the job set, in microseconds since 1970; used if the run completed. `None` for the end of its window.
    pub bookmark: Option<i64>,
    /// What the job reported in the last attempt; the terminal event has it too, and the store keeps the files.
    pub results: Results,
    /// Payload of the terminal event.
    pub terminal: Terminal,
}

/// Which runs to read; newest first.
#[derive(Debug, Default, Clone)]
pub struct RunFilter {
    /// Only running ones.
    pub running: bool,
    /// Maximum number.
    pub limit: Option<u64>,
}

/// Whether a run was recorded that was about to start.
#[derive(Debug)]
pub enum RunStart {
    /// It was.
    Begun,
    /// This other run has done its work.
    NotNeeded(Box<Run>),
    /// Its group is cancelled.
    Cancelled,
}

impl Store {
    /// Records a run that is about to start, with its first attempt and its `job.started`. Records nothing if it is the run of a member that a
    /// run outside its group has completed since it was given to a supervisor, or whose group was cancelled since.
    pub fn begin_run(&mut self, run: &NewRun, started: &Started) -> Result<RunStart, StoreError> {
        self.write("recording the run", |tx| {
            match group::obstacle(tx, &run.run_id)? {
                Some(group::Obstacle::CompletedBy(by)) => {
                    if let Some(other) = select(tx, "WHERE run_id = ?1", [by])?.pop() {
                        return Ok(RunStart::NotNeeded(Box::new(other)));
                    }
                }
                Some(group::Obstacle::Cancelled) => return Ok(RunStart::Cancelled),
                None => {}
            }
            let n = insert_run(tx, run, RunState::Running)?;
            insert_attempt(tx, n, 1, run.started_at, run.worker_pid)?;
            let event = OwnEvent { run: n, attempt: 1, event_type: OwnType::Started, at: run.started_at, terminal: false };
            insert_own(tx, &event, started)?;
            Ok(RunStart::Begun)
        })
    }

    /// Records a skipped run with its only event.
    pub fn skip_run(&mut self, run: &NewRun, skipped: &Started) -> Result<(), StoreError> {
        self.write("recording the skipped run", |tx| {
            let n = insert_run(tx, run, RunState::Skipped)?;
            tx.execute("UPDATE runs SET ended_at = started_at WHERE n = ?1", [n])?;
            let event = OwnEvent { run: n, attempt: 0, event_type: OwnType::Skipped, at: run.started_at, terminal: true };
            insert_own(tx, &event, skipped)
        })
    }

    /// Records that an attempt has ended and another one follows. Returns `false`, and changes nothing, if the run has ended.
    pub fn end_attempt(&mut self, run_id: &str, end: &AttemptEnd) -> Result<bool, StoreError> {
        self.write("recording the attempt's end", |tx| {
            let AttemptEnd { attempt, cause, message, ended_at, results } = end;
            if let Some(n) = running(tx, run_id)? {
                results::settle(tx, n, *attempt, results)?;
            }
            let changed = tx.execute(
                "UPDATE attempts SET ended_at = ?3, cause = ?4, message = ?5
                 WHERE run = (SELECT n FROM runs WHERE run_id = ?1 AND state = 'running') AND attempt = ?2",
                params![run_id, attempt, ended_at, cause.as_str(), message],
            )?;
            Ok(changed > 0)
        })
    }

    /// Records another attempt. Returns `false`, and changes nothing, if the run has ended.
    pub fn begin_attempt(&mut self, run_id: &str, attempt: u32, started_at: i64, worker_pid: u32) -> Result<bool, StoreError> {
        self.write("recording the attempt", |tx| match running(tx, run_id)? {
            Some(n) => insert_attempt(tx, n, attempt, started_at, Some(worker_pid)).map(|()| true),
            None => Ok(false),
        })
    }

    /// Ends a run: state, terminal event, the attempt's end and the bookmark in one transaction. Returns `false`, and changes nothing, if
    /// it has already ended.
    pub fn end_run(&mut self, run_id: &str, end: &RunEnd) -> Result<bool, StoreError> {
        self.write("recording the run's end", |tx| end_one(tx, run_id, end))
    }

    /// Ends several runs in one transaction. Returns for each whether it had not ended before.
    pub fn end_runs(&mut self, ends: &[(&str, &RunEnd)]) -> Result<Vec<bool>, StoreError> {
        self.write("recording the ends of runs", |tx| ends.iter().map(|(run_id, end)| end_one(tx, run_id, end)).collect())
    }

    /// Returns runs, newest first.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, StoreError> {
        let limit = filter.limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
        // Two statements: one with an optional condition could not use the index of running runs.
        let clause = if filter.running { "WHERE state = 'running' ORDER BY n DESC LIMIT ?1" } else { "ORDER BY n DESC LIMIT ?1" };
        self.select(clause, params![limit])
    }

    /// Whether there is a run of the package, or of its job.
    pub fn has_run_of(&self, package: &str, job: Option<&str>) -> Result<bool, StoreError> {
        self.read("looking for a run", |db| match job {
            Some(job) => {
                let sql = "SELECT EXISTS (SELECT 1 FROM runs WHERE package = ?1 AND job = ?2)";
                db.query_row(sql, [package, job], |row| row.get(0))
            }
            None => db.query_row("SELECT EXISTS (SELECT 1 FROM runs WHERE package = ?1)", [package], |row| row.get(0)),
        })
    }

    /// Returns the run with this id.
    pub fn run(&self, run_id: &str) -> Result<Option<Run>, StoreError> {
        Ok(self.select("WHERE run_id = ?1", [run_id])?.pop())
    }

    /// Returns the attempts of a run, in order.
    pub fn attempts(&self, run_id: &str) -> Result<Vec<Attempt>, StoreError> {
        self.read("reading attempts", |db| {
            let mut statement = db.prepare(
                "SELECT attempt, started_at, ended_at, worker_pid, cause, message FROM attempts
                 WHERE run = (SELECT n FROM runs WHERE run_id = ?1) ORDER BY attempt",
            )?;
            let rows = statement.query_map([run_id], |row| {
                Ok(Attempt {
                    attempt: row.get(0)?,
                    started_at: row.get(1)?,
                    ended_at: row.get(2)?,
                    worker_pid: row.get(3)?,
                    cause: cause(row.get(4)?),
                    message: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Returns the payload of a run's terminal event, if it has ended and retention has kept the payload.
    pub fn terminal(&self, run_id: &str) -> Result<Option<Terminal>, StoreError> {
        Ok(self.last_payload(run_id)?.and_then(|json| serde_json::from_str(&json).ok()))
    }

    /// Returns the id of a run's first event, its `job.started`.
    pub(crate) fn first_event(&self, run_id: &str) -> Result<Option<String>, StoreError> {
        self.read("reading the first event of a run", |db| {
            let sql = "SELECT event_id FROM events WHERE run = (SELECT n FROM runs WHERE run_id = ?1) ORDER BY n LIMIT 1";
            db.query_row(sql, [run_id], |row| row.get(0)).optional()
        })
    }

    /// For a skipped run, returns the run that held the overlap lock, if known.
    pub fn held_by(&self, run_id: &str) -> Result<Option<String>, StoreError> {
        let skipped = self.last_payload(run_id)?.and_then(|json| serde_json::from_str::<Started>(&json).ok());
        Ok(skipped.and_then(|skipped| skipped.held_by))
    }

    fn last_payload(&self, run_id: &str) -> Result<Option<String>, StoreError> {
        self.read("reading a run's end", |db| {
            let sql = "SELECT payload FROM events WHERE run = (SELECT n FROM runs WHERE run_id = ?1) AND terminal";
            let payload: Option<Option<String>> = db.query_row(sql, [run_id], |row| row.get(0)).optional()?;
            Ok(payload.flatten())
        })
    }

    pub(super) fn select(&self, clause: &str, values: impl rusqlite::Params) -> Result<Vec<Run>, StoreError> {
        self.read("reading runs", |db| select(db, clause, values))
    }
}

fn select(db: &Connection, clause: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<Run>> {
    let sql = format!("SELECT *, (SELECT count(*) FROM attempts WHERE run = runs.n) AS attempts FROM runs {clause}");
    let mut statement = db.prepare_cached(&sql)?;
    statement.query_map(values, run)?.collect()
}

fn insert_run(tx: &Transaction<'_>, run: &NewRun, state: RunState) -> rusqlite::Result<i64> {
    let spec = &run.spec;
    let micros = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_micros());
    tx.execute(
        "INSERT INTO runs (run_id, package, job, account, state, started_at, spec, since, until, plugin_path, plugin_version,
            plugin_sha256, location, host, supervisor_pid, supervisor_start, boot_id, keeps_bookmark, account_key)
         VALUES (?1, ?2, ?3, ?4, ?17, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?18, coalesce(?4, ''))",
        params![
            run.run_id,
            spec.package,
            spec.job,
            spec.account,
            run.started_at,
            spec.to_json(),
            micros(spec.window.and_then(|window| window.since)),
            micros(spec.window.map(|window| window.until)),
            run.plugin_path,
            spec.version,
            run.plugin_sha256,
            run.location,
            run.host,
            run.supervisor.pid,
            run.supervisor.start.cast_signed(),
            run.supervisor.boot_id,
            state.as_str(),
            run.keeps_bookmark,
        ],
    )?;
    let n = tx.last_insert_rowid();
    group::follow_run(tx, &run.run_id, state)?;
    Ok(n)
}

fn insert_attempt(tx: &Transaction<'_>, run: i64, attempt: u32, started_at: i64, worker: Option<u32>) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO attempts (run, attempt, started_at, worker_pid) VALUES (?1, ?2, ?3, ?4)",
        params![run, attempt, started_at, worker],
    )
    .map(drop)
}

/// Returns the number of a run if it is running.
fn running(tx: &Transaction<'_>, run_id: &str) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached("SELECT n FROM runs WHERE run_id = ?1 AND state = 'running'")?
        .query_row([run_id], |row| row.get(0))
        .optional()
}

fn end_one(tx: &Transaction<'_>, run_id: &str, end: &RunEnd) -> rusqlite::Result<bool> {
    let Some(n) = running(tx, run_id)? else { return Ok(false) };
    let RunEnd { ended_at, bookmark, results, terminal } = end;
    results::settle(tx, n, terminal.attempt, results)?;
    let outcome = terminal.outcome();
    let (state, event_type, failure) = match &outcome {
        Outcome::Completed => (RunState::Completed, OwnType::Completed, None),
        Outcome::Failed(failure) if failure.cause == Cause::Superseded => {
            (RunState::Superseded, OwnType::Superseded, Some(failure))
        }
        Outcome::Failed(failure) => (RunState::Failed, OwnType::Failed, Some(failure)),
    };
    let cause = failure.map(|failure| failure.cause.as_str());
    let message = failure.map(|failure| &failure.message);
    let job_result = failure.and_then(|failure| failure.job_result.as_ref());
    tx.prepare_cached(
        "UPDATE runs SET state = ?2, cause = ?3, cause_key = coalesce(?3, ''), message = ?4, job_result = ?5, ended_at = ?6,
            max_rss_kib = ?7 WHERE n = ?1",
    )?
    .execute(params![
        n,
        state.as_str(),
        cause,
        message,
        job_result,
        ended_at,
        terminal.max_rss_kib.map(u64::cast_signed)
    ])?;
    // An attempt that has already ended keeps its own end: the run was stopped, or its supervisor died, before the next attempt.
    tx.prepare_cached(
        "UPDATE attempts SET ended_at = ?3, cause = ?4, message = ?5 WHERE run = ?1 AND attempt = ?2 AND ended_at IS NULL",
    )?
    .execute(params![n, terminal.attempt, ended_at, cause, message])?;
    group::follow_run(tx, run_id, state)?;
    if state == RunState::Completed {
        bookmark::advance(tx, n, *bookmark, *ended_at)?;
    }
    let event = OwnEvent { run: n, attempt: terminal.attempt, event_type, at: *ended_at, terminal: true };
    insert_own(tx, &event, terminal)?;
    Ok(true)
}

/// Parses a stored cause. The store has only causes that this version knows: a newer lorchestra would have written a newer store.
fn cause(name: Option<String>) -> Option<Cause> {
    name.and_then(|name| Cause::from_name(&name))
}

fn run(row: &Row<'_>) -> rusqlite::Result<Run> {
    let state: String = row.get("state")?;
    let kept = row.get("keeps_bookmark")? && state == "completed";
    Ok(Run {
        run_id: row.get("run_id")?,
        package: row.get("package")?,
        job: row.get("job")?,
        account: row.get("account")?,
        state: RunState::from_name(&state),
        cause: cause(row.get("cause")?),
        message: row.get("message")?,
        job_result: row.get("job_result")?,
        started_at: row.get("started_at")?,
        ended_at: row.get("ended_at")?,
        attempts: row.get("attempts")?,
        spec_json: row.get("spec")?,
        since: row.get("since")?,
        until: row.get("until")?,
        plugin_path: row.get("plugin_path")?,
        plugin_version: row.get("plugin_version")?,
        plugin_sha256: row.get("plugin_sha256")?,
        location: row.get("location")?,
        host: row.get("host")?,
        supervisor_pid: row.get("supervisor_pid")?,
        supervisor_start: row.get::<_, i64>("supervisor_start")?.cast_unsigned(),
        boot_id: row.get("boot_id")?,
        bookmark: match kept {
            true => Some(Moved { before: row.get("bookmark_before")?, after: row.get("bookmark_after")? }),
            false => None,
        },
    })
}
