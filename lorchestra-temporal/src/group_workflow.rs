//! The workflow of a group: gives its windows to workers, a limited number at once, and records how each has ended.
//!
//! Deterministic: a worker that has not seen the workflow replays its history. After a number of windows it waits for those that run, and
//! continues as a new execution with an empty history (a server warns at 10,240 events and ends a workflow at 51,200; a window has three).
//!
//! Ends as completed if every window is complete, as failed if one has failed, as cancelled if that was requested, each with the
//! [`Progress`] as result or details.

use crate::group::{Dispatch, GroupInput, Limits, Progress, WindowCommand, WindowEnd, WindowState};
use crate::window::{Programs, WindowDone, WindowInput};
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
        let mut running = Vec::new();
        let is_cancelled = loop {
            let is_cancelled = ctx.cancellation_token().is_cancelled();
            let is_full = ctx.state(|group| group.dispatch.ended() + u32::try_from(running.len()).unwrap_or(u32::MAX))
                >= limits.windows_per_history;
            if !is_cancelled
                && !is_full
                && let Some(index) = ctx.state_mut(|group| group.dispatch.start())
            {
                running.push((index, Box::pin(run_window(ctx, index, (&command, &limits)))));
                continue;
            }
            if running.is_empty() {
                break is_cancelled;
            }
            let (index, state, end) = first_of(&mut running).await;
            ctx.state_mut(|group| group.dispatch.end(index, state, end));
        };
        if is_cancelled {
            ctx.state_mut(|group| group.dispatch.cancel());
        }
        let progress = ctx.state(|group| group.dispatch.progress().clone());
        if is_cancelled {
            return Err(WorkflowTermination::cancelled_with_details(progress));
        }
        if ctx.state(|group| group.dispatch.has_waiting()) {
            let input = ctx.state(|group| group.input.clone());
            ctx.continue_as_new(GroupInput { progress, ..input }, ContinueAsNewOptions::default())?;
            return Err(WorkflowTermination::cancelled());
        }
        if progress.count(WindowState::Failed) + progress.count(WindowState::Cancelled) > 0 {
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

/// Runs a window on some worker, as often as needed.
async fn run_window(
    ctx: &WorkflowContext<GroupWorkflow>,
    index: u32,
    (command, limits): (&WindowCommand, &Limits),
) -> (WindowState, WindowEnd) {
    let retry = RetryPolicy::builder()
        .initial_interval(Duration::from_secs(1).min(Duration::from_millis(limits.max_backoff)))
        .maximum_interval(Duration::from_millis(limits.max_backoff))
        .maximum_attempts(limits.max_attempts)
        .build();
    let options = ActivityOptions::with_start_to_close_timeout(Duration::from_millis(limits.window_timeout))
        .activity_id(index.to_string())
        .heartbeat_timeout(Duration::from_millis(limits.heartbeat_timeout))
        // A cancelled window has ended when its process has.
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retry)
        .build();
    let input = WindowInput { index, command: command.clone() };
    match ctx.execute_activity(Programs::run_window, input, options).await {
        Ok(WindowDone { is_superseded, attempt }) => {
            let state = if is_superseded { WindowState::Superseded } else { WindowState::Completed };
            (state, WindowEnd { exit_code: Some(0), attempt: Some(attempt), message: None })
        }
        Err(ActivityExecutionError::Cancelled(error)) => {
            (WindowState::Cancelled, error.details::<WindowEnd>().ok().flatten().unwrap_or_default())
        }
        Err(error) => (WindowState::Failed, end_of(&error)),
    }
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

/// Waits for the first window that ends. Polls in order, so that a replay sees the same.
async fn first_of<F: Future<Output = (WindowState, WindowEnd)>>(
    running: &mut Vec<(u32, Pin<Box<F>>)>,
) -> (u32, WindowState, WindowEnd) {
    poll_fn(|cx| {
        for at in 0..running.len() {
            if let Poll::Ready((state, end)) = running[at].1.as_mut().poll(cx) {
                return Poll::Ready((running.remove(at).0, state, end));
            }
        }
        Poll::Pending
    })
    .await
}
