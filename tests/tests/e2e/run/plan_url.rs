//! `run-window --plan URL`: a plan that a node reads by HTTP, or one message why it cannot, with the exit code that engines act on.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustix::process::Signal;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A server that answers each path with bytes of its own, and records the requests.
struct Web {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

/// The answer for each path; the second one from the second request on. Without bytes, the server stays silent.
type Answers = HashMap<&'static str, [Vec<u8>; 2]>;

impl Web {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::<String>::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = String::new();
                let mut lines = BufReader::new(&stream);
                while lines.read_line(&mut head).is_ok_and(|read| read > 2) {}
                let path = head.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
                // What does not speak HTTP, such as TLS, is not answered.
                let Some(answers) = answers.get(path.as_str()) else { continue };
                let before = seen.lock().unwrap().iter().filter(|head| head.split([' ', '?']).nth(1) == Some(&path)).count();
                seen.lock().unwrap().push(head);
                let answer = &answers[before.min(1)];
                if answer.is_empty() {
                    silent.push(stream);
                } else {
                    // A client that has seen enough closes the connection.
                    let _ = stream.write_all(answer);
                }
            }
        });
        Self { port, requests }
    }

    /// Returns the requests for a path.
    fn requests(&self, path: &str) -> Vec<String> {
        let all = self.requests.lock().unwrap();
        all.iter().filter(|head| head.split([' ', '?']).nth(1) == Some(path)).cloned().collect()
    }
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// An answer with a body, and a length that may be that of something longer.
fn body(text: &[u8], length: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").into_bytes();
    answer.extend_from_slice(text);
    answer
}

fn sum(text: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let printed = std::process::Command::new("sha256sum").arg(file.path()).output().unwrap();
    String::from_utf8(printed.stdout).unwrap()[..64].to_owned()
}

fn both(answer: Vec<u8>) -> [Vec<u8>; 2] {
    [answer.clone(), answer]
}

