//! The one loop that decides what happens to a worker, and when. It receives signals, deadlines, the worker's death, its output and the
//! final record in one poll, and handles them one at a time.
//!
//! ```text
//!   signals ──┐
//!   output  ──┼─► poll ─► deadline passed, TERM, INT, HUP: noted, SIGTERM to the group, after the grace SIGKILL
//!   control ──┤           a second INT, or any TERM or INT 1 s later: SIGKILL
//!   intake  ──┘           final record seen: 2 s, then SIGKILL
//!                         worker dead: group killed, worker reaped, orphans killed, output drained for 1 s
//! ```
//!
//! [`StopState`] decides which action is due when; the loop performs it. The loop never waits for the store or for a terminal. The only
//! thing it prints is which process of the job was stopped ([`Stops`]), and a tracing subscriber must not block on that.

use super::child::{LastWords, Worker};
use super::stop_state::{Action, AttemptLimits, StopState};
use super::stops::Stops;
use crate::host::clock;
use crate::host::process::ProcessorTime;
use crate::host::signals::Signals;
use crate::run::decision::{Death, Ending, WorkerFault};
use crate::run::log::Log;
use crate::run::note::{self, Note};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long to read output after everything was killed: an unreachable process may hold the pipe.
const DRAIN: Duration = Duration::from_secs(1);
/// What the loop has observed.
pub(super) struct Observation {
    pub(super) ending: Option<Ending>,
    pub(super) death: Death,
    pub(super) time: ProcessorTime,
    /// Number of the job's processes that could not be killed.
    pub(super) left: usize,
    pub(super) fault: Option<WorkerFault>,
    /// The first signal that asked to stop, even if it came too late to be the reason.
    pub(super) stop_signal: Option<i32>,
}

/// What the loop watches and writes to.
pub(super) struct Watched<'a> {
    pub(super) worker: &'a mut Worker,
    /// Readable once the final record was ingested.
    pub(super) final_seen: &'a OwnedFd,
    pub(super) note: &'a Note,
    pub(super) log: &'a mut Log,
}

/// Runs until the worker and everything it started are gone.
pub(super) fn dispatch(watched: Watched<'_>, limits: AttemptLimits, signals: &mut Signals) -> io::Result<Observation> {
    let Watched { worker, final_seen, note, log } = watched;
    let mut fault = FaultNote { note, ending: None, armed: true };
    let mut state = StopState::new(limits, Instant::now());
    let mut stops = Stops::new(Instant::now());
    let mut output_open = true;
    let mut control_open = true;
    loop {
        let next = state.next().map_or(stops.next(), |at| at.min(stops.next()));
        let wait = Some(next.saturating_duration_since(Instant::now()));
        let look_at = Ready { output: output_open, control: control_open, final_seen: !state.lingers() };
        let woken = wait_for(worker, signals, final_seen, &look_at, wait)?;
        // Read the signals before checking the worker: a SIGCHLD that arrives after the check stays in the pipe and ends the next poll. In
        // the other order this read would swallow it, and nothing else might end the poll.
        let stop_signal = signals.endings();

        if woken.output {
            output_open = copy_output(&mut worker.output, log);
        }
        if woken.control {
            // The socket closes when the worker ends; its message is read after its death.
            control_open = false;
        }
        if worker.has_ended()? {
            fault.armed = false;
            state.signals_at_death(&stop_signal);
            break;
        }
        worker.reap_orphans();
        let now = Instant::now();
        stops.look(worker, now);
        if let Some(act) = state.signals(&stop_signal, now) {
            perform(act, worker, note);
        }
        // Handle this before the deadline: a job that has ended in time must not be stopped.
        if woken.final_seen {
            state.final_seen(now);
        }
        if state.is_overdue(now) {
            state.stopped(stops.now(worker));
        }
        while let Some(act) = state.tick(now) {
            perform(act, worker, note);
        }
        fault.ending = state.ending();
    }
    let LastWords { fault, timed_out } = worker.last_words();
    let (death, time, left) = worker.end()?;
    let watchdog = limits.timeout.filter(|_| timed_out).map(|after| Ending::Timeout { after, stopped: None });
    let ending = state.ending().or(watchdog);
    // If the note cannot be written, the worst case is a less precise message; it never costs the run.
    let cut = fault.as_ref().map(note::cut);
    let _ = note.write(&note::NotedFacts { ending, death: Some(death), fault: cut, between: None });
    drain_output(worker, log)?;
    Ok(Observation { ending, death, time, left, fault, stop_signal: state.stop_signal() })
}

