//! A Python process that runs `bridge.py`: its start, its events, its end.
//!
//! The process has one end of a socket as standard input. Each of its requests is a line of JSON, and is answered after the event
//! has been recorded. Its standard output and standard error are those of the worker, so everything that the job prints is in the
//! run's log. It runs in the job's process group, so it ends with the run: it receives SIGTERM when the run is cancelled, and SIGKILL after
//! the grace period, whatever it does at that moment. Where no process signals the group, as in a test of the job, the bridge sends SIGTERM.
//!
//! The run succeeds only if the process reports that the function has returned, and exits successfully after that.

use crate::arguments::Arguments;
use crate::exception::Chain;
use crate::interpreter::Interpreter;
use lorchestra_plugin_api::serde_json::{self, json, value::RawValue};
use lorchestra_plugin_api::{EmitError, EmitErrorKind, Event, JobContext, JobError};
use package_support::lines::{LineEvent, Lines, MAX_LINE};
use package_support::process::{ChildProcess, StartError};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The part that runs in Python.
const SOURCE: &str = include_str!("bridge.py");
/// Maximum time that a process started by the job may hold the socket open after the job's end.
const AFTER_END: Duration = Duration::from_secs(2);

/// The first line sent to the Python process: what it should do.
#[derive(Debug, Serialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub(crate) enum Order<'a> {
    Run {
        entry: &'a str,
        arguments: &'a Arguments,
        /// A directory that lorchestra removes after the run.
        temporary: &'a Path,
    },
    List,
}

/// A line from the Python process.
#[derive(Debug, Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    event: Option<PythonEvent<'a>>,
    end: Option<End>,
}

#[derive(Debug, Deserialize)]
struct PythonEvent<'a> {
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    schema_ref: String,
    #[serde(default)]
    correlation_id: String,
    #[serde(default)]
    subject_id: String,
}

/// Time after a cancellation in which the process should have received SIGTERM.
const UNTIL_SIGTERM: Duration = Duration::from_secs(1);

/// How the function ended. Without any of these it has returned.
#[derive(Debug, Deserialize)]
struct End {
    not_callable: Option<String>,
    exit: Option<i32>,
    raised: Option<Chain>,
    /// The exception is, or comes from, an event that lorchestra refused.
    #[serde(default)]
    invalid: bool,
}

/// The answer to a request.
#[derive(Debug, Serialize)]
struct Reply<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    invalid: bool,
}

