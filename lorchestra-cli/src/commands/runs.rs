//! `runs list`, `show`, `logs`, `stop`.

use super::{find_run, history};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use clap::Subcommand;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::host::process::ignored_by;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::log;
use lorchestra_core::run::recovery::{close_all_abandoned, is_locked, worker_is_elsewhere};
use lorchestra_core::store::{Attempt, Backlog, Moved, Run, RunFilter, RunState, Store};
use lorchestra_core::text::{self, printable};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long `runs stop` waits for the end before it says that it is still to come.
const STOPPING: Duration = Duration::from_secs(60);
/// The same, when the supervisor is dead and the run is to be closed: another command may be about to.
const CLOSING: Duration = Duration::from_secs(15);
/// Attempts that are shown, at most: the last ones.
const ATTEMPTS: usize = 20;
/// Characters of a line about a parameter or an attempt, at most.
const LINE: usize = 120;
/// Characters before the value of a line of `runs show`.
const NAME: usize = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest first
    #[command(
        before_help = "Examples:\n  lorchestra runs list\n  lorchestra runs list --running\n  lorchestra runs list --limit 100 --json"
    )]
    List {
        /// Show only runs that are still running
        #[arg(long)]
        running: bool,
        /// Maximum number of runs to show
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Print one JSON object per line (schema lorchestra.run/1)
        #[arg(long)]
        json: bool,
    },
    /// Show a run: parameters, outcome, events and log files
    #[command(before_help = "Example:\n  lorchestra runs show 019ab")]
    Show {
        /// Run id, or a unique prefix or suffix of it
        run: String,
        /// Print one JSON object (schema lorchestra.runs-show/1)
        #[arg(long)]
        json: bool,
        /// Print only the run's spec, ready for `run-job --spec`
        #[arg(long, conflicts_with = "json")]
        spec: bool,
    },
    /// Print the output of a job, byte for byte
    #[command(before_help = "Examples:\n  lorchestra runs logs 019ab\n  lorchestra runs logs 019ab --trace")]
    Logs {
        /// Run id, or a unique prefix or suffix of it
        run: String,
        /// Print the job's trace instead, one JSON object per line
        #[arg(long)]
        trace: bool,
    },
    /// Stop a running job and wait for it to end
    #[command(before_help = "Example:\n  lorchestra runs stop 019ab")]
    Stop {
        /// Run id, or a unique prefix or suffix of it
        run: String,
    },
}

pub(super) fn run(
    command: &Runs,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let history = history(settings, notices, printer)?;
    let store = history.as_ref().map(|(_, store)| store);
    match command {
        Runs::List { running, limit, json } => list(store, &RunFilter { running: *running, limit: Some(*limit) }, *json, printer),
        Runs::Show { run, spec: true, .. } => {
            let (_, _, run) = named(history, settings, run)?;
            printer.line(&run.spec_json);
            Ok(Code::Success)
        }
        Runs::Show { run, json, .. } => {
            let (state, store, run) = named(history, settings, run)?;
            show((&state, &store), &run, &settings.destinations, *json, printer)
        }
        Runs::Logs { run, trace } => {
            let (state, store, run) = named(history, settings, run)?;
            logs(&state, &store, &run, *trace, printer)
        }
        Runs::Stop { run } => {
            let (state, mut store, run) = named(history, settings, run)?;
            stop(notices, &state, &mut store, &run, printer)
        }
    }
}

/// The run that a person named, in its history.
fn named(history: Option<(StateDir, Store)>, settings: &Settings, text: &str) -> Result<(StateDir, Store, Run), CommandError> {
    let run = find_run(history.as_ref().map(|(_, store)| store), settings, text)?;
    let (state, store) = history.ok_or_else(|| CommandError::new(Code::Internal, "a run was found, and no history"))?;
    Ok((state, store, run))
}

