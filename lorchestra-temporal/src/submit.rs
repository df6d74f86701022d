//! `submit`: starts the workflow of a group, or attaches to it.
//!
//! Submitting again is always safe: a group that runs is left alone, and one that has ended starts again with the windows that are not
//! complete. Which are complete is taken from the last workflow, and from the claims, if this host sees their directory.

use crate::connect::{self, ConnectArgs, GroupStatus};
use crate::dispatch::Pace;
use crate::error::{CommandError, Report, USAGE, note, print};
use crate::group::{GroupInput, Limits, Progress, WindowCommand, WindowState, workflow_id};
use crate::group_workflow::GroupWorkflow;
use crate::plan::Plan;
use crate::process::end_with;
use crate::window::heartbeat_timeout;
use clap::Args;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use temporalio_client::errors::WorkflowStartError;
use temporalio_client::{WorkflowIdConflictPolicy, WorkflowIdReusePolicy, WorkflowStartOptions};

/// Largest input of a workflow, in bytes: the server refuses 2 MiB.
const LARGEST: usize = 1_900_000;

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The plan, written by `lorchestra backfill --plan`; on the workers it has the same path
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Directory that all workers share, in which the first run of a window to complete takes its claim
    #[arg(long, value_name = "DIR")]
    claims: PathBuf,
    /// Id of the group; must be that of the plan
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Run only the windows whose indices this file has, one per line [default: all that are not complete]
    #[arg(long, value_name = "FILE")]
    windows: Option<PathBuf>,
    /// Task queue of the workers
    #[arg(long, value_name = "NAME", default_value = "lorchestra")]
    task_queue: String,
    /// Path of lorchestra on the workers, unless a worker has its own
    #[arg(long, value_name = "FILE")]
    lorchestra: Option<PathBuf>,
    /// Maximum number of windows that run at once, on all workers together
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    jobs: u32,
    /// Maximum number of windows of one account that run at once [default: as --jobs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_account: Option<u32>,
    /// Maximum number of starts of a window: after a lost worker, or a failure that another start may fix
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// Longest time between two starts of a window
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    max_backoff: Duration,
    /// Start a window again elsewhere when its worker has been silent for this long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = heartbeat_timeout)]
    heartbeat_timeout: Duration,
    /// Longest time that a window may run, with all of its retries
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    window_timeout: Duration,
    /// Do not wait until every destination has the events of a window
    #[arg(long)]
    no_require_delivery: bool,
    /// Flag for `lorchestra run-window`, e.g. --window-flag=--locked (repeatable)
    #[arg(long, value_name = "FLAG", require_equals = true)]
    window_flag: Vec<String>,
    /// Number of activities after which the workflow continues with an empty history
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=3000), hide = true)]
    starts_per_history: u32,
    /// Process that this one must not outlive: nothing is submitted after its end
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<i32>,
    /// Print one JSON object about the workflow
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What a submission did.
#[derive(Debug, Clone, Copy)]
enum Submission {
    /// It started the workflow.
    Submitted,
    /// Nothing: the workflow is running.
    Running,
    /// Nothing: no window has to run.
    Complete,
}

impl Submission {
    /// The state in its JSON, and the sentence for people.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Submitted => ("submitted", "was submitted"),
            Self::Running => ("running", "is already running"),
            Self::Complete => ("complete", "has no windows to run"),
        }
    }
}

