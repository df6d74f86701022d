//! Slurm: an array of tasks for each chunk of windows. Talks to Slurm's own commands (sbatch, squeue, scancel, scontrol), which know the
//! cluster's configuration and authentication. Needs no accounting: what has left the queue is judged by claims and results.
//!
//! The name of an array is `lorchestra-GROUP+OFFSET`, and the window of a task is OFFSET plus its array index. So no job id has to be
//! remembered, and a command that was killed between two steps finds its arrays again.

use super::{Engine, GroupFiles, Seen, output};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::text::{path_text, shell};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Maximum number of ranges in one array, so that its description stays far below Slurm's limits.
const RANGES: usize = 500;
/// The states of a task that has ended. A task in any other state may still run.
const ENDED: [&str; 9] =
    ["COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"];

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
    fn write_script(&self) -> Result<std::path::PathBuf, CommandError> {
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
             export XDG_STATE_HOME={state}/\"${{SLURMD_NODENAME:-node}}\"\n\
             (umask 077 && mkdir -p \"$XDG_STATE_HOME\") && test -O {state} && test -O \"$XDG_STATE_HOME\" || {{\n  \
             echo \"cannot use $XDG_STATE_HOME: it cannot be created, or another user owns it\" >&2\n  exit 74\n}}\n\
             exec {command} \\\n  --index \"$(($1 + SLURM_ARRAY_TASK_ID))\" \\\n  \
             --attempt \"$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}.${{SLURMD_NODENAME:-node}}\"\n",
            group = self.files.group.group_id,
            state = shell(Path::new(&engine.node_state)),
            command = words.join(" "),
        );
        std::fs::write(&path, text)
            .map_err(|error| CommandError::refused(Code::NotWritable, &path_text(&path), &path, &error))?;
        Ok(path)
    }

    /// Returns the tasks of this group, with the offsets of their arrays.
    fn jobs(&self) -> Result<Vec<(u32, Value)>, CommandError> {
        // Without this, the indices of waiting tasks are cut after 64 characters.
        let text = output(Command::new("squeue").args(["--json", "--me"]).env("SLURM_BITSTR_LEN", "0"))?;
        let answer: Value = serde_json::from_str(&text)
            .map_err(|error| CommandError::new(Code::Failed, format!("squeue --json printed no JSON: {error}")))?;
        let prefix = format!("{}+", self.name());
        let jobs = answer["jobs"].as_array().cloned().unwrap_or_default();
        let offset = |job: &Value| job["name"].as_str()?.strip_prefix(&prefix)?.parse::<u32>().ok();
        Ok(jobs.into_iter().filter_map(|job| Some((offset(&job)?, job))).collect())
    }
}

