//! The workflow of a group: gives its windows to workers, a limited number at once, and records how each has ended.
//!
//! Deterministic: a worker that has not seen the workflow replays its history. After a number of activities it waits for those that run, and
//! continues as a new execution with an empty history (a server warns at 10,240 events and ends a workflow at 51,200; an activity has three,
//! and up to three more of the workflow).
//!
//! How many windows an activity gets is decided by the time that earlier ones took (`dispatch`). So the first execution starts a few windows
//! and waits for the end of one, up to [`PROBE_TIME`].
//!
//! Ends as completed if every window is complete, as cancelled if that was requested, otherwise as failed, each with the [`Progress`] as
//! result or details.

use crate::dispatch::{Dispatch, Start};
use crate::group::{GroupInput, Limits, Progress, WindowCommand, WindowEnd, WindowReport, WindowState};
use crate::window::{Programs, WindowsInput};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use temporalio_common::RetryPolicy;
use temporalio_common::error::{ApplicationFailure, IncomingError};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, ContinueAsNewOptions, WorkflowContext,
    WorkflowContextView, WorkflowResult, WorkflowTermination,
};

/// How long to wait for the end of a first window before all are started that may run at once.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// Number of windows that are started in that time.
const PROBE: usize = 8;

/// The workflow of a group.
#[workflow]
pub(crate) struct GroupWorkflow {
    input: GroupInput,
    dispatch: Dispatch,
}

#[workflow_methods]
impl GroupWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: GroupInput) -> Self {
        Self { dispatch: Dispatch::new(input.clone()), input }
    }

    /// Runs the windows.
    #[run(name = "lorchestra-group")]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Progress> {
        let ctx = &*ctx;
        let (command, limits) = ctx.state(|group| (group.input.command.clone(), group.input.limits.clone()));
        let is_paced = ctx.state(|group| group.dispatch.pace().is_known());
        let mut probe = if is_paced { None } else { Some(Box::pin(ctx.timer(PROBE_TIME))) };
        let mut is_probing = !is_paced;
        let mut running = Vec::new();
        let is_cancelled = loop {
            let is_cancelled = ctx.cancellation_token().is_cancelled();
            let is_full =
                ctx.state(|group| group.dispatch.ended() + group.dispatch.running() >= group.input.limits.starts_per_history);
            if !is_cancelled
                && !is_full
                && !(is_probing && running.len() >= PROBE)
                && let Some(start) = ctx.state_mut(|group| group.dispatch.start())
            {
                running.push(Box::pin(run_windows(ctx, start, (&command, &limits))));
                continue;
            }
            if running.is_empty() {
                break is_cancelled;
            }
            match next(&mut running, &mut probe).await {
                Some((start, reports)) => {
                    ctx.state_mut(|group| group.dispatch.end(&start, reports));
                    is_probing &= !ctx.state(|group| group.dispatch.pace().is_known());
                }
                None => is_probing = false,
            }
        };
        if is_cancelled {
            ctx.state_mut(|group| group.dispatch.cancel());
        }
        let progress = ctx.state(|group| group.dispatch.progress().clone());
        if is_cancelled {
            return Err(WorkflowTermination::cancelled_with_details(progress));
        }
        if ctx.state(|group| group.dispatch.has_waiting()) {
            let next = ctx.state(|group| group.dispatch.next_input(group.input.clone()));
            ctx.continue_as_new(next, ContinueAsNewOptions::default())?;
            return Err(WorkflowTermination::cancelled());
        }
        if !progress.is_complete() {
            let failure =
                ApplicationFailure::builder(progress.summary()).type_name("windows-failed".to_owned()).non_retryable(true);
            return Err(failure.details(progress).build().into());
        }
        Ok(progress)
    }

    /// Returns how far the group is.
    #[query(name = "progress")]
    pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.dispatch.progress().clone()
    }
}

/// Runs windows on some worker: one as often as needed, several once.
async fn run_windows(
    ctx: &WorkflowContext<GroupWorkflow>,
    start: Start,
    (command, limits): (&WindowCommand, &Limits),
) -> (Start, Vec<WindowReport>) {
    let windows = u32::try_from(start.indexes.len()).unwrap_or(u32::MAX);
    let retry = RetryPolicy::builder()
        .initial_interval(Duration::from_secs(1).min(limits.max_backoff))
        .maximum_interval(limits.max_backoff)
        .maximum_attempts(if windows == 1 { limits.max_attempts.saturating_sub(start.earlier).max(1) } else { 1 })
        .build();
    let options = ActivityOptions::with_start_to_close_timeout(limits.window_timeout.saturating_mul(windows))
        .activity_id(start.id())
        .heartbeat_timeout(limits.heartbeat_timeout)
        // A cancelled window has ended when its process has.
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retry)
        .build();
    let input = WindowsInput { start: start.clone(), command: command.clone() };
    let ended = |index: u32, state, end| WindowReport { index, state, end, millis: 0 };
    let reports = match ctx.execute_activity(Programs::run_windows, input, options).await {
        Ok(reports) => reports,
        Err(ActivityExecutionError::Cancelled(error)) => {
            let reports = error.details::<Vec<WindowReport>>().ok().flatten().unwrap_or_default();
            let mut known: BTreeMap<u32, WindowReport> = reports.into_iter().map(|report| (report.index, report)).collect();
            let cancelled = |index| ended(index, Some(WindowState::Cancelled), WindowEnd::default());
            start.indexes.iter().map(|index| known.remove(index).unwrap_or_else(|| cancelled(*index))).collect()
        }
        Err(error) if windows == 1 => vec![ended(start.indexes[0], Some(WindowState::Failed), end_of(&error))],
        // Some may have completed: the claims decide, when they are started again.
        Err(_) => start.indexes.iter().map(|index| ended(*index, None, WindowEnd::default())).collect(),
    };
    (start, reports)
}

fn end_of(error: &ActivityExecutionError) -> WindowEnd {
    let reported = match error.cause() {
        Some(IncomingError::Application(failure)) => failure.details::<WindowEnd>().ok().flatten(),
        _ => None,
    };
    reported.unwrap_or_else(|| WindowEnd {
        message: Some(error.cause().map_or_else(|| error.to_string(), |cause| cause.failure().message.clone())),
        ..WindowEnd::default()
    })
}

/// Waits for the first activity that ends; `None` if the timer ends before. Polls in order, so that a replay sees the same.
async fn next<F: Future, T: Future>(running: &mut Vec<Pin<Box<F>>>, timer: &mut Option<Pin<Box<T>>>) -> Option<F::Output> {
    poll_fn(|cx| {
        for at in 0..running.len() {
            if let Poll::Ready(ended) = running[at].as_mut().poll(cx) {
                drop(running.remove(at));
                return Poll::Ready(Some(ended));
            }
        }
        // A timer whose end is no longer waited for is polled all the same: the workflow may not forget it.
        if timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            *timer = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}
