//! `run-group FILE`: runs the jobs of a TOML file in stages, and prints one summary. The file lists jobs and their parameters; it has no
//! conditions, loops or templates. A stage starts when all jobs of the one before have ended. `earlier` finds the group that a file was run
//! as before.

mod earlier;

use super::backfill::drive::{DriveFlags, Resume, drive};
use super::backfill::processors;
use super::named_group::find;
use super::resolve::{SpecRequest, resolve};
use super::{bookmarks, find_job, history};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::params;
use crate::printer::Printer;
use crate::secrets::{self, Configured};
use crate::settings::Settings;
use crate::values;
use chrono::Utc;
use clap::Args;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::plan::{OnOverlap, ParamArg, RunPolicy, RunSpec, last};
use lorchestra_core::run::launch;
use lorchestra_core::store::Store;
use lorchestra_core::store::bookmark::Key;
use lorchestra_core::store::group::{GroupSettings, NewGroup, NewMember, Selection};
use lorchestra_core::text::path_text;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The kind of these groups in the store.
pub(super) const KIND: &str = "run-group";

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra run-group nightly.toml
  lorchestra run-group nightly.toml -j 4
  lorchestra run-group nightly.toml --rerun-failed";

pub(super) const FILE_FORMAT: &str = "The file:
  name = \"nightly\"            # optional; the name of the file by default
  keep_going = false          # start later stages even if a job failed

  [[stage]]
  [[stage.jobs]]
  job = \"ingester/extract_gmail\"
  params = { account = \"anna\", since = \"last:-2d\" }
  timeout = \"2h\"              # optional, as are grace, retries, memory_max
  on_overlap = \"wait=10m\"     # optional, as --on-overlap of run-job

  [[stage]]
  [[stage.jobs]]
  job = \"canonizer/canonicalize_email\"";

#[derive(Debug, Args)]
pub(crate) struct RunGroup {
    /// Group file (see below)
    pub(crate) file: PathBuf,
    /// Run only the jobs that failed or did not run the last time this file was run; refused if its jobs have changed since
    #[arg(long)]
    pub(crate) rerun_failed: bool,
    /// Maximum number of jobs that run at once [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = crate::values::number::<u32>(1..=1000))]
    pub(crate) jobs: Option<u32>,
    /// Start later stages even if a job failed
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Check the file and print its jobs, and start nothing
    #[arg(long, conflicts_with_all = ["rerun_failed", "json"])]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) drive: DriveFlags,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    name: Option<String>,
    #[serde(default)]
    keep_going: bool,
    #[serde(default)]
    stage: Vec<FileStage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStage {
    jobs: Vec<FileJob>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJob {
    job: String,
    name: Option<String>,
    #[serde(default)]
    params: toml::Table,
    timeout: Option<String>,
    grace: Option<String>,
    retries: Option<u32>,
    memory_max: Option<String>,
    on_overlap: Option<OnOverlap>,
}

pub(super) fn run(
    command: &RunGroup,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let file = read(&command.file)?;
    let stem = || command.file.file_stem().map_or_else(|| "group".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let name = file.name.clone().unwrap_or_else(stem);
    let written = earlier::written(&file, &command.file);
    if command.rerun_failed {
        let mut group = match history(settings, notices, printer)? {
            Some((_, store)) => earlier::find(&store, &name, &written)?,
            None => return Err(earlier::none(&name)),
        };
        group.settings.parallel = command.jobs.unwrap_or(group.settings.parallel);
        // A file that says otherwise than before decides; else as the last time.
        if group.settings.file.as_ref().is_some_and(|before| before.keep_going != written.keep_going) {
            group.settings.keep_going = written.keep_going;
            group.settings.file = Some(written);
        }
        group.settings.keep_going |= command.keep_going;
        let plan = Resume { selection: Selection::ALL, is_new: false };
        return drive(&group, plan, &command.drive, settings, (notices, printer));
    }
    let group_id = Uuid::now_v7().to_string();
    let members = members(&file, &group_id, command, settings, (notices, printer))?;
    if command.dry_run {
        for member in &members {
            printer.line(format_args!("stage {}  {}", member.stage + 1, member.label));
        }
        return Ok(Code::Success);
    }
    let settings_of = GroupSettings {
        parallel: command.jobs.unwrap_or_else(processors),
        newest_first: false,
        max_failures: None,
        keep_going: file.keep_going || command.keep_going,
        moves_bookmark: None,
        engine: None,
        file: Some(written),
    };
    let group = NewGroup { group_id, kind: KIND.into(), name, created_at: now_micros(), settings: settings_of, members };
    let state = StateDir::open(&settings.state_dir)?;
    let mut store = Store::open(&state)?;
    store.create_group(&group)?;
    let group = find(&store, &group.group_id)?;
    drop(store);
    let plan = Resume { selection: Selection::ALL, is_new: true };
    drive(&group, plan, &command.drive, settings, (notices, printer))
}

fn read(path: &Path) -> Result<GroupFile, CommandError> {
    let name = path_text(path);
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::new(Code::Usage, format!("{name} cannot be read: {error}")).hint("see lorchestra run-group --help")
    })?;
    let file: GroupFile = toml::from_str(&text).map_err(|error| {
        let message = error.message().to_owned();
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let line = line.map(|line| format!(" line {line}:")).unwrap_or_default();
        CommandError::new(Code::Usage, format!("{name}:{line} {message}"))
            .hint("run lorchestra run-group --help to see the format")
    })?;
    if file.stage.iter().all(|stage| stage.jobs.is_empty()) {
        return Err(CommandError::new(Code::Usage, format!("{name} has no jobs"))
            .hint("run lorchestra run-group --help to see the format"));
    }
    Ok(file)
}

/// Resolves every job of the file before any of them runs.
fn members(
    file: &GroupFile,
    group: &str,
    command: &RunGroup,
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<Vec<NewMember>, CommandError> {
    let catalog = Catalog::scan(&settings.plugin_dirs);
    let now = Utc::now();
    let mut members: Vec<NewMember> = Vec::new();
    for (stage, number) in file.stage.iter().zip(0_u32..) {
        for entry in &stage.jobs {
            let label = label(entry);
            if members.iter().any(|member| member.label == label) {
                return Err(CommandError::new(Code::Usage, format!("two jobs of the group are called {label}"))
                    .hint("give one of them another name: name = \"…\""));
            }
            let spec = spec(entry, (group, now), (&catalog, command.dry_run), settings, (notices, printer))
                .map_err(|failure| CommandError { message: format!("{label}: {}", failure.message), ..failure })?;
            members.push(NewMember { stage: number, label, spec: spec.to_json() });
        }
    }
    Ok(members)
}

fn label(entry: &FileJob) -> String {
    if let Some(name) = &entry.name {
        return name.clone();
    }
    match entry.params.get("account").and_then(toml::Value::as_str) {
        Some(account) => format!("{} {account}", entry.job),
        None => entry.job.clone(),
    }
}

fn spec(
    entry: &FileJob,
    (group, now): (&str, chrono::DateTime<Utc>),
    (catalog, dry_run): (&Catalog, bool),
    settings: &Settings,
    (notices, printer): (&mut Notices<'_>, &mut Printer),
) -> Result<RunSpec, CommandError> {
    let usage = |text: String| CommandError::new(Code::Usage, text);
    let (package_name, job_name) =
        entry.job.split_once('/').ok_or_else(|| usage(format!("job = {:?}: write PACKAGE/JOB", entry.job)))?;
    let (package, manifest, job) = &find_job(catalog, package_name, job_name)?;
    let mut given = Vec::new();
    for (name, value) in &entry.params {
        let items = match value {
            toml::Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for item in items {
            let text = params::text(item).ok_or_else(|| usage(format!("params.{name} is a table or a list in a list")))?;
            given.push(ParamArg { name: name.clone(), text, typed_as: format!("params.{name} ="), is_configured: false });
        }
    }
    let bookmark = match last::requested_bookmark(job, &given) {
        Some(asked) => {
            let key = Key { package: package_name, job: job_name, account: asked.account.as_deref() };
            bookmarks::for_plan(key, dry_run, settings, notices, printer)?
        }
        None => None,
    };
    let duration = |key: &str, text: &Option<String>, read: fn(&str) -> Result<std::time::Duration, String>| {
        text.as_deref().map(|text| read(text).map_err(|error| usage(format!("{key} = {text:?}: {error}")))).transpose()
    };
    let memory = |text: &str| values::memory(text).map_err(|error| usage(format!("memory_max = {text:?}: {error}")));
    let policy = RunPolicy {
        timeout: duration("timeout", &entry.timeout, values::limit)?,
        grace: duration("grace", &entry.grace, values::duration)?,
        retries: entry.retries,
        memory_max: entry.memory_max.as_deref().map(memory).transpose()?,
        on_overlap: entry.on_overlap,
        ..RunPolicy::default()
    };
    let version = &manifest.version;
    let request = SpecRequest { package: package_name, version, job, values: given, policy, group, now, bookmark };
    let mut spec = resolve(request, settings)?;
    let library = launch::seal(&package.path, package_name, None)?;
    launch::fit(&spec, &library)?;
    secrets::find(&spec, &Configured::default(), settings)?;
    spec.sha256 = Some(library.sha256().to_owned());
    Ok(spec)
}
