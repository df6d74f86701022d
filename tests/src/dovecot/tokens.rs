//! The server that verifies tokens for Dovecot, like Google's `tokeninfo`.

use super::{TOKEN, USER};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

/// Answers in its own thread, until the test's process ends.
#[derive(Debug)]
pub(super) struct Tokens {
    port: u16,
}

impl Tokens {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream);
            }
        });
        Self { port }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

fn answer(stream: TcpStream) {
    let mut lines = BufReader::new(&stream);
    let mut request = String::new();
    while lines.read_line(&mut request).is_ok_and(|n| n > 2) {}
    let good = request.contains(&format!("access_token={TOKEN} "));
    let (status, body) = if good {
        ("200 OK", format!("{{\"email\":\"{USER}\",\"expires_in\":3600}}"))
    } else {
        ("400 Bad Request", "{\"error\":\"invalid_token\"}".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body.as_bytes()));
}
