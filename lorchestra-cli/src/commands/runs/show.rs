//! `runs show`: everything recorded about one run, from its outcome to its files, for people or as one JSON object.

use super::{duration, list, results};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::show;
use crate::wire::{ArtifactObject, AttemptObject, BookmarkMove, RunDetails, RunObject};
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::log;
use lorchestra_core::store::{Attempt, Backlog, Moved, Run, RunState, Store, Terminal, short_id};
use lorchestra_core::text::{self, printable};
use serde_json::{Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// Maximum number of attempts to show: the last ones.
const ATTEMPTS: usize = 20;
/// Maximum length of a line about a parameter or an attempt, in characters.
const LINE: usize = 120;
/// Width of the names before values.
const NAME: usize = 10;
/// Number of lines of output to show: the last ones.
const OUTPUT: usize = 5;
/// Number of bytes to read for them.
const TAIL: u64 = 8 << 10;

pub(super) fn show(
    (state, store): (&StateDir, &Store),
    (run, unclosed): (&Run, Option<&str>),
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
    // For a skipped run, the run that held the overlap lock.
    let held_by = if run.state == RunState::Skipped { Some(store.held_by(&run.run_id)?) } else { None };
    let outputs: Vec<String> = attempts
        .iter()
        .map(|attempt| state.output(&run.run_id, attempt.attempt))
        .chain([state.trace(&run.run_id)])
        .flat_map(|path| log::parts(&path).unwrap_or_default())
        .map(|part| part.path.display().to_string())
        .collect();
    if as_json {
        let terminal = store.terminal(&run.run_id)?;
        let spec: Value = serde_json::from_str(&run.spec_json).unwrap_or_default();
        let listed = store.artifacts(&run.run_id)?;
        let artifacts = listed.into_iter().map(|artifact| ArtifactObject {
            exists: Path::new(&artifact.path).exists(),
            path: artifact.path,
            bytes: artifact.bytes,
        });
        let backlog = |b: Backlog| json!({"pending": b.pending, "failed": b.refused, "uncertain": b.uncertain});
        printer.json(&RunDetails {
            schema: "lorchestra.runs-show/1",
            run: RunObject::of(run),
            unclosed: unclosed.map(str::to_owned),
            spec,
            events: counts.iter().cloned().collect(),
            attempts: attempts.iter().map(attempt_object).collect(),
            bookmark: run.bookmark.map(|Moved { before, after }| BookmarkMove {
                before: before.map(show::exact_time),
                after: after.map(show::exact_time),
            }),
            cpu_ms: terminal.as_ref().and_then(processor_time),
            max_rss_kib: terminal.as_ref().and_then(|terminal| terminal.max_rss_kib),
            result: terminal.as_ref().and_then(|terminal| terminal.result.clone()),
            counters: terminal.as_ref().map(|terminal| terminal.counters.clone()),
            progress: json!(terminal.as_ref().and_then(|terminal| terminal.progress)),
            artifacts: artifacts.collect(),
            logs: outputs,
            held_by: held_by.flatten(),
            delivery: match delivery.as_slice() {
                [] => None,
                all => Some(all.iter().map(|(to, left)| (to.name().to_owned(), backlog(*left))).collect()),
            },
        });
        return Ok(Code::Success);
    }
    // Indent the lines of a multi-line value, so that its text cannot look like another value.
    let indent = format!("\n{:NAME$} ", "");
    let mut row = |name: &str, value: &str| {
        printer.line(format!("{name:<NAME$} {}", printable(value).trim_end().replace('\n', &indent)).trim_end());
    };
    row("run", &format!("{} ({})", short_id(&run.run_id), run.run_id));
    let location = if run.location.is_empty() { String::new() } else { format!(" ({})", run.location) };
    row("job", &format!("{}/{}{location}", run.package, run.job));
    if let Some(account) = &run.account {
        row("account", &show::account(account));
    }
    row("state", list::state(run, unclosed));
    if let Some(why) = unclosed {
        row("unclosed", &list::unclosed(why));
    }
    if let Some(held_by) = held_by {
        row("held by", &held_by.map_or_else(|| "an unknown run".to_owned(), |held_by| format!("run {}", short_id(&held_by))));
    }
    if let Some(cause) = &run.cause {
        row("cause", cause.as_str());
    }
    if let Some(message) = &run.message {
        row("message", message);
    }
    if let Some(result) = &run.job_result {
        row("job result", result);
    }
    row("started", &format!("{} ({} ago)", show::time(run.started_at), show::age(now_micros(), run.started_at)));
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
            // A value may be a long text; --json shows all of it.
            row("parameter", &text::shortened(&printable(&format!("{name} = {value}")), LINE - NAME - 3));
        }
    }
    row("attempts", &run.attempts.to_string());
    for attempt in attempts.iter().skip(attempts.len().saturating_sub(ATTEMPTS)) {
        for line in timeline(attempt) {
            row("", &text::shortened(&printable(&line), LINE - NAME - 3));
        }
    }
    if let Some(terminal) = store.terminal(&run.run_id)?
        && let Some(used) = used(&terminal)
    {
        row("used", &used);
    }
    for (name, value) in results::rows(store, run)? {
        row(name, &text::shortened(&printable(&value), LINE - NAME - 3));
    }
    for (event_type, n) in &counts {
        row("events", &format!("{n} {event_type}"));
    }
    for (to, backlog) in delivery {
        row("delivery", &delivered(to, backlog));
    }
    if !run.plugin_path.is_empty() {
        row("plugin", &format!("{} {}", run.plugin_version, run.plugin_path));
        row("sha256", &run.plugin_sha256);
    }
    row("host", &format!("{} (supervisor pid {})", run.host, run.supervisor_pid));
    for path in &outputs {
        row("log", path);
    }
    let last = last_lines(state, run);
    for (n, line) in last.iter().enumerate() {
        row(if n == 0 { "output" } else { "" }, line);
    }
    Ok(Code::Success)
}

