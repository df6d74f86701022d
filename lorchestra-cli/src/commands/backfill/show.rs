//! `backfill list`, `show`, `cancel`: what groups there are, which members have not completed, and an end to one that runs.

use super::drive::noun;
use super::engine::WindowReason;
use super::{KIND, engine};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use crate::wire::{GroupDetails, GroupLine, GroupObject, WindowObject};
use lorchestra_core::group::drive::Driver;
use lorchestra_core::group::interrupt::interrupt;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::plan::RunSpec;
use lorchestra_core::run::recovery::close_abandoned;
use lorchestra_core::store::group::{Group, GroupCounts, Member, MemberState, member_run_id};
use lorchestra_core::store::{Run, RunQuery, RunState, Store, short_id};
use lorchestra_core::text::{self, escaped};
use rustix::process::Signal;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// Number of members that `show` lists in each state.
const LISTED: usize = 20;
/// Number of refused runs of a group to search for the reasons of its members.
const REFUSED: u64 = 1000;
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
            printer.json(&GroupLine { schema: "lorchestra.group/1", group: object((state, store), group, counts)? });
            continue;
        }
        let done = format!("{}/{}", counts.of(MemberState::Completed), counts.all());
        let (id, age, state) =
            (short_id(&group.group_id), show::age(now, group.created_at), object((state, store), group, counts)?.state);
        printer.line(format_args!(
            "{id:<8}  {age:>4}  {state:<11}  {done:<11}  {:>6}  {}",
            counts.failed(),
            escaped(&group.name)
        ));
    }
    Ok(Code::Success)
}

fn object((state, store): (&StateDir, &Store), group: &Group, counts: GroupCounts) -> Result<GroupObject, CommandError> {
    // As far as the last command found out.
    let on_engine = group.settings.engine.is_some() && counts.of(MemberState::Running) > 0;
    let failures = store.group_failures(group.n)?;
    Ok(GroupObject::of(group, counts, failures, on_engine || Driver::is_driven(state, &group.group_id)?))
}

/// The runs of a group that explain its members.
struct Reasons<'a> {
    store: &'a Store,
    /// Refused runs, newest first, each with its spec. They have ids of their own, because a refused run can be started again with the same
    /// id; its spec is that of the member.
    refused: Vec<(RunSpec, Run)>,
}

impl<'a> Reasons<'a> {
    fn of(store: &'a Store, group: &Group, counts: GroupCounts) -> Result<Self, CommandError> {
        let query = RunQuery { group: Some(group.group_id.clone()), state: Some(RunState::Refused), ..RunQuery::default() };
        let has_refused = counts.of(MemberState::Refused) + counts.of(MemberState::Pending) > 0;
        let runs = if has_refused { store.find_runs(&query, REFUSED)? } else { Vec::new() };
        let refused = runs.into_iter().filter_map(|run| Some((without_library(run.spec().ok()?), run)));
        Ok(Self { store, refused: refused.collect() })
    }

    /// Returns the run of a member; `None` if it has not started.
    fn run(&self, group: &Group, member: &Member) -> Result<Option<Run>, CommandError> {
        match member.state {
            MemberState::Pending if member.attempt == 1 => Ok(None),
            MemberState::Pending => {
                // A process was killed after it had started the attempt, and before the run began.
                let before = member_run_id(&group.group_id, member.place, &(member.attempt - 1).to_string()).to_string();
                match self.store.run(&before)? {
                    Some(run) => Ok(Some(run)),
                    None => self.refused(group, member),
                }
            }
            MemberState::Refused => self.refused(group, member),
            _ => Ok(self.store.run(&member.run_id)?),
        }
    }

    fn refused(&self, group: &Group, member: &Member) -> Result<Option<Run>, CommandError> {
        let text = self.store.member_spec(group.n, member.place)?.unwrap_or_default();
        let spec = RunSpec::from_json(text.as_bytes()).ok().map(without_library);
        Ok(self.refused.iter().find(|(of, _)| Some(of) == spec.as_ref()).map(|(_, run)| run.clone()))
    }
}

/// A spec without its library, which a resume may have changed since the run.
fn without_library(mut spec: RunSpec) -> RunSpec {
    (spec.version, spec.sha256) = (String::new(), None);
    spec
}

