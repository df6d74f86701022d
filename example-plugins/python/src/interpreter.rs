//! Which Python runs a job: that of a virtual environment, or an interpreter.

use std::path::{Path, PathBuf};

/// A Python interpreter: a path, or a name to search on PATH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interpreter(pub(crate) PathBuf);

/// Why there is no interpreter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InterpreterError {
    #[error("--python {}: not a virtual environment, because it has no bin/python; create one with `python3 -m venv`", .0.display())]
    NoVenv(PathBuf),
}

impl Interpreter {
    /// Finds the interpreter for the parameter `python`.
    pub(crate) fn find(given: Option<PathBuf>) -> Result<Self, InterpreterError> {
        let given = given.unwrap_or_else(|| "python3".into());
        if !given.is_dir() || is_name(&given) && !given.join("bin").is_dir() {
            return Ok(Self(given));
        }
        let python = given.join("bin/python");
        if python.is_file() { Ok(Self(python)) } else { Err(InterpreterError::NoVenv(given)) }
    }
}

/// `python3.12`: a directory of that name in the working directory is not meant, unless it looks like an environment.
fn is_name(path: &Path) -> bool {
    path.components().count() == 1 && path.to_string_lossy().starts_with("python")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_a_virtual_environment() {
        let dir = tempfile::tempdir().unwrap();
        let found = Interpreter::find(Some(dir.path().into())).unwrap_err();
        assert!(found.to_string().contains("has no bin/python"), "{found}");
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/python"), "").unwrap();
        assert_eq!(Interpreter::find(Some(dir.path().into())).unwrap().0, dir.path().join("bin/python"));
        assert_eq!(Interpreter::find(Some("/usr/bin/python3".into())).unwrap().0, Path::new("/usr/bin/python3"));
        assert_eq!(Interpreter::find(None).unwrap().0, Path::new("python3"));
    }
}
