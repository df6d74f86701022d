//! `runs stop`: asks the supervisor of a run to stop it, and waits until its end is recorded.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::wire::StopObject;
use lorchestra_core::host::process::ignored_by;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::recovery::{close_all_abandoned, is_locked, worker_is_elsewhere};
use lorchestra_core::store::{Run, RunQuery, RunState, Store, short_id};
use lorchestra_core::text::printable;
use std::time::{Duration, Instant};

/// How long `runs stop` waits for the end of a run.
const STOPPING: Duration = Duration::from_secs(60);
/// How long to wait if the supervisor is dead and the run must be closed: another command may be closing it.
const CLOSING: Duration = Duration::from_secs(15);

/// Stops a run, and returns it as it ended.
pub(super) fn stop(
    notices: &mut Notices<'_>,
    state: &StateDir,
    store: &mut Store,
    run: &Run,
    printer: &mut Printer,
) -> Result<Run, CommandError> {
    if run.state != RunState::Running {
        if let Some(other) = running_instead(store, run)? {
            let (id, other) = (short_id(&run.run_id), short_id(&other.run_id));
            let (job, state) = (format!("{}/{}", run.package, run.job), run.state.as_str());
            let what = format!("run {id} has already ended: {state}; run {other} of {job} is running");
            return Err(CommandError::new(Code::Failed, what).hint(format!("run lorchestra runs stop {other} to stop it")));
        }
        return Ok(run.clone());
    }
    let supervisor = run.supervisor();
    let failed =
        |what: &str, e: std::io::Error| CommandError::new(Code::Failed, format!("{what} process {}: {e}", run.supervisor_pid));
    if let Some(pidfd) = supervisor.open().map_err(|e| failed("cannot inspect", e))? {
        if ignored_by(run.supervisor_pid)(rustix::process::Signal::TERM.as_raw()) {
            let pid = run.supervisor_pid;
            return Err(CommandError::new(
                Code::Failed,
                format!("run {} ignores SIGTERM: it was started with the signal ignored", short_id(&run.run_id)),
            )
            .hint(format!("run kill -KILL {pid} to end it at once; the next lorchestra runs list records its end")));
        }
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::TERM)
            .or_else(|e| if e == rustix::io::Errno::SRCH { Ok(()) } else { Err(e) })
            .map_err(|e| failed("cannot signal", e.into()))?;
        // A stopped process handles the signal only after it is resumed.
        supervisor.resume_if_stopped().map_err(|e| failed("cannot resume", e))?;
    }
    let mut deadline = Instant::now() + STOPPING;
    let mut was_alive = true;
    loop {
        if was_alive && !run.is_supervised() {
            if worker_is_elsewhere(state, run) {
                return Err(elsewhere(run));
            }
            // It was killed now, or after the open runs were checked: this command must close the run.
            was_alive = false;
            deadline = Instant::now() + CLOSING;
            let mut closed = close_all_abandoned(state, store)?;
            let ours = closed.stuck.iter().position(|(run_id, _)| *run_id == run.run_id);
            let stuck = ours.map(|at| closed.stuck.swap_remove(at).1);
            crate::commands::report_recovered(&closed, notices, printer);
            if let Some(error) = stuck {
                return Err(error.into());
            }
        }
        let Some(now) = store.run(&run.run_id)? else {
            return Err(CommandError::new(
                Code::Failed,
                format!("run {} has ended, and retention has removed it", short_id(&run.run_id)),
            ));
        };
        if now.state != RunState::Running {
            return Ok(now);
        }
        if Instant::now() >= deadline {
            let failure =
                CommandError::new(Code::Failed, format!("run {} was asked to stop and has not ended yet", short_id(&run.run_id)));
            return Err(if was_alive {
                failure
                    .hint("it may have a long grace period; run lorchestra runs list --running to check")
                    .hint(format!("run kill -TERM {} again to kill the job at once", run.supervisor_pid))
            } else if is_locked(state, run) {
                elsewhere(run)
            } else {
                failure.hint("its supervisor is gone; run lorchestra runs list to close the run, or to see what prevents it")
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Prints how a run ended. `had_ended`: before this command.
pub(super) fn print(run: &Run, had_ended: bool, json: bool, printer: &mut Printer) {
    let (short, state) = (short_id(&run.run_id), run.state.as_str());
    if json {
        let (run_id, short_id) = (run.run_id.clone(), short.to_owned());
        printer.json(&StopObject { schema: "lorchestra.runs-stop/1", run_id, short_id, state, cause: run.cause, had_ended });
    } else if had_ended {
        printer.line(format_args!("Run {short} has already ended: {state}"));
    } else {
        let why = run.cause.map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default();
        printer.good(format_args!("run {short} has ended: {state}{why}"));
    }
}

/// Returns the newest running run of the same job and account.
fn running_instead(store: &Store, run: &Run) -> Result<Option<Run>, CommandError> {
    let query = RunQuery {
        package: Some(run.package.clone()),
        job: Some(run.job.clone()),
        account: Some(run.account.clone().unwrap_or_default()),
        state: Some(RunState::Running),
        ..RunQuery::default()
    };
    Ok(store.find_runs(&query, 1)?.pop())
}

/// The error for a run whose supervisor is not visible to this process.
fn elsewhere(run: &Run) -> CommandError {
    let what = format!(
        "run {} cannot be stopped from here: its supervisor runs in another PID namespace (a container)",
        short_id(&run.run_id)
    );
    CommandError::new(Code::Failed, what)
        .hint(format!(
            "its lock is held, but process {} of host {} is not visible from here",
            run.supervisor_pid,
            printable(&run.host)
        ))
        .hint(format!("run lorchestra runs stop {} where the run was started", short_id(&run.run_id)))
        .hint("or stop that container")
}
