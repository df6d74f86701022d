//! plugins.lock for the commands that manage library files. These commands create and fix it, so none of them fails if it is missing or
//! untrusted. `run-job` and `jobs`, which must enforce it, read it themselves.

use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use lorchestra_core::packages::catalog::{Catalog, FileFault, Package, Reason};
use lorchestra_core::packages::library::Library;
use lorchestra_core::packages::lockfile::{Lockfile, LockfileError};
use lorchestra_core::text::one_line;

/// What plugins.lock says about libraries, if it exists or is required.
pub(super) enum Lock {
    /// Its contents.
    Read(Lockfile),
    /// The file is required, and missing.
    Missing,
    /// The file is required, and untrusted: the reason and the fix.
    Unreliable(FileFault),
}

impl Lock {
    /// Reads the file; `None` if it is missing or unusable and not required. Reports problems with their fixes.
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
                settings.locked.then(|| Self::Unreliable(none_locked(format!("plugins.lock cannot be trusted: {what}"), fix)))
            }
        }
    }

    /// Checks that these bytes are locked.
    pub(super) fn allows(&self, library: &Library) -> Result<(), FileFault> {
        self.read_lock()?.allows(library)
    }

    /// Checks the file of a package.
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

    /// Turns packages that are not locked into problems.
    pub(super) fn hold(&self, catalog: &mut Catalog) {
        catalog.apply_lockfile(|package| self.allows_file(package));
    }
}

/// Reports what is wrong with the file and returns the fixes.
pub(super) fn warn(error: LockfileError, printer: &mut Printer) -> Vec<String> {
    let CommandError { message, hints, .. } = error.into();
    let lines: Vec<String> = [message].into_iter().chain(hints.iter().map(|hint| format!("  {hint}"))).collect();
    printer.warning(lines.join("\n"));
    hints
}

fn none_locked(detail: String, fix: String) -> FileFault {
    FileFault { reason: Reason::NotLocked, package: None, detail, fix }
}
