//! `watch`, `collect`, `cancel`: what a group does and how it ended.

use crate::connect::{self, ConnectArgs, GroupHandle, GroupStatus};
use crate::error::{CommandError, FAILED, RUNNING, Report, SUCCESS, UNAVAILABLE, note, print};
use crate::group::{Progress, WindowState};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use temporalio_client::errors::WorkflowInteractionError;
use temporalio_client::{
    RpcOptions, WorkflowCancelOptions, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowQueryOptions,
};
use temporalio_common::protos::temporal::api::enums::v1::PendingActivityState;

use crate::group_workflow::GroupWorkflow;

/// Interval between two looks.
const LOOK: Duration = Duration::from_millis(1000);
/// How long a worker may take to answer a question about its workflow.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Id of the group
    #[arg(long, value_name = "ID")]
    group: String,
    /// Print the current state and exit
    #[arg(long)]
    once: bool,
    /// Print one JSON object per line for each window whose state changes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CollectArgs {
    /// Id of the group
    #[arg(long, value_name = "ID")]
    group: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Id of the group
    #[arg(long, value_name = "ID")]
    group: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// A window, as it is printed.
#[derive(Debug, Clone, PartialEq)]
struct WindowLine {
    state: WindowState,
    exit_code: Option<i32>,
    attempt: Option<u32>,
    message: Option<String>,
}

/// Prints what changes.
#[derive(Debug, Default)]
struct Printed {
    lines: BTreeMap<u32, WindowLine>,
    summary: String,
}

