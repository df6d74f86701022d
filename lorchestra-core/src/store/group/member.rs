//! A member of a group: its state, its run ids, and how many members are in each state.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// State of a member: that of its run, or pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "documented at RunState")]
pub enum MemberState {
    /// It has not run, or its next attempt has not started.
    Pending,
    Running,
    Completed,
    Failed,
    Skipped,
    Refused,
}

impl MemberState {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Skipped, Self::Refused];

    /// The state as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
        }
    }

    /// Whether the member failed. One that was skipped did not: its overlap policy asked for that.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Refused)
    }

    /// Whether the member has ended without success, so that it can run again.
    pub fn can_retry(self) -> bool {
        self.is_failure() || self == Self::Skipped
    }

    pub(super) fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == name).unwrap_or(Self::Failed)
    }
}

/// A member of a group, without its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its place in the group, from 0.
    pub place: u32,
    /// Its stage, from 0.
    pub stage: u32,
    /// Its name in the group.
    pub label: String,
    /// Its attempt, from 1.
    pub attempt: u32,
    /// The id of the run of this attempt, which may not have started.
    pub run_id: String,
    /// Its state.
    pub state: MemberState,
    /// The run outside the group that completed it after its own run had failed.
    pub completed_by: Option<String>,
}

impl Member {
    /// Whether it has ended without success. Its next attempt may have been given to a process that was killed before the run began.
    pub fn has_failed(&self) -> bool {
        self.state.can_retry() || self.state == MemberState::Pending && self.attempt > 1
    }
}

/// Which members of a group run now. None of them has completed or is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Those that have failed, were skipped, or were refused.
    pub failed: bool,
    /// Those that have never run.
    pub missing: bool,
}

impl Selection {
    /// All that have not completed.
    pub const ALL: Self = Self { failed: true, missing: true };

    /// Whether a member that is not running and has not completed is one of them.
    pub fn has(self, member: &Member) -> bool {
        if member.has_failed() { self.failed } else { self.missing }
    }
}

/// Number of members in each state, in the order of [`MemberState::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupCounts(pub(super) [u64; MemberState::ALL.len()]);

impl GroupCounts {
    /// The number of members in a state.
    pub fn of(self, state: MemberState) -> u64 {
        self.0[state as usize]
    }

    /// The number of members that failed.
    pub fn failed(self) -> u64 {
        MemberState::ALL.into_iter().filter(|state| state.is_failure()).map(|state| self.of(state)).sum()
    }

    /// The number of members.
    pub fn all(self) -> u64 {
        self.0.iter().sum()
    }
}

/// Returns the id of the run of a member's attempt: a UUIDv8 of a hash, the same on every host.
pub fn member_run_id(group_id: &str, place: u32, attempt: &str) -> Uuid {
    let hash = Sha256::digest(format!("lorchestra member 1 {group_id} {place} {attempt}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

pub(super) fn run_id(group_id: &str, place: u32, attempt: u32) -> String {
    member_run_id(group_id, place, &attempt.to_string()).to_string()
}
