//! What a job is handed: the run it belongs to, and the way out for its events.

use crate::abi::{BoxedSink, RawEvent};
use crate::error::EmitError;
use crate::event::{Event, to_json};
use crate::invoke::Call;
use abi_stable::std_types::{RResult, RSlice, RString};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Events that [`JobContext::emit_all`] hands over at once, at most.
const CHUNK_EVENTS: usize = 256;
/// Bytes that [`JobContext::emit_all`] hands over at once, about.
const CHUNK_BYTES: usize = 256 << 10;

/// The running job's view of lorchestra. Usable from all threads of the job.
pub struct JobContext {
    call: Call,
    sink: Arc<BoxedSink>,
}

impl JobContext {
    pub(crate) fn new(call: Call, sink: Arc<BoxedSink>) -> Self {
        Self { call, sink }
    }

    /// Emits an event: a type such as `extraction.completed`, and a payload that serialises to a JSON object of at most
    /// 1 MiB. When this returns `Ok`, the event survives the death of the process; see [`flush`](Self::flush) for power loss.
    ///
    /// # Errors
    /// The event was not taken: the payload is not an object or too large, the type is empty, the disk is full, or the
    /// job had already ended ([`EmitError::kind`]). One that can never be taken ends the run with `?`, whatever its retries.
    pub fn emit(&self, event_type: &str, payload: impl Serialize) -> Result<(), EmitError> {
        let payload = to_json(event_type, &payload)?;
        let none = "".into();
        sunk(self.sink.emit(RawEvent {
            event_type: event_type.into(),
            payload: payload.as_bytes().into(),
            schema_ref: none,
            correlation_id: none,
            subject_id: none,
        }))
    }

    /// Emits an event with its optional fields.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_with(&self, event: Event) -> Result<(), EmitError> {
        sunk(self.sink.emit(event.raw()))
    }

    /// Emits many events at a fraction of the cost of one call each. Answers with how many there were.
    ///
    /// # Errors
    /// As [`emit`](Self::emit). Events are taken in order, and the message says how many were: those are safe, the others
    /// were not taken.
    pub fn emit_all(&self, events: impl IntoIterator<Item = Event>) -> Result<u64, EmitError> {
        let mut total = 0;
        let mut chunk = Vec::with_capacity(CHUNK_EVENTS);
        let mut bytes = 0;
        for event in events {
            bytes += event.size();
            chunk.push(event);
            if chunk.len() == CHUNK_EVENTS || bytes >= CHUNK_BYTES {
                self.emit_chunk(&chunk, &mut total)?;
                chunk.clear();
                bytes = 0;
            }
        }
        self.emit_chunk(&chunk, &mut total)?;
        Ok(total)
    }

    fn emit_chunk(&self, chunk: &[Event], total: &mut u64) -> Result<(), EmitError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let raw: Vec<RawEvent<'_>> = chunk.iter().map(Event::raw).collect();
        let mut taken = 0;
        let result = sunk(self.sink.emit_all(RSlice::from_slice(&raw), &mut taken));
        *total += taken;
        result.map_err(|e| e.after(&format!("after {total} events that were taken")))
    }

    /// Waits until all events emitted so far survive power loss.
    ///
    /// # Errors
    /// The disk did not take them.
    pub fn flush(&self) -> Result<(), EmitError> {
        sunk(self.sink.flush())
    }

    /// Whether the run was asked to end (deadline, Ctrl-C, `runs stop`). A job that looks at this in its loop and returns
    /// in time is not killed.
    pub fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }

    /// Says how far the job is, to a person who waits for it: `done` of `total`, in whatever it counts (messages, bytes); a `total` of 0
    /// where that is not known. On a terminal it becomes a bar with rate and time left; under cron it is nothing. Cheap enough for
    /// every turn of a loop.
    pub fn progress(&self, done: u64, total: u64) {
        self.sink.progress(done, total);
    }

    /// Says how far this run got: should it succeed, the next `--since last` begins there, and not at the end of this run's window.
    /// For a source that lags behind, or a job that stops early. The last call counts.
    ///
    /// # Errors
    /// The job has no parameter `since: DateTime<Utc>` (or `Option` of it): nothing would read the bookmark.
    pub fn set_bookmark(&self, at: DateTime<Utc>) -> Result<(), EmitError> {
        sunk(self.sink.set_bookmark(at.timestamp_micros()))
    }

    /// Id of the run, a UUIDv7. The same for all attempts.
    pub fn run_id(&self) -> &str {
        &self.call.run_id
    }

    /// Which attempt of the run this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// This package's own directory for results, made on first use with mode 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn data_dir(&self) -> io::Result<PathBuf> {
        let dir = self.call.data_root.join(&self.call.package);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| at(&dir, e))?;
        Ok(dir)
    }

    /// Another package's directory, to read what it left there. It need not exist.
    ///
    /// # Errors
    /// `package` is not a package name.
    pub fn package_data_dir(&self, package: &str) -> io::Result<PathBuf> {
        if crate::manifest::is_name(package) {
            Ok(self.call.data_root.join(package))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{package:?} is not a package name")))
        }
    }
}

impl std::fmt::Debug for JobContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobContext")
            .field("run_id", &self.call.run_id)
            .field("attempt", &self.call.attempt)
            .finish_non_exhaustive()
    }
}

fn sunk(result: RResult<(), RString>) -> Result<(), EmitError> {
    match result {
        RResult::ROk(()) => Ok(()),
        RResult::RErr(error) => Err(EmitError::from_json(&error)),
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