fn list(store: Option<&Store>, filter: &RunFilter, as_json: bool, printer: &mut Printer) -> Result<Code, CommandError> {
    let runs = match store {
        Some(store) => store.runs(filter)?,
        None => Vec::new(),
    };
    if as_json {
        for run in &runs {
            printer.json(&object("lorchestra.run/1", run));
        }
        return Ok(Code::Success);
    }
    if runs.is_empty() {
        printer.note(if filter.running { "No run is running." } else { "No runs yet." });
    }
    let names: Vec<String> = runs.iter().map(|run| format!("{}/{}", run.package, run.job)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    for (run, name) in runs.iter().zip(&names) {
        let took = duration(run).map(show::elapsed).unwrap_or_default();
        let why = run.cause.map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default();
        let line =
            format!("{}  {}  {name:width$}  {took:>7}  {}{why}", run.run_id, show::time(run.started_at), run.state.as_str());
        printer.line(line);
    }
    Ok(Code::Success)
}

fn show(
    (state, store): (&StateDir, &Store),
    run: &Run,
    destinations: &[DestinationConfig],
    as_json: bool,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let counts = store.event_counts(&run.run_id)?;
    let delivery: Vec<(&DestinationConfig, Backlog)> = destinations
        .iter()
        .map(|to| Ok((to, store.backlog(to.name(), Some(&run.run_id))?)))
        .collect::<Result<_, CommandError>>()?;
    let attempts = store.attempts(&run.run_id)?;
    // The run that was in the way of one that was skipped.
    let held_by = if run.state == RunState::Skipped { Some(store.held_by(&run.run_id)?) } else { None };
    let outputs: Vec<String> = attempts
        .iter()
        .map(|attempt| state.output(&run.run_id, attempt.attempt))
        .chain([state.trace(&run.run_id)])
        .flat_map(|path| log::parts(&path).unwrap_or_default())
        .map(|part| part.path.display().to_string())
        .collect();
    if as_json {
        let mut value = object("lorchestra.runs-show/1", run);
        let spec: Value = serde_json::from_str(&run.spec_json).unwrap_or_default();
        value["params"] = spec["params"].clone();
        value["spec"] = spec;
        value["events"] = counts.iter().map(|(name, n)| (name.clone(), json!(n))).collect::<serde_json::Map<_, _>>().into();
        value["attempts"] = attempts
            .iter()
            .map(|a| {
                json!({
                    "attempt": a.attempt,
                    "started_at": show::exact_time(a.started_at),
                    "ended_at": a.ended_at.map(show::exact_time),
                    "worker_pid": a.worker_pid,
                    "cause": a.cause,
                    "message": a.message,
                })
            })
            .collect();
        value["bookmark"] = match run.bookmark {
            Some(Moved { before, after }) => {
                json!({"before": before.map(show::exact_time), "after": after.map(show::exact_time)})
            }
            None => Value::Null,
        };
        value["logs"] = json!(outputs);
        value["held_by"] = json!(held_by.flatten());
        let backlog = |b: Backlog| json!({"pending": b.pending, "failed": b.refused, "uncertain": b.uncertain});
        value["delivery"] = match delivery.as_slice() {
            [] => Value::Null,
            all => all.iter().map(|(to, left)| (to.name().to_owned(), backlog(*left))).collect::<serde_json::Map<_, _>>().into(),
        };
        printer.json(&value);
        return Ok(Code::Success);
    }
    // A value of several lines is one value: what is in it must not look like another.
    let indent = format!("\n{:NAME$} ", "");
    let mut row = |name: &str, value: &str| {
        printer.line(format_args!("{name:<NAME$} {}", printable(value).trim_end().replace('\n', &indent)));
    };
    row("run", &run.run_id);
    row("job", &format!("{}/{} ({})", run.package, run.job, run.location));
    row("state", run.state.as_str());
    if let Some(held_by) = held_by {
        row("held by", &held_by.map_or_else(|| "an unknown run".to_owned(), |held_by| format!("run {held_by}")));
    }
    if let Some(cause) = &run.cause {
        row("cause", cause.as_str());
    }
    if let Some(message) = &run.message {
        row("message", message);
    }
    if let Some(result) = &run.job_result {
        row("job said", result);
    }
    row("started", &show::time(run.started_at));
    if let Some(ended) = run.ended_at {
        let took = duration(run).map(show::elapsed).unwrap_or_default();
        row("ended", &format!("{} (after {took})", show::time(ended)));
    }
    if run.since.is_some() || run.until.is_some() {
        let since = run.since.map_or_else(|| "the beginning".to_owned(), show::time);
        let until = run.until.map(show::time).unwrap_or_default();
        row("window", &format!("from {since} up to {until}"));
    }
    if let Some(moved) = run.bookmark {
        row("bookmark", &bookmark(run, moved));
    }
    if let Ok(spec) = run.spec() {
        for (name, value) in &spec.params {
            // A value may be a whole text; --json has all of it.
            row("parameter", &text::shortened(&printable(&format!("{name} = {value}")), LINE - NAME - 3));
        }
    }
    row("attempts", &run.attempts.to_string());
    // One that was alone is told by the rest of this.
    for attempt in attempts.iter().skip(attempts.len().saturating_sub(ATTEMPTS)).filter(|_| attempts.len() > 1) {
        row("attempt", &text::shortened(&printable(&attempt_line(attempt)), LINE - NAME - 3));
    }
    row("plugin", &format!("{} {}", run.plugin_version, run.plugin_path));
    row("sha256", &run.plugin_sha256);
    row("host", &format!("{} (supervisor pid {})", run.host, run.supervisor_pid));
    for (event_type, n) in &counts {
        row("events", &format!("{n} {event_type}"));
    }
    for (to, backlog) in delivery {
        row("delivery", &delivered(to, backlog));
    }
    for path in &outputs {
        row("log", path);
    }
    Ok(Code::Success)
}

fn logs(state: &StateDir, store: &Store, run: &Run, trace: bool, printer: &mut Printer) -> Result<Code, CommandError> {
    if run.state == RunState::Skipped {
        let what = if trace { "trace" } else { "log" };
        printer.note(format_args!("This run has no {what}: it was skipped."));
        return Ok(Code::Success);
    }
    let paths: Vec<_> = match trace {
        true => vec![state.trace(&run.run_id)],
        false => (1..=run.attempts).map(|attempt| state.output(&run.run_id, attempt)).collect(),
    };
    let mut found = false;
    for path in &paths {
        found |= copy(path, printer)?;
    }
    let lost = store.terminal(&run.run_id)?.map_or(0, |terminal| terminal.output_lost);
    if lost > 0 && !trace {
        printer.note(format_args!("{lost} bytes of this log were lost: the disk was full."));
    }
    if !found {
        printer.note(match trace {
            true => "This run has no trace: the job wrote none, or retention removed it.",
            false => "The log of this run no longer exists (removed by retention, or by another program).",
        });
    }
    Ok(Code::Success)
}

/// Prints a log's bytes, and says where some are missing; `false` if there is no log.
fn copy(path: &Path, printer: &mut Printer) -> Result<bool, CommandError> {
    let failed =
        |path: &Path, e: std::io::Error| CommandError::new(Code::Failed, format!("{} cannot be read: {e}", path.display()));
    let parts = log::parts(path).map_err(|e| failed(path, e))?;
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    for part in &parts {
        let mut file = match part.open() {
            Ok(file) => file,
            // Its run goes on, and has more by now: it is missing like those before it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(&part.path, e)),
        };
        if part.from > at {
            let missing = part.from - at;
            printer.note(format_args!("… {missing} bytes after byte {at} were not kept (logs.max): the end follows …"));
            at = part.from;
        }
        loop {
            match file.read(&mut buffer).map_err(|e| failed(&part.path, e))? {
                0 => break,
                n => {
                    printer.bytes(&buffer[..n]);
                    at += n as u64;
                }
            }
            if printer.is_broken() {
                return Ok(true);
            }
        }
    }
    Ok(!parts.is_empty())
}

fn stop(
    notices: &mut Notices<'_>,
    state: &StateDir,
    store: &mut Store,
    run: &Run,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    if run.state != RunState::Running {
        printer.line(format_args!("Run {} has already ended: {}", run.run_id, run.state.as_str()));
        return Ok(Code::Success);
    }
    let supervisor = run.supervisor();
    let failed =
        |what: &str, e: std::io::Error| CommandError::new(Code::Failed, format!("{what} process {}: {e}", run.supervisor_pid));
    if let Some(pidfd) = supervisor.open().map_err(|e| failed("cannot inspect", e))? {
        if ignored_by(run.supervisor_pid)(rustix::process::Signal::TERM.as_raw()) {
            let pid = run.supervisor_pid;
            return Err(CommandError::new(
                Code::Failed,
                format!("run {} ignores SIGTERM: it was started with the signal ignored", run.run_id),
            )
            .hint(format!("run kill -KILL {pid} to end it at once; the next lorchestra runs list records its end")));
        }
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::TERM)
            .or_else(|e| if e == rustix::io::Errno::SRCH { Ok(()) } else { Err(e) })
            .map_err(|e| failed("cannot signal", e.into()))?;
        // One that is stopped hears it only when it goes on.
        supervisor.resume_if_stopped().map_err(|e| failed("cannot resume", e))?;
    }
    let mut deadline = Instant::now() + STOPPING;
    let mut was_alive = true;
    loop {
        if was_alive && !run.is_supervised() {
            if worker_is_elsewhere(state, run) {
                return Err(elsewhere(run));
            }
            // Killed, now or between the look at the open runs and the one above: nobody but us ends the run.
            was_alive = false;
            deadline = Instant::now() + CLOSING;
            let mut closed = close_all_abandoned(state, store)?;
            let ours = closed.stuck.iter().position(|(run_id, _)| *run_id == run.run_id);
            let stuck = ours.map(|at| closed.stuck.swap_remove(at).1);
            super::report_recovered(&closed, notices, printer);
            if let Some(error) = stuck {
                return Err(error.into());
            }
        }
        let Some(now) = store.run(&run.run_id)? else {
            return Err(CommandError::new(Code::Failed, format!("run {} has ended, and retention has removed it", run.run_id)));
        };
        if now.state != RunState::Running {
            let why = now.cause.map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default();
            printer.good(format_args!("run {} has ended: {}{why}", run.run_id, now.state.as_str()));
            return Ok(Code::Success);
        }
        if Instant::now() >= deadline {
            let failure = CommandError::new(Code::Failed, format!("run {} was asked to stop and has not ended yet", run.run_id));
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

/// A run whose supervisor lives where this process cannot see it.
fn elsewhere(run: &Run) -> CommandError {
    let what =
        format!("run {} cannot be stopped from here: its supervisor lives in another PID namespace (a container)", run.run_id);
    CommandError::new(Code::Failed, what)
        .hint(format!(
            "its lock is held, but process {} of host {} is not visible from here",
            run.supervisor_pid,
            printable(&run.host)
        ))
        .hint(format!("run lorchestra runs stop {} where the run was started", run.run_id))
        .hint("or stop that container")
}

/// `1 at 2024-01-31T12:00:00Z, error after 0.31s: the message`
fn attempt_line(attempt: &Attempt) -> String {
    let took = attempt.ended_at.map(|ended| Duration::from_micros(u64::try_from(ended - attempt.started_at).unwrap_or(0)));
    let began = format!("{} at {}", attempt.attempt, show::time(attempt.started_at));
    match (took, attempt.cause) {
        (None, _) => format!("{began}, running"),
        (Some(took), None) => format!("{began}, completed after {}", show::elapsed(took)),
        (Some(took), Some(cause)) => {
            let message = attempt.message.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
            format!("{began}, {} after {}: {message}", cause.as_str(), show::elapsed(took))
        }
    }
}

/// What a run did to the bookmark; and where it left it, why.
fn bookmark(run: &Run, Moved { before, after }: Moved) -> String {
    match (before, after) {
        (before, Some(after)) => format!("{} → {}", before.map_or_else(|| "none".to_owned(), show::time), show::time(after)),
        (Some(before), None) => match run.since {
            Some(since) if since > before => {
                let (before, since) = (show::time(before), show::time(since));
                format!("stays at {before}: the time from there to the start of this run's window ({since}) is not covered")
            }
            _ => format!("stays at {}: this run did not get past it", show::time(before)),
        },
        (None, None) => "none".to_owned(),
    }
}

fn delivered(to: &DestinationConfig, backlog: Backlog) -> String {
    let Backlog { pending, refused, uncertain } = backlog;
    let parts: Vec<String> = [(pending, "pending"), (refused, "failed"), (uncertain, "uncertain")]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
    if parts.is_empty() { format!("all in {}", to.label()) } else { format!("{} to {}", parts.join(", "), to.label()) }
}

fn duration(run: &Run) -> Option<Duration> {
    Some(Duration::from_micros(u64::try_from(run.ended_at? - run.started_at).unwrap_or(0)))
}

fn object(schema: &str, run: &Run) -> Value {
    json!({
        "schema": schema,
        "run_id": run.run_id,
        "package": run.package,
        "job": run.job,
        "account": run.account,
        "state": run.state.as_str(),
        "cause": run.cause,
        "message": run.message,
        "job_result": run.job_result,
        "started_at": show::exact_time(run.started_at),
        "ended_at": run.ended_at.map(show::exact_time),
        "since": run.since.map(show::exact_time),
        "until": run.until.map(show::exact_time),
        "attempts": run.attempts,
        "plugin_path": run.plugin_path,
        "plugin_version": run.plugin_version,
        "plugin_sha256": run.plugin_sha256,
        "location": run.location,
        "host": run.host,
        "supervisor_pid": run.supervisor_pid,
    })
}
