//! `schedule print` and `schedule list`: files with which cron, systemd, Kubernetes or Cloud Run start jobs, and what is installed of them.
//!
//! lorchestra has no scheduler, so a time is text in the syntax of the one that reads it. `print` checks jobs and their flags as `run-job`
//! does, without reading secrets, and changes nothing unless `--dir` is given. One file for each kind of schedule: [`systemd`], [`cron`],
//! [`containers`]. A container has no config.toml: see [`portable`].

pub(super) mod containers;
mod cron;
pub(super) mod environment;
mod list;
pub(super) mod portable;
mod systemd;

use super::{bookmarks, catalog, find_job};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::{self, ParseOutcome};
use crate::notify::Notices;
use crate::params;
use crate::printer::Printer;
use crate::secrets::Configured;
use crate::settings::{PLUGIN_FLAG, Settings};
use chrono::Utc;
use clap::{ArgGroup, Args, Subcommand};
use environment::{Environment, check_delivery};
use lorchestra_core::host::atomic_file::OutputFile;
use lorchestra_core::host::files::open_regular;
use lorchestra_core::plan::source::Source;
use lorchestra_core::plan::{self, Context, ParamArg, PlanRequest, RunPolicy};
use lorchestra_core::store::bookmark::Key;
use lorchestra_core::text::{path_text, quote, shell};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, is_name};
use portable::{Origins, Portable, portable, secret_variables};
use rustix::fs::OFlags;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time that systemd or Kubernetes waits beyond the grace period and the delivery timeout before it kills everything.
pub(super) const MARGIN: Duration = Duration::from_secs(20);

/// What Cloud Run does to a store.
pub(super) const EPHEMERAL: &str =
    "Cloud Run keeps no files: runs and bookmarks are lost with each container, so events must be delivered";

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Print systemd units, crontab lines, a Kubernetes CronJob or a Cloud Run job that run jobs on a schedule
    #[command(before_help = EXAMPLES, after_help = AT)]
    Print(Box<Print>),
    /// List the systemd timers and crontab lines on this machine that run jobs
    #[command(before_help = "Example:\n  lorchestra schedule list")]
    List(list::List),
}

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra schedule print ingester/extract_gmail --systemd -- --timeout 2h --since last:-2d
  lorchestra schedule print canonizer/canonicalize_email --cron --at '0 4 * * *'
  lorchestra schedule print ingester/extract_gmail --k8s \\
      --image registry.example.org/lorchestra:1 -- --since -1d";

const AT: &str = "\
--at has the syntax of the scheduler: OnCalendar= for systemd, for example '*-*-* 03:15:00' or 'Mon *-*-* 09:00', and five fields for the \
others, for example '15 3 * * *' or '0 9 * * 1'. Without --at, the job runs every night at 03:15.

Environment variables that lorchestra reads and that are set now (XDG_STATE_HOME, LORCHESTRA_PLUGIN_PATH and others) are copied into the \
schedule, except secrets and, for containers, paths on this machine.

A container has no config.toml. The parameters, sources of secrets, policies and BigQuery table that the file sets become flags and \
variables of the container. The command lists the other keys of the file, which have no effect there.";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct Print {
    /// Jobs to run, as PACKAGE/JOB
    #[arg(required = true, value_name = "PACKAGE/JOB", add = clap_complete::engine::ArgValueCompleter::new(crate::complete::pairs))]
    jobs: Vec<String>,
    /// Print a systemd service and timer for this user
    #[arg(long, group = "target")]
    systemd: bool,
    /// Print crontab lines
    #[arg(long, group = "target")]
    cron: bool,
    /// Print a Kubernetes CronJob
    #[arg(long, group = "target", requires = "image")]
    k8s: bool,
    /// Print a Cloud Run job
    #[arg(long, group = "target", requires = "image")]
    cloud_run: bool,
    /// When to run: '*-*-* 03:15:00' for systemd, '15 3 * * *' for the others
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// With --systemd: print units for the system manager instead; they run as this user too
    #[arg(long)]
    system: bool,
    /// With --k8s or --cloud-run: container image with lorchestra and the plugins
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Name of the units or resources [default: lorchestra-PACKAGE-JOB]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write the files into this directory instead of printing them
    #[arg(long, value_name = "DIR", conflicts_with = "cron")]
    dir: Option<PathBuf>,
    /// Flags of run-job and of the job (only if a single job is given)
    #[arg(last = true, value_name = "JOB FLAGS")]
    rest: Vec<OsString>,
}

/// A job to run on a schedule.
struct Scheduled {
    package: String,
    job: String,
    /// Stem of file names, and name of resources.
    name: String,
    /// Arguments after the binary, for this machine.
    args: Vec<String>,
    /// The same for a container.
    portable: Portable,
    /// Names of systemd credentials that the run reads.
    credentials: Vec<String>,
    /// Environment variables that hold secrets.
    variables: Vec<String>,
    /// How long a run may take to end after SIGTERM.
    stop_within: Duration,
    timeout: Option<Duration>,
}

/// A file to install.
struct File {
    name: String,
    text: String,
}