pub(crate) async fn run(args: SubmitArgs) -> Result<Report, CommandError> {
    if let Some(parent) = args.parent {
        end_with(parent, Signal::KILL)?;
    }
    let plan = Plan::read(&args.plan)?;
    if let Some(group) = args.group.as_ref().filter(|group| **group != plan.group) {
        return Err(CommandError::new(USAGE, format!("--group {group}: the plan is of group {}", plan.group)));
    }
    let only = args.windows.as_deref().map(|file| indices(file, plan.accounts.len())).transpose()?;
    let claims = absolute(&args.claims)?;
    let client = args.connect.connect().await?;
    let handle = connect::group(&client, &plan.group);
    let mut progress = Progress::new(plan.accounts.len());
    match connect::status(&handle).await? {
        GroupStatus::Unknown => {}
        GroupStatus::Running(_) => return submitted(&args, &plan, None, Submission::Running),
        GroupStatus::Ended { progress: Some(last), .. } if last.len() == plan.accounts.len() => progress = last,
        GroupStatus::Ended { .. } => {}
    }
    progress.queue(&claimed(Path::new(&claims), &plan.group), only.as_ref());
    if progress.count(WindowState::Queued) == 0 {
        return submitted(&args, &plan, Some(&progress), Submission::Complete);
    }
    let command = WindowCommand {
        lorchestra: args.lorchestra.as_deref().map(absolute).transpose()?,
        plan: absolute(&args.plan)?,
        claims,
        flags: args
            .window_flag
            .iter()
            .cloned()
            .chain(args.no_require_delivery.then(|| "--no-require-delivery".to_owned()))
            .collect(),
    };
    let limits = Limits {
        jobs: args.jobs,
        per_account: args.per_account,
        max_attempts: args.max_attempts,
        max_backoff: args.max_backoff,
        heartbeat_timeout: args.heartbeat_timeout,
        window_timeout: args.window_timeout,
        starts_per_history: args.starts_per_history,
    };
    let input = GroupInput {
        group: plan.group.clone(),
        command,
        limits,
        accounts: plan.accounts.clone(),
        progress: progress.clone(),
        pace: Pace::default(),
        again: BTreeSet::new(),
    };
    let size = serde_json::to_vec(&input).map_err(CommandError::internal)?.len();
    if size > LARGEST {
        let windows = plan.accounts.len();
        return Err(CommandError::new(
            USAGE,
            format!("{windows} windows are too many for one workflow ({size} bytes of {LARGEST})"),
        )
        .hint("write several plans, with parts of the time range"));
    }
    let options = WorkflowStartOptions::new(args.task_queue.clone(), workflow_id(&plan.group))
        .id_reuse_policy(WorkflowIdReusePolicy::AllowDuplicate)
        .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
        .static_summary(format!("{}: {} windows", plan.name, plan.accounts.len()))
        .build();
    match client.start_workflow(GroupWorkflow::run, input, options).await {
        Ok(_) => submitted(&args, &plan, Some(&progress), Submission::Submitted),
        Err(WorkflowStartError::AlreadyStarted { .. }) => submitted(&args, &plan, None, Submission::Running),
        Err(error) => Err(connect::failed(&error)),
    }
}

fn submitted(args: &SubmitArgs, plan: &Plan, progress: Option<&Progress>, what: Submission) -> Result<Report, CommandError> {
    let Plan { group, name, accounts } = plan;
    let complete = progress.map(Progress::complete);
    let (state, what) = what.texts();
    if args.json {
        let object = json!({
            "group": group, "workflow_id": workflow_id(group), "state": state, "windows": accounts.len(), "complete": complete,
        });
        print(&object.to_string())?;
    } else {
        let of = complete
            .filter(|complete| *complete > 0)
            .map_or_else(String::new, |complete| format!(", {complete} already complete"));
        note(&format!("{name}: group {group} {what} ({} windows{of})", accounts.len()));
    }
    Ok(Report::success())
}

/// The windows whose claim this host sees.
fn claimed(claims: &Path, group: &str) -> BTreeSet<u32> {
    let entries = std::fs::read_dir(claims.join(group)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Reads the indices of windows, one per line.
fn indices(file: &Path, windows: usize) -> Result<BTreeSet<u32>, CommandError> {
    let wrong = |why: String| CommandError::new(USAGE, format!("--windows {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let index = |line: &str| match line.trim().parse::<u32>() {
        Ok(index) if (index as usize) < windows => Ok(index),
        _ => Err(wrong(format!("{line:?} is not the index of one of the {windows} windows"))),
    };
    text.lines().map(index).collect()
}

fn absolute(path: &Path) -> Result<String, CommandError> {
    let full = std::path::absolute(path).map_err(|error| CommandError::new(USAGE, format!("{}: {error}", path.display())))?;
    full.into_os_string()
        .into_string()
        .map_err(|_| CommandError::new(USAGE, format!("{}: the path is not UTF-8", path.display())))
}
