//! The command line: validated, nothing more. Nothing here reads files, environment or clock.

use crate::argv;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::plan::{OnOverlap, RequestedBy, size, spec};
use lorchestra_core::text;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

const EXAMPLES: &str = "Examples:
  lorchestra jobs list
  lorchestra jobs show ingester extract_gmail
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since -7d
  lorchestra runs list";

const RUN_EXAMPLES: &str = "Examples:
  lorchestra run-job ingester extract_gmail --help
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since -7d
  lorchestra run-job --dry-run ingester extract_gmail --source ~/takeout.mbox
  lorchestra run-job -q --timeout 30m canonizer canonicalize_email
  lorchestra run-job --spec spec.json";

const BOOKMARK_EXAMPLES: &str = "Examples:
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since last:-30d
  lorchestra bookmarks show
  lorchestra bookmarks set ingester extract_gmail 2024-01-31
  lorchestra bookmarks reset ingester extract_gmail";

const BOOKMARK_RULE: &str = "There is one for each package, job and account. A run that succeeds moves it to its until, or to where its job \
says that it came; nothing else does but set and reset. A run moves it forward only, and only if it began at the bookmark or \
before it: what lies before a bookmark is done, all of it. So neither a backfill nor a run that leaves a gap moves it.";

/// Lists, shows and runs the jobs of plugin libraries, and keeps what happened.
#[derive(Debug, Parser)]
#[command(name = "lorchestra", version, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Search only this directory for plugins (repeatable)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) plugin_dir: Vec<PathBuf>,

    /// Tell more on standard error, also what the job traces; twice: debug, three times: trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What there is to run
    #[command(subcommand, before_help = "Examples:\n  lorchestra jobs list\n  lorchestra jobs show ingester extract_gmail")]
    Jobs(Jobs),
    /// Run one job
    #[command(before_help = RUN_EXAMPLES)]
    RunJob(Box<RunJob>),
    /// What was run
    #[command(
        subcommand,
        before_help = "Examples:\n  lorchestra runs list\n  lorchestra runs show 019ab\n  lorchestra runs logs 019ab"
    )]
    Runs(Runs),
    /// The plugin libraries themselves
    #[command(
        subcommand,
        before_help = "Examples:\n  lorchestra plugins check target/release/libingester.so\n  lorchestra plugins install target/release/libingester.so\n  lorchestra plugins list"
    )]
    Plugins(Plugins),
    /// What was emitted
    #[command(subcommand, before_help = "Example:\n  lorchestra events list --since -1d --type job.failed")]
    Events(Events),
    /// Up to where jobs have done their work: what `--since last` begins at
    #[command(subcommand, before_help = BOOKMARK_EXAMPLES, after_help = BOOKMARK_RULE)]
    Bookmarks(Bookmarks),
    /// Make a new job package: a crate that builds, tests and runs as it is
    #[command(before_help = "Examples:\n  lorchestra new words\n  lorchestra new words --dir ~/packages/words")]
    New {
        /// The package's name: [a-z][a-z0-9_-]*, at most 64 characters
        name: String,
        /// The directory to make, or an empty one [default: NAME]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The lorchestra-plugin-api it depends on: its directory, or that of a checkout [default: the one that this lorchestra was built
        /// with, if it is still there, or the registry's]
        #[arg(long, value_name = "PATH")]
        api: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List all packages and their jobs, or those of one package
    #[command(before_help = "Examples:\n  lorchestra jobs list\n  lorchestra jobs list ingester\n  lorchestra jobs list --json")]
    List {
        /// Only this package
        package: Option<String>,
        /// One JSON object (schema lorchestra.jobs-list/1)
        #[arg(long)]
        json: bool,
    },
    /// Show a job: where it is, what it takes, what it does
    #[command(before_help = "Example:\n  lorchestra jobs show ingester extract_gmail")]
    Show {
        /// The package
        package: String,
        /// The job
        job: String,
        /// One JSON object (schema lorchestra.jobs-show/1)
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ClapArgs)]
#[command(disable_help_flag = true)]
pub(crate) struct RunJob {
    #[command(flatten)]
    pub(crate) own: OwnFlags,

    /// Print help; after PACKAGE and JOB, that of the job
    // Not clap's own: that would answer for run-job where the job was asked for.
    #[arg(short, long, overrides_with = "help")]
    pub(crate) help: bool,

