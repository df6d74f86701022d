//! The part of HTTP that a client of the Web API needs: one request per connection.

use super::{Fault, State};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

pub(super) fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let token = head
        .iter()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        .and_then(|(_, value)| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = path.strip_prefix("/api/").unwrap_or_default().to_owned();
    let params: BTreeMap<String, String> =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decoded(name), decoded(value))).collect();
    let (fault, answer) = {
        let mut state = state.lock().expect("no answer panicked");
        state.calls.push((method.clone(), params.clone()));
        (state.fault(&method), state.answer(&method, &params, token))
    };
    let text = answer.to_string();
    let (status, extra, body) = match fault {
        None => (200, String::new(), text),
        Some(Fault::Answer(answer)) => (200, String::new(), answer.to_string()),
        Some(Fault::Limited(seconds)) => {
            (429, format!("Retry-After: {seconds}\r\n"), r#"{"ok":false,"error":"ratelimited"}"#.into())
        }
        Some(Fault::Status(status)) => (status, String::new(), "<html>not now</html>".into()),
        Some(Fault::Truncated) => (200, String::new(), text.chars().take(text.chars().count() / 2).collect()),
        Some(Fault::Silent) => {
            // Until the caller disconnects.
            let _ = (&*stream).read(&mut [0]);
            return;
        }
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} status\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n"
    );
    let _ = (&*stream).write_all(head.as_bytes()).and_then(|()| (&*stream).write_all(body.as_bytes()));
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex: Option<u8> = (byte == b'%').then(|| {
            let digits = [rest.next().unwrap_or(b'?'), rest.next().unwrap_or(b'?')];
            u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).expect("two digits")
        });
        bytes.push(hex.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
