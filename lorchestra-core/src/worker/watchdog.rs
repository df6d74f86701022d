//! Ends the worker's process group when the supervisor is gone.
//!
//! The supervisor's death closes its end of the control socket, whatever killed it. There is no PDEATHSIG beside it: that reaches
//! the worker alone. As SIGKILL it took the watchdog before the group was dead, and what the job had started lived on; as SIGTERM a
//! job that looks at `is_cancelled` could end in good order in the moment before the kill, and a run that nobody supervised any
//! more was `completed` (both measured).

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Between two looks at the parent, where the socket was taken away: within a second of its death the group is gone.
const ONCE: Duration = Duration::from_millis(200);

/// Starts the thread that waits for the end of the control socket. Returns when it does so.
pub(super) fn start(control: &UnixStream) -> std::io::Result<()> {
    let mut control = control.try_clone()?;
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let ident = ident(&control);
    let supervisor = rustix::process::getppid();
    std::thread::Builder::new().name("lorchestra-watchdog".into()).stack_size(64 << 10).spawn(move || {
        // Until here the thread registers destructors with the system's loader, and needs the lock that dlopen holds while a library's
        // constructors run: one that does not come back would keep the watchdog from ever beginning (measured). What follows are system
        // calls alone.
        let _ = ready.send(());
        let mut byte = [0];
        loop {
            match control.read(&mut byte) {
                // Nothing is ever sent after the order; should a later supervisor do so, it is alive.
                Ok(1..) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        if ident.is_some() && self::ident(&control) == ident {
            end_all();
        }
        // Plugin code has closed the descriptor: its end says nothing about the supervisor, who must not be taken for dead.
        watch_parent(supervisor);
    })?;
    is_ready.recv().map_err(std::io::Error::other)
}

/// SIGKILL to the group that was made for the worker, whatever group the job has put it into since; then to the worker.
fn end_all() {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process_group(own, Signal::KILL);
    let _ = rustix::process::kill_process(own, Signal::KILL);
}

/// Without the socket, the parent's pid is what tells of its death.
fn watch_parent(supervisor: Option<Pid>) {
    while rustix::process::getppid() == supervisor {
        std::thread::sleep(ONCE);
    }
    end_all();
}

/// Which file a descriptor is of.
fn ident(control: &UnixStream) -> Option<(u64, u64)> {
    rustix::fs::fstat(control).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether the control socket has ended by now.
pub(super) fn supervisor_is_gone(control: &UnixStream) -> std::io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(control, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut fds, Some(&now))?;
    Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR))
}