pub(crate) async fn watch(args: WatchArgs) -> Result<Report, CommandError> {
    let client = args.connect.connect().await?;
    let handle = connect::group(&client, &args.group);
    let mut printed = Printed::default();
    let mut last: Option<Progress> = None;
    let mut is_silent = false;
    loop {
        match connect::status(&handle).await {
            Ok(GroupStatus::Unknown) => return Err(unknown(&args.group)),
            Ok(GroupStatus::Running(described)) => match progress(&handle).await {
                Ok(progress) => {
                    is_silent = false;
                    printed.show(&progress, Some(&described), args.json)?;
                    last = Some(progress);
                }
                Err(error) if args.once => return Err(error),
                // The group waits for a worker.
                Err(error) if !is_silent => {
                    is_silent = true;
                    error.report();
                }
                Err(_) => {}
            },
            Ok(GroupStatus::Ended { status, progress }) => {
                let progress =
                    progress.or_else(|| last.map(Progress::abandoned)).ok_or_else(|| terminated(&args.group, status))?;
                printed.show(&progress, None, args.json)?;
                return Ok(Report { code: code_of(&progress) });
            }
            // The server may be restarting.
            Err(error) if last.is_none() || args.once => return Err(error),
            Err(error) if !is_silent => {
                is_silent = true;
                error.report();
            }
            Err(_) => {}
        }
        if args.once {
            return Ok(Report::success());
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) async fn collect(args: CollectArgs) -> Result<Report, CommandError> {
    let client = args.connect.connect().await?;
    let (status, progress) = match connect::status(&connect::group(&client, &args.group)).await? {
        GroupStatus::Unknown => return Err(unknown(&args.group)),
        GroupStatus::Running(_) => {
            return Err(CommandError::new(RUNNING, format!("group {} is still running", args.group))
                .hint(format!("watch it: lorchestra-temporal watch --group {}", args.group)));
        }
        GroupStatus::Ended { status, progress } => (status, progress),
    };
    let progress = progress.ok_or_else(|| terminated(&args.group, status))?;
    let states = || (0u32..).zip(&progress.states.0);
    if args.json {
        let count = |state| progress.count(state);
        let failed: Vec<_> = states()
            .filter(|(_, state)| **state == WindowState::Failed)
            .map(|(index, _)| {
                let end = progress.end(index);
                json!({"index": index, "exit_code": end.exit_code, "attempt": end.attempt, "message": end.message})
            })
            .collect();
        let object = json!({
            "group": args.group, "windows": progress.states.0.len(), "completed": count(WindowState::Completed),
            "superseded": count(WindowState::Superseded), "failed": count(WindowState::Failed),
            "cancelled": count(WindowState::Cancelled), "failures": failed,
        });
        print(&object.to_string())?;
    } else {
        print(&progress.summary())?;
        for (index, _) in states().filter(|(_, state)| **state == WindowState::Failed) {
            print(&format!("window {index}: {}", progress.end(index).message.unwrap_or_else(|| "failed".into())))?;
        }
    }
    Ok(Report { code: code_of(&progress) })
}

pub(crate) async fn cancel(args: CancelArgs) -> Result<Report, CommandError> {
    let client = args.connect.connect().await?;
    let handle = connect::group(&client, &args.group);
    if let GroupStatus::Unknown = connect::status(&handle).await? {
        return Err(unknown(&args.group));
    }
    let options = WorkflowCancelOptions::builder().reason("lorchestra-temporal cancel").build();
    match handle.cancel(options).await {
        Ok(()) => note(&format!("group {} is being cancelled", args.group)),
        // It has ended in the meantime.
        Err(WorkflowInteractionError::NotFound(_)) => note(&format!("group {} has already ended", args.group)),
        Err(error) => return Err(connect::failed(&error)),
    }
    Ok(Report::success())
}

/// Asks the workflow how far it is. A worker answers.
async fn progress(handle: &GroupHandle) -> Result<Progress, CommandError> {
    let options = WorkflowQueryOptions::builder().rpc_options(RpcOptions::builder().timeout(ANSWER).build()).build();
    let answer = tokio::time::timeout(ANSWER + LOOK, handle.query(GroupWorkflow::progress, (), options)).await;
    answer.ok().and_then(Result::ok).ok_or_else(|| {
        CommandError::new(UNAVAILABLE, "no worker answers for this group")
            .hint("start one on each node: lorchestra-temporal worker --task-queue NAME")
    })
}

impl Printed {
    fn show(
        &mut self,
        progress: &Progress,
        running: Option<&WorkflowExecutionDescription>,
        json: bool,
    ) -> Result<(), CommandError> {
        if !json {
            let summary = progress.summary();
            if summary != self.summary {
                print(&summary)?;
                self.summary = summary;
            }
            return Ok(());
        }
        let started = running.map(started).unwrap_or_default();
        for (index, state) in (0u32..).zip(&progress.states.0) {
            let line = match (state, started.get(&index)) {
                (WindowState::Running, Some(attempt)) => {
                    WindowLine { state: *state, exit_code: None, attempt: Some(*attempt), message: None }
                }
                // No worker has taken it yet, or it waits for its next start.
                (WindowState::Running, None) => {
                    WindowLine { state: WindowState::Queued, exit_code: None, attempt: None, message: None }
                }
                _ => {
                    let end = progress.end(index);
                    WindowLine { state: *state, exit_code: end.exit_code, attempt: end.attempt, message: end.message }
                }
            };
            if self.lines.get(&index) == Some(&line) {
                continue;
            }
            let WindowLine { state, exit_code, attempt, message } = &line;
            let mut object = json!({"index": index, "state": state.name(), "exit_code": exit_code, "attempt": attempt});
            if let (Some(message), Some(object)) = (message, object.as_object_mut()) {
                object.insert("message".into(), json!(message));
            }
            print(&object.to_string())?;
            self.lines.insert(index, line);
        }
        Ok(())
    }
}

/// The windows that workers run, with the number of the start.
fn started(described: &WorkflowExecutionDescription) -> BTreeMap<u32, u32> {
    let pending = described.raw().pending_activities.iter();
    let running = pending.filter(|activity| {
        let state = PendingActivityState::try_from(activity.state);
        matches!(state, Ok(PendingActivityState::Started | PendingActivityState::CancelRequested))
    });
    running.filter_map(|activity| Some((activity.activity_id.parse().ok()?, u32::try_from(activity.attempt).ok()?))).collect()
}

fn code_of(progress: &Progress) -> u8 {
    if progress.states.0.iter().all(|state| state.is_complete()) { SUCCESS } else { FAILED }
}

fn unknown(group: &str) -> CommandError {
    CommandError::new(FAILED, format!("Temporal knows no group {group}"))
        .hint("submit it (a server forgets a group after the retention time of its namespace)")
}

fn terminated(group: &str, status: WorkflowExecutionStatus) -> CommandError {
    CommandError::new(FAILED, format!("the workflow of group {group} was ended from outside ({status:?})"))
        .hint("submit the group again: windows that are complete are not run again")
}