pub(super) fn run(
    command: &Schedule,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    match command {
        Schedule::Print(wanted) => print(wanted, settings, notices, printer),
        Schedule::List(wanted) => list::list(wanted, settings, printer),
    }
}

impl Print {
    /// Refuses flags of another target. (clap does not check that a flag requires one of several that exclude each other.)
    fn check_target(&self) -> Result<(), CommandError> {
        let targets = [(self.systemd, "--systemd"), (self.cron, "--cron"), (self.k8s, "--k8s"), (self.cloud_run, "--cloud-run")];
        let target = targets.iter().find(|(is_set, _)| *is_set).map_or("the target", |(_, name)| name);
        let is_container = self.k8s || self.cloud_run;
        let flags = [
            (self.system && !self.systemd, "--system", "--systemd"),
            (self.image.is_some() && !is_container, "--image", "--k8s or --cloud-run"),
        ];
        flags.iter().find(|(is_wrong, ..)| *is_wrong).map_or(Ok(()), |(_, flag, of)| {
            Err(CommandError::new(Code::Usage, format!("{flag} has no effect with {target}: it is for {of}"))
                .hint(format!("omit {flag}, or use {of} instead of {target}")))
        })
    }
}

fn print(wanted: &Print, settings: &Settings, notices: &mut Notices<'_>, printer: &mut Printer) -> Result<Code, CommandError> {
    wanted.check_target()?;
    if wanted.jobs.len() > 1 && (!wanted.rest.is_empty() || wanted.name.is_some()) {
        return Err(CommandError::new(Code::Usage, "job flags and --name are for one job, and there are several")
            .hint("run schedule print once for each job"));
    }
    if let Some(name) = wanted.name.as_deref().filter(|name| !is_name(name)) {
        return Err(CommandError::new(Code::Usage, format!("--name {} is not a name", quote(name)))
            .hint("use letters a-z, digits, - and _, at most 64"));
    }
    if let Some(at) = wanted.at.as_deref().filter(|at| at.trim().is_empty() || at.chars().any(char::is_control)) {
        return Err(CommandError::new(Code::Usage, format!("--at {} is not a time", quote(at)))
            .hint("see lorchestra schedule print --help"));
    }
    if let Some(at) = wanted.at.as_deref() {
        if wanted.systemd { systemd::check(at)? } else { cron::check(at)? }
    }
    let environment = Environment::read(settings)?;
    let jobs: Vec<Scheduled> =
        wanted.jobs.iter().map(|job| scheduled(job, wanted, settings, (notices, printer))).collect::<Result<_, _>>()?;
    if wanted.cron {
        printer.line(cron::lines(&jobs, wanted.at.as_deref(), &binary()?, &environment.variables)?);
        printer.note("Add these lines with crontab -e. cron mails what a command prints: set MAILTO above them.");
        environment.notes.iter().for_each(|note| printer.note(note));
        return Ok(Code::Success);
    }
    let at = wanted.at.as_deref();
    let (files, notes) = if wanted.systemd {
        let manager = systemd::Manager { system: wanted.system, written_to: wanted.dir.as_deref(), binary: &binary()? };
        let files = systemd::files(&jobs, at, &manager, settings, &environment.variables)?;
        (files, [systemd::notes(&jobs, &manager, settings), environment.notes].concat())
    } else {
        let image = wanted.image.as_deref().unwrap_or_default();
        let environment = environment.of_container(settings);
        let (files, notes) = containers::files(&jobs, at, image, (wanted.k8s, &environment.variables));
        let mut keys: Vec<String> = jobs.iter().flat_map(|job| job.portable.left_out.iter().cloned()).collect();
        keys.sort();
        keys.dedup();
        (files, [notes, environment.notes, portable::note_of(&keys).into_iter().collect()].concat())
    };
    match &wanted.dir {
        Some(dir) => write(&files, dir, printer)?,
        None => {
            for (n, file) in files.iter().enumerate() {
                let gap = if n == 0 { "" } else { "\n" };
                let separator = if wanted.systemd || n == 0 { "" } else { "---\n" };
                printer.line(format_args!("{gap}{separator}# {}\n{}", file.name, file.text.trim_end()));
            }
        }
    }
    for note in notes {
        printer.note(note);
    }
    Ok(Code::Success)
}

