//! Turns the events of runs into spans and measurements, and keeps them until they are sent.

use super::Telemetry;
use super::export;
use lorchestra_core::outcome::{Cause, Failure, Outcome};
use lorchestra_core::plan::RunSpec;
use lorchestra_core::run::event::{AttemptFailed, RunEvent};
use lorchestra_core::run::recovery::Recovered;
use lorchestra_core::run::trace_context::RunTrace;
use lorchestra_core::store::{Refusal, Terminal};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// A run that has ended, to be counted.
#[derive(Debug)]
pub(super) struct Measured {
    /// Package, job, state, and the cause of a failure.
    pub(super) attributes: Vec<KeyValue>,
    pub(super) took: Option<Duration>,
    pub(super) cpu: Option<[Duration; 2]>,
    pub(super) peak_bytes: Option<u64>,
}

/// Observes runs.
#[derive(Debug)]
pub(crate) struct Recorder {
    telemetry: Telemetry,
    /// When the active run and its latest attempt started, and the number of that attempt.
    active: Option<(SystemTime, SystemTime, u32)>,
    spans: Vec<SpanData>,
    measured: Vec<Measured>,
}

/// A run that a span is about.
struct RunAttributes<'a> {
    run_id: &'a str,
    package: &'a str,
    job: &'a str,
    group: Option<&'a str>,
    caller: Option<&'a str>,
}

impl<'a> RunAttributes<'a> {
    fn of(run_id: &'a str, spec: &'a RunSpec) -> Self {
        let RunSpec { package, job, group, trace_parent, .. } = spec;
        Self { run_id, package, job, group: group.as_deref(), caller: trace_parent.as_deref() }
    }
}

