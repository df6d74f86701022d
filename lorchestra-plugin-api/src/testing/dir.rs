//! A directory of a test's own, removed with it. Talks to the file system, in the system's directory for temporary files.

use super::or_panic;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A temporary directory, for input files or as the parent of all packages' data directories
/// ([`Test::data`](super::Test::data)). Its clones are one; it is removed with the last of them.
#[derive(Debug, Clone)]
pub struct TempDir(Arc<Owned>);

#[derive(Debug)]
struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        // What a test has made unremovable stays: failing here would hide why the test failed.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl TempDir {
    /// Makes one, with mode 0700.
    ///
    /// # Panics
    /// The system does not let it be made.
    #[expect(clippy::new_without_default, reason = "it makes something")]
    #[track_caller]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::temp_dir();
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("lorchestra-test-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Self(Arc::new(Owned(path))),
                // Of an earlier process with this id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// Writes a file in it, and the directories above that: `dir.write("ingester/mail/default.jsonl", "…")`.
    ///
    /// # Panics
    /// It cannot be written, or `name` leads out of the directory.
    #[track_caller]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.inside(name);
        let parent = path.parent().unwrap_or(&path);
        or_panic(fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display())));
        or_panic(fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display())));
        path
    }

    /// The text of a file in it.
    ///
    /// # Panics
    /// It cannot be read, or is not UTF-8.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let path = self.inside(name);
        or_panic(fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display())))
    }

    #[track_caller]
    fn inside(&self, name: &str) -> PathBuf {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        assert!(inside && !name.is_empty(), "{name:?} is no file in the temporary directory");
        self.path().join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_and_gone() {
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
    #[should_panic(expected = "is no file in the temporary directory")]
    fn it_writes_nowhere_else() {
        TempDir::new().write("../x", "");
    }
}
