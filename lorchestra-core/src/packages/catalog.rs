//! The contents of the plugin directories, read without running any code and without a cache.
//!
//! Owns discovery: search directories ([`SearchDir`]), the rules on who may own a file ([`trust`]), the checks of a file ([`inspect`]), the
//! usable packages, and the problems of unusable files ([`problem`]). Reads files only with positioned reads; never maps one (truncating a
//! mapped file kills the process) and never calls dlopen. A search reads the outlines of manifests; their texts are read for a package that is
//! used or shown ([`Package::manifest`]).
//!
//! Guarantees: an unusable file never hides a usable one, and is reported as a [`Problem`] with one reason and a fix. A library reached by
//! two names (hard link, symlink, one directory named twice) is one library. Two different files with the same package are both unusable,
//! at any position on the search path.

mod accounts;
mod elf;
mod glibc;
mod inspect;
pub mod problem;
#[cfg(test)]
pub(crate) mod tests;
pub mod trust;

pub(crate) use elf::{MAX_FILE, too_large};
pub use inspect::{inspect, needed_glibc};
pub use problem::{FileFault, Problem, Reason};

use crate::host::files::{NotRegular, open_regular};
use crate::text::path_text;
use lorchestra_plugin_api::manifest::{Manifest, Outline};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A search directory, and where it was configured: `--plugin-dir`, `LORCHESTRA_PLUGIN_PATH`, ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchDir {
    /// The directory.
    pub path: PathBuf,
    /// Where it was configured, for messages.
    pub origin: String,
}

/// A directory and the result of searching it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// The directory.
    pub dir: SearchDir,
    /// The result.
    pub outcome: SearchOutcome,
}

impl Searched {
    /// Returns why the directory could not be searched. The caller decides whether a missing default directory is an error.
    pub fn problem(&self) -> Option<Problem> {
        let fault = FileFault::not_searched(&self.dir.path, &self.dir.origin, &self.outcome)?;
        Some(fault.at(self.dir.path.clone()))
    }
}

/// The result of searching a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchOutcome {
    /// The directory was read.
    Read {
        /// Number of files named `*.so`.
        files: usize,
    },
    /// The same directory was read before under this name, and its contents are listed there.
    Before(PathBuf),
    /// The directory does not exist.
    Missing,
    /// It is not a directory.
    NotADirectory,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// A package that can be used.
#[derive(Debug)]
pub struct Package {
    /// The path of the library.
    pub path: PathBuf,
    /// Its name, version and the names of its jobs.
    pub summary: PackageSummary,
}

/// The part of an outline that the catalog keeps after checking all of it: with many packages, keeping it whole would take more time than
/// reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSummary {
    /// Package name.
    pub package: String,
    /// Package version.
    pub version: String,
    /// Jobs, in the order of `plugin!`.
    pub jobs: Vec<JobSummary>,
}

/// One job of a [`PackageSummary`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary {
    /// Job name.
    pub name: String,
    /// Whether the author advises against it.
    pub is_deprecated: bool,
}

impl From<Outline> for PackageSummary {
    fn from(outline: Outline) -> Self {
        let jobs = outline.jobs.into_iter().map(|job| JobSummary { name: job.name, is_deprecated: job.deprecated.is_some() });
        // Not in place of the outline's jobs, which are larger.
        let mut kept = Vec::with_capacity(jobs.len());
        kept.extend(jobs);
        Self { package: outline.package, version: outline.version, jobs: kept }
    }
}

impl Package {
    /// Reads the complete manifest from the file.
    ///
    /// # Errors
    /// If the file changed since it was listed; then it was valid.
    pub fn manifest(&self) -> Result<Manifest, Problem> {
        let of_package =
            |fault: FileFault| FileFault { package: Some(self.summary.package.clone()), ..fault }.at(self.path.clone());
        let manifest = open_trusted(&self.path).and_then(|file| inspect(&file)).map_err(of_package)?;
        if manifest.package == self.summary.package {
            Ok(manifest)
        } else {
            Err(of_package(FileFault::new(
                Reason::BadManifest,
                "another package replaced it in the meantime",
                "run the command again",
            )))
        }
    }
}

/// Another name of a library that was already found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The name.
    pub path: PathBuf,
    /// The first name.
    pub of: PathBuf,
}

