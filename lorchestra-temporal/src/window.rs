//! Activities: run a window of a plan, or a scheduled job, as a process, and report how it ended.
//!
//! Guarantees: while the process runs, a heartbeat is sent every [`HEARTBEAT`]; a cancellation, or the end of the worker, reaches the process
//! as SIGTERM; the activity ends after the process has. What an exit code means to Temporal is decided in [`verdict`].

use crate::error::note;
use crate::group::{WindowCommand, WindowEnd};
use crate::process::Supervised;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};
use temporalio_common::error::ApplicationFailure;
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tokio::sync::watch;

/// Interval of heartbeats, and so the longest delay of a cancellation.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);
/// Number of starts after which a window fails that no node can start: several nodes have tried, and repeating does not fix a node.
const NODE_ATTEMPTS: u32 = 5;
/// Longest message that is sent to Temporal, in characters.
const MESSAGE: usize = 300;

/// Input of the activity that runs a window.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WindowInput {
    /// Its index in the plan.
    pub(crate) index: u32,
    /// How to run it.
    pub(crate) command: WindowCommand,
}

/// Input of the activity that runs a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobInput {
    /// The `lorchestra` that was named. A worker may have its own.
    pub(crate) lorchestra: Option<String>,
    /// The arguments of `run-job`.
    pub(crate) args: Vec<String>,
}

/// Result of a window that is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WindowDone {
    /// Whether another run has the claim.
    pub(crate) is_superseded: bool,
    /// Which start it was.
    pub(crate) attempt: u32,
}

/// What the end of a process means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The window is complete.
    Complete,
    /// It was cancelled.
    Cancelled,
    /// Start it again, on this node or another one.
    Retry,
    /// Starting it again would end in the same way.
    Fail,
}

/// Decides what the end of a process means. `has_run` if it reported a run: otherwise nothing was started.
pub(crate) fn verdict(exit_code: Option<i32>, has_run: bool, attempt: u32, is_cancelled: bool) -> Verdict {
    match exit_code {
        // It was complete before the cancellation reached it.
        Some(0) => Verdict::Complete,
        _ if is_cancelled => Verdict::Cancelled,
        // The job failed or timed out: its own retries are those of the plan.
        Some(1 | 124) if has_run => Verdict::Fail,
        // This node does not have the plan, the package, the configuration, or the program: another one may.
        Some(1 | 2 | 78 | 126 | 127) if attempt >= NODE_ATTEMPTS => Verdict::Fail,
        // Not delivered or not claimed (69), internal (70), state not writable (74), overlap (75), interrupted (129, 130, 143), killed.
        _ => Verdict::Retry,
    }
}

/// The processes of a worker.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The `lorchestra` of this node.
    pub(crate) lorchestra: Option<PathBuf>,
    /// Whether the worker is ending.
    pub(crate) stop: watch::Receiver<bool>,
    /// How long after SIGTERM a process is killed.
    pub(crate) kill_after: Duration,
}

#[activities]
impl Programs {
    /// Runs a window.
    #[activity(name = "run-window")]
    pub(crate) async fn run_window(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: WindowInput,
    ) -> Result<WindowDone, ActivityError> {
        let WindowInput { index, command } = input;
        let info = ctx.info();
        let attempt = format!("{}.{}", info.workflow_run_id.as_deref().unwrap_or_default(), info.attempt);
        let mut args: Vec<OsString> = ["run-window", "--engine", "temporal", "--json", "--plan"].map(OsString::from).into();
        args.extend([command.plan, "--index".into(), index.to_string(), "--attempt".into(), attempt].map(OsString::from));
        args.extend(["--claims".into(), command.claims].map(OsString::from));
        args.extend(command.flags.into_iter().map(OsString::from));
        let stdout = self.run(&ctx, (command.lorchestra, args), &format!("window {index}")).await?;
        let is_superseded = run_of(&stdout).is_some_and(|run| run.is_superseded());
        Ok(WindowDone { is_superseded, attempt: ctx.info().attempt })
    }

    /// Runs a job.
    #[activity(name = "run-job")]
    pub(crate) async fn run_job(self: Arc<Self>, ctx: ActivityContext, input: JobInput) -> Result<(), ActivityError> {
        let name: Vec<String> = input.args.iter().take(2).cloned().collect();
        // The JSON shows whether there was a run: a job that failed is not started again, a node that lacks something is.
        let own = ["run-job", "--json", "--requested-by", "schedule"].map(str::to_owned);
        let args = own.into_iter().chain(input.args).map(OsString::from).collect();
        self.run(&ctx, (input.lorchestra, args), &name.join("/")).await.map(drop)
    }
}

impl Programs {
    /// Runs `lorchestra`, and returns its standard output if it exits with 0.
    async fn run(
        &self,
        ctx: &ActivityContext,
        (lorchestra, args): (Option<String>, Vec<OsString>),
        name: &str,
    ) -> Result<String, ActivityError> {
        let attempt = ctx.info().attempt;
        let program = self.lorchestra.clone().or_else(|| lorchestra.map(PathBuf::from)).unwrap_or_else(|| "lorchestra".into());
        let begun = Instant::now();
        let mut process = Supervised::start(&program, &args).map_err(|error| {
            failure(
                Verdict::Retry,
                WindowEnd {
                    exit_code: None,
                    attempt: Some(attempt),
                    message: Some(format!("no process can be started on this node: {error}")),
                },
            )
        })?;
        let supervised = self.supervise(ctx, &mut process).await;
        if supervised.is_err() {
            // Nothing waits for it any more.
            process.kill();
        }
        let (status, is_cancelled) = supervised?;
        let (stdout, stderr) = process.outputs().await;
        let exit_code = status.code();
        let run = run_of(&stdout);
        let verdict = verdict(exit_code, run.is_some(), attempt, is_cancelled);
        let seconds = begun.elapsed().as_secs_f64();
        if verdict == Verdict::Complete {
            note(&format!("{name}: complete in {seconds:.2}s (start {attempt})"));
            return Ok(stdout);
        }
        let message = message_of(run.and_then(|run| run.message).as_deref().unwrap_or(&stderr), status);
        note(&format!("{name}: {message} (start {attempt}, {seconds:.2}s)"));
        Err(failure(verdict, WindowEnd { exit_code, attempt: Some(attempt), message: Some(message) }))
    }

