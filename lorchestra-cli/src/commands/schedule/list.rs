//! `schedule list`: reads back which systemd units and crontab lines run jobs. Reads files and asks `crontab -l`; starts nothing else, so
//! it works without a running systemd. [`units`] and [`crontab`] find the lines, [`command`] reads them.

mod command;
mod crontab;
mod units;

use super::super::catalog;
use crate::cells;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::{Printer, WARNING};
use crate::settings::Settings;
use crate::wire;
use clap::Args;
use command::JobCommand;
use lorchestra_core::host::files::open_regular;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::text::escaped;
use rustix::fs::OFlags;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum number of bytes of a unit or a crontab to read.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print one JSON object per line (schema lorchestra.schedule/1)
    #[arg(long)]
    json: bool,
}

/// A command of something installed that runs jobs.
#[derive(Debug)]
struct Entry {
    found: Found,
    command: JobCommand,
}

/// Something installed.
#[derive(Debug, Clone)]
struct Found {
    kind: &'static str,
    /// When it runs, in the syntax of its kind; `None` for a service that no timer starts.
    when: Option<String>,
    /// Where it was found.
    file: String,
}

pub(super) fn list(wanted: &List, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    // What is installed is listed all the same.
    let catalog = catalog(settings).map_err(|failure| {
        printer.warning(format_args!("whether these jobs can run is not known: {}", failure.message));
    });
    let mut entries = Vec::new();
    let config_home = settings.variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = config_home.unwrap_or_else(|| settings.home.join(".config")).join("systemd/user");
    for (dir, user) in [(own, true), ("/etc/systemd/user".into(), true), ("/etc/systemd/system".into(), false)] {
        entries.extend(units::all(&dir, user, settings));
    }
    entries.extend(crontab::all(settings, printer));
    for Entry { command, .. } in &mut entries {
        command.problems.extend(catalog.as_ref().ok().and_then(|catalog| missing_job(catalog, command)));
    }
    if wanted.json {
        for Entry { found: Found { kind, when, file }, command } in &entries {
            printer.json(&wire::ScheduleObject {
                schema: "lorchestra.schedule/1",
                kind,
                when: when.clone(),
                command: command.name,
                package: command.package.clone(),
                job: command.job.clone(),
                input: command.input.clone(),
                file: file.clone(),
                problems: command.problems.clone(),
            });
        }
        return Ok(Code::Success);
    }
    if entries.is_empty() {
        printer.note(format_args!("Nothing on this machine runs a job on a schedule ({}).", settings.user()));
        printer.note("lorchestra schedule print --help shows how to create one.");
        return Ok(Code::Success);
    }
    table(&entries, printer);
    Ok(Code::Success)
}

fn table(entries: &[Entry], printer: &mut Printer) {
    let whens: Vec<String> = entries.iter().map(|entry| escaped(entry.found.when.as_deref().unwrap_or("never"))).collect();
    let names: Vec<String> = entries.iter().map(|entry| escaped(&name(&entry.command))).collect();
    let longest = |texts: &[String], least: usize| cells::widest(texts.iter().map(String::as_str)).max(least);
    let (when, name) = (longest(&whens, 4).min(30), longest(&names, 3).min(40));
    printer.line(format_args!("{:when$}  {:name$}  FROM", "WHEN", "JOB"));
    for ((entry, at), job) in entries.iter().zip(&whens).zip(&names) {
        let column = |text: &str, width| cells::padded(&cells::fitted(text, width), width);
        printer.line(format_args!("{}  {}  {}", column(at, when), column(job, name), escaped(&entry.found.file)));
        for problem in &entry.command.problems {
            printer.line(format_args!("  {WARNING}{}{WARNING:#}", escaped(problem)));
        }
    }
}

/// The job, after the command if that is not `run-job`; or the command and its file.
fn name(JobCommand { name, package, job, input, .. }: &JobCommand) -> String {
    let what = match (package, job, input) {
        (Some(package), Some(job), _) => format!("{package}/{job}"),
        (_, _, Some(file)) => file.clone(),
        _ => "?".to_owned(),
    };
    if *name == "run-job" && package.is_some() { what } else { format!("{name} {what}") }
}

fn missing_job(catalog: &Catalog, JobCommand { package, job, .. }: &JobCommand) -> Option<String> {
    let (package, job) = package.as_deref().zip(job.as_deref())?;
    catalog
        .find_job(package, job)
        .is_err()
        .then(|| format!("{package}/{job} cannot be run: see lorchestra jobs show {package} {job}"))
}

/// The text of a unit or a crontab, if this user may read it.
fn text_of(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    open_regular(path, OFlags::RDONLY).ok()?.take(MAX_FILE).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}
