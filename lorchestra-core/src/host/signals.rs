//! The signals that a supervisor minds, as bytes in a pipe: whoever waits sees them in its one poll, between other things.

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

/// Signals that a run has to be ignored for: a person who says `nohup`, or a shell that puts a job into the background, wants that.
const KEPT: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];
/// Signals whose action cannot be changed, or must not be: SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV.
const FIXED: [i32; 5] = [9, 19, 4, 8, 11];
/// The last signal that has a name.
const LAST: i32 = 31;

/// Sets what signals do in this process, supervisor or worker, whatever whoever started it had blocked or ignored. Called once, before there
/// are threads.
///
/// - None is blocked: a blocked SIGTERM would make a run deaf, and its children too.
/// - SIGCHLD, SIGPIPE and SIGXFSZ have a handler that does nothing: children can be waited for, and a pipe without a reader and a file at
///   its limit (`ulimit -f`) are errors of the write. A handler, and not to be ignored: what is started by `exec` has its default then.
/// - Of all others, only SIGHUP, SIGINT and SIGTERM stay ignored if they were.
pub fn reset() {
    // Each fails only for a signal that is none.
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

/// SIGHUP, SIGINT, SIGTERM and SIGCHLD, from [`Signals::install`] on; of the first three, those that were not ignored before.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Handles the signals from now on; one that arrives before the first look is kept. A signal that this process was started with
    /// ignored (`nohup`, a shell's job in the background) stays ignored: whoever started it so wants it to go on.
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let ignored = process::ignored_by(std::process::id());
        let minded = KEPT.into_iter().filter(|signal| !ignored(*signal));
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, minded.chain([SIGCHLD]).collect::<Vec<_>>())?;
        Ok(Self { delivery })
    }

    /// Waits so long for a signal that asks for an end.
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
            // Woken by SIGCHLD, or interrupted: looked at again.
            let _ = poll(&mut [PollFd::new(&*self, PollFlags::IN)], Some(&left));
        }
    }

    /// The signals since the last look that ask for an end; what a person did comes before what the system does (INT, TERM,
    /// HUP). SIGCHLD only wakes the poll.
    pub fn endings(&mut self) -> Vec<i32> {
        let pending: Vec<i32> = self.delivery.pending().collect();
        [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| pending.contains(signal)).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
