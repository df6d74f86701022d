//! Why a file cannot be used, and what to do about it.

use super::SearchOutcome;
use crate::host::limits::{self, Doing, Limit};
use crate::host::rights;
use crate::text::{one_line, path_text, shell};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The kinds of problems. A closed set; the names are part of `jobs list --json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A symbolic link to nothing.
    DanglingLink,
    /// It cannot be opened or read.
    Unreadable,
    /// A directory, a FIFO, a socket, a device.
    NotAFile,
    /// A directory to search that is not there.
    Missing,
    /// Something else in the place of a directory to search.
    NotADirectory,
    /// It has no bytes.
    Empty,
    /// It is no ELF file.
    NotElf,
    /// Longer than any library.
    TooLarge,
    /// Something in it lies behind its end.
    Truncated,
    /// Built for another machine.
    WrongArchitecture,
    /// An executable or an object file.
    NotALibrary,
    /// A library without a manifest.
    NoManifest,
    /// A manifest that cannot be read.
    BadManifest,
    /// Built against a newer plugin API.
    AbiTooNew,
    /// Built against a plugin API that is no longer run.
    AbiTooOld,
    /// It needs a newer C library.
    NeedsNewerGlibc,
    /// Another file has the same package.
    Duplicate,
    /// Somebody else could change it, or put another in its place.
    NotTrusted,
    /// A link to a file outside of its directory.
    LinkOut,
    /// `plugins.lock` does not have the package.
    NotLocked,
    /// `plugins.lock` has other bytes of the package.
    LockDiffers,
}

impl Reason {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DanglingLink => "dangling-link",
            Self::Unreadable => "unreadable",
            Self::NotAFile => "not-a-file",
            Self::Missing => "missing",
            Self::NotADirectory => "not-a-directory",
            Self::Empty => "empty",
            Self::NotElf => "not-elf",
            Self::TooLarge => "too-large",
            Self::Truncated => "truncated",
            Self::WrongArchitecture => "wrong-architecture",
            Self::NotALibrary => "not-a-library",
            Self::NoManifest => "no-manifest",
            Self::BadManifest => "bad-manifest",
            Self::AbiTooNew => "abi-too-new",
            Self::AbiTooOld => "abi-too-old",
            Self::NeedsNewerGlibc => "needs-newer-glibc",
            Self::Duplicate => "duplicate",
            Self::NotTrusted => "not-trusted",
            Self::LinkOut => "link-out",
            Self::NotLocked => "not-locked",
            Self::LockDiffers => "lock-differs",
        }
    }
}

/// What is wrong with a file, without its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// Its kind.
    pub reason: Reason,
    /// The package, where the manifest could be read that far.
    pub package: Option<String>,
    /// What is wrong: a fragment in lower case, fit for a terminal.
    pub detail: String,
    /// What to do.
    pub fix: String,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// The package, where it is known.
    pub package: Option<String>,
    /// The kind of problem.
    pub reason: Reason,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub fix: String,
}

impl FileFault {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason, package: None, detail: one_line(&detail.into()), fix: fix.into() }
    }

    pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            return Self::new(Reason::Unreadable, "there is no such file", not_there(path));
        }
        if let Some(Limit { what, hint }) = limits::behind(error, Doing::Opening) {
            return Self::new(Reason::Unreadable, format!("{what}: {error}"), hint);
        }
        let denied = path;
        let path = shell(path);
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => rights::readable(denied),
            // Met when it is copied into memory, before it is run.
            io::ErrorKind::FileTooLarge => format!("raise ulimit -f above the size of {path}"),
            _ => format!("copy {path} again"),
        };
        Self::new(Reason::Unreadable, format!("it cannot be read: {error}"), fix)
    }

    pub(super) fn dangling(path: &Path) -> Self {
        let target = std::fs::read_link(path).map(|target| path_text(&target)).unwrap_or_default();
        Self::new(
            Reason::DanglingLink,
            format!("it is a symbolic link to {target}, which does not exist"),
            format!("rm {}", shell(path)),
        )
    }

    pub(super) fn not_a_file(path: &Path, what: &str) -> Self {
        Self::new(Reason::NotAFile, format!("it is {what}"), format!("move {} away, or give it a name without .so", shell(path)))
    }

    /// A directory to search, named in `origin`.
    pub(super) fn not_searched(path: &Path, origin: &str, outcome: &SearchOutcome) -> Option<Self> {
        let directory = path;
        let path = shell(path);
        let named = |what: &str| format!("the directory {what} ({origin})");
        let elsewhere = format!("name another directory in {origin}");
        Some(match outcome {
            SearchOutcome::Read { .. } | SearchOutcome::Before(_) => return None,
            SearchOutcome::Missing => Self::new(Reason::Missing, named("is not there"), format!("mkdir {path}, or {elsewhere}")),
            SearchOutcome::NotADirectory => Self::new(Reason::NotADirectory, format!("it is no directory ({origin})"), elsewhere),
            SearchOutcome::Unreadable(why) => Self::new(
                Reason::Unreadable,
                named(&format!("cannot be read: {why}")),
                format!("{}, or {elsewhere}", rights::readable(directory)),
            ),
        })
    }

    /// The problem of the file at `path`.
    pub fn at(self, path: PathBuf) -> Problem {
        Problem { path, package: self.package, reason: self.reason, detail: self.detail, fix: self.fix }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})\n  fix: {}", path_text(&self.path), self.detail, self.reason.as_str(), self.fix)
    }
}

/// How a file comes to be there: one that cargo should have made was not built yet, or as something else.
fn not_there(path: &Path) -> String {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let look = format!("run ls {} to see the files", shell(dir));
    let others = ["rlib", "a"].map(|extension| path.with_extension(extension));
    if let Some(other) = others.iter().find(|other| *other != path && other.exists()) {
        let other = path_text(Path::new(other.file_name().unwrap_or_default()));
        return format!("there is {other}: write crate-type = [\"cdylib\", \"rlib\"] below [lib] in Cargo.toml, and build again");
    }
    let mut parts = path.components().map(std::path::Component::as_os_str).rev().skip(1);
    match (parts.next().and_then(|profile| profile.to_str()), parts.any(|part| part == "target")) {
        (Some("release"), true) => format!("run cargo build --release to create it; {look}"),
        (Some("debug"), true) => format!("run cargo build to create it; {look}"),
        _ => look,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_was_not_built_is_told_how() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("target/release")).unwrap();
        std::fs::write(at("target/release/libonly.rlib"), "").unwrap();
        for (file, fix) in [
            ("target/release/libx.so", "run cargo build --release to create it; run ls "),
            ("target/x86_64-unknown-linux-gnu/release/libx.so", "run cargo build --release to create it; run ls "),
            ("target/debug/libx.so", "run cargo build to create it; run ls "),
            ("target/release/libonly.so", "there is libonly.rlib: write crate-type = [\"cdylib\", \"rlib\"]"),
            ("plugins/release/libx.so", "run ls "),
            ("libx.so", "run ls "),
        ] {
            let fault = FileFault::unreadable(&at(file), &io::ErrorKind::NotFound.into());
            assert!(fault.fix.starts_with(fix), "{file}: {fault:?}");
        }
    }
}
