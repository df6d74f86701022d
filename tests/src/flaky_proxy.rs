//! Forwards connections to a server until a number of bytes has passed, and then goes silent or disconnects: network failures halfway.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What happens after these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// No more bytes.
    Silence,
    /// The connection is closed.
    End,
}

/// A port that forwards to another one.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    shut: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
}

impl Gate {
    /// Forwards to this port of the machine, up to this many bytes from the server on each connection.
    ///
    /// # Panics
    /// If there is no port.
    pub fn to(port: u16, bytes: usize, then: Then) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let shut = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&shut);
        let open = Arc::new(AtomicBool::new(false));
        let all = Arc::clone(&open);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    let shared = Arc::clone(&shared);
                    let bytes = if all.load(Ordering::SeqCst) { usize::MAX } else { bytes };
                    let (from, to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                    std::thread::spawn(move || pass(from, to, usize::MAX, Then::End, &AtomicBool::new(false)));
                    std::thread::spawn(move || pass(server, client, bytes, then, &shared));
                }
            }
        });
        Self { port: own, shut, open }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Removes the limit for new connections.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Whether the limit was reached.
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut left: usize, then: Then, shut: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let room = left.min(buffer.len());
        match from.read(&mut buffer[..room]) {
            Ok(n) if n > 0 => {
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                left -= n;
            }
            _ => break,
        }
    }
    shut.store(left == 0, Ordering::SeqCst);
    if left == 0 && then == Then::Silence {
        // Both ends stay open as long as the client does.
        while to.peek(&mut [0]).is_ok_and(|n| n > 0) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(crate::DEADLINE);
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
