//! The sink of a job under test: keeps what it is given, refuses what a run would refuse, and says when the job is to end. Its methods
//! are called by the job's threads, those of [`Running`](super::Running) by the test's.

use super::ran::Emitted;
use crate::abi::{BoxedSink, EventSink, EventSink_TO, RawEvent};
use crate::error::{EmitError, EmitErrorKind};
use crate::limits;
use abi_stable::erased_types::TD_Opaque;
use abi_stable::std_types::{RResult, RSlice, RStr, RString};
use chrono::{DateTime, Datelike, Utc};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a test waits for an event before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sink; its clones are one.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Inner>);

struct Inner {
    kept: Mutex<Kept>,
    changed: Condvar,
    cancelled: AtomicBool,
    cancel: Cancel,
    /// Whether the job has a `since`: whether a later run would read a bookmark.
    bookmarks: bool,
}

/// When the job is told to end by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cancel {
    /// Once it has emitted so many events.
    pub(super) after_events: Option<usize>,
    /// Once it has looked so often.
    pub(super) after_looks: Option<u64>,
}

/// What the job did.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) events: Vec<Emitted>,
    pub(super) flushed: usize,
    pub(super) progress: Vec<(u64, u64)>,
    pub(super) bookmark: Option<DateTime<Utc>>,
    pub(super) traces: Vec<Value>,
    looks: u64,
    ended: bool,
}

impl Recorder {
    pub(super) fn new(cancel: Cancel, bookmarks: bool) -> Self {
        let cancelled = AtomicBool::new(cancel.after_events == Some(0));
        Self(Arc::new(Inner { kept: Mutex::default(), changed: Condvar::new(), cancelled, cancel, bookmarks }))
    }

    pub(super) fn boxed(&self) -> BoxedSink {
        EventSink_TO::from_value(self.clone(), TD_Opaque)
    }

    pub(super) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.kept().ended = true;
        self.0.changed.notify_all();
    }

    /// Waits until an event of that type was emitted.
    pub(super) fn wait_for(&self, event_type: &str) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let mut kept = self.kept();
        loop {
            if kept.events.iter().any(|event| event.event_type == event_type) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if kept.ended || left.is_zero() {
                let when = if kept.ended { "before it ended".to_owned() } else { format!("within {PATIENCE:?}") };
                return Err(format!("no event `{event_type}` was emitted {when}; there were: {}", types(&kept.events)));
            }
            kept = self.0.changed.wait_timeout(kept, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn take(&self) -> Kept {
        std::mem::take(&mut *self.kept())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, kept: &mut Kept, event: &RawEvent<'_>) -> Result<(), EmitError> {
        if kept.ended {
            return Err(EmitError::new(EmitErrorKind::Ended, "the job has ended, so it cannot emit events"));
        }
        let emitted = Emitted::of(event).map_err(EmitError::invalid)?;
        kept.events.push(emitted);
        if self.0.cancel.after_events == Some(kept.events.len()) {
            self.cancel();
        }
        Ok(())
    }
}

/// Types of events, each once, with how often where that is more.
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

fn answered(result: Result<(), EmitError>) -> RResult<(), RString> {
    result.map_err(|error| error.to_json().into()).into()
}

impl EventSink for Recorder {
    fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString> {
        let result = self.append(&mut self.kept(), &event);
        self.0.changed.notify_all();
        answered(result)
    }

    fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, taken: &mut u64) -> RResult<(), RString> {
        *taken = 0;
        let mut result = Ok(());
        {
            let mut kept = self.kept();
            for event in events.as_slice() {
                result = self.append(&mut kept, event);
                if result.is_err() {
                    break;
                }
                *taken += 1;
            }
        }
        self.0.changed.notify_all();
        answered(result)
    }

    fn flush(&self) -> RResult<(), RString> {
        let mut kept = self.kept();
        kept.flushed = kept.events.len();
        RResult::ROk(())
    }

    fn is_cancelled(&self) -> bool {
        if let Some(after) = self.0.cancel.after_looks {
            let mut kept = self.kept();
            kept.looks += 1;
            if kept.looks > after {
                self.cancel();
            }
        }
        self.0.cancelled.load(Ordering::Relaxed)
    }

    fn trace(&self, line: RStr<'_>) {
        if let Ok(line) = serde_json::from_str(line.as_str()) {
            self.kept().traces.push(line);
        }
    }

    fn progress(&self, done: u64, total: u64) {
        self.kept().progress.push((done, total));
    }

    fn set_bookmark(&self, at_micros: i64) -> RResult<(), RString> {
        if !self.0.bookmarks {
            return answered(Err(EmitError::invalid(limits::NO_BOOKMARK)));
        }
        match DateTime::from_timestamp_micros(at_micros).filter(|at| (1..=9999).contains(&at.year())) {
            Some(at) => {
                self.kept().bookmark = Some(at);
                RResult::ROk(())
            }
            None => answered(Err(EmitError::invalid(limits::BOOKMARK_YEARS))),
        }
    }
}
