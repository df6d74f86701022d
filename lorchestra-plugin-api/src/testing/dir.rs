//! [`TempDir`], a temporary directory that is removed at the end of a test.

use super::or_panic;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A temporary directory, for input files or as the parent of all packages' data directories
/// ([`Test::data`](super::Test::data)). Clones share the directory; it is removed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct TempDir(Arc<Owned>);

#[derive(Debug)]
struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        // Ignore errors: a panic here would hide why the test failed.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl TempDir {
    /// Creates a directory with mode 0700 in the system's temporary directory.
    ///
    /// # Panics
    /// Panics if the directory cannot be created.
    #[expect(clippy::new_without_default, reason = "new() creates a directory; Default should not")]
    #[track_caller]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::temp_dir();
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("lorchestra-test-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Self(Arc::new(Owned(path))),
                // Left over from an earlier process with the same id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// Writes a file, creating parent directories as needed, and returns its path: `dir.write("ingester/mail/default.jsonl", "…")`.
    ///
    /// # Panics
    /// Panics if the file cannot be written, or if `name` is outside of the directory.
    #[track_caller]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.inside(name);
        let parent = path.parent().unwrap_or(&path);
        or_panic(fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display())));
        or_panic(fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display())));
        path
    }

    /// Reads a file as text.
    ///
    /// # Panics
    /// Panics if the file cannot be read or is not UTF-8.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let path = self.inside(name);
        or_panic(fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display())))
    }

    #[track_caller]
    fn inside(&self, name: &str) -> PathBuf {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        assert!(inside && !name.is_empty(), "{name:?} is not a path inside the temporary directory");
        self.path().join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_removed_with_the_last_clone() {
        let dir = TempDir::new();
        let (path, other) = (dir.path().to_owned(), TempDir::new());
        assert_ne!(path, other.path());
        let file = dir.write("a/b/c.txt", "text");
        assert_eq!((dir.read("a/b/c.txt").as_str(), file.starts_with(&path)), ("text", true));
        let clone = dir.clone();
        drop(dir);
        assert!(file.exists());
        drop(clone);
        assert!(!path.exists());
    }

    #[test]
    #[should_panic(expected = "is not a path inside the temporary directory")]
    fn a_path_outside_is_refused() {
        TempDir::new().write("../x", "");
    }
}