    /// Waits for the end of a process; returns whether Temporal has cancelled it.
    async fn supervise(&self, ctx: &ActivityContext, process: &mut Supervised) -> Result<(ExitStatus, bool), ActivityError> {
        let mut stop = self.stop.clone();
        let mut beat = tokio::time::interval(HEARTBEAT);
        let mut kill_at: Option<tokio::time::Instant> = None;
        let mut is_cancelled = false;
        loop {
            // The SDK sends at most one each half interval.
            ctx.record_heartbeat(()).await?;
            let stopping = async {
                // The guard that it returns must not be kept.
                let _ = stop.wait_for(|stop| *stop).await.map(drop);
            };
            let killing = async {
                match kill_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = process.wait() => return Ok((status?, is_cancelled)),
                _ = beat.tick() => {}
                () = ctx.cancelled(), if !is_cancelled => {
                    is_cancelled = true;
                    process.terminate();
                    kill_at = kill_at.or(Some(tokio::time::Instant::now() + self.kill_after));
                }
                () = stopping, if kill_at.is_none() => {
                    process.terminate();
                    kill_at = Some(tokio::time::Instant::now() + self.kill_after);
                }
                () = killing => {
                    process.kill();
                    kill_at = Some(tokio::time::Instant::now() + self.kill_after);
                }
            }
        }
    }
}

fn failure(verdict: Verdict, end: WindowEnd) -> ActivityError {
    if verdict == Verdict::Cancelled {
        return ActivityError::cancelled_with_details(end);
    }
    let message = end.message.clone().unwrap_or_default();
    let kind = end.exit_code.map_or_else(|| "killed".to_owned(), |code| format!("exit-{code}"));
    let failure =
        ApplicationFailure::builder(message).type_name(kind).non_retryable(verdict == Verdict::Fail).details(end).build();
    ActivityError::application(failure)
}

/// A run, as `--json` prints it.
#[derive(Debug, Deserialize)]
struct RunReport {
    state: String,
    message: Option<String>,
    /// 0 if the window already had a claim: then it is the run that has it.
    attempts: u32,
}

impl RunReport {
    /// Whether another run has the claim.
    fn is_superseded(&self) -> bool {
        self.state == "superseded" || self.attempts == 0
    }
}

/// Returns the run in the output of `run-window --json`; `None` if none was started.
fn run_of(stdout: &str) -> Option<RunReport> {
    let line = stdout.lines().rev().find(|line| line.starts_with('{'))?;
    serde_json::from_str(line).ok()
}

/// Returns the reason for a failure: the first line of a message or of stderr, whose other lines are hints.
fn message_of(text: &str, status: ExitStatus) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    };
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => {
            let line = line.trim().trim_start_matches("error: ");
            format!("{} ({how})", line.chars().take(MESSAGE).collect::<String>())
        }
        None => how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_mapped_to_what_temporal_does() {
        for code in [69, 70, 74, 75, 129, 130, 143, 99] {
            assert_eq!(verdict(Some(code), true, 40, false), Verdict::Retry, "{code}");
        }
        assert_eq!(verdict(None, false, 40, false), Verdict::Retry);
        for code in [1, 124] {
            assert_eq!(verdict(Some(code), true, 1, false), Verdict::Fail, "{code}");
        }
        for code in [1, 2, 78, 126, 127] {
            assert_eq!(verdict(Some(code), false, NODE_ATTEMPTS - 1, false), Verdict::Retry, "{code}");
            assert_eq!(verdict(Some(code), false, NODE_ATTEMPTS, false), Verdict::Fail, "{code}");
        }
        assert_eq!(verdict(Some(0), true, 1, true), Verdict::Complete);
        for code in [Some(143), Some(1), None] {
            assert_eq!(verdict(code, true, 1, true), Verdict::Cancelled);
        }
    }

    #[test]
    fn the_reason_is_the_message_of_the_run_or_the_first_line() {
        let status = ExitStatus::from_raw(75 << 8);
        assert_eq!(message_of("\nerror: busy\n  wait\n", status), "busy (exit code 75)");
        assert_eq!(message_of("", ExitStatus::from_raw(9)), "killed by signal 9");
        assert_eq!(message_of(&"x".repeat(5000), status).len(), MESSAGE + " (exit code 75)".len());
        let run = |state, attempts| {
            run_of(&format!("noise\n{{\"state\":\"{state}\",\"message\":null,\"attempts\":{attempts}}}\n")).unwrap()
        };
        assert!(run("superseded", 1).is_superseded() && run("completed", 0).is_superseded());
        assert!(!run("completed", 2).is_superseded() && run("failed", 1).message.is_none());
        assert!(run_of("noise").is_none());
    }
}
