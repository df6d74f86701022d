//! The job `list`: its parameters. [`bridge`](crate::bridge) does the work.

use crate::bridge::{self, Order};
use crate::interpreter::Interpreter;
use lorchestra_plugin_api::prelude::*;

/// List the Python jobs of a virtual environment.
///
/// Reads the entry points of the groups `lorchestra.jobs` and `lorchestra.jobs.PACKAGE`, and signatures and docstrings from the
/// source, without importing the packages if it can. Prints them to the run's log: `lorchestra runs logs RUN`. Emits one event
/// `python.job.listed` per entry point; one that cannot be read has an error and does not hide others.
#[job(overlap = "allow")]
pub fn list(
    cx: &JobContext,
    /// Virtual environment, or Python interpreter [default: `python3` on PATH]
    python: Option<PathBuf>,
) -> JobResult {
    let interpreter = Interpreter::find(python).permanent()?;
    bridge::run(&interpreter, &Order::List, cx)
}
