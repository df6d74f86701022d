//! What several targets need.

use std::path::Path;
use tempfile::TempDir;

/// A directory for the files of an input: in memory where that can be had, or an input would cost what a disk costs.
///
/// # Panics
/// There is none: nothing can be tried.
pub fn directory() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("lorchestra-fuzz-");
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.expect("a directory")
}
