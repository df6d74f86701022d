//! Sends spans and measurements to a collector by OTLP over HTTP, with the client of the other requests: machine's roots, proxy.

use super::Telemetry;
use super::recorder::Measured;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Limits of the classes of durations, in seconds: jobs take from milliseconds to days.
const DURATIONS: [f64; 12] = [0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0];

/// Sends everything; the first error is returned, without what a collector has answered.
pub(super) fn send(telemetry: &Telemetry, spans: Vec<SpanData>, measured: Vec<Measured>) -> Result<(), String> {
    if let Some(unsupported) = &telemetry.unsupported {
        return Err(format!("OpenTelemetry: {unsupported}"));
    }
    let client = Client::new(Instant::now() + telemetry.limit)?;
    let why = Arc::clone(&client.why);
    let resource = resource(telemetry);
    let traces = if telemetry.traces { send_spans(client.clone(), &resource, spans) } else { Ok(()) };
    let metrics = if telemetry.metrics { send_metrics(client.clone(), resource, measured) } else { Ok(()) };
    client.end();
    traces.and(metrics).map_err(|error| {
        // The errors of the exporters do not name the cause.
        let cause = why.lock().ok().and_then(|mut why| why.take());
        format!("OpenTelemetry: traces or metrics were not sent: {}", cause.unwrap_or(error))
    })
}

fn resource(telemetry: &Telemetry) -> Resource {
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", lorchestra_core::host::process::host()),
    ]);
    if telemetry.has_service_name { builder.build() } else { builder.with_service_name("lorchestra").build() }
}

fn send_spans(client: Client, resource: &Resource, mut spans: Vec<SpanData>) -> Result<(), String> {
    // If the caller does not record its spans, these would have no parent.
    spans.retain(|span| span.span_context.is_sampled());
    if spans.is_empty() {
        return Ok(());
    }
    let mut exporter = SpanExporter::builder().with_http().with_http_client(client).build().map_err(|e| e.to_string())?;
    exporter.set_resource(resource);
    let mut sent = std::pin::pin!(exporter.export(spans));
    // The client does its request at once: see below.
    match sent.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(sent) => sent.map_err(|e| e.to_string()),
        std::task::Poll::Pending => Err("the exporter waits for something".into()),
    }
}

fn send_metrics(client: Client, resource: Resource, measured: Vec<Measured>) -> Result<(), String> {
    // A process counts its own runs only, so what it sends is an increase.
    let exporter = MetricExporter::builder().with_http().with_http_client(client).with_temporality(Temporality::Delta).build();
    let exporter = exporter.map_err(|e| e.to_string())?;
    let reader = PeriodicReader::builder(exporter).with_interval(Duration::from_secs(24 * 60 * 60)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();
    let meter = provider.meter("lorchestra");
    let runs = meter.u64_counter("lorchestra.runs").with_unit("{run}").with_description("Runs that have ended.").build();
    let duration = meter
        .f64_histogram("lorchestra.run.duration")
        .with_unit("s")
        .with_description("Duration of runs, with all attempts.")
        .with_boundaries(DURATIONS.to_vec())
        .build();
    let cpu = meter.f64_counter("lorchestra.run.cpu.time").with_unit("s").with_description("Processor time of jobs.").build();
    let peak =
        meter.u64_gauge("lorchestra.run.memory.peak").with_unit("By").with_description("Peak memory of the last run.").build();
    for Measured { attributes, took, cpu: used, peak_bytes } in measured {
        runs.add(1, &attributes);
        if let Some(took) = took {
            duration.record(took.as_secs_f64(), &attributes);
        }
        let job = attributes.get(..2).unwrap_or_default();
        if let Some([user, system]) = used {
            for (mode, time) in [("user", user), ("system", system)] {
                cpu.add(time.as_secs_f64(), &[job, &[KeyValue::new("cpu.mode", mode)]].concat());
            }
        }
        if let Some(bytes) = peak_bytes {
            peak.record(bytes, job);
        }
    }
    provider.shutdown().map_err(|e| e.to_string())
}

/// An HTTP client that has done its request when it returns the future: exporters poll it in threads that have no runtime.
#[derive(Debug, Clone)]
struct Client {
    http: reqwest::Client,
    runtime: Arc<tokio::runtime::Runtime>,
    until: Instant,
    /// The reason of the last failure.
    why: Arc<Mutex<Option<String>>>,
}

impl Client {
    fn new(until: Instant) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        // No redirect: requests carry the headers of the environment, such as a key.
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let http = builder.user_agent(concat!("lorchestra/", env!("CARGO_PKG_VERSION"))).build();
        let http = http.map_err(|e| format!("no HTTP client: {}", e.without_url()))?;
        Ok(Self { http, runtime: Arc::new(runtime), until, why: Arc::default() })
    }

    /// Ends the runtime without waiting for a name that is still being looked up.
    fn end(self) {
        if let Some(runtime) = Arc::into_inner(self.runtime) {
            runtime.shutdown_background();
        }
    }

    fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let left = self.until.saturating_duration_since(Instant::now());
        let (parts, body) = request.into_parts();
        let sent = self.runtime.block_on(async {
            let request = self.http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).timeout(left);
            let answer = request.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let (status, body) = sent.map_err(|error| lorchestra_core::text::chain(&error.without_url()))?;
        if !status.is_success() {
            return Err(format!("the collector answered {status}"));
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let answer = self.request(request);
        if let (Err(why), Ok(mut last)) = (&answer, self.why.lock()) {
            *last = Some(why.clone());
        }
        Box::pin(std::future::ready(answer.map_err(HttpError::from)))
    }
}
