//! Parses the command line, and only validates: reads no files, environment or clock. Each command's own arguments are in its file in
//! [`crate::commands`].

use crate::argv;
use crate::commands::Command;
use crate::flags::GlobalFlags;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args as _, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;

const EXAMPLES: &str = "Examples:
  lorchestra jobs list
  lorchestra jobs show ingester extract_gmail
  lorchestra run-job ingester extract_gmail --source ~/takeout.mbox --since -7d
  lorchestra runs list";

/// Run jobs from plugin libraries and keep a record of every run and event.
#[derive(Debug, Parser)]
#[command(name = "lorchestra", version, before_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Parses the command line.
    pub(crate) fn read(argv: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = argv.collect();
        // Defining all commands takes longer than parsing one. Whatever the small definition refuses gets help and errors of the whole one.
        let alone = words.iter().skip(1).find_map(|word| Command::alone(word.to_str()?));
        if let Some(args) = alone.and_then(|alone| Self::parse(Self::small(alone), words.clone()).ok()) {
            return Ok(args);
        }
        Self::parse(Self::command(), words)
    }

    /// Returns the definition of one command alone.
    fn small(command: clap::Command) -> clap::Command {
        GlobalFlags::augment_args(clap::Command::new("lorchestra")).subcommand(command)
    }

    fn parse(mut definition: clap::Command, mut words: Vec<OsString>) -> Result<Self, clap::Error> {
        argv::pair::split(&definition, &mut words);
        let of_run_job = argv::cut(&definition, &mut words);
        let is_run_job = of_run_job.is_some();
        let rest = of_run_job.unwrap_or_default();
        let sides = [argv::globals(words.get(1..).unwrap_or_default()), argv::globals(&rest)];
        let matches = definition.try_get_matches_from_mut(argv::join_negative(words));
        let args = matches
            .and_then(|mut matches| Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut definition)));
        let mut args = args.map_err(|mut error| {
            if is_run_job && error.kind() == ErrorKind::UnknownArgument {
                // clap's own tip would suggest passing it as a value.
                let tip = vec!["flags of a job go after JOB".into()];
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tip));
            }
            argv::harmless(error)
        })?;
        // For a flag on both sides of a subcommand, clap counts only the inner ones, and it has not seen `rest`.
        args.global.verbose = sides.iter().fold(0, |sum, (verbose, _)| sum.saturating_add(*verbose));
        args.global.plugin_dir = sides.into_iter().flat_map(|(_, dirs)| dirs).collect();
        match &mut args.command {
            Command::RunJob(command) => command.rest = rest,
            Command::Backfill(command) => command.rest = rest,
            _ => {}
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bookmarks::Bookmarks;
    use crate::commands::run_job::RunJob;
    use crate::commands::runs::Runs;
    use crate::flags::OwnFlags;
    use std::path::PathBuf;
    use std::time::Duration;

    fn read(words: &[&str]) -> Result<Args, clap::Error> {
        Args::read(std::iter::once(&"lorchestra").chain(words).map(OsString::from))
    }

    fn run_job(words: &[&str]) -> (Args, RunJob) {
        let mut args = read(&[&["run-job"], words].concat()).unwrap();
        let empty = Command::Runs(Runs::Stop { run: String::new(), json: false });
        let Command::RunJob(command) = std::mem::replace(&mut args.command, empty) else { unreachable!() };
        (args, *command)
    }

    #[test]
    fn the_clap_definition_is_consistent() {
        Args::command().debug_assert();
    }

    /// Whatever the small definition of a command accepts, the whole definition reads in the same way.
    #[test]
    fn a_command_defined_alone_is_the_same_command() {
        for (line, is_small) in [
            ("run-job p j", true),
            ("-v --plugin-dir run-job run-job --timeout 5s -q p/j --since -7d --plugin-dir=b -- -v", true),
            ("run-job --spec spec.json --json", true),
            ("run-job --help", true),
            ("run-job p -h", true),
            ("run-job -V", false),
            ("run-job --retries x p j", false),
            ("run-job", false),
            ("run-window --plan p --index 3 --claims c --attempt 1 -q", true),
            ("run-window --help", false),
            ("jobs list --json", true),
            ("jobs show p/j", true),
            ("jobs", false),
            ("jobs list --help", false),
            ("lane", true),
            ("status p", true),
            ("status --stale x", false),
            ("runs show run-job", false),
            ("help run-job", false),
        ] {
            let words: Vec<OsString> = format!("lorchestra {line}").split(' ').map(OsString::from).collect();
            let alone = words.iter().skip(1).find_map(|word| Command::alone(word.to_str()?)).expect(line);
            let (small, whole) = (Args::parse(Args::small(alone), words.clone()), Args::parse(Args::command(), words));
            assert_eq!(small.is_ok(), is_small, "{line}");
            if let Ok(small) = small {
                assert_eq!(format!("{small:?}"), format!("{:?}", whole.unwrap()), "{line}");
            }
        }
    }

    #[test]
    fn global_flags_count_on_both_sides_of_the_job() {
        let (args, command) = run_job(&["-qv", "--plugin-dir", "a", "pkg", "job", "-vq", "--plugin-dir=b", "--", "-v"]);
        assert_eq!((args.global.verbose, args.global.plugin_dir), (2, vec![PathBuf::from("a"), PathBuf::from("b")]));
        assert!(command.own.quiet);
        assert_eq!(command.rest, ["-vq", "--plugin-dir=b", "--", "-v"]);
    }

    #[test]
    fn the_last_of_repeated_own_flags_wins() {
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
    fn plugin_directories_add_up_at_any_position() {
        let args = read(&["--plugin-dir", "a", "jobs", "list", "--plugin-dir=b", "-v", "--verbose"]).unwrap();
        assert_eq!((args.global.verbose, args.global.plugin_dir), (2, vec![PathBuf::from("a"), PathBuf::from("b")]));
        // A flag in place of a value means that the value was forgotten.
        for bad in [
            &["jobs", "list", "--plugin-dir"][..],
            &["events", "list", "--type", "-v", "x"],
            &["run-job", "--timeout", "-v", "5s"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn help_without_a_job_is_the_help_of_run_job() {
        for (words, package) in [(&["--help"][..], None), (&["pkg", "-h"], Some("pkg")), (&["-h", "pkg"], Some("pkg"))] {
            let (_, command) = run_job(words);
            assert!(command.help && command.job.is_none() && command.package.as_deref() == package, "{words:?}");
        }
        let (_, command) = run_job(&["pkg", "job", "--help"]);
        assert_eq!((command.help, &*command.rest), (false, &["--help".into()][..]));
        assert!(read(&["run-job", "pkg"]).is_err());
    }

    #[test]
    fn a_job_flag_before_the_job_is_refused_with_a_hint() {
        for (bad, tip) in [
            (&["run-job", "--since", "-7d", "pkg", "job"][..], true),
            (&["run-job", "pkg", "--since", "2d", "job"], true),
            (&["plugins", "list", "--since", "2d"], false),
        ] {
            let text = read(bad).unwrap_err().render().to_string();
            assert_eq!(text.contains("flags of a job go after JOB"), tip, "{text}");
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
            let Command::Bookmarks(Bookmarks::Set { package, job, time, account, .. }) = args.command else { unreachable!() };
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
    fn typed_text_cannot_control_a_terminal() {
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
