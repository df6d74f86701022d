//! Interrupts the members of a group that lanes of other processes run: those of a killed process continue until their runs end.

use crate::store::group::{Group, MemberState};
use crate::store::{Run, RunQuery, RunState, Store, StoreError};
use rustix::process::{Signal, pidfd_send_signal};
use std::collections::HashSet;

/// The runs of a group's members that are running.
#[derive(Debug, Default)]
pub struct Interrupted {
    /// Whether there are any.
    pub any: bool,
    /// The ids of those whose supervisors have received the signal.
    pub reached: HashSet<String>,
}

/// Sends a signal to the supervisor of each running member of a group, except to those of the runs `skip`. Returns before they have ended.
/// Runs that only have the spec of a member (`runs rerun`) are not touched.
///
/// # Errors
/// If the store fails.
pub fn interrupt(store: &Store, group: &Group, signal: Signal, skip: &HashSet<String>) -> Result<Interrupted, StoreError> {
    let members = store.members(group.n, MemberState::Running, u64::MAX)?;
    let ids: HashSet<&str> = members.iter().map(|member| member.run_id.as_str()).collect();
    let running = RunQuery { group: Some(group.group_id.clone()), state: Some(RunState::Running), ..RunQuery::default() };
    let mut found = Interrupted::default();
    for run in store.find_runs(&running, u64::MAX)?.into_iter().filter(|run| ids.contains(run.run_id.as_str())) {
        found.any = true;
        if !skip.contains(&run.run_id) && send(&run, signal) {
            found.reached.insert(run.run_id);
        }
    }
    Ok(found)
}

/// Returns whether the supervisor of a run has received the signal. It does not if it has ended, or is not visible from here.
fn send(run: &Run, signal: Signal) -> bool {
    let supervisor = run.supervisor();
    let Ok(Some(pidfd)) = supervisor.open() else { return false };
    let is_sent = pidfd_send_signal(pidfd, signal).is_ok();
    // A stopped process handles the signal only after it is resumed.
    let _ = supervisor.resume_if_stopped();
    is_sent
}
