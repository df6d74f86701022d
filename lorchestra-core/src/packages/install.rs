//! Installs libraries into a plugin directory and removes them. Concurrent readers see either the old file or the new one, complete.
//!
//! Works on bytes that [`crate::packages::library`] has checked, and on the catalog. One command at a time changes a directory: it holds
//! the directory's lock, a file next to the libraries. Each step is complete before the next begins:
//!
//! 1. Take the lock. Remove the temporary files of a command that was killed.
//! 2. Write the bytes to a temporary file that no reader considers, and sync it.
//! 3. Rename that file over the one that contained the package, and then to `lib<package>.so`: at every moment there is exactly one file
//!    with the package.
//! 4. Remove other names of the package in the directory. Sync the directory.

#[cfg(test)]
mod tests;

use crate::packages::catalog::{Catalog, FileFault, Package, Problem, Reason, SearchDir, trust};
use crate::packages::library::Library;
use lorchestra_plugin_api::manifest::Manifest;
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Lock file, held while a directory is changed. Never removed: a lock on an unlinked file protects nothing.
const LOCK: &str = crate::host::rights::PLUGIN_LOCK;
/// Prefix of temporary files.
const UNFINISHED: &str = ".lorchestra-install-";

/// The result of an installation.
#[derive(Debug)]
pub struct Installed {
    /// The path of the installed library.
    pub path: PathBuf,
    /// What contained the package before.
    pub before: Previous,
    /// Names of the package that were removed.
    pub removed: Vec<PathBuf>,
}

/// What contained a package before an installation.
#[derive(Debug)]
pub enum Previous {
    /// Nothing.
    Nothing,
    /// The same bytes at the same path: nothing was changed.
    Same,
    /// Another version, with this manifest.
    Package(Box<Manifest>),
    /// Files that could not be used.
    Unusable(Vec<Problem>),
}

/// The result of a removal.
#[derive(Debug)]
pub struct Removed {
    /// The removed names, the first one first.
    pub paths: Vec<PathBuf>,
}

/// Why a directory was not changed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The directory would not be searched, because someone else could change its contents.
    #[error("{}: {}", dir.display(), fault.detail)]
    NotTrusted {
        /// The directory.
        dir: PathBuf,
        /// The problem and the hint.
        fault: FileFault,
    },
    /// The file name of the library belongs to another package.
    #[error("{} contains the package {package}", path.display())]
    Taken {
        /// The name.
        path: PathBuf,
        /// The package that has the name.
        package: String,
    },
    /// Another directory of the search path contains the package.
    #[error("{} has the package", path.display())]
    Elsewhere {
        /// The file in the other directory.
        path: PathBuf,
    },
    /// Several files contain the package.
    #[error("{} files contain the package", paths.len())]
    Several {
        /// Their paths.
        paths: Vec<PathBuf>,
    },
    /// No file contains the package.
    #[error("there is no such package")]
    Unknown,
    /// A system call failed.
    #[error("{}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

fn io(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Io { path: path.to_owned(), source }
}

/// Installs a library into the first of the directories as `lib<package>.so`, replacing the file that contains the package there.
///
/// # Errors
/// See [`InstallError`]. Nothing was changed, except that the directory may have been created.
pub fn install(library: &Library, dirs: &[SearchDir]) -> Result<Installed, InstallError> {
    let Some(dir) = dirs.first().map(|dir| dir.path.as_path()) else { return Err(InstallError::Unknown) };
    let package = library.manifest().package.as_str();
    // The umask may remove permissions; with umask 002 or 000 the mode is still no more than this.
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io(dir))?;
    trust::directory(dir).map_err(|fault| InstallError::NotTrusted { dir: dir.to_owned(), fault })?;
    let _lock = lock(dir)?;
    remove_unfinished(dir);

    let catalog = Catalog::scan(dirs);
    let holders = Holders::of(&catalog, package);
    let (here, elsewhere) = holders.split(dir);
    if let Some(path) = elsewhere.into_iter().next() {
        return Err(InstallError::Elsewhere { path });
    }
    let path = dir.join(format!("lib{package}.so"));
    if let Some(package) = other_package(&catalog, &path, package) {
        return Err(InstallError::Taken { path, package });
    }
    let before = holders.before(library, &here, &path);
    if matches!(before, Previous::Same) {
        return Ok(Installed { path, before, removed: Vec::new() });
    }

    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(io(dir))?;
    library.write_to(&mut file).and_then(|()| file.as_file().sync_all()).map_err(io(dir))?;
    match here.first().filter(|_| !here.contains(&path)) {
        Some(old) => {
            file.persist(old).map_err(|e| io(old)(e.error))?;
            fs::rename(old, &path).map_err(io(&path))?;
        }
        None => drop(file.persist(&path).map_err(|e| io(&path)(e.error))?),
    }
    let mut removed = Vec::new();
    for old in here.into_iter().filter(|old| *old != path) {
        match fs::remove_file(&old) {
            Ok(()) => {}
            // The rename above moved it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(&old)(e)),
        }
        removed.push(old);
    }
    sync(dir)?;
    Ok(Installed { path, before, removed })
}

