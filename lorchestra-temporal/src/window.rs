//! Activities: run windows of a plan, or a scheduled job, as a process, and report how it ended.
//!
//! Guarantees: while the process runs, a heartbeat is sent every [`HEARTBEAT`]; a cancellation, or the end of the worker, reaches the process
//! as SIGTERM; the activity ends after the process has. What an exit code means to Temporal is decided in `verdict`.
//!
//! An activity of one window fails if the window has to start again, and Temporal retries it. An activity of several windows reports which of
//! them have to, and the workflow starts those alone.

use crate::dispatch::{BATCH_TIME, Start};
use crate::error::note;
use crate::group::{WindowCommand, WindowEnd, WindowReport};
use crate::process::Supervised;
use crate::verdict::{ProcessEnd, Verdict, verdict};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
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

/// Parses the time without a heartbeat after which a worker is considered lost: at least three heartbeats.
pub(crate) fn heartbeat_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < 3 * HEARTBEAT { Err("must be at least 6s".into()) } else { Ok(duration) }
}

/// Input of the activity that runs windows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WindowsInput {
    /// Which windows.
    pub(crate) start: Start,
    /// How to run them.
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
    /// Runs windows, one after the other.
    #[activity(name = "run-windows")]
    pub(crate) async fn run_windows(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: WindowsInput,
    ) -> Result<Vec<WindowReport>, ActivityError> {
        let WindowsInput { start: Start { indexes, earlier }, command } = input;
        let is_single = indexes.len() == 1;
        let info = ctx.info();
        let attempt = info.attempt + earlier;
        // Different for each start of a window, also if a window is started with others again, because its report was lost.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = if is_single { info.attempt.to_string() } else { format!("batch-{}-{now:x}", indexes[0]) };
        let own = format!("{}.{number}", info.workflow_run_id.as_deref().unwrap_or_default());
        let list = indexes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let stop_after = format!("{}s", BATCH_TIME.as_secs());
        let mut args: Vec<OsString> = ["run-window", "--engine", "temporal", "--plan"].map(OsString::from).into();
        args.extend([command.plan, "--indexes".into(), list, "--attempt".into(), own].map(OsString::from));
        args.extend(["--stop-after".into(), stop_after, "--claims".into(), command.claims].map(OsString::from));
        args.extend(command.flags.into_iter().map(OsString::from));
        let process = self.run(&ctx, (command.lorchestra, args)).await?;
        let mut reports = Vec::new();
        let (mut failed, mut is_cancelled) = (None, false);
        for (verdict, report) in process.windows(&indexes, attempt) {
            let how = report.end.message.clone().unwrap_or_else(|| format!("complete in {:.2}s", f64::from(report.millis) / 1e3));
            note(&format!("window {}: {how} (start {attempt})", report.index));
            is_cancelled |= verdict == Verdict::Cancelled;
            if matches!(verdict, Verdict::Retry | Verdict::Fail) {
                failed = Some((verdict, report.end.clone()));
            }
            reports.push(report);
        }
        match failed {
            _ if is_cancelled => Err(ActivityError::cancelled_with_details(reports)),
            Some((verdict, end)) if is_single => Err(failure(verdict, end)),
            _ => Ok(reports),
        }
    }

    /// Runs a job.
    #[activity(name = "run-job")]
    pub(crate) async fn run_job(self: Arc<Self>, ctx: ActivityContext, input: JobInput) -> Result<(), ActivityError> {
        let name = input.args.iter().take(2).cloned().collect::<Vec<_>>().join("/");
        // The JSON shows whether there was a run: a job that failed is not started again, a node that lacks something is.
        let own = ["run-job", "--json", "--requested-by", "schedule"].map(str::to_owned);
        let args = own.into_iter().chain(input.args).map(OsString::from).collect();
        let begun = Instant::now();
        let process = self.run(&ctx, (input.lorchestra, args)).await?;
        let attempt = ctx.info().attempt;
        let run = process.run();
        let verdict = verdict(process.status.code(), run.is_some(), attempt, process.is_cancelled);
        let seconds = begun.elapsed().as_secs_f64();
        if verdict == Verdict::Complete {
            note(&format!("{name}: complete in {seconds:.2}s (start {attempt})"));
            return Ok(());
        }
        let end = process.end(attempt, run.and_then(|run| run.message).as_deref());
        note(&format!("{name}: {} (start {attempt}, {seconds:.2}s)", end.message.as_deref().unwrap_or_default()));
        if verdict == Verdict::Cancelled {
            return Err(ActivityError::cancelled_with_details(end));
        }
        Err(failure(verdict, end))
    }
}

impl Programs {
    /// Runs `lorchestra`.
    async fn run(
        &self,
        ctx: &ActivityContext,
        (lorchestra, args): (Option<String>, Vec<OsString>),
    ) -> Result<ProcessEnd, ActivityError> {
        let program = self.lorchestra.clone().or_else(|| lorchestra.map(PathBuf::from)).unwrap_or_else(|| "lorchestra".into());
        let mut process = Supervised::start(&program, &args).map_err(|error| {
            let message = format!("no process can be started on this node: {error}");
            failure(Verdict::Retry, WindowEnd { exit_code: None, attempt: Some(ctx.info().attempt), message: Some(message) })
        })?;
        let supervised = self.supervise(ctx, &mut process).await;
        if supervised.is_err() {
            // Nothing waits for it any more.
            process.kill();
        }
        let (status, is_cancelled) = supervised?;
        let (stdout, stderr) = process.outputs().await;
        Ok(ProcessEnd { status, is_cancelled, stdout, stderr })
    }

    /// Waits for the end of a process; returns whether Temporal has cancelled it.
    async fn supervise(&self, ctx: &ActivityContext, process: &mut Supervised) -> Result<(ExitStatus, bool), ActivityError> {
        let mut stop = self.stop.clone();
        // Not at once: most windows are short, and the server stores each heartbeat.
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        let mut kill_at: Option<tokio::time::Instant> = None;
        let mut is_cancelled = false;
        loop {
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
                _ = beat.tick() => ctx.record_heartbeat(()).await?,
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
    let message = end.message.clone().unwrap_or_default();
    let kind = end.exit_code.map_or_else(|| "killed".to_owned(), |code| format!("exit-{code}"));
    let failure =
        ApplicationFailure::builder(message).type_name(kind).non_retryable(verdict == Verdict::Fail).details(end).build();
    ActivityError::application(failure)
}
