//! Engines: submits the windows of a stored group to Slurm or Temporal, watches them, cancels them, and records what became of each.
//!
//! ```text
//! backfill --engine ── watch ─► Engine: submit, look, cancel ─► sbatch, squeue │ lorchestra-temporal
//!                       │                                            │
//!                       │                                     node: run-window ─► claim, result
//!                       └─ claims and results in the shared directory ◄────────────┘
//! ```
//!
//! Whether a window is complete is decided by its claim, never by the engine: an engine knows whether a process has ended, not which of two
//! copies counts. All state is in the store, in the shared directory and in the engine, so any command can continue after this process was
//! killed: `backfill resume` submits only what is neither complete nor known to the engine.

mod files;
mod look;
mod slurm;
mod temporal;
mod watch;

use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use clap::{Args, ValueEnum};
use files::GroupFiles;
use lorchestra_core::store::group::{EngineName, GroupEngine};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(super) use look::WindowReason;
pub(super) use watch::{cancel, drive, refresh};

/// Maximum number of windows that run at once, unless `-j` is given: the engine has its own limits.
pub(super) const PARALLEL: u32 = 1000;

/// The value of `--engine`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    #[default]
    Local,
    Slurm,
    Temporal,
}

impl EngineChoice {
    fn engine(self) -> Option<EngineName> {
        match self {
            Self::Local => None,
            Self::Slurm => Some(EngineName::Slurm),
            Self::Temporal => Some(EngineName::Temporal),
        }
    }
}

/// Where the windows of a backfill run.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct EngineFlags {
    /// Where to run the windows: on this host, or on the nodes of an engine
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t)]
    pub(crate) engine: EngineChoice,
    /// Directory that all nodes share, for plan, claims and results (required with an engine)
    #[arg(long, value_name = "DIR")]
    pub(crate) shared: Option<PathBuf>,
    /// Flag for sbatch or lorchestra-temporal submit, e.g. --engine-flag=--partition=long (repeatable)
    #[arg(long, value_name = "FLAG", require_equals = true)]
    pub(crate) engine_flag: Vec<String>,
    /// Parent of the state directories on the nodes of Slurm [default: /var/tmp/lorchestra-UID]
    #[arg(long, value_name = "DIR")]
    pub(crate) node_state: Option<PathBuf>,
    /// Submit the windows and do not wait for them
    #[arg(long)]
    pub(crate) detach: bool,
}

impl EngineFlags {
    /// Checks the flags against each other, for a dry run too. Returns the engine and its shared directory; `None` for this host.
    pub(super) fn check(&self) -> Result<Option<(EngineName, &Path)>, CommandError> {
        let Some(name) = self.engine.engine() else {
            if self.shared.is_some() || self.detach || !self.engine_flag.is_empty() || self.node_state.is_some() {
                return Err(CommandError::new(Code::Usage, "--shared, --engine-flag, --node-state and --detach need --engine")
                    .hint("add --engine slurm or --engine temporal"));
            }
            return Ok(None);
        };
        let Some(shared) = &self.shared else {
            return Err(CommandError::new(Code::Usage, format!("--engine {} needs --shared DIR", name.as_str()))
                .hint("name a directory that this host and all nodes share, for plan, claims and results"));
        };
        if self.node_state.is_some() && name != EngineName::Slurm {
            return Err(CommandError::new(Code::Usage, format!("--node-state is not for --engine {}", name.as_str()))
                .hint("remove it: a worker of Temporal has the state directory of its own environment"));
        }
        Ok(Some((name, shared)))
    }

