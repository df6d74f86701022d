//! The signals that a supervisor minds, as bytes in a pipe: whoever waits sees them in its one poll, between other things.

use crate::host::clock::timespec;
use crate::host::process;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
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

/// From now on a file that reaches the process's limit (`ulimit -f`) is an error of the write, as a full disk is: the signal that comes
/// with it would end the process without a word. What the process starts has its own default again.
pub fn file_limit_is_an_error() {
    // Where that fails, the limit ends the process, as it does others.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
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
        let minded = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| !ignored(*signal));
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
