//! `run-job --help` where no JOB is named: of run-job itself, and with PACKAGE also which jobs there are. With a JOB it is the job's
//! help, which [`crate::flags`] makes.

use crate::args::Args;
use crate::commands::Command;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use clap::CommandFactory;
use lorchestra_core::packages::catalog::Catalog;

/// Whether this help is what the command line asks for; and the package, if one is named.
pub(crate) fn asked_for(args: &Args) -> Option<Option<&str>> {
    match &args.command {
        Command::RunJob(command) if command.help && command.job.is_none() => Some(command.package.as_deref()),
        _ => None,
    }
}

/// Prints it. A package that is not there is no reason to explain run-job.
pub(crate) fn print(package: Option<&str>, args: &Args, printer: &mut Printer) -> Result<Code, CommandError> {
    let mut jobs = None;
    if let Some(name) = package {
        // Read only now: who asks for the help alone gets it with a broken configuration too.
        let catalog = Catalog::scan(&Settings::read(&args.global)?.plugin_dirs);
        let package = catalog.find(name).map_err(|lookup| CommandError::lookup(&catalog, name, None, &lookup))?;
        jobs = Some((name, show::job_names(package).join("\n  ")));
    }
    let mut all = Args::command();
    all.build();
    if let Some(run_job) = all.find_subcommand_mut("run-job") {
        printer.line(run_job.render_help().to_string().trim_end());
    }
    if let Some((name, jobs)) = jobs {
        printer.line(format_args!("\nJobs in {name}:\n  {jobs}\n\nFlags of a job: lorchestra run-job {name} JOB --help"));
    }
    Ok(Code::Success)
}
