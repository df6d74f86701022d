//! Runs one hook command: `/bin/sh -c`, JSON on stdin, output to stderr, killed at its deadline.

use super::{Hook, RUNNING, TIME_BOX};
use crate::wire::HookInput;
use lorchestra_core::host::signals::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Why a command did not succeed.
pub(super) enum HookError {
    Ended(String),
    /// There was no time left, or lorchestra is being stopped.
    Killed(String),
}

impl HookError {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Ended(why) | Self::Killed(why) => why,
        }
    }
}

/// Runs the command until the deadline, or until a signal stops lorchestra.
pub(super) fn run(
    command: &str,
    hook: Hook,
    report: &HookInput,
    deadline: Instant,
    mut signals: Option<&mut Signals>,
) -> Result<(), HookError> {
    let stderr = || Stdio::from(std::io::stderr());
    let ended = |what: &'static str| move |e: std::io::Error| HookError::Ended(format!("{what}: {e}"));
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env(RUNNING, hook.event())
        .stdin(Stdio::piped())
        .stdout(stderr())
        .stderr(stderr())
        .process_group(0)
        .spawn()
        .map_err(ended("cannot start /bin/sh"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let line = format!("{}\n", serde_json::to_string(report).unwrap_or_default());
        // In a separate thread, because a command that does not read must not block us. It may also close its input early.
        let _ = std::thread::Builder::new().spawn(move || drop(stdin.write_all(line.as_bytes())));
    }
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(|e| ended("cannot watch the command")(e.into()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(killed(child, format!("the command was killed: it did not finish within {} s", TIME_BOX.as_secs())));
        }
        let wait = lorchestra_core::host::clock::timespec(left);
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if let Some(signals) = &signals {
            fds.push(PollFd::new(&**signals, PollFlags::IN));
        }
        // May have ended without an event: check again.
        let _ = poll(&mut fds, Some(&wait));
        match child.try_wait().map_err(ended("cannot wait for the command"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(HookError::Ended(format!("the command ended with {status}"))),
            None => {}
        }
        if signals.as_mut().is_some_and(|signals| !signals.endings().is_empty()) {
            return Err(killed(child, "the command was killed: lorchestra received a signal".into()));
        }
    }
}

fn killed(mut child: Child, why: String) -> HookError {
    let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait();
    HookError::Killed(why)
}
