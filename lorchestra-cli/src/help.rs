//! `run-job --help` without a JOB: the help of run-job itself and, with a PACKAGE, a list of its jobs. With a JOB, [`crate::flags`]
//! generates the job's help.

use crate::commands::Command;
use crate::commands::args::Args;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use clap::CommandFactory;
use lorchestra_core::packages::catalog::Catalog;

/// Whether the command line asks for this help; and the package, if one is named.
pub(crate) fn requested(args: &Args) -> Option<Option<&str>> {
    match &args.command {
        Command::RunJob(command) if command.help && command.job.is_none() => Some(command.package.as_deref()),
        _ => None,
    }
}

/// Prints the help. Fails for an unknown package, without explaining run-job.
pub(crate) fn print(package: Option<&str>, args: &Args, printer: &mut Printer) -> Result<Code, CommandError> {
    let mut jobs = None;
    if let Some(name) = package {
        // Read only now, so that the help without a PACKAGE works even if the configuration is invalid.
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
