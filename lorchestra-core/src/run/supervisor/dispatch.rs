//! The one loop that decides what happens to a worker, and when: it sees signals, deadlines, the worker's death, its output
//! and the final record in one poll, and acts on them one at a time.
//!
//! ```text
//!   signals ──┐
//!   output  ──┼─► poll ─► deadline passed, TERM, INT, HUP: noted, SIGTERM to the group, after the grace SIGKILL
//!   control ──┤           a second INT, or any TERM or INT 1 s later: SIGKILL
//!   intake  ──┘           final record seen: 2 s, then SIGKILL
//!                         worker dead: group killed, worker reaped, orphans killed, output drained for 1 s
//! ```
//!
//! What is to be done when is [`StopState`]'s to say; the loop does it. Nothing in it waits for the store or for a terminal; the one thing that it
//! prints is what of the job was stopped ([`Stops`]), and a subscriber must not keep it waiting for that.

use super::child::Worker;
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

/// How long output is read after everything was killed: a process out of reach may hold the pipe.
const DRAIN: Duration = Duration::from_secs(1);
/// What the loop has seen.
pub(super) struct Observation {
    pub(super) ending: Option<Ending>,
    pub(super) death: Death,
    pub(super) time: ProcessorTime,
    /// Processes of the job that could not be ended.
    pub(super) left: usize,
    pub(super) fault: Option<WorkerFault>,
    /// The first signal that asked for an end, also one that came too late to be the ending.
    pub(super) stop_signal: Option<i32>,
}

/// What the loop watches and writes to.
pub(super) struct Watched<'a> {
    pub(super) worker: &'a mut Worker,
    /// Has a byte once the final record was taken in.
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
        // Taken out of the pipe before the worker is looked at: a SIGCHLD that comes after that look stays in the pipe and wakes
        // the next poll. The other way round it would be swallowed here, and nothing else might ever wake it.
        let stop_signal = signals.endings();

        if woken.output {
            output_open = copy_output(&mut worker.output, log);
        }
        if woken.control {
            // The worker's end closes with it; what it said is read after its death.
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
        // Seen before the deadline is looked at: a job that has ended in time is not told to end.
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
    let said = worker.fault();
    let (death, time, left) = worker.end()?;
    let ending = state.ending();
    // A note that cannot be written costs a truer word in a rare case, never the run.
    let cut = said.as_ref().map(note::cut);
    let _ = note.write(&note::NotedFacts { ending, death: Some(death), fault: cut, between: None });
    drain_output(worker, log)?;
    Ok(Observation { ending, death, time, left, fault: said, stop_signal: state.stop_signal() })
}

/// While the job runs, whatever leaves the loop (an error, a panic) ends the job with it: noted before that happens, so that nobody takes
/// the job's death for the kernel's or the job's own doing.
struct FaultNote<'a> {
    note: &'a Note,
    /// Why the job is being ended already: that stays the cause.
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
            // Before the signal: once it was sent, that is the cause, whoever records it.
            let _ = note.write(&note::NotedFacts { ending: Some(ending), ..note::NotedFacts::default() });
            worker.signal(Signal::TERM);
            // What is stopped hears the other signal only then.
            worker.signal(Signal::CONT);
        }
        Action::Kill => worker.signal(Signal::KILL),
    }
}

/// What is looked at, or what is ready.
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
    // A closed descriptor would wake the poll for ever, even with no events asked for: it is left out instead.
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
    // Rounded up to the next millisecond: waking just before a deadline would only mean another round.
    wait.map(|wait| clock::timespec(wait.saturating_add(Duration::from_millis(1))))
}

/// Copies what there is to the log, at most 1 MiB a turn. `false` when the pipe has ended.
fn copy_output(output: &mut File, log: &mut Log) -> bool {
    let mut buffer = [0; 64 << 10];
    for _ in 0..16 {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            // A full disk costs the log its end, never the job its output pipe.
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
