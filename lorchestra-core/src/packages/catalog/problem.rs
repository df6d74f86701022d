//! Reasons why a file cannot be used, and how to fix each.

use super::SearchOutcome;
use crate::host::limits::{self, Limit, RefusedOperation};
use crate::host::rights;
use crate::text::{one_line, path_text, shell};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The kinds of problems. A closed set; the names are part of `jobs list --json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A symbolic link to a missing file.
    DanglingLink,
    /// It cannot be opened or read.
    Unreadable,
    /// A directory, a FIFO, a socket, a device.
    NotAFile,
    /// A search directory that does not exist.
    Missing,
    /// A search directory that is not a directory.
    NotADirectory,
    /// The file is empty.
    Empty,
    /// The file is not an ELF file.
    NotElf,
    /// The file is larger than any library.
    TooLarge,
    /// An offset in the file is past its end.
    Truncated,
    /// The library was built for another machine.
    WrongArchitecture,
    /// An executable or an object file.
    NotALibrary,
    /// A library without a manifest.
    NoManifest,
    /// A manifest that cannot be read.
    BadManifest,
    /// The library was built with a newer plugin API.
    AbiTooNew,
    /// The library was built with a plugin API that is no longer supported.
    AbiTooOld,
    /// The library requires a newer C library.
    NeedsNewerGlibc,
    /// Another file contains the same package.
    Duplicate,
    /// Another user could change the file or replace it.
    NotTrusted,
    /// A link to a file outside its directory.
    LinkOut,
    /// `plugins.lock` does not list the package.
    NotLocked,
    /// `plugins.lock` lists different bytes for the package.
    LockDiffers,
}

impl Reason {
    /// The name in JSON.
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

/// A problem with a file, without the file's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// The kind of problem.
    pub reason: Reason,
    /// The package, if that part of the manifest could be read.
    pub package: Option<String>,
    /// What is wrong: a fragment in lower case, safe to print to a terminal.
    pub detail: String,
    /// How to fix it.
    pub fix: String,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// The package, if known.
    pub package: Option<String>,
    /// The kind of problem.
    pub reason: Reason,
    /// What is wrong.
    pub detail: String,
    /// How to fix it.
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
        if let Some(Limit { what, hint }) = limits::behind(error, RefusedOperation::Opening) {
            return Self::new(Reason::Unreadable, format!("{what}: {error}"), hint);
        }
        let denied = path;
        let path = shell(path);
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => rights::readable(denied),
            // Occurs when the library is copied into memory before a run.
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

    /// The problem of a search directory that `origin` names.
    pub(super) fn not_searched(path: &Path, origin: &str, outcome: &SearchOutcome) -> Option<Self> {
        let directory = path;
        let path = shell(path);
        let named = |what: &str| format!("the directory {what} ({origin})");
        let elsewhere = format!("name another directory in {origin}");
        Some(match outcome {
            SearchOutcome::Read { .. } | SearchOutcome::Before(_) => return None,
            SearchOutcome::Missing => Self::new(Reason::Missing, named("is not there"), format!("mkdir {path}, or {elsewhere}")),
            SearchOutcome::NotADirectory => {
                Self::new(Reason::NotADirectory, format!("it is not a directory ({origin})"), elsewhere)
            }
            SearchOutcome::Unreadable(why) => Self::new(
                Reason::Unreadable,
                named(&format!("cannot be read: {why}")),
                format!("{}, or {elsewhere}", rights::readable(directory)),
            ),
        })
    }

    /// Adds the path of the file.
    pub fn at(self, path: PathBuf) -> Problem {
        Problem { path, package: self.package, reason: self.reason, detail: self.detail, fix: self.fix }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})\n  fix: {}", path_text(&self.path), self.detail, self.reason.as_str(), self.fix)
    }
}

/// Suggests how to create a missing file: cargo has not built it yet, or has built another crate type.
fn not_there(path: &Path) -> String {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let look = format!("run ls {} to see the files", shell(dir));
    let others = ["rlib", "a"].map(|extension| path.with_extension(extension));
    if let Some(other) = others.iter().find(|other| *other != path && other.exists()) {
        let other = path_text(Path::new(other.file_name().unwrap_or_default()));
        return format!("{other} exists: set crate-type = [\"cdylib\", \"rlib\"] under [lib] in Cargo.toml, and build again");
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
    fn the_hint_for_a_missing_library_names_the_build_command() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("target/release")).unwrap();
        std::fs::write(at("target/release/libonly.rlib"), "").unwrap();
        for (file, fix) in [
            ("target/release/libx.so", "run cargo build --release to create it; run ls "),
            ("target/x86_64-unknown-linux-gnu/release/libx.so", "run cargo build --release to create it; run ls "),
            ("target/debug/libx.so", "run cargo build to create it; run ls "),
            ("target/release/libonly.so", "libonly.rlib exists: set crate-type = [\"cdylib\", \"rlib\"]"),
            ("plugins/release/libx.so", "run ls "),
            ("libx.so", "run ls "),
        ] {
            let fault = FileFault::unreadable(&at(file), &io::ErrorKind::NotFound.into());
            assert!(fault.fix.starts_with(fix), "{file}: {fault:?}");
        }
    }
}
