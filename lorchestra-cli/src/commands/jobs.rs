//! `jobs list` and `jobs show`: the contents of the libraries, without running any of their code.

use crate::cells;
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::{PLUGIN_DIRECTORY, PLUGIN_FLAG, Settings};
use crate::show;
use crate::wire::{JobDetails, JobOverview, JobsList, PackageObject, ProblemObject};
use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use lorchestra_core::packages::catalog::{Catalog, Lookup, Package, Problem, SearchOutcome, Searched};
use lorchestra_core::text::{self, one_line, printable};
use lorchestra_plugin_api::manifest::JobManifest;

/// Maximum number of problems to report in full.
const PROBLEMS: usize = 3;
/// Maximum number of lines about search directories without packages, for eight lines in total.
const DIRECTORIES: usize = 6;

#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List packages and their jobs
    #[command(before_help = "Examples:\n  lorchestra jobs list\n  lorchestra jobs list ingester\n  lorchestra jobs list --json")]
    List {
        /// List only this package's jobs
        #[arg(add = ArgValueCompleter::new(complete::packages))]
        package: Option<String>,
        /// Print only names, as on a pipe
        #[arg(long)]
        names: bool,
        /// Print one JSON object (schema lorchestra.jobs-list/1)
        #[arg(long)]
        json: bool,
    },
    /// Show a job: its library, parameters and description
    #[command(before_help = "Example:\n  lorchestra jobs show ingester extract_gmail")]
    Show {
        /// Package name, or PACKAGE/JOB
        #[arg(add = ArgValueCompleter::new(complete::packages_or_pairs))]
        package: String,
        /// Job name
        #[arg(add = ArgValueCompleter::new(complete::jobs))]
        job: String,
        /// Print one JSON object (schema lorchestra.jobs-show/1)
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Jobs, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    let catalog = super::catalog(settings)?;
    // If only some directories are searched, a missing package means nothing.
    let whole_path = catalog.searched.iter().all(|searched| searched.dir.origin != PLUGIN_FLAG);
    unknown_policies(&catalog, settings, whole_path, printer);
    match command {
        Jobs::List { package, json: true, .. } => list_json(&catalog, package.as_deref(), printer),
        Jobs::List { package: Some(package), names, .. } => list_package(&catalog, package, *names, printer),
        Jobs::List { package: None, names, .. } => Ok(list(&catalog, *names, printer)),
        Jobs::Show { package, job, json } => show(&catalog, package, job, *json, printer),
    }
}

/// Warns about configured jobs that do not exist. A missing package may exist on another host that shares the file: warns only if its name
/// looks misspelt, or if `all` is set.
pub(super) fn unknown_policies(catalog: &Catalog, settings: &Settings, all: bool, printer: &mut Printer) {
    for name in settings.jobs.keys() {
        let Some((package, job)) = name.split_once('/') else { continue };
        let Err(Lookup::Unknown { nearest }) = catalog.find_job(package, job) else { continue };
        let nearest = nearest.first();
        let (what, meant) = if catalog.find(package).is_ok() {
            (format!("{package} has no job {job}"), nearest.map(|job| format!("{package}/{job}")))
        } else if all || nearest.is_some() {
            (format!("there is no package {package}"), nearest.map(|package| format!("{package}/{job}")))
        } else {
            continue;
        };
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        printer.warning(format_args!("config.toml: [job.\"{name}\"]: {what}{meant}"));
    }
}

fn list(catalog: &Catalog, names: bool, printer: &mut Printer) -> Code {
    let width = printer.width().filter(|_| !names);
    for package in &catalog.packages {
        printer.line(format_args!("{}:", package.summary.package));
        job_lines(package, width, printer);
    }
    if catalog.packages.is_empty() && catalog.problems.is_empty() {
        printer.note("No packages found.");
        let all = &catalog.searched;
        let shown = if all.len() > DIRECTORIES { DIRECTORIES - 1 } else { all.len() };
        for searched in &all[..shown] {
            printer.note(format_args!("  {}", show::looked_in(searched)));
        }
        if shown < all.len() {
            printer.note(format_args!("  and {} more", all.len() - shown));
        }
        printer.note("  run lorchestra plugins install FILE to install one");
        return Code::Success;
    }
    let mut all = directories(catalog);
    all.extend_from_slice(&catalog.problems);
    problems(&all, printer);
    Code::Success
}

