//! Measures a backfill of a no-op job on Temporal, in windows per second, next to the same workflow whose windows run `true`: what
//! lorchestra adds to the engine. On Temporal's development server with its database in a file, and one worker.

use super::Site;
use super::timing::judged;
use crate::Result;
use crate::test::temporal::command;
use lorchestra_test_setup::venv;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Number of windows; `LORCHESTRA_BENCH_WINDOWS` sets another one.
const WINDOWS: usize = 500;
/// The lowest accepted ratio of the rates.
const TARGET: f64 = 0.8;
/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);

/// A process that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, and drop cannot report errors.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Result<Running> {
    Ok(Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

#[expect(clippy::disallowed_methods, reason = "the size of a long bench")]
pub(super) fn run(site: &Site) -> Result<String> {
    let windows = std::env::var("LORCHESTRA_BENCH_WINDOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(WINDOWS);
    let target = crate::cargo::target()?;
    let temporal = venv::ensure_temporal(&target)?.join("bin/temporal");
    let windows = if site.is_trial { 20 } else { windows };
    crate::cargo::run(command("build")?.args((!site.is_trial).then_some("--release")))?;
    let profile = if site.is_trial { "debug" } else { "release" };
    let program = target.join("temporal").join(profile).join("lorchestra-temporal");
    if site.is_trial {
        crate::plugins::install(&site.target.join("libmisbehave.so"), &site.sandbox.plugins())?;
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let mut server = site.sandbox.command(&temporal);
    server.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error", "--port", &port.to_string()]);
    let _server = start(server.arg("--db-filename").arg(site.sandbox.path().join("temporal.db")))?;
    let bench = Bench { site, program, address, windows };
    let began = Instant::now();
    // 1: it knows no such group.
    while bench.temporal(&["watch", "--once", "--group", "none"]).stderr(Stdio::null()).status()?.code() != Some(1) {
        if began.elapsed() > START {
            return Err("the Temporal server does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let engine = bench.rate("true", Path::new("/bin/true"))?;
    let lorchestra = bench.rate("lorchestra", &site.target.join("lorchestra"))?;
    let ratio = lorchestra / engine;
    Ok(format!(
        "| | windows/s |\n| --- | ---: |\n| {windows} windows on Temporal | {lorchestra:.1} |\n| {windows} windows on Temporal that run `true` \
         | {engine:.1} |\n| ratio (target at least {TARGET}) | {} |",
        judged(ratio, ratio >= TARGET)
    ))
}

struct Bench<'a> {
    site: &'a Site,
    program: PathBuf,
    address: String,
    windows: usize,
}

impl Bench<'_> {
    fn temporal(&self, args: &[&str]) -> Command {
        let mut command = self.site.sandbox.command(&self.program);
        command.args(args).args(["--address", &self.address]);
        command
    }

    /// Runs a group whose windows run this program; returns its windows per second.
    fn rate(&self, queue: &str, lorchestra: &Path) -> Result<f64> {
        let shared = self.site.sandbox.path().join(queue);
        std::fs::create_dir_all(&shared)?;
        let plan = shared.join("plan.jsonl").display().to_string();
        let end = format!("2020-01-{:02}T{:02}:{:02}:00Z", 1 + self.windows / 1440, self.windows / 60 % 24, self.windows % 60);
        let range = ["--from", "2020-01-01", "--to", &end, "--every", "1min", "--plan", &plan];
        let job = if self.site.is_trial { ["misbehave", "windowed"] } else { ["pkg-0000", "refresh_index"] };
        succeed(&mut self.site.sandbox.lorchestra(&[&["backfill"][..], &job, &range].concat()))?;
        let text = std::fs::read_to_string(&plan)?;
        let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
        let group = header["group"].as_str().ok_or("the plan has no group")?;
        let jobs = std::thread::available_parallelism()?.get().to_string();
        let lorchestra = lorchestra.display().to_string();
        let mut worker = self.temporal(&["worker", "--task-queue", queue, "-j", &jobs, "--lorchestra", &lorchestra]);
        let _worker = start(&mut worker)?;
        std::thread::sleep(Duration::from_secs(2));
        let claims = shared.join("claims").display().to_string();
        let begun = Instant::now();
        let paths = ["submit", "--plan", &plan, "--claims", &claims, "--task-queue", queue, "-j", &jobs, "--no-require-delivery"];
        succeed(&mut self.temporal(&paths))?;
        succeed(&mut self.temporal(&["watch", "--group", group]))?;
        Ok(self.windows as f64 / begun.elapsed().as_secs_f64())
    }
}

fn succeed(command: &mut Command) -> Result {
    let output = command.stdin(Stdio::null()).output()?;
    let line = || crate::cargo::line(command);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", line(), String::from_utf8_lossy(&output.stderr)).into()) }
}
