//! `schedule`: a job at fixed times, by Temporal's own schedules.
//!
//! Bookmarks are in the state directory of one host. A job with `--since last` therefore needs a task queue that only this host's worker
//! polls.

use crate::connect::{ConnectArgs, refused};
use crate::error::{CommandError, Report, UNAVAILABLE, note};
use crate::job_workflow::{JobWorkflow, ScheduledJob};
use crate::window::{JobInput, heartbeat_timeout};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use temporalio_client::schedules::{
    CreateScheduleOptions, DeleteScheduleOptions, ScheduleAction, ScheduleError, ScheduleOverlapPolicy, ScheduleSpec,
};
use temporalio_client::tonic::Code;

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Create a schedule that runs a job
    Create(CreateArgs),
    /// Delete a schedule. What it has started continues
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Id of the schedule
    #[arg(long, value_name = "ID")]
    id: String,
    /// When to run, as in cron: minute, hour, day of the month, month, day of the week
    #[arg(long, value_name = "TIMES")]
    cron: String,
    /// Time zone of --cron
    #[arg(long, value_name = "NAME", default_value = "UTC")]
    time_zone: String,
    /// Task queue of the workers; for `--since last`, one that a single host polls
    #[arg(long, value_name = "NAME", default_value = "lorchestra")]
    task_queue: String,
    /// Path of lorchestra on the workers, unless a worker has its own
    #[arg(long, value_name = "FILE")]
    lorchestra: Option<PathBuf>,
    /// Maximum number of starts of a run: after a lost worker, or a failure that another start may fix
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// Start a run again when its worker has been silent for this long
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = heartbeat_timeout)]
    heartbeat_timeout: Duration,
    /// Longest time that a run may take
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    run_timeout: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Package, job and flags, as for `lorchestra run-job`
    #[arg(last = true, required = true, value_name = "PACKAGE JOB FLAGS")]
    job: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Id of the schedule
    #[arg(long, value_name = "ID")]
    id: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(command: ScheduleCommand) -> Result<Report, CommandError> {
    match command {
        ScheduleCommand::Create(args) => create(args).await,
        ScheduleCommand::Delete(args) => delete(args).await,
    }
}

async fn create(args: CreateArgs) -> Result<Report, CommandError> {
    let client = args.connect.connect().await?;
    let lorchestra = args.lorchestra.map(|file| file.to_string_lossy().into_owned());
    let input = ScheduledJob {
        job: JobInput { lorchestra, args: args.job },
        max_attempts: args.max_attempts,
        heartbeat_timeout: args.heartbeat_timeout,
        timeout: args.run_timeout,
    };
    let action = ScheduleAction::start_workflow(JobWorkflow::run, input, args.task_queue, format!("lorchestra-{}", args.id));
    let spec = ScheduleSpec::builder().cron_strings(vec![args.cron]).timezone_name(args.time_zone).build();
    // Two runs of a job and account exclude each other anyway.
    let options = CreateScheduleOptions::builder().action(action).spec(spec).overlap_policy(ScheduleOverlapPolicy::Skip).build();
    client.create_schedule(args.id.clone(), options).await.map_err(|error| failed(&args.id, &error))?;
    note(&format!("schedule {} was created", args.id));
    Ok(Report::success())
}

async fn delete(args: DeleteArgs) -> Result<Report, CommandError> {
    let client = args.connect.connect().await?;
    let handle = client.get_schedule_handle(args.id.clone());
    handle.delete(DeleteScheduleOptions::default()).await.map_err(|error| failed(&args.id, &error))?;
    note(&format!("schedule {} was deleted", args.id));
    Ok(Report::success())
}

fn failed(id: &str, error: &ScheduleError) -> CommandError {
    match error {
        ScheduleError::Rpc(status) if status.code() == Code::AlreadyExists => {
            CommandError::new(UNAVAILABLE, format!("there is already a schedule {id}"))
                .hint(format!("delete it first: lorchestra-temporal schedule delete --id {id}"))
        }
        ScheduleError::Rpc(status) if status.code() == Code::NotFound => {
            CommandError::new(UNAVAILABLE, format!("there is no schedule {id}"))
        }
        ScheduleError::Rpc(status) => refused(status),
        error => CommandError::internal(error),
    }
}
