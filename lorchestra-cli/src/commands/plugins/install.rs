//! `plugins install` and `plugins remove`, with a report of what changes for callers of the jobs.

use super::lock::Lock;
use crate::cells;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::wire::{ChangedSignature, InstalledObject, JobSignature, PluginsInstall, PluginsRemove};
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::packages::changes::{ChangedJob, Changes};
use lorchestra_core::packages::install::{self, InstallError, Installed, Previous};
use lorchestra_core::packages::library::Library;
use lorchestra_core::text::{self, one_line, path_text};
use std::path::PathBuf;

pub(super) fn install(
    files: &[PathBuf],
    as_json: bool,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    // All are checked before the first one is installed. Any owner is accepted, because a copy belongs to this user.
    let named = |file: &PathBuf| Library::named(file).map_err(|fault| CommandError::library(file, &fault));
    let libraries = files.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let lock = Lock::read(settings, printer);
    let mut printed = Vec::new();
    let mut failed = None;
    for library in &libraries {
        match install::install(library, &settings.plugin_dirs) {
            Ok(installed) if as_json => printed.push(object(library, &installed, lock.as_ref())),
            Ok(installed) => print(library, &installed, lock.as_ref(), printer),
            Err(error) => {
                failed = Some(CommandError::not_installed(&library.manifest().package, error));
                break;
            }
        }
    }
    if as_json {
        printer.json(&PluginsInstall { schema: "lorchestra.plugins-install/1", installed: printed });
    }
    failed.map_or(Ok(Code::Success), Err)
}

fn changes(library: &Library, installed: &Installed) -> Changes {
    match &installed.before {
        Previous::Same => Changes::default(),
        Previous::Package(old) => Changes::between(Some(old), library.manifest()),
        Previous::Nothing | Previous::Unusable(_) => Changes::between(None, library.manifest()),
    }
}

fn print(library: &Library, installed: &Installed, lock: Option<&Lock>, printer: &mut Printer) {
    let manifest = library.manifest();
    let name = format!("{} {}", manifest.package, one_line(&manifest.version));
    let path = path_text(&installed.path);
    if matches!(installed.before, Previous::Same) {
        printer.good(format_args!("{name} is already installed: {path}"));
    } else {
        printer.good(format_args!("{name} installed: {path}"));
        print_changes(library, installed, printer);
    }
    // A problem with the lock file has already been reported.
    if let Some(lock @ (Lock::Read(_) | Lock::Missing)) = lock
        && let Err(fault) = lock.allows(library)
    {
        printer.note(format_args!(
            "{}: run lorchestra plugins lock {} to allow these libraries where only locked ones may run",
            fault.detail, manifest.package
        ));
    }
}

fn print_changes(library: &Library, installed: &Installed, printer: &mut Printer) {
    // One line for each job on a terminal; `jobs show` prints the whole signature.
    let width = printer.width();
    let mut line = |what: &str, text: String| {
        let what = if what.is_empty() { String::new() } else { format!("{what}:") };
        let line = format!("  {what:10}{text}");
        // A path or a hash is printed to be copied.
        let of_job = matches!(&*what, "added:" | "removed:" | "changed:" | "");
        match width.filter(|_| of_job) {
            Some(width) => printer.line(cells::fitted(&line, width)),
            None => printer.line(line),
        }
    };
    line("sha256", library.sha256().to_owned());
    match &installed.before {
        Previous::Package(old) if old.version == library.manifest().version => {
            line("replaces", format!("a different build of {} {}", old.package, one_line(&old.version)));
        }
        Previous::Package(old) => line("replaces", format!("{} {}", old.package, one_line(&old.version))),
        Previous::Unusable(problems) => {
            for problem in problems {
                let reason = problem.reason.as_str();
                line("replaces", format!("{}, which could not be used ({reason})", path_text(&problem.path)));
            }
        }
        Previous::Nothing | Previous::Same => {}
    }
    for path in &installed.removed {
        line("removes", path_text(path));
    }
    let changes = changes(library, installed);
    for (job, signature) in &changes.added {
        line("added", format!("{job}{}", text::signature(signature)));
    }
    for (job, signature) in &changes.removed {
        line("removed", format!("{job}{}", text::signature(signature)));
    }
    for ChangedJob { job, before, after } in &changes.changed {
        let (before, after) = (text::signature(before), text::signature(after));
        let same = width.map_or(0, |_| common_parameters(&before, &after));
        let shown = |signature: &str| match same {
            0 => format!("{job}{signature}"),
            same => format!("{job}(…{}", &signature[same..]),
        };
        line("changed", shown(&before));
        line("", shown(&after));
    }
}

/// Returns the length of the parameters with which two signatures begin, so that a shortened line shows what has changed.
fn common_parameters(before: &str, after: &str) -> usize {
    let same = before.bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
    before.get(..same).and_then(|start| start.rfind(", ")).map_or(0, |at| at + 1)
}

fn object(library: &Library, installed: &Installed, lock: Option<&Lock>) -> InstalledObject {
    let manifest = library.manifest();
    let Changes { added, removed, changed } = changes(library, installed);
    let jobs = |jobs: Vec<(String, String)>| -> Vec<JobSignature> {
        jobs.into_iter().map(|(name, signature)| JobSignature { name, signature }).collect()
    };
    let changed = changed.into_iter().map(|ChangedJob { job: name, before, after }| ChangedSignature { name, before, after });
    InstalledObject {
        package: manifest.package.clone(),
        version: manifest.version.clone(),
        path: installed.path.display().to_string(),
        sha256: library.sha256().to_owned(),
        unchanged: matches!(installed.before, Previous::Same),
        replaces: if let Previous::Package(old) = &installed.before { Some(old.version.clone()) } else { None },
        removes: installed.removed.iter().map(|path| path.display().to_string()).collect(),
        added: jobs(added),
        removed: jobs(removed),
        changed: changed.collect(),
        locked: lock.map(|lock| lock.allows(library).is_ok()),
    }
}

pub(super) fn remove(package: &str, as_json: bool, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    let removed = install::remove(package, &settings.plugin_dirs).map_err(|error| match error {
        InstallError::Unknown => {
            let catalog = Catalog::scan(&settings.plugin_dirs);
            match catalog.find(package) {
                Err(lookup) => CommandError::lookup(&catalog, package, None, &lookup),
                Ok(_) => CommandError::not_installed(package, InstallError::Unknown),
            }
        }
        error => CommandError::not_installed(package, error),
    })?;
    if as_json {
        let removed = removed.paths.iter().map(|path| path.display().to_string()).collect();
        printer.json(&PluginsRemove { schema: "lorchestra.plugins-remove/1", package: package.to_owned(), removed });
        return Ok(Code::Success);
    }
    let paths: Vec<String> = removed.paths.iter().map(|path| path_text(path)).collect();
    printer.good(format_args!("{package} removed: {}", paths.join(", ")));
    let data = settings.data_root.join(package);
    if data.is_dir() {
        printer.note(format_args!("The data of its jobs is kept in {}.", path_text(&data)));
    }
    Ok(Code::Success)
}
