//! Helpers for several fuzz targets.

use std::path::Path;
use tempfile::TempDir;

/// Returns a directory for the files of an input, in memory if possible: a disk would limit the number of inputs per second.
///
/// # Panics
/// If the directory cannot be created.
#[expect(clippy::expect_used, reason = "nothing can be tested without a directory")]
pub fn directory() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("lorchestra-fuzz-");
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.expect("a directory")
}
