//! The event sink that a job is handed, over the spool's writer.
//!
//! Every method is called by plugin code, from any of its threads. A panic in here would end the process with exit code 1
//! (abi_stable's way), so each one is the same three moves: catch, map, return.

use super::meter::Meter;
use crate::run::log::Log;
use crate::secrets::Mask;
use crate::spool::record::{Final, Mark};
use crate::spool::writer::{AppendError, NewEvent, Writer};
use abi_stable::std_types::{RResult, RSlice, RStr, RString};
use chrono::{DateTime, Datelike};
use lorchestra_plugin_api::abi::{EventSink, RawEvent};
use lorchestra_plugin_api::{EmitError, EmitErrorKind, limits};
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sink; its clones are one.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The emit mutex: order of records, and nothing after the final one.
    writer: Mutex<Writer>,
    /// Where it could be opened.
    trace: Option<Mutex<Log>>,
    cancelled: Arc<AtomicBool>,
    /// Where somebody looks at it.
    meter: Option<Meter>,
    /// Whether a later run would read a bookmark, and the one that was set, in microseconds since 1970.
    bookmarks: bool,
    bookmark: Mutex<Option<i64>>,
    /// Bytes that a line of the trace may have.
    longest_trace: usize,
    /// What keeps the run's secrets out of events, trace and last words.
    mask: Option<Mask>,
}

/// What a sink has beside its spool.
#[derive(Default)]
pub(super) struct SinkOptions {
    pub(super) trace: Option<Log>,
    /// Set once the job is to end.
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) meter: Option<Meter>,
    /// Whether a later run would read a bookmark.
    pub(super) bookmarks: bool,
    pub(super) mask: Option<Mask>,
}

impl Sink {
    pub(super) fn new(writer: Writer, options: SinkOptions) -> Self {
        let SinkOptions { trace, cancelled, meter, bookmarks, mask } = options;
        // A line is written to one file, whatever its room: of one that a piece of the log has no room for, the limit would not hold.
        let longest_trace = trace.as_ref().and_then(|trace| usize::try_from(trace.longest_line()).ok());
        let longest_trace = longest_trace.map_or(limits::MAX_PAYLOAD, |longest| longest.min(limits::MAX_PAYLOAD));
        let (writer, trace, bookmark) = (Mutex::new(writer), trace.map(Mutex::new), Mutex::new(None));
        Self { inner: Arc::new(Inner { writer, trace, cancelled, meter, bookmarks, bookmark, longest_trace, mask }) }
    }

    /// The bookmark that the job set last.
    pub(super) fn bookmark(&self) -> Option<i64> {
        *self.inner.bookmark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark(&self, mark: Mark) -> Result<(), AppendError> {
        self.own_writer()?.mark(mark)
    }

    pub(super) fn finish(&self, end: Final) -> Result<(), AppendError> {
        let end = match &self.inner.mask {
            Some(mask) => end.masked(mask),
            None => end,
        };
        self.own_writer()?.finish(&end)
    }

    /// The writer, unless this process is a copy of the worker that plugin code has forked: its records would stand among the worker's.
    fn own_writer(&self) -> Result<MutexGuard<'_, Writer>, AppendError> {
        if super::loader::is_copy() { Err(AppendError::Copy) } else { Ok(self.writer()) }
    }

    /// A panic under the mutex is caught in here and leaves the writer at a record boundary: poisoning says nothing.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Relaxed)
    }
}

impl EventSink for Sink {
    fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString> {
        caught(|| match &self.inner.mask {
            None => self.own_writer()?.append(&view(&event), &|| self.cancelled()),
            Some(mask) => self.own_writer()?.append(&MaskedEvent::of(mask, &event).view(), &|| self.cancelled()),
        })
    }

    fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, taken: &mut u64) -> RResult<(), RString> {
        *taken = 0;
        caught(|| {
            let events = events.as_slice();
            let (n, result) = match &self.inner.mask {
                None => self.own_writer()?.append_all(events.iter().map(view), &|| self.cancelled()),
                Some(mask) => {
                    let masked: Vec<MaskedEvent<'_>> = events.iter().map(|event| MaskedEvent::of(mask, event)).collect();
                    self.own_writer()?.append_all(masked.iter().map(MaskedEvent::view), &|| self.cancelled())
                }
            };
            *taken = n;
            result
        })
    }

    fn flush(&self) -> RResult<(), RString> {
        caught(|| self.own_writer()?.flush())
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled()
    }

    fn trace(&self, line: RStr<'_>) {
        let Some(trace) = &self.inner.trace else { return };
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let most = self.inner.longest_trace;
            let instead = (line.len() > most).then(|| too_long(line.len(), most));
            let line = instead.as_deref().map_or(line, RStr::from);
            let line = match &self.inner.mask {
                None => Cow::Borrowed(line.as_str()),
                Some(mask) => match mask.json(line.as_str().as_bytes()) {
                    Cow::Borrowed(_) => Cow::Borrowed(line.as_str()),
                    Cow::Owned(masked) => Cow::Owned(String::from_utf8_lossy(&masked).into_owned()),
                },
            };
            let mut text = String::with_capacity(line.len() + 1);
            // One event is one line, whatever the plugin hands over.
            text.extend(line.chars().map(|c| if c == '\n' { ' ' } else { c }));
            text.push('\n');
            // Diagnostics: when the disk is full, the job goes on without them.
            trace.lock().unwrap_or_else(PoisonError::into_inner).write_line(text.as_bytes());
        }));
    }

    fn progress(&self, done: u64, total: u64) {
        if let Some(meter) = &self.inner.meter {
            let _ = catch_unwind(AssertUnwindSafe(|| meter.note(done, total)));
        }
    }

    fn set_bookmark(&self, at_micros: i64) -> RResult<(), RString> {
        if !self.inner.bookmarks {
            return refused(EmitErrorKind::Invalid, limits::NO_BOOKMARK);
        }
        let year = DateTime::from_timestamp_micros(at_micros).map(|at| at.year());
        if !year.is_some_and(|year| (1..=9999).contains(&year)) {
            return refused(EmitErrorKind::Invalid, limits::BOOKMARK_YEARS);
        }
        *self.inner.bookmark.lock().unwrap_or_else(PoisonError::into_inner) = Some(at_micros);
        RResult::ROk(())
    }
}

