//! Refused runs: requested but not started. They are recorded so that the store shows that nothing ran, even if a notification is lost.
//!
//! A refused run has no attempt and no `job.started`. Its only event is `job.refused`, which is delivered like any other. It never has an id that
//! a caller chose with `--run-id`, so that the caller can repeat the call.

use super::event::{OwnEvent, insert_own};
use super::own::OwnType;
use super::{RunState, Store, StoreError};
use crate::host::process::Identity;
use crate::outcome::Cause;
use crate::plan::{RequestedBy, RunSpec};
use rusqlite::params;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The known facts about a refused run.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Package of the job.
    pub package: String,
    /// Name of the job.
    pub job: String,
    /// Its account, if given.
    pub account: Option<String>,
    /// The spec, if it was created.
    pub spec: Option<RunSpec>,
    /// Cause of the refusal.
    pub cause: Cause,
    /// Message that explains the cause to people.
    pub message: String,
    /// Exit code of the command.
    pub exit_code: u8,
    /// The id that the caller chose with `--run-id`.
    pub requested_run_id: Option<String>,
    /// Who requested the run.
    pub requested_by: RequestedBy,
    /// The group of the run.
    pub group: Option<String>,
}

/// Payload of `job.refused`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Why the run was refused.
    pub cause: Cause,
    /// The cause for people.
    pub message: String,
    /// Exit code of the command.
    pub exit_code: u8,
    /// The host on which the run was requested.
    pub host: String,
    /// Version of lorchestra.
    pub lorchestra_version: String,
    /// Who requested the run: `command-line`, `schedule`, `rerun:RUN` or `engine:NAME`.
    #[schemars(with = "String")]
    pub requested_by: RequestedBy,
    /// The group of the run.
    pub group: Option<String>,
    /// The `--run-id` of the command. The refused run has another id, so that the command can be repeated.
    pub requested_run_id: Option<String>,
}

/// Host, process and time of a refusal.
#[derive(Debug)]
pub(crate) struct RefusedAt<'a> {
    pub(crate) run_id: &'a str,
    pub(crate) at: i64,
    pub(crate) host: &'a str,
    pub(crate) process: &'a Identity,
    pub(crate) lorchestra_version: &'a str,
}

impl Store {
    /// Records a refused run with its only event.
    pub(crate) fn refuse_run(&mut self, refusal: &Refusal, at: &RefusedAt<'_>) -> Result<(), StoreError> {
        let Refusal { package, job, account, spec, cause, message, exit_code, requested_run_id, requested_by, group } = refusal;
        let RefusedAt { run_id, at, host, process, lorchestra_version } = at;
        let payload = Refused {
            cause: *cause,
            message: message.clone(),
            exit_code: *exit_code,
            host: (*host).to_owned(),
            lorchestra_version: (*lorchestra_version).to_owned(),
            requested_by: requested_by.clone(),
            group: group.clone(),
            requested_run_id: requested_run_id.clone(),
        };
        let window = spec.as_ref().and_then(|spec| spec.window);
        self.write("recording the refused run", |tx| {
            tx.execute(
                "INSERT INTO runs (run_id, package, job, account, state, cause, message, started_at, ended_at, spec, since, until,
                    plugin_path, plugin_version, plugin_sha256, location, host, supervisor_pid, supervisor_start, boot_id,
                    account_key, cause_key)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?11, '', '', '', '', ?12, ?13, ?14, ?15, coalesce(?4, ''), ?6)",
                params![
                    run_id,
                    package,
                    job,
                    account,
                    RunState::Refused.as_str(),
                    cause.as_str(),
                    message,
                    at,
                    spec.as_ref().map(RunSpec::to_json).unwrap_or_default(),
                    window.and_then(|window| window.since).map(|since| since.timestamp_micros()),
                    window.map(|window| window.until.timestamp_micros()),
                    host,
                    process.pid,
                    process.start.cast_signed(),
                    process.boot_id,
                ],
            )?;
            let run = tx.last_insert_rowid();
            let event = OwnEvent { run, attempt: 0, event_type: OwnType::Refused, at: *at, terminal: true };
            insert_own(tx, &event, &payload)
        })
    }
}
