//! Slurm: an array of tasks for each chunk of windows. Talks to Slurm's own commands (sbatch, squeue, scancel, scontrol), which know the
//! cluster's configuration and authentication. Needs no accounting: what has left the queue is judged by claims and results.
//!
//! The name of an array is `lorchestra-GROUP+OFFSET`, and the window of a task is OFFSET plus its array index. So no job id has to be
//! remembered, and a command that was killed between two steps finds its arrays again.

mod arrays;
mod queue;

use super::files::GroupFiles;
use super::{Engine, Seen, Submission, output};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use crate::wire::WindowResult;
use arrays::{After, NewArray, Queued};
use lorchestra_core::text::{path_text, shell};
use queue::{QueueTask, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Slurm's default of MaxArraySize.
const ARRAY_SIZE: u32 = 1001;

/// Checks that Slurm's commands are there.
pub(super) fn installed() -> Result<(), CommandError> {
    match Command::new("sbatch").arg("--version").output() {
        Ok(version) if version.status.success() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(CommandError::new(
            Code::Config,
            "--engine slurm needs Slurm's commands (sbatch): install the package slurm-client and the cluster's slurm.conf",
        )),
        Err(error) => Err(CommandError::not_started("sbatch", &error)),
        // A missing or wrong slurm.conf.
        Ok(_) => output(Command::new("sbatch").arg("--version")).map(drop),
    }
}

/// The arrays of a group.
pub(super) struct Slurm<'a> {
    files: &'a GroupFiles<'a>,
    settings: &'a Settings,
}

impl<'a> Slurm<'a> {
    pub(super) fn open(files: &'a GroupFiles<'a>, settings: &'a Settings) -> Result<Self, CommandError> {
        installed()?;
        Ok(Self { files, settings })
    }

    fn name(&self) -> String {
        format!("lorchestra-{}", self.files.group.group_id)
    }

    /// Writes what a task executes. SIGTERM reaches lorchestra itself: it replaces the shell.
    fn write_script(&self) -> Result<PathBuf, CommandError> {
        let GroupFiles { engine, dir, .. } = self.files;
        let path = dir.join("window.sh");
        let executable = crate::commands::executable()?;
        let mut words = vec![shell(&executable).to_string()];
        words.extend(self.settings.global_flags.iter().map(|flag| shell(Path::new(flag)).to_string()));
        words.push("run-window --engine slurm --quiet".into());
        for (flag, value) in [("plan", self.files.plan()), ("claims", self.files.claims()), ("results", self.files.results())] {
            words.push(format!("--{flag} {}", shell(&value)));
        }
        words.extend(engine.window_flags.iter().map(|flag| shell(Path::new(flag)).to_string()));
        let text = format!(
            "#!/bin/sh\n\
             # Written by lorchestra: runs one window of group {group}. $1 is the window of array index 0.\n\
             # Each node has its own state directory. Each start of a window is another attempt, also if the controller has forgotten one.\n\
             node=\"${{SLURMD_NODENAME:-node}}\"\n\
             index=\"$(($1 + SLURM_ARRAY_TASK_ID))\"\n\
             attempt=\"$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}.$node\"\n\
             export XDG_STATE_HOME={state}/\"$node\"\n\
             (umask 077 && mkdir -p \"$XDG_STATE_HOME\") && test -O {state} && test -O \"$XDG_STATE_HOME\" || {{\n  \
             why=\"cannot use $XDG_STATE_HOME: it cannot be created, or another user owns it\"\n  \
             echo \"$why\" >&2\n  \
             printf '{{\"schema\":\"{schema}\",\"run_id\":\"\",\"attempt\":\"%s\",\"exit_code\":74,\"cause\":null,\"message\":\"%s\"}}' \\\n    \
             \"$attempt\" \"$why\" >{results}/\"$index.$attempt\"\n  exit 74\n}}\n\
             exec {command} \\\n  --index \"$index\" --attempt \"$attempt\"\n",
            schema = WindowResult::SCHEMA,
            results = shell(&self.files.results()),
            group = self.files.group.group_id,
            state = shell(Path::new(&engine.node_state)),
            command = words.join(" "),
        );
        std::fs::write(&path, text)
            .map_err(|error| CommandError::refused(Code::NotWritable, &path_text(&path), &path, &error))?;
        Ok(path)
    }

    /// Returns the tasks of this group.
    fn tasks(&self) -> Result<Vec<QueueTask>, CommandError> {
        // Without this, the indices of waiting tasks are cut after 64 characters.
        let text = output(Command::new("squeue").args(["--json", "--me"]).env("SLURM_BITSTR_LEN", "0"))?;
        queue::read(&text, &format!("{}+", self.name()))
            .map_err(|why| CommandError::new(Code::Failed, format!("squeue --json printed what this version cannot read: {why}")))
    }