/// Why a Python job failed.
#[derive(Debug, thiserror::Error)]
enum BridgeError {
    #[error("{0}; set --python to a virtual environment or an interpreter")]
    Start(StartError),
    #[error("cannot create a socket for the Python process")]
    Socket(#[source] io::Error),
    #[error("waiting for the Python process failed")]
    Wait(#[source] io::Error),
    #[error("{0}")]
    NotCallable(String),
    #[error("{name} raised {chain}; see the traceback in the log of this run")]
    Raised { name: String, chain: Chain, invalid: bool },
    #[error("{name} called sys.exit({code})")]
    Exit { name: String, code: i32 },
    #[error("the Python process ended ({status}) before {name} returned")]
    Died { name: String, status: ExitStatus },
    #[error("{name} returned, but the Python process failed after that ({0}); see the log of this run", .status)]
    FailedLater { name: String, status: ExitStatus },
    #[error("cannot read from the Python process: {0}")]
    Protocol(&'static str),
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl BridgeError {
    /// Returns whether a retry would fail in the same way.
    fn is_permanent(&self) -> bool {
        matches!(self, Self::Start(_) | Self::NotCallable(_) | Self::Raised { invalid: true, .. })
    }
}

/// Runs Python with this order, and records its events.
pub(crate) fn run(interpreter: &Interpreter, order: &Order<'_>, cx: &JobContext) -> Result<(), JobError> {
    let result = Bridge::start(interpreter, order).and_then(|bridge| bridge.serve(cx));
    result.map_err(|error| {
        let is_permanent = error.is_permanent();
        let error = JobError::from(error);
        if is_permanent { error.permanent() } else { error }
    })
}

struct Bridge {
    /// Of the function, for messages.
    name: String,
    process: ChildProcess,
    requests: Lines<UnixStream>,
    replies: UnixStream,
    cancelled_since: Option<Instant>,
    is_terminated: bool,
}

impl Bridge {
    fn start(interpreter: &Interpreter, order: &Order<'_>) -> Result<Self, BridgeError> {
        let (ours, theirs) = UnixStream::pair().map_err(BridgeError::Socket)?;
        let mut command = Command::new(&interpreter.0);
        // -u: unbuffered, so that output reaches the log immediately, even if the job is killed.
        command.args(["-u", "-c", SOURCE]).stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = ChildProcess::start(&mut command).map_err(BridgeError::Start)?;
        // Closes our copy of the other end, so that we see end-of-file when the process ends.
        drop(command);
        let mut replies = ours.try_clone().map_err(BridgeError::Socket)?;
        let mut line = serde_json::to_vec(order).map_err(|error| BridgeError::Socket(error.into()))?;
        line.push(b'\n');
        // A process that has already ended is reported with its exit status.
        let _ = replies.write_all(&line);
        let name = match order {
            Order::Run { entry, .. } => (*entry).to_owned(),
            Order::List => "the list of jobs".to_owned(),
        };
        let requests = Lines::new(ours);
        Ok(Self { name, process, requests, replies, cancelled_since: None, is_terminated: false })
    }

    /// Answers requests until the process has ended.
    fn serve(mut self, cx: &JobContext) -> Result<(), BridgeError> {
        let mut end = None;
        let mut line = Vec::new();
        let mut quiet_since: Option<Instant> = None;
        loop {
            self.pass_on_cancellation(cx)?;
            let next = match self.requests.next(&mut line) {
                // It has ended without reading all that was sent to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                next => next.map_err(BridgeError::Wait)?,
            };
            match next {
                LineEvent::Line => {
                    quiet_since = None;
                    if let Some(reported) = self.answer(&line, cx)? {
                        end = Some(reported);
                    }
                    line.clear();
                }
                LineEvent::Nothing => {
                    // A process that the job started may still hold the socket open.
                    let has_ended = self.process.ended().map_err(BridgeError::Wait)?.is_some();
                    if has_ended && quiet_since.get_or_insert_with(Instant::now).elapsed() > AFTER_END {
                        break;
                    }
                }
                LineEvent::TooLong => return Err(BridgeError::Protocol(TOO_LONG)),
                // The rest of a line was sent by a process that was killed while it was emitting.
                LineEvent::Torn | LineEvent::End => break,
            }
        }
        let status = loop {
            if let Some(status) = self.process.ended().map_err(BridgeError::Wait)? {
                break status;
            }
            self.pass_on_cancellation(cx)?;
            std::thread::sleep(Duration::from_millis(2));
        };
        self.judge(end, status, cx)
    }

    /// Sends SIGTERM once if the run is cancelled and the process continues. It ignores a second one, so that its cleanup is not interrupted.
    fn pass_on_cancellation(&mut self, cx: &JobContext) -> Result<(), BridgeError> {
        if self.is_terminated || !cx.is_cancelled() {
            return Ok(());
        }
        if self.cancelled_since.get_or_insert_with(Instant::now).elapsed() >= UNTIL_SIGTERM {
            self.is_terminated = true;
            self.process.terminate().map_err(BridgeError::Wait)?;
        }
        Ok(())
    }

    /// Records the event of a request and answers it. Returns the end if the request reports it.
    fn answer(&mut self, line: &[u8], cx: &JobContext) -> Result<Option<End>, BridgeError> {
        let request: Request<'_> = serde_json::from_slice(line).map_err(|_| BridgeError::Protocol("a request is not valid"))?;
        let result = request.event.map_or(Ok(()), |event| record(event, cx));
        let reply = match result {
            Ok(()) => Reply { id: &request.id, error: None, invalid: false },
            Err(error) => {
                Reply { id: &request.id, invalid: error.kind() == EmitErrorKind::Invalid, error: Some(error.to_string()) }
            }
        };
        let mut text = serde_json::to_vec(&reply).map_err(|_| BridgeError::Protocol("a reply is not JSON"))?;
        text.push(b'\n');
        // Ignore errors: a process that has ended needs no reply.
        let _ = self.replies.write_all(&text);
        Ok(request.end)
    }

    fn judge(self, end: Option<End>, status: ExitStatus, cx: &JobContext) -> Result<(), BridgeError> {
        let name = self.name;
        match end {
            Some(End { not_callable: Some(why), .. }) => Err(BridgeError::NotCallable(why)),
            Some(End { raised: Some(chain), invalid, .. }) => {
                let chain = chain.bounded();
                cx.emit("python.exception", json!({"entry": name, "exceptions": chain}))?;
                Err(BridgeError::Raised { name, chain, invalid })
            }
            Some(End { exit: Some(_), .. }) | None if cx.is_cancelled() => Err(BridgeError::Cancelled),
            Some(End { exit: Some(code), .. }) => Err(BridgeError::Exit { name, code }),
            Some(_) if status.success() => Ok(()),
            Some(_) if cx.is_cancelled() => Err(BridgeError::Cancelled),
            Some(_) => Err(BridgeError::FailedLater { name, status }),
            None => Err(BridgeError::Died { name, status }),
        }
    }
}

const TOO_LONG: &str = "an event is longer than 64 MiB";
const _: () = assert!(MAX_LINE == 64 << 20);

fn record(event: PythonEvent<'_>, cx: &JobContext) -> Result<(), EmitError> {
    let recorded = Event::new(event.event_type, event.payload)?
        .schema_ref(event.schema_ref)
        .correlation_id(event.correlation_id)
        .subject_id(event.subject_id);
    cx.emit_with(recorded)
}
