//! Inside the child process: one worker runs one attempt of one run.
//!
//! Talks to its supervisor over the control socket (descriptor 0): receives the [`WorkerInput`], and reports faults that occur before the
//! spool is open; the socket's end of file means that the supervisor is gone. Everything else goes into the spool. Uses no network and no
//! store.
//!
//! The steps, which the evidence at the end can distinguish ([`crate::run::decision`]):
//!
//! 1. Read the order, take descriptor 0 away from the job, take the attempt's lock, start the watchdog.
//! 2. Set the memory limit, if any; open the spool. From now on, the final record reports faults.
//! 3. Load the library (`loader`) and compare its root module with the manifest.
//! 4. Write the mark "entered" and call the job with a boxed sink (`sink`).
//! 5. Write the final record under the sink's mutex. Only now does the run have an outcome, and nothing that the process does afterwards
//!    changes it.

mod loader;
pub mod meter;
pub mod order;
mod sink;
pub(crate) mod trial;
pub(crate) mod watchdog;

use crate::host::limits::{self, RefusedOperation};
use crate::host::locks::AttemptLock;
use crate::run::decision::WorkerFault;
use crate::run::log::Log;
use crate::secrets::Mask;
use crate::spool::record::{Final, Mark};
use crate::spool::writer::Writer;
use lorchestra_plugin_api::abi::{EventSink, EventSink_TO, JobEntry_Ref};
use lorchestra_plugin_api::invoke::JobReturn;
use meter::Meter;
use order::{Task, WorkerInput};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;
use sink::{Sink, SinkOptions};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use watchdog::Deadline;

/// First argument of a worker's command line; the rest is for `ps`.
pub const ARGUMENT: &str = "--lorchestra-worker";
/// Exit code if the worker reported a fault on the control socket instead of in the spool.
const FAULT: u8 = 70;

/// The worker's main function. Returns after the final record is written.
pub fn main() -> ExitCode {
    // A session without a terminal, and a process group of its own: a job that reads a password from the terminal gets an error instead of
    // being stopped forever, and Ctrl-C reaches only the supervisor. posix_spawn does not support sessions, and a pre_exec closure would
    // require forking the supervisor's whole address space. Does not fail in a process that a supervisor started.
    let _ = rustix::process::setsid();
    let control = match take_control() {
        Ok(control) => control,
        Err(_) => return ExitCode::from(FAULT),
    };
    match run(&control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // If this does not reach the supervisor, it still sees a worker that ended without a final record.
            let _ = serde_json::to_writer(&control, &fault).map_err(io::Error::from).and_then(|()| (&control).write_all(b"\n"));
            ExitCode::from(FAULT)
        }
    }
}

/// Moves the control socket away from descriptor 0; the job's standard input is empty.
fn take_control() -> io::Result<UnixStream> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails for anything but a socket, so a person who starts a worker manually gets an error.
    control.peer_addr()?;
    match File::open("/dev/null") {
        Ok(null) => rustix::stdio::dup2_stdin(null)?,
        // A chroot without /dev: a pipe without a writer is just as empty.
        Err(_) => rustix::stdio::dup2_stdin(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?.0)?,
    }
    Ok(control)
}

fn run(control: &UnixStream) -> Result<(), WorkerFault> {
    let ours = |what: &'static str| {
        move |e: io::Error| {
            let limit = limits::behind(&e, RefusedOperation::Starting).map(|limit| format!(": {}; {}", limit.what, limit.hint));
            WorkerFault { spool: false, message: format!("the worker could not {what}: {e}{}", limit.unwrap_or_default()) }
        }
    };
    let task = Task::receive(control).map_err(ours("read its order"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let order = match task {
        Task::Run(order) => order,
        Task::Load(trial) => {
            watchdog::start(control, None).map_err(ours("start its watchdog"))?;
            return trial::run(control, &trial).map_err(ours("report the result of loading"));
        }
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled)).map_err(ours("handle signals"))?;
    }
    let deadline = order.spec.timeout.map(|timeout| Deadline { timeout, grace: order.spec.grace });
    watchdog::start(control, deadline).map_err(ours("start its watchdog"))?;

    let spool = |e: io::Error| WorkerFault {
        spool: true,
        message: format!("the spool {} cannot be created: {e}", order.spool.display()),
    };
    // Held until the process ends.
    let _lock = AttemptLock::take(&order.lock).map_err(spool)?;
    // Recovery starts after the supervisor's death and waits for this lock. So either it sees the lock held, or the socket is already at
    // its end, and the run is no longer ours: nothing may be emitted into it.
    if watchdog::supervisor_is_gone(control).map_err(ours("read its control socket"))? {
        return Ok(());
    }
    if let Some(max) = order.spec.memory_max {
        let limit = Rlimit { current: Some(max), maximum: Some(max) };
        setrlimit(Resource::Data, limit).map_err(|e| ours("limit its memory")(e.into()))?;
    }
    let writer = Writer::create(&order.spool).map_err(spool)?.with_strict_numbers(order.strict_numbers);
    // Diagnostics: the job continues without them.
    let trace = Log::open(&order.trace, order.log_max);
    if let Err(error) = &trace {
        let _ = writeln!(io::stderr(), "lorchestra: this run has no trace: {}: {error}", order.trace.display());
    }
    let meter = Some(Meter::new(&order.progress, order.call.attempt));
    let mask = Mask::of(order.secrets.iter().filter_map(|name| order.call.params.get(name)?.as_str()));
    if mask.is_none() && !order.secrets.is_empty() {
        return Err(WorkerFault { spool: false, message: "the run's secrets could not be masked".into() });
    }
    let sink = Sink::new(writer, SinkOptions { trace: trace.ok(), cancelled, meter, bookmarks: order.bookmarks, mask });

    let end = match loader::load(&order) {
        Err(refusal) => {
            if let Some(detail) = refusal.detail
                && matches!(order.call.trace_level.as_str(), "debug" | "trace")
            {
                let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
                let line = json!({"time": time, "level": "DEBUG", "target": "lorchestra", "message": refusal.message, "fields": {"layout": detail}});
                sink.trace(line.to_string().as_str().into());
            }
            Final::NotLoaded { message: refusal.message }
        }
        Ok(job) => match sink.mark(Mark::Entered) {
            Err(e) => Final::SpoolFault { message: e.to_string() },
            Ok(()) => {
                let returned = call(job, &order, &sink);
                Final::Returned { returned, max_rss_kib: crate::host::process::max_rss_kib(), bookmark: sink.bookmark() }
            }
        },
    };
    // Plugin code may have forked without exec. Then the copy gets here too, and its result is not the worker's.
    if loader::is_copy() {
        return Ok(());
    }
    sink.finish(end).map_err(|e| WorkerFault { spool: true, message: format!("the final record could not be written: {e}") })
}

fn call(job: JobEntry_Ref, order: &WorkerInput, sink: &Sink) -> JobReturn {
    let refused = |message: String| JobReturn::Refused { message };
    let call = match serde_json::to_string(&order.call) {
        Ok(call) => call,
        Err(e) => return refused(format!("the call could not be written: {e}")),
    };
    let boxed = EventSink_TO::from_value(sink.clone(), abi_stable::erased_types::TD_Opaque);
    let answer = (job.entry())(call.as_str().into(), boxed);
    serde_json::from_str(&answer).unwrap_or_else(|e| refused(format!("the plugin's answer could not be read: {e}")))
}
