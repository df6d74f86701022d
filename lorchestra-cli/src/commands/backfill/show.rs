//! `backfill list`, `show`, `cancel`: what groups there are, which members have not completed, and an end to one that runs.

use super::KIND;
use super::drive::object;
use super::engine;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use lorchestra_core::group::drive::Driver;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::recovery::close_abandoned;
use lorchestra_core::store::group::{Group, GroupCounts, MemberState};
use lorchestra_core::store::{RunQuery, RunState, Store, short_id};
use lorchestra_core::text::{self, escaped};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// Number of members that `show` lists in each state.
const LISTED: u64 = 20;
/// How long `cancel` waits for the runs to end.
const STOPPING: Duration = Duration::from_secs(60);
/// Interval between looks.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn list(
    history: Option<&(StateDir, Store)>,
    limit: u64,
    as_json: bool,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let groups = match history {
        Some((_, store)) => store.groups(KIND, limit)?,
        None => Vec::new(),
    };
    let Some((state, store)) = history.filter(|_| !groups.is_empty()) else {
        if !as_json {
            printer.note("No backfills yet.");
        }
        return Ok(Code::Success);
    };
    if !as_json {
        printer.line("GROUP      AGE  STATE        DONE         FAILED  JOB");
    }
    let now = now_micros();
    for group in &groups {
        let counts = store.group_counts(group.n)?;
        if as_json {
            printer.json(&described(
                state_of(state, group, counts, on_engine(group, counts))?,
                group,
                counts,
                "lorchestra.group/1",
            ));
            continue;
        }
        let done = format!("{}/{}", counts.of(MemberState::Completed), counts.all());
        let (id, age, state) = (
            short_id(&group.group_id),
            show::age(now, group.created_at),
            state_of(state, group, counts, on_engine(group, counts))?,
        );
        printer.line(format_args!(
            "{id:<8}  {age:>4}  {state:<11}  {done:<11}  {:>6}  {}",
            counts.failed(),
            escaped(&group.name)
        ));
    }
    Ok(Code::Success)
}

/// Whether an engine runs windows, as far as the last command found out.
fn on_engine(group: &Group, counts: GroupCounts) -> bool {
    group.settings.engine.is_some() && counts.of(MemberState::Running) > 0
}

/// Returns the state of a group: what people ask first.
fn state_of(state: &StateDir, group: &Group, counts: GroupCounts, on_engine: bool) -> Result<&'static str, CommandError> {
    Ok(match () {
        () if counts.of(MemberState::Completed) == counts.all() => "completed",
        () if on_engine || Driver::is_driven(state, &group.group_id)? => "running",
        () if group.cancelled_at.is_some() => "cancelled",
        () if counts.of(MemberState::Pending) + counts.of(MemberState::Running) > 0 => "interrupted",
        () => "failed",
    })
}

fn described(state: &'static str, group: &Group, counts: GroupCounts, schema: &str) -> Value {
    let mut described = object(group, counts, schema);
    if let Some(object) = described.as_object_mut() {
        object.insert("state".into(), state.into());
    }
    described
}

