//! Flags other than the job's: those of run-job itself, before PACKAGE or after JOB, and global flags.

use crate::values;
use clap::Args;
use lorchestra_core::plan::{OnOverlap, RequestedBy, spec};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Heading of these flags in every help text.
const GLOBAL: &str = "Global options";

/// Flags of every command.
#[derive(Debug, Default, Args)]
pub(crate) struct GlobalFlags {
    /// Search only this directory for plugins (repeatable)
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL)]
    pub(crate) plugin_dir: Vec<PathBuf>,

    /// Read this configuration file instead of the default one (with run-job: before PACKAGE)
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) config: Option<PathBuf>,

    /// Print more to stderr, including the job's trace (repeat for debug, trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub(crate) verbose: u8,
}

impl GlobalFlags {
    /// Returns them as words of a command line.
    pub(crate) fn as_words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        for dir in &self.plugin_dir {
            words.extend(["--plugin-dir".into(), dir.clone().into_os_string()]);
        }
        if let Some(config) = &self.config {
            words.extend(["--config".into(), config.clone().into_os_string()]);
        }
        words.extend((0..self.verbose).map(|_| "--verbose".into()));
        words
    }
}

/// Flags of run-job itself, accepted before PACKAGE and after JOB. A later one overrides an earlier one.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct OwnFlags {
    /// Stop an attempt that runs longer than this, e.g. 90s, 30m, 2h
    #[arg(long, overrides_with = "timeout", value_parser = values::limit, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,

    /// Wait this long after SIGTERM before killing the job [default: 10s]
    #[arg(long, overrides_with = "grace", value_parser = values::duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,

    /// What to do when this job is already running for the same account: fail, skip, wait, wait=DURATION or allow [default: fail]
    #[arg(long, overrides_with = "on_overlap", value_name = "POLICY")]
    pub(crate) on_overlap: Option<OnOverlap>,

    /// Retry up to N times after a failure, crash or timeout (never after a permanent error) [default: 0]
    #[arg(long, overrides_with = "retries", value_parser = values::retries(), value_name = "N")]
    pub(crate) retries: Option<u32>,

    /// Limit the memory of each of the job's processes, e.g. 512M, 2G
    #[arg(long, overrides_with = "memory_max", value_parser = values::memory, value_name = "SIZE")]
    pub(crate) memory_max: Option<u64>,

    /// Exit with 69 unless every destination has received the run's events in time; do not start the job without credentials
    #[arg(long, overrides_with = "require_delivery")]
    pub(crate) require_delivery: bool,

    /// Wait up to this long for the last events to be delivered (0s: do not wait) [default: 10s]
    #[arg(long, overrides_with = "delivery_timeout", value_parser = values::duration, value_name = "DURATION")]
    pub(crate) delivery_timeout: Option<Duration>,

    /// Set a job parameter by name, for example if a flag of this command has the same name (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,

    /// Use this run id; if a run with this id has already ended, report its outcome and start nothing
    #[arg(long, overrides_with = "run_id", value_parser = values::run_id, value_name = "UUID")]
    pub(crate) run_id: Option<Uuid>,

    /// Add the run to this group
    #[arg(long, overrides_with = "group", value_parser = spec::group, value_name = "NAME")]
    pub(crate) group: Option<String>,

    /// W3C trace context of the caller [default: $TRACEPARENT]
    #[arg(long, overrides_with = "trace_parent", value_parser = spec::trace_parent, value_name = "TRACEPARENT")]
    pub(crate) trace_parent: Option<String>,

    /// Record who requested the run: command-line, schedule, rerun:RUN or engine:NAME [default: command-line]
    #[arg(long, overrides_with = "requested_by", value_name = "WHO")]
    pub(crate) requested_by: Option<RequestedBy>,

    /// Refuse a library whose bytes differ from plugins.lock
    #[arg(long, overrides_with = "locked")]
    pub(crate) locked: bool,

    /// Check the parameters and print the plan without starting the job (with --json: a spec for --spec)
    #[arg(long, overrides_with = "dry_run")]
    pub(crate) dry_run: bool,

    /// When the run ends, print the output of its last attempt to stderr
    #[arg(long, overrides_with = "show_output")]
    pub(crate) show_output: bool,

    /// Print one JSON object about the run (schema lorchestra.run-job/1)
    #[arg(long, overrides_with = "json")]
    pub(crate) json: bool,

    /// Print nothing on success, except what --json prints
    #[arg(short, long, overrides_with = "quiet")]
    pub(crate) quiet: bool,
}

impl OwnFlags {
    /// Merges these flags with `later` ones, which take precedence.
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
            show_output: self.show_output || later.show_output,
            json: self.json || later.json,
            quiet: self.quiet || later.quiet,
        }
    }
}
