//! Libraries into a plugin directory and out of it: whoever lists or runs meanwhile sees the old file or the new one, whole.
//!
//! Works on bytes that were checked ([`crate::packages::library`]) and on what the catalog finds. One command at a time changes a directory: it holds the
//! lock of the directory, a file beside the libraries. In order, each step done before the next begins:
//!
//! 1. The lock is held. What a command that was killed had begun is removed.
//! 2. The bytes are in a file that nobody looks at, and on the disk.
//! 3. That file is renamed over the one that held the package, and that one to `lib<package>.so`: at no moment are there two of
//!    the package, or none.
//! 4. Other names of the package in the directory are removed. The directory is on the disk.

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

/// Held while a directory is changed. Never removed: a lock on a file that is gone protects nothing.
const LOCK: &str = crate::host::rights::PLUGIN_LOCK;
/// Files of a command that is under way begin like this.
const UNFINISHED: &str = ".lorchestra-install-";

/// What installing did.
#[derive(Debug)]
pub struct Installed {
    /// Where the library is now.
    pub path: PathBuf,
    /// What held the package before.
    pub before: Before,
    /// Names of the package that were removed.
    pub removed: Vec<PathBuf>,
}

/// What held a package before.
#[derive(Debug)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// These very bytes, at this very place: nothing was changed.
    Same,
    /// This.
    Package(Box<Manifest>),
    /// Files that could not be used.
    Unusable(Vec<Problem>),
}

/// What was removed.
#[derive(Debug)]
pub struct Removed {
    /// Its names, the first one first.
    pub paths: Vec<PathBuf>,
}

/// Why a directory was not changed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The directory would not be searched: somebody else could change what is in it.
    #[error("{}: {}", dir.display(), fault.detail)]
    NotTrusted {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it, and the hint.
        fault: FileFault,
    },
    /// The library's name in the directory is another package's.
    #[error("{} contains the package {package}", path.display())]
    Taken {
        /// The name.
        path: PathBuf,
        /// The package that is there.
        package: String,
    },
    /// Another directory of the search path has the package.
    #[error("{} has the package", path.display())]
    Elsewhere {
        /// The file there.
        path: PathBuf,
    },
    /// Several files have the package.
    #[error("{} files contain the package", paths.len())]
    Several {
        /// Those.
        paths: Vec<PathBuf>,
    },
    /// No file has the package.
    #[error("there is no such package")]
    Unknown,
    /// The system refused.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

fn io(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Io { path: path.to_owned(), source }
}

/// Puts a library into the first of the directories, as `lib<package>.so`, in the place of the file that holds the package there.
///
/// # Errors
/// See [`InstallError`]. Nothing was changed, but the directory may have been made.
pub fn install(library: &Library, dirs: &[SearchDir]) -> Result<Installed, InstallError> {
    let Some(dir) = dirs.first().map(|dir| dir.path.as_path()) else { return Err(InstallError::Unknown) };
    let package = library.manifest().package.as_str();
    // Less where the umask says so; never more, also with umask 002 or none.
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
    if matches!(before, Before::Same) {
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
            // Renamed just now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(&old)(e)),
        }
        removed.push(old);
    }
    sync(dir)?;
    Ok(Installed { path, before, removed })
}

/// Removes the one file that holds a package, whether it can be used or not, with its other names.
///
/// # Errors
/// See [`InstallError`]. Nothing was removed, unless the system refused on the way.
pub fn remove(package: &str, dirs: &[SearchDir]) -> Result<Removed, InstallError> {
    let dir = holder_of(&Catalog::scan(dirs), package)?.parent().map(Path::to_owned).ok_or(InstallError::Unknown)?;
    let _lock = lock(&dir)?;
    // Looked at again: it may have been replaced while the lock was waited for.
    let catalog = Catalog::scan(dirs);
    let path = holder_of(&catalog, package)?;
    let mut paths = vec![path.clone()];
    paths.extend(catalog.aliases.into_iter().filter(|alias| alias.of == path).map(|alias| alias.path));
    let mut changed = BTreeSet::new();
    // The first name last: until then the package is there.
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

/// The files that have a package.
struct Holders<'a> {
    usable: Option<&'a Package>,
    problems: Vec<&'a Problem>,
    /// Of all of them.
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

    /// Those in a directory, with their other names there; and those elsewhere that count: what cannot be used is in nobody's way.
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

    fn before(&self, library: &Library, here: &[PathBuf], path: &Path) -> Before {
        if here.is_empty() {
            return Before::Nothing;
        }
        // Another command of this directory is kept out by the lock; others may still write here, and then it is no longer what it was.
        let old = self.usable.and_then(|package| Library::open(&package.path).ok());
        match old {
            Some(old) if old.sha256() == library.sha256() && *here == [path.to_owned()] => Before::Same,
            Some(old) => Before::Package(Box::new(old.manifest().clone())),
            None => Before::Unusable(self.problems.iter().filter(|p| here.contains(&p.path)).map(|p| (*p).clone()).collect()),
        }
    }
}

/// The other package whose file is at `path`.
fn other_package(catalog: &Catalog, path: &Path, package: &str) -> Option<String> {
    let usable = catalog.packages.iter().filter(|p| p.path == path).map(|p| p.outline.package.clone());
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

/// What a command that was killed left: under the lock there is no other that could still want it.
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
