//! Names of packages and jobs that a user may ask about: those of the libraries, of `config.toml` and of the history. Refuses any other, since
//! a misspelt name must not look like a healthy job.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::packages::catalog::{Catalog, Lookup, Package};
use lorchestra_core::store::{RunQuery, Store};
use lorchestra_core::text::{nearest, quote};
use std::collections::BTreeSet;

/// Like [`require_known`], of a package, a job or both. A job without a package may be one of any package.
pub(super) fn require_known_of(
    package: Option<&str>,
    job: Option<&str>,
    settings: &Settings,
    store: Option<&Store>,
) -> Result<(), CommandError> {
    match (package, job) {
        (Some(package), job) => require_known(package, job, settings, store),
        (None, None) => Ok(()),
        (None, Some(job)) => {
            let catalog = Catalog::scan(&settings.plugin_dirs);
            let mut names = known_names(settings, store)?;
            names.extend(of_catalog(&catalog));
            if names.iter().any(|(_, known)| known == job) {
                return Ok(());
            }
            let jobs: BTreeSet<&str> = names.iter().map(|(_, job)| job.as_str()).collect();
            let failure = CommandError::new(Code::Failed, format!("no package has a job {}", quote(job)));
            Err(nearest(job, jobs)
                .into_iter()
                .fold(failure, |failure, name| failure.hint(format!("did you mean {name}?")))
                .hint("run lorchestra jobs list to see all jobs"))
        }
    }
}

/// Returns the jobs that `config.toml` and the history name.
fn known_names(settings: &Settings, store: Option<&Store>) -> Result<BTreeSet<(String, String)>, CommandError> {
    let configured = settings.jobs.keys().filter_map(|name| name.split_once('/'));
    let mut names: BTreeSet<(String, String)> = configured.map(|(package, job)| (package.into(), job.into())).collect();
    if let Some(store) = store {
        names.extend(store.keys(&RunQuery::default())?.into_iter().map(|key| (key.package, key.job)));
        names.extend(store.bookmarks(None, None)?.into_iter().map(|bookmark| (bookmark.package, bookmark.job)));
    }
    Ok(names)
}

fn of_catalog(catalog: &Catalog) -> impl Iterator<Item = (String, String)> + '_ {
    let jobs = |package: &'_ Package| {
        package.summary.jobs.iter().map(|job| (package.summary.package.clone(), job.name.clone())).collect::<Vec<_>>()
    };
    catalog.packages.iter().flat_map(jobs)
}

/// Fails with the nearest names if nothing knows the package, or the job in it. The library of a known name may have been removed, or be
/// unusable.
pub(super) fn require_known(
    package: &str,
    job: Option<&str>,
    settings: &Settings,
    store: Option<&Store>,
) -> Result<(), CommandError> {
    let mut names = known_names(settings, store)?;
    let is_wanted = |(a, b): &(String, String)| a == package && job.is_none_or(|job| job == b);
    if names.iter().any(is_wanted) {
        return Ok(());
    }
    // Last, because it reads files.
    let catalog = Catalog::scan(&settings.plugin_dirs);
    match catalog.find(package) {
        Err(Lookup::Unusable(_)) => return Ok(()),
        Ok(_) if job.is_none_or(|job| catalog.find_job(package, job).is_ok()) => return Ok(()),
        _ => {}
    }
    names.extend(of_catalog(&catalog));
    let is_known_package = names.iter().any(|(a, _)| a == package);
    let (job, similar) = match job.filter(|_| is_known_package) {
        Some(job) => {
            let jobs = names.iter().filter(|(a, _)| a == package).map(|(_, job)| job.as_str());
            (Some(job), nearest(job, jobs))
        }
        None => {
            let packages: BTreeSet<&str> = names.iter().map(|(package, _)| package.as_str()).collect();
            (None, nearest(package, packages))
        }
    };
    let unknown = Lookup::Unknown { nearest: similar.into_iter().map(str::to_owned).collect() };
    Err(CommandError::lookup(&catalog, package, job, &unknown))
}