/// The result of a search.
#[derive(Debug)]
pub struct Catalog {
    /// The directories, in search order.
    pub searched: Vec<Searched>,
    /// Packages that can be used, by name.
    pub packages: Vec<Package>,
    /// Files that cannot be used, by path.
    pub problems: Vec<Problem>,
    /// Other names of libraries in `packages` and `problems`, in search order.
    pub aliases: Vec<Alias>,
}

/// Why a package or a job was not found.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// No package or job has this name.
    Unknown {
        /// The most similar names, best first.
        nearest: Vec<String>,
    },
    /// It exists, but only in files that cannot be used.
    Unusable(Vec<&'a Problem>),
}

impl Catalog {
    /// Searches the directories in order. Never fails: the result includes what could not be read.
    pub fn scan(dirs: &[SearchDir]) -> Self {
        let mut searched = Vec::new();
        let mut problems = Vec::new();
        let mut aliases = Vec::new();
        let mut packages_by_name: BTreeMap<String, Vec<Package>> = BTreeMap::new();
        let mut seen: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut read: HashMap<PathBuf, PathBuf> = HashMap::new();
        for dir in dirs {
            let trusted = trust::directory(&dir.path);
            if let Some(before) = trusted.as_ref().ok().and_then(|real| read.get(real)) {
                searched.push(Searched { dir: dir.clone(), outcome: SearchOutcome::Before(before.clone()) });
                continue;
            }
            let mut take = |path: PathBuf, found: DirectoryName| match found {
                DirectoryName::Gone => {}
                DirectoryName::Unusable(fault) => problems.push(fault.at(path)),
                DirectoryName::Library { ident, read } => match seen.entry(ident) {
                    Entry::Occupied(first) => aliases.push(Alias { path, of: PathBuf::clone(first.get()) }),
                    Entry::Vacant(vacant) => {
                        vacant.insert(path.clone());
                        match read {
                            Ok(summary) => found_of(&mut packages_by_name, summary, path),
                            Err(fault) => problems.push(fault.at(path)),
                        }
                    }
                },
            };
            let outcome = match each_candidate(&dir.path, &trusted, &mut take) {
                Ok(files) => SearchOutcome::Read { files },
                Err(e) => match e.kind() {
                    io::ErrorKind::NotFound => SearchOutcome::Missing,
                    io::ErrorKind::NotADirectory => SearchOutcome::NotADirectory,
                    _ => SearchOutcome::Unreadable(e.to_string()),
                },
            };
            if let (Ok(real), SearchOutcome::Read { .. }) = (trusted, &outcome) {
                read.insert(real, dir.path.clone());
            }
            searched.push(Searched { dir: dir.clone(), outcome });
        }
        let mut packages = Vec::new();
        for (name, mut files) in packages_by_name {
            if files.len() == 1 {
                packages.append(&mut files);
            } else {
                problems.extend(duplicates(&name, &files));
            }
        }
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        // An untrusted directory is read each time it is named.
        problems.dedup_by(|a, b| a.path == b.path);
        Self { searched, packages, problems, aliases }
    }

    /// Turns the packages that `allowed` refuses into problems.
    pub fn apply_lockfile(&mut self, allowed: impl Fn(&Package) -> Result<(), FileFault>) {
        self.keep(|package| {
            allowed(package)
                .map_err(|fault| FileFault { package: Some(package.summary.package.clone()), ..fault }.at(package.path.clone()))
        });
    }

    /// Turns packages whose complete manifest is refused into problems. [`scan`](Self::scan) reads only outlines, because a listing needs
    /// no more.
    pub fn check_texts(&mut self) {
        self.keep(|package| package.manifest().map(drop));
    }

    fn keep(&mut self, check: impl Fn(&Package) -> Result<(), Problem>) {
        for package in std::mem::take(&mut self.packages) {
            match check(&package) {
                Ok(()) => self.packages.push(package),
                Err(problem) => self.problems.push(problem),
            }
        }
        self.problems.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Returns the package with this name.
    pub fn find(&self, package: &str) -> Result<&Package, Lookup<'_>> {
        let position = self.packages.binary_search_by(|p| p.summary.package.as_str().cmp(package));
        if let Ok(position) = position {
            return Ok(&self.packages[position]);
        }
        // A truncated file does not state its package, but cargo and `plugins install` name the file after it.
        let is_named = |p: &Problem| {
            let stem = p.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            stem.strip_prefix("lib").unwrap_or(stem).replace('-', "_") == package.replace('-', "_")
        };
        let is_of = |p: &&Problem| p.package.as_deref().map_or_else(|| is_named(p), |of| of == package);
        let problems: Vec<&Problem> = self.problems.iter().filter(is_of).collect();
        if !problems.is_empty() {
            return Err(Lookup::Unusable(problems));
        }
        Err(Lookup::Unknown { nearest: nearest(package, self.packages.iter().map(|p| p.summary.package.as_str())) })
    }

