//! The writing side of a spool, in the worker. Owns the open segment; talks only to the file system.
//!
//! Every append writes complete records, or fails and writes nothing: a short write is truncated to the end of the previous record. If the
//! truncation fails too, or if the descriptor turns out to refer to another file (a plugin closed it and the number was reused), the writer
//! is *faulted*: it accepts nothing more, and the attempt ends as [`Final::SpoolFault`].

use super::record::{Final, Mark, frame};
use super::{MAX_SEGMENTS, SEGMENT_BYTES};
use chrono::Utc;
use lorchestra_plugin_api::limits;
use lorchestra_plugin_api::results::Results;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Number of records between two checks that the descriptor is still ours.
const CHECK_EVERY: u32 = 64;

/// Message if the descriptor has been closed.
const CLOSED: &str = "the plugin closed the spool's file descriptor";
/// Message if the segment has been removed.
const REMOVED: &str = "another program removed the spool while the job ran";

/// An event to append. Empty texts mean "none".
#[derive(Debug, Clone, Copy)]
pub struct NewEvent<'a> {
    /// Kind of event.
    pub event_type: &'a str,
    /// A JSON object.
    pub payload: &'a [u8],
    /// Reference to the payload's schema.
    pub schema_ref: &'a str,
    /// Correlation id.
    pub correlation_id: &'a str,
    /// The person that the event is about.
    pub subject_id: &'a str,
}

impl NewEvent<'_> {
    fn check(&self, strict_numbers: bool) -> Result<(), AppendError> {
        limits::check(self.event_type, self.payload, self.schema_ref, self.correlation_id, self.subject_id)
            .and_then(|()| if strict_numbers { limits::check_exact_numbers(self.event_type, self.payload) } else { Ok(()) })
            .map_err(AppendError::Invalid)
    }
}

/// Why an event was refused. Nothing of it is in the spool.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The event is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The disk refused it; a later event may succeed.
    #[error("cannot write the event to the spool {path}: {source}", path = path.display())]
    Io {
        /// The segment.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The final record has been written.
    #[error("the job has ended, so it cannot emit events")]
    Ended,
    /// The run is being stopped while its spool is full.
    #[error("the run is being stopped while its spool is full")]
    Cancelled,
    /// This process is a fork of the worker: its records would be interleaved with the worker's own.
    #[error("only the worker itself can emit, not a process forked from it")]
    Copy,
    /// The spool can no longer be trusted.
    #[error("the spool is unusable: {0}")]
    Fault(String),
}

/// The open spool of one attempt.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: File,
    ident: (u64, u64),
    segment: u32,
    len: u64,
    seq: u64,
    buffer: Vec<u8>,
    unchecked: u32,
    /// Whether the directory entry of the open segment survives power loss.
    named: bool,
    state: SpoolState,
    segment_bytes: u64,
    /// Whether to refuse events with a number that loses precision in 64 bits.
    strict_numbers: bool,
    clock: Clock,
    disk: Disk,
}

/// Assigns times and ids to events, in the order of the appends, even if the system's clock goes back.
#[derive(Debug)]
struct Clock(uuid::ContextV7);

impl Clock {
    /// Returns the current time in microseconds since 1970. All events of one call get the same time: reading the clock costs as much as
    /// the rest of a small event.
    fn now() -> i64 {
        Utc::now().timestamp_micros()
    }

    /// Returns an id for that time that sorts after all earlier ids.
    fn id(&self, micros: i64) -> uuid::Uuid {
        let micros = u64::try_from(micros).unwrap_or(0);
        let nanos = u32::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
        uuid::Uuid::new_v7(uuid::Timestamp::from_unix(&self.0, micros / 1_000_000, nanos))
    }
}

/// The functions that sync content and directory entries. Tests replace them to check that syncs happen, and in which order.
#[derive(Debug, Clone, Copy)]
struct Disk {
    content: fn(&File, &Path) -> io::Result<()>,
    names: fn(&Path) -> io::Result<()>,
}

