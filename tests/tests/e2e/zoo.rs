//! The zoo: bad things that a plugin file can be, a library can do while it is loaded, and a job can do, one per line of a table.
//!
//! | table | specimens | proof that the fault fired |
//! | --- | --- | --- |
//! | [`files`] | files that are not usable libraries | the reason that lorchestra reports; the file's contents |
//! | [`loading`] | libraries that attack the process that loads them | the pid that the constructor wrote |
//! | [`jobs`] | jobs that end badly, and jobs that attack the process that runs them | the pid that the job wrote just before |
//!
//! Checks for each: its exit code and the cause of its end; exactly one terminal event, the last of the run, that agrees with it; at most
//! eight lines on the screen (`Ended::check`), which are in the snapshots, one page each; nothing left of the processes that wrote a
//! marker; and that a package next to it runs afterwards.

mod files;
mod jobs;
mod loading;

use lorchestra_tests::{Ended, Run, Sandbox, processes};
use std::fmt::Write;

/// No run is recorded: the plugin was refused before.
const NO_RUN: &str = "no run";
/// The run succeeds, whatever the specimen did.
const COMPLETED: &str = "completed";

/// The output for each specimen of a table: one snapshot.
#[derive(Default)]
struct Book(String);

impl Book {
    /// Adds a page: the command, its exit code, all its output; then the terminal event in one line, if there is a run.
    fn page(&mut self, name: &str, sandbox: &Sandbox, ended: &Ended, run: Option<&Run>) {
        let args = lorchestra_tests::ended::redacted(&ended.args.join(" "), sandbox);
        let _ = writeln!(self.0, "== {name}\n$ lorchestra {args}\n{}", ended.snapshot(sandbox).trim_end());
        if let Some(run) = run {
            let events = sandbox.whole_events_of(run);
            let end = events.last().expect("a terminal event");
            let _ = write!(self.0, "--- {}", end.event_type());
            for key in ["cause", "signal", "exit_code", "permanent", "job_result"] {
                let value = &end.payload()[key];
                if !value.is_null() && value != false {
                    let _ = write!(self.0, " {key}={value}");
                }
            }
            self.0.push('\n');
        }
        self.0.push('\n');
    }

    /// The pages, with values that depend on build and host replaced.
    fn text(self) -> String {
        const RULES: &[(&str, &str)] = &[
            (r"lib\.rs:\d+|process\.rs:\d+|events\.rs:\d+", "[SOURCE]"),
            (r"has 2\.\d+", "has [HOST]"),
            (r"next attempt in \d+(\.\d+)?s", "next attempt in [DURATION]"),
            (r"glibc 9\.\d+", "glibc [NEWER]"),
            // Sizes of libraries and offsets in them.
            (r"\b(it has|end at|manifest has) \d{4,}", "$1 [N]"),
            (r"it is \d{6,9} bytes", "it is [N] bytes"),
            (r"(column|index) \d+", "$1 [N]"),
        ];
        let mut text = self.0;
        for (pattern, by) in RULES {
            text = regex_lite::Regex::new(pattern).expect("a pattern of ours").replace_all(&text, *by).into_owned();
        }
        let (this, other) = if cfg!(target_arch = "x86_64") { ("x86_64", "aarch64") } else { ("aarch64", "x86_64") };
        text.replace(this, "[THIS]").replace(other, "[OTHER]")
    }
}

/// Checks the end of the newest run: [`NO_RUN`], [`COMPLETED`], or a cause. Returns the run, if there is one.
#[track_caller]
fn ended_as(sandbox: &Sandbox, name: &str, ended: &Ended, code: i32, end: &str) -> Option<Run> {
    assert_eq!(ended.code(), Some(code), "{name}: exit code of {}", ended.shown());
    let mut runs = sandbox.runs();
    if end == NO_RUN {
        assert!(runs.is_empty(), "{name}: {runs:?}");
        return None;
    }
    assert_eq!(runs.len(), 1, "{name}: one run of {}", ended.shown());
    let run = runs.remove(0);
    let (state, cause) = if end == COMPLETED { ("completed", "") } else { ("failed", end) };
    assert_eq!((run.state(), run.cause()), (state, cause), "{name}: {} {run:?}", ended.shown());
    assert_eq!(std::fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0, "{name}: its spool is gone");
    Some(run)
}

/// Processes that wrote their pids to `marker`: the fault occurred in each, and none is left.
#[track_caller]
fn fired(sandbox: &Sandbox, name: &str, processes: usize) {
    let marker = sandbox.read("marker");
    let pids: Vec<u32> = marker.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{name}: {marker}"))).collect();
    assert_eq!(pids.len(), processes, "{name}: the fault fired");
    for pid in pids {
        assert!(!processes::is_alive(pid), "{name}: {pid} is left");
    }
}

/// The package next to the specimen is listed and runs.
#[track_caller]
fn another_works(sandbox: &Sandbox, name: &str, package: &str, job: &str) {
    let listed = sandbox.lorchestra(&["jobs", "list", package]).exits(0);
    assert!(listed.out().contains(job), "{name}: {}", listed.shown());
    let ended = sandbox.lorchestra(&["run-job", package, job]);
    assert_eq!(ended.code(), Some(0), "{name}: {}", ended.shown());
}