#[test]
fn a_plan_is_read_from_a_url_or_one_message_says_why_not() {
    let node = Sandbox::with(&[Fixture::Misbehave]);
    let file = node.arg("plan.jsonl");
    let days = ["--from", "2024-01-01", "--to", "2024-01-04", "--every", "1d", "--plan", &file];
    node.lorchestra(&[&["backfill", "misbehave", "windowed"][..], &days].concat()).exits(0);
    let plan = std::fs::read(&file).unwrap();
    let cut = plan[..plan.len() - 20].to_vec();
    let web = Web::start(HashMap::from([
        ("/plan.jsonl", both(body(&plan, plan.len()))),
        ("/busy", [status("503 Service Unavailable"), body(&plan, plan.len())]),
        ("/overloaded", both(status("429 Too Many Requests"))),
        ("/short", both(body(&cut, plan.len()))),
        ("/cut", both(body(&cut, cut.len()))),
        ("/text", both(body(b"hello\n", 6))),
        ("/large", both(body(b"", 999_999_999))),
        ("/missing", both(status("404 Not Found"))),
        ("/moved", both(status("302 Found"))),
    ]));
    let (whole, of_cut, of_text) = (sum(&plan), sum(&cut), sum(b"hello\n"));
    let at = |path: &str, sum: &str| format!("http://127.0.0.1:{}{path}#sha256={sum}", web.port);
    let run =
        |url: &str, index: &str| node.lorchestra(&["run-window", "--plan", url, "--index", index, "--no-require-delivery", "-q"]);
    // Another index than the first, and several attempts.
    for (path, index, requests) in [("/plan.jsonl", "1", 1), ("/busy", "2", 2)] {
        run(&at(path, &whole), index).exits(0);
        assert_eq!(web.requests(path).len(), requests);
    }
    let mut windows: Vec<String> = node.runs().iter().map(|run| run.0["since"].as_str().unwrap()[..10].to_owned()).collect();
    windows.sort();
    assert_eq!(windows, ["2024-01-02", "2024-01-03"]);
    // Several indexes in one process, as engines start them.
    let several = ["run-window", "--plan", &at("/plan.jsonl", &whole), "--indexes", "1,0", "--no-require-delivery"];
    let reports = node.lorchestra(&several).exits(0).json_lines("lorchestra.window-report/1");
    assert_eq!(reports.iter().map(|report| report["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(node.runs().len(), 3, "the window that has run is found");

    for (url, code, message) in [
        (at("/missing", &whole), 2, "the server answered 404 Not Found"),
        (at("/moved", &whole), 2, "give the address to which it redirects"),
        (at("/large", &whole), 2, "more than 256 MiB"),
        (at("/cut", &whole), 2, "and --plan expects"),
        (at("/cut", &of_cut), 2, "incomplete or was changed"),
        (at("/text", &of_text), 2, "is not a plan file"),
        (at("/overloaded", &whole), 69, "the server answered 429"),
        (at("/short", &whole), 69, "the plan could not be read from"),
        // Nothing listens there, or something that does not speak TLS.
        (format!("http://127.0.0.1:1/p#sha256={whole}"), 69, "run the window again"),
        (format!("https://127.0.0.1:{}/plan.jsonl", web.port), 69, "run the window again"),
        (format!("http://127.0.0.1:{}/plan.jsonl", web.port), 2, "http:// protects nothing"),
        ("gs://bucket/plan.jsonl".into(), 2, "gs:// is not supported"),
    ] {
        let ended = run(&url, "0").exits(code);
        assert!(ended.err().contains(message), "{message}: {}", ended.shown());
    }
    assert_eq!(web.requests("/overloaded").len(), 3);
    assert_eq!(web.requests("/missing").len(), 1, "an answer that is final is not asked for again");
    let ended = run(&at("/plan.jsonl", &whole), "3").exits(2);
    assert!(ended.err().contains("has 3 members"), "{}", ended.shown());
    assert_eq!(node.all_runs().len(), 3, "nothing else has started");
}

/// A server that answers every request with these bytes, over TLS with a certificate that is written to a file.
struct TlsWeb {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl TlsWeb {
    fn start(answer: Vec<u8>, certificate: CertificateParams, file: &Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        std::fs::write(file, certificate.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let (port, connections) = serving(move |stream| {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            // A client that does not trust the certificate says so and leaves.
            if stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(&answer);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Self { port, connections }
    }
}

/// Serves one connection after the other. Returns the port, and the number of connections so far.
fn serving(mut serve: impl FnMut(TcpStream) + Send + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            seen.fetch_add(1, Ordering::SeqCst);
            serve(stream.unwrap());
        }
    });
    (port, connections)
}

/// What is wrong with the server's certificate does not pass: each is refused at the first attempt, with the cause and the fix.
#[test]
fn a_certificate_that_is_not_trusted_is_refused_at_once() {
    let node = Sandbox::with(&[Fixture::Misbehave]);
    let file = node.arg("plan.jsonl");
    let days = ["--from", "2024-01-01", "--to", "2024-01-02", "--every", "1d", "--plan", &file];
    node.lorchestra(&[&["backfill", "misbehave", "windowed"][..], &days].concat()).exits(0);
    let plan = std::fs::read(&file).unwrap();
    let of = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        // Each is its own issuer, which is found by its name.
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let start = |certificate, name: &str| TlsWeb::start(body(&plan, plan.len()), certificate, &node.path(name));
    let mut expired = of("127.0.0.1");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (good, other, old) = (start(of("127.0.0.1"), "good"), start(of("example.org"), "other"), start(expired, "old"));
    let run = |port: u16, trusted: &str| {
        let trusted = node.arg(trusted);
        let url = format!("https://anna:hunter2@127.0.0.1:{port}/plan.jsonl");
        let window = ["run-window", "--plan", &url, "--index", "0", "--no-require-delivery"];
        node.lorchestra_with(&[("SSL_CERT_FILE", &trusted)], &window)
    };
    for (server, trusted, why, hint) in [
        (&good, "other", "UnknownIssuer", "install the issuer's certificate on this node"),
        (&other, "other", "not valid for name", "use a name in the URL for which the certificate is valid"),
        (&old, "old", "expired", "check the clock of this node"),
    ] {
        let ended = run(server.port, trusted).exits(78);
        for expected in ["the plan could not be read from https://127.0.0.1:", why, hint] {
            assert!(ended.err().contains(expected), "{expected}: {}", ended.shown());
        }
        assert!(!ended.err().contains("hunter2"), "{}", ended.shown());
        assert_eq!(server.connections.load(Ordering::SeqCst), 1, "{why}");
    }
    // A server without TLS, which answers what it does not understand.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        // Until the client has seen it.
        while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
    });
    let ended = run(port, "good").exits(78);
    assert!(ended.err().contains("check the port and the scheme of the URL"), "{}", ended.shown());
    answers.join().unwrap();
    // A certificate that only signs others.
    let mut authority = of("127.0.0.1");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = start(authority, "authority");
    let ended = run(authority.port, "authority").exits(78);
    assert!(ended.err().contains("certificate authority") && !ended.err().contains("OtherError"), "{}", ended.shown());
    // The file that would be used instead of the machine's certificates.
    let ended = run(good.port, "missing").exits(78);
    for expected in ["SSL_CERT_FILE: ", "missing cannot be read: No such file", "unset it"] {
        assert!(ended.err().contains(expected), "{expected}: {}", ended.shown());
    }
    run(good.port, "good").exits(0);
    assert_eq!(node.all_runs().len(), 1);
}

/// Answers every connection with a fatal alert of TLS, after the client's greeting.
fn alerting(alert: u8) -> (u16, Arc<AtomicUsize>) {
    serving(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, alert]);
        while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
    })
}