/// Lists the jobs of a package. A terminal of this width also shows the first line of each docstring; a pipe gets only names, as scripts
/// expect.
fn job_lines(package: &Package, width: Option<usize>, printer: &mut Printer) {
    let jobs = show::jobs(package);
    let manifest = width.and_then(|_| package.manifest().ok());
    let longest = cells::widest(jobs.iter().map(String::as_str));
    for job in jobs {
        let name = job.split(' ').next().unwrap_or_default();
        let summary = manifest.as_ref().and_then(|manifest| Some(one_line(manifest.job(name)?.summary())));
        match (summary.filter(|summary| !summary.is_empty()), width) {
            (Some(summary), Some(width)) => {
                printer.line(cells::fitted(&format!("  {}  {summary}", cells::padded(&job, longest)), width.max(longest + 4)));
            }
            _ => printer.line(format_args!("  {job}")),
        }
    }
}

/// The directories that could not be searched. The default one need not exist.
pub(super) fn directories(catalog: &Catalog) -> Vec<Problem> {
    let may_be_missing = |searched: &&Searched| searched.dir.origin == PLUGIN_DIRECTORY;
    let wrong =
        catalog.searched.iter().filter(|searched| searched.outcome != SearchOutcome::Missing || !may_be_missing(searched));
    wrong.filter_map(Searched::problem).collect()
}

pub(super) fn problems(problems: &[Problem], printer: &mut Printer) {
    for problem in problems.iter().take(PROBLEMS) {
        printer.warning(problem);
    }
    if let Some(more) = problems.len().checked_sub(PROBLEMS).filter(|n| *n > 0) {
        printer.note(format_args!("{} cannot be used: lorchestra jobs list --json", show::counted(more, "more file")));
    }
}

fn list_package(catalog: &Catalog, name: &str, names: bool, printer: &mut Printer) -> Result<Code, CommandError> {
    let package = catalog.find(name).map_err(|lookup| CommandError::lookup(catalog, name, None, &lookup))?;
    printer.line(format_args!("Jobs in {name}:"));
    job_lines(package, printer.width().filter(|_| !names), printer);
    Ok(Code::Success)
}

fn list_json(catalog: &Catalog, only: Option<&str>, printer: &mut Printer) -> Result<Code, CommandError> {
    if let Some(name) = only {
        catalog.find(name).map_err(|lookup| CommandError::lookup(catalog, name, None, &lookup))?;
    }
    let wanted = |name: Option<&str>| only.is_none_or(|only| name == Some(only));
    let mut packages = Vec::new();
    let mut found_now = Vec::new();
    for package in catalog.packages.iter().filter(|package| wanted(Some(&package.summary.package))) {
        match package.manifest() {
            Err(problem) => found_now.push(problem),
            Ok(manifest) => packages.push(PackageObject {
                // Its SHA-256 is omitted because that would require reading all of it.
                bytes: std::fs::metadata(&package.path).ok().map(|meta| meta.len()),
                path: package.path.display().to_string(),
                jobs: sorted(&manifest.jobs).into_iter().map(JobOverview::of).collect(),
                name: manifest.package,
                version: manifest.version,
            }),
        }
    }
    let problems = directories(catalog)
        .iter()
        .chain(&catalog.problems)
        .chain(&found_now)
        .filter(|problem| wanted(problem.package.as_deref()))
        .map(ProblemObject::of)
        .collect();
    printer.json(&JobsList { schema: "lorchestra.jobs-list/1", packages, problems });
    Ok(Code::Success)
}

fn show(
    catalog: &Catalog,
    package_name: &str,
    job_name: &str,
    as_json: bool,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let (package, manifest, job) = super::find_job(catalog, package_name, job_name)?;
    let path = package.path.display().to_string();
    if as_json {
        printer.json(&JobDetails::of(&manifest, &job, path));
        return Ok(Code::Success);
    }
    printer.line(format_args!("{package_name}/{job_name}"));
    printer.line(format_args!("Location: {} ({}:{})", printable(&path), one_line(&job.file), job.line));
    let width = printer.width();
    printer.line(cells::wrapped(&format!("Signature: {}", text::signature(&job.signature)), width, 11));
    for note in show::source_notes(&job) {
        printer.line(note);
    }
    if !job.docs.is_empty() {
        printer.line("");
        let docs = printable(&job.docs);
        printer.line(if width.is_some() { cells::wrapped(&show::flowing(&docs), width, 0) } else { docs });
    }
    if !job.params.is_empty() {
        printer.line("");
        printer.line("Flags:");
        let longest = job.params.iter().map(|p| show::flag(p).len()).max().unwrap_or(0);
        for param in &job.params {
            let help = show::param_help(param).replace('\n', &format!("\n{:indent$}", "", indent = longest + 4));
            let text = format!("  {:longest$}  {help}", show::flag(param));
            printer.line(cells::wrapped(text.trim_end(), width, longest + 4));
        }
    }
    Ok(Code::Success)
}

pub(super) fn sorted(jobs: &[JobManifest]) -> Vec<&JobManifest> {
    let mut sorted: Vec<_> = jobs.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}