/// What stands in the trace for a line that is too long.
fn too_long(bytes: usize, most: usize) -> String {
    let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let message = format!("a line of {bytes} bytes was dropped: the maximum is {most}");
    serde_json::json!({"time": time, "level": "WARN", "target": "lorchestra", "message": message}).to_string()
}

fn view<'a>(event: &'a RawEvent<'a>) -> NewEvent<'a> {
    NewEvent {
        event_type: event.event_type.as_str(),
        payload: event.payload.as_slice(),
        schema_ref: event.schema_ref.as_str(),
        correlation_id: event.correlation_id.as_str(),
        subject_id: event.subject_id.as_str(),
    }
}

/// An event without secrets.
struct MaskedEvent<'a> {
    event_type: Cow<'a, str>,
    payload: Cow<'a, [u8]>,
    schema_ref: Cow<'a, str>,
    correlation_id: Cow<'a, str>,
    subject_id: Cow<'a, str>,
}

impl<'a> MaskedEvent<'a> {
    fn of(mask: &Mask, event: &'a RawEvent<'a>) -> Self {
        Self {
            event_type: mask.text(event.event_type.as_str()),
            payload: mask.json(event.payload.as_slice()),
            schema_ref: mask.text(event.schema_ref.as_str()),
            correlation_id: mask.text(event.correlation_id.as_str()),
            subject_id: mask.text(event.subject_id.as_str()),
        }
    }

    fn view(&self) -> NewEvent<'_> {
        NewEvent {
            event_type: &self.event_type,
            payload: &self.payload,
            schema_ref: &self.schema_ref,
            correlation_id: &self.correlation_id,
            subject_id: &self.subject_id,
        }
    }
}

fn caught(work: impl FnOnce() -> Result<(), AppendError>) -> RResult<(), RString> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => RResult::ROk(()),
        Ok(Err(error)) => refused(kind(&error), error),
        Err(_) => refused(EmitErrorKind::Other, "lorchestra's event sink panicked; the event was not stored"),
    }
}

fn refused(kind: EmitErrorKind, why: impl ToString) -> RResult<(), RString> {
    RResult::RErr(EmitError::new(kind, why.to_string()).to_json().into())
}

fn kind(error: &AppendError) -> EmitErrorKind {
    match error {
        AppendError::Invalid(_) => EmitErrorKind::Invalid,
        AppendError::Io { .. } | AppendError::Fault(_) => EmitErrorKind::Spool,
        AppendError::Ended | AppendError::Cancelled | AppendError::Copy => EmitErrorKind::Ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::log;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn a_bookmark_is_what_was_set_last_where_it_is_read_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let sink = |bookmarks: bool| {
            let trace = Log::open(&dir.path().join("trace.jsonl"), log::DEFAULT_MAX).unwrap();
            let spool = dir.path().join(bookmarks.to_string());
            std::fs::create_dir(&spool).unwrap();
            Sink::new(Writer::create(&spool).unwrap(), SinkOptions { trace: Some(trace), bookmarks, ..SinkOptions::default() })
        };
        let (read, unread) = (sink(true), sink(false));
        assert_eq!(read.bookmark(), None);
        assert!(read.set_bookmark(1).is_ok() && read.set_bookmark(-5).is_ok());
        for beyond in [i64::MAX, i64::MIN, 253_402_300_800_000_000] {
            assert!(read.set_bookmark(beyond).is_err(), "{beyond}");
        }
        assert_eq!(read.bookmark(), Some(-5));
        assert!(unread.set_bookmark(1).is_err());
        assert_eq!(unread.bookmark(), None);
    }

    #[test]
    fn a_line_of_the_trace_that_breaks_the_limit_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        let trace = Log::open(&path, log::MIN_MAX).unwrap();
        let sink = Sink::new(Writer::create(dir.path()).unwrap(), SinkOptions { trace: Some(trace), ..SinkOptions::default() });
        let line = |bytes: usize| format!("{{\"m\":\"{}\"}}", "x".repeat(bytes - 8));
        for bytes in [1024, 1025, 5_000_000] {
            sink.trace(line(bytes).as_str().into());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
        let left_out = |bytes: usize| format!("a line of {bytes} bytes was dropped: the maximum is 1024");
        assert_eq!(messages, [left_out(1025), left_out(5_000_000)]);
        assert_eq!(text.lines().next(), Some(line(1024).as_str()));
    }

    /// A flush that did nothing would say `Ok` here: it is the writer's own, which looks at its descriptor first.
    #[test]
    fn a_flush_is_the_writers() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::create(dir.path()).unwrap();
        let trace = Log::open(&dir.path().join("trace.jsonl"), log::DEFAULT_MAX).unwrap();
        let sink = Sink::new(writer, SinkOptions { trace: Some(trace), ..SinkOptions::default() });
        assert!(sink.flush().is_ok());
        let segment = crate::spool::writer::segment_path(dir.path(), 1);
        File::options().append(true).open(segment).unwrap().write_all(b"not ours").unwrap();
        assert!(sink.flush().is_err());
    }
}
