//! The check of `doctor` for what runs have left although they are over: processes and spools. `--fix` removes it.

use super::Finding;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::show::counted;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::recovery::Closed;
use lorchestra_core::run::recovery::leftovers::{Leftovers, remove_every_unrecorded, remove_spool_of};
use lorchestra_core::store::{Store, short_id};
use lorchestra_core::text::{path_text, shell};

/// Maximum number of processes or directories to name.
const NAMED: usize = 3;
const CHECK: &str = "leftovers";
const RECURS: &str = "nothing to do; if it recurs, find out what kills lorchestra (journalctl -k shows the OOM killer)";

/// What recovery has done, as every command does, before this check.
pub(super) struct Recovery<'a> {
    pub(super) state: &'a StateDir,
    /// What there was before.
    pub(super) before: Leftovers,
    pub(super) closed: &'a Closed,
    /// Whether to remove the rest.
    pub(super) fix: bool,
}

/// Reports what recovery has removed and what is still there.
pub(super) fn report(
    recovery: &Recovery<'_>,
    mut store: Option<&mut Store>,
    findings: &mut Vec<Finding>,
) -> Result<(), CommandError> {
    let Recovery { state, before, closed, fix } = recovery;
    let mut left = Leftovers::find(state, store.as_deref())?;
    let removed = before.spools().saturating_sub(left.spools());
    let done: Vec<String> = [(closed.killed, "process", "processes", "killed"), (removed, "spool", "spools", "removed")]
        .into_iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, one, many, verb)| format!("{n} {} {verb}", if n == 1 { format!("{one} was") } else { format!("{many} were") }))
        .collect();
    if !done.is_empty() {
        findings.push(Finding::warning(CHECK, format!("left by runs that are over: {}", done.join(", ")), RECURS));
    }
    if *fix && !left.is_empty() {
        let killed = left.kill(state);
        remove_every_unrecorded(state, store.as_deref_mut())?;
        for run_id in &left.ended {
            // What fails is reported below.
            let _ = remove_spool_of(state, run_id);
        }
        let now = Leftovers::find(state, store.as_deref())?;
        let removed = left.spools().saturating_sub(now.spools());
        if killed > 0 {
            findings.push(Finding::fixed(CHECK, format!("killed {}: {}", processes(killed), named(&left))));
        }
        if removed > 0 {
            findings.push(Finding::fixed(CHECK, format!("removed {} of runs that are over", counted(removed, "spool"))));
        }
        left = now;
    }
    if !left.processes.is_empty() {
        let n = left.processes.len();
        let cause =
            format!("{} of runs that are over still {}: {}", processes(n), if n == 1 { "runs" } else { "run" }, named(&left));
        let pids: Vec<String> = left.processes.iter().take(NAMED).map(|process| process.pid.to_string()).collect();
        findings.push(Finding::warning(CHECK, cause, fix_of(*fix, &format!("kill -KILL {}", pids.join(" ")), "kills them")));
    }
    if !left.unrecorded.is_empty() {
        let n = left.unrecorded.len();
        let cause = format!("{} of runs that were never recorded in {}", counted(n, "spool"), path_text(&state.spools()));
        let typed = shell(&state.run_spool(&left.unrecorded[0]));
        findings.push(Finding::warning(CHECK, cause, fix_of(*fix, &format!("ls -la {typed}"), "removes them")));
    }
    // Recovery has tried already.
    for run_id in left.ended.iter().take(NAMED) {
        let path = state.run_spool(run_id);
        let Err(error) = remove_spool_of(state, run_id) else { continue };
        let message = format!("cannot remove the spool of run {}, which has ended", short_id(run_id));
        let found = Finding::of(CHECK, &CommandError::refused(Code::NotWritable, &message, &path, &error));
        let fix = found.fix.unwrap_or_else(|| format!("remove it as its owner: rm -r {}", shell(&path)));
        findings.push(Finding::warning(CHECK, found.cause, fix));
    }
    Ok(())
}

/// What to do: `--fix`, or another command if that was not enough.
fn fix_of(tried: bool, otherwise: &str, does: &str) -> String {
    if tried { format!("--fix could not do it; see: {otherwise}") } else { format!("run lorchestra doctor --fix, which {does}") }
}

fn processes(n: usize) -> String {
    format!("{n} {}", if n == 1 { "process" } else { "processes" })
}

/// Names some of the processes.
fn named(left: &Leftovers) -> String {
    let mut names: Vec<String> = left
        .processes
        .iter()
        .take(NAMED)
        .map(|process| format!("{} ({}) of run {}", process.pid, process.name, short_id(&process.run_id)))
        .collect();
    if left.processes.len() > NAMED {
        names.push(format!("{} more", left.processes.len() - NAMED));
    }
    names.join(", ")
}
