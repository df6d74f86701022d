//! Kills the worker's process group when the supervisor is gone, and enforces the deadline if the supervisor was stopped (SIGSTOP, Ctrl-Z):
//! at the timeout the watchdog resumes it, and if it does not run long enough to end the job, the watchdog ends the job itself. A
//! supervisor that is stopped when its worker is dead, even by the job's last action, is resumed by the next command
//! ([`crate::run::recovery`]).
//!
//! The supervisor's death closes its end of the control socket, however it died. PDEATHSIG is not used as well, because it reaches only the
//! worker. As SIGKILL it killed the watchdog before the group was dead, and processes started by the job survived. As SIGTERM it let a job
//! that polls `is_cancelled` end normally just before the kill, and a run without a supervisor was `completed` (both measured).

use crate::host::clock::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{Pid, Signal};
use std::ffi::{CStr, CString};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Interval between checks of the parent if the socket was taken away: within a second of its death the group is gone.
const ONCE: Duration = Duration::from_millis(200);
/// Interval between checks of the parent while the socket is silent.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait, after the grace period, for a supervisor that is stopped again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the watchdog writes to the control socket before it ends the job at its deadline: the supervisor then finds only a dead worker.
pub(crate) const TIMED_OUT: &[u8] = b"timed out";

/// When a job must have ended, as its supervisor knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// From now.
    pub(super) timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
}

/// Starts the thread that waits for the end of the control socket. Returns once the thread waits.
pub(super) fn start(control: &UnixStream, deadline: Option<Deadline>) -> std::io::Result<()> {
    let mut control = control.try_clone()?;
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let supervisor = Supervisor::parent();
    let began = Instant::now();
    std::thread::Builder::new().name("lorchestra-watchdog".into()).stack_size(64 << 10).spawn(move || {
        // Up to this point the thread registers destructors with the dynamic loader, which needs the lock that dlopen holds while a
        // library's constructors run: a constructor that never returns would keep the watchdog from ever starting (measured). From here on
        // it only makes system calls.
        let _ = ready.send(());
        let mut byte = [0];
        loop {
            match poll(&mut [PollFd::new(&control, PollFlags::IN)], Some(&timespec(LOOK))) {
                // Readable, at its end, or no longer a descriptor: reading shows which.
                Ok(1..) => {}
                // The descriptor's number may belong to another file by now, so this proves nothing.
                Ok(0) => {
                    supervisor.keep(deadline, began, &control);
                    if supervisor.lives() {
                        continue;
                    }
                    break;
                }
                Err(Errno::INTR) => continue,
                Err(_) => break,
            }
            match control.read(&mut byte) {
                // Nothing is sent after the order; if a later supervisor version does, it is alive.
                Ok(1..) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        // Either the supervisor is dead, and this process is about to be re-parented; or plugin code has closed the descriptor or shut down
        // the socket, and the supervisor must not be considered dead.
        for wait in (0..).map(|n| if n < 50 { Duration::from_millis(2) } else { ONCE }) {
            if !supervisor.lives() {
                end_all();
            }
            supervisor.keep(deadline, began, &control);
            std::thread::sleep(wait);
        }
    })?;
    is_ready.recv().map_err(std::io::Error::other)
}

/// Sends SIGKILL to the worker's original group, even if the job has moved the worker to another one, then to the worker.
fn end_all() {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process_group(own, Signal::KILL);
    let _ = rustix::process::kill_process(own, Signal::KILL);
}

/// The process that started this one.
struct Supervisor {
    pid: Option<Pid>,
    /// Path of its `/proc/<pid>/stat`.
    stat: CString,
}

impl Supervisor {
    fn parent() -> Self {
        let pid = rustix::process::getppid();
        let number = pid.map_or(0, Pid::as_raw_pid);
        Self { pid, stat: CString::new(format!("/proc/{number}/stat")).unwrap_or_default() }
    }

    /// Orphans get another parent.
    fn lives(&self) -> bool {
        rustix::process::getppid() == self.pid
    }

    /// After the deadline, resumes a stopped supervisor, which then ends the job; if it keeps being stopped, ends the job here.
    fn keep(&self, deadline: Option<Deadline>, began: Instant, control: &UnixStream) {
        let (Some(pid), Some(deadline)) = (self.pid, deadline) else { return };
        let lived = began.elapsed();
        if lived < deadline.timeout || !is_stopped(&self.stat) || !self.lives() {
            return;
        }
        let _ = rustix::process::kill_process(pid, Signal::CONT);
        if lived > deadline.timeout.saturating_add(deadline.grace).saturating_add(PATIENCE) {
            // Does not wait for a full socket: then the cause is only less precise.
            let _ = rustix::net::send(control, TIMED_OUT, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            end_all();
        }
    }
}

/// Whether a signal has stopped a process, according to its `/proc/<pid>/stat`. Does not count a process traced by a debugger (state `t`).
/// Allocates no memory, because the job may have corrupted the heap.
fn is_stopped(stat: &CStr) -> bool {
    let Ok(file) = rustix::fs::open(stat, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else { return false };
    // The pid and the name, which has at most fifteen bytes, come before the state.
    let mut text = [0; 64];
    let Ok(n) = rustix::io::read(&file, &mut text) else { return false };
    // The name is in parentheses and may contain anything.
    text[..n].iter().rposition(|byte| *byte == b')').is_some_and(|at| text[at..n].starts_with(b") T"))
}

/// Whether the control socket is already at its end.
pub(super) fn supervisor_is_gone(control: &UnixStream) -> std::io::Result<bool> {
    let now = timespec(Duration::ZERO);
    let mut fds = [PollFd::new(control, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut fds, Some(&now))?;
    Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR))
}
