//! The sink of a job under test: records events, refuses what a run would refuse, and reports cancellation. The job's threads call the sink;
//! the test's thread calls the methods used by [`RunningTest`](super::RunningTest).

use super::test_run::Emitted;
use crate::abi::{BoxedSink, EventSink, EventSink_TO, RawEvent};
use crate::error::{EmitError, EmitErrorKind};
use crate::limits;
use crate::results::Results;
use abi_stable::erased_types::TD_Opaque;
use abi_stable::std_types::{RResult, RSlice, RStr, RString};
use chrono::{DateTime, Datelike, Utc};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long [`Recorder::wait_for`] waits for an event.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The sink. Clones share their state.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Inner>);

struct Inner {
    recorded: Mutex<Recorded>,
    changed: Condvar,
    cancelled: AtomicBool,
    cancel: Cancel,
    /// Whether the job has a `since`, so that a later run would read a bookmark.
    bookmarks: bool,
}

/// When the recorder cancels the job.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cancel {
    /// After this number of events.
    pub(super) after_events: Option<usize>,
    /// After this number of calls of `is_cancelled`.
    pub(super) after_checks: Option<u64>,
}

/// What the job did, as recorded by the sink.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) events: Vec<Emitted>,
    pub(super) flushed: usize,
    pub(super) progress: Vec<(u64, u64)>,
    pub(super) bookmark: Option<DateTime<Utc>>,
    pub(super) traces: Vec<Value>,
    pub(super) results: Results,
    checks: u64,
    ended: bool,
}

impl Recorder {
    pub(super) fn new(cancel: Cancel, bookmarks: bool) -> Self {
        let cancelled = AtomicBool::new(cancel.after_events == Some(0));
        Self(Arc::new(Inner { recorded: Mutex::default(), changed: Condvar::new(), cancelled, cancel, bookmarks }))
    }

    pub(super) fn boxed(&self) -> BoxedSink {
        EventSink_TO::from_value(self.clone(), TD_Opaque)
    }

    pub(super) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Marks the job as ended.
    pub(super) fn end(&self) {
        self.recorded().ended = true;
        self.0.changed.notify_all();
    }

    /// Waits until an event of this type has been emitted.
    pub(super) fn wait_for(&self, event_type: &str) -> Result<(), String> {
        let until = Instant::now() + WAIT_TIMEOUT;
        let mut recorded = self.recorded();
        loop {
            if recorded.events.iter().any(|event| event.event_type == event_type) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if recorded.ended || left.is_zero() {
                let when = if recorded.ended { "before the job ended".to_owned() } else { format!("within {WAIT_TIMEOUT:?}") };
                return Err(format!("no event `{event_type}` was emitted {when}; emitted: {}", types(&recorded.events)));
            }
            recorded = self.0.changed.wait_timeout(recorded, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn take(&self) -> Recorded {
        std::mem::take(&mut *self.recorded())
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, recorded: &mut Recorded, event: &RawEvent<'_>) -> Result<(), EmitError> {
        if recorded.ended {
            return Err(EmitError::new(EmitErrorKind::Ended, "the job has ended, so it cannot emit events"));
        }
        let emitted = Emitted::of(event).map_err(EmitError::invalid)?;
        recorded.events.push(emitted);
        if self.0.cancel.after_events == Some(recorded.events.len()) {
            self.cancel();
        }
        Ok(())
    }
}

/// Lists event types in order of first use, with a count if there are several.
pub(super) fn types(events: &[Emitted]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for event in events {
        match counts.iter_mut().find(|(event_type, _)| *event_type == event.event_type) {
            Some((_, count)) => *count += 1,
            None => counts.push((&event.event_type, 1)),
        }
    }
    let words: Vec<String> = counts
        .into_iter()
        .map(|(event_type, count)| if count == 1 { event_type.to_owned() } else { format!("{event_type} ×{count}") })
        .collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

impl Emitted {
    fn of(event: &RawEvent<'_>) -> Result<Self, String> {
        let RawEvent { event_type, payload, schema_ref, correlation_id, subject_id } = event;
        limits::check(
            event_type.as_str(),
            payload.as_slice(),
            schema_ref.as_str(),
            correlation_id.as_str(),
            subject_id.as_str(),
        )?;
        let text = |text: &RStr<'_>| (!text.is_empty()).then(|| text.as_str().to_owned());
        Ok(Self {
            event_type: event_type.as_str().to_owned(),
            payload: serde_json::from_slice(payload.as_slice()).map_err(|e| e.to_string())?,
            schema_ref: text(schema_ref),
            correlation_id: text(correlation_id),
            subject_id: text(subject_id),
        })
    }
}

fn to_abi(result: Result<(), EmitError>) -> RResult<(), RString> {
    result.map_err(|error| error.to_json().into()).into()
}

impl EventSink for Recorder {
    fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString> {
        let result = self.append(&mut self.recorded(), &event);
        self.0.changed.notify_all();
        to_abi(result)
    }

    fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, accepted: &mut u64) -> RResult<(), RString> {
        *accepted = 0;
        let mut result = Ok(());
        {
            let mut recorded = self.recorded();
            for event in events.as_slice() {
                result = self.append(&mut recorded, event);
                if result.is_err() {
                    break;
                }
                *accepted += 1;
            }
        }
        self.0.changed.notify_all();
        to_abi(result)
    }

    fn flush(&self) -> RResult<(), RString> {
        let mut recorded = self.recorded();
        recorded.flushed = recorded.events.len();
        RResult::ROk(())
    }

    fn is_cancelled(&self) -> bool {
        if let Some(after) = self.0.cancel.after_checks {
            let mut recorded = self.recorded();
            recorded.checks += 1;
            if recorded.checks > after {
                self.cancel();
            }
        }
        self.0.cancelled.load(Ordering::Relaxed)
    }

    fn trace(&self, line: RStr<'_>) {
        if let Ok(line) = serde_json::from_str(line.as_str()) {
            self.recorded().traces.push(line);
        }
    }

    fn progress(&self, done: u64, total: u64) {
        self.recorded().progress.push((done, total));
    }

    fn report(&self, report: RStr<'_>) -> RResult<(), RString> {
        let mut recorded = self.recorded();
        if recorded.ended {
            return to_abi(Err(EmitError::new(EmitErrorKind::Ended, "the job has ended, so it cannot report results")));
        }
        let report = serde_json::from_str(report.as_str()).map_err(|e| e.to_string());
        to_abi(report.and_then(|report| recorded.results.add(report)).map_err(EmitError::invalid))
    }

    fn set_bookmark(&self, at_micros: i64) -> RResult<(), RString> {
        if !self.0.bookmarks {
            return to_abi(Err(EmitError::invalid(limits::NO_BOOKMARK)));
        }
        match DateTime::from_timestamp_micros(at_micros).filter(|at| (1..=9999).contains(&at.year())) {
            Some(at) => {
                self.recorded().bookmark = Some(at);
                RResult::ROk(())
            }
            None => to_abi(Err(EmitError::invalid(limits::BOOKMARK_YEARS))),
        }
    }
}
