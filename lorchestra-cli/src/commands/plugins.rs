//! `plugins list`, `check`, `install`, `remove` and `lock`: manage library files. None of them runs plugin code in this process; only
//! `check` runs it at all, in a worker that is killed afterwards.

mod check;
mod install;
mod lock;

use crate::cells;
use crate::commands::jobs;
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use crate::values;
use crate::wire::{DirectoryObject, FileObject, LockedObject, PluginsList, PluginsLock, ProblemObject};
use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use lock::Lock;
use lorchestra_core::packages::catalog::{Alias, Catalog, Package, Problem, SearchOutcome, Searched};
use lorchestra_core::packages::library::Library;
use lorchestra_core::packages::lockfile::{Locked, Lockfile};
use lorchestra_core::text::{one_line, path_text};
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Plugins {
    /// List library files and whether they can be used
    #[command(before_help = "Examples:\n  lorchestra plugins list\n  lorchestra plugins list --json")]
    List {
        /// Print one JSON object (schema lorchestra.plugins-list/1)
        #[arg(long)]
        json: bool,
    },
    /// Check a library before installing it, by loading it in a separate process
    #[command(
        before_help = "Examples:\n  lorchestra plugins check target/release/libingester.so\n  lorchestra plugins check --json libingester.so"
    )]
    Check {
        /// Library file
        file: PathBuf,
        /// Give up if the library takes longer than this to load [default: 10s]
        #[arg(long, value_parser = values::limit, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Print one JSON object (schema lorchestra.plugins-check/1)
        #[arg(long)]
        json: bool,
    },
    /// Copy libraries into the plugin directory, replacing older files of the same packages
    #[command(
        before_help = "Examples:\n  lorchestra plugins install target/release/libingester.so\n  lorchestra --plugin-dir /opt/lorchestra/plugins plugins install libingester.so"
    )]
    Install {
        /// Library files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print one JSON object (schema lorchestra.plugins-install/1)
        #[arg(long)]
        json: bool,
    },
    /// Remove a package's library (its data and its runs are kept)
    #[command(before_help = "Example:\n  lorchestra plugins remove ingester")]
    Remove {
        /// Package name
        #[arg(add = ArgValueCompleter::new(complete::packages))]
        package: String,
        /// Print one JSON object (schema lorchestra.plugins-remove/1)
        #[arg(long)]
        json: bool,
    },
    /// Write plugins.lock, which pins installed libraries for `locked = true` and --locked
    #[command(
        before_help = "Examples:\n  lorchestra plugins lock\n  lorchestra plugins lock ingester",
        after_help = "plugins.lock is next to config.toml, or next to the file given with --config."
    )]
    Lock {
        /// Lock only these packages and keep the other entries of the file
        #[arg(add = ArgValueCompleter::new(complete::packages))]
        packages: Vec<String>,
        /// Print one JSON object (schema lorchestra.plugins-lock/1)
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Plugins, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    match command {
        Plugins::List { json } => list(settings, *json, printer),
        Plugins::Check { file, timeout, json } => check::run(file, *timeout, *json, settings, printer),
        Plugins::Install { files, json } => install::install(files, *json, settings, printer),
        Plugins::Remove { package, json } => install::remove(package, *json, settings, printer),
        Plugins::Lock { packages, json } => write_lock(packages, *json, settings, printer),
    }
}

