//! `run-window`: runs one member of a plan file. What an engine (Slurm, Kubernetes, Temporal) calls on each node.
//!
//! The id of the run is a function of the plan's group, the index and the engine's attempt, so an attempt that is repeated on the same node finds
//! its run. With `--claims`, of several runs of one member exactly one counts (`lorchestra_core::run::claim`).
//!
//! With `--indexes`, one process runs several members, one after the other, and prints a [`WindowReport`] as each ends: an engine starts short
//! windows together, because starting a process for each takes longer than they do.

mod remote;

use super::run_job;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::OwnFlags;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::values;
use clap::Args;
use lorchestra_core::group::plan_file::{self, PlanFileError};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::{RequestedBy, RunSpec};
use lorchestra_core::store::Store;
use lorchestra_core::store::group::member_run_id;
use lorchestra_core::text::chain;
use remote::PlanPlace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra backfill ingester/extract_gmail --from -52w --to today --every 1d --plan plan.jsonl
  lorchestra run-window --plan plan.jsonl --index 17
  lorchestra run-window --plan https://example.org/plan.jsonl --index 17
  lorchestra run-window --plan plan.jsonl --index 17 \\
      --claims /shared/claims --attempt \"$SLURM_RESTART_COUNT\"";

pub(super) const EXIT_CODES: &str = "\
Exit codes (others as for run-job):
  0        the window is complete: this run or another one has its claim
  69       its events are not delivered or it is not claimed, or the plan's URL was not reached:
           run it again as another attempt
  74, 75   run it again later
  78, 126  fix this node or its configuration first
  143      cancelled (SIGTERM cancels the run)";

#[derive(Debug, Args)]
pub(crate) struct RunWindow {
    /// Plan file, written by `backfill --plan`, or its https:// URL; with #sha256=HEX, the sum of the file, also http://
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) plan: PathBuf,
    /// Index of the window in the plan, from 0
    #[arg(long, value_name = "N", value_parser = values::number::<usize>(0..), required_unless_present_any = ["index_from", "indexes"])]
    pub(crate) index: Option<usize>,
    /// Indexes of several windows, which run one after the other; each prints one JSON object (schema lorchestra.window-report/1)
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with_all = ["index", "index_from", "json"], hide = true)]
    pub(crate) indexes: Vec<usize>,
    /// With --indexes: start no further window after this time
    #[arg(long, value_parser = values::duration, value_name = "DURATION", requires = "indexes", hide = true)]
    pub(crate) stop_after: Option<Duration>,
    /// Environment variable with the index, e.g. JOB_COMPLETION_INDEX
    #[arg(long, value_name = "VARIABLE", conflicts_with = "index")]
    pub(crate) index_from: Option<String>,
    /// Attempt of the engine, different for each start of the same window on any node (required with --claims) [default: 1]
    #[arg(long, value_name = "TEXT")]
    pub(crate) attempt: Option<String>,
    /// Environment variable with the attempt, e.g. POD_NAME (repeatable: joined)
    #[arg(long, value_name = "VARIABLE", conflicts_with = "attempt")]
    pub(crate) attempt_from: Vec<String>,
    /// Directory that all nodes share; if a window is run more than once, only the run counts that takes the claim in it
    #[arg(long, value_name = "DIR")]
    pub(crate) claims: Option<PathBuf>,
    /// Directory where the result of a window that is not complete is left for the command that watches the group
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) results: Option<PathBuf>,
    /// Name of the engine, recorded as who requested the run
    #[arg(long, value_name = "NAME", default_value = "plan")]
    pub(crate) engine: String,
    /// Do not wait for delivery (by default: exit with 69 unless every destination has received the run's events in time)
    #[arg(long)]
    pub(crate) no_require_delivery: bool,
    /// Wait up to this long for the events to be delivered [default: 10s]
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub(crate) delivery_timeout: Option<Duration>,
    /// Refuse a library whose bytes differ from plugins.lock
    #[arg(long)]
    pub(crate) locked: bool,
    /// Print one JSON object about the run (schema lorchestra.run-job/1)
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing on success, except what --json prints
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(super) fn run(
    command: &RunWindow,
    verbose: u8,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let indices = if command.indexes.is_empty() { vec![index(command, settings)?] } else { command.indexes.clone() };
    let attempt = attempt(command, settings)?;
    if command.claims.is_some() && attempt.is_none() {
        // Two nodes would run the member under one id, and their events could not be distinguished.
        return Err(CommandError::new(Code::Usage, "--claims needs --attempt, which must differ for each start of a member")
            .hint("pass the attempt of the engine: --attempt \"$SLURM_RESTART_COUNT\", or the name of the pod or host"));
    }
    if let Some(claims) = &command.claims {
        let found = std::fs::metadata(claims)
            .and_then(|meta| if meta.is_dir() { Ok(()) } else { Err(std::io::ErrorKind::NotADirectory.into()) });
        // On a node without the shared file system, a new directory would let both of two runs have the claim.
        found.map_err(|error| {
            CommandError::refused(Code::Config, "--claims", claims, &error)
                .hint("mount the shared file system on this node, or create the directory on it once")
        })?;
    }
    let (group, members, signals) = match &PlanPlace::of(&command.plan)? {
        PlanPlace::File(path) => {
            let (group, members) = plan_file::read_members(path, &indices)?;
            (group, members, None)
        }
        PlanPlace::Web(url) => {
            let (plan, signals) = remote::read(url)?;
            let mut members = Vec::new();
            for index in indices.into_iter().collect::<BTreeSet<usize>>() {
                members.push((index, plan.member(index)?));
            }
            (plan.group, members, Some(signals))
        }
    };
    let mut runner = WindowRunner { command, verbose, settings, group, attempt, signals };
    let begun = Instant::now();
    for (done, (index, member)) in members.into_iter().enumerate() {
        let left = |limit: Duration| begun.elapsed() < limit;
        if done > 0 && !command.stop_after.is_none_or(left) {
            break;
        }
        if let Some(signal) = runner.signals.as_mut().and_then(|signals| signals.endings().first().copied()) {
            return Ok(Code::Interrupted(signal));
        }
        let end = runner.run(index, member.spec, notices, printer)?;
        if command.indexes.is_empty() {
            return Ok(end);
        }
        // A process that was stopped starts nothing more.
        if let Code::Interrupted(_) = end {
            return Ok(end);
        }
    }
    Ok(Code::Success)
}