impl Disk {
    const REAL: Self = Self { content: |file, _| file.sync_data(), names: |dir| File::open(dir).and_then(|dir| dir.sync_all()) };
}

#[derive(Debug)]
enum SpoolState {
    Open,
    Ended,
    Faulted(String),
}

impl Writer {
    /// Creates the spool in `dir`, an empty directory.
    pub fn create(dir: &Path) -> io::Result<Self> {
        Self::with_segments_of(dir, SEGMENT_BYTES)
    }

    /// Makes the writer refuse events with a number that loses precision in 64 bits.
    #[must_use]
    pub(crate) fn with_strict_numbers(self, strict_numbers: bool) -> Self {
        Self { strict_numbers, ..self }
    }

    /// Like [`create`](Self::create), with segments of another size; for tests.
    pub(crate) fn with_segments_of(dir: &Path, segment_bytes: u64) -> io::Result<Self> {
        let (file, ident) = open_segment(dir, 1)?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            ident,
            segment: 1,
            len: 0,
            seq: 0,
            buffer: Vec::with_capacity(4096),
            unchecked: 0,
            named: false,
            state: SpoolState::Open,
            segment_bytes,
            strict_numbers: false,
            clock: Clock(uuid::ContextV7::new()),
            disk: Disk::REAL,
        })
    }

    /// Appends one event. After `Ok` it survives the death of this process.
    ///
    /// `cancelled` is polled while the spool is full and waits for the store to catch up.
    pub fn append(&mut self, event: &NewEvent<'_>, cancelled: &dyn Fn() -> bool) -> Result<(), AppendError> {
        self.ready(cancelled)?;
        event.check(self.strict_numbers)?;
        self.buffer.clear();
        write_event(&mut self.buffer, self.seq + 1, &self.clock, Clock::now(), event);
        self.write_buffer(1).map(drop).map_err(|(_, e)| e)
    }

    /// Appends events in order with one write. Returns how many were written and, if not all, why.
    pub fn append_all<'a>(
        &mut self,
        events: impl Iterator<Item = NewEvent<'a>>,
        cancelled: &dyn Fn() -> bool,
    ) -> (u64, Result<(), AppendError>) {
        if let Err(e) = self.ready(cancelled) {
            return (0, Err(e));
        }
        self.buffer.clear();
        let now = Clock::now();
        let mut count = 0;
        let mut invalid = Ok(());
        for event in events {
            if let Err(why) = event.check(self.strict_numbers) {
                invalid = Err(why);
                break;
            }
            count += 1;
            write_event(&mut self.buffer, self.seq + count, &self.clock, now, &event);
        }
        if count == 0 {
            return (0, invalid);
        }
        match self.write_buffer(count) {
            Ok(written) => (written, invalid),
            Err((written, e)) => (written, Err(e)),
        }
    }

    /// Records that the worker has reached a step.
    pub fn mark(&mut self, mark: Mark) -> Result<(), AppendError> {
        self.ready(&|| false)?;
        self.buffer.clear();
        let seq = self.seq + 1;
        frame(&mut self.buffer, |out| write_json(out, &serde_json::json!({"seq": seq, "mark": mark})));
        self.write_buffer(1).map(drop).map_err(|(_, e)| e)
    }

    /// Records all results that the job has reported so far. After `Ok` they survive the death of this process.
    pub fn results(&mut self, results: &Results, cancelled: &dyn Fn() -> bool) -> Result<(), AppendError> {
        self.ready(cancelled)?;
        self.buffer.clear();
        let seq = self.seq + 1;
        frame(&mut self.buffer, |out| write_json(out, &serde_json::json!({"seq": seq, "results": results})));
        self.write_buffer(1).map(drop).map_err(|(_, e)| e)
    }

    /// Makes everything appended so far survive power loss.
    pub fn flush(&mut self) -> Result<(), AppendError> {
        if let SpoolState::Faulted(why) = &self.state {
            return Err(AppendError::Fault(why.clone()));
        }
        self.check_descriptor()?;
        self.sync()
    }

    /// Syncs the segment's content and the directory entries above it, without which the file would be lost. The entries matter only once
    /// content must be durable, so an attempt that never flushes does not pay for them.
    fn sync(&mut self) -> Result<(), AppendError> {
        (self.disk.content)(&self.file, &self.path()).map_err(|source| AppendError::Io { path: self.path(), source })?;
        if !self.named {
            // The directories of the attempt, the run, and all spools.
            for dir in self.dir.ancestors().take(3) {
                (self.disk.names)(dir).map_err(|source| AppendError::Io { path: dir.to_owned(), source })?;
            }
            self.named = true;
        }
        Ok(())
    }

    /// Writes the final record, after which nothing can follow. If the spool has faulted, the record reports that, in a segment of its own.
    pub fn finish(&mut self, end: &Final) -> Result<(), AppendError> {
        if matches!(self.state, SpoolState::Ended) {
            return Err(AppendError::Ended);
        }
        let _ = self.check_descriptor();
        let fault = match &self.state {
            SpoolState::Faulted(message) => {
                let message = message.clone();
                if self.begin_segment().is_err() {
                    // The earlier fault matters more than why the new segment cannot be created.
                    return Err(AppendError::Fault(message));
                }
                Some(Final::SpoolFault { message })
            }
            _ => None,
        };
        let end = fault.unwrap_or_else(|| end.clone()).fitting();
        let seq = self.seq + 1;
        self.buffer.clear();
        frame(&mut self.buffer, |out| write_json(out, &serde_json::json!({"seq": seq, "final": end})));
        self.write_buffer(1).map_err(|(_, e)| e)?;
        // Not synced: against the death of processes a written record is sufficient, and the supervisor commits it immediately. A power
        // loss before that commit makes the run `abandoned`. The supervisor of a run with a claim syncs it first (`run::claim`).
        self.state = SpoolState::Ended;
        Ok(())
    }

    /// Whether the final record has been written.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, SpoolState::Ended)
    }

    fn ready(&mut self, cancelled: &dyn Fn() -> bool) -> Result<(), AppendError> {
        match &self.state {
            SpoolState::Open => {}
            SpoolState::Ended => return Err(AppendError::Ended),
            SpoolState::Faulted(why) => return Err(AppendError::Fault(why.clone())),
        }
        if self.len >= self.segment_bytes {
            self.roll(cancelled)?;
        }
        self.unchecked += 1;
        if self.unchecked >= CHECK_EVERY { self.check_descriptor() } else { Ok(()) }
    }

    /// Writes the buffer, which holds `count` records. On error, truncates the file to the last complete record.
    fn write_buffer(&mut self, count: u64) -> Result<u64, (u64, AppendError)> {
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.len += self.buffer.len() as u64;
                self.seq += count;
                Ok(count)
            }
            Err(source) => {
                let path = self.path();
                if source.raw_os_error() == Some(Errno::BADF.raw_os_error()) {
                    self.state = SpoolState::Faulted(CLOSED.into());
                    return Err((0, AppendError::Fault(CLOSED.into())));
                }
                // The file's length shows how much was written. Complete records in it may have been read already, so they stay.
                let there = self.file.metadata().map(|m| m.len().saturating_sub(self.len) as usize).unwrap_or(0);
                let part = &self.buffer[..there.min(self.buffer.len())];
                let whole = part.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
                let written = part[..whole].iter().filter(|&&b| b == b'\n').count() as u64;
                self.len += whole as u64;
                self.seq += written;
                if let Err(e) = self.file.set_len(self.len) {
                    self.state = SpoolState::Faulted(format!("cannot truncate the torn record in {}: {e}", path.display()));
                }
                Err((written, AppendError::Io { path, source }))
            }
        }
    }

    /// Checks that the descriptor still refers to our file, and that no one else has written to it.
    fn check_descriptor(&mut self) -> Result<(), AppendError> {
        self.unchecked = 0;
        if let SpoolState::Faulted(why) = &self.state {
            return Err(AppendError::Fault(why.clone()));
        }
        let why = match self.file.metadata() {
            Ok(meta) if (meta.dev(), meta.ino()) != self.ident => {
                "the plugin closed the spool's file descriptor and its number was reused"
            }
            // The supervisor removes a segment only when it has a successor.
            Ok(meta) if meta.nlink() == 0 => REMOVED,
            Ok(meta) if meta.len() != self.len => "something else wrote to the spool's file descriptor",
            Ok(_) => return Ok(()),
            Err(_) => CLOSED,
        };
        let why = match why {
            REMOVED => format!("{why}; events not yet in the store are lost"),
            _ => format!("{why}; up to {CHECK_EVERY} events before this may be missing"),
        };
        self.state = SpoolState::Faulted(why.clone());
        Err(AppendError::Fault(why))
    }

    fn roll(&mut self, cancelled: &dyn Fn() -> bool) -> Result<(), AppendError> {
        self.check_descriptor()?;
        if let Some(oldest) = (self.segment + 1).checked_sub(MAX_SEGMENTS).filter(|&n| n > 0) {
            let oldest = segment_path(&self.dir, oldest);
            while oldest.exists() {
                if cancelled() {
                    return Err(AppendError::Cancelled);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // The reader considers a segment with a successor complete: a later power loss must not remove its end.
        self.sync()?;
        self.begin_segment().map_err(|source| AppendError::Io { path: segment_path(&self.dir, self.segment + 1), source })
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let (file, ident) = open_segment(&self.dir, self.segment + 1)?;
        // The number of a faulted descriptor may belong to another file by now: do not close that one.
        let old = std::mem::replace(&mut self.file, file);
        if matches!(self.state, SpoolState::Faulted(_)) {
            use std::os::fd::IntoRawFd;
            let _ = old.into_raw_fd();
        }
        self.ident = ident;
        self.named = false;
        self.segment += 1;
        self.len = 0;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        segment_path(&self.dir, self.segment)
    }
}

/// Path of a segment.
pub fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(segment.to_string())
}

fn open_segment(dir: &Path, segment: u32) -> io::Result<(File, (u64, u64))> {
    let path = segment_path(dir, segment);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
    let meta = file.metadata()?;
    Ok((file, (meta.dev(), meta.ino())))
}

/// Writes the record without serde: on the emit path its maps cost more than the write itself.
fn write_event(out: &mut Vec<u8>, seq: u64, clock: &Clock, at: i64, event: &NewEvent<'_>) {
    frame(out, |out| {
        out.extend_from_slice(b"{\"seq\":");
        write_number(out, seq);
        out.extend_from_slice(b",\"event\":{\"id\":\"");
        let mut id = uuid::Uuid::encode_buffer();
        out.extend_from_slice(clock.id(at).hyphenated().encode_lower(&mut id).as_bytes());
        out.extend_from_slice(b"\",\"at\":");
        write_number(out, u64::try_from(at).unwrap_or(0));
        out.extend_from_slice(b",\"type\":");
        write_json(out, &event.event_type);
        for (key, text) in [
            (&b",\"schema_ref\":"[..], event.schema_ref),
            (b",\"correlation_id\":", event.correlation_id),
            (b",\"subject_id\":", event.subject_id),
        ] {
            if !text.is_empty() {
                out.extend_from_slice(key);
                write_json(out, &text);
            }
        }
        out.extend_from_slice(b",\"payload\":");
        let start = out.len();
        out.extend_from_slice(event.payload);
        // Valid JSON has line breaks only between its tokens (those in strings are escaped), where a space is equivalent. So the record
        // stays one line.
        for byte in &mut out[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.extend_from_slice(b"}}");
    });
}

fn write_number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Strings, numbers and our own types: serializing them to memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests;