/// Checks a job and its flags, and collects what its schedule needs.
fn scheduled(
    name: &str,
    wanted: &Print,
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Scheduled, CommandError> {
    let (package, job_name) = name.split_once('/').ok_or_else(|| {
        CommandError::new(Code::Usage, format!("{} does not name a job", quote(name)))
            .hint("write PACKAGE/JOB; see lorchestra jobs list")
    })?;
    let catalog = catalog(settings)?;
    let (_, manifest, job) = find_job(&catalog, package, job_name)?;
    let parsed = match flags::parse(package, &job, &wanted.rest) {
        ParseOutcome::Parsed(parsed) => parsed,
        ParseOutcome::Failed(failure) => return Err(failure),
        ParseOutcome::Clap(error) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            return Err(CommandError::new(Code::Usage, first.trim_start_matches("error: "))
                .hint(format!("lorchestra run-job {package} {job_name} --help")));
        }
    };
    let mut values = parsed.given;
    values.extend(flags::named(&parsed.own.param)?);
    values.extend(params::configured(package, &job, &values, settings)?);
    absolute(&job, &values)?;
    let bookmark = match plan::last::requested_bookmark(&job, &values) {
        Some(asked) => {
            let key = Key { package, job: job_name, account: asked.account.as_deref() };
            bookmarks::for_plan(key, true, settings, notices, printer)?
        }
        None => None,
    };
    let configured = Configured::of(package, &job, &values, settings)?;
    values.extend(configured.values(settings));
    let configured: Vec<ParamArg> = values.iter().filter(|value| value.is_configured).cloned().collect();
    let config = settings.jobs.get(name).map(crate::config::JobConfig::policy).unwrap_or_default();
    let own = RunPolicy { timeout: parsed.own.timeout, grace: parsed.own.grace, ..RunPolicy::default() };
    let spec = plan::resolve(PlanRequest {
        package,
        version: &manifest.version,
        job: &job,
        values,
        now: Utc::now(),
        bookmark,
        limits: plan::policy::limits(own, config, &job),
        context: Context::default(),
    })
    .map_err(|error| super::run_job::bad_parameters(package, &job, &error, settings))?;
    let rest: Vec<String> = wanted.rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if wanted.cloud_run || wanted.k8s && parsed.own.require_delivery {
        check_delivery(settings)?;
    }
    let origins = Origins { package, job: &job, own: &parsed.own, rest: &rest, configured: &configured };
    let portable = portable(&origins, &spec, settings);
    let command = ["run-job", "-q", "--requested-by", "schedule", package, job_name].map(str::to_owned);
    let delivery = parsed.own.delivery_timeout.unwrap_or(settings.delivery_timeout);
    Ok(Scheduled {
        name: wanted.name.clone().unwrap_or_else(|| format!("lorchestra-{package}-{job_name}")),
        args: here(settings).into_iter().chain(command).chain(rest.iter().cloned()).collect(),
        portable,
        credentials: spec
            .secrets
            .values()
            .filter_map(|source| match source {
                Source::Credential(name) | Source::Usual { credential: name, optional: false, .. } => Some(name.clone()),
                _ => None,
            })
            .collect(),
        variables: secret_variables(&spec),
        stop_within: spec.grace + delivery + MARGIN,
        timeout: spec.timeout,
        package: package.to_owned(),
        job: job_name.to_owned(),
    })
}

/// Fails for a relative path: a schedule has another working directory.
fn absolute(job: &JobManifest, values: &[ParamArg]) -> Result<(), CommandError> {
    let is_path = |name: &str| job.params.iter().any(|param| param.name == name && param.kind == ParamKind::Path);
    let is_relative = |value: &ParamArg| Path::new(&value.text).is_relative() && !value.text.starts_with("~/");
    match values.iter().find(|value| is_path(&value.name) && is_relative(value)) {
        Some(value) => Err(CommandError::new(
            if value.is_configured { Code::Config } else { Code::Usage },
            format!("{} {} is a relative path", value.typed_as, value.text),
        )
        .hint("use an absolute path: a schedule runs in another directory")),
        None => Ok(()),
    }
}

/// Global flags without which a run would find other settings than this command.
fn here(settings: &Settings) -> Vec<String> {
    let mut args = Vec::new();
    if settings.config_is_flag {
        args.extend(["--config".to_owned(), settings.config_path.display().to_string()]);
    }
    for dir in settings.plugin_dirs.iter().filter(|dir| dir.origin == PLUGIN_FLAG) {
        args.extend(["--plugin-dir".to_owned(), dir.path.display().to_string()]);
    }
    args
}

/// The path of this binary. cron and systemd do not search the directories of a user.
fn binary() -> Result<PathBuf, CommandError> {
    let path = super::executable()?;
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Ok(path),
        _ => Err(CommandError::new(Code::Failed, format!("{} cannot be written in a schedule", path_text(&path)))
            .hint("install lorchestra in a directory with a printable UTF-8 name")),
    }
}

fn write(files: &[File], dir: &Path, printer: &mut Printer) -> Result<(), CommandError> {
    let failed = CommandError::not_written;
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
    for file in files {
        let path = dir.join(&file.name);
        match contents(&path) {
            Ok(there) if there == file.text.as_bytes() => {}
            Ok(_) => {
                return Err(CommandError::new(Code::Failed, format!("{} exists and differs", path_text(&path)))
                    .hint(format!("remove it, or choose another name with --name: rm {}", shell(&path))));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Complete, or not at all: a part of a unit would be installed, and would not be overwritten.
                let written = OutputFile::write_whole(&path, Permissions::from_mode(0o644), file.text.as_bytes());
                written.map_err(|e| failed(&path, &e))?;
            }
            // It may be anything, so it is not overwritten.
            Err(e) => return Err(failed(&path, &e)),
        }
        printer.good(format_args!("written: {}", path_text(&path)));
    }
    Ok(())
}

/// The bytes of a regular file, which need not be text.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path, OFlags::RDONLY)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
