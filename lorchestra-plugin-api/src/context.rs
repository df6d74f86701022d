//! [`JobContext`], the first argument of every job: the run it belongs to and the sink for its events.

use crate::abi::{BoxedSink, RawEvent};
use crate::error::EmitError;
use crate::event::{Event, TypedEvent, to_json};
use crate::invoke::Call;
use crate::results::{Dataset, Report};
use abi_stable::std_types::{RResult, RSlice, RString};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum number of events that [`JobContext::emit_all`] passes to the host in one call.
const CHUNK_EVENTS: usize = 256;
/// Size in bytes after which [`JobContext::emit_all`] passes a chunk to the host.
const CHUNK_BYTES: usize = 256 << 10;

/// A job's handle to its run: emit events, report progress, check for cancellation, find data directories.
///
/// It is `Send` and `Sync`: every thread of the job can use it.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
/// use std::{fs, io::Write};
///
/// /// Write numbered records to a file.
/// #[job]
/// fn export(cx: &JobContext, #[param(default = 3)] records: u64) -> JobResult {
///     let path = cx.data_dir()?.join("records.jsonl");
///     let mut file = fs::File::create(&path)?;
///     for n in 0..records {
///         if cx.is_cancelled() {
///             return Err("cancelled".into());
///         }
///         writeln!(file, "{}", json!({ "n": n }))?;
///         cx.progress(n + 1, records);
///     }
///     file.sync_all()?;
///     cx.emit("records.exported", json!({ "path": path, "records": records }))?;
///     Ok(())
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// let run = testing::job::<export>().run();
/// run.assert_ok();
/// assert_eq!(run.event("records.exported").payload["records"], 3);
/// assert_eq!(run.read("records.jsonl").lines().count(), 3);
/// # }
/// ```
pub struct JobContext {
    call: Call,
    sink: Arc<BoxedSink>,
}

impl JobContext {
    pub(crate) fn new(call: Call, sink: Arc<BoxedSink>) -> Self {
        Self { call, sink }
    }

    /// Emits an event: a type such as `extraction.completed`, and a payload that serializes to a JSON object of at most 1 MiB.
    ///
    /// When this returns `Ok`, the event survives a crash of the process. Call [`flush`](Self::flush) if it must also survive
    /// power loss.
    ///
    /// # Errors
    /// Fails if the event is invalid (the type is empty, the payload is not an object or is too large), if the disk is full, or
    /// if the job has already ended (see [`EmitError::kind`]). For an invalid event, `?` makes the job fail permanently:
    /// lorchestra does not retry it.
    pub fn emit(&self, event_type: &str, payload: impl Serialize) -> Result<(), EmitError> {
        let payload = to_json(event_type, &payload)?;
        let none = "".into();
        sink_result(self.sink.emit(RawEvent {
            event_type: event_type.into(),
            payload: payload.as_bytes().into(),
            schema_ref: none,
            correlation_id: none,
            subject_id: none,
        }))
    }

    /// Emits an [`Event`], which can have a schema reference, a correlation id and a subject id.
    ///
    /// # Errors
    /// Same as [`emit`](Self::emit).
    pub fn emit_with(&self, event: Event) -> Result<(), EmitError> {
        sink_result(self.sink.emit(event.raw()))
    }

    /// Emits a value of a type that derives [`Event`](derive@crate::Event).
    ///
    /// # Errors
    /// Same as [`emit`](Self::emit).
    pub fn emit_typed(&self, event: &impl TypedEvent) -> Result<(), EmitError> {
        self.emit_with(event.to_event()?)
    }

