//! The socket: a stream that ends when the run is cancelled, when the server sends nothing for too long, or when it sends more
//! than was requested.

use super::ServerError;
use lorchestra_plugin_api::JobContext;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Interval between two checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);

/// Why the stream ended early. Wrapped in an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Interruption {
    #[error("the run was cancelled")]
    Cancelled,
    #[error("no data was received for {0:?}")]
    Silent(Duration),
    #[error("the server sent too much data")]
    TooMuch,
}

impl From<Interruption> for io::Error {
    fn from(interruption: Interruption) -> Self {
        Self::other(interruption)
    }
}

/// Number of bytes that the server may send until the next request.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Rc<Cell<u64>>);

impl Budget {
    /// Allows a response of this size, plus overhead of TLS and the protocol.
    pub(crate) fn allow(&self, bytes: u64) {
        self.0.set(bytes + bytes / 8 + (1 << 20));
    }
}

/// A connected socket.
pub(crate) struct Link<'a> {
    stream: TcpStream,
    cx: &'a JobContext,
    idle_timeout: Duration,
    budget: Budget,
}

impl<'a> Link<'a> {
    /// Resolves the name and connects, trying each address.
    ///
    /// Runs on a separate thread, because neither can be interrupted and a cancelled run must not wait for it. `local_only`:
    /// connect only to localhost.
    #[expect(clippy::too_many_arguments, reason = "a connection needs all of them")]
    pub(crate) fn connect(
        host: &str,
        port: u16,
        place: &str,
        local_only: bool,
        idle_timeout: Duration,
        cx: &'a JobContext,
    ) -> Result<Self, ServerError> {
        let (sender, connected) = mpsc::sync_channel(1);
        let name = host.to_owned();
        std::thread::spawn(move || {
            // The receiver may be gone.
            let _ = sender.send(connect(&name, port, local_only, idle_timeout));
        });
        let until = Instant::now() + idle_timeout;
        let stream = loop {
            match connected.recv_timeout(LOOK) {
                Ok(Ok(stream)) => break stream,
                Ok(Err(Failed::Name(source))) => return Err(ServerError::NoSuchHost { host: host.to_owned(), source }),
                Ok(Err(Failed::Elsewhere)) => return Err(ServerError::PlainElsewhere { place: place.to_owned() }),
                Ok(Err(Failed::Connect(source))) => return Err(ServerError::Connect { place: place.to_owned(), source }),
                Err(_) if cx.is_cancelled() => return Err(ServerError::Cancelled),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => return Err(ServerError::Silent { place: place.to_owned(), idle_timeout }),
            }
        };
        let set = stream.set_read_timeout(Some(LOOK)).and_then(|()| stream.set_write_timeout(Some(LOOK)));
        set.map_err(|source| ServerError::Connect { place: place.to_owned(), source })?;
        let budget = Budget(Rc::new(Cell::new(0)));
        budget.allow(0);
        Ok(Self { stream, cx, idle_timeout, budget })
    }

    /// Limits shared with the reader.
    pub(crate) fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Repeats `io` until it succeeds, times out, or the run is cancelled.
    fn patiently(&mut self, mut io: impl FnMut(&mut TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        let until = Instant::now() + self.idle_timeout;
        loop {
            if self.cx.is_cancelled() {
                return Err(Interruption::Cancelled.into());
            }
            match io(&mut self.stream) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if Instant::now() >= until {
                        return Err(Interruption::Silent(self.idle_timeout).into());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Read for Link<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.patiently(|stream| stream.read(buffer))?;
        let left = self.budget.0.get().checked_sub(n as u64).ok_or(Interruption::TooMuch)?;
        self.budget.0.set(left);
        Ok(n)
    }
}

impl Write for Link<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

enum Failed {
    Name(io::Error),
    Elsewhere,
    Connect(io::Error),
}

fn connect(host: &str, port: u16, local_only: bool, idle_timeout: Duration) -> Result<TcpStream, Failed> {
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(Failed::Name)?.collect();
    if local_only {
        addresses.retain(|address| address.ip().to_canonical().is_loopback());
        if addresses.is_empty() {
            return Err(Failed::Elsewhere);
        }
    }
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect_timeout(&address, idle_timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(Failed::Connect(failed))
}
