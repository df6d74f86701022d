//! Groups of runs as objects: what `backfill` and `run-group` print.

use super::JsonSchema;
use crate::show::exact_time;
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::RunSpec;
use lorchestra_core::store::group::{EngineName, Group, GroupCounts, GroupSettings, MemberState};
use lorchestra_core::store::short_id;
use serde::Serialize;

/// A group, as `backfill --json`, `backfill list --json` and `run-group --json` print it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GroupLine {
    #[schemars(extend("const" = "lorchestra.group/1"))]
    pub(crate) schema: &'static str,
    #[serde(flatten)]
    pub(crate) group: GroupObject,
}

/// A group with its windows, as `backfill show --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GroupDetails {
    #[schemars(extend("const" = "lorchestra.group-show/1"))]
    pub(crate) schema: &'static str,
    #[serde(flatten)]
    pub(crate) group: GroupObject,
    /// Every window (for `run-group`: every job), in the order of the group.
    pub(crate) windows: Vec<WindowObject>,
}

/// What is known of every group.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GroupObject {
    /// Null if there is no group: `backfill --merge` had nothing to run.
    pub(crate) group_id: Option<String>,
    /// The end of the id, which all commands print and accept.
    pub(crate) short_id: Option<String>,
    #[schemars(extend("enum" = ["backfill", "run-group"]))]
    pub(crate) kind: String,
    /// What it runs: PACKAGE/JOB, or the name of the group file.
    pub(crate) name: String,
    /// `failed`: all have ended, or failures have stopped it. `interrupted`: some have not run, for another reason.
    #[schemars(extend("enum" = ["completed", "running", "cancelled", "interrupted", "failed"]))]
    pub(crate) state: &'static str,
    pub(crate) created_at: Option<String>,
    /// When it was cancelled; null if it was not, or has been resumed since.
    pub(crate) cancelled_at: Option<String>,
    /// Number of members: windows, or jobs.
    pub(crate) members: u64,
    pub(crate) completed: u64,
    /// Failed or refused.
    pub(crate) failed: u64,
    /// Not run because another run of the job and account was running, and the overlap policy is `skip`.
    pub(crate) skipped: u64,
    pub(crate) running: u64,
    /// Not started yet.
    pub(crate) pending: u64,
    /// Maximum number of members that run at once.
    pub(crate) parallel: u32,
    #[schemars(extend("enum" = ["local", "slurm", "temporal"]))]
    pub(crate) engine: &'static str,
    /// After how many failures no more members are started; null for no limit.
    pub(crate) max_failures: Option<u32>,
}

impl GroupObject {
    /// `failures`: number of members that failed on their own, not because they were cancelled. `is_driven`: whether a command runs the group
    /// now, or an engine.
    pub(crate) fn of(group: &Group, counts: GroupCounts, failures: u64, is_driven: bool) -> Self {
        let GroupSettings { max_failures, keep_going, .. } = group.settings;
        let stops_itself = failures > 0 && !keep_going || max_failures.is_some_and(|most| failures >= u64::from(most));
        Self {
            group_id: Some(group.group_id.clone()),
            short_id: Some(short_id(&group.group_id).to_owned()),
            kind: group.kind.clone(),
            name: group.name.clone(),
            state: match () {
                () if counts.of(MemberState::Completed) + counts.of(MemberState::Skipped) == counts.all() => "completed",
                () if is_driven => "running",
                () if group.cancelled_at.is_some() => "cancelled",
                () if stops_itself => "failed",
                () if counts.of(MemberState::Pending) + counts.of(MemberState::Running) > 0 => "interrupted",
                () => "failed",
            },
            created_at: Some(exact_time(group.created_at)),
            cancelled_at: group.cancelled_at.map(exact_time),
            members: counts.all(),
            completed: counts.of(MemberState::Completed),
            failed: counts.failed(),
            skipped: counts.of(MemberState::Skipped),
            running: counts.of(MemberState::Running),
            pending: counts.of(MemberState::Pending),
            parallel: group.settings.parallel,
            engine: engine_name(group.settings.engine.as_ref().map(|engine| engine.name)),
            max_failures: group.settings.max_failures,
        }
    }

    /// A backfill of a job that has nothing to run, and so is no group.
    pub(crate) fn nothing(name: String, (parallel, max_failures): (u32, Option<u32>), engine: Option<EngineName>) -> Self {
        Self {
            group_id: None,
            short_id: None,
            kind: "backfill".to_owned(),
            name,
            state: "completed",
            created_at: None,
            cancelled_at: None,
            members: 0,
            completed: 0,
            failed: 0,
            skipped: 0,
            running: 0,
            pending: 0,
            parallel,
            engine: engine_name(engine),
            max_failures,
        }
    }
}

fn engine_name(engine: Option<EngineName>) -> &'static str {
    engine.map_or("local", EngineName::as_str)
}

/// A window of a backfill, or a job of a group file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WindowObject {
    /// Its place in the group, from 0.
    pub(crate) place: u32,
    pub(crate) label: String,
    #[schemars(extend("enum" = ["pending", "running", "completed", "failed", "skipped", "refused"]))]
    pub(crate) state: &'static str,
    /// Its attempt, from 1; for a pending window, the next one.
    pub(crate) attempt: u32,
    /// Its newest run; for a window that has never run, the id that its run will have.
    pub(crate) run_id: String,
    /// The run outside the group that completed it after its own run had failed; null if its own run did.
    pub(crate) completed_by: Option<String>,
    /// Why it failed or was refused; for a pending window, why its last attempt did.
    pub(crate) cause: Option<Cause>,
    /// The cause for people.
    pub(crate) message: Option<String>,
}

/// A window that a backfill would run, as `backfill --dry-run --json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BackfillWindow {
    #[schemars(extend("const" = "lorchestra.backfill-window/1"))]
    pub(crate) schema: &'static str,
    /// Its place in the backfill, from 0.
    pub(crate) place: u32,
    pub(crate) label: String,
    pub(crate) spec: RunSpec,
}