    /// Run a spec, as `--dry-run --json` prints it, from a file or `-` (standard input), instead of PACKAGE and JOB
    #[arg(long, value_name = "FILE", conflicts_with_all = ["package", "timeout", "grace", "on_overlap", "retries", "memory_max", "param", "group", "trace_parent", "requested_by"])]
    pub(crate) spec: Option<PathBuf>,

    /// The package
    #[arg(required_unless_present_any = ["help", "spec"])]
    pub(crate) package: Option<String>,

    /// The job
    #[arg(required_unless_present_any = ["help", "spec"])]
    pub(crate) job: Option<String>,

    /// The job's own flags: `lorchestra run-job PACKAGE JOB --help` lists them
    // Here for the help only: [`argv::cut`] takes them off before clap reads the rest.
    #[arg(value_name = "JOB FLAGS")]
    pub(crate) rest: Vec<OsString>,
}

/// Flags of run-job itself: accepted before PACKAGE and after JOB. Each takes the place of the same one before it.
#[derive(Debug, Default, Clone, ClapArgs)]
pub(crate) struct OwnFlags {
    /// End the job after this long, e.g. 90s, 30m, 2h; with --retries, each attempt
    #[arg(long, overrides_with = "timeout", value_parser = limit, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,

    /// How long the job has to end when it is told to, before it is killed [default: 10s]
    #[arg(long, overrides_with = "grace", value_parser = duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,

    /// When the same job runs already for the same account: fail, skip, wait, wait=DURATION or allow [default: fail]
    #[arg(long, overrides_with = "on_overlap", value_name = "WHAT")]
    pub(crate) on_overlap: Option<OnOverlap>,

    /// Try the job again up to so often when it fails, crashes or times out, but not after a permanent error [default: 0]
    #[arg(long, overrides_with = "retries", value_parser = retries(), value_name = "N")]
    pub(crate) retries: Option<u32>,

    /// The memory that each process of the job may have, e.g. 512M, 2G
    #[arg(long, overrides_with = "memory_max", value_parser = memory, value_name = "SIZE")]
    pub(crate) memory_max: Option<u64>,

    /// Exit with 69 if the run's events are not at every destination in time, and do not start the job without credentials
    #[arg(long, overrides_with = "require_delivery")]
    pub(crate) require_delivery: bool,

