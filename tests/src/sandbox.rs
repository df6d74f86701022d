//! A directory with a home and a plugin directory in which commands are started, independent of the machine's settings.

use crate::built::{self, Fixture};
use crate::ended::Ended;
use crate::processes;
use crate::running::Running;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The user for permission tests that are run as root: nobody.
pub const NOBODY: u32 = 65534;

/// A separate directory for one test, removed at the end.
#[derive(Debug)]
pub struct Sandbox {
    root: TempDir,
    binary: PathBuf,
    user: Option<u32>,
}

impl Sandbox {
    /// A sandbox with these packages in its plugin directory.
    pub fn with(fixtures: &[Fixture]) -> Self {
        let root = tempfile::Builder::new().prefix("lorchestra-test-").tempdir().expect("a temporary directory");
        let sandbox = Self { root, binary: built::lorchestra(), user: None };
        fs::create_dir_all(sandbox.plugins()).expect("a plugin directory");
        for fixture in fixtures {
            sandbox.install(*fixture, fixture.file_name());
        }
        sandbox
    }

    /// A sandbox whose commands do not run as root: if the tests do, the commands and all files belong to [`NOBODY`]. Permissions do not
    /// apply to root.
    pub fn unprivileged(fixtures: &[Fixture]) -> Self {
        Self::of_user(fixtures, NOBODY)
    }

    /// Like [`unprivileged`](Self::unprivileged), for this user.
    pub fn of_user(fixtures: &[Fixture], user: u32) -> Self {
        // Another user may not have access to the target directory.
        let mut sandbox = Self::with_binary(fixtures);
        if processes::is_root() {
            give_all(sandbox.root(), user);
            sandbox.user = Some(user);
        }
        sandbox
    }

    /// A sandbox with a copy of the binary, for commands that cannot see the target directory.
    pub fn with_binary(fixtures: &[Fixture]) -> Self {
        let mut sandbox = Self::with(fixtures);
        let binary = sandbox.path("lorchestra");
        // Not copied by this process: a fork in another test would inherit the open file, and then it could not be executed.
        let copied = Command::new("cp").arg(&sandbox.binary).arg(&binary).status().expect("cp");
        assert!(copied.success(), "a copy of the binary");
        sandbox.binary = binary;
        sandbox
    }

    /// Copies a library into the plugin directory.
    pub fn install(&self, fixture: Fixture, name: &str) -> PathBuf {
        let path = self.plugins().join(name);
        fs::copy(fixture.built(), &path).expect("a copy of a library");
        path
    }

    /// Its root directory.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// A path in it, as an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The home directory.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The plugin directory, at its default location.
    pub fn plugins(&self) -> PathBuf {
        self.home().join(".local/share/lorchestra/plugins")
    }

    /// Parent of the packages' data directories, at its default location.
    pub fn data(&self) -> PathBuf {
        self.home().join(".local/share/lorchestra/data")
    }

    /// The state directory, at its default location.
    pub fn state(&self) -> PathBuf {
        self.home().join(".local/state/lorchestra")
    }

    /// Writes the configuration file.
    pub fn configure(&self, text: &str) {
        let dir = self.home().join(".config/lorchestra");
        fs::create_dir_all(&dir).expect("a configuration directory");
        fs::write(dir.join("config.toml"), text).expect("a configuration file");
    }

    /// Processes started by its commands, or by those processes, that still exist.
    pub fn processes(&self) -> Vec<u32> {
        processes::carrying(&format!("HOME={}", self.home().display()))
    }

    /// The contents of a file in it; empty if it does not exist.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The command with these arguments, not started yet, so that the caller can change it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(self.root()).env_clear().env("HOME", self.home());
        // For the shell commands of fixtures and of on_failure.
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// The command, started with `exec` by a shell that has run `script`, which sets limits, ignores signals or starts processes.
    pub fn command_by(&self, script: &str, args: &[&str]) -> Command {
        let lorchestra = self.command(args);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{script}\nexec \"$0\" \"$@\"")]).arg(lorchestra.get_program()).args(args);
        shell.current_dir(self.root()).env_clear();
        shell.envs(lorchestra.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(user) = self.user {
            shell.uid(user).gid(user);
        }
        shell
    }

    /// Starts the command.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// Runs the command to its end.
    #[track_caller]
    pub fn lorchestra(&self, args: &[&str]) -> Ended {
        self.start(args).wait()
    }

    /// Runs the command with these variables in its environment.
    #[track_caller]
    pub fn lorchestra_with(&self, environment: &[(&str, &str)], args: &[&str]) -> Ended {
        let mut command = self.command(args);
        command.envs(environment.iter().copied());
        Running::start(command).wait()
    }
}

/// Changes the owner of a directory and everything in it.
fn give_all(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).expect("root may give files away");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("a directory") {
            give_all(&entry.expect("an entry").path(), user);
        }
    }
}

/// Copies a directory with everything below it, as `cp -a` does: into `to` if that exists.
///
/// # Panics
/// If it cannot be copied.
pub fn copy_all(from: &Path, to: &Path) {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).expect("a directory");
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
    assert!(copied.success(), "cp of {}", from.display());
}