/// Runs members of one plan.
struct WindowRunner<'a> {
    command: &'a RunWindow,
    verbose: u8,
    settings: &'a Settings,
    group: String,
    attempt: Option<String>,
    /// Handled since the first run.
    signals: Option<Signals>,
}

impl WindowRunner<'_> {
    fn run(
        &mut self,
        index: usize,
        mut spec: RunSpec,
        notices: &mut Notices<'_>,
        printer: &mut Printer,
    ) -> Result<Code, CommandError> {
        let Self { command, settings, .. } = *self;
        let begun = Instant::now();
        let place = u32::try_from(index).map_err(|_| CommandError::new(Code::Usage, "the index is too large"))?;
        let engine: Result<RequestedBy, String> = format!("engine:{}", command.engine).parse();
        spec.requested_by =
            engine.map_err(|why| CommandError::new(Code::Usage, format!("--engine {:?}: {why}", command.engine)))?;
        // Each node has its own directories.
        spec.directory = None;
        if let Some(claims) = &command.claims {
            let claims = std::path::absolute(claims).unwrap_or_else(|_| claims.clone());
            let claim = claims.join(&self.group).join(place.to_string());
            let text = claim.into_os_string().into_string();
            spec.claim = Some(text.map_err(|_| CommandError::new(Code::Usage, "the path of --claims is not UTF-8"))?);
        }
        let attempt = self.attempt.as_deref().unwrap_or("1");
        let run_id = member_run_id(&self.group, place, attempt);
        let is_one = command.indexes.is_empty();
        let own = OwnFlags {
            run_id: Some(run_id),
            require_delivery: !command.no_require_delivery,
            delivery_timeout: command.delivery_timeout,
            locked: command.locked,
            json: command.json,
            // Of several, the result on stdout has the reason.
            quiet: command.quiet || !is_one,
            ..OwnFlags::default()
        };
        let end = run_job::run_spec(spec, &own, (self.verbose, settings), &mut self.signals, (notices, printer));
        if is_one && (end.code == Code::Success || command.results.is_none()) {
            return Ok(end.code);
        }
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let state = StateDir::existing(&settings.state_dir).ok().flatten();
        let run = state.and_then(|state| Store::open(&state).ok()?.run(&run_id.to_string()).ok().flatten());
        let state = run.as_ref().map(|run| run.state.as_str());
        let result = WindowResult {
            schema: WindowResult::SCHEMA.into(),
            run_id: run_id.to_string(),
            attempt: self.attempt.clone(),
            exit_code: end.code.number(),
            cause: run.as_ref().and_then(|run| run.cause).or(end.cause),
            message: run.as_ref().and_then(|run| run.message.clone()).or(end.message),
        };
        if let Some(dir) = command.results.as_ref().filter(|_| end.code != Code::Success) {
            write_result(dir, (index, attempt), &result);
        }
        if !is_one {
            let WindowResult { run_id, exit_code, message, .. } = result;
            let schema = "lorchestra.window-report/1";
            printer.json(&WindowReport { schema, index, run_id, exit_code, state, message, duration_ms });
            printer.flush();
        }
        Ok(end.code)
    }
}