    /// How long to wait, after the job, for the delivery of its last events; 0s: not at all [default: 10s]
    #[arg(long, overrides_with = "delivery_timeout", value_parser = duration, value_name = "DURATION")]
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

#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest first
    #[command(
        before_help = "Examples:\n  lorchestra runs list\n  lorchestra runs list --running\n  lorchestra runs list --limit 100 --json"
    )]
    List {
        /// Only those that are running
        #[arg(long)]
        running: bool,
        /// At most so many
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// One JSON object a line (schema lorchestra.run/1)
        #[arg(long)]
        json: bool,
    },
    /// Show a run: its parameters, how it ended, what it emitted, where its logs are
    #[command(before_help = "Example:\n  lorchestra runs show 019ab")]
    Show {
        /// Id of the run, or enough of its beginning or end
        run: String,
        /// One JSON object (schema lorchestra.runs-show/1)
        #[arg(long)]
        json: bool,
        /// Print only the run's spec, which `run-job --spec` runs again
        #[arg(long, conflicts_with = "json")]
        spec: bool,
    },
    /// Print what a job printed, byte for byte
    #[command(before_help = "Examples:\n  lorchestra runs logs 019ab\n  lorchestra runs logs 019ab --trace")]
    Logs {
        /// Id of the run, or enough of its beginning or end
        run: String,
        /// What the job traced instead, one JSON object a line
        #[arg(long)]
        trace: bool,
    },
    /// Tell a running job to end, and wait for it
    #[command(before_help = "Example:\n  lorchestra runs stop 019ab")]
    Stop {
        /// Id of the run, or enough of its beginning or end
        run: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plugins {
    /// List every library file: whether it can be used, and why not
    #[command(before_help = "Examples:\n  lorchestra plugins list\n  lorchestra plugins list --json")]
    List {
        /// One JSON object (schema lorchestra.plugins-list/1)
        #[arg(long)]
        json: bool,
    },
    /// Tell all about a library before it is installed: loads it, in a process of its own that is thrown away
    #[command(
        before_help = "Examples:\n  lorchestra plugins check target/release/libingester.so\n  lorchestra plugins check --json libingester.so"
    )]
    Check {
        /// The library
        file: PathBuf,
        /// How long it has to load [default: 10s]
        #[arg(long, value_parser = limit, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// One JSON object (schema lorchestra.plugins-check/1)
        #[arg(long)]
        json: bool,
    },
    /// Copy libraries into the plugin directory, each in the place of the file that held its package
    #[command(
        before_help = "Examples:\n  lorchestra plugins install target/release/libingester.so\n  lorchestra --plugin-dir /opt/lorchestra/plugins plugins install libingester.so"
    )]
    Install {
        /// The libraries
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object (schema lorchestra.plugins-install/1)
        #[arg(long)]
        json: bool,
    },
    /// Remove the file that holds a package; what its jobs made and what is known of its runs stays
    #[command(before_help = "Example:\n  lorchestra plugins remove ingester")]
    Remove {
        /// The package
        package: String,
        /// One JSON object (schema lorchestra.plugins-remove/1)
        #[arg(long)]
        json: bool,
    },
    /// Write plugins.lock: with `locked = true` or --locked only the bytes that are there now will run
    #[command(before_help = "Examples:\n  lorchestra plugins lock\n  lorchestra plugins lock ingester")]
    Lock {
        /// Only these packages; the others stay as they are in the file
        packages: Vec<String>,
        /// One JSON object (schema lorchestra.plugins-lock/1)
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// List events, oldest first
    #[command(
        before_help = "Examples:\n  lorchestra events list --since -1d --type job.failed\n  lorchestra events list --run 019ab --payload"
    )]
    List(EventList),
    /// Deliver pending events to the configured destinations
    #[command(before_help = "Examples:\n  lorchestra events flush\n  lorchestra events flush --timeout 10m")]
    Flush {
        /// How long to try [default: 60s]
        #[arg(long, value_parser = limit, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Deliver to this destination only
        #[arg(long, value_parser = DestinationConfig::NAMES, value_name = "NAME")]
        destination: Option<String>,
        /// Also send again what may have arrived already; it may then be there twice
        #[arg(long)]
        resend_uncertain: bool,
        /// Also send again what a destination refused, after the cause was fixed
        #[arg(long)]
        resend_failed: bool,
    },
    /// Create what the configured destinations lack (table, directory) and test them
    #[command(before_help = "Examples:\n  lorchestra events setup --dry-run\n  lorchestra events setup")]
    Setup {
        /// Say what would be made; make nothing
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the row that is written to show: a new table may take some minutes [default: 3m]
        #[arg(long, value_parser = limit, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Set up this destination only
        #[arg(long, value_parser = DestinationConfig::NAMES, value_name = "NAME")]
        destination: Option<String>,
    },
}

/// Which events are listed, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct EventList {
    /// Only those of this run: its id, or enough of its beginning or end
    #[arg(long)]
    pub(crate) run: Option<String>,
    /// Only those of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those emitted at or after this time, e.g. -1d, yesterday, 2024-01-31
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Also payloads and subject ids, which may be personal
    #[arg(long)]
    pub(crate) payload: bool,
    /// Only events that are still to be delivered, of each destination
    #[arg(long, group = "delivery")]
    pub(crate) pending: bool,
    /// Only events that a destination refused for good, with its reason
    #[arg(long, group = "delivery")]
    pub(crate) failed: bool,
    /// Only events whose delivery could not be confirmed
    #[arg(long, group = "delivery")]
    pub(crate) uncertain: bool,
    /// With --pending, --failed or --uncertain: of this destination only
    #[arg(long, requires = "delivery", value_parser = DestinationConfig::NAMES, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// One JSON object a line (schema lorchestra.event/1)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bookmarks {
    /// List bookmarks: all, or those of a package, a job, an account
    #[command(
        before_help = "Examples:\n  lorchestra bookmarks show\n  lorchestra bookmarks show ingester extract_gmail\n  lorchestra bookmarks show --account anna\n  lorchestra bookmarks show --json"
    )]
    Show {
        /// Only those of this package
        package: Option<String>,
        /// Only those of this job
        job: Option<String>,
        /// Only those of this account; '' for those without one
        #[arg(long)]
        account: Option<String>,
        /// One JSON object a line (schema lorchestra.bookmark/1)
        #[arg(long)]
        json: bool,
    },
    /// Set a bookmark by hand: the next run with `--since last` begins there
    #[command(
        before_help = "Examples:\n  lorchestra bookmarks set ingester extract_gmail 2024-01-31\n  lorchestra bookmarks set ingester extract_gmail --account anna -7d"
    )]
    Set {
        /// The package
        package: String,
        /// The job
        job: String,
        /// Where to set it, e.g. 2024-01-31, -7d, now
        #[arg(allow_hyphen_values = true)]
        time: String,
        /// The account, as the runs have it
        #[arg(long)]
        account: Option<String>,
    },
    /// Remove a bookmark: the next run with `--since last:TIME` begins at TIME again
    #[command(before_help = "Example:\n  lorchestra bookmarks reset ingester extract_gmail --account anna")]
    Reset {
        /// The package
        package: String,
        /// The job
        job: String,
        /// The account, as the runs had it
        #[arg(long)]
        account: Option<String>,
    },
}

