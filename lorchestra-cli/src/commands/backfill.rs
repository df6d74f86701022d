//! `backfill`: runs a job for every window of a time range, and for every account or other value. `plan` makes the members, `drive` runs a
//! stored group with the terminal attached, `libraries` finds what a resumed group runs with, `show` lists groups, `bookmarks` moves the
//! bookmarks of accounts that are complete.

mod bookmarks;
pub(super) mod drive;
pub(super) mod engine;
mod libraries;
mod plan;
mod show;

use super::named_group::find;
use super::{history, named_group};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show::counted;
use crate::values;
use crate::wire::{GroupLine, GroupObject};
use clap::{Args, Subcommand};
use drive::DriveFlags;
use engine::EngineFlags;
use lorchestra_core::group::plan_file;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::plan::every::Every;
use lorchestra_core::store::Store;
use lorchestra_core::store::group::{EngineName, Group, GroupEngine, GroupSettings, NewGroup, Selection};
use std::ffi::OsString;
use std::time::Duration;

/// The kind of these groups in the store.
pub(super) const KIND: &str = named_group::BACKFILL;

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra backfill ingester/extract_gmail --from 2024-01-01 --to today --every 1d --dry-run
  lorchestra backfill ingester/extract_gmail --from 2024-01-01 --to 2025-01-01 \\
      --every 1mo --account anna --account bert -j 4
  lorchestra backfill resume last --only failed
  lorchestra backfill list";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Backfill {
    #[command(subcommand)]
    pub(crate) action: Option<BackfillAction>,

    #[command(flatten)]
    pub(crate) flags: BackfillFlags,

    /// Package name, or PACKAGE/JOB
    #[arg(required = true, add = clap_complete::engine::ArgValueCompleter::new(crate::complete::packages_or_pairs))]
    pub(crate) package: Option<String>,

    /// Job name
    #[arg(required = true, add = clap_complete::engine::ArgValueCompleter::new(crate::complete::jobs))]
    pub(crate) job: Option<String>,

    /// Flags of the job (see `lorchestra backfill PACKAGE JOB --help`); repeat --account to run every window for several
    // Only for the help: `argv::cut` removes them before clap parses the rest.
    #[arg(value_name = "JOB FLAGS")]
    pub(crate) rest: Vec<OsString>,
}

impl Backfill {
    /// Whether it only shows or cancels groups.
    pub(super) fn needs_only_history(&self) -> bool {
        !matches!(self.action, None | Some(BackfillAction::Resume { .. }))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackfillAction {
    /// Run the windows that failed or have not run
    #[command(
        before_help = "Examples:\n  lorchestra backfill resume last\n  lorchestra backfill resume 7c41d03f --only failed -j 2"
    )]
    Resume {
        /// Group: id, short id, start or end of an id, or `last`
        #[arg(add = clap_complete::engine::ArgValueCompleter::new(crate::complete::backfills))]
        group: String,
        /// Run only the windows that failed, or only those that have not run (missing)
        #[arg(long, value_name = "STATE", value_parser = ["failed", "missing"])]
        only: Option<String>,
        /// Maximum number of windows that run at once, also in later resumes [default: as before]
        #[arg(short, long, value_name = "N", value_parser = crate::values::number::<u32>(1..=1000))]
        jobs: Option<u32>,
        /// Start no more windows after this many have failed, also in later resumes [default: as before]
        #[arg(long, value_name = "N", value_parser = crate::values::number::<u32>(1..))]
        max_failures: Option<u32>,
        /// With an engine: submit the windows and do not wait for them
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        drive: DriveFlags,
    },
    /// List backfills, newest first
    #[command(before_help = "Examples:\n  lorchestra backfill list\n  lorchestra backfill list --json")]
    List {
        /// Maximum number of backfills to show
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = crate::values::number::<u64>(1..))]
        limit: u64,
        /// Print one JSON object per line (schema lorchestra.group/1)
        #[arg(long)]
        json: bool,
    },
    /// Show a backfill and the windows that have not completed
    #[command(before_help = "Examples:\n  lorchestra backfill show last\n  lorchestra backfill show 7c41d03f --json")]
    Show {
        /// Group: id, short id, start or end of an id, or `last`
        #[arg(add = clap_complete::engine::ArgValueCompleter::new(crate::complete::backfills))]
        group: String,
        /// Print one JSON object with every window (schema lorchestra.group-show/1)
        #[arg(long)]
        json: bool,
    },
    /// Stop a backfill and its running windows
    #[command(before_help = "Example:\n  lorchestra backfill cancel 7c41d03f")]
    Cancel {
        /// Group: id, short id, start or end of an id, or `last`
        #[arg(add = clap_complete::engine::ArgValueCompleter::new(crate::complete::backfills))]
        group: String,
    },
}