    /// Emits many events, in order, and returns their number. This costs much less than one [`emit`](Self::emit) per event.
    ///
    /// ```
    /// # use lorchestra_plugin_api::prelude::*;
    /// # fn example(cx: &JobContext) -> JobResult {
    /// let events: Vec<Event> = (0..1000).map(|n| Event::new("row.read", json!({ "n": n }))).collect::<Result<_, _>>()?;
    /// let count = cx.emit_all(events)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`emit`](Self::emit). On an error the events before the failing one have been recorded, and the error message
    /// gives their number; the others have not.
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
        let mut accepted = 0;
        let result = sink_result(self.sink.emit_all(RSlice::from_slice(&raw), &mut accepted));
        *total += accepted;
        result.map_err(|e| e.with_context(&format!("after {total} recorded events")))
    }

    /// Writes all events emitted so far to disk (`fsync`), so that they survive power loss.
    ///
    /// # Errors
    /// Fails if the disk reports an error.
    pub fn flush(&self) -> Result<(), EmitError> {
        sink_result(self.sink.flush())
    }

    /// Returns whether the run has been cancelled (time limit, Ctrl-C, `runs stop`).
    ///
    /// Check this in long loops. A job that returns within the grace period is not killed.
    pub fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }

    /// Reports progress: `done` of `total` units (messages, bytes, …). Pass 0 as `total` if it is unknown.
    ///
    /// On a terminal, lorchestra shows a progress bar with rate and remaining time. The last progress is recorded with the run
    /// (`runs show`). A call is cheap enough for every iteration of a loop.
    pub fn progress(&self, done: u64, total: u64) {
        self.sink.progress(done, total);
    }

    /// Sets where the next run with `--since last` starts, if this run succeeds. The default is the end of this run's window.
    ///
    /// Use it when the source lags behind or the job stops early. If it is called more than once, the last call counts.
    ///
    /// ```
    /// use lorchestra_plugin_api::chrono::TimeDelta;
    /// use lorchestra_plugin_api::prelude::*;
    ///
    /// /// Extract what is new.
    /// #[job]
    /// fn extract(cx: &JobContext, since: DateTime<Utc>, until: Option<DateTime<Utc>>) -> JobResult {
    ///     // The source may publish records up to an hour late.
    ///     let complete = until.unwrap_or_else(Utc::now) - TimeDelta::hours(1);
    ///     cx.emit("range.read", json!({ "from": since, "to": complete }))?;
    ///     cx.set_bookmark(complete)?;
    ///     Ok(())
    /// }
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// Fails if the job has no parameter `since` of type `DateTime<Utc>` or `Option<DateTime<Utc>>`, because nothing would read
    /// the bookmark.
    pub fn set_bookmark(&self, at: DateTime<Utc>) -> Result<(), EmitError> {
        sink_result(self.sink.set_bookmark(at.timestamp_micros()))
    }

    /// Sets the result of the run: a value that serializes to a JSON object of at most 64 KiB. `runs show` prints it, and it is part of the
    /// terminal event, as `result`. If this is called more than once, the last call counts.
    ///
    /// ```
    /// use lorchestra_plugin_api::prelude::*;
    ///
    /// /// Export the orders.
    /// #[job]
    /// fn export(cx: &JobContext) -> JobResult {
    ///     let path = cx.data_dir()?.join("orders.csv");
    ///     std::fs::write(&path, "1,open\n2,closed\n")?;
    ///     cx.count("orders.open", 1)?;
    ///     cx.artifact(&path)?;
    ///     cx.result(json!({ "orders": 2 }))?;
    ///     Ok(())
    /// }
    /// # use lorchestra_plugin_api::testing;
    /// # fn main() {
    /// let run = testing::job::<export>().run();
    /// assert_eq!(run.result().unwrap()["orders"], 2);
    /// assert_eq!((run.counter("orders.open"), run.artifacts().len()), (1, 1));
    /// # }
    /// ```
    ///
    /// # Errors
    /// Fails if the value is not a JSON object or is too large, if the disk is full, or if the job has already ended.
    pub fn result(&self, value: impl Serialize) -> Result<(), EmitError> {
        let value =
            serde_json::to_value(&value).map_err(|e| EmitError::invalid(format!("cannot serialize the result to JSON: {e}")))?;
        self.report(&Report::Result(value))
    }

    /// Lists a file as a result of this run (at most 100). `runs show` prints the list, and retention removes the file with the run, if
    /// it has not changed and no newer run lists it. Call this after the file is complete; a relative path is relative to the working
    /// directory.
    ///
    /// # Errors
    /// Fails if the path is not UTF-8 or not that of a regular file, if the disk is full, or if the job has already ended.
    pub fn artifact(&self, path: impl AsRef<Path>) -> Result<(), EmitError> {
        let path = std::path::absolute(path.as_ref()).map_err(|e| EmitError::invalid(format!("an artifact: {e}")))?;
        match path.to_str() {
            Some(path) => self.report(&Report::Artifact(path.to_owned())),
            None => Err(EmitError::invalid(format!("the path of the artifact {} is not UTF-8", path.display()))),
        }
    }

    /// Adds to a counter of this run, such as `rows.skipped`. Counters are recorded at least every second and when the job returns;
    /// `runs show` prints them, and they are part of the terminal event, as `counters`. For numbers that matter one by one, emit events.
    ///
    /// # Errors
    /// Fails if the name has other characters than `a-z 0-9 . _ -`, if the run has 100 other counters, if the disk is full, or if the job
    /// has already ended.
    pub fn count(&self, name: &str, by: u64) -> Result<(), EmitError> {
        self.report(&Report::Count { name: name.to_owned(), by })
    }

    /// Names data that this run reads, for tools that show where data comes from (OpenLineage): the namespace is the place (`bigquery`,
    /// `s3://bucket`, `file`), the name is unique in it (`project.dataset.table`, a path). It is part of the terminal event, as `inputs`.
    ///
    /// ```
    /// use lorchestra_plugin_api::prelude::*;
    ///
    /// /// Copy a table.
    /// #[job]
    /// fn copy(cx: &JobContext) -> JobResult {
    ///     cx.input("postgres://shop:5432", "public.orders")?;
    ///     cx.output("bigquery", "shop.raw.orders")?;
    ///     Ok(())
    /// }
    /// # use lorchestra_plugin_api::testing;
    /// # fn main() {
    /// let run = testing::job::<copy>().run();
    /// assert_eq!(run.inputs(), [("postgres://shop:5432", "public.orders")]);
    /// assert_eq!(run.outputs(), [("bigquery", "shop.raw.orders")]);
    /// # }
    /// ```
    ///
    /// # Errors
    /// Fails if either is empty, if both have more than 1024 bytes together, if the run has 100 other inputs, if the disk is full, or if the
    /// job has already ended.
    pub fn input(&self, namespace: &str, name: &str) -> Result<(), EmitError> {
        self.report(&Report::Input(Dataset { namespace: namespace.to_owned(), name: name.to_owned() }))
    }

    /// Names data that this run writes, as [`input`](Self::input) does for what it reads. It is part of the terminal event, as `outputs`.
    ///
    /// # Errors
    /// As for [`input`](Self::input).
    pub fn output(&self, namespace: &str, name: &str) -> Result<(), EmitError> {
        self.report(&Report::Output(Dataset { namespace: namespace.to_owned(), name: name.to_owned() }))
    }

    fn report(&self, report: &Report) -> Result<(), EmitError> {
        let json = serde_json::to_string(report).map_err(|e| EmitError::invalid(e.to_string()))?;
        sink_result(self.sink.report(json.as_str().into()))
    }

    /// Returns the id of the run, a UUIDv7. All attempts of a run share it.
    pub fn run_id(&self) -> &str {
        &self.call.run_id
    }

    /// Returns the number of this attempt, starting at 1.
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// Returns this package's directory for results. It is created on first use, with mode 0700.
    ///
    /// # Errors
    /// Fails if the directory cannot be created.
    pub fn data_dir(&self) -> io::Result<PathBuf> {
        let dir = self.call.data_root.join(&self.call.package);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| with_path(&dir, e))?;
        Ok(dir)
    }

    /// Returns this attempt's directory for temporary files. It is created on first use, with mode 0700. lorchestra removes it with its
    /// contents at the end of the attempt, also if the job crashed; after `kill -9` of lorchestra itself, the next command does.
    ///
    /// It is in the state directory. To create a final file that appears whole, write it in [`data_dir`](Self::data_dir) under another
    /// name and rename it: a rename does not work across file systems.
    ///
    /// # Errors
    /// Fails if the directory cannot be created.
    pub fn temp_dir(&self) -> io::Result<PathBuf> {
        let dir = &self.call.temp_dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| with_path(dir, e))?;
        Ok(dir.clone())
    }

    /// Returns another package's directory, to read its results. The directory may not exist.
    ///
    /// # Errors
    /// Fails if `package` is not a valid package name.
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

fn sink_result(result: RResult<(), RString>) -> Result<(), EmitError> {
    match result {
        RResult::ROk(()) => Ok(()),
        RResult::RErr(error) => Err(EmitError::from_json(&error)),
    }
}

fn with_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
