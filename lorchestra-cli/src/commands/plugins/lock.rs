//! plugins.lock as the commands for library files show it. They are how it comes to be, and how it is fixed: that it is missing or cannot
//! be relied on keeps none of them. Reads the file; `run-job` and `jobs`, which are held to it, read it by themselves.

use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use lorchestra_core::packages::catalog::{Catalog, FileFault, Package, Reason};
use lorchestra_core::packages::library::Library;
use lorchestra_core::packages::lockfile::{Lockfile, LockfileError};
use lorchestra_core::text::one_line;

/// What can be said of a library, where there is a plugins.lock or only locked libraries may run.
pub(super) enum Lock {
    /// What is in it.
    Read(Lockfile),
    /// Only locked libraries may run, and there is none.
    Missing,
    /// Only locked libraries may run, and what is in it means nothing: why, and what fixes that.
    Unreliable(FileFault),
}

impl Lock {
    /// The file; `None` where there is none, or none that can be used, and nobody is held to it. What is wrong with it is told with its
    /// fix.
    pub(super) fn read(settings: &Settings, printer: &mut Printer) -> Option<Self> {
        match Lockfile::read(&settings.lockfile) {
            Ok(Some(lock)) => Some(Self::Read(lock)),
            Ok(None) => settings.locked.then_some(Self::Missing),
            Err(error) => {
                let what = match &error {
                    LockfileError::Unusable { fault, .. } => fault.detail.clone(),
                    LockfileError::Malformed { what, .. } => one_line(what),
                    LockfileError::Io { source, .. } => source.to_string(),
                };
                let hints = warn(error, printer);
                let fix = hints.into_iter().next().unwrap_or_else(|| "make plugins.lock readable by this user".to_owned());
                settings.locked.then(|| Self::Unreliable(none_locked(format!("plugins.lock cannot be relied on: {what}"), fix)))
            }
        }
    }

    /// Whether these bytes are locked; if not, why.
    pub(super) fn allows(&self, library: &Library) -> Result<(), FileFault> {
        self.read_lock()?.allows(library)
    }

    /// The same, of the file of a package.
    pub(super) fn allows_file(&self, package: &Package) -> Result<(), FileFault> {
        self.read_lock()?.allows_file(package)
    }

    fn read_lock(&self) -> Result<&Lockfile, FileFault> {
        match self {
            Self::Read(lock) => Ok(lock),
            Self::Missing => Err(none_locked(
                "there is no plugins.lock".to_owned(),
                "run lorchestra plugins lock, if these are the bytes you want to run".to_owned(),
            )),
            Self::Unreliable(fault) => Err(fault.clone()),
        }
    }

    /// Makes what is not locked a problem.
    pub(super) fn hold(&self, catalog: &mut Catalog) {
        catalog.apply_lockfile(|package| self.allows_file(package));
    }
}

/// Tells what is wrong with the file, and what fixes it, which is answered too.
pub(super) fn warn(error: LockfileError, printer: &mut Printer) -> Vec<String> {
    let CommandError { message, hints, .. } = error.into();
    let lines: Vec<String> = [message].into_iter().chain(hints.iter().map(|hint| format!("  {hint}"))).collect();
    printer.warning(lines.join("\n"));
    hints
}

fn none_locked(detail: String, fix: String) -> FileFault {
    FileFault { reason: Reason::NotLocked, package: None, detail, fix }
}