/// A server that refuses this node's TLS refuses it each time; other alerts may be temporary.
#[test]
fn what_a_tls_server_refuses_is_not_asked_for_again() {
    let node = Sandbox::with(&[Fixture::Misbehave]);
    for (alert, code, attempts, hint) in [
        (70, 78, 1, "configure the server for TLS 1.2 or 1.3"),
        (40, 78, 1, "common cipher suites"),
        (116, 78, 1, "run-window sends no client certificate"),
        (48, 78, 1, "run-window sends no client certificate"),
        (112, 78, 1, "check the host in the URL"),
        (80, 69, 3, "run the window again"),
    ] {
        let (port, connections) = alerting(alert);
        let url = format!("https://127.0.0.1:{port}/plan.jsonl");
        let ended = node.lorchestra(&["run-window", "--plan", &url, "--index", "0"]).exits(code);
        assert!(ended.err().contains(hint), "{alert}: {}", ended.shown());
        assert_eq!(connections.load(Ordering::SeqCst), attempts, "{alert}");
    }
}

/// User information and query are sent, and never printed.
#[test]
fn credentials_in_the_url_are_not_printed() {
    let node = Sandbox::with(&[Fixture::Misbehave]);
    let web = Web::start(HashMap::from([("/missing", both(status("404 Not Found")))]));
    let sum = "0".repeat(64);
    let url = format!("http://anna:hunter2@127.0.0.1:{}/missing?token=hunter2#sha256={sum}", web.port);
    for url in [url.clone(), url.replace("#sha256", "#sum"), url.replace("/missing", "x/missing")] {
        let ended = node.lorchestra(&["-vv", "run-window", "--plan", &url, "--index", "0"]).exits(2);
        assert!(!ended.err().contains("hunter2") && !ended.out().contains("hunter2"), "{}", ended.shown());
    }
    let requests = web.requests("/missing");
    assert!(requests.len() == 1 && requests[0].contains("token=hunter2"), "{requests:?}");
    assert!(requests[0].to_ascii_lowercase().contains("authorization: basic"), "{requests:?}");
}

#[test]
fn sigterm_ends_the_download() {
    let node = Sandbox::with(&[Fixture::Misbehave]);
    let web = Web::start(HashMap::from([("/silent", both(Vec::new()))]));
    let url = format!("http://127.0.0.1:{}/silent#sha256={}", web.port, "0".repeat(64));
    let running = Running::start(node.command(&["run-window", "--plan", &url, "--index", "0"]));
    eventually("it has asked", || web.requests("/silent").len() == 1);
    running.signal(Signal::TERM);
    let ended = running.wait().exits(143);
    assert!(ended.err().contains("stopped by SIGTERM before the plan was read"), "{}", ended.shown());
}
