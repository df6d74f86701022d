//! What `fuzz/` calls, and nobody else: the readers of what people write, without the files and the process around them.

use crate::config::Config;
use crate::flags;
use lorchestra_core::plan::ParamArg;
use lorchestra_plugin_api::manifest::JobManifest;
use std::ffi::OsString;

/// Reads the text of a configuration file. On error: what is wrong, and how to fix it.
///
/// # Errors
/// The first thing that is wrong.
pub fn config(text: &str) -> Result<(), (String, String)> {
    Config::parse(text).map(drop)
}

/// Reads what stands behind JOB. `None`: it was refused, or help was asked for.
pub fn job_flags(package: &str, job: &JobManifest, args: &[&str]) -> Option<Vec<ParamArg>> {
    let rest: Vec<OsString> = args.iter().map(OsString::from).collect();
    match flags::parse(package, job, &rest) {
        flags::ParseOutcome::Parsed(parsed) => Some(parsed.given),
        flags::ParseOutcome::Clap(error) => {
            // What a person would see is made too.
            let _ = error.render().to_string();
            None
        }
        flags::ParseOutcome::Failed(_) => None,
    }
}
