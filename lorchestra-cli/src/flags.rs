//! Parses the arguments after JOB: the job's own flags, defined by its manifest, mixed with those of run-job.
//!
//! This module only separates values; `lorchestra_core::plan` interprets them. The catalog has checked that no two parameters share a flag,
//! and that none has the name of a global flag (`--help`, `--verbose`, …).

mod own;

pub(crate) use own::{GlobalFlags, OwnFlags};

use crate::argv;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::show;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command, value_parser};
use lorchestra_core::plan::{ParamArg, value};
use lorchestra_core::text::printable;
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use std::ffi::OsString;

/// The parsed arguments after JOB.
pub(crate) struct Parsed<F = OwnFlags> {
    /// The command's own flags among them.
    pub(crate) own: F,
    /// The job's parameters, as typed.
    pub(crate) given: Vec<ParamArg>,
}

/// The result of parsing.
pub(crate) enum ParseOutcome<F = OwnFlags> {
    Parsed(Parsed<F>),
    /// Help, or an error from clap.
    Clap(Box<clap::Error>),
    Failed(CommandError),
}

/// Parses the arguments after JOB of `run-job`.
pub(crate) fn parse(package: &str, job: &JobManifest, rest: &[OsString]) -> ParseOutcome {
    parse_for("run-job", package, job, rest)
}

/// Parses the arguments after JOB of a command with the flags `F`.
pub(crate) fn parse_for<F: Args>(verb: &str, package: &str, job: &JobManifest, rest: &[OsString]) -> ParseOutcome<F> {
    let read = command::<F>(verb, package, job)
        .try_get_matches_from(argv::join_negative(rest.iter().cloned()))
        .and_then(|matches| Ok((F::from_arg_matches(&matches)?, matches)));
    let (own, matches) = match read {
        Ok(read) => read,
        Err(error) => {
            return match value_of_switch(verb, package, job, &error) {
                Some(failure) => ParseOutcome::Failed(failure),
                None => ParseOutcome::Clap(Box::new(argv::harmless(error))),
            };
        }
    };
    let mut given = Vec::new();
    for param in &job.params {
        let flag = format!("--{}", param.flag());
        let mut add = |text: &str, typed_as: String| {
            given.push(ParamArg { name: param.name.clone(), text: text.into(), typed_as, is_configured: false })
        };
        if param.kind == ParamKind::Bool {
            if matches.get_flag(&id(param)) {
                add("true", flag);
            } else if matches.get_flag(&no_id(param)) {
                add("false", format!("--no-{}", param.flag()));
            }
        } else {
            for value in matches.get_many::<OsString>(&id(param)).into_iter().flatten() {
                match value.to_str() {
                    Some(text) => add(text, flag.clone()),
                    None => return ParseOutcome::Failed(not_utf8(&flag)),
                }
            }
        }
    }
    ParseOutcome::Parsed(Parsed { own, given })
}

