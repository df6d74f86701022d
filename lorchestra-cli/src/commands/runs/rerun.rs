//! `runs rerun`: runs the spec of an earlier run again, as a new run; or those of all runs that failed and have not been made up for.
//!
//! Parameters, window, limits and the sources of secrets are those of the earlier run; the library is the one that is installed now, since a
//! new build is the usual reason to run a job again. The window stays that of the earlier run, even if it began at the bookmark.

use crate::commands::find_run;
use crate::commands::known::require_known_of;
use crate::commands::run_job;
use crate::commands::{find_job, history};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::OwnFlags;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show::counted;
use crate::values;
use clap::Args;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::packages::library;
use lorchestra_core::plan::{RequestedBy, RunSpec};
use lorchestra_core::store::{Run, RunQuery, Uncovered, short_id};
use lorchestra_core::text::quote;
use std::collections::BTreeSet;
use std::time::Duration;

/// How far `--failed` looks back, unless `--since` says otherwise.
const LOOK_BACK: &str = "-1d";
/// Maximum number of runs without a spec to name.
const MAX_REPORTED: usize = 10;

/// Arguments of `runs rerun`.
#[derive(Debug, Args)]
pub(crate) struct Rerun {
    /// Run: id, short id, start or end of an id, `last`, or PACKAGE/JOB for its newest run
    #[arg(required_unless_present = "failed", add = clap_complete::engine::ArgValueCompleter::new(crate::complete::runs))]
    pub(crate) run: Option<String>,
    /// Rerun every run that failed (except cancelled ones), unless a later run covers it
    #[arg(long, conflicts_with = "run")]
    pub(crate) failed: bool,
    /// With --failed: only runs that started at or after this time [default: -1d]
    #[arg(long, value_name = "TIME", requires = "failed", conflicts_with = "run")]
    pub(crate) since: Option<String>,
    /// With --failed: only runs of this job
    #[arg(long, value_name = "PACKAGE/JOB", requires = "failed", conflicts_with = "run", add = clap_complete::engine::ArgValueCompleter::new(crate::complete::pairs_with_runs))]
    pub(crate) job: Option<String>,
    /// Refuse to run if the library has changed since the earlier run
    #[arg(long)]
    pub(crate) same_library: bool,
    /// Exit with 69 unless every destination has received the events of the new runs in time
    #[arg(long)]
    pub(crate) require_delivery: bool,
    /// Wait up to this long for the last events to be delivered (0s: do not wait) [default: 10s]
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub(crate) delivery_timeout: Option<Duration>,
    /// Print the runs that would be rerun, and start nothing
    #[arg(long, conflicts_with = "json")]
    pub(crate) dry_run: bool,
    /// Print one JSON object for each new run (schema lorchestra.run-job/1)
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn rerun(
    wanted: &Rerun,
    verbose: u8,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let query = failed_query(wanted)?;
    let history = history(settings, notices, printer)?;
    let store = history.as_ref().map(|(_, store)| store);
    require_known_of(query.package.as_deref(), query.job.as_deref(), settings, store)?;
    let runs = match (&wanted.run, store) {
        (Some(run), _) => vec![find_run(store, settings, run)?],
        (None, Some(store)) => {
            let Uncovered { failed, without_spec } = store.uncovered(&query)?;
            report(&without_spec, printer);
            if failed.is_empty() && !without_spec.is_empty() {
                printer.note("No other failed run needs to be run again.");
                return Ok(Code::Success);
            }
            failed
        }
        (None, None) => Vec::new(),
    };
    drop(history);
    if runs.is_empty() {
        printer.note("No failed run needs to be run again.");
        return Ok(Code::Success);
    }
    let mut signals = None;
    let mut failed = Vec::new();
    let mut found = BTreeSet::new();
    for run in &runs {
        // Searching the plugin directories takes longer than everything else about a run.
        let is_searched = !wanted.dry_run || wanted.same_library || found.insert((&run.package, &run.job));
        let spec = match is_searched.then(|| spec_of(run, wanted.same_library, settings)).transpose() {
            Ok(spec) => spec,
            Err(failure) if runs.len() == 1 => return Err(failure),
            Err(failure) => {
                // The others may still be run again.
                failed.push(failure.code);
                found.remove(&(&run.package, &run.job));
                let (id, job) = (short_id(&run.run_id), format!("{}/{}", run.package, run.job));
                printer.bad(format_args!("run {id} of {job} cannot be run again: {}", failure.message));
                failure.hints.iter().for_each(|hint| printer.note(format_args!("  {hint}")));
                continue;
            }
        };
        let Some(spec) = spec.filter(|_| !wanted.dry_run) else {
            show(run, printer);
            continue;
        };
        // A run that was refused has no library, so it is unknown whether it has changed.
        if spec.sha256.is_none()
            && !run.plugin_sha256.is_empty()
            && installed(run, settings).is_some_and(|sha256| sha256 != run.plugin_sha256)
        {
            printer.note(format_args!("the library of {} has changed since run {}", run.package, short_id(&run.run_id)));
        }
        let own = OwnFlags {
            json: wanted.json,
            require_delivery: wanted.require_delivery,
            delivery_timeout: wanted.delivery_timeout,
            ..OwnFlags::default()
        };
        let code = run_job::run_spec(spec, &own, (verbose, settings, None), &mut signals, (notices, printer)).code;
        if runs.len() == 1 || matches!(code, Code::Interrupted(_)) {
            return Ok(code);
        }
        if code != Code::Success {
            failed.push(code);
        }
    }
    if runs.len() > 1 && !wanted.dry_run {
        let all = runs.len();
        printer.note(format_args!("{} of {all} runs completed", all - failed.len()));
    }
    // Not only undelivered: some runs failed.
    let undelivered = !failed.is_empty() && failed.iter().all(|code| *code == Code::Undelivered);
    Ok(if failed.is_empty() {
        Code::Success
    } else if undelivered {
        Code::Undelivered
    } else {
        Code::Failed
    })
}

/// Returns the spec to run again.
fn spec_of(run: &Run, same_library: bool, settings: &Settings) -> Result<RunSpec, CommandError> {
    let id = short_id(&run.run_id);
    if run.spec_json.is_empty() {
        let what = format!("run {id} has no spec: it was refused before one was created");
        return Err(CommandError::new(Code::Failed, what).hint("run the command of the schedule again"));
    }
    let mut spec = run.spec().map_err(|error| CommandError::new(Code::Internal, format!("the spec of run {id}: {error}")))?;
    spec.since_last = false;
    spec.requested_by = RequestedBy::Rerun(run.run_id.clone());
    if same_library {
        if run.plugin_sha256.is_empty() {
            let what = format!("run {id} has no library to compare with: it was refused before it loaded one");
            return Err(CommandError::new(Code::Failed, what).hint("omit --same-library"));
        }
        spec.sha256 = Some(run.plugin_sha256.clone());
    } else {
        let (_, manifest, _) = find_job(&Catalog::scan(&settings.plugin_dirs), &run.package, &run.job)?;
        spec.sha256 = None;
        spec.version = manifest.version;
    }
    Ok(spec)
}

/// Returns the sha256 of the installed library, if it can be read.
fn installed(run: &Run, settings: &Settings) -> Option<String> {
    let catalog = Catalog::scan(&settings.plugin_dirs);
    library::sha256(&catalog.find(&run.package).ok()?.path).ok()
}

fn show(run: &Run, printer: &mut Printer) {
    let why = super::why(run).unwrap_or_default();
    printer.line(format_args!("{}  {}/{}  {why}", short_id(&run.run_id), run.package, run.job).to_string().trim_end());
}

/// Names the failed runs that cannot be run again.
fn report(without_spec: &[Run], printer: &mut Printer) {
    for run in without_spec.iter().take(MAX_REPORTED) {
        let (id, job) = (short_id(&run.run_id), format!("{}/{}", run.package, run.job));
        printer.note(format_args!("run {id} of {job} has no spec: run the command of the schedule again"));
    }
    if let Some(more) = without_spec.len().checked_sub(MAX_REPORTED).filter(|more| *more > 0) {
        let (more, have) = (counted(more, "more refused run"), if more == 1 { "has" } else { "have" });
        printer.note(format_args!("{more} {have} no spec: run lorchestra runs list --state refused"));
    }
}

/// Returns the runs among which `--failed` chooses. Needs no history: a mistake in a flag is one without any run, too.
fn failed_query(wanted: &Rerun) -> Result<RunQuery, CommandError> {
    let since = values::time("--since", Some(wanted.since.as_deref().unwrap_or(LOOK_BACK)))?;
    let (package, job) = match wanted.job.as_deref().map(|job| job.split_once('/').ok_or(job)) {
        None => (None, None),
        Some(Ok((package, job))) => (Some(package.to_owned()), Some(job.to_owned())),
        Some(Err(job)) => {
            let what = format!("--job {}: the package is missing", quote(job));
            return Err(CommandError::new(Code::Usage, what).hint("write PACKAGE/JOB"));
        }
    };
    Ok(RunQuery { package, job, since, ..RunQuery::default() })
}
