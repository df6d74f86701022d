//! `run-window`: runs one member of a plan file. What an engine (Slurm, Kubernetes, Temporal) calls on each node.
//!
//! The id of the run is a function of the plan's group, the index and the engine's attempt, so an attempt that is repeated on the same node finds
//! its run. With `--claims`, of several runs of one member exactly one counts (`lorchestra_core::run::claim`).
//!
//! With `--indexes`, one process runs several members ([`batch`]).

mod batch;
mod remote;

use super::run_job::{self, SpecEnd};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::OwnFlags;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::values;
use crate::wire::WindowResult;
use clap::Args;
use lorchestra_core::group::plan_file::{self, PlanFileError};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::{RequestedBy, RunSpec};
use lorchestra_core::store::Store;
use lorchestra_core::store::group::member_run_id;
use lorchestra_core::text::{chain, path_text};
use remote::PlanPlace;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra backfill ingester/extract_gmail --from 2024-01-01 --to 2025-01-01 --every 1d --plan plan.jsonl
  lorchestra run-window --plan plan.jsonl --index 17
  lorchestra run-window --plan https://example.org/plan.jsonl --index 17
  lorchestra run-window --plan plan.jsonl --index 17 \\
      --claims /shared/claims --attempt \"$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}\"";

pub(super) const EXIT_CODES: &str = "\
Exit codes (others as for run-job):
  0        the window is complete: this run or another one has its claim
  69       its events are not delivered or it is not claimed, or the plan's URL was not reached:
           run it again as another attempt
  74, 75   run it again later
  78, 126  fix this node or its configuration first (78 also: the certificate of the plan's
           server is not trusted)
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
    if command.claims.is_some() && attempt.as_ref().is_none_or(String::is_empty) {
        // Two nodes would run the member under one id, and their events could not be distinguished.
        return Err(CommandError::new(Code::Usage, "--claims needs --attempt, which must differ for each start of a member")
            .hint("pass the attempt of the engine, e.g. --attempt \"$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}\", or the name of the pod or host"));
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
    let (group, members, mut signals) = match &PlanPlace::of(&command.plan)? {
        PlanPlace::File(path) => {
            let (group, members) = plan_file::read_members(path, &indices)?;
            (group, members, None)
        }
        PlanPlace::Web(url) => {
            let (plan, signals) = remote::read(url, settings)?;
            let mut members = Vec::new();
            for index in indices.into_iter().collect::<BTreeSet<usize>>() {
                members.push((index, plan.member(index)?));
            }
            (plan.group, members, Some(signals))
        }
    };
    let attempt = attempt.as_deref();
    let windows = members.into_iter().map(|(index, member)| EngineWindow::of(command, &group, attempt, (index, member.spec)));
    let mut windows = windows.collect::<Result<Vec<_>, _>>()?;
    if !command.indexes.is_empty() {
        return batch::run(command, windows, (verbose, settings, signals), (notices, printer));
    }
    match windows.pop() {
        Some(window) => {
            let own = command.own(command.quiet);
            Ok(window.end((command, &own), (verbose, settings, None), &mut signals, (notices, printer)).code)
        }
        // Not reached: the plan has the member.
        None => Ok(Code::Success),
    }
}

impl RunWindow {
    /// The flags of the run of a window.
    fn own(&self, quiet: bool) -> OwnFlags {
        OwnFlags {
            require_delivery: !self.no_require_delivery,
            delivery_timeout: self.delivery_timeout,
            locked: self.locked,
            json: self.json,
            quiet,
            ..OwnFlags::default()
        }
    }
}

/// A window that is to run on this host.
struct EngineWindow<'a> {
    index: usize,
    attempt: Option<&'a str>,
    run_id: Uuid,
    spec: RunSpec,
}

