//! The event sink that a job receives, on top of the spool's writer.
//!
//! Plugin code calls every method, from any of its threads. A panic here would end the process with exit code 1 (abi_stable's behaviour),
//! so each method does the same three things: catch, map, return.

use super::meter::Meter;
use crate::run::log::Log;
use crate::secrets::Mask;
use crate::spool::record::{Final, Mark};
use crate::spool::writer::{AppendError, NewEvent, Writer};
use abi_stable::std_types::{RResult, RSlice, RStr, RString};
use chrono::{DateTime, Datelike};
use lorchestra_plugin_api::abi::{EventSink, RawEvent};
use lorchestra_plugin_api::results::{Report, Results};
use lorchestra_plugin_api::{EmitError, EmitErrorKind, limits};
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The sink; its clones share one state.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The emit mutex: it orders records, and lets nothing follow the final one.
    writer: Mutex<Writer>,
    /// `None` if the trace could not be opened.
    trace: Option<Mutex<Log>>,
    cancelled: Arc<AtomicBool>,
    meter: Option<Meter>,
    /// Whether a later run would read a bookmark, and the bookmark that was set, in microseconds since 1970.
    bookmarks: bool,
    bookmark: Mutex<Option<i64>>,
    /// What the job has reported. Locked before the writer.
    results: Mutex<Reported>,
    /// Maximum length of a line of the trace in bytes.
    longest_trace: usize,
    /// Masks the run's secrets in events, trace and error messages.
    mask: Option<Mask>,
}

/// The results so far, and whether the spool has them.
#[derive(Debug, Default)]
struct Reported {
    results: Results,
    is_written: bool,
    written_at: Option<Instant>,
}

/// Interval between two records of counters and progress: a job may change them in every iteration of a loop.
const INTERVAL: Duration = Duration::from_secs(1);

/// The parts of a sink other than its spool.
#[derive(Default)]
pub(super) struct SinkOptions {
    pub(super) trace: Option<Log>,
    /// Set when the job is asked to stop.
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) meter: Option<Meter>,
    /// Whether a later run would read a bookmark.
    pub(super) bookmarks: bool,
    pub(super) mask: Option<Mask>,
}

impl Sink {
    pub(super) fn new(writer: Writer, options: SinkOptions) -> Self {
        let SinkOptions { trace, cancelled, meter, bookmarks, mask } = options;
        // A line goes into one file, even if it has no room left, so a line longer than a piece of the log would exceed the limit.
        let longest_trace = trace.as_ref().and_then(|trace| usize::try_from(trace.longest_line()).ok());
        let longest_trace = longest_trace.map_or(limits::MAX_PAYLOAD, |longest| longest.min(limits::MAX_PAYLOAD));
        let (writer, trace, bookmark) = (Mutex::new(writer), trace.map(Mutex::new), Mutex::new(None));
        let results = Mutex::default();
        Self { inner: Arc::new(Inner { writer, trace, cancelled, meter, bookmarks, bookmark, results, longest_trace, mask }) }
    }

    /// The last bookmark that the job set.
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
        let mut reported = self.reported();
        if !reported.is_written && !reported.results.is_empty() && self.write_results(&mut reported).is_err() {
            tracing::warn!("the run's results could not be written to the spool");
        }
        self.own_writer()?.finish(&end)
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.inner.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_results(&self, reported: &mut Reported) -> Result<(), AppendError> {
        self.own_writer()?.results(&reported.results, &|| self.cancelled())?;
        reported.is_written = true;
        reported.written_at = Some(Instant::now());
        Ok(())
    }

    /// Notes a change that may be lost with the process, and writes all results from time to time.
    fn changed(&self, reported: &mut Reported) -> Result<(), AppendError> {
        reported.is_written = false;
        let at = *reported.written_at.get_or_insert_with(Instant::now);
        if at.elapsed() < INTERVAL { Ok(()) } else { self.write_results(reported) }
    }

    fn add(&self, report: &str) -> Result<(), AppendError> {
        let report = match &self.inner.mask {
            None => Cow::Borrowed(report.as_bytes()),
            Some(mask) => mask.json(report.as_bytes()),
        };
        let report: Report = serde_json::from_slice(&report).map_err(|e| AppendError::Invalid(e.to_string()))?;
        if self.own_writer()?.has_ended() {
            return Err(AppendError::Ended);
        }
        let mut reported = self.reported();
        let may_wait = matches!(report, Report::Count { .. });
        reported.results.add(report).map_err(AppendError::Invalid)?;
        if may_wait { self.changed(&mut reported) } else { self.write_results(&mut reported) }
    }

    /// Returns the writer, unless this process is a fork of the worker: its records would be interleaved with the worker's.
    fn own_writer(&self) -> Result<MutexGuard<'_, Writer>, AppendError> {
        if super::loader::is_copy() { Err(AppendError::Copy) } else { Ok(self.writer()) }
    }

    /// A panic under the mutex is caught here and leaves the writer at a record boundary, so poisoning can be ignored.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Relaxed)
    }
}

impl EventSink for Sink {
    fn emit(&self, event: RawEvent<'_>) -> RResult<(), RString> {
        catch_panics(|| match &self.inner.mask {
            None => self.own_writer()?.append(&view(&event), &|| self.cancelled()),
            Some(mask) => self.own_writer()?.append(&MaskedEvent::of(mask, &event).view(), &|| self.cancelled()),
        })
    }

    fn emit_all(&self, events: RSlice<'_, RawEvent<'_>>, accepted: &mut u64) -> RResult<(), RString> {
        *accepted = 0;
        catch_panics(|| {
            let events = events.as_slice();
            let (n, result) = match &self.inner.mask {
                None => self.own_writer()?.append_all(events.iter().map(view), &|| self.cancelled()),
                Some(mask) => {
                    let masked: Vec<MaskedEvent<'_>> = events.iter().map(|event| MaskedEvent::of(mask, event)).collect();
                    self.own_writer()?.append_all(masked.iter().map(MaskedEvent::view), &|| self.cancelled())
                }
            };
            *accepted = n;
            result
        })
    }

    fn flush(&self) -> RResult<(), RString> {
        catch_panics(|| self.own_writer()?.flush())
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
            // One event is one line, whatever the plugin passes.
            text.extend(line.chars().map(|c| if c == '\n' { ' ' } else { c }));
            text.push('\n');
            // Diagnostics: if the disk is full, the job continues without them.
            trace.lock().unwrap_or_else(PoisonError::into_inner).write_line(text.as_bytes());
        }));
    }

    fn progress(&self, done: u64, total: u64) {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Some(meter) = &self.inner.meter {
                meter.note(done, total);
            }
            // Another thread is reporting: its numbers are just as good. And a disk that refuses them must not stop the job.
            if let Ok(mut reported) = self.inner.results.try_lock() {
                reported.results.progress = Some((done, total));
                let _ = self.changed(&mut reported);
            }
        }));
    }

    fn report(&self, report: RStr<'_>) -> RResult<(), RString> {
        catch_panics(|| self.add(report.as_str()))
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

/// The text that replaces a trace line that is too long.
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

/// An event with its secrets masked.
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

fn catch_panics(work: impl FnOnce() -> Result<(), AppendError>) -> RResult<(), RString> {
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
    fn the_last_bookmark_counts_if_it_will_be_read() {
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
    fn a_trace_line_over_the_limit_is_reported() {
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

    /// A flush that did nothing would return `Ok` here; the writer's own flush checks its descriptor first.
    #[test]
    fn a_flush_reaches_the_writer() {
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