/// How often a job may be tried again.
fn retries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(..=i64::from(lorchestra_core::plan::retries::MOST))
}

/// A size in which a worker can at least begin.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let least = size::LEAST;
    match size::parse(text)? {
        bytes if bytes < least => Err(format!("is too little to load a plugin; write {} or more", size::show(least))),
        bytes => Ok(bytes),
    }
}

/// A duration that can be a limit: a job that may take no time could never run.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a limit of 0 would end every job at once; leave it out for no limit".into()),
        limit => Ok(limit),
    }
}

impl Args {
    /// Reads the command line.
    pub(crate) fn read(argv: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut words: Vec<OsString> = argv.collect();
        let of_run_job = argv::cut(&Self::command(), &mut words);
        let is_run_job = of_run_job.is_some();
        let rest = of_run_job.unwrap_or_default();
        let sides = [argv::globals(words.get(1..).unwrap_or_default()), argv::globals(&rest)];
        let mut args = Self::try_parse_from(argv::join_negative(words)).map_err(|mut error| {
            if is_run_job && error.kind() == ErrorKind::UnknownArgument {
                // Instead of clap's, which would have it passed as a value.
                let tip = vec!["the flags of a job stand behind JOB".into()];
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tip));
            }
            harmless(error)
        })?;
        // clap takes only the inner ones of a flag that stands on both sides of a command, and has not seen those of `rest`.
        args.verbose = sides.iter().fold(0, |sum, (verbose, _)| sum.saturating_add(*verbose));
        args.plugin_dir = sides.into_iter().flat_map(|(_, dirs)| dirs).collect();
        if let Command::RunJob(command) = &mut args.command {
            command.rest = rest;
        }
        Ok(args)
    }
}

/// The error with what was typed made fit for a terminal.
pub(crate) fn harmless(mut error: clap::Error) -> clap::Error {
    let escaped: Vec<(ContextKind, ContextValue)> = error
        .context()
        .filter_map(|(kind, value)| {
            let new = match value {
                ContextValue::String(text) => ContextValue::String(text::escaped(text)),
                ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|text| text::escaped(text)).collect()),
                _ => return None,
            };
            (new != *value).then_some((kind, new))
        })
        .collect();
    if !escaped.is_empty() {
        // Proposals repeat the text, in a form that cannot be rewritten.
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    for (kind, value) in escaped {
        error.insert(kind, value);
    }
    error
}

