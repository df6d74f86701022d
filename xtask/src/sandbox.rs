//! A home of its own for a lorchestra that is tried out or measured: nothing in it is the caller's, and nothing outside it is
//! touched.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Passed on from the caller's environment; nothing else is.
const KEPT: [&str; 4] = ["PATH", "LANG", "TERM", "TZ"];

/// A sandbox; removed when dropped.
pub(crate) struct Sandbox {
    dir: TempDir,
    lorchestra: PathBuf,
}

impl Sandbox {
    /// A sandbox in `parent` for the lorchestra of a profile's target directory.
    pub(crate) fn new(parent: &Path, target: &Path) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        let dir = tempfile::Builder::new().prefix("lorchestra-").tempdir_in(parent)?;
        std::fs::create_dir(dir.path().join("home"))?;
        Ok(Self { dir, lorchestra: target.join("lorchestra") })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Where lorchestra looks for plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.home().join(".local/share/lorchestra/plugins")
    }

    /// Where it keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.home().join(".local/state/lorchestra")
    }

    /// A call of lorchestra.
    pub(crate) fn lorchestra(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.lorchestra);
        command.args(args);
        command
    }

    /// A call of any program: own HOME, no XDG directories, no settings of lorchestra, no credentials.
    #[expect(clippy::disallowed_methods, reason = "a few variables of the caller are passed on")]
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let kept = KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(kept).env("HOME", self.home()).env("NO_COLOR", "1");
        command
    }

    /// Leaves the directory where it is.
    pub(crate) fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}
