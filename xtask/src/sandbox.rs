//! A separate home directory in which to try or measure lorchestra: it shares nothing with the caller's, and nothing outside it is changed.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The only variables passed on from the caller's environment.
const KEPT: [&str; 4] = ["PATH", "LANG", "TERM", "TZ"];

/// A sandbox; removed when dropped.
pub(crate) struct Sandbox {
    dir: TempDir,
    lorchestra: PathBuf,
}

impl Sandbox {
    /// Creates a sandbox in `parent` for the lorchestra of a profile's target directory.
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

    /// The plugin directory.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.home().join(".local/share/lorchestra/plugins")
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.home().join(".local/state/lorchestra")
    }

    /// A lorchestra command.
    pub(crate) fn lorchestra(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.lorchestra);
        command.args(args);
        command
    }

    /// A command for any program, with its own HOME, and without XDG directories, settings of lorchestra and credentials.
    #[expect(clippy::disallowed_methods, reason = "a few variables of the caller are passed on")]
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let kept = KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(kept).env("HOME", self.home()).env("NO_COLOR", "1");
        command
    }

    /// Keeps the directory.
    pub(crate) fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}
