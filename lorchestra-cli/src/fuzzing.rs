//! Entry points for `fuzz/` only: the parsers of user input, without the files and the process around them.

use crate::config::Config;
use crate::flags;
use lorchestra_core::plan::ParamArg;
use lorchestra_plugin_api::manifest::JobManifest;
use std::ffi::OsString;

/// Parses the text of a configuration file. The error has the problem and the fix.
///
/// # Errors
/// The first problem.
pub fn config(text: &str) -> Result<(), (String, String)> {
    Config::parse(text).map(drop)
}

/// Parses the arguments after JOB. Returns `None` if they were refused or asked for help.
pub fn job_flags(package: &str, job: &JobManifest, args: &[&str]) -> Option<Vec<ParamArg>> {
    let rest: Vec<OsString> = args.iter().map(OsString::from).collect();
    match flags::parse(package, job, &rest) {
        flags::ParseOutcome::Parsed(parsed) => Some(parsed.given),
        flags::ParseOutcome::Clap(error) => {
            // Also render the error that a user would see.
            let _ = error.render().to_string();
            None
        }
        flags::ParseOutcome::Failed(_) => None,
    }
}