pub(in crate::commands) fn show(
    (state, store): (&StateDir, &mut Store),
    group: &Group,
    (settings, as_json): (&Settings, bool),
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let mut reasons_there = BTreeMap::new();
    if let Some(engine) = &group.settings.engine {
        match engine::refresh((group, engine), store, settings) {
            Ok(found) => reasons_there = found,
            Err(failure) => printer.warning(format_args!("this is the state at the last command: {}", failure.message)),
        }
    }
    let store = &*store;
    let counts = store.group_counts(group.n)?;
    let reasons = Reasons::of(store, group, counts)?;
    if as_json {
        let mut windows = Vec::new();
        for of in MemberState::ALL {
            for member in store.members(group.n, of, u64::MAX)? {
                let run = if member.has_failed() { reasons.run(group, &member)? } else { None };
                let there = reasons_there.remove(&member.place);
                windows.push(WindowObject {
                    place: member.place,
                    label: member.label,
                    state: of.as_str(),
                    attempt: member.attempt,
                    cause: run.as_ref().and_then(|run| run.cause).or(there.as_ref().and_then(|there| there.cause)),
                    message: run.as_ref().and_then(|run| run.message.clone()).or(there.map(|there| there.message)),
                    run_id: run.map_or(member.run_id, |run| run.run_id),
                    completed_by: member.completed_by,
                });
            }
        }
        windows.sort_by_key(|window| window.place);
        let group = object((state, store), group, counts)?;
        printer.json(&GroupDetails { schema: "lorchestra.group-show/1", group, windows });
        return Ok(Code::Success);
    }
    printer.line(format_args!("{} {} ({})", group.kind, short_id(&group.group_id), object((state, store), group, counts)?.state));
    printer.line(format_args!("  job: {}", escaped(&group.name)));
    printer.line(format_args!("  created: {}", show::time(group.created_at)));
    if let Some(engine) = &group.settings.engine {
        printer.line(format_args!("  engine: {} (shared directory {})", engine.name.as_str(), escaped(&engine.shared)));
    }
    let counted: Vec<String> = MemberState::ALL
        .into_iter()
        .filter(|of| counts.of(*of) > 0)
        .map(|of| format!("{} {}", counts.of(of), of.as_str()))
        .collect();
    printer.line(format_args!("  {}s: {} ({})", noun(group), counts.all(), counted.join(", ")));
    for of in MemberState::ALL.into_iter().filter(|of| *of != MemberState::Completed) {
        let members = store.members(group.n, of, LISTED as u64)?;
        for member in &members {
            let run = reasons.run(group, member)?;
            let there = || reasons_there.get(&member.place).map(WindowReason::to_string);
            let why = run.as_ref().and_then(crate::commands::runs::why).or_else(there);
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
    let elsewhere = store.members_completed_elsewhere(group.n)?;
    for member in elsewhere.iter().take(LISTED) {
        let by = short_id(member.completed_by.as_deref().unwrap_or_default());
        printer.line(escaped(&format!("  completed  {}  by run {by}, after its own run had failed", member.label)));
    }
    let more = elsewhere.len().saturating_sub(LISTED);
    if more > 0 {
        printer.line(format_args!("  completed  and {more} more by other runs"));
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
    // A command that drives it may be about to run failed members again.
    let is_open = counts.of(MemberState::Pending) + counts.of(MemberState::Running) > 0;
    if !is_open && !Driver::is_driven(state, &group.group_id)? {
        printer.line(format_args!("Group {id} has already ended"));
        return Ok(Code::Success);
    }
    store.cancel_group(group.n, now_micros())?;
    if let Some(engine) = &group.settings.engine {
        engine::cancel((group, engine), (state, store), settings)?;
        return cancelled(group, store, printer);
    }
    let until = Instant::now() + STOPPING;
    let mut signalled = HashSet::new();
    loop {
        close_abandoned(state)?;
        let running = interrupt(store, group, Signal::TERM, &signalled)?;
        if !running.any && !Driver::is_driven(state, &group.group_id)? {
            break;
        }
        signalled.extend(running.reached);
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
    let (of, have) = (show::counted(all, noun(group)), if all == 1 { "has" } else { "have" });
    printer.good(format_args!("group {id} is cancelled: {completed} of {of} {have} completed"));
    printer.note(format_args!("  lorchestra backfill resume {id}"));
    Ok(Code::Success)
}