    /// Returns the package if it has a job with this name.
    pub fn find_job(&self, package: &str, job: &str) -> Result<&Package, Lookup<'_>> {
        let package = self.find(package)?;
        let names = || package.summary.jobs.iter().map(|job| job.name.as_str());
        if names().any(|name| name == job) { Ok(package) } else { Err(Lookup::Unknown { nearest: nearest(job, names()) }) }
    }
}

fn found_of(packages: &mut BTreeMap<String, Vec<Package>>, summary: PackageSummary, path: PathBuf) {
    packages.entry(summary.package.clone()).or_default().push(Package { path, summary });
}

/// Maximum number of times to read a directory while files in it keep disappearing.
const READS: usize = 1000;

/// Calls `take` once for each name that could be a plugin, in order. If a file has disappeared before it could be opened, reads the
/// directory again: it may have been renamed, and its package must not be missed. Returns the number of names.
fn each_candidate(
    dir: &Path,
    trusted: &Result<PathBuf, FileFault>,
    take: &mut impl FnMut(PathBuf, DirectoryName),
) -> io::Result<usize> {
    let mut seen: HashSet<OsString> = HashSet::new();
    let mut count = 0;
    for _ in 0..READS {
        let names = candidates(dir)?;
        count = names.len();
        let new: Vec<OsString> = names.into_iter().filter(|name| !seen.contains(name)).collect();
        let mut gone = false;
        for (name, (path, found)) in new.iter().zip(read_all(dir, &new, trusted)) {
            if matches!(found, DirectoryName::Gone) {
                gone = true;
            } else {
                seen.insert(name.clone());
                take(path, found);
            }
        }
        if !gone {
            break;
        }
    }
    Ok(count)
}

/// Number of files from which reading on several processors pays off.
const MANY: usize = 64;

/// Reads each of these names, in order. Parsing manifests is CPU-bound, so many files are divided among the processors.
fn read_all(dir: &Path, names: &[OsString], trusted: &Result<PathBuf, FileFault>) -> Vec<(PathBuf, DirectoryName)> {
    let read_some = |names: &[OsString]| -> Vec<(PathBuf, DirectoryName)> {
        let found = |name| {
            let path = dir.join(name);
            let found = read(&path, trusted);
            (path, found)
        };
        names.iter().map(found).collect()
    };
    if names.len() < MANY {
        return read_some(names);
    }
    let parts = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        let mut chunks = names.chunks(names.len().div_ceil(parts));
        // This thread reads one chunk itself.
        let own = chunks.next().unwrap_or_default();
        let others: Vec<_> = chunks.map(|chunk| (chunk, scope.spawn(move || read_some(chunk)))).collect();
        let mut all = read_some(own);
        for (chunk, other) in others {
            // A panic in a thread is a bug of ours: read the chunk again, so that main reports it.
            all.extend(other.join().unwrap_or_else(|_| read_some(chunk)));
        }
        all
    })
}