/// What a name in a directory refers to.
enum DirectoryEntry<'a> {
    Package(&'a Package),
    Problem(&'a Problem),
    Alias(&'a Alias),
}

fn list(settings: &Settings, as_json: bool, printer: &mut Printer) -> Result<Code, CommandError> {
    let lock = Lock::read(settings, printer);
    let mut catalog = Catalog::scan(&settings.plugin_dirs);
    catalog.check_texts();
    if let Some(lock) = lock.as_ref().filter(|_| settings.locked) {
        lock.hold(&mut catalog);
    }
    let mut entries: BTreeMap<&Path, DirectoryEntry<'_>> = BTreeMap::new();
    entries.extend(catalog.packages.iter().map(|package| (&*package.path, DirectoryEntry::Package(package))));
    entries.extend(catalog.problems.iter().map(|problem| (&*problem.path, DirectoryEntry::Problem(problem))));
    entries.extend(catalog.aliases.iter().map(|alias| (&*alias.path, DirectoryEntry::Alias(alias))));
    if as_json {
        let directories = catalog.searched.iter().map(directory_object).collect();
        let files = entries.iter().map(|(path, entry)| entry_object(path, entry, lock.as_ref())).collect();
        printer.json(&PluginsList { schema: "lorchestra.plugins-list/1", directories, files });
        return Ok(Code::Success);
    }
    for Searched { dir, outcome } in &catalog.searched {
        printer.line(format_args!("{} ({}): {}", path_text(&dir.path), dir.origin, show::searched(outcome)));
        if matches!(outcome, SearchOutcome::Before(_)) {
            continue;
        }
        let here: Vec<_> = entries.iter().filter(|(path, _)| path.parent() == Some(&dir.path)).collect();
        let name = |path: &Path| path.file_name().map(|name| path_text(Path::new(name))).unwrap_or_default();
        let width = here.iter().map(|(path, _)| cells::width(&name(path))).max().unwrap_or(0);
        for (path, entry) in here {
            let mut text = entry_text(entry, lock.as_ref()).into_iter();
            printer.line(format_args!("  {}  {}", cells::padded(&name(path), width), text.next().unwrap_or_default()));
            for line in text {
                printer.line(format_args!("  {:width$}  {line}", ""));
            }
        }
    }
    Ok(Code::Success)
}

fn entry_text(entry: &DirectoryEntry<'_>, lock: Option<&Lock>) -> Vec<String> {
    match entry {
        DirectoryEntry::Package(package) => {
            let summary = &package.summary;
            let jobs = show::counted(summary.jobs.len(), "job");
            let mut line = format!("usable: {} {}, {jobs}", summary.package, one_line(&summary.version));
            if let Some(lock) = lock {
                line.push_str(if is_locked(package, lock) { ", locked" } else { ", not as in plugins.lock" });
            }
            vec![line]
        }
        DirectoryEntry::Problem(problem) => {
            vec![format!("{}: {}", problem.reason.as_str(), problem.detail), format!("  fix: {}", problem.fix)]
        }
        DirectoryEntry::Alias(alias) => vec![format!("another name of {}", path_text(&alias.of))],
    }
}

/// Whether plugins.lock allows the file of the package.
fn is_locked(package: &Package, lock: &Lock) -> bool {
    lock.allows_file(package).is_ok()
}

fn directory_object(searched: &Searched) -> DirectoryObject {
    let (state, detail) = match &searched.outcome {
        SearchOutcome::Read { .. } | SearchOutcome::Before(_) => ("read", None),
        SearchOutcome::Missing => ("missing", None),
        SearchOutcome::NotADirectory => ("not-a-directory", None),
        SearchOutcome::Unreadable(why) => ("unreadable", Some(why.clone())),
    };
    DirectoryObject { path: searched.dir.path.display().to_string(), origin: searched.dir.origin.clone(), state, detail }
}

fn entry_object(path: &Path, entry: &DirectoryEntry<'_>, lock: Option<&Lock>) -> FileObject {
    let path = path.display().to_string();
    match entry {
        DirectoryEntry::Package(package) => FileObject::Usable {
            path,
            package: package.summary.package.clone(),
            version: package.summary.version.clone(),
            jobs: show::job_names(package).into_iter().map(str::to_owned).collect(),
            bytes: std::fs::metadata(&package.path).ok().map(|meta| meta.len()),
            locked: lock.map(|lock| is_locked(package, lock)),
        },
        DirectoryEntry::Problem(problem) => {
            FileObject::Unusable { package: problem.package.clone(), problem: ProblemObject::of(problem) }
        }
        DirectoryEntry::Alias(alias) => FileObject::Alias { path, of: alias.of.display().to_string() },
    }
}

fn write_lock(only: &[String], as_json: bool, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    // Ignores the current lock, because this command changes it.
    let catalog = Catalog::scan(&settings.plugin_dirs);
    let (before, trouble) = match Lockfile::read(&settings.lockfile) {
        Ok(before) => (before.unwrap_or_default(), None),
        // The whole file is replaced; a partial update must read the other entries.
        Err(error) if only.is_empty() => (Lockfile::default(), Some(error)),
        Err(error) => return Err(error.into()),
    };
    let mut after = if only.is_empty() { Lockfile::default() } else { before.clone() };
    let names: Vec<&str> = match only {
        [] => catalog.packages.iter().map(|package| package.summary.package.as_str()).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    for name in names {
        let package = catalog.find(name).map_err(|lookup| CommandError::lookup(&catalog, name, None, &lookup))?;
        let library =
            Library::open(&package.path).map_err(|fault| CommandError::unusable(name, &[&fault.at(package.path.clone())]))?;
        let bytes =
            library.size().map_err(|e| CommandError::refused(Code::Plugin, "the library cannot be read", &package.path, &e))?;
        let locked = Locked { version: library.manifest().version.clone(), bytes, sha256: library.sha256().to_owned() };
        after.packages.insert(name.to_owned(), locked);
    }
    after.write(&settings.lockfile)?;
    match (Lockfile::read(&settings.lockfile), trouble) {
        // For example, the file's directory is writable by others, which writing the file does not fix.
        (Err(error), _) => drop(lock::warn(error, printer)),
        (Ok(_), Some(error)) => printer.warning(CommandError::from(error).message),
        (Ok(_), None) => {}
    }
    let changes = changes(&before, &after);
    if as_json {
        let locked = |(name, locked): (&String, &Locked)| LockedObject {
            name: name.clone(),
            version: locked.version.clone(),
            bytes: locked.bytes,
            sha256: locked.sha256.clone(),
        };
        let of = |wanted: &str| -> Vec<String> {
            changes.iter().filter(|(kind, ..)| *kind == wanted).map(|(_, name, _)| name.clone()).collect()
        };
        printer.json(&PluginsLock {
            schema: "lorchestra.plugins-lock/1",
            path: settings.lockfile.display().to_string(),
            packages: after.packages.iter().map(locked).collect(),
            added: of("added"),
            changed: of("changed"),
            removed: of("removed"),
            problems: catalog.problems.iter().map(ProblemObject::of).collect(),
        });
        return Ok(Code::Success);
    }
    let count = show::counted(after.packages.len(), "package");
    printer.good(format_args!("{count} locked: {}", path_text(&settings.lockfile)));
    for (kind, name, what) in &changes {
        printer.line(format_args!("  {:9}{name} {what}", format!("{kind}:")));
    }
    if only.is_empty() {
        jobs::problems(&catalog.problems, printer);
    }
    if !settings.locked {
        printer.note("It is enforced once config.toml has `locked = true`, or a run uses --locked.");
    }
    Ok(Code::Success)
}

/// Returns the differences: kind, package, versions.
fn changes(before: &Lockfile, after: &Lockfile) -> Vec<(&'static str, String, String)> {
    let mut changes = Vec::new();
    for (name, new) in &after.packages {
        let version = one_line(&new.version);
        match before.packages.get(name) {
            None => changes.push(("added", name.clone(), version)),
            Some(old) if old.sha256 == new.sha256 => {}
            Some(old) if old.version == new.version => changes.push(("changed", name.clone(), format!("{version}, other bytes"))),
            Some(old) => changes.push(("changed", name.clone(), format!("{} to {version}", one_line(&old.version)))),
        }
    }
    let gone = before.packages.iter().filter(|(name, _)| !after.packages.contains_key(*name));
    changes.extend(gone.map(|(name, old)| ("removed", name.clone(), one_line(&old.version))));
    changes
}