impl Recorder {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, active: None, spans: Vec::new(), measured: Vec::new() }
    }

    pub(crate) fn observe(&mut self, event: &RunEvent<'_>) {
        let now = SystemTime::now();
        match event {
            RunEvent::Started { .. } => self.active = Some((now, now, 1)),
            RunEvent::AttemptFailed(AttemptFailed { run_id, attempt, failure, wait, .. }) => {
                let Some((start, attempt_start, _)) = self.active else { return };
                // The trace is completed with the run's spec at its end.
                self.attempt(&RunTrace::of(run_id, None), *attempt, (attempt_start, now), Some(failure));
                self.active = Some((start, now + *wait, attempt + 1));
            }
            RunEvent::Ended { run_id, spec, terminal, .. } => self.ended(run_id, spec, terminal, now),
            RunEvent::Skipped { run_id, spec, .. } => self.instant(&RunAttributes::of(run_id, spec), "skipped", None, now),
            RunEvent::Refused { run_id, refusal } => self.refused(run_id, refusal, now),
            RunEvent::Recovered(closed) => closed.recovered.iter().for_each(|one| self.recovered(one, now)),
            _ => {}
        }
    }

    /// Whether there is anything to send.
    pub(crate) fn has_runs(&self) -> bool {
        !self.measured.is_empty()
    }

    /// Sends everything. Fails with a sentence.
    pub(crate) fn send(self) -> Result<(), String> {
        if self.telemetry.has_failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let sent = export::send(&self.telemetry, self.spans, self.measured);
        self.telemetry.has_failed.store(sent.is_err(), Ordering::Relaxed);
        sent
    }

    fn ended(&mut self, run_id: &str, spec: &RunSpec, terminal: &Terminal, now: SystemTime) {
        let millis = Duration::from_millis;
        let (start, attempt_start, attempt) = self.active.take().unwrap_or((now - millis(terminal.duration_ms), now, 1));
        let about = RunAttributes::of(run_id, spec);
        let trace = RunTrace::of(run_id, about.caller);
        for span in self.spans.iter_mut().filter(|span| span.parent_span_id == SpanId::from(trace.run_span())) {
            span.span_context = context(&trace, span.span_context.span_id());
        }
        // Not if the run was stopped before the next attempt.
        if terminal.attempt == attempt {
            self.attempt(&trace, attempt, (attempt_start, now), terminal.failure.as_ref());
        }
        let cause = terminal.failure.as_ref().map(|failure| failure.cause);
        self.run(&about, (start, now), state(cause), cause);
        self.measure(
            &about,
            state(cause),
            cause,
            Measured {
                attributes: Vec::new(),
                took: Some(millis(terminal.duration_ms)),
                cpu: terminal.user_ms.zip(terminal.system_ms).map(|(user, system)| [millis(user), millis(system)]),
                peak_bytes: terminal.max_rss_kib.map(|kib| kib << 10),
            },
        );
    }

    fn refused(&mut self, run_id: &str, refusal: &Refusal, now: SystemTime) {
        let Refusal { package, job, group, cause, spec, .. } = refusal;
        let caller = spec.as_ref().and_then(|spec| spec.trace_parent.as_deref());
        self.instant(&RunAttributes { run_id, package, job, group: group.as_deref(), caller }, "refused", Some(*cause), now);
    }

    fn recovered(&mut self, Recovered { run, outcome }: &Recovered, now: SystemTime) {
        let spec = run.spec().ok();
        let caller = spec.as_ref().and_then(|spec| spec.trace_parent.as_deref());
        let group = spec.as_ref().and_then(|spec| spec.group.as_deref());
        let about = RunAttributes { run_id: &run.run_id, package: &run.package, job: &run.job, group, caller };
        let cause = match outcome {
            Outcome::Completed => None,
            Outcome::Failed(failure) => Some(failure.cause),
        };
        let start = u64::try_from(run.started_at).ok().map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
        self.run(&about, (start.unwrap_or(now).min(now), now), state(cause), cause);
        self.measure(&about, state(cause), cause, Measured { attributes: Vec::new(), took: None, cpu: None, peak_bytes: None });
    }

    /// A run that never started a job.
    fn instant(&mut self, about: &RunAttributes<'_>, state: &'static str, cause: Option<Cause>, now: SystemTime) {
        self.run(about, (now, now), state, cause);
        self.measure(about, state, cause, Measured { attributes: Vec::new(), took: None, cpu: None, peak_bytes: None });
    }

    fn measure(&mut self, about: &RunAttributes<'_>, state: &'static str, cause: Option<Cause>, measured: Measured) {
        let mut attributes = name(about);
        attributes.push(KeyValue::new("lorchestra.state", state));
        attributes.extend(cause.map(|cause| KeyValue::new("error.type", cause.as_str())));
        self.measured.push(Measured { attributes, ..measured });
    }

    fn run(&mut self, about: &RunAttributes<'_>, times: (SystemTime, SystemTime), state: &'static str, cause: Option<Cause>) {
        let trace = RunTrace::of(about.run_id, about.caller);
        let mut attributes = name(about);
        attributes.push(KeyValue::new("lorchestra.run_id", about.run_id.to_owned()));
        attributes.push(KeyValue::new("lorchestra.state", state));
        attributes.extend(about.group.map(|group| KeyValue::new("lorchestra.group", group.to_owned())));
        let title = format!("{}/{}", about.package, about.job);
        let parent = trace.parent.map_or(SpanId::INVALID, SpanId::from);
        let span = SpanData { parent_span_is_remote: trace.parent.is_some(), ..span(&trace, trace.run_span(), parent, times) };
        self.add(SpanData { name: title.into(), attributes, ..span }, cause);
    }

    fn attempt(&mut self, trace: &RunTrace, attempt: u32, times: (SystemTime, SystemTime), failure: Option<&Failure>) {
        let span = span(trace, trace.attempt_span(attempt), SpanId::from(trace.run_span()), times);
        let mut attributes = vec![KeyValue::new("lorchestra.attempt", i64::from(attempt))];
        attributes.extend(
            failure.and_then(|failure| failure.exit_code).map(|code| KeyValue::new("process.exit.code", i64::from(code))),
        );
        let name = format!("attempt {attempt}").into();
        self.add(SpanData { name, attributes, ..span }, failure.map(|failure| failure.cause));
    }

    fn add(&mut self, mut span: SpanData, cause: Option<Cause>) {
        if let Some(cause) = cause.filter(|cause| *cause != Cause::Superseded) {
            span.status = Status::error(cause.as_str());
            span.attributes.push(KeyValue::new("error.type", cause.as_str()));
        }
        self.spans.push(span);
    }
}

fn state(cause: Option<Cause>) -> &'static str {
    match cause {
        None => "completed",
        Some(Cause::Superseded) => "superseded",
        Some(_) => "failed",
    }
}

fn name(about: &RunAttributes<'_>) -> Vec<KeyValue> {
    vec![KeyValue::new("lorchestra.package", about.package.to_owned()), KeyValue::new("lorchestra.job", about.job.to_owned())]
}

fn context(trace: &RunTrace, span: SpanId) -> SpanContext {
    let flags = if trace.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(TraceId::from(trace.trace_id), span, flags, false, TraceState::default())
}

fn span(trace: &RunTrace, id: u64, parent: SpanId, (start_time, end_time): (SystemTime, SystemTime)) -> SpanData {
    SpanData {
        span_context: context(trace, SpanId::from(id)),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "".into(),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("lorchestra").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}