/// If the loop ends early (by an error or a panic), the job is killed. This guard first records the reason, so that no one attributes the
/// job's death to the kernel or the job.
struct FaultNote<'a> {
    note: &'a Note,
    /// Why the job is already being stopped: that remains the cause.
    ending: Option<Ending>,
    armed: bool,
}

impl Drop for FaultNote<'_> {
    fn drop(&mut self) {
        if self.armed {
            let ending = Some(self.ending.unwrap_or(Ending::SupervisorFault));
            let _ = self.note.write(&note::NotedFacts { ending, ..note::NotedFacts::default() });
        }
    }
}

fn perform(act: Action, worker: &Worker, note: &Note) {
    match act {
        Action::Terminate(ending) => {
            // Before sending the signal: once it is sent, this is the cause, whoever records the run's end.
            let _ = note.write(&note::NotedFacts { ending: Some(ending), ..note::NotedFacts::default() });
            worker.signal(Signal::TERM);
            // A stopped process handles the other signal only after it is continued.
            worker.signal(Signal::CONT);
        }
        Action::Kill => worker.signal(Signal::KILL),
    }
}

/// The descriptors to watch, or those that are ready.
struct Ready {
    output: bool,
    control: bool,
    final_seen: bool,
}

fn wait_for(
    worker: &Worker,
    signals: &Signals,
    final_seen: &OwnedFd,
    look_at: &Ready,
    wait: Option<Duration>,
) -> io::Result<Ready> {
    let none = PollFlags::empty();
    let when = |open: bool| if open { PollFlags::IN } else { none };
    let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
    // A closed descriptor would end every poll immediately, even with no events requested, so it is not included.
    let output = look_at.output.then(|| {
        fds.push(PollFd::new(&worker.output, PollFlags::IN));
        fds.len() - 1
    });
    let control = look_at.control.then(|| {
        fds.push(PollFd::new(&worker.control, when(true)));
        fds.len() - 1
    });
    let seen = look_at.final_seen.then(|| {
        fds.push(PollFd::new(final_seen, PollFlags::IN));
        fds.len() - 1
    });
    match poll(&mut fds, timespec(wait).as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let ready = |index: Option<usize>| index.is_some_and(|i| !fds[i].revents().is_empty());
    Ok(Ready { output: ready(output), control: ready(control), final_seen: ready(seen) })
}

fn timespec(wait: Option<Duration>) -> Option<Timespec> {
    // Rounded up to the next millisecond: waking just before a deadline would only cost another iteration.
    wait.map(|wait| clock::timespec(wait.saturating_add(Duration::from_millis(1))))
}

/// Copies available output to the log, at most 1 MiB per call. Returns `false` at the end of the pipe.
fn copy_output(output: &mut File, log: &mut Log) -> bool {
    let mut buffer = [0; 64 << 10];
    for _ in 0..16 {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            // A full disk truncates the log, but never blocks the job's output pipe.
            Ok(n) => log.write(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn drain_output(worker: &mut Worker, log: &mut Log) -> io::Result<()> {
    let until = Instant::now() + DRAIN;
    while copy_output(&mut worker.output, log) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match poll(&mut [PollFd::new(&worker.output, PollFlags::IN)], timespec(Some(left)).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
