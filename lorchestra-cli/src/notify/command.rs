//! Runs one hook command: `/bin/sh -c`, JSON on stdin, output to stderr, killed at its deadline.

use super::{Hook, RUNNING};
use crate::wire::HookInput;
use lorchestra_core::host::signals::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Why a command did not succeed.
pub(super) enum HookError {
    Ended(String),
    /// It was killed at its deadline.
    TimedOut,
    /// It was killed because a signal stops lorchestra.
    Interrupted,
}

/// What stops a command before its deadline.
pub(super) enum StopRequest<'a> {
    /// A signal to lorchestra, in the thread that handles signals.
    Signals(Option<&'a mut Signals>),
    /// A flag, in any other thread.
    Flag(&'a AtomicBool),
}

impl StopRequest<'_> {
    fn is_requested(&mut self) -> bool {
        match self {
            Self::Signals(signals) => signals.as_mut().is_some_and(|signals| !signals.endings().is_empty()),
            Self::Flag(flag) => flag.load(Ordering::Relaxed),
        }
    }
}

/// Interval between two checks of a flag.
const FLAG_CHECK: Duration = Duration::from_millis(100);

/// Runs the command until the deadline, or until it must stop.
pub(super) fn run(
    command: &str,
    hook: Hook,
    report: &HookInput,
    deadline: Instant,
    mut stop: StopRequest<'_>,
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
            kill(child);
            return Err(HookError::TimedOut);
        }
        let most = if matches!(stop, StopRequest::Flag(_)) { FLAG_CHECK } else { left };
        let wait = lorchestra_core::host::clock::timespec(left.min(most));
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if let StopRequest::Signals(Some(signals)) = &stop {
            fds.push(PollFd::new(&**signals, PollFlags::IN));
        }
        // May have ended without an event: check again.
        let _ = poll(&mut fds, Some(&wait));
        match child.try_wait().map_err(ended("cannot wait for the command"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(HookError::Ended(format!("the command ended with {status}"))),
            None => {}
        }
        if stop.is_requested() {
            kill(child);
            return Err(HookError::Interrupted);
        }
    }
}

fn kill(mut child: Child) {
    let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait();
}
