//! The signals that a supervisor minds, as bytes in a pipe: whoever waits sees them in its one poll, between other things.

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// SIGHUP, SIGINT, SIGTERM and SIGCHLD, from [`Signals::install`] on.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Handles the signals from now on; one that arrives before the first look is kept.
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, [SIGHUP, SIGINT, SIGTERM, SIGCHLD])?;
        Ok(Self { delivery })
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
