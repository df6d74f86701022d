//! Ends the worker's process group when the supervisor is gone, and keeps the deadline of one that was stopped (SIGSTOP, Ctrl-Z): at the
//! timeout it is woken, and if it does not stay awake long enough to end the job, the watchdog does. A supervisor that is stopped when its
//! worker is dead, also by the job's last act, is woken by the next command ([`crate::run::recovery`]).
//!
//! The supervisor's death closes its end of the control socket, whatever killed it. There is no PDEATHSIG beside it: that reaches
//! the worker alone. As SIGKILL it took the watchdog before the group was dead, and what the job had started lived on; as SIGTERM a
//! job that looks at `is_cancelled` could end in good order in the moment before the kill, and a run that nobody supervised any
//! more was `completed` (both measured).

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;
use std::ffi::{CStr, CString};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Between two looks at the parent, where the socket was taken away: within a second of its death the group is gone.
const ONCE: Duration = Duration::from_millis(200);
/// Between two looks at the parent while the socket says nothing.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long after the grace a supervisor is waited for that is stopped again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a job must have ended, as its supervisor has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// From now.
    pub(super) timeout: Duration,
    /// Between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
}

/// Starts the thread that waits for the end of the control socket. Returns when it does so.
pub(super) fn start(control: &UnixStream, deadline: Option<Deadline>) -> std::io::Result<()> {
    let mut control = control.try_clone()?;
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let supervisor = Supervisor::parent();
    let began = Instant::now();
    std::thread::Builder::new().name("lorchestra-watchdog".into()).stack_size(64 << 10).spawn(move || {
        // Until here the thread registers destructors with the system's loader, and needs the lock that dlopen holds while a library's
        // constructors run: one that does not come back would keep the watchdog from ever beginning (measured). What follows are system
        // calls alone.
        let _ = ready.send(());
        let mut byte = [0];
        loop {
            match poll(&mut [PollFd::new(&control, PollFlags::IN)], Some(&LOOK)) {
                // Readable, ended, or no descriptor any more: what it is, reading tells.
                Ok(1..) => {}
                // The descriptor's number may be another file's by now, which says nothing.
                Ok(0) => {
                    supervisor.keep(deadline, began);
                    if supervisor.lives() {
                        continue;
                    }
                    break;
                }
                Err(Errno::INTR) => continue,
                Err(_) => break,
            }
            match control.read(&mut byte) {
                // Nothing is ever sent after the order; should a later supervisor do so, it is alive.
                Ok(1..) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        // The supervisor is dead, and this process is another's child in a moment; or plugin code has closed the descriptor, or shut
        // the socket down, which says nothing about the supervisor: it must not be taken for dead.
        for wait in (0..).map(|n| if n < 50 { Duration::from_millis(2) } else { ONCE }) {
            if !supervisor.lives() {
                end_all();
            }
            supervisor.keep(deadline, began);
            std::thread::sleep(wait);
        }
    })?;
    is_ready.recv().map_err(std::io::Error::other)
}

/// SIGKILL to the group that was made for the worker, whatever group the job has put it into since; then to the worker.
fn end_all() {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process_group(own, Signal::KILL);
    let _ = rustix::process::kill_process(own, Signal::KILL);
}

/// The process that started this one.
struct Supervisor {
    pid: Option<Pid>,
    /// What the kernel says of it.
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

    /// Past the deadline, one that is stopped is woken, and does the rest; where it is stopped again each time, the job is ended here.
    fn keep(&self, deadline: Option<Deadline>, began: Instant) {
        let (Some(pid), Some(deadline)) = (self.pid, deadline) else { return };
        let lived = began.elapsed();
        if lived < deadline.timeout || !is_stopped(&self.stat) || !self.lives() {
            return;
        }
        let _ = rustix::process::kill_process(pid, Signal::CONT);
        if lived > deadline.timeout.saturating_add(deadline.grace).saturating_add(PATIENCE) {
            end_all();
        }
    }
}

/// Whether a process was stopped by a signal, as its `/proc/<pid>/stat` says. One that a debugger holds is not (that is `t`). No memory is
/// asked for: the job may have broken the heap.
fn is_stopped(stat: &CStr) -> bool {
    let Ok(file) = rustix::fs::open(stat, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else { return false };
    // Pid and name, which has fifteen bytes at most, come before the state.
    let mut text = [0; 64];
    let Ok(n) = rustix::io::read(&file, &mut text) else { return false };
    // The name is in parentheses and may hold anything.
    text[..n].iter().rposition(|byte| *byte == b')').is_some_and(|at| text[at..n].starts_with(b") T"))
}

/// Whether the control socket has ended by now.
pub(super) fn supervisor_is_gone(control: &UnixStream) -> std::io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(control, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut fds, Some(&now))?;
    Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR))
}
