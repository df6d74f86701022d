//! An `async` job with its own HTTP client, against a local server.

use lorchestra_tests::eventually;
use lorchestra_tests::{Fixture, Sandbox};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A server that answers the first `willing` requests, and keeps the others waiting.
fn server(willing: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || answer(&stream, willing, &counted));
        }
    });
    (url, asked)
}

fn answer(stream: &TcpStream, willing: usize, asked: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(line)) = lines.next() {
        if !line.is_empty() {
            continue;
        }
        if asked.fetch_add(1, Ordering::SeqCst) >= willing {
            // Until the client disconnects.
            while let Some(Ok(_)) = lines.next() {}
            return;
        }
        let _ = (&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    }
}

#[test]
fn a_hundred_requests() {
    let sandbox = Sandbox::with(&[Fixture::Web]);
    let (url, asked) = server(usize::MAX);
    sandbox.lorchestra(&["run-job", "web", "fetch", "--url", &url, "--count", "100"]).exits(0);
    assert_eq!(asked.load(Ordering::SeqCst), 100);
    let events = sandbox.whole_events_of(&sandbox.run());
    let pages = events.iter().filter(|event| event.event_type() == "page.fetched");
    assert!(pages.clone().count() == 100 && pages.clone().all(|page| page.payload()["bytes"] == 5));
}

/// Stopped halfway, with requests in flight that will never be answered. The job ends on its own, long before it would be killed.
#[test]
fn the_job_stops_on_request() {
    let sandbox = Sandbox::with(&[Fixture::Web]);
    let (url, asked) = server(50);
    let running = sandbox.start(&["run-job", "--grace", "1h", "web", "fetch", "--url", &url, "--count", "100"]);
    eventually("more than half of the requests were sent", || asked.load(Ordering::SeqCst) > 50);
    let fetched = || {
        let runs = sandbox.runs();
        runs.first()
            .map_or(0, |run| sandbox.events_of(run.id()).iter().filter(|event| event.event_type() == "page.fetched").count())
    };
    eventually("the answers have arrived", || fetched() == 50);
    running.signal(Signal::INT);
    let ended = running.wait().exits(130);
    let run = sandbox.run();
    assert_eq!(run.cause(), "cancelled", "{}", ended.shown());
    assert_eq!(run.0["job_result"], "error: the run was cancelled");
    assert_eq!(fetched(), 50, "every fetched page was reported");
    assert!(sandbox.processes().is_empty());
}

#[test]
fn a_missing_server_is_an_ordinary_error() {
    let sandbox = Sandbox::with(&[Fixture::Web]);
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    sandbox.lorchestra(&["run-job", "web", "fetch", "--url", &url, "--count", "3"]).exits(1);
    let run = sandbox.run();
    assert!(run.cause() == "error" && run.message().contains("error sending request"), "{run:?}");
}

#[test]
fn remaining_tasks_of_the_jobs_runtime_delay_nothing() {
    let sandbox = Sandbox::with(&[Fixture::Web]);
    sandbox.lorchestra(&["run-job", "--timeout", "1h", "web", "linger"]).exits(0);
    assert_eq!(sandbox.whole_events_of(&sandbox.run()).len(), 3);
}