/// Suggests the correct form for `--deep=false`; clap only reports an unexpected value.
fn value_of_switch(verb: &str, package: &str, job: &JobManifest, error: &clap::Error) -> Option<CommandError> {
    if error.kind() != ErrorKind::TooManyValues {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let bare = flag.trim_start_matches("--");
    let param = job.params.iter().filter(|param| param.kind == ParamKind::Bool).map(ParamManifest::flag);
    let param = param.into_iter().find(|param| bare == param || bare.strip_prefix("no-") == Some(param))?;
    let message = format!("--{bare} is a switch and takes no value; write --{param} or --no-{param}");
    Some(CommandError::new(Code::Usage, message).hint(format!("lorchestra {verb} {package} {} --help", job.name)))
}

/// Parses `--param name=value`.
pub(crate) fn named(params: &[String]) -> Result<Vec<ParamArg>, CommandError> {
    let bad = |text: &str, what: &str| {
        CommandError::new(Code::Usage, format!("--param {text}: there is no {what}")).hint("write --param name=value")
    };
    let read = |text: &String| match text.split_once('=') {
        None => Err(bad(text, "value")),
        Some(("", _)) => Err(bad(text, "name")),
        Some((name, value)) => {
            Ok(ParamArg { typed_as: format!("--param {name}"), name: name.into(), text: value.into(), is_configured: false })
        }
    };
    params.iter().map(read).collect()
}

/// The flags of a job, for completion.
pub(crate) fn of_job(package: &str, job: &JobManifest) -> Vec<Arg> {
    let command = command::<OwnFlags>("run-job", package, job);
    command.get_arguments().filter(|arg| arg.get_id().as_str().contains("param:")).cloned().collect()
}

fn command<F: Args>(verb: &str, package: &str, job: &JobManifest) -> Command {
    // The heading in the job's help above flags that are not the job's.
    let own = format!("Flags of {verb}");
    let mut command =
        Command::new(format!("lorchestra {verb} {package} {}", job.name)).no_binary_name(true).next_help_heading("Job flags");
    for param in &job.params {
        command = if param.kind == ParamKind::Bool {
            // The last one wins, so that a flag at the end of a line can override a script's default.
            let both = [id(param), no_id(param)];
            let no = Arg::new(no_id(param)).long(format!("no-{}", param.flag())).help(format!("Turn --{} off", param.flag()));
            command
                .arg(arg(param, id(param), param.flag()).action(ArgAction::SetTrue).overrides_with_all(&both))
                .arg(no.action(ArgAction::SetTrue).overrides_with_all(&both))
        } else {
            command.arg(
                // Also for parameters with one value: the plan reports repeated values, however they were given.
                arg(param, id(param), param.flag())
                    .action(ArgAction::Append)
                    .value_parser(value_parser!(OsString))
                    .value_name(value::placeholder(param.kind)),
            )
        };
    }
    let params: Vec<String> = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    command = F::augment_args(command.next_help_heading(own.clone()))
        // Already parsed, and valid at any position; defined here so that clap parses the arguments around them correctly.
        .args(of_all_commands(&own))
        // Set after the command's own flags, which have a description of their own.
        .about(described(&printable(job.summary()), job))
        .long_about(described(&show::flowing(&printable(&job.docs)), job));
    let (usage, examples) = usage(verb, package, job);
    command = command.override_usage(usage).before_help(examples);
    // If the command got a flag after this plugin was built, the job's parameter keeps the name. No parameter name contains a colon.
    let own: Vec<(clap::Id, String)> = command
        .get_arguments()
        .filter(|arg| !arg.get_id().as_str().contains(':'))
        .filter_map(|arg| Some((arg.get_id().clone(), arg.get_long()?.to_owned())))
        .filter(|(_, long)| params.contains(long))
        .collect();
    for (id, long) in own {
        command = command.mut_arg(id, |arg| arg.long(format!("{verb}:{long}")));
    }
    command
}

/// Returns the job's description and its execution defaults.
fn described(docs: &str, job: &JobManifest) -> String {
    let notes = show::source_notes(job).join("\n");
    [docs, &notes].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Returns the usage line and the examples of a job: its required parameters, and a window if it has one.
fn usage(verb: &str, package: &str, job: &JobManifest) -> (String, String) {
    let mut line = format!("{package} {}", job.name);
    let mut usage = format!("lorchestra {verb} {line}");
    for param in job.params.iter().filter(|param| param.is_required()) {
        usage = format!("{usage} {}", show::flag(param));
        line = match param.kind {
            ParamKind::Bool => format!("{line} --{}", param.flag()),
            kind => format!("{line} --{} {}", param.flag(), value::placeholder(kind)),
        };
    }
    if verb == "backfill" {
        let line = format!("{line} --from 2024-01-01 --to 2025-01-01 --every 1d");
        usage = format!("{usage} --from <TIME> --to <TIME> --every <LENGTH> [OPTIONS]");
        return (usage, format!("Examples:\n  lorchestra backfill {line} --dry-run\n  lorchestra backfill {line} -j 4"));
    }
    if job.params.iter().any(|param| param.name == "since" && param.kind == ParamKind::DateTime && !param.is_required()) {
        line.push_str(" --since -7d");
    }
    (format!("{usage} [OPTIONS]"), format!("Examples:\n  lorchestra run-job {line}\n  lorchestra run-job --dry-run {line}"))
}

/// Returns `-v` and `--plugin-dir`.
fn of_all_commands(heading: &str) -> Vec<Arg> {
    let all = GlobalFlags::augment_args(Command::new("all"));
    // --config is read before the job is known, and a job may have a parameter of that name.
    let global = all.get_arguments().filter(|arg| arg.is_global_set() && arg.get_id() != "config");
    global.map(|arg| arg.clone().global(false).help_heading(heading.to_owned())).collect()
}

fn arg(param: &ParamManifest, id: String, long: String) -> Arg {
    let mut help = show::flowing(&show::param_help(param));
    // clap would print a line of blanks.
    if help.is_empty() {
        help = match param.kind {
            ParamKind::Bool => format!("Turn --{long} on"),
            _ => value::describe(param.into()),
        };
    }
    Arg::new(id).long(long).help(help)
}

/// A colon separates the ids of parameters from those of run-job's own flags.
fn id(param: &ParamManifest) -> String {
    format!("param:{}", param.name)
}

fn no_id(param: &ParamManifest) -> String {
    format!("param:no:{}", param.name)
}

fn not_utf8(flag: &str) -> CommandError {
    CommandError::new(Code::Usage, format!("the value of {flag} is not valid UTF-8"))
        .hint("rename the file, or use a link with a UTF-8 name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::manifest::JobOutline;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn job(params: &[(&str, &str)]) -> JobManifest {
        let params: Vec<Value> =
            params.iter().map(|(name, kind)| json!({"name": name, "kind": kind, "optional": true})).collect();
        let outline: JobOutline = serde_json::from_value(json!({"name": "extract", "params": params})).unwrap();
        JobManifest { signature: "(cx)".into(), docs: "Extract.".into(), ..outline.into() }
    }

    fn parsed(job: &JobManifest, rest: &[&str]) -> (OwnFlags, Vec<(String, String)>) {
        let rest: Vec<OsString> = rest.iter().map(OsString::from).collect();
        match parse("pkg", job, &rest) {
            ParseOutcome::Parsed(parsed) => {
                (parsed.own, parsed.given.into_iter().map(|given| (given.name, given.text)).collect())
            }
            ParseOutcome::Clap(error) => panic!("{rest:?}: {error}"),
            ParseOutcome::Failed(failure) => panic!("{rest:?}: {failure:?}"),
        }
    }

    fn refused(job: &JobManifest, rest: &[&str]) -> String {
        let rest: Vec<OsString> = rest.iter().map(OsString::from).collect();
        match parse("pkg", job, &rest) {
            ParseOutcome::Clap(error) => error.render().to_string(),
            _ => panic!("{rest:?} was taken"),
        }
    }

    fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn flags_of_job_and_run_job_are_parsed_in_any_order() {
        let job = job(&[("since", "datetime"), ("deep", "bool")]);
        for rest in [
            &["--since", "-7d", "--deep", "--timeout", "5s", "-qv"][..],
            &["--timeout=5s", "-q", "--since=-7d", "-v", "--deep"],
            &[
                "--plugin-dir",
                "x",
                "--deep",
                "--timeout",
                "1s",
                "--since",
                "-7d",
                "--timeout",
                "5s",
                "-q",
                "--quiet",
                "--verbose",
            ],
        ] {
            let (own, values) = parsed(&job, rest);
            assert_eq!((own.timeout, own.quiet), (Some(Duration::from_secs(5)), true), "{rest:?}");
            assert_eq!(values, given(&[("since", "-7d"), ("deep", "true")]), "{rest:?}");
        }
        assert_eq!(parsed(&job, &["--deep", "--no-deep"]).1, given(&[("deep", "false")]));
        assert_eq!(parsed(&job, &["--no-deep", "--deep", "--deep"]).1, given(&[("deep", "true")]));
        assert_eq!(parsed(&job, &["--since", "1", "--since", "2"]).1, given(&[("since", "1"), ("since", "2")]));
        for bad in [&["--since", "--deep"][..], &["stray"], &["--", "--deep"], &["--since", "-v"]] {
            refused(&job, bad);
        }
    }

    /// A plugin older than the flag.
    #[test]
    fn a_parameter_keeps_its_flag_at_any_position() {
        let job = job(&[("timeout", "u32"), ("quiet", "bool"), ("param", "string"), ("other", "string")]);
        for rest in [
            &["--timeout", "7", "--no-quiet", "--param", "a=b", "--other", "x"][..],
            &["--other", "x", "--param", "a=b", "--quiet", "--no-quiet", "--timeout=7"],
        ] {
            let (own, values) = parsed(&job, rest);
            assert!(own.timeout.is_none() && own.param.is_empty() && !own.quiet, "{rest:?}");
            assert_eq!(values, given(&[("timeout", "7"), ("quiet", "false"), ("param", "a=b"), ("other", "x")]), "{rest:?}");
        }
        let (own, values) = parsed(&job, &["-q", "--run-job:timeout", "5s"]);
        assert_eq!((own.timeout, own.quiet, values), (Some(Duration::from_secs(5)), true, Vec::new()));
    }

    /// Every job that the catalog accepts has a valid command line: clap checks its definitions in debug builds.
    #[test]
    fn any_parameters_make_a_command_line() {
        let mut names: Vec<String> = <crate::commands::args::Args as clap::CommandFactory>::command()
            .find_subcommand("run-job")
            .unwrap()
            .get_arguments()
            .map(|arg| arg.get_id().as_str().to_owned())
            .filter(|name| name != "help")
            .collect();
        names.extend(["q", "v", "run-job-timeout", "run_job", "no_x"].map(str::to_owned));
        for kind in ["bool", "string"] {
            let params: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), kind)).collect();
            command::<OwnFlags>("run-job", "pkg", &job(&params)).debug_assert();
        }
    }

    #[test]
    fn help_has_no_lines_of_spaces() {
        let help = command::<OwnFlags>("run-job", "pkg", &job(&[("plain", "string"), ("switch", "bool")]))
            .render_long_help()
            .to_string();
        assert!(help.contains("text") && help.contains("Turn --switch on"), "{help}");
        assert!(help.contains("--plain <TEXT>") && help.contains("--plugin-dir <DIR>"), "{help}");
        assert!(help.lines().all(|line| line.trim_end() == line), "{help:?}");
        assert!(!help.contains("\n\n\n"), "{help}");
    }

    #[test]
    fn a_parameter_by_name_is_a_name_and_a_value() {
        let read = |text: &str| named(&[text.to_owned()]);
        let good = read("page-size=a=b").unwrap();
        assert_eq!(
            (good[0].name.as_str(), good[0].text.as_str(), good[0].typed_as.as_str()),
            ("page-size", "a=b", "--param page-size")
        );
        for (bad, what) in [("x", "no value"), ("=1", "no name"), ("=", "no name"), ("", "no value")] {
            let failure = read(bad).unwrap_err();
            assert!(failure.message.contains(what) && failure.code == Code::Usage, "{failure:?}");
        }
    }

    #[test]
    fn typed_text_cannot_control_a_terminal() {
        let text = refused(&job(&[("n", "u8")]), &["--\u{1b}[2J"]);
        assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}"), "{text:?}");
    }
}
