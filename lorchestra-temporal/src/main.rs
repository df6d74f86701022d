//! `lorchestra-temporal`: runs the windows of a lorchestra plan on Temporal, each effective once.
//!
//! ```text
//! submit ──► Temporal ◄── poll, heartbeat ── worker (one per node) ──► lorchestra run-window ──► run ──► claim
//!            one workflow per group,                                   (exec-window, the shim)
//! watch ◄──  one activity per window, or for a few short ones
//! ```
//!
//! It knows the plan file's format and the command line and exit codes of `lorchestra run-window`, and nothing else of lorchestra.
//!
//! # Protocol: how a window becomes effective once
//!
//! 1. A group is one workflow, `lorchestra-<group>`: Temporal runs at most one execution of an id at a time, so two `submit` commands start
//!    one. Each window is one activity of it, or several short ones are (`dispatch`). Temporal starts an activity *at least* once: after a
//!    worker is lost (no heartbeat for `--heartbeat-timeout`) the window starts on another one, while the first may only have been frozen,
//!    and still run it.
//! 2. Each physical start is another *attempt*: `<run id of the workflow>.<attempt of the activity>`, or `<run id>.batch` together with
//!    others. Within a run of the workflow a window is scheduled alone at most once, and together with others it is started at most
//!    once, so no two starts have the same text, and their runs in lorchestra have different ids.
//! 3. Each start runs `lorchestra run-window --claims DIR`. Of all runs of a window, the first to complete takes its claim by link(2) in the
//!    directory that the workers share (`lorchestra_core::run::claim` has the protocol and its model). *The claim alone decides* which run
//!    counts. The others end as `superseded`, with exit code 0.
//! 4. The worker reports the end to Temporal, which accepts the report of the current attempt only and records it in the workflow's history.
//!    The history is the record of which windows are done. It decides what still has to start, and never which run counts.
//!
//! A report may be lost, late or refused at any point, and costs at most another start, which the claim supersedes. In particular:
//!
//! - The worker dies: the kernel sends SIGTERM to its `run-window` processes (parent-death signal), which cancel their runs within their
//!   grace period. If one has already taken its claim, the next start is superseded, and the window complete.
//! - The worker is frozen or cut off, and comes back: its run ends as completed or superseded by the claim. Its report is refused.
//! - The server dies: runs continue. A report is repeated until the server is back or the worker gives up; then the heartbeat timeout applies.
//! - The server loses its database: `submit` starts the group again. It counts windows that have a claim as complete.
//! - Cancellation reaches a worker with the answer to a heartbeat (every [`window::HEARTBEAT`]), which sends SIGTERM. A window that was
//!   completed before that stays completed. A run that has taken its claim when it is cancelled is recorded as completed by lorchestra; the
//!   group shows the window as cancelled, and a later `submit` as complete.
//!
//! Limits: those of the claims directory (one file system with atomic link(2), not an object store).

mod connect;
mod dispatch;
mod error;
mod group;
mod group_workflow;
mod job_workflow;
mod plan;
mod process;
mod schedule;
mod submit;
mod verdict;
mod watch;
mod window;
mod worker;

use clap::{Parser, Subcommand};
use error::{CommandError, Report};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "lorchestra-temporal",
    version,
    about = "Run the windows of a lorchestra plan on Temporal",
    max_term_width = 100
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run windows and scheduled jobs of a task queue on this host, until SIGTERM
    Worker(worker::WorkerArgs),
    /// Start the group of a plan, or what is missing of it
    Submit(submit::SubmitArgs),
    /// Print the state of each window, until the group has ended
    Watch(watch::WatchArgs),
    /// Print the result of a group
    Collect(watch::CollectArgs),
    /// Cancel a group: start no more windows, and stop those that run
    Cancel(watch::CancelArgs),
    /// Run a job at fixed times
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Become a command that receives SIGTERM when the worker dies
    #[command(hide = true)]
    ExecWindow(process::ExecArgs),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        // Before anything else: this process is about to become another one.
        Command::ExecWindow(args) => Err(process::exec(&args)),
        command => run(command),
    };
    let report = result.unwrap_or_else(|error| error.report());
    ExitCode::from(report.code)
}

fn run(command: Command) -> Result<Report, CommandError> {
    // What the SDK reports, for RUST_LOG=warn or more: it retries on its own.
    let filter =
        tracing_subscriber::EnvFilter::builder().with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into());
    tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_writer(std::io::stderr).init();
    // One thread: the parent-death signal of a child is sent when the *thread* that started it ends, and this one is the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::internal)?;
    runtime.block_on(async {
        match command {
            Command::Worker(args) => worker::run(args).await,
            Command::Submit(args) => submit::run(args).await,
            Command::Watch(args) => watch::watch(args).await,
            Command::Collect(args) => watch::collect(args).await,
            Command::Cancel(args) => watch::cancel(args).await,
            Command::Schedule(command) => schedule::run(command).await,
            Command::ExecWindow(args) => Err(process::exec(&args)),
        }
    })
}