impl Engine for Slurm<'_> {
    const RESUBMITS: bool = true;

    fn submit(&mut self, places: &[u32]) -> Result<(), CommandError> {
        let script = self.write_script()?;
        let config = output(Command::new("scontrol").args(["show", "config"]))?;
        let size = config.lines().find_map(|line| line.strip_prefix("MaxArraySize")?.split('=').nth(1)?.trim().parse().ok());
        let arrays = arrays(places, size.unwrap_or(1001));
        let parallel = usize::try_from(self.files.group.settings.parallel).unwrap_or(1);
        let parallel = (parallel / arrays.len().max(1)).max(1);
        for (offset, indices) in &arrays {
            let mut sbatch = Command::new("sbatch");
            sbatch.args(["--parsable", "--requeue", "--signal=B:TERM@60", "--open-mode=append"]);
            sbatch.arg(format!("--job-name={}+{offset}", self.name()));
            sbatch.arg(format!("--array={indices}%{parallel}"));
            sbatch.arg(format!("--output={}/slurm-%A.log", self.files.dir.display()));
            sbatch.arg(format!("--chdir={}", self.files.dir.display()));
            sbatch.args(&self.files.engine.flags).arg(&script).arg(offset.to_string());
            output(&mut sbatch)?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<BTreeMap<u32, Seen>, CommandError> {
        let mut seen = BTreeMap::new();
        for (offset, job) in self.jobs()? {
            let state = job["job_state"].as_str().unwrap_or_default();
            if ENDED.contains(&state) {
                continue;
            }
            let is_waiting = state == "PENDING";
            let waiting = job["array_task_string"].as_str().filter(|text| !text.is_empty());
            let indices = match (waiting, job["array_task_id"].as_u64()) {
                (Some(text), _) => indices(text),
                (None, Some(index)) => u32::try_from(index).into_iter().collect(),
                (None, None) => BTreeSet::new(),
            };
            for index in indices {
                let at = seen.entry(offset + index).or_insert(Seen::Waiting);
                // One of two copies may run.
                if !is_waiting {
                    *at = Seen::Running;
                }
            }
        }
        Ok(seen)
    }

    fn cancel(&mut self, only_waiting: bool) -> Result<(), CommandError> {
        let ids: BTreeSet<u64> = self.jobs()?.iter().filter_map(|(_, job)| job["array_job_id"].as_u64()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut scancel = Command::new("scancel");
        if only_waiting {
            scancel.arg("--state=PENDING");
        }
        output(scancel.args(ids.iter().map(u64::to_string))).map(drop)
    }
}

/// Divides windows into arrays with indices below `size`: the offset of each, and its indices as Slurm reads them.
fn arrays(places: &[u32], size: u32) -> Vec<(u32, String)> {
    let size = size.max(1);
    let mut arrays: Vec<(u32, String, usize)> = Vec::new();
    let mut at = 0;
    while at < places.len() {
        let first = places[at];
        let offset = first - first % size;
        let mut last = first;
        while at + 1 < places.len() && places[at + 1] == last + 1 && last + 1 < offset + size {
            at += 1;
            last += 1;
        }
        at += 1;
        let range = match (first - offset, last - offset) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        match arrays.last_mut() {
            Some((of, text, ranges)) if *of == offset && *ranges < RANGES => {
                // Writing into a String cannot fail.
                let _ = write!(text, ",{range}");
                *ranges += 1;
            }
            _ => arrays.push((offset, range, 1)),
        }
    }
    arrays.into_iter().map(|(offset, text, _)| (offset, text)).collect()
}

/// Reads the indices of waiting tasks: `0-4,7,10-20:5%3`.
fn indices(text: &str) -> BTreeSet<u32> {
    let text = text.split('%').next().unwrap_or_default().trim_matches(['[', ']']);
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last), Ok(step)) = (first.parse::<u32>(), last.parse::<u32>(), step.parse::<usize>()) else {
            continue;
        };
        found.extend((first..=last).step_by(step.max(1)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_divided_into_arrays_and_read_back() {
        for (places, size, expected) in [
            (vec![], 10, vec![]),
            (vec![0], 10, vec![(0, "0")]),
            ((0..10).collect(), 10, vec![(0, "0-9")]),
            ((0..25).collect(), 10, vec![(0, "0-9"), (10, "0-9"), (20, "0-4")]),
            (vec![1, 2, 3, 7, 9, 10, 11, 30], 10, vec![(0, "1-3,7,9"), (10, "0-1"), (30, "0")]),
        ] {
            let made = arrays(&places, size);
            assert_eq!(made, expected.into_iter().map(|(offset, text)| (offset, text.to_owned())).collect::<Vec<_>>());
            let read: Vec<u32> =
                made.iter().flat_map(|(offset, text)| indices(text).into_iter().map(move |i| i + offset)).collect();
            assert_eq!(read, places);
        }
        let scattered: Vec<u32> = (0..5000).map(|n| n * 2).collect();
        let made = arrays(&scattered, 20_001);
        assert_eq!(made.len(), 10);
        let read: BTreeSet<u32> =
            made.iter().flat_map(|(offset, text)| indices(text).into_iter().map(move |i| i + offset)).collect();
        assert_eq!(read, scattered.into_iter().collect());
    }

    #[test]
    fn the_indices_of_waiting_tasks_are_read() {
        for (text, expected) in [
            ("3", vec![3]),
            ("3-5%2", vec![3, 4, 5]),
            ("[0-1,4]%7", vec![0, 1, 4]),
            ("0-10:5", vec![0, 5, 10]),
            ("", vec![]),
            ("a-b,2", vec![2]),
        ] {
            assert_eq!(indices(text).into_iter().collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