impl<'a> EngineWindow<'a> {
    fn of(
        command: &RunWindow,
        group: &str,
        attempt: Option<&'a str>,
        (index, mut spec): (usize, RunSpec),
    ) -> Result<Self, CommandError> {
        let place = u32::try_from(index).map_err(|_| CommandError::new(Code::Usage, "the index is too large"))?;
        let engine: Result<RequestedBy, String> = format!("engine:{}", command.engine).parse();
        spec.requested_by =
            engine.map_err(|why| CommandError::new(Code::Usage, format!("--engine {:?}: {why}", command.engine)))?;
        // Each node has its own directories.
        spec.directory = None;
        if let Some(claims) = &command.claims {
            let claims = std::path::absolute(claims).unwrap_or_else(|_| claims.clone());
            let claim = claims.join(group).join(place.to_string());
            let text = claim.into_os_string().into_string();
            spec.claim = Some(text.map_err(|_| CommandError::new(Code::Usage, "the path of --claims is not UTF-8"))?);
        }
        Ok(Self { index, attempt, run_id: member_run_id(group, place, attempt.unwrap_or("1")), spec })
    }

    /// Runs it as a command of its own. `unready`: why no run can start on this host now, if that is known.
    fn end(
        self,
        (command, own): (&RunWindow, &OwnFlags),
        (verbose, settings, unready): (u8, &Settings, Option<&CommandError>),
        signals: &mut Option<Signals>,
        observers: (&mut Notices<'_>, &mut Printer),
    ) -> SpecEnd {
        let Self { index, attempt, run_id, spec } = self;
        let own = OwnFlags { run_id: Some(run_id), ..own.clone() };
        let end = run_job::run_spec(spec, &own, (verbose, settings, unready), signals, observers);
        if end.code != Code::Success && command.results.is_some() {
            let state = StateDir::existing(&settings.state_dir).ok().flatten();
            let run = state.and_then(|state| Store::open(&state).ok()?.run(&run_id.to_string()).ok().flatten());
            let cause = run.as_ref().and_then(|run| run.cause).or(end.cause);
            let message = run.and_then(|run| run.message).or_else(|| end.message.clone());
            WindowResult::new(run_id, attempt, end.code, cause, message).write(command, index);
        }
        end
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

impl WindowResult {
    fn new(run_id: Uuid, attempt: Option<&str>, code: Code, cause: Option<Cause>, message: Option<String>) -> Self {
        let attempt = attempt.map(str::to_owned);
        Self { schema: Self::SCHEMA.into(), run_id: run_id.to_string(), attempt, exit_code: code.number(), cause, message }
    }

    /// Leaves it in `--results`, if that is given, for the command that watches the group. Without it, that command knows only that the window
    /// has ended.
    fn write(&self, command: &RunWindow, index: usize) {
        let Some(dir) = &command.results else { return };
        let name = format!("{index}.{}", self.attempt.as_deref().unwrap_or("1").replace('/', "_"));
        let written = (|| {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer(&mut file, self)?;
            file.persist(dir.join(name)).map_err(|error| error.error)
        })();
        if let Err(error) = written {
            tracing::warn!("the result is not in {}: {error}", dir.display());
        }
    }
}

impl CommandError {
    /// Describes why a plan was not written.
    pub(super) fn plan_not_written(error: PlanFileError) -> Self {
        match error {
            PlanFileError::Io { path, source } => Self::not_written(&path, &source),
            error => error.into(),
        }
    }
}

impl From<PlanFileError> for CommandError {
    fn from(error: PlanFileError) -> Self {
        let message = chain(&error);
        match error {
            PlanFileError::Io { path, source } => {
                let failure =
                    Self::refused(Code::Usage, &format!("the plan {} cannot be read", path_text(&path)), &path, &source);
                match source.kind() {
                    std::io::ErrorKind::NotFound => failure
                        .hint("check the path, and that the file system is mounted on this host")
                        .hint("or write the plan: lorchestra backfill … --plan FILE"),
                    _ => failure,
                }
            }
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