/// Removes the one file that contains a package, whether usable or not, and its other names.
///
/// # Errors
/// See [`InstallError`]. Nothing was removed, unless a system call failed halfway.
pub fn remove(package: &str, dirs: &[SearchDir]) -> Result<Removed, InstallError> {
    let dir = holder_of(&Catalog::scan(dirs), package)?.parent().map(Path::to_owned).ok_or(InstallError::Unknown)?;
    let _lock = lock(&dir)?;
    // Scan again: the package may have been replaced while this command waited for the lock.
    let catalog = Catalog::scan(dirs);
    let path = holder_of(&catalog, package)?;
    let mut paths = vec![path.clone()];
    paths.extend(catalog.aliases.into_iter().filter(|alias| alias.of == path).map(|alias| alias.path));
    let mut changed = BTreeSet::new();
    // Remove the first name last: until then the package exists.
    for path in paths.iter().rev() {
        fs::remove_file(path).map_err(io(path))?;
        changed.extend(path.parent().map(Path::to_owned));
    }
    for dir in changed {
        sync(&dir)?;
    }
    Ok(Removed { paths })
}

fn holder_of(catalog: &Catalog, package: &str) -> Result<PathBuf, InstallError> {
    let mut paths = Holders::of(catalog, package).paths;
    match paths.len() {
        0 => Err(InstallError::Unknown),
        1 => Ok(paths.remove(0)),
        _ => Err(InstallError::Several { paths }),
    }
}

/// The files that contain a package.
struct Holders<'a> {
    usable: Option<&'a Package>,
    problems: Vec<&'a Problem>,
    /// The paths of all of them.
    paths: Vec<PathBuf>,
    catalog: &'a Catalog,
}

impl<'a> Holders<'a> {
    fn of(catalog: &'a Catalog, package: &str) -> Self {
        let usable = catalog.find(package).ok();
        let problems: Vec<&Problem> = catalog.problems.iter().filter(|p| p.package.as_deref() == Some(package)).collect();
        let paths = usable.map(|p| p.path.clone()).into_iter().chain(problems.iter().map(|p| p.path.clone())).collect();
        Self { usable, problems, paths, catalog }
    }

    /// Returns the files in a directory, including their other names there, and the files elsewhere that conflict. Unusable files elsewhere
    /// do not.
    fn split(&self, dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (here, away): (Vec<_>, Vec<_>) = self.paths.iter().cloned().partition(|path| lies_in(path, dir));
        let names = |alias: &&crate::packages::catalog::Alias| self.paths.contains(&alias.of) && lies_in(&alias.path, dir);
        let here = here.into_iter().chain(self.catalog.aliases.iter().filter(names).map(|alias| alias.path.clone())).collect();
        let counts = |path: &PathBuf| {
            self.usable.is_some_and(|usable| usable.path == *path)
                || self.problems.iter().any(|problem| problem.path == *path && problem.reason == Reason::Duplicate)
        };
        (here, away.into_iter().filter(counts).collect())
    }

    fn before(&self, library: &Library, here: &[PathBuf], path: &Path) -> Previous {
        if here.is_empty() {
            return Previous::Nothing;
        }
        // The lock keeps out other commands of lorchestra; other programs may still have changed the file.
        let old = self.usable.and_then(|package| Library::open(&package.path).ok());
        match old {
            Some(old) if old.sha256() == library.sha256() && *here == [path.to_owned()] => Previous::Same,
            Some(old) => Previous::Package(Box::new(old.manifest().clone())),
            None => Previous::Unusable(self.problems.iter().filter(|p| here.contains(&p.path)).map(|p| (*p).clone()).collect()),
        }
    }
}

/// Returns the other package whose file is at `path`.
fn other_package(catalog: &Catalog, path: &Path, package: &str) -> Option<String> {
    let usable = catalog.packages.iter().filter(|p| p.path == path).map(|p| p.summary.package.clone());
    let problem = catalog.problems.iter().filter(|p| p.path == path).filter_map(|p| p.package.clone());
    usable.chain(problem).find(|found| found != package)
}

fn lies_in(path: &Path, dir: &Path) -> bool {
    let real = |dir: &Path| fs::canonicalize(dir).ok();
    path.parent().is_some_and(|parent| parent == dir || real(parent).is_some_and(|parent| real(dir) == Some(parent)))
}

fn lock(dir: &Path) -> Result<File, InstallError> {
    let path = dir.join(LOCK);
    let file = crate::host::files::private_file(&path).map_err(io(&path))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io(&path)(e.into())),
        }
    }
}

/// Removes files left by a command that was killed: under the lock no other command can still need them.
fn remove_unfinished(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn sync(dir: &Path) -> Result<(), InstallError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))
}