    /// Returns the engine for a new group; `None` for this host. Fails if it is not installed, before anything is stored.
    pub(super) fn resolve(&self, settings: &Settings, window_flags: Vec<String>) -> Result<Option<GroupEngine>, CommandError> {
        let Some((name, shared)) = self.check()? else { return Ok(None) };
        if name == EngineName::Slurm && settings.has_configured_state_dir {
            let message = "state_dir in config.toml is the same on all nodes, but each must have a history of its own";
            return Err(CommandError::new(Code::Config, message)
                .hint("remove it, or pass --config FILE with a copy of the configuration that has no state_dir"));
        }
        let node_state = match &self.node_state {
            Some(dir) => absolute(dir)?,
            None => format!("/var/tmp/lorchestra-{}", rustix::process::getuid().as_raw()),
        };
        let engine = GroupEngine { name, shared: absolute(shared)?, node_state, flags: self.engine_flag.clone(), window_flags };
        match name {
            EngineName::Slurm => slurm::installed()?,
            EngineName::Temporal => drop(temporal::program(settings)?),
        }
        Ok(Some(engine))
    }
}

fn absolute(path: &Path) -> Result<String, CommandError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = absolute.into_os_string().into_string();
    text.map_err(|path| CommandError::new(Code::Usage, format!("{} is not UTF-8", path.display())))
}

/// What an engine knows about a window.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Waiting,
    /// It waits until someone does something: why, and what to do.
    Held(String),
    Running,
    /// Complete, according to the engine itself.
    Complete,
    /// Ended without being complete, with the exit code of its last attempt.
    Ended(Option<i32>),
}

impl Seen {
    fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Held(_) | Self::Running)
    }
}

/// Windows to submit.
#[derive(Debug, Default)]
struct Submission {
    /// Their places, in order.
    places: Vec<u32>,
    /// How long they wait at least.
    delay: Duration,
    /// The nodes that must not run them, if there are others.
    avoid: BTreeSet<String>,
}

/// Something that runs windows on nodes.
trait Engine {
    /// Whether a window that ended for a temporary reason has to be submitted again; otherwise the engine does that.
    fn resubmits(&self) -> bool;

    /// Submits windows of the plan. Submits no more as soon as the group is cancelled.
    fn submit(
        &mut self,
        submission: &Submission,
        is_cancelled: &mut dyn FnMut() -> Result<bool, CommandError>,
    ) -> Result<(), CommandError>;

    /// Returns the windows that the engine knows.
    fn look(&mut self) -> Result<BTreeMap<u32, Seen>, CommandError>;

    /// Whether the last look has found that the engine does not know the group. It never does before the first submission.
    fn has_lost_group(&self) -> bool {
        false
    }

    /// Stops all windows, or only those that wait. Returns before they have ended.
    fn cancel(&mut self, only_waiting: bool) -> Result<(), CommandError>;

    /// Returns the name of the node in an attempt, if the engine can avoid nodes.
    fn node(&self, _attempt: &str) -> Option<String> {
        None
    }
}

/// Returns the engine of a group.
fn open<'a>(files: &'a GroupFiles<'a>, settings: &'a Settings) -> Result<Box<dyn Engine + 'a>, CommandError> {
    Ok(match files.engine.name {
        EngineName::Slurm => Box::new(slurm::Slurm::open(files, settings)?),
        EngineName::Temporal => Box::new(temporal::Temporal::open(files, settings)?),
    })
}

/// Runs a command of an engine and returns its stdout.
fn output(command: &mut Command) -> Result<String, CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| CommandError::not_started(&program, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failure(&program, &output))
}

/// Returns the reason that a failed command of an engine has printed.
fn failure(program: &str, output: &std::process::Output) -> CommandError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Slurm's last reason is the one that ended it.
    let line =
        stderr.lines().find(|line| line.contains("fatal: ")).or_else(|| stderr.lines().find(|line| !line.trim().is_empty()));
    let line = line.unwrap_or("it printed no reason").trim();
    let line = line.strip_prefix(&format!("{program}: ")).unwrap_or(line).trim_start_matches("error: ");
    CommandError::new(Code::Failed, format!("{program}: {}", lorchestra_core::text::one_line(line)))
}
