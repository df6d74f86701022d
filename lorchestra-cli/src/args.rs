//! The command line: validated, nothing more. Nothing here reads files, environment or clock.

use clap::{Args as ClapArgs, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  lorchestra jobs list
  lorchestra jobs show ingester extract_gmail
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since -7d
  lorchestra runs list";

const RUN_EXAMPLES: &str = "Examples:
  lorchestra run-job ingester extract_gmail --help
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since -7d
  lorchestra run-job --dry-run ingester extract_gmail --source ~/takeout.mbox
  lorchestra run-job -q --timeout 30m canonizer canonicalize_email";

/// Lists, shows and runs the jobs of plugin libraries, and keeps what happened.
#[derive(Debug, Parser)]
#[command(name = "lorchestra", version, before_help = EXAMPLES, disable_help_subcommand = true)]
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
    RunJob(RunJob),
    /// What was run
    #[command(
        subcommand,
        before_help = "Examples:\n  lorchestra runs list\n  lorchestra runs show 019ab\n  lorchestra runs logs 019ab"
    )]
    Runs(Runs),
    /// What was emitted
    #[command(subcommand, before_help = "Example:\n  lorchestra events list --since -1d --type job.failed")]
    Events(Events),
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
    #[arg(short, long)]
    pub(crate) help: bool,

    /// The package
    #[arg(required_unless_present = "help")]
    pub(crate) package: Option<String>,

    /// The job
    #[arg(required_unless_present = "help")]
    pub(crate) job: Option<String>,

    /// The job's own flags: `lorchestra run-job PACKAGE JOB --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "JOB FLAGS")]
    pub(crate) rest: Vec<OsString>,
}

/// Flags of run-job itself: accepted before PACKAGE and after JOB.
#[derive(Debug, Default, Clone, ClapArgs)]
pub(crate) struct OwnFlags {
    /// End the job after this long, e.g. 90s, 30m, 2h
    #[arg(long, value_parser = limit, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,

    /// How long the job has to end when it is told to, before it is killed [default: 10s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,

    /// A parameter by its name, whatever flags there are (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) param: Vec<String>,

    /// Check the parameters and print the plan; start nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// One JSON object about the run (schema lorchestra.run-job/1)
    #[arg(long)]
    pub(crate) json: bool,

    /// Print nothing when the job succeeds
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl OwnFlags {
    /// These and `later` ones, which win where both say something.
    pub(crate) fn merged(&self, later: Self) -> Self {
        Self {
            timeout: later.timeout.or(self.timeout),
            grace: later.grace.or(self.grace),
            param: self.param.iter().cloned().chain(later.param).collect(),
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
        #[arg(long, default_value_t = 20, value_name = "N")]
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
pub(crate) enum Events {
    /// List events, oldest first
    #[command(
        before_help = "Examples:\n  lorchestra events list --since -1d --type job.failed\n  lorchestra events list --run 019ab --payload"
    )]
    List {
        /// Only those of this run: its id, or enough of its beginning or end
        #[arg(long)]
        run: Option<String>,
        /// Only those of this type
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Only those emitted at or after this time, e.g. -1d, yesterday, 2024-01-31
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Also payloads and subject ids, which may be personal
        #[arg(long)]
        payload: bool,
        /// One JSON object a line (schema lorchestra.event/1)
        #[arg(long)]
        json: bool,
    },
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
        let (mut verbose, mut plugin_dir) = (0, Vec::new());
        let words = hoist(join_negative(argv), &mut verbose, &mut plugin_dir);
        let mut args = Self::try_parse_from(words)?;
        args.verbose = args.verbose.saturating_add(verbose);
        args.plugin_dir.splice(0..0, plugin_dir);
        Ok(args)
    }
}

/// Writes `--since -7d` as `--since=-7d`. clap's allow_hyphen_values would take the next flag for a forgotten value; no flag of ours
/// begins with `-` and a digit.
fn join_negative(argv: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut open = true;
    for word in argv {
        open &= word != "--";
        let negative = matches!(word.as_encoded_bytes(), [b'-', b'0'..=b'9' | b'.', ..]);
        match joined.last_mut() {
            Some(last) if open && negative && is_bare_flag(last) => {
                last.push("=");
                last.push(word);
            }
            _ => joined.push(word),
        }
    }
    joined
}

/// `--name` without a value of its own.
fn is_bare_flag(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.len() > 2 && bytes.starts_with(b"--") && !bytes.contains(&b'=')
}

/// Takes `-v` and `--plugin-dir` out of the words: where people write them must not matter. clap would take those behind a job's
/// first flag for the job's, and of a repeated one on both sides of a command only the inner.
fn hoist(rest: Vec<OsString>, verbose: &mut u8, plugin_dir: &mut Vec<PathBuf>) -> Vec<OsString> {
    let mut kept = Vec::with_capacity(rest.len());
    let mut words = rest.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            kept.push(word);
            break;
        } else if text == "--verbose" {
            *verbose = verbose.saturating_add(1);
        } else if text.len() > 1 && text.starts_with('-') && text[1..].chars().all(|c| c == 'v') {
            *verbose = verbose.saturating_add(u8::try_from(text.len() - 1).unwrap_or(u8::MAX));
        } else if text == "--plugin-dir" {
            match words.next() {
                Some(dir) => plugin_dir.push(dir.into()),
                // Left for clap, which says that its value is missing.
                None => kept.push(word),
            }
        } else if let Some(dir) = text.strip_prefix("--plugin-dir=") {
            plugin_dir.push(dir.into());
        } else {
            kept.push(word);
        }
    }
    kept.extend(words);
    kept
}