/// Returns the names `*.so` without a leading dot, sorted, because directory order differs between file systems.
fn candidates(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let bytes = name.as_bytes();
        if bytes.ends_with(b".so") && !bytes.starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What a name in a directory refers to.
enum DirectoryName {
    /// A file that must not be run.
    Unusable(FileFault),
    /// A file that may be run: device and inode, and its summary.
    Library { ident: (u64, u64), read: Result<PackageSummary, FileFault> },
    /// Nothing: the file has disappeared.
    Gone,
}

/// `trusted` is the result of [`trust::directory`] for the file's directory.
fn read(path: &Path, trusted: &Result<PathBuf, FileFault>) -> DirectoryName {
    let opened = match Opened::at(path) {
        Ok(opened) => opened,
        Err(NotOpened::Gone) => return DirectoryName::Gone,
        Err(NotOpened::Other(fault)) => return DirectoryName::Unusable(fault),
    };
    if let Err(fault) = opened.trusted(path, trusted) {
        // So that a lookup by name reports that the package is here.
        let package = match inspect::outline(&opened.file, opened.meta.len()) {
            Ok(outline) => Some(outline.package),
            Err(fault) => fault.package,
        };
        return DirectoryName::Unusable(FileFault { package, ..fault });
    }
    let ident = (opened.meta.dev(), opened.meta.ino());
    DirectoryName::Library { ident, read: inspect::outline(&opened.file, opened.meta.len()).map(PackageSummary::from) }
}

/// Opens a regular file with any owner. Anything else is a fault that describes it. Never blocks, for example on a FIFO without a writer.
pub(crate) fn open(path: &Path) -> Result<File, FileFault> {
    Opened::at(path).map(|opened| opened.file).map_err(|error| error.fault(path))
}

/// Opens a file that may be run: a regular file that no one else could have created or changed.
pub(crate) fn open_trusted(path: &Path) -> Result<File, FileFault> {
    let opened = Opened::at(path).map_err(|error| error.fault(path))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    opened.trusted(path, &trust::directory(dir))?;
    Ok(opened.file)
}

/// An open regular file.
struct Opened {
    file: File,
    meta: Metadata,
    /// Whether the path is a symbolic link.
    linked: bool,
}

/// Why there is no open file.
enum NotOpened {
    /// Nothing has this name.
    Gone,
    Other(FileFault),
}

impl NotOpened {
    fn fault(self, path: &Path) -> FileFault {
        match self {
            Self::Gone => FileFault::unreadable(path, &Errno::NOENT.into()),
            Self::Other(fault) => fault,
        }
    }
}

impl Opened {
    fn at(path: &Path) -> Result<Self, NotOpened> {
        let (opened, linked) = match open_regular(path, OFlags::RDONLY | OFlags::NOFOLLOW) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::LOOP) => (open_regular(path, OFlags::RDONLY), true),
            opened => (opened, false),
        };
        let file = opened.map_err(|e| not_opened(path, e))?;
        let meta = file.metadata().map_err(|e| NotOpened::Other(FileFault::unreadable(path, &e)))?;
        Ok(Self { file, meta, linked })
    }

    /// `dir` is the result of [`trust::directory`] for the file's directory.
    fn trusted(&self, path: &Path, dir: &Result<PathBuf, FileFault>) -> Result<(), FileFault> {
        let dir = dir.as_ref().map_err(Clone::clone)?;
        if self.linked {
            trust::link(path, dir)?;
        }
        trust::file(path, &self.meta)
    }
}

fn not_opened(path: &Path, error: io::Error) -> NotOpened {
    if let Some(NotRegular(kind)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_block_device() || kind.is_char_device() {
            "a device"
        } else {
            "not a regular file"
        };
        return NotOpened::Other(FileFault::not_a_file(path, what));
    }
    let missing = error.kind() == io::ErrorKind::NotFound;
    NotOpened::Other(match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_symlink() && missing => FileFault::dangling(path),
        // Describe what has this name by now.
        _ if missing => return NotOpened::Gone,
        // A socket cannot be opened at all.
        Ok(meta) if meta.file_type().is_socket() => FileFault::not_a_file(path, "a socket"),
        _ => FileFault::unreadable(path, &error),
    })
}

/// Maximum number of other files of a package that a problem names.
const OTHERS: usize = 2;

fn duplicates(name: &str, files: &[Package]) -> Vec<Problem> {
    files
        .iter()
        .map(|file| {
            let others = files.iter().filter(|other| other.path != file.path);
            let mut named: Vec<String> = others.take(OTHERS).map(|other| path_text(&other.path)).collect();
            if let Some(more) = (files.len() - 1).checked_sub(OTHERS).filter(|more| *more > 0) {
                named.push(format!("and {more} more"));
            }
            FileFault {
                reason: Reason::Duplicate,
                package: Some(name.to_owned()),
                detail: format!("package {name} is also in {}", named.join(", ")),
                fix: "keep one file and remove the others from the search path".into(),
            }
            .at(file.path.clone())
        })
        .collect()
}

/// Maximum number of suggested names.
const SUGGESTED: usize = 3;

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    crate::text::nearest(name, names).into_iter().take(SUGGESTED).map(str::to_owned).collect()
}
