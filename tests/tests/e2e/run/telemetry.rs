//! OpenTelemetry: the spans and metrics of runs, decoded as a collector does; the trace that a job continues; a collector that is down,
//! silent or refuses changes nothing.

use lorchestra_tests::receiver::Receiver;
use lorchestra_tests::{Fixture, Sandbox, eventually, processes};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, metric::Data};
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message as _;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone()?.value);
    match found {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => panic!("{key}: {other:?}"),
        None => String::new(),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a collector has received since the last call.
#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    services: Vec<String>,
    metrics: Vec<(String, Data)>,
}

fn received(collector: &Receiver) -> Received {
    let mut all = Received::default();
    for request in collector.requests() {
        match request.path.as_str() {
            "/v1/traces" => {
                for part in ExportTraceServiceRequest::decode(request.body).unwrap().resource_spans {
                    all.services.push(text(&part.resource.unwrap().attributes, "service.name"));
                    all.spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
            }
            "/v1/metrics" => {
                for part in ExportMetricsServiceRequest::decode(request.body).unwrap().resource_metrics {
                    all.services.push(text(&part.resource.unwrap().attributes, "service.name"));
                    let metrics = part.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
                    all.metrics.extend(metrics.map(|metric| (metric.name, metric.data.unwrap())));
                }
            }
            other => panic!("a request for {other}"),
        }
    }
    all
}

#[test]
fn a_run_is_a_span_of_its_callers_trace_with_a_span_for_each_attempt() {
    let (sandbox, collector) = (sandbox(), Receiver::start(200));
    let environment = [(ENDPOINT, collector.url.as_str()), ("TRACEPARENT", CALLER), ("OTEL_EXPORTER_OTLP_HEADERS", "token=abc")];
    let args = ["run-job", "misbehave", "fail_at_first", "--account", "anna@example.org", "--times", "0", "--how", "SECRET_NAME"];
    sandbox.lorchestra_with(&environment, &args).exits(0);
    let requests = collector.requests();
    assert_eq!(requests.len(), 2, "traces and metrics");
    assert!(requests.iter().all(|one| one.headers.contains(&("token".into(), "abc".into()))), "{requests:?}");
    for request in &requests {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        assert!(!body.contains("anna") && !body.contains("SECRET_NAME"), "no account and no parameter: {body}");
    }

    let args = ["run-job", "--retries", "1", "misbehave", "fail_at_first"];
    sandbox.lorchestra_with(&environment[..2], &args).exits(0);
    let Received { spans, services, metrics } = received(&collector);
    assert_eq!(services, ["lorchestra", "lorchestra"]);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["attempt 1", "attempt 2", "misbehave/fail_at_first"]);
    let [first, second, run] = spans.as_slice() else { unreachable!() };
    for span in &spans {
        assert_eq!(hex(&span.trace_id), CALLER[3..35], "{span:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
    }
    assert_eq!(hex(&run.parent_span_id), CALLER[36..52]);
    assert!([first, second].iter().all(|attempt| attempt.parent_span_id == run.span_id));
    assert!(first.end_time_unix_nano < second.start_time_unix_nano && second.end_time_unix_nano <= run.end_time_unix_nano);
    let code = |span: &Span| span.status.as_ref().map_or(0, |status| status.code);
    assert_eq!([first, second, run].map(code), [StatusCode::Error as i32, 0, 0]);
    assert_eq!(
        (text(&first.attributes, "error.type"), text(&run.attributes, "lorchestra.state")),
        ("error".into(), "completed".into())
    );
    assert_eq!(text(&run.attributes, "lorchestra.run_id"), sandbox.runs()[0].id());

    let metric = |name: &str| &metrics.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name}: {metrics:?}")).1;
    let Data::Sum(runs) = metric("lorchestra.runs") else { panic!("{metrics:?}") };
    assert_eq!(runs.aggregation_temporality, AggregationTemporality::Delta as i32, "each process counts its own runs");
    let [point] = runs.data_points.as_slice() else { panic!("{runs:?}") };
    assert_eq!(text(&point.attributes, "lorchestra.job"), "fail_at_first");
    let Data::Histogram(durations) = metric("lorchestra.run.duration") else { panic!("{metrics:?}") };
    assert!(durations.data_points[0].count == 1 && durations.data_points[0].sum.unwrap() >= 0.1, "{durations:?}");
    for name in ["lorchestra.run.cpu.time", "lorchestra.run.memory.peak"] {
        metric(name);
    }
}

