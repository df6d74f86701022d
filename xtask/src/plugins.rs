//! Installs a library into a plugin directory, as an operator should.

use crate::Result;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Copies `library` into `dir`: copy, fsync, rename. A concurrent reader sees either no library or a complete one.
pub(crate) fn install(library: &Path, dir: &Path) -> Result<PathBuf> {
    let name = library.file_name().ok_or_else(|| format!("{} has no file name", library.display()))?;
    fs::create_dir_all(dir)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    // The catalog ignores a name with a leading dot and without `.so` at the end.
    hidden.push(".new");
    let (copy, installed) = (dir.join(hidden), dir.join(name));
    fs::copy(library, &copy).map_err(|e| format!("{}: {e}", library.display()))?;
    File::open(&copy)?.sync_all()?;
    fs::rename(&copy, &installed)?;
    File::open(dir)?.sync_all()?;
    Ok(installed)
}
