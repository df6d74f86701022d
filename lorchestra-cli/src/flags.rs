//! A job's own flags: a command line made from its manifest.
//!
//! Values are only cut out of argv here; what they mean is `lorchestra_core::plan`'s to say.

use crate::args::OwnFlags;
use crate::exit::Code;
use crate::failure::Failure;
use crate::show;
use clap::{Arg, ArgAction, Args, Command, FromArgMatches, value_parser};
use lorchestra_core::plan::Given;
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest, printable};
use std::ffi::OsString;

/// What the job's flags said.
pub(crate) struct Parsed {
    /// Flags of run-job among them.
    pub(crate) own: OwnFlags,
    /// The job's parameters, as typed.
    pub(crate) given: Vec<Given>,
}

/// What came of it.
pub(crate) enum Outcome {
    Parsed(Parsed),
    /// Help, or an error in clap's words.
    Clap(Box<clap::Error>),
    Failed(Failure),
}

/// Reads the arguments after JOB.
pub(crate) fn parse(package: &str, job: &JobManifest, rest: &[OsString]) -> Outcome {
    let matches = match command(package, job).try_get_matches_from(rest) {
        Ok(matches) => matches,
        Err(error) => return Outcome::Clap(Box::new(error)),
    };
    let own = match OwnFlags::from_arg_matches(&matches) {
        Ok(own) => own,
        Err(error) => return Outcome::Clap(Box::new(error)),
    };
    let mut given = Vec::new();
    for param in &job.params {
        let flag = format!("--{}", param.flag());
        let mut add = |text: &str, typed_as: String| given.push(Given { name: param.name.clone(), text: text.into(), typed_as });
        if param.kind == ParamKind::Bool {
            if matches.get_flag(&id(param)) {
                add("true", flag);
            } else if matches.get_flag(&no_id(param)) {
                add("false", format!("--no-{}", param.flag()));
            }
        } else if let Some(value) = matches.get_one::<OsString>(&id(param)) {
            match value.to_str() {
                Some(text) => add(text, flag),
                None => return Outcome::Failed(not_utf8(&flag)),
            }
        }
    }
    Outcome::Parsed(Parsed { own, given })
}

/// Reads `--param name=value`.
pub(crate) fn named(params: &[String]) -> Result<Vec<Given>, Failure> {
    params
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                Failure::new(Code::Usage, format!("--param {text}: there is no value")).mend("write --param name=value")
            })?;
            let name = name.replace('-', "_");
            Ok(Given { typed_as: format!("--param {name}"), name, text: value.into() })
        })
        .collect()
}

fn command(package: &str, job: &JobManifest) -> Command {
    let mut command =
        Command::new(format!("lorchestra run-job {package} {}", job.name)).no_binary_name(true).next_help_heading("Job flags");
    for param in &job.params {
        command = if param.kind == ParamKind::Bool {
            // The last one of the two wins, so that a script's default can be turned round at the end of its line.
            command.arg(arg(param, id(param), param.flag()).action(ArgAction::SetTrue).overrides_with(no_id(param))).arg(
                Arg::new(no_id(param))
                    .long(format!("no-{}", param.flag()))
                    .action(ArgAction::SetTrue)
                    .overrides_with(id(param))
                    .help(format!("Turn --{} off", param.flag())),
            )
        } else {
            command.arg(
                arg(param, id(param), param.flag())
                    .action(ArgAction::Set)
                    .value_parser(value_parser!(OsString))
                    .value_name(show::value_name(param.kind)),
            )
        };
    }
    command = OwnFlags::augment_args(command.next_help_heading("Flags of run-job"))
        // After the flags of run-job, which bring a description of their own.
        .about(printable(job.summary()))
        .long_about(printable(&job.docs));
    // A flag that run-job got after this plugin was built: the job's parameter keeps the name.
    let own: Vec<(clap::Id, String)> = command
        .get_arguments()
        .filter(|arg| !arg.get_id().as_str().contains(':'))
        .filter_map(|arg| Some((arg.get_id().clone(), arg.get_long()?.to_owned())))
        .collect();
    for (id, long) in own {
        if job.params.iter().any(|param| param.flag() == long) {
            command = command.mut_arg(id, |arg| arg.long(format!("run-job-{long}")));
        }
    }
    command
}

fn arg(param: &ParamManifest, id: String, long: String) -> Arg {
    Arg::new(id).long(long).help(show::param_help(param))
}

/// A colon keeps the ids of parameters apart from those of run-job's own flags.
fn id(param: &ParamManifest) -> String {
    format!("param:{}", param.name)
}

fn no_id(param: &ParamManifest) -> String {
    format!("param:no:{}", param.name)
}

fn not_utf8(flag: &str) -> Failure {
    Failure::new(Code::Usage, format!("the value of {flag} is not UTF-8"))
        .mend("rename the file, or name it by a link whose name is UTF-8")
}