/// Flags of `backfill PACKAGE JOB`, accepted before PACKAGE and after JOB.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct BackfillFlags {
    /// Start of the first window, e.g. 2024-01-01; with -30d, which begins at the time of day, each call has other windows
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// End of the last window (exclusive), e.g. 2025-01-01, today
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Length of a window: 6h, 1d, 1w, 1mo, 1y, counted from --from
    #[arg(long, value_name = "LENGTH")]
    pub(crate) every: Option<Every>,
    /// Run every window once for each of these values of a parameter (repeat for all combinations of several parameters)
    #[arg(long, value_name = "NAME=VALUE,…")]
    pub(crate) matrix: Vec<String>,
    /// Maximum number of windows that run at once [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = crate::values::number::<u32>(1..=1000))]
    pub(crate) jobs: Option<u32>,
    /// Start the oldest or the newest windows first
    #[arg(long, value_name = "ORDER", value_parser = ["oldest", "newest"], default_value = "oldest")]
    pub(crate) order: String,
    /// Start no more windows after this many have failed [default: run all]
    #[arg(long, value_name = "N", value_parser = crate::values::number::<u32>(1..))]
    pub(crate) max_failures: Option<u32>,
    /// Skip the time that completed runs with the same parameters cover, and merge adjacent windows into one run
    #[arg(long)]
    pub(crate) merge: bool,
    /// Once all windows of an account have completed, move its bookmark as one run from --from to --to would
    #[arg(long)]
    pub(crate) move_bookmark: bool,

    /// Stop an attempt that runs longer than this, e.g. 90s, 30m, 2h
    #[arg(long, value_parser = values::limit, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,
    /// Wait this long after SIGTERM before killing the job [default: 10s]
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,
    /// Retry up to N times after a failure, crash or timeout (never after a permanent error) [default: 0]
    #[arg(long, value_parser = values::retries(), value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Limit the memory of each of the job's processes, e.g. 512M, 2G
    #[arg(long, value_parser = values::memory, value_name = "SIZE")]
    pub(crate) memory_max: Option<u64>,
    /// Set a job parameter by name, for example if a flag of this command has the same name (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,
    #[command(flatten)]
    pub(crate) drive: DriveFlags,
    #[command(flatten)]
    pub(crate) engine: EngineFlags,
    /// Write the windows to a plan file for `run-window`, and start nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "jobs", "order", "max_failures", "move_bookmark", "engine", "shared", "engine_flag", "node_state", "detach", "require_delivery", "delivery_timeout", "locked", "json"])]
    pub(crate) plan: Option<std::path::PathBuf>,
    /// Print the windows and start nothing (with --json: one object per window, schema lorchestra.backfill-window/1)
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(super) fn run(
    command: &Backfill,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    match &command.action {
        None => start(command, settings, notices, printer),
        Some(BackfillAction::Resume { group, only, jobs, max_failures, detach, drive }) => {
            let mut group = named(settings, notices, printer, group)?;
            group.settings.parallel = jobs.unwrap_or(group.settings.parallel);
            group.settings.max_failures = max_failures.or(group.settings.max_failures);
            match &group.settings.engine {
                Some(engine) => {
                    may_stop(engine, *max_failures)?;
                    if drive.locked || drive.require_delivery || drive.delivery_timeout.is_some() {
                        let message = "--locked, --require-delivery and --delivery-timeout are those of the start";
                        return Err(
                            CommandError::new(Code::Usage, format!("{message}: the group runs on an engine")).hint("omit them")
                        );
                    }
                }
                None if *detach => {
                    return Err(CommandError::new(Code::Usage, "--detach is for a group on an engine").hint("omit it"));
                }
                None => {}
            }
            let selection = match only.as_deref() {
                Some("missing") => Selection { failed: false, missing: true },
                Some(_) => Selection { failed: true, missing: false },
                None => Selection::ALL,
            };
            let plan = drive::Resume { selection, is_new: false };
            run_group(&group, plan, (drive, *detach), settings, (notices, printer))
        }
        Some(BackfillAction::List { limit, json }) => {
            let history = history(settings, notices, printer)?;
            show::list(history.as_ref(), *limit, *json, printer)
        }
        Some(BackfillAction::Show { group, json }) => {
            let (state, mut store) = known(settings, notices, printer)?;
            let group = find(&store, group)?;
            show::show((&state, &mut store), &group, (settings, *json), printer)
        }
        Some(BackfillAction::Cancel { group }) => {
            let (state, mut store) = known(settings, notices, printer)?;
            let group = find(&store, group)?;
            show::cancel((&state, &mut store), &group, settings, printer)
        }
    }
}

