//! The workflow that a schedule starts: runs one job on the worker of a task queue, and again if that may help.

use crate::window::{JobInput, Programs};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use temporalio_common::RetryPolicy;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{ActivityCancellationType, ActivityOptions, WorkflowContext, WorkflowResult};

/// The input of the workflow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ScheduledJob {
    /// What to run.
    pub(crate) job: JobInput,
    /// Maximum number of starts.
    pub(crate) max_attempts: u32,
    /// Time without a heartbeat after which a worker is considered lost.
    pub(crate) heartbeat_timeout: Duration,
    /// Longest time that a start may take.
    pub(crate) timeout: Duration,
}

/// The workflow of a scheduled job.
#[workflow]
#[derive(Default)]
pub(crate) struct JobWorkflow;

#[workflow_methods]
impl JobWorkflow {
    /// Runs the job.
    #[run(name = "lorchestra-job")]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, input: ScheduledJob) -> WorkflowResult<()> {
        let retry =
            RetryPolicy::builder().maximum_interval(Duration::from_secs(300)).maximum_attempts(input.max_attempts).build();
        let options = ActivityOptions::with_start_to_close_timeout(input.timeout)
            .heartbeat_timeout(input.heartbeat_timeout)
            .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
            .retry_policy(retry)
            .build();
        Ok(ctx.execute_activity(Programs::run_job, input.job, options).await?)
    }
}