fn variable(flag: &str, name: &str, settings: &Settings) -> Result<String, CommandError> {
    let value = settings.variable(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    value.ok_or_else(|| {
        CommandError::new(Code::Usage, format!("{flag} {name}: the variable is not set"))
            .hint("run this command where the engine sets it, or pass the value itself")
    })
}

fn index(command: &RunWindow, settings: &Settings) -> Result<usize, CommandError> {
    let Some(name) = &command.index_from else { return Ok(command.index.unwrap_or_default()) };
    let value = variable("--index-from", name, settings)?;
    value.parse().map_err(|_| CommandError::new(Code::Usage, format!("--index-from {name}: {value:?} is not an index")))
}

fn attempt(command: &RunWindow, settings: &Settings) -> Result<Option<String>, CommandError> {
    if command.attempt_from.is_empty() {
        return Ok(command.attempt.clone());
    }
    let values = command.attempt_from.iter().map(|name| variable("--attempt-from", name, settings));
    Ok(Some(values.collect::<Result<Vec<_>, _>>()?.join(".")))
}

/// Leaves the result of a window that is not complete for the command that watches the group. Without it, that command knows only that the
/// window has ended.
fn write_result(dir: &Path, (index, attempt): (usize, &str), result: &WindowResult) {
    let name = format!("{index}.{}", attempt.replace('/', "_"));
    let written = (|| {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, result)?;
        file.persist(dir.join(name)).map_err(|error| error.error)
    })();
    if let Err(error) = written {
        tracing::warn!("the result is not in {}: {error}", dir.display());
    }
}

/// What became of a window of `--indexes` (schema `lorchestra.window-report/1`).
#[derive(Debug, Serialize)]
struct WindowReport {
    schema: &'static str,
    index: usize,
    run_id: String,
    exit_code: u8,
    /// The state of the run; null if none was started.
    state: Option<&'static str>,
    message: Option<String>,
    duration_ms: u64,
}

/// The result of a window that is not complete (schema `lorchestra.window-result/1`).
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WindowResult {
    pub(super) schema: String,
    pub(super) run_id: String,
    /// The attempt of the engine.
    pub(super) attempt: Option<String>,
    pub(super) exit_code: u8,
    pub(super) cause: Option<Cause>,
    pub(super) message: Option<String>,
}

impl WindowResult {
    pub(super) const SCHEMA: &str = "lorchestra.window-result/1";
}

impl From<PlanFileError> for CommandError {
    fn from(error: PlanFileError) -> Self {
        let message = chain(&error);
        match error {
            PlanFileError::Io { path, source } => Self::refused(Code::Usage, &message, &path, &source),
            PlanFileError::Checksum { .. } | PlanFileError::Member { .. } => {
                Self::new(Code::Usage, message).hint("copy the file again, or write it again: backfill … --plan FILE")
            }
            PlanFileError::Format { .. } | PlanFileError::Spec { .. } => {
                Self::new(Code::Usage, message).hint("write it with this version of lorchestra: backfill … --plan FILE")
            }
            PlanFileError::Index { .. } => Self::new(Code::Usage, message).hint("count from 0"),
        }
    }
}
