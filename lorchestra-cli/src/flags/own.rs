//! Flags that are not the job's: of run-job itself, before PACKAGE or after JOB, and of every command.

use crate::values;
use clap::Args;
use lorchestra_core::plan::{OnOverlap, RequestedBy, spec};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Flags of every command.
#[derive(Debug, Default, Args)]
pub(crate) struct GlobalFlags {
    /// Search only this directory for plugins (repeatable)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) plugin_dir: Vec<PathBuf>,

    /// Tell more on standard error, also what the job traces; twice: debug, three times: trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Flags of run-job itself: accepted before PACKAGE and after JOB. Each takes the place of the same one before it.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct OwnFlags {
    /// End the job after this long, e.g. 90s, 30m, 2h; with --retries, each attempt
    #[arg(long, overrides_with = "timeout", value_parser = values::limit, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,

    /// How long the job has to end when it is told to, before it is killed [default: 10s]
    #[arg(long, overrides_with = "grace", value_parser = values::duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,

    /// When the same job runs already for the same account: fail, skip, wait, wait=DURATION or allow [default: fail]
    #[arg(long, overrides_with = "on_overlap", value_name = "WHAT")]
    pub(crate) on_overlap: Option<OnOverlap>,

    /// Try the job again up to so often when it fails, crashes or times out, but not after a permanent error [default: 0]
    #[arg(long, overrides_with = "retries", value_parser = values::retries(), value_name = "N")]
    pub(crate) retries: Option<u32>,

    /// The memory that each process of the job may have, e.g. 512M, 2G
    #[arg(long, overrides_with = "memory_max", value_parser = values::memory, value_name = "SIZE")]
    pub(crate) memory_max: Option<u64>,

    /// Exit with 69 if the run's events are not at every destination in time, and do not start the job without credentials
    #[arg(long, overrides_with = "require_delivery")]
    pub(crate) require_delivery: bool,

    /// How long to wait, after the job, for the delivery of its last events; 0s: not at all [default: 10s]
    #[arg(long, overrides_with = "delivery_timeout", value_parser = values::duration, value_name = "DURATION")]
    pub(crate) delivery_timeout: Option<Duration>,

    /// A parameter by its name, whatever flags there are (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,

    /// Id of the run; if a run of this id has ended before, report its outcome and start nothing
    #[arg(long, overrides_with = "run_id", value_name = "UUID")]
    pub(crate) run_id: Option<Uuid>,

    /// Name of the group that the run belongs to
    #[arg(long, overrides_with = "group", value_parser = spec::group, value_name = "NAME")]
    pub(crate) group: Option<String>,

    /// W3C trace context of the caller [default: the variable TRACEPARENT]
    #[arg(long, overrides_with = "trace_parent", value_parser = spec::trace_parent, value_name = "TRACEPARENT")]
    pub(crate) trace_parent: Option<String>,

    /// Who asks for the run: command-line, schedule, rerun:RUN or engine:NAME [default: command-line]
    #[arg(long, overrides_with = "requested_by", value_name = "WHO")]
    pub(crate) requested_by: Option<RequestedBy>,

    /// Run only the bytes that plugins.lock names
    #[arg(long, overrides_with = "locked")]
    pub(crate) locked: bool,

    /// Check the parameters and print the plan, with --json as a spec that --spec runs; start nothing
    #[arg(long, overrides_with = "dry_run")]
    pub(crate) dry_run: bool,

    /// One JSON object about the run (schema lorchestra.run-job/1)
    #[arg(long, overrides_with = "json")]
    pub(crate) json: bool,

    /// Print nothing when the job succeeds but what --json asks for
    #[arg(short, long, overrides_with = "quiet")]
    pub(crate) quiet: bool,
}

impl OwnFlags {
    /// These and `later` ones, which win where both say something.
    pub(crate) fn merged(&self, later: Self) -> Self {
        Self {
            timeout: later.timeout.or(self.timeout),
            grace: later.grace.or(self.grace),
            on_overlap: later.on_overlap.or(self.on_overlap),
            retries: later.retries.or(self.retries),
            memory_max: later.memory_max.or(self.memory_max),
            require_delivery: self.require_delivery || later.require_delivery,
            delivery_timeout: later.delivery_timeout.or(self.delivery_timeout),
            param: self.param.iter().cloned().chain(later.param).collect(),
            run_id: later.run_id.or(self.run_id),
            group: later.group.or_else(|| self.group.clone()),
            trace_parent: later.trace_parent.or_else(|| self.trace_parent.clone()),
            requested_by: later.requested_by.or_else(|| self.requested_by.clone()),
            locked: self.locked || later.locked,
            dry_run: self.dry_run || later.dry_run,
            json: self.json || later.json,
            quiet: self.quiet || later.quiet,
        }
    }
}
