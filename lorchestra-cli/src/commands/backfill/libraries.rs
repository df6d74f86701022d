//! The libraries of a group that is resumed: those that are installed now, because a new build is the usual reason to resume.
//!
//! They are found before the group is changed, so a refused resume changes nothing. One package that is missing does not keep the jobs of
//! the others from running: as in a new group, the members of that package are refused, each with a reason.

use crate::commands::find_job;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::plan::RunSpec;
use lorchestra_core::run::launch::{self, LaunchError};
use lorchestra_core::store::Store;
use lorchestra_core::store::group::{Group, Member, PinnedLibrary};
use std::cell::RefMut;
use std::collections::BTreeSet;

/// Prepares a group to be run again, with the libraries that are installed now for the members that run. Prints which have changed, if there
/// is a printer.
///
/// # Errors
/// If none of the members can run, why the first one cannot; the group is as before. If the store fails.
pub(super) fn resume(
    group: &Group,
    (store, selected): (&mut Store, &[Member]),
    settings: &Settings,
    printer: Option<RefMut<'_, &mut Printer>>,
) -> Result<(), CommandError> {
    let libraries = installed(group, (store, selected), settings)?;
    let changed = store.resume_group(group, &libraries)?;
    let Some(mut printer) = printer else { return Ok(()) };
    for (PinnedLibrary { package, .. }, changed) in libraries.iter().zip(changed).filter(|(_, changed)| *changed > 0) {
        let use_it = if changed == 1 { "uses" } else { "use" };
        printer
            .note(format_args!("the library of {package} has changed: {} {use_it} the new one", show::counted(changed, "run")));
    }
    Ok(())
}

/// Finds the library of each package, and checks a member of each job.
fn installed(
    group: &Group,
    (store, members): (&Store, &[Member]),
    settings: &Settings,
) -> Result<Vec<PinnedLibrary>, CommandError> {
    let catalog = Catalog::scan(&settings.plugin_dirs);
    let mut libraries: Vec<PinnedLibrary> = Vec::new();
    let (mut seen, mut can_run, mut failure) = (BTreeSet::new(), false, None);
    for member in members {
        let text = store.member_spec(group.n, member.place)?.unwrap_or_default();
        let Ok(spec) = RunSpec::from_json(text.as_bytes()) else { continue };
        if !seen.insert((spec.package.clone(), spec.job.clone())) {
            continue;
        }
        match check(&spec, &catalog, &mut libraries) {
            Ok(()) => can_run = true,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(failure) if !can_run => Err(failure),
        _ => Ok(libraries),
    }
}

/// Finds the library of a spec, unless it is among `libraries`, and checks that it has the job.
fn check(spec: &RunSpec, catalog: &Catalog, libraries: &mut Vec<PinnedLibrary>) -> Result<(), CommandError> {
    let (package, manifest, job) = find_job(catalog, &spec.package, &spec.job)?;
    if !libraries.iter().any(|library| library.package == spec.package) {
        let sha256 = launch::seal(&package.path, &spec.package, None)?.sha256().to_owned();
        libraries.push(PinnedLibrary { package: spec.package.clone(), version: manifest.version, sha256 });
    }
    spec.check(&job).map_err(|error| LaunchError::Spec(error).into())
}
