//! Hooks other than `on_failure`, and pings of a monitor: what each event calls, with what, and that none affects a run.

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lorchestra_tests::{Fixture, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A monitor that records requests, and answers with this status.
struct Monitor {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Monitor {
    fn start(status: u16) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/ping/abc", listener.local_addr().unwrap());
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = Arc::clone(&seen);
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let seen = Arc::clone(&seen);
                        async move {
                            let line = format!("{} {}", request.method(), request.uri());
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            seen.lock().unwrap().push(format!("{line} {}", String::from_utf8_lossy(&body)).trim_end().to_owned());
                            let answer = Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap();
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                }
            });
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// A sandbox whose hooks append their stdin to a file each.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let hooks = ["start", "success", "failure", "skip", "stale"];
    let lines = hooks.map(|hook| format!("on_{hook} = \"cat >> {}\"\n", sandbox.arg(hook)));
    sandbox.configure(&format!("{}[job.\"misbehave/print\"]\nexpect_every = \"1s\"\n", lines.concat()));
    sandbox
}

fn calls(sandbox: &Sandbox, hook: &str) -> Vec<Value> {
    let calls: Vec<Value> = sandbox.read(hook).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(calls.iter().all(|call| call["schema"] == "lorchestra.hook/1" && call["event"] == hook), "{calls:?}");
    calls
}

fn jobs(sandbox: &Sandbox, hook: &str) -> Vec<String> {
    calls(sandbox, hook).iter().map(|call| call["job"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_event_calls_its_command_once() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("on_start, while the run is running", || jobs(&sandbox, "start").len() == 3);
    sandbox.lorchestra(&["run-job", "--on-overlap", "skip", "misbehave", "wait"]).exits(0);
    running.signal(Signal::TERM);
    running.wait().exits(143);
    sandbox.lorchestra(&["run-job", "--dry-run", "misbehave", "noop"]).exits(0);
    assert_eq!(jobs(&sandbox, "start"), ["noop", "fail", "wait"]);
    assert_eq!(jobs(&sandbox, "success"), ["noop"]);
    assert_eq!(jobs(&sandbox, "failure"), ["fail", "wait"]);
    assert_eq!(jobs(&sandbox, "skip"), ["wait"]);
    let runs = sandbox.runs();
    let id_of = |state: &str| runs.iter().find(|run| run.state() == state).unwrap().id().to_owned();
    assert_eq!(calls(&sandbox, "success")[0]["run_id"], id_of("completed"));
    let skip = &calls(&sandbox, "skip")[0];
    assert_eq!(skip["run_id"], id_of("skipped"));
    assert_eq!(skip["held_by"], calls(&sandbox, "start")[2]["run_id"]);
}

/// Only when somebody asks: a person who looks at the status sends no alarms.
#[test]
fn a_stale_job_is_reported_by_status_notify() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["status"]).exits(1);
    assert!(jobs(&sandbox, "stale").is_empty());
    sandbox.lorchestra(&["status", "--notify"]).exits(1);
    let stale = &calls(&sandbox, "stale")[0];
    assert_eq!((&stale["job"], &stale["last_success"]), (&"print".into(), &Value::Null));
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    sandbox.lorchestra(&["status", "--notify"]).exits(0);
    assert_eq!(jobs(&sandbox, "stale"), ["print"], "not again");
}

#[test]
fn a_hook_changes_no_outcome_and_has_no_hooks_itself() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let lorchestra = lorchestra_tests::built::lorchestra().display().to_string();
    sandbox.configure(&format!(
        "on_start = \"exit 3\"\non_success = \"{lorchestra} run-job misbehave print --lines 2 > /dev/null; kill $$\"\n"
    ));
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("warning: on_start: the command ended with exit status: 3"), "{}", ended.shown());
    assert!(ended.err().contains("warning: on_success: the command ended with signal: 15"), "{}", ended.shown());
    assert_eq!(sandbox.runs().len(), 2, "the hook's own run called no hook");
}

#[test]
fn a_monitor_is_pinged_at_start_and_end() {
    let monitor = Monitor::start(200);
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let url = &monitor.url;
    sandbox.configure(&format!(
        "[job.\"misbehave/noop\"]\nping = \"{url}\"\n[job.\"misbehave/fail\"]\nping = \"{url}?create=1\"\n[job.\"misbehave/ignore_term\"]\nping = \"{url}/\"\n"
    ));
    let ping = |end: &str| format!("POST /ping/abc{end}rid={}", sandbox.runs()[0].id());
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(monitor.requests(), [ping("/start?"), ping("?")]);
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    assert_eq!(monitor.requests(), [ping("/start?create=1&"), format!("{} error", ping("/fail?create=1&"))]);
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    assert!(monitor.requests().is_empty(), "it has no monitor");
    // A run whose supervisor was killed is reported by whatever closes it.
    let running = sandbox.start(&["run-job", "misbehave", "ignore_term", "--marker", &sandbox.arg("marker")]);
    eventually("the job is entered", || sandbox.read("marker").ends_with('\n'));
    running.signal(Signal::KILL);
    drop(running);
    monitor.requests();
    sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert_eq!(monitor.requests(), [format!("{} abandoned", ping("/fail?"))]);
}

#[test]
fn a_monitor_that_is_down_or_refuses_costs_a_warning() {
    let refusing = Monitor::start(404);
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/secret", listener.local_addr().unwrap())
    };
    for (url, why) in [(&refusing.url, "it answered 404 Not Found"), (&nobody, "Connection refused")] {
        let sandbox = Sandbox::with(&[Fixture::Misbehave]);
        sandbox.configure(&format!("[job.\"misbehave/noop\"]\nping = \"{url}\"\n"));
        let begun = Instant::now();
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        assert!(
            ended.err().contains("warning: ping: the monitor was not reached: ") && ended.err().contains(why),
            "{}",
            ended.shown()
        );
        assert!(!ended.err().contains("secret") && !ended.err().contains("127.0.0.1"), "{}", ended.shown());
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    }
    let sandbox = Sandbox::with(&[]);
    sandbox.configure("[job.\"a/b\"]\nping = \"hc-ping.com/secret\"\n");
    let refused = sandbox.lorchestra(&["status"]).exits(78);
    assert!(refused.err().contains("line 2: ping: write the URL") && !refused.err().contains("secret"), "{}", refused.shown());
}
