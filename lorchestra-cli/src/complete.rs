//! Completion of command lines: the shell asks this binary (variable `COMPLETE`), which answers from the plugin directory and the store, so that
//! packages, jobs, their flags and runs are those that exist now. Reads manifests and never runs plugin code; prints nothing but candidates.

use crate::argv::pair::pair;
use crate::flags::{self, GlobalFlags};
use crate::settings::Settings;
use crate::show;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::packages::catalog::{Catalog, Package};
use lorchestra_core::store::{RunFilter, RunQuery, Store, short_id};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

/// Maximum number of runs offered as candidates.
const RUNS: u64 = 20;
/// The kind of a backfill's group in the store.
const BACKFILL: &str = "backfill";

/// If the shell requests completions, prints them and exits. `definition` is the whole command line.
pub(crate) fn answer(definition: fn() -> clap::Command) {
    CompleteEnv::with_factory(|| command(definition())).complete();
}

/// Returns the command line definition, including the flags of the job on the command line.
fn command(command: clap::Command) -> clap::Command {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Some((package, job)) = named_job(&words) else { return command };
    let Some(catalog) = catalog() else { return command };
    let manifest = catalog.find(&package).ok().and_then(|package| package.manifest().ok());
    let Some(job) = manifest.and_then(|manifest| manifest.job(&job).cloned()) else { return command };
    command.mut_subcommand("run-job", |run_job| run_job.args(flags::of_job(&package, &job)))
}

/// Returns PACKAGE and JOB after `run-job`, if they are on the command line, also as one word.
fn named_job(words: &[OsString]) -> Option<(String, String)> {
    let after = words.iter().skip_while(|word| *word != "run-job").skip(1);
    let mut names = after.filter_map(|word| word.to_str()).filter(|word| !word.is_empty() && !word.starts_with('-'));
    let first = names.next()?;
    let (package, job) = match pair(first) {
        Some(both) => both,
        None => (first, names.next()?),
    };
    Some((package.to_owned(), job.to_owned()))
}

fn catalog() -> Option<Catalog> {
    let settings = Settings::read(&GlobalFlags::default()).ok()?;
    Some(Catalog::scan(&settings.plugin_dirs))
}

fn starting_with(current: &OsStr, names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    names.into_iter().filter(|name| name.starts_with(&*current)).map(CompletionCandidate::new).collect()
}

/// Completes names of packages.
pub(crate) fn packages(current: &OsStr) -> Vec<CompletionCandidate> {
    let catalog = catalog();
    let names = catalog.iter().flat_map(|catalog| catalog.packages.iter().map(|package| package.summary.package.clone()));
    starting_with(current, names.collect::<Vec<_>>())
}

/// Completes PACKAGE where `PACKAGE/JOB` is accepted too: after the slash, names of jobs.
pub(crate) fn packages_or_pairs(current: &OsStr) -> Vec<CompletionCandidate> {
    let text = current.to_string_lossy();
    let Some((name, _)) = text.split_once('/') else { return packages(current) };
    let Some(catalog) = catalog() else { return Vec::new() };
    let package = catalog.packages.iter().find(|package| package.summary.package == name);
    let jobs = package.into_iter().flat_map(show::job_names).map(|job| format!("{name}/{job}"));
    starting_with(current, jobs.collect::<Vec<_>>())
}

/// Completes `PACKAGE/JOB`, in one step: all pairs.
pub(crate) fn pairs(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(catalog) = catalog() else { return Vec::new() };
    let of = |package: &Package| {
        let name = &package.summary.package;
        show::job_names(package).into_iter().map(|job| format!("{name}/{job}")).collect::<Vec<_>>()
    };
    starting_with(current, catalog.packages.iter().flat_map(of))
}

/// Completes `PACKAGE/JOB` of earlier runs, whose library may be gone.
pub(crate) fn pairs_with_runs(current: &OsStr) -> Vec<CompletionCandidate> {
    let keys = store().and_then(|store| store.keys(&RunQuery::default()).ok()).unwrap_or_default();
    let names: BTreeSet<String> = keys.into_iter().map(|key| format!("{}/{}", key.package, key.job)).collect();
    starting_with(current, names)
}

/// Completes names of jobs of the package before the cursor.
pub(crate) fn jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(catalog) = catalog() else { return Vec::new() };
    let words: Vec<String> = std::env::args().collect();
    let package = catalog.packages.iter().find(|package| words.contains(&package.summary.package));
    starting_with(current, package.into_iter().flat_map(|package| show::job_names(package).into_iter().map(str::to_owned)))
}

/// Returns the store, if there is one.
fn store() -> Option<Store> {
    let settings = Settings::read(&GlobalFlags::default()).ok()?;
    // Opening it would create a store.
    let state = StateDir::existing(&settings.state_dir).ok()?.filter(|state| state.store().exists())?;
    Store::open(&state).ok()
}

/// Completes the accounts of earlier runs.
pub(crate) fn accounts(current: &OsStr) -> Vec<CompletionCandidate> {
    let keys = store().and_then(|store| store.keys(&RunQuery::default()).ok()).unwrap_or_default();
    let accounts: BTreeSet<String> = keys.into_iter().map(|key| key.account).filter(|account| !account.is_empty()).collect();
    starting_with(current, accounts)
}

/// Completes the short ids of the newest backfills.
pub(crate) fn backfills(current: &OsStr) -> Vec<CompletionCandidate> {
    let groups = store().and_then(|store| store.groups(BACKFILL, RUNS).ok()).unwrap_or_default();
    starting_with(current, groups.into_iter().map(|group| short_id(&group.group_id).to_owned()))
}

/// Completes the short ids of the newest runs.
pub(crate) fn runs(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = || store()?.runs(&RunFilter { running: false, limit: Some(RUNS) }).ok();
    let current = current.to_string_lossy();
    let runs = found().unwrap_or_default();
    let ids = runs.iter().map(|run| {
        let what = format!("{}/{} {} {}", run.package, run.job, run.state.as_str(), show::age(now_micros(), run.started_at));
        CompletionCandidate::new(short_id(&run.run_id)).help(Some(what.into()))
    });
    let all = std::iter::once(CompletionCandidate::new("last")).chain(ids);
    all.filter(|candidate| candidate.get_value().to_string_lossy().starts_with(&*current)).collect()
}
