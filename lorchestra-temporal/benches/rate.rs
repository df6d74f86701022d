//! Prints windows per second of `lorchestra backfill --engine temporal` next to activities per second of a worker that runs `true` in each, on
//! one server on this host, with the same number of workers' slots and activities at once.
//!
//! ```text
//! cargo xtask soak temporal --rate --windows 2000 [--release]
//! ```
#![expect(clippy::unwrap_used, reason = "a measurement that cannot continue has failed")]
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/temporal/harness.rs"]
mod harness;

use harness::{Node, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};
use temporalio_client::envconfig::LoadClientConfigProfileOptions;
use temporalio_client::{Client, ClientOptions, Connection, Url, WorkflowGetResultOptions, WorkflowStartOptions};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::runtime::worker_tuner::{FixedSizeSlotSupplier, TunerHolder};
use temporalio_sdk::{ActivityOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult, WorkflowTermination};

/// Activities of a worker at once.
const SLOTS: u32 = 2;
/// Activities of the workflow at once.
const JOBS: u32 = 16;

/// The activity to compare with.
struct Baseline;

#[activities]
impl Baseline {
    /// Runs `true`.
    #[activity(name = "true")]
    async fn run_true(self: Arc<Self>, _ctx: ActivityContext, _number: u32) -> Result<(), ActivityError> {
        let status = tokio::process::Command::new("true").status().await?;
        assert!(status.success());
        Ok(())
    }
}

/// Runs the activity many times.
#[workflow]
#[derive(Default)]
struct BaselineWorkflow;

#[workflow_methods]
impl BaselineWorkflow {
    /// Runs it this many times.
    #[run(name = "true")]
    async fn run(ctx: &mut WorkflowContext<Self>, times: u32) -> WorkflowResult<()> {
        let ctx = &*ctx;
        let lane = |lane: u32| async move {
            for number in (lane..times).step_by(JOBS as usize) {
                let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(60));
                ctx.execute_activity(Baseline::run_true, number, options).await?;
            }
            Ok::<_, WorkflowTermination>(())
        };
        for ended in futures::future::join_all((0..JOBS).map(lane)).await {
            ended?;
        }
        Ok(())
    }
}

async fn client(server: &Server) -> Client {
    let (mut connection, client) = ClientOptions::load_from_config(LoadClientConfigProfileOptions::default()).unwrap();
    connection.target = Url::parse(&format!("http://{}", server.address())).unwrap();
    Client::new(Connection::connect(connection).await.unwrap(), client).unwrap()
}

/// Runs `true` in each of many activities; returns the seconds.
async fn measure_true(server: &Server, times: u32) -> f64 {
    let tuner = TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(4))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(SLOTS as usize))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build();
    let options = WorkerOptions::new("true").tuner(tuner).register_activities(Baseline);
    let options = options.register_workflow::<BaselineWorkflow>().unwrap().build();
    let runtime = Runtime::from_current_tokio(temporalio_sdk::runtime::RuntimeOptions::default()).unwrap();
    let client = client(server).await;
    let mut worker = Worker::new(&runtime, client.clone(), options).unwrap();
    let shutdown = worker.shutdown_handle();
    let measured = async {
        let begun = Instant::now();
        let options = WorkflowStartOptions::new("true", "true").build();
        let handle = client.start_workflow(BaselineWorkflow::run, times, options).await.unwrap();
        handle.get_result(WorkflowGetResultOptions::default()).await.unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        shutdown();
        seconds
    };
    let (ended, seconds) = tokio::join!(worker.run(), measured);
    ended.unwrap();
    seconds
}

/// Runs a backfill; returns the seconds.
fn measure_backfill(server: &Server, windows: u32) -> f64 {
    let node = Node::new();
    // Without a destination: both sides only run.
    std::fs::write(node.path(".config/lorchestra/config.toml"), "").unwrap();
    let _worker = node.worker(server, "lorchestra", SLOTS);
    let shared = node.path("shared").display().to_string();
    let to = |day: u32| format!("2020-01-{:02}T{:02}:{:02}:00Z", 1 + day / 1440, day / 60 % 24, day % 60);
    let (to, jobs) = (to(windows), JOBS.to_string());
    let range = ["--from", "2020-01-01", "--to", &to, "--every", "1min", "-j", &jobs, "-q"];
    let what = [&["backfill", "misbehave", "windowed", "--engine", "temporal", "--shared", &shared][..], &range].concat();
    let begun = Instant::now();
    let ended = node.command(server, &what).output().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(node.runs().len(), windows as usize);
    seconds
}

fn main() {
    let windows: u32 = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(500);
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let alone = runtime.block_on(measure_true(&server, windows));
    let took = measure_backfill(&server, windows);
    let rate = |seconds: f64| f64::from(windows) / seconds;
    println!(
        "{windows} windows on Temporal: {:.1}/s, `true`: {:.1}/s, ratio {:.2} (target at least 0.8)",
        rate(took),
        rate(alone),
        alone / took
    );
}