pub(in crate::commands) fn show(
    (state, store): (&StateDir, &mut Store),
    group: &Group,
    (settings, as_json): (&Settings, bool),
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let mut active = false;
    let mut messages = BTreeMap::new();
    if let Some(engine) = &group.settings.engine {
        match engine::refresh((group, engine), store, settings) {
            Ok(found) => (active, messages) = found,
            Err(failure) => printer.warning(format_args!("this is the state at the last command: {}", failure.message)),
        }
    }
    let counts = store.group_counts(group.n)?;
    let group_state = state_of(state, group, counts, active)?;
    if as_json {
        let mut members = Vec::new();
        for of in MemberState::ALL {
            for member in store.members(group.n, of, u64::MAX)? {
                members.push(json!({
                    "place": member.place,
                    "label": member.label,
                    "state": member.state,
                    "attempt": member.attempt,
                    "run_id": member.run_id,
                }));
            }
        }
        members.sort_by_key(|member| member["place"].as_u64());
        let mut described = described(group_state, group, counts, "lorchestra.group-show/1");
        if let Some(object) = described.as_object_mut() {
            object.insert("windows".into(), members.into());
        }
        printer.json(&described);
        return Ok(Code::Success);
    }
    printer.line(format_args!("{} {} ({})", group.kind, short_id(&group.group_id), group_state));
    printer.line(format_args!("  job: {}", escaped(&group.name)));
    printer.line(format_args!("  created: {}", show::time(group.created_at)));
    if let Some(engine) = &group.settings.engine {
        printer.line(format_args!("  engine: {} (shared directory {})", engine.name, escaped(&engine.shared)));
    }
    let counted: Vec<String> = MemberState::ALL
        .into_iter()
        .filter(|of| counts.of(*of) > 0)
        .map(|of| format!("{} {}", counts.of(of), of.as_str()))
        .collect();
    printer.line(format_args!("  windows: {} ({})", counts.all(), counted.join(", ")));
    for of in MemberState::ALL.into_iter().filter(|of| *of != MemberState::Completed) {
        let members = store.members(group.n, of, LISTED)?;
        for member in &members {
            let run = if of == MemberState::Pending { None } else { store.run(&member.run_id)? };
            let why = run.as_ref().and_then(crate::commands::runs::why).or_else(|| messages.get(&member.place).cloned());
            let why = why.unwrap_or_default();
            let id = run.map(|run| format!("run {}  ", short_id(&run.run_id))).unwrap_or_default();
            let line = format!("  {:<9}  {}  {id}{}", of.as_str(), member.label, text::one_line(&why));
            printer.line(escaped(line.trim_end()));
        }
        let more = counts.of(of).saturating_sub(members.len() as u64);
        if more > 0 {
            printer.line(format_args!("  {:<9}  and {more} more", of.as_str()));
        }
    }
    Ok(Code::Success)
}

pub(super) fn cancel(
    (state, store): (&StateDir, &mut Store),
    group: &Group,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let id = short_id(&group.group_id);
    let counts = store.group_counts(group.n)?;
    if counts.of(MemberState::Pending) + counts.of(MemberState::Running) == 0 {
        printer.line(format_args!("Group {id} has already ended"));
        return Ok(Code::Success);
    }
    store.cancel_group(group.n, now_micros())?;
    if let Some(engine) = &group.settings.engine {
        engine::cancel((group, engine), store, settings)?;
        return cancelled(group, store, printer);
    }
    let until = Instant::now() + STOPPING;
    let mut signalled = HashSet::new();
    let running = RunQuery { group: Some(group.group_id.clone()), state: Some(RunState::Running), ..RunQuery::default() };
    loop {
        close_abandoned(state)?;
        let runs = store.find_runs(&running, u64::MAX)?;
        if runs.is_empty() && !Driver::is_driven(state, &group.group_id)? {
            break;
        }
        for run in runs {
            if signalled.contains(&run.run_id) {
                continue;
            }
            if let Ok(Some(pidfd)) = run.supervisor().open() {
                // Fails only if it has ended since.
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::TERM);
            }
            signalled.insert(run.run_id);
        }
        if Instant::now() > until {
            let what = format!("group {id} is cancelled, but some of its runs have not ended after {}", show::elapsed(STOPPING));
            return Err(
                CommandError::new(Code::Failed, what).hint(format!("lorchestra runs list --running --group {}", group.group_id))
            );
        }
        std::thread::sleep(LOOK);
    }
    cancelled(group, store, printer)
}

fn cancelled(group: &Group, store: &Store, printer: &mut Printer) -> Result<Code, CommandError> {
    let id = short_id(&group.group_id);
    let counts = store.group_counts(group.n)?;
    let (completed, all) = (counts.of(MemberState::Completed), counts.all());
    printer.good(format_args!("group {id} is cancelled: {completed} of {all} windows have completed"));
    printer.note(format_args!("  lorchestra backfill resume {id}"));
    Ok(Code::Success)
}
