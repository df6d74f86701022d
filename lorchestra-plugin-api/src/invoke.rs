//! One call of a job, inside the plugin, with panics caught.
//!
//! Owns the messages of a call: [`Call`] from the host and [`JobReturn`] back, both JSON so that fields can be added. Unless the job
//! ends the process, every outcome is returned as a `JobReturn`; no panic unwinds past [`invoke`].

use crate::abi::BoxedSink;
use crate::bridge;
use crate::context::JobContext;
use crate::job::Job;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Once};

/// A call of a job, sent by the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Id of the run.
    pub run_id: String,
    /// Number of the attempt, starting at 1.
    pub attempt: u32,
    /// Package of the job.
    pub package: String,
    /// Parent directory of all packages' data directories.
    pub data_root: PathBuf,
    /// The attempt's directory for temporary files. Does not exist yet; the host removes it at the end of the attempt.
    // As bytes: unlike `data_root`, it may be below any directory, whose name need not be UTF-8.
    #[serde(with = "bytes")]
    pub temp_dir: PathBuf,
    /// The most verbose level the host records: `error`, `warn`, `info`, `debug`, `trace` or `off`.
    pub trace_level: String,
    /// Parameters by name. Parameters without a value are absent.
    pub params: Map<String, Value>,
}

mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

/// How a call of a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum JobReturn {
    /// The job returned `Ok`.
    Ok,
    /// The job returned an error.
    Error {
        /// Messages of the error and its causes, outermost first; never empty.
        messages: Vec<String>,
        /// Whether the error is permanent: a retry would not help.
        permanent: bool,
    },
    /// The job panicked.
    Panic {
        /// The panic's message.
        message: String,
        /// `file:line` of the panic.
        location: String,
    },
    /// The job was not called: the call or a parameter could not be decoded, because host and plugin disagree.
    Refused {
        /// Why the call was refused.
        message: String,
    },
}

/// Calls the job. `call` is a [`Call`] as JSON; the return value is a [`JobReturn`] as JSON.
pub fn invoke<J: Job>(call: &str, sink: BoxedSink) -> String {
    install_hook();
    let returned = catch_unwind(AssertUnwindSafe(|| call_job::<J>(call, sink))).unwrap_or_else(panicked);
    // Serializing strings cannot fail; if it did, the host would still get a valid answer.
    serde_json::to_string(&returned)
        .unwrap_or_else(|_| r#"{"status":"refused","message":"cannot serialize the job's result to JSON"}"#.into())
}

fn call_job<J: Job>(call: &str, sink: BoxedSink) -> JobReturn {
    let mut call: Call = match serde_json::from_str(call) {
        Ok(call) => call,
        Err(e) => return JobReturn::Refused { message: format!("cannot decode the call: {e}") },
    };
    let sink = Arc::new(sink);
    bridge::install(&sink, &call.trace_level);
    let mut params = std::mem::take(&mut call.params);
    let cx = JobContext::new(call, sink);
    match J::call(&cx, &mut params) {
        Ok(Ok(())) => JobReturn::Ok,
        Ok(Err(error)) => JobReturn::Error { messages: error.messages(), permanent: error.is_permanent() },
        Err(error) => JobReturn::Refused { message: error.to_string() },
    }
}

thread_local! {
    /// Message and location of this thread's last panic. Only the panic hook sees the location; `catch_unwind` does not.
    static LAST_PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let message = payload_text(info.payload());
            // try_borrow_mut: a panic while this cell is in use must not become a second one.
            LAST_PANIC.with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = Some((message, location));
                }
            });
            default(info);
        }));
    });
}

fn panicked(payload: Box<dyn Any + Send>) -> JobReturn {
    let text = payload_text(&*payload);
    // The payload's type is defined by the job. If its Drop panicked here, the process would abort.
    #[expect(clippy::mem_forget, reason = "dropping an unknown panic payload may panic again")]
    std::mem::forget(payload);
    let (message, location) =
        LAST_PANIC.with(|last| last.try_borrow_mut().ok().and_then(|mut last| last.take())).unwrap_or((text, String::new()));
    JobReturn::Panic { message, location }
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(panic payload is not a string)".to_owned())
}
