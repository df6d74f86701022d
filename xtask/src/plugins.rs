//! Putting a library into a plugin directory, as an operator should.

use crate::Result;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Copies `library` into `dir`: copy, fsync, rename. Whoever lists or runs meanwhile sees no library or a whole one.
pub(crate) fn install(library: &Path, dir: &Path) -> Result<PathBuf> {
    let name = library.file_name().ok_or_else(|| format!("{} names no file", library.display()))?;
    fs::create_dir_all(dir)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    // Without `.so` at the end and with a dot at the beginning: not looked at.
    hidden.push(".new");
    let (copy, installed) = (dir.join(hidden), dir.join(name));
    fs::copy(library, &copy).map_err(|e| format!("{}: {e}", library.display()))?;
    File::open(&copy)?.sync_all()?;
    fs::rename(&copy, &installed)?;
    File::open(dir)?.sync_all()?;
    Ok(installed)
}
