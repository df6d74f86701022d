//! `worker`: runs windows and scheduled jobs of a task queue on this host, and the workflows that hand them out.
//!
//! SIGTERM or SIGINT ends it in order: it takes no more work, sends SIGTERM to its processes, reports how they ended (they start again
//! elsewhere), and exits. If it is killed, its processes receive SIGTERM from the kernel (`process`).

use crate::connect::ConnectArgs;
use crate::error::{CommandError, NO_PROGRAM, Report, UNAVAILABLE, note};
use crate::group_workflow::GroupWorkflow;
use crate::job_workflow::JobWorkflow;
use crate::process::find_lorchestra;
use crate::window::{HEARTBEAT, Programs};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use temporalio_sdk::runtime::worker_tuner::{FixedSizeSlotSupplier, TunerHolder};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Maximum number of workflow tasks at once. They take milliseconds.
const WORKFLOW_TASKS: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Task queue to take work from
    #[arg(long, value_name = "NAME", default_value = "lorchestra")]
    task_queue: String,
    /// Maximum number of windows that run at once on this host [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    jobs: Option<u32>,
    /// The lorchestra to run [default: that of the group, or the one next to this program or on PATH]
    #[arg(long, value_name = "FILE")]
    lorchestra: Option<PathBuf>,
    /// Kill a process that has not ended this long after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    kill_after: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: WorkerArgs) -> Result<Report, CommandError> {
    let missing = |message: String| {
        CommandError::new(NO_PROGRAM, message).hint("install lorchestra on this host, or set --lorchestra to its path")
    };
    let lorchestra = match args.lorchestra {
        Some(file) if !file.is_file() => return Err(missing(format!("--lorchestra {}: there is no such file", file.display()))),
        Some(file) => Some(std::path::absolute(&file).unwrap_or(file)),
        // Only groups that name one can be run without.
        None => find_lorchestra(std::env::var_os("PATH").as_ref()),
    };
    if lorchestra.is_none() {
        note("warning: lorchestra was found neither next to this program nor on PATH: only groups that name its path can run");
    }
    let jobs = args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |jobs| jobs as usize);
    let client = args.connect.connect().await?;
    let target = client.options().namespace.clone();
    let (stop, stopped) = watch::channel(false);
    let tuner = TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(WORKFLOW_TASKS))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(jobs))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build();
    let options = WorkerOptions::new(args.task_queue.clone())
        .tuner(tuner)
        // A cancellation comes with the answer to a heartbeat.
        .max_heartbeat_throttle_interval(HEARTBEAT / 2)
        .default_heartbeat_throttle_interval(HEARTBEAT / 2)
        .register_activities(Programs { lorchestra, stop: stopped, kill_after: args.kill_after })
        .register_workflow::<GroupWorkflow>()
        .and_then(|options| options.register_workflow::<JobWorkflow>())
        .map_err(CommandError::internal)?
        .build();
    let runtime =
        Runtime::from_current_tokio(temporalio_sdk::runtime::RuntimeOptions::default()).map_err(CommandError::internal)?;
    let mut worker = Worker::new(&runtime, client, options).map_err(CommandError::internal)?;
    let shutdown = worker.shutdown_handle();
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::internal)?;
    note(&format!(
        "worker {} of task queue {:?} in namespace {target:?}: up to {jobs} at once",
        std::process::id(),
        args.task_queue
    ));
    let ending = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        note("the worker ends: waiting for its processes");
        shutdown();
        let _ = stop.send(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = worker.run() => ended.map_err(|error| CommandError::new(UNAVAILABLE, format!("the worker has failed: {error}")))?,
        () = ending => {}
    }
    Ok(Report::success())
}
