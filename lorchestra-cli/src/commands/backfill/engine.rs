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

mod slurm;
mod temporal;
mod watch;

use crate::commands::run_window::WindowResult;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use clap::Args;
use lorchestra_core::group::plan_file::{self, PlannedMember};
use lorchestra_core::plan::RunSpec;
use lorchestra_core::run::claim;
use lorchestra_core::store::Store;
use lorchestra_core::store::group::{Group, GroupEngine};
use lorchestra_core::text::path_text;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) use watch::{cancel, drive, refresh};

/// Maximum number of windows that run at once, unless `-j` is given: the engine has its own limits.
pub(super) const PARALLEL: u32 = 1000;

/// Where the windows of a backfill run.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct EngineFlags {
    /// Where to run the windows: on this host, or on the nodes of an engine
    #[arg(long, value_name = "ENGINE", value_parser = ["local", "slurm", "temporal"], default_value = "local")]
    pub(crate) engine: String,
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
    /// Returns the engine for a new group; `None` for this host. Fails if it is not installed, before anything is stored.
    pub(super) fn resolve(&self, settings: &Settings, window_flags: Vec<String>) -> Result<Option<GroupEngine>, CommandError> {
        if matches!(self.engine.as_str(), "" | "local") {
            if self.shared.is_some() || self.detach || !self.engine_flag.is_empty() || self.node_state.is_some() {
                return Err(CommandError::new(Code::Usage, "--shared, --engine-flag, --node-state and --detach need --engine")
                    .hint("add --engine slurm or --engine temporal"));
            }
            return Ok(None);
        }
        let Some(shared) = &self.shared else {
            return Err(CommandError::new(Code::Usage, format!("--engine {} needs --shared DIR", self.engine))
                .hint("name a directory that this host and all nodes share, for plan, claims and results"));
        };
        if self.node_state.is_some() && self.engine != "slurm" {
            return Err(CommandError::new(Code::Usage, format!("--node-state is not for --engine {}", self.engine))
                .hint("remove it: a worker of Temporal has the state directory of its own environment"));
        }
        if self.engine == "slurm" && settings.has_configured_state_dir {
            let message = "state_dir in config.toml is the same on all nodes, but each must have a history of its own";
            return Err(CommandError::new(Code::Config, message)
                .hint("remove it, or pass --config FILE with a copy of the configuration that has no state_dir"));
        }
        let node_state = match &self.node_state {
            Some(dir) => absolute(dir)?,
            None => format!("/var/tmp/lorchestra-{}", rustix::process::getuid().as_raw()),
        };
        let engine = GroupEngine {
            name: self.engine.clone(),
            shared: absolute(shared)?,
            node_state,
            flags: self.engine_flag.clone(),
            window_flags,
        };
        match engine.name.as_str() {
            "slurm" => slurm::installed()?,
            _ => drop(temporal::program(settings)?),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Waiting,
    Running,
    /// Complete, according to the engine itself.
    Complete,
    /// Ended without being complete, with the exit code of its last attempt.
    Ended(Option<i32>),
}

/// Something that runs windows on nodes.
trait Engine {
    /// Whether a window that ended for a temporary reason has to be submitted again; otherwise the engine does that.
    const RESUBMITS: bool;

    /// Submits these windows of the plan.
    fn submit(&mut self, places: &[u32]) -> Result<(), CommandError>;

    /// Returns the windows that the engine knows.
    fn look(&mut self) -> Result<BTreeMap<u32, Seen>, CommandError>;

    /// Whether the last look has found that the engine does not know the group. It never does before the first submission.
    fn has_lost_group(&self) -> bool {
        false
    }

    /// Stops all windows, or only those that wait. Returns before they have ended.
    fn cancel(&mut self, only_waiting: bool) -> Result<(), CommandError>;
}

/// The engine of a group.
enum AnyEngine<'a> {
    Slurm(slurm::Slurm<'a>),
    Temporal(temporal::Temporal<'a>),
}

macro_rules! each {
    ($of:expr, $one:ident => $call:expr) => {
        match $of {
            AnyEngine::Slurm($one) => $call,
            AnyEngine::Temporal($one) => $call,
        }
    };
}

impl<'a> AnyEngine<'a> {
    fn open(files: &'a GroupFiles<'a>, settings: &'a Settings) -> Result<Self, CommandError> {
        Ok(match files.engine.name.as_str() {
            "slurm" => Self::Slurm(slurm::Slurm::open(files, settings)?),
            _ => Self::Temporal(temporal::Temporal::open(files, settings)?),
        })
    }

    fn resubmits(&self) -> bool {
        match self {
            Self::Slurm(_) => slurm::Slurm::RESUBMITS,
            Self::Temporal(_) => temporal::Temporal::RESUBMITS,
        }
    }

    fn submit(&mut self, places: &[u32]) -> Result<(), CommandError> {
        each!(self, one => one.submit(places))
    }

    fn look(&mut self) -> Result<BTreeMap<u32, Seen>, CommandError> {
        each!(self, one => one.look())
    }

    fn has_lost_group(&self) -> bool {
        each!(self, one => one.has_lost_group())
    }

    fn cancel(&mut self, only_waiting: bool) -> Result<(), CommandError> {
        each!(self, one => one.cancel(only_waiting))
    }
}

/// The files of a group in the shared directory.
struct GroupFiles<'a> {
    group: &'a Group,
    engine: &'a GroupEngine,
    /// Of this group alone.
    dir: PathBuf,
}

impl<'a> GroupFiles<'a> {
    fn new(group: &'a Group, engine: &'a GroupEngine) -> Self {
        Self { group, engine, dir: Path::new(&engine.shared).join(&group.group_id) }
    }

    fn plan(&self) -> PathBuf {
        self.dir.join("plan.jsonl")
    }

    /// The directory for `run-window --claims`, which appends the group.
    fn claims(&self) -> PathBuf {
        Path::new(&self.engine.shared).join("claims")
    }

    fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    /// Writes the plan as the store has it now: a library may have been replaced since the last time.
    fn write_plan(&self, store: &Store) -> Result<(), CommandError> {
        for dir in [&self.results(), &self.claims()] {
            std::fs::create_dir_all(dir)
                .map_err(|error| CommandError::refused(Code::NotWritable, &path_text(dir), dir, &error))?;
        }
        let mut members = Vec::new();
        for (label, spec) in store.member_specs(self.group.n)? {
            let spec = RunSpec::from_json(spec.as_bytes())
                .map_err(|error| CommandError::new(Code::Config, format!("the spec of {label} cannot be read: {error}")))?;
            members.push(PlannedMember { label, spec });
        }
        Ok(plan_file::write(&self.plan(), &self.group.group_id, &self.group.name, &members)?)
    }

    /// The windows that have a claim.
    fn claimed(&self) -> BTreeSet<u32> {
        let entries = std::fs::read_dir(self.claims().join(&self.group.group_id));
        entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Returns the run that has the claim of a window.
    fn holder(&self, place: u32) -> Option<String> {
        claim::holder(&self.claims().join(&self.group.group_id).join(place.to_string())).ok().flatten()
    }

    /// The results that windows left, with the window.
    fn result_files(&self) -> impl Iterator<Item = (u32, DirEntry)> {
        let entries = std::fs::read_dir(self.results()).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.split_once('.')?.0.parse().ok()?, entry)))
    }

    /// Returns the newest result of each window that left one.
    fn results_by_place(&self) -> BTreeMap<u32, PathBuf> {
        let mut newest: BTreeMap<u32, (std::time::SystemTime, PathBuf)> = BTreeMap::new();
        for (place, entry) in self.result_files() {
            let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
            if newest.get(&place).is_none_or(|(other, _)| *other <= modified) {
                newest.insert(place, (modified, entry.path()));
            }
        }
        newest.into_iter().map(|(place, (_, path))| (place, path)).collect()
    }

    /// Removes the results of windows that are about to be submitted again.
    fn forget_results(&self, places: &[u32]) {
        let places: BTreeSet<u32> = places.iter().copied().collect();
        for (place, entry) in self.result_files() {
            if places.contains(&place) {
                // One that stays is only shown in place of a newer one.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn read_result(path: &Path) -> Option<WindowResult> {
    let result: WindowResult = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (result.schema == WindowResult::SCHEMA).then_some(result)
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