fn duration(text: &str) -> Result<Duration, String> {
    lorchestra_core::plan::duration::parse(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_job(words: &[&str]) -> (Args, RunJob) {
        let argv = ["lorchestra", "run-job"].iter().chain(words).map(OsString::from);
        let mut args = Args::read(argv).unwrap();
        let empty = Command::Runs(Runs::Stop { run: String::new() });
        let Command::RunJob(command) = std::mem::replace(&mut args.command, empty) else { unreachable!() };
        (args, command)
    }

    #[test]
    fn clap_agrees_with_itself() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn own_flags_are_taken_on_both_sides_of_the_job() {
        let (args, command) =
            run_job(&["-q", "pkg", "job", "--timeout", "5s", "--since", "-7d", "-vv", "--plugin-dir", "/p", "--x=-1"]);
        assert!(command.own.quiet);
        assert_eq!(command.own.timeout, Some(Duration::from_secs(5)));
        assert_eq!((args.verbose, args.plugin_dir), (2, vec![PathBuf::from("/p")]));
        assert_eq!(command.rest, ["--since=-7d", "--x=-1"]);
    }

    #[test]
    fn plugin_directories_add_up_wherever_they_stand() {
        let words = ["lorchestra", "--plugin-dir", "a", "jobs", "list", "--plugin-dir=b", "-v", "--verbose"];
        let args = Args::read(words.iter().map(OsString::from)).unwrap();
        assert_eq!((args.verbose, args.plugin_dir), (2, vec![PathBuf::from("a"), PathBuf::from("b")]));
        assert!(Args::read(["lorchestra", "jobs", "list", "--plugin-dir"].iter().map(OsString::from)).is_err());
    }

    #[test]
    fn nothing_is_taken_from_behind_two_dashes() {
        let (args, command) = run_job(&["pkg", "job", "--text", "a", "--", "-v", "--x", "-1"]);
        assert_eq!(args.verbose, 0);
        assert_eq!(command.rest, ["--text", "a", "--", "-v", "--x", "-1"]);
    }

    #[test]
    fn help_behind_the_job_is_the_jobs() {
        let (_, command) = run_job(&["pkg", "job", "--help"]);
        assert!(command.help && command.job.as_deref() == Some("job"));
        let (_, command) = run_job(&["pkg", "job", "--since", "x", "--help"]);
        assert_eq!(command.rest, ["--since", "x", "--help"]);
        assert!(Args::read(["lorchestra", "run-job", "pkg"].iter().map(OsString::from)).is_err());
    }
}
