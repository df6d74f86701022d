//! The job `run`: its parameters. [`bridge`](crate::bridge) does the work.

use crate::arguments::{self, Given};
use crate::bookmark::{Bookmark, BookmarkError};
use crate::bridge::{self, Order};
use crate::interpreter::Interpreter;
use lorchestra_plugin_api::prelude::*;

/// Run a job of the Python lorchestra.
///
/// Imports MODULE in the virtual environment and calls `FUNCTION(bq_client=…, account=…, since=…, until=…, NAME=VALUE…)` with the
/// arguments that are given. `emit` of `lorchestra.stack_clients.event_client` records an event before it returns.
///
/// An exception fails the run. Its traceback is in the run's log: `lorchestra runs logs RUN`. Events and errors contain the class of
/// the exception and where it was raised, without its text, which may contain personal data.
// The host's lock is per account, and would not let two functions run at once.
#[job(overlap = "allow")]
pub fn run(
    cx: &JobContext,
    /// Function to call, as in the package's entry points: `module:function`
    entry: String,
    /// Virtual environment, or Python interpreter [default: `python3` on PATH]
    python: Option<PathBuf>,
    /// Argument for the function (repeatable): `name=text`, or `name:=JSON` for a number, a list or `true`
    arg: Vec<String>,
    /// Account name, passed as `account`
    account: Option<String>,
    /// Start of the time range, passed as `since` as it was given: `2024-01-01`, `-7d`; `last` or `last:-30d` passes the start of
    /// the last successful run
    since: Option<String>,
    /// End of the time range, passed as `until` as it was given
    until: Option<String>,
) -> JobResult {
    arguments::check_entry(&entry).permanent()?;
    let last = Bookmark::resolve(since.as_deref(), until.as_deref(), &cx.data_dir()?, (&entry, account.as_deref()));
    let (bookmark, since) = match last.map_err(job_error)? {
        Some((bookmark, at)) => (Some(bookmark), Some(at)),
        None => (None, since),
    };
    let arguments = arguments::collect(&Given { args: &arg, account, since, until }).permanent()?;
    let interpreter = Interpreter::find(python).permanent()?;
    let order = Order::Run { entry: &entry, arguments: &arguments, temporary: &cx.temp_dir()? };
    bridge::run(&interpreter, &order, cx)?;
    bookmark.map_or(Ok(()), |bookmark| bookmark.advance().map_err(job_error))
}

fn job_error(error: BookmarkError) -> JobError {
    let is_permanent = error.is_permanent();
    let error = JobError::from(error);
    if is_permanent { error.permanent() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::testing::{self, TempDir};
    use std::os::unix::fs::PermissionsExt;

    const JOBS: &str = "\
from lorchestra.stack_clients.event_client import emit

def endless(bq_client):
    try:
        while True:
            emit('tick', {}, 'x', bq_client)
    finally:
        for n in range(100):
            emit('cleaned.up', {'n': n}, 'x', bq_client)
";

    /// No supervisor sends a signal here, so the bridge does; one that has also received the supervisor's is not interrupted twice.
    #[test]
    fn a_job_that_emits_is_stopped_when_only_its_context_is_cancelled() {
        let dir = TempDir::new();
        let jobs = dir.write("jobs.py", JOBS);
        let place = jobs.parent().unwrap().display().to_string();
        let python = dir.write("wrapper", format!("#!/bin/sh\nPYTHONPATH='{place}' exec python3 \"$@\"\n"));
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o700)).unwrap();
        let test = testing::job::<run>().data(&dir).param("entry", "jobs:endless").param("python", &python);
        let ran = test.cancel_after_events(100).run();
        assert_eq!(ran.error().as_deref(), Some("cancelled"));
        assert_eq!(ran.events_of("cleaned.up").len(), 100);
    }
}
