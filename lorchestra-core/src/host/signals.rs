//! The signals that a supervisor handles, as bytes in a pipe, so that it can wait for them in the same poll as for everything else.

use crate::host::clock::timespec;
use crate::host::process;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// `SIGSEGV`, or `signal 40` for one without a name.
pub fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// Signals that stay ignored if they were: the user asked for that with `nohup`, or the shell did by starting the run in the background.
const KEPT: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];
/// Signals whose action cannot be changed, or must not be: SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV.
const FIXED: [i32; 5] = [9, 19, 4, 8, 11];
/// The last signal that has a name.
const LAST: i32 = 31;

/// Resets the signal actions of this process (supervisor or worker), independent of what its parent blocked or ignored. Call once, before
/// any thread is started.
///
/// - No signal is blocked: with SIGTERM blocked, neither the run nor its children could be stopped.
/// - SIGCHLD, SIGPIPE and SIGXFSZ get a handler that does nothing. So children can be waited for, and writing to a pipe without a reader or
///   past the file size limit (`ulimit -f`) fails with an error. A handler rather than `SIG_IGN`, because `exec` resets handlers to the
///   default.
/// - All other signals except SIGHUP, SIGINT and SIGTERM get their default action.
pub fn reset() {
    // Fails only for an invalid signal number.
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
    let ignored = process::ignored_by(std::process::id());
    for signal in [SIGCHLD, SIGPIPE, SIGXFSZ] {
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
    let others = (1..=LAST).filter(|signal| !KEPT.contains(signal) && !FIXED.contains(signal));
    for signal in others.filter(|signal| ![SIGCHLD, SIGPIPE, SIGXFSZ].contains(signal) && ignored(*signal)) {
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::new(AtomicBool::new(true)));
    }
}

/// Receives SIGHUP, SIGINT, SIGTERM and SIGCHLD after [`Signals::install`]; of the first three, only those that were not ignored before.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    received: Option<i32>,
}

impl Signals {
    /// Installs the handlers. A signal that arrives before the first read is kept. A signal that was ignored when this process started
    /// (`nohup`, a background job of a shell) stays ignored: its parent wants the run to continue.
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let ignored = process::ignored_by(std::process::id());
        let minded = KEPT.into_iter().filter(|signal| !ignored(*signal));
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, minded.chain([SIGCHLD]).collect::<Vec<_>>())?;
        Ok(Self { delivery, received: None })
    }

    /// Waits up to `at_most` for a signal that stops the run.
    pub fn wait(&mut self, at_most: Duration) -> Option<i32> {
        let until = Instant::now() + at_most;
        loop {
            if let Some(signal) = self.endings().first() {
                return Some(*signal);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let left = timespec(left);
            // SIGCHLD or an interruption ended the poll: check the deadline again.
            let _ = poll(&mut [PollFd::new(&*self, PollFlags::IN)], Some(&left));
        }
    }

    /// Returns the stop signals received since the last call, those from a person before those from the system (INT, TERM, HUP). SIGCHLD
    /// only ends the poll.
    pub fn endings(&mut self) -> Vec<i32> {
        let pending: Vec<i32> = self.delivery.pending().collect();
        let endings: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| pending.contains(signal)).collect();
        self.received = self.received.or(endings.first().copied());
        endings
    }

    /// Returns the first stop signal that was ever received, even if something has reacted to it already: a process that runs one thing after
    /// the other starts nothing more.
    pub fn received(&mut self) -> Option<i32> {
        self.endings();
        self.received
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
