//! The processes of a worker: started, stopped, and not left behind.
//!
//! A process that a worker starts is in a process group of its own, so that Ctrl-C on a terminal reaches only the worker. It receives SIGTERM
//! from the kernel when the worker dies, however that happens (parent-death signal). That cannot be set between fork and exec without
//! `unsafe`, so the worker starts itself as `exec-window`, which sets it, checks that the worker is still alive, and becomes the command.

use crate::error::{CommandError, NO_PROGRAM};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, kill_process, kill_process_group, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How much of each output is kept: its end. The reports of all windows of a process fit, with messages of 300 characters that are all escaped.
const KEPT: usize = 256 << 10;
/// How long to wait for the end of the outputs after the process has ended: another process may have them.
const OUTPUT: Duration = Duration::from_secs(2);

/// Arguments of `exec-window`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Process id of the worker
    #[arg(long)]
    parent: i32,
    /// The command to become
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command; returns only if that fails.
pub(crate) fn exec(args: &ExecArgs) -> CommandError {
    let [program, rest @ ..] = &args.command[..] else { return CommandError::internal("no command") };
    if let Err(error) = end_with(args.parent, Signal::TERM) {
        return error;
    }
    let error = std::process::Command::new(program).args(rest).exec();
    CommandError::new(NO_PROGRAM, format!("{} cannot be run: {error}", Path::new(program).display()))
}

/// Makes this process receive a signal when its parent ends.
///
/// # Errors
/// If the parent has ended already.
pub(crate) fn end_with(parent: i32, signal: Signal) -> Result<(), CommandError> {
    set_parent_process_death_signal(Some(signal))
        .map_err(|error| CommandError::internal(format!("the parent-death signal cannot be set: {error}")))?;
    // It may have died before that.
    if getppid() == Pid::from_raw(parent) {
        Ok(())
    } else {
        Err(CommandError::new(143, "the process that started this one has died"))
    }
}

/// A process of this worker.
#[derive(Debug)]
pub(crate) struct Supervised {
    child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Supervised {
    /// Starts a command. Call it on the main thread, see `main`.
    ///
    /// # Errors
    /// If this program cannot be started again.
    pub(crate) fn start(program: &Path, args: &[OsString]) -> io::Result<Self> {
        // Also when this program was replaced by another version while it runs: the path would name nothing, or the other version.
        let mut command = Command::new("/proc/self/exe");
        command.arg("exec-window").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(program).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let no_pipe = || io::Error::other("a child without pipes");
        let stdout = child.stdout.take().ok_or_else(no_pipe)?;
        let stderr = child.stderr.take().ok_or_else(no_pipe)?;
        Ok(Self { child, stdout: tokio::spawn(end_of(stdout)), stderr: tokio::spawn(end_of(stderr)) })
    }

    /// Waits for its end. Can be dropped and called again.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end. Also wakes it up if it is stopped: the signal would wait otherwise.
    pub(crate) fn terminate(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Kills it and its process group. What its job has started dies with it: that is a rule of lorchestra.
    pub(crate) fn kill(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Its id, until it has been waited for.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }

    /// Returns the ends of its outputs, stdout and stderr, after it has ended.
    pub(crate) async fn outputs(self) -> (String, String) {
        (text_of(self.stdout).await, text_of(self.stderr).await)
    }
}

async fn text_of(output: JoinHandle<String>) -> String {
    tokio::time::timeout(OUTPUT, output).await.ok().and_then(Result::ok).unwrap_or_default()
}

async fn end_of(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut bytes = [0; 8 << 10];
    loop {
        match pipe.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(n) => kept.extend_from_slice(&bytes[..n]),
        }
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Finds the `lorchestra` that a worker uses unless a group names another one: next to this program, or on the search path.
pub(crate) fn find_lorchestra(search_path: Option<&OsString>) -> Option<PathBuf> {
    let next_to_this = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("lorchestra")));
    let on_path = search_path.into_iter().flat_map(std::env::split_paths).map(|dir| dir.join("lorchestra"));
    next_to_this.into_iter().chain(on_path).find(|file| file.is_file())
}
