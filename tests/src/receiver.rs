//! An HTTP server in the test's own process that records requests: a collector, a lineage backend.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// A request that was received.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its path.
    pub path: String,
    /// Its headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
    /// The status that it was answered with.
    pub status: u16,
}

/// The server. It answers every request with the same status.
#[derive(Debug)]
pub struct Receiver {
    /// Its URL, without a path.
    pub url: String,
    answers: Arc<Answers>,
    requests: Arc<Mutex<Vec<Received>>>,
}

/// What it answers.
#[derive(Debug)]
struct Answers {
    status: AtomicU16,
    /// Bodies with this text get status 422.
    refused: Mutex<Option<String>>,
}

impl Receiver {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(status: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = Answers { status: AtomicU16::new(status), refused: Mutex::default() };
        let receiver = Self { url, answers: Arc::new(answers), requests: Arc::default() };
        let (answers, seen) = (Arc::clone(&receiver.answers), Arc::clone(&receiver.requests));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
                    let answer = service_fn(move |request| record(request, Arc::clone(&answers), Arc::clone(&seen)));
                    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
                }
            });
        });
        receiver
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        self.answers.status.store(status, Ordering::SeqCst);
    }

    /// Refuses bodies with this text from now on.
    ///
    /// # Panics
    /// If the server has panicked.
    pub fn refuse(&self, text: &str) {
        *self.answers.refused.lock().expect("the server lives") = Some(text.to_owned());
    }

    /// Returns the requests since the last call, as they arrived.
    ///
    /// # Panics
    /// If the server has panicked.
    pub fn requests(&self) -> Vec<Received> {
        std::mem::take(&mut *self.requests.lock().expect("the server lives"))
    }
}

async fn record(
    request: Request<Incoming>,
    answers: Arc<Answers>,
    seen: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let mut status = answers.status.load(Ordering::SeqCst);
    // A client that was killed sends no more.
    if let Ok(body) = request.into_body().collect().await {
        let body = body.to_bytes();
        let refused = answers.refused.lock().expect("no other panic").clone();
        if refused.is_some_and(|refused| String::from_utf8_lossy(&body).contains(&refused)) {
            status = 422;
        }
        seen.lock().expect("no other panic").push(Received { path, headers, body, status });
    }
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).expect("a status");
    Ok(response)
}