fn attempt_object(attempt: &Attempt) -> AttemptObject {
    AttemptObject {
        attempt: attempt.attempt,
        started_at: show::exact_time(attempt.started_at),
        ended_at: attempt.ended_at.map(show::exact_time),
        worker_pid: attempt.worker_pid,
        cause: attempt.cause,
        message: attempt.message.clone(),
    }
}

/// Formats when an attempt started and how it ended, one line each.
fn timeline(attempt: &Attempt) -> Vec<String> {
    let Attempt { attempt: n, started_at, ended_at, worker_pid, .. } = attempt;
    let worker = worker_pid.map(|pid| format!(" (worker pid {pid})")).unwrap_or_default();
    let mut lines = vec![format!("{}  attempt {n} started{worker}", show::time(*started_at))];
    if let Some(ended) = *ended_at {
        let took = show::elapsed(Duration::from_micros(u64::try_from(ended - started_at).unwrap_or(0)));
        let message = attempt.message.as_deref().map(text::first_line).unwrap_or_default();
        lines.push(match attempt.cause {
            None => format!("{}  attempt {n} completed after {took}", show::time(ended)),
            Some(cause) => format!("{}  attempt {n} failed ({}) after {took}: {message}", show::time(ended), cause.as_str()),
        });
    }
    lines
}

/// In milliseconds.
fn processor_time(terminal: &Terminal) -> Option<u64> {
    Some(terminal.user_ms? + terminal.system_ms?)
}

/// `1.25s of processor time, at most 34 MiB of memory`, without what is not known.
fn used(terminal: &Terminal) -> Option<String> {
    let time = processor_time(terminal).map(|ms| format!("{} of processor time", show::elapsed(Duration::from_millis(ms))));
    let memory = terminal.max_rss_kib.map(|kib| format!("at most {} MiB of memory", kib.div_ceil(1024)));
    let parts: Vec<String> = time.into_iter().chain(memory).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The last lines that the last attempt printed.
fn last_lines(state: &StateDir, run: &Run) -> Vec<String> {
    let parts = log::parts(&state.output(&run.run_id, run.attempts)).unwrap_or_default();
    let Some(mut file) = parts.last().and_then(|part| part.open().ok()) else { return Vec::new() };
    let len = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    let tail = file.seek(SeekFrom::Start(len.saturating_sub(TAIL))).and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    if tail.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(text::one_line).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(OUTPUT)..].iter().map(|line| text::shortened(line, LINE - NAME - 3)).collect()
}

/// Describes a run's effect on the bookmark and, if the bookmark stays, why.
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
