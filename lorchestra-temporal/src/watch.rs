//! `watch`, `collect`, `cancel`: what a group does and how it ended.

use crate::connect::{self, ConnectArgs, GroupHandle, GroupStatus};
use crate::dispatch::Start;
use crate::error::{CommandError, FAILED, RUNNING, Report, SUCCESS, UNAVAILABLE, UNKNOWN, note, print};
use crate::group::{Progress, WindowEnd, WindowState};
use crate::process::end_with;
use clap::Args;
use rustix::process::Signal;
use serde_json::{Value, json};
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

/// Which group.
#[derive(Debug, Args)]
struct GroupArgs {
    /// Id of the group
    #[arg(long, value_name = "ID")]
    group: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl GroupArgs {
    async fn handle(&self) -> Result<GroupHandle, CommandError> {
        Ok(connect::group(&self.connect.connect().await?, &self.group))
    }

    fn unknown(&self) -> CommandError {
        CommandError::new(UNKNOWN, format!("Temporal does not know group {}", self.group)).hint(
            "submit it, or again if its server has lost its database or has removed the group after its retention time: \
             windows that have a claim are not run again",
        )
    }

    fn terminated(&self, status: WorkflowExecutionStatus) -> CommandError {
        CommandError::new(FAILED, format!("the workflow of group {} was ended from outside ({status:?})", self.group))
            .hint("submit the group again: windows that are complete are not run again")
    }
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Print the current state and exit
    #[arg(long)]
    once: bool,
    /// Print one JSON object per line for each window whose state changes
    #[arg(long)]
    json: bool,
    /// Process that this one must not outlive
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<i32>,
    #[command(flatten)]
    group: GroupArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CollectArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    group: GroupArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    group: GroupArgs,
}

/// A window, as it is printed.
#[derive(Debug, Clone, PartialEq)]
struct WindowLine {
    state: WindowState,
    end: WindowEnd,
}

impl WindowLine {
    fn json(&self, index: u32) -> Value {
        let Self { state, end: WindowEnd { exit_code, attempt, message } } = self;
        let mut object = json!({"index": index, "state": state.name(), "exit_code": exit_code, "attempt": attempt});
        if let (Some(message), Some(object)) = (message, object.as_object_mut()) {
            object.insert("message".into(), json!(message));
        }
        object
    }
}

/// Prints what changes.
#[derive(Debug, Default)]
struct Printed {
    lines: BTreeMap<u32, WindowLine>,
    summary: String,
}

pub(crate) async fn watch(args: WatchArgs) -> Result<Report, CommandError> {
    if let Some(parent) = args.parent {
        end_with(parent, Signal::KILL)?;
    }
    let handle = args.group.handle().await?;
    let mut printed = Printed::default();
    let mut last: Option<Progress> = None;
    let mut is_silent = false;
    loop {
        match connect::status(&handle).await {
            Ok(GroupStatus::Unknown) => return Err(args.group.unknown()),
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
                let progress = progress.or_else(|| last.map(Progress::abandoned)).ok_or_else(|| args.group.terminated(status))?;
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
    let (status, progress) = match connect::status(&args.group.handle().await?).await? {
        GroupStatus::Unknown => return Err(args.group.unknown()),
        GroupStatus::Running(_) => {
            let group = &args.group.group;
            return Err(CommandError::new(RUNNING, format!("group {group} is still running"))
                .hint(format!("watch it: lorchestra-temporal watch --group {group}")));
        }
        GroupStatus::Ended { status, progress } => (status, progress),
    };
    let progress = progress.ok_or_else(|| args.group.terminated(status))?;
    let failed = progress.windows().filter(|(_, state)| *state == WindowState::Failed);
    let failed = failed.map(|(index, state)| (index, WindowLine { state, end: progress.end(index) }));
    if args.json {
        let count = |state| progress.count(state);
        let object = json!({
            "group": args.group.group, "windows": progress.len(), "completed": count(WindowState::Completed),
            "superseded": count(WindowState::Superseded), "failed": count(WindowState::Failed),
            "cancelled": count(WindowState::Cancelled), "omitted": count(WindowState::Omitted),
            "failures": failed.map(|(index, line)| line.json(index)).collect::<Vec<_>>(),
        });
        print(&object.to_string())?;
    } else {
        print(&progress.summary())?;
        for (index, line) in failed {
            print(&format!("window {index}: {}", line.end.message.unwrap_or_else(|| "failed".into())))?;
        }
    }
    Ok(Report { code: code_of(&progress) })
}

pub(crate) async fn cancel(args: CancelArgs) -> Result<Report, CommandError> {
    let handle = args.group.handle().await?;
    if let GroupStatus::Unknown = connect::status(&handle).await? {
        return Err(args.group.unknown());
    }
    let group = &args.group.group;
    let options = WorkflowCancelOptions::builder().reason("lorchestra-temporal cancel").build();
    match handle.cancel(options).await {
        Ok(()) => note(&format!("group {group} is being cancelled")),
        // It has ended in the meantime.
        Err(WorkflowInteractionError::NotFound(_)) => note(&format!("group {group} has already ended")),
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
        for (index, state) in progress.windows() {
            let line = match (state, started.get(&index)) {
                (WindowState::Running, Some(attempt)) => {
                    WindowLine { state, end: WindowEnd { attempt: Some(*attempt), ..WindowEnd::default() } }
                }
                // No worker has taken it yet, or it waits for its next start.
                (WindowState::Running, None) => WindowLine { state: WindowState::Queued, end: WindowEnd::default() },
                _ => WindowLine { state, end: progress.end(index) },
            };
            if self.lines.get(&index) == Some(&line) {
                continue;
            }
            print(&line.json(index).to_string())?;
            self.lines.insert(index, line);
        }
        Ok(())
    }
}

/// The windows that workers have, with the number of the start.
fn started(described: &WorkflowExecutionDescription) -> BTreeMap<u32, u32> {
    let mut started = BTreeMap::new();
    for activity in &described.raw().pending_activities {
        let state = PendingActivityState::try_from(activity.state);
        if matches!(state, Ok(PendingActivityState::Started | PendingActivityState::CancelRequested))
            && let Some(Start { indexes, earlier }) = Start::of_id(&activity.activity_id)
            && let Ok(attempt) = u32::try_from(activity.attempt)
        {
            started.extend(indexes.into_iter().map(|index| (index, attempt + earlier)));
        }
    }
    started
}

fn code_of(progress: &Progress) -> u8 {
    if progress.is_complete() { SUCCESS } else { FAILED }
}
