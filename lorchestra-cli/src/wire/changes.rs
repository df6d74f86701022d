//! What commands that change something print: `runs prune`, `runs stop`, `events flush`, `events setup`, `bookmarks set` and `reset`.

use super::JsonSchema;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::retention::Pruned;
use serde::Serialize;

/// What `runs prune --json` has removed.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct PruneObject {
    #[schemars(extend("const" = "lorchestra.runs-prune/1"))]
    pub(crate) schema: &'static str,
    /// Whether nothing was removed, but only counted.
    pub(crate) dry_run: bool,
    /// Removed runs, with all their events. With --max-size and --dry-run an estimate.
    pub(crate) runs: u64,
    /// Removed log directories, including those of removed runs.
    pub(crate) logs: u64,
    /// Runs whose payloads were removed; null if they were not counted.
    pub(crate) payloads: Option<u64>,
    /// Removed backfills and groups of `run-group`, with the states of their members.
    pub(crate) groups: u64,
    /// Those of `groups` with members that have not completed: `backfill resume` could have run them again.
    pub(crate) resumable_groups: u64,
    /// Runs that are old enough but stay, because a destination has not received all of their events.
    pub(crate) undelivered: u64,
    /// Runs of the job that are running and therefore stay; null without --job.
    pub(crate) running: Option<u64>,
    /// Bytes in use afterwards; null without --max-size.
    pub(crate) used_bytes: Option<u64>,
}

impl PruneObject {
    /// Sets what was removed.
    pub(crate) fn count(&mut self, pruned: Pruned) {
        let Pruned { runs, logs, payloads, groups } = pruned;
        (self.groups, self.resumable_groups) = (groups.groups, groups.resumable);
        (self.runs, self.logs, self.payloads) = (runs as u64, logs as u64, Some(payloads as u64));
    }
}

/// The run that `runs stop --json` stopped.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StopObject {
    #[schemars(extend("const" = "lorchestra.runs-stop/1"))]
    pub(crate) schema: &'static str,
    pub(crate) run_id: String,
    /// The end of the id, which all commands print and accept.
    pub(crate) short_id: String,
    /// How the run ended.
    pub(crate) state: &'static str,
    /// Why the run failed; null if it did not.
    pub(crate) cause: Option<Cause>,
    /// Whether the run had ended before this command.
    pub(crate) had_ended: bool,
}

/// A delivery to one destination, as `events flush --json` prints it.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct FlushObject {
    #[schemars(extend("const" = "lorchestra.events-flush/1"))]
    pub(crate) schema: &'static str,
    pub(crate) destination: String,
    /// Events that were delivered.
    pub(crate) delivered: u64,
    /// Events that the destination refused now.
    pub(crate) refused: u64,
    /// Events that became uncertain now: they may have arrived.
    pub(crate) uncertain: u64,
    /// All events that the destination has refused: `events list --failed`.
    pub(crate) all_refused: u64,
    /// All events that may have arrived: `events list --uncertain`.
    pub(crate) all_uncertain: u64,
    /// Events that are not delivered yet; 10001 if there are more than 10000.
    pub(crate) pending: u64,
    /// Why delivery stopped; null if nothing was pending at the end.
    pub(crate) stopped: Option<String>,
}

/// A destination that `events setup --json` prepared.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SetupObject {
    #[schemars(extend("const" = "lorchestra.events-setup/1"))]
    pub(crate) schema: &'static str,
    pub(crate) destination: &'static str,
    /// The table, directory or URL.
    pub(crate) target: String,
    /// Whether nothing was created and tested.
    pub(crate) dry_run: bool,
    /// What was created, or would be.
    pub(crate) steps: Vec<String>,
    /// The test event that was written to the table and read back; null if there was none.
    pub(crate) event_id: Option<String>,
}

/// A bookmark that `bookmarks set --json` or `bookmarks reset --json` changed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BookmarkChange {
    #[schemars(extend("const" = "lorchestra.bookmark-change/1"))]
    pub(crate) schema: &'static str,
    pub(crate) package: String,
    pub(crate) job: String,
    pub(crate) account: Option<String>,
    /// Where it was; null if there was none.
    pub(crate) before: Option<String>,
    /// Where it is now; null if it was removed.
    pub(crate) at: Option<String>,
}