fn start(
    command: &Backfill,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let planned = match plan::plan(command, settings, notices, printer)? {
        Ok(planned) => planned,
        Err(code) => return Ok(code),
    };
    let plan::PlannedBackfill { name, flags, members, covered, range, library } = planned;
    if flags.dry_run {
        flags.engine.check()?;
        plan::print(&members, flags.drive.json, printer);
        return Ok(Code::Success);
    }
    if members.is_empty() {
        if flags.move_bookmark {
            bookmarks::move_covered((command, &covered, None), (range, flags.drive.quiet), settings, printer)?;
        }
        print_nothing(name, &flags, printer)?;
        return Ok(Code::Success);
    }
    if let Some(path) = &flags.plan {
        let group_id = members[0].spec.group.clone().unwrap_or_default();
        let planned: Vec<_> = members.into_iter().map(plan::BackfillMember::planned).collect();
        plan_file::write(path, &group_id, &name, &planned).map_err(CommandError::plan_not_written)?;
        let id = lorchestra_core::store::short_id(&group_id);
        printer.note(format_args!("{}: {} (group {id})", path.display(), counted(planned.len(), "window")));
        return Ok(Code::Success);
    }
    let engine = flags.engine.resolve(settings, window_flags(&flags, settings))?;
    if engine.is_some() && flags.order == "newest" {
        return Err(CommandError::new(
            Code::Usage,
            "--order newest needs --engine local: an engine starts windows in its own order",
        )
        .hint("omit --order"));
    }
    if let Some(engine) = &engine {
        may_stop(engine, flags.max_failures)?;
        if flags.drive.require_delivery && settings.destinations.is_empty() {
            return Err(CommandError::new(Code::Usage, "--require-delivery needs a destination, and none is configured")
                .hint("add [destinations.bigquery] or [destinations.jsonl] to config.toml"));
        }
    }
    let group = NewGroup {
        group_id: members[0].spec.group.clone().unwrap_or_default(),
        kind: KIND.into(),
        name,
        created_at: now_micros(),
        settings: GroupSettings {
            parallel: parallel(&flags, engine.is_some()),
            newest_first: flags.order == "newest",
            max_failures: flags.max_failures,
            keep_going: true,
            moves_bookmark: flags.move_bookmark.then_some(range),
            engine,
            file: None,
        },
        members: members.iter().map(plan::BackfillMember::stored).collect(),
    };
    if flags.move_bookmark && !covered.is_empty() {
        let accounts = (command, &*covered, Some(&*group.group_id));
        bookmarks::move_covered(accounts, (range, flags.drive.quiet), settings, printer)?;
    }
    let state = StateDir::open(&settings.state_dir)?;
    let mut store = Store::open(&state)?;
    store.create_group(&group)?;
    let group = find(&store, &group.group_id)?;
    drop((store, library));
    let plan = drive::Resume { selection: Selection::ALL, is_new: true };
    run_group(&group, plan, (&flags.drive, flags.engine.detach), settings, (notices, printer))
}

/// Prints that there is nothing to run, and so no group.
fn print_nothing(name: String, flags: &BackfillFlags, printer: &mut Printer) -> Result<(), CommandError> {
    let engine = flags.engine.check()?.map(|(name, _)| name);
    if flags.drive.json {
        let group = GroupObject::nothing(name, (parallel(flags, engine.is_some()), flags.max_failures), engine);
        printer.json(&GroupLine { schema: "lorchestra.group/1", group });
    } else if !flags.drive.quiet {
        let plan = if flags.plan.is_some() { ", and no plan was written" } else { "" };
        printer.note(format_args!("Nothing to do: completed runs cover every window{plan}."));
    }
    Ok(())
}

/// Returns how many windows run at once.
fn parallel(flags: &BackfillFlags, is_on_engine: bool) -> u32 {
    flags.jobs.unwrap_or_else(|| if is_on_engine { engine::PARALLEL } else { processors() })
}

/// Refuses a limit of failures on an engine that cannot keep it.
fn may_stop(engine: &GroupEngine, max_failures: Option<u32>) -> Result<(), CommandError> {
    if max_failures.is_some() && engine.name == EngineName::Temporal {
        return Err(CommandError::new(Code::Usage, "--max-failures is not for --engine temporal: it would end windows that run")
            .hint("omit it; lorchestra backfill cancel stops the group"));
    }
    Ok(())
}

/// Runs a stored group where it belongs.
fn run_group(
    group: &Group,
    plan: drive::Resume,
    (flags, detach): (&DriveFlags, bool),
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Code, CommandError> {
    match &group.settings.engine {
        Some(engine) => engine::drive((group, engine), plan, (flags, detach), settings, (notices, printer)),
        None => drive::drive(group, plan, flags, settings, (notices, printer)),
    }
}

/// Returns the flags that `run-window` gets on each node.
fn window_flags(flags: &BackfillFlags, settings: &Settings) -> Vec<String> {
    let mut words = Vec::new();
    // Without a destination, the events stay in the stores of the nodes.
    if settings.destinations.is_empty() {
        words.push("--no-require-delivery".to_owned());
    }
    if let Some(timeout) = flags.drive.delivery_timeout {
        words.push(format!("--delivery-timeout={}", lorchestra_core::plan::duration::show(timeout)));
    }
    if flags.drive.locked {
        words.push("--locked".to_owned());
    }
    words
}

pub(super) fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Returns the history; an error if there is none.
fn known(settings: &Settings, notices: &mut Notices<'_>, printer: &mut Printer) -> Result<(StateDir, Store), CommandError> {
    history(settings, notices, printer)?
        .ok_or_else(|| CommandError::new(Code::Failed, "there are no groups yet").hint("lorchestra backfill --help"))
}

fn named(settings: &Settings, notices: &mut Notices<'_>, printer: &mut Printer, text: &str) -> Result<Group, CommandError> {
    let (_, store) = known(settings, notices, printer)?;
    find(&store, text)
}
