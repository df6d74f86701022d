//! The job `run`: its parameters. [`bridge`](crate::bridge) does the work.

use crate::arguments::{self, Given};
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
    /// Start of the time range, passed as `since` as it was given: `2024-01-01`, `-7d`
    since: Option<String>,
    /// End of the time range, passed as `until` as it was given
    until: Option<String>,
) -> JobResult {
    let arguments = arguments::collect(&Given { args: &arg, account, since, until }).permanent()?;
    arguments::check_entry(&entry).permanent()?;
    let interpreter = Interpreter::find(python).permanent()?;
    bridge::run(&interpreter, &Order::Run { entry: &entry, arguments: &arguments }, cx)
}