#[test]
fn a_job_continues_the_span_of_its_attempt() {
    let (sandbox, collector) = (sandbox(), Receiver::start(200));
    let environment = [(ENDPOINT, collector.url.as_str()), ("OTEL_SERVICE_NAME", "nightly")];
    sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "surroundings", "--name", "TRACEPARENT"]).exits(0);
    let run = sandbox.run();
    let seen = sandbox.whole_events_of(&run)[1].payload()["value"].as_str().unwrap().to_owned();
    let Received { spans, services, .. } = received(&collector);
    assert_eq!(services, ["nightly", "nightly"]);
    let attempt = spans.iter().find(|span| span.name == "attempt 1").unwrap();
    assert_eq!(seen, format!("00-{}-{}-01", hex(&attempt.trace_id), hex(&attempt.span_id)));
    assert_eq!(hex(&attempt.trace_id), run.id().replace('-', ""), "a trace of its own");
}

#[test]
fn ends_without_success_are_errors_and_a_callers_sampling_is_respected() {
    let (sandbox, collector) = (sandbox(), Receiver::start(200));
    let environment = [(ENDPOINT, collector.url.as_str())];
    let last = |name: &str| {
        let Received { spans, .. } = received(&collector);
        let span = spans.into_iter().find(|span| span.name == name).unwrap();
        (span.status.unwrap_or_default().code == StatusCode::Error as i32, text(&span.attributes, "error.type"))
    };
    sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "fail"]).exits(1);
    assert_eq!(last("misbehave/fail"), (true, "error".into()));
    // A run whose supervisor died is closed by another process, with the same spans.
    let marker = sandbox.arg("marker");
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &marker]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let workers = running.children();
    running.signal(Signal::KILL);
    workers.into_iter().for_each(|worker| processes::signal(worker, Signal::KILL));
    drop(running);
    sandbox.lorchestra_with(&environment, &["runs", "list"]).exits(0);
    assert_eq!(last("misbehave/wait"), (true, "abandoned".into()));
    // The caller does not record its trace.
    let caller = CALLER.replace("-01", "-00");
    sandbox.lorchestra_with(&[environment[0], ("TRACEPARENT", &caller)], &["run-job", "misbehave", "noop"]).exits(0);
    let Received { spans, metrics, .. } = received(&collector);
    assert!(spans.is_empty() && !metrics.is_empty(), "{spans:?}");
    // A refused run, which never starts.
    std::fs::write(sandbox.plugins().join("libmisbehave.so"), "not a library").unwrap();
    sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "noop"]).exits(126);
    assert_eq!(last("misbehave/noop"), (true, "plugin".into()));
}

#[test]
fn no_collector_changes_a_run() {
    let (sandbox, refusing) = (sandbox(), Receiver::start(503));
    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for (url, why, limit) in
        [(refusing.url.as_str(), "503", "90000"), (&silent, "timed out", "300"), ("http://127.0.0.1:9", "refused", "90000")]
    {
        let environment = [(ENDPOINT, url), ("OTEL_EXPORTER_OTLP_TIMEOUT", limit)];
        let begun = Instant::now();
        let ended = sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "fail"]).exits(1);
        assert!(ended.err().contains("\nwarning: OpenTelemetry: traces or metrics were not sent: "), "{}", ended.shown());
        assert!(ended.err().contains(why), "{why}: {}", ended.shown());
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        assert_eq!(sandbox.runs()[0].cause(), "error");
    }
    // Nothing is sent.
    let environment = [(ENDPOINT, refusing.url.as_str()), ("OTEL_SDK_DISABLED", "true")];
    refusing.requests();
    let ended = sandbox.lorchestra_with(&environment, &["run-job", "-q", "misbehave", "noop"]).exits(0);
    assert!(ended.err().is_empty() && refusing.requests().is_empty(), "{}", ended.shown());
    let accepting = Receiver::start(200);
    let environment = [(ENDPOINT, accepting.url.as_str()), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    let ended = sandbox.lorchestra_with(&environment, &["run-job", "-q", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("grpc") && accepting.requests().is_empty(), "{}", ended.shown());
    // Compressed.
    let environment = [(ENDPOINT, accepting.url.as_str()), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")];
    let ended = sandbox.lorchestra_with(&environment, &["run-job", "-q", "misbehave", "noop"]).exits(0);
    let requests = accepting.requests();
    assert!(ended.err().is_empty() && requests.len() == 2, "{}", ended.shown());
    for request in requests {
        assert!(request.headers.contains(&("content-encoding".into(), "gzip".into())), "{:?}", request.headers);
        assert_eq!(request.body[..2], [0x1f, 0x8b]);
    }
}