fn duration(text: &str) -> Result<Duration, String> {
    lorchestra_core::plan::duration::parse(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Args, clap::Error> {
        Args::read(std::iter::once(&"lorchestra").chain(words).map(OsString::from))
    }

    fn run_job(words: &[&str]) -> (Args, RunJob) {
        let mut args = read(&[&["run-job"], words].concat()).unwrap();
        let empty = Command::Runs(Runs::Stop { run: String::new() });
        let Command::RunJob(command) = std::mem::replace(&mut args.command, empty) else { unreachable!() };
        (args, *command)
    }

    #[test]
    fn clap_agrees_with_itself() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_concerns_all_commands_counts_on_both_sides_of_the_job() {
        let (args, command) = run_job(&["-qv", "--plugin-dir", "a", "pkg", "job", "-vq", "--plugin-dir=b", "--", "-v"]);
        assert_eq!((args.verbose, args.plugin_dir), (2, vec![PathBuf::from("a"), PathBuf::from("b")]));
        assert!(command.own.quiet);
        assert_eq!(command.rest, ["-vq", "--plugin-dir=b", "--", "-v"]);
    }

    #[test]
    fn of_own_flags_before_the_job_the_last_one_wins() {
        let (_, command) = run_job(&["--timeout", "1s", "--json", "--timeout", "2s", "--json", "-q", "-q", "pkg", "job"]);
        assert_eq!(command.own.timeout, Some(Duration::from_secs(2)));
        assert!(command.own.json && command.own.quiet);
        let later = OwnFlags { timeout: Some(Duration::from_secs(3)), param: vec!["b=1".into()], ..OwnFlags::default() };
        let merged = OwnFlags { param: vec!["a=1".into()], ..command.own }.merged(later);
        assert_eq!(merged.timeout, Some(Duration::from_secs(3)));
        assert_eq!(merged.param, ["a=1", "b=1"]);
        assert!(merged.json);
    }

    #[test]
    fn plugin_directories_add_up_wherever_they_stand() {
        let args = read(&["--plugin-dir", "a", "jobs", "list", "--plugin-dir=b", "-v", "--verbose"]).unwrap();
        assert_eq!((args.verbose, args.plugin_dir), (2, vec![PathBuf::from("a"), PathBuf::from("b")]));
        // A flag in place of a value is a forgotten value.
        for bad in [
            &["jobs", "list", "--plugin-dir"][..],
            &["events", "list", "--type", "-v", "x"],
            &["run-job", "--timeout", "-v", "5s"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn help_without_a_job_is_of_run_job() {
        for (words, package) in [(&["--help"][..], None), (&["pkg", "-h"], Some("pkg")), (&["-h", "pkg"], Some("pkg"))] {
            let (_, command) = run_job(words);
            assert!(command.help && command.job.is_none() && command.package.as_deref() == package, "{words:?}");
        }
        let (_, command) = run_job(&["pkg", "job", "--help"]);
        assert_eq!((command.help, &*command.rest), (false, &["--help".into()][..]));
        assert!(read(&["run-job", "pkg"]).is_err());
    }

    #[test]
    fn a_flag_of_a_job_before_it_is_told_where_it_belongs() {
        for (bad, tip) in [
            (&["run-job", "--since", "-7d", "pkg", "job"][..], true),
            (&["run-job", "pkg", "--since", "2d", "job"], true),
            (&["runs", "list", "--since", "2d"], false),
        ] {
            let text = read(bad).unwrap_err().render().to_string();
            assert_eq!(text.contains("the flags of a job stand behind JOB"), tip, "{text}");
            assert!(text.contains("'--since'") && !text.contains("as a value"), "{text}");
        }
    }

    #[test]
    fn a_bookmarks_time_may_begin_with_a_minus() {
        for words in [
            &["set", "pkg", "job", "-7d"][..],
            &["set", "pkg", "job", "-7d", "--account", "a"],
            &["set", "pkg", "job", "--account", "a", "-7d"],
            &["set", "--account=a", "pkg", "job", "-7d"],
            &["set", "--account", "a", "pkg", "job", "2024-01-31"],
        ] {
            let args = read(&[&["bookmarks"], words].concat()).unwrap_or_else(|e| panic!("{words:?}: {e}"));
            let Command::Bookmarks(Bookmarks::Set { package, job, time, account }) = args.command else { unreachable!() };
            assert_eq!((package.as_str(), job.as_str()), ("pkg", "job"), "{words:?}");
            assert!(matches!(time.as_str(), "-7d" | "2024-01-31"), "{words:?}: {time}");
            assert_eq!(account.is_some(), words.len() > 4, "{words:?}");
        }
        for bad in [&["set", "pkg", "job"][..], &["set", "pkg", "job", "--account", "a"], &["set", "pkg", "job", "-7d", "stray"]]
        {
            assert!(read(&[&["bookmarks"], bad].concat()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_typed_cannot_steer_a_terminal() {
        for bad in [
            &["--x\u{1b}[2J"][..],
            &["jobs\u{1b}[2J"],
            &["runs", "list", "--limit", "\u{1b}[2J"],
            &["runs", "show", "a", "\u{7}"],
        ] {
            let text = read(bad).unwrap_err().render().to_string();
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
            assert!(text.contains("\\u{"), "{text:?}");
        }
    }
}