    /// Submits an array and returns its job id. `after`: the array that must have ended before.
    fn sbatch(
        &self,
        array: &NewArray,
        (script, after): (&Path, Option<u64>),
        submission: &Submission,
    ) -> Result<u64, CommandError> {
        let NewArray { offset, indices, limit, .. } = array;
        let sbatch = |avoid: &BTreeSet<String>| {
            let mut sbatch = Command::new("sbatch");
            sbatch.args(["--parsable", "--requeue", "--signal=B:TERM@60", "--open-mode=append"]);
            sbatch.arg(format!("--job-name={}+{offset}", self.name()));
            sbatch.arg(format!("--array={indices}%{limit}"));
            sbatch.arg(format!("--output={}/slurm-%A.log", self.files.dir.display()));
            sbatch.arg(format!("--chdir={}", self.files.dir.display()));
            if let Some(after) = after {
                sbatch.arg(format!("--dependency=afterany:{after}"));
            }
            if !submission.delay.is_zero() {
                sbatch.arg(format!("--begin=now+{}", submission.delay.as_secs()));
            }
            if !avoid.is_empty() {
                sbatch.arg(format!("--exclude={}", avoid.iter().cloned().collect::<Vec<_>>().join(",")));
            }
            output(sbatch.args(&self.files.engine.flags).arg(script).arg(offset.to_string()))
        };
        let printed = match sbatch(&submission.avoid) {
            // No other node may be left.
            Err(failure) if !submission.avoid.is_empty() => {
                tracing::warn!("{}: submitting it without excluded nodes", failure.message);
                sbatch(&BTreeSet::new())?
            }
            printed => printed?,
        };
        let id = printed.trim().split(';').next().and_then(|id| id.parse().ok());
        id.ok_or_else(|| CommandError::new(Code::Failed, format!("sbatch --parsable printed {printed:?}, which is no job id")))
    }
}

impl Engine for Slurm<'_> {
    fn resubmits(&self) -> bool {
        true
    }

    fn submit(
        &mut self,
        submission: &Submission,
        is_cancelled: &mut dyn FnMut() -> Result<bool, CommandError>,
    ) -> Result<(), CommandError> {
        let script = self.write_script()?;
        let config = output(Command::new("scontrol").args(["show", "config"]))?;
        let size = config.lines().find_map(|line| line.strip_prefix("MaxArraySize")?.split('=').nth(1)?.trim().parse().ok());
        let queued = queued(&self.tasks()?);
        let parallel = self.files.group.settings.parallel;
        let mut ids = Vec::new();
        for array in arrays::plan(&submission.places, size.unwrap_or(ARRAY_SIZE), parallel, queued) {
            if is_cancelled()? {
                break;
            }
            let after = match array.after {
                Some(After::Queued(id)) => Some(id),
                Some(After::New(before)) => ids.get(before).copied(),
                None => None,
            };
            ids.push(self.sbatch(&array, (&script, after), submission)?);
        }
        Ok(())
    }

    fn look(&mut self) -> Result<BTreeMap<u32, Seen>, CommandError> {
        Ok(windows(&self.tasks()?))
    }

    fn cancel(&mut self, only_waiting: bool) -> Result<(), CommandError> {
        let open = self.tasks()?.into_iter().filter(|task| task.state != TaskState::Ended);
        let ids: BTreeSet<u64> = open.map(|task| task.array).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut scancel = Command::new("scancel");
        if only_waiting {
            scancel.arg("--state=PENDING");
        }
        output(scancel.args(ids.iter().map(u64::to_string))).map(drop)
    }

    /// The last part of what `write_script` passes: a node's name may have dots.
    fn node(&self, attempt: &str) -> Option<String> {
        attempt.splitn(3, '.').nth(2).map(str::to_owned)
    }
}

/// Returns the windows of tasks that have not ended.
fn windows(tasks: &[QueueTask]) -> BTreeMap<u32, Seen> {
    let mut seen = BTreeMap::new();
    for task in tasks {
        let state = match &task.state {
            TaskState::Ended => continue,
            TaskState::Waiting => Seen::Waiting,
            TaskState::Held(why) => Seen::Held(why.clone()),
            TaskState::Running => Seen::Running,
        };
        for index in &task.indices {
            let at = seen.entry(task.offset + index).or_insert_with(|| state.clone());
            // One of two copies may run.
            if state == Seen::Running {
                *at = Seen::Running;
            }
        }
    }
    seen
}

fn queued(tasks: &[QueueTask]) -> Option<Queued> {
    let newest = tasks.iter().filter(|task| task.state != TaskState::Ended).max_by_key(|task| task.array)?;
    let limit = newest.limit.and_then(|limit| u32::try_from(limit).ok());
    Some(Queued { windows: windows(tasks).len(), newest: newest.array, limit })
}
