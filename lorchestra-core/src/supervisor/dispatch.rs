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
//! Nothing in it waits for the store or for a terminal: it does not even log.

use super::child::{ProcessorTime, Worker};
use super::note::{self, Note};
use crate::log::Log;
use crate::outcome::{Death, Ending, WorkerFault};
use crate::signals::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a worker may stay after its final record.
const LINGER: Duration = Duration::from_secs(2);
/// How long output is read after everything was killed: a process out of reach may hold the pipe.
const DRAIN: Duration = Duration::from_secs(1);
/// Signals within this time are one wish to end: a terminal that closes, or a service manager, may send several.
const TOGETHER: Duration = Duration::from_secs(1);

/// What the loop needs to know.
pub(super) struct Limits {
    /// From the start of the attempt; `None`: as long as it takes.
    pub(super) timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
}

/// What the loop has seen.
pub(super) struct Seen {
    pub(super) ending: Option<Ending>,
    pub(super) death: Death,
    pub(super) time: ProcessorTime,
    pub(super) fault: Option<WorkerFault>,
}

/// Runs until the worker and everything it started are gone.
pub(super) fn dispatch(
    worker: &mut Worker,
    limits: &Limits,
    signals: &mut Signals,
    final_seen: &OwnedFd,
    note: &Note,
    log: &mut Log,
) -> io::Result<Seen> {
    let started = Instant::now();
    let mut ending = None;
    let mut ended_at = started;
    let mut kill_at: Option<Instant> = None;
    let mut lingers = false;
    let mut output_open = true;
    let mut control_open = true;
    loop {
        let deadline = limits.timeout.filter(|_| ending.is_none() && !lingers).map(|timeout| started + timeout);
        let next = [deadline, kill_at].into_iter().flatten().min();
        let wait = next.map(|at| at.saturating_duration_since(Instant::now()));
        let woken = wait_for(worker, signals, final_seen, output_open, control_open, lingers, wait)?;
        // Taken out of the pipe before the worker is looked at: a SIGCHLD that comes after that look stays in the pipe and wakes
        // the next poll. The other way round it would be swallowed here, and nothing else might ever wake it.
        let told = signals.endings();

        if woken.output {
            output_open = copy_output(&mut worker.output, log);
        }
        if woken.control {
            // The worker's end closes with it; what it said is read after its death.
            control_open = false;
        }
        if worker.has_ended()? {
            break;
        }
        worker.reap_orphans();
        let now = Instant::now();
        if let Some(signal) = told.first().copied() {
            if lingers {
                kill_at = Some(now);
            } else if ending.is_none() {
                ending = Some(Ending::Cancelled { signal });
                ended_at = now;
                end_in_order(worker, note, ending, &mut kill_at, now + limits.grace);
            } else if is_impatient(ending, &told, now - ended_at) {
                kill_at = Some(now);
            }
        }
        if let Some(timeout) = limits.timeout
            && ending.is_none()
            && !lingers
            && now >= started + timeout
        {
            ending = Some(Ending::Timeout { after: timeout });
            ended_at = now;
            end_in_order(worker, note, ending, &mut kill_at, now + limits.grace);
        }
        if woken.final_seen && !lingers {
            lingers = true;
            kill_at = Some(kill_at.map_or(now + LINGER, |at| at.min(now + LINGER)));
        }
        if kill_at.is_some_and(|at| now >= at) {
            worker.signal(Signal::KILL);
            kill_at = None;
        }
    }
    let fault = worker.fault();
    let (death, time) = worker.end()?;
    // A note that cannot be written costs a truer word in a rare case, never the run.
    let _ = note.write(&note::Seen { ending, death: Some(death), fault: fault.as_ref().map(note::cut) });
    drain_output(worker, log)?;
    Ok(Seen { ending, death, time, fault })
}

fn end_in_order(worker: &Worker, note: &Note, ending: Option<Ending>, kill_at: &mut Option<Instant>, at: Instant) {
    // Before the signal: once it was sent, that is the cause, whoever records it.
    let _ = note.write(&note::Seen { ending, ..note::Seen::default() });
    worker.signal(Signal::TERM);
    *kill_at = Some(at);
}

/// Whether signals after the first ending ask for the kill at once.
fn is_impatient(ending: Option<Ending>, told: &[i32], since: Duration) -> bool {
    // Ctrl-C after Ctrl-C, or after the job was told to end by its deadline, is a person who does not want to wait.
    let again = matches!(ending, Some(Ending::Cancelled { signal: SIGINT } | Ending::Timeout { .. })) && told.contains(&SIGINT);
    again || (since >= TOGETHER && (told.contains(&SIGINT) || told.contains(&SIGTERM)))
}

#[derive(Default)]
struct Woken {
    output: bool,
    control: bool,
    final_seen: bool,
}

fn wait_for(
    worker: &Worker,
    signals: &Signals,
    final_seen: &OwnedFd,
    output: bool,
    control: bool,
    lingers: bool,
    wait: Option<Duration>,
) -> io::Result<Woken> {
    let none = PollFlags::empty();
    let when = |open: bool| if open { PollFlags::IN } else { none };
    let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
    // A closed descriptor would wake the poll for ever, even with no events asked for: it is left out instead.
    let output = output.then(|| {
        fds.push(PollFd::new(&worker.output, PollFlags::IN));
        fds.len() - 1
    });
    let control = control.then(|| {
        fds.push(PollFd::new(&worker.control, when(true)));
        fds.len() - 1
    });
    let seen = (!lingers).then(|| {
        fds.push(PollFd::new(final_seen, PollFlags::IN));
        fds.len() - 1
    });
    match poll(&mut fds, timespec(wait).as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let ready = |index: Option<usize>| index.is_some_and(|i| !fds[i].revents().is_empty());
    Ok(Woken { output: ready(output), control: ready(control), final_seen: ready(seen) })
}

fn timespec(wait: Option<Duration>) -> Option<Timespec> {
    // Rounded up to the next millisecond: waking just before a deadline would only mean another round.
    wait.map(|wait| {
        let wait = wait + Duration::from_millis(1);
        Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() }
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::SIGHUP;

    #[test]
    fn one_wish_to_end_may_come_as_several_signals() {
        let by = |signal| Some(Ending::Cancelled { signal });
        let timeout = Some(Ending::Timeout { after: Duration::from_secs(1) });
        let (soon, later) = (Duration::from_millis(10), Duration::from_secs(2));
        for (ending, told, since, kills) in [
            (by(SIGINT), SIGINT, soon, true),
            (by(SIGINT), SIGTERM, soon, false),
            (by(SIGTERM), SIGINT, soon, false),
            (by(SIGHUP), SIGTERM, soon, false),
            (by(SIGTERM), SIGTERM, later, true),
            (by(SIGTERM), SIGINT, later, true),
            (by(SIGTERM), SIGHUP, later, false),
            (timeout, SIGINT, soon, true),
            (timeout, SIGTERM, soon, false),
            (timeout, SIGTERM, later, true),
        ] {
            assert_eq!(is_impatient(ending, &[told], since), kills, "{ending:?}, then {told} after {since:?}");
        }
    }
}
