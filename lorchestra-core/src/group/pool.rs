//! The lane processes of a group: started when there is work, given one order at a time, and replaced when they die.
//!
//! Owns the pipes. Each lane is in a process group of its own, so that Ctrl-C on a terminal reaches only the driving process, which passes
//! it on once. All pipes are close-on-exec: a lane's input ends when the driving process ends, however that happens.

use super::order::{LaneMessage, LaneOrder, LaneReport};
use crate::host::clock::timespec;
use crate::host::signals::Signals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a lane may take to exit after its input has ended.
const EXIT: Duration = Duration::from_secs(10);

/// The command that becomes a lane.
#[derive(Debug, Clone)]
pub struct LaneCommand {
    /// The executable.
    pub executable: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// What happened to an order.
#[derive(Debug)]
pub enum LaneEvent {
    /// Its run has ended, or did not start.
    Ended(LaneReport),
    /// It waits for another run.
    Waiting {
        /// The run's id.
        run_id: String,
        /// The other run, if known.
        holder: Option<String>,
    },
    /// Its lane died: the run may have ended, may have to be closed, or may never have begun.
    Lost {
        /// The run's id.
        run_id: String,
        /// How the lane ended.
        status: Option<ExitStatus>,
    },
}

#[derive(Debug)]
struct LaneProcess {
    child: Child,
    orders: ChildStdin,
    reports: ChildStdout,
    /// The beginning of a report.
    text: Vec<u8>,
    /// The run that it has been given.
    run_id: Option<String>,
}

/// Up to a number of lanes.
#[derive(Debug)]
pub struct Pool {
    command: LaneCommand,
    size: usize,
    lanes: Vec<LaneProcess>,
}

impl Pool {
    /// Creates a pool of up to `size` lanes, which starts none yet.
    pub fn new(command: LaneCommand, size: usize) -> Self {
        Self { command, size: size.max(1), lanes: Vec::new() }
    }

    /// Whether another order can be given.
    pub fn has_room(&self) -> bool {
        self.busy() < self.size
    }

    /// The number of orders in progress.
    pub fn busy(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.run_id.is_some()).count()
    }

    /// The ids of the runs in progress.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        self.lanes.iter().filter_map(|lane| lane.run_id.as_deref())
    }

    /// Gives an order to an idle lane, or to a new one.
    ///
    /// # Errors
    /// If no lane can be started.
    pub fn give(&mut self, order: &LaneOrder) -> io::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        loop {
            let idle = self.lanes.iter().position(|lane| lane.run_id.is_none());
            let (at, is_new) = match idle {
                Some(at) => (at, false),
                None => {
                    let lane = LaneProcess::start(&self.command)?;
                    self.lanes.push(lane);
                    (self.lanes.len() - 1, true)
                }
            };
            match self.lanes[at].orders.write_all(&line) {
                Ok(()) => {
                    self.lanes[at].run_id = Some(order.run_id.clone());
                    return Ok(());
                }
                // It died while it was idle.
                Err(_) if !is_new => drop(self.lanes.remove(at).end()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for something to happen, or a signal, up to `at_most`.
    pub fn wait(&mut self, signals: &Signals, at_most: Duration) -> Vec<LaneEvent> {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(self.lanes.iter().map(|lane| PollFd::new(&lane.reports, PollFlags::IN)));
        let _ = poll(&mut fds, Some(&timespec(at_most)));
        let ready: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut events = Vec::new();
        let mut dead = Vec::new();
        for (at, lane) in self.lanes.iter_mut().enumerate().filter(|(at, _)| ready[*at]) {
            match lane.read() {
                Ok(messages) => events.extend(messages),
                Err(()) => dead.push(at),
            }
        }
        for at in dead.into_iter().rev() {
            let mut lane = self.lanes.remove(at);
            let run_id = lane.run_id.take();
            let status = lane.end();
            events.extend(run_id.map(|run_id| LaneEvent::Lost { run_id, status }));
        }
        events
    }

    /// Passes a signal on to the lanes that are busy.
    pub fn signal(&self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        for lane in self.lanes.iter().filter(|lane| lane.run_id.is_some()) {
            lane.signal(signal);
        }
    }

    /// Interrupts the lane that has this order.
    pub fn interrupt(&self, run_id: &str) {
        for lane in self.lanes.iter().filter(|lane| lane.run_id.as_deref() == Some(run_id)) {
            lane.signal(Signal::TERM);
        }
    }

    /// Ends idle lanes, and waits for them.
    pub fn end(self) {
        let lanes: Vec<_> = self.lanes.into_iter().map(|lane| (lane.child, drop((lane.orders, lane.reports)))).collect();
        let until = Instant::now() + EXIT;
        for (mut child, ()) in lanes {
            let _ = wait(&mut child, until);
        }
    }
}

impl LaneProcess {
    fn start(command: &LaneCommand) -> io::Result<Self> {
        let mut child = Command::new(&command.executable)
            .args(&command.args)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let no_pipe = || io::Error::other("a child without pipes");
        let orders = child.stdin.take().ok_or_else(no_pipe)?;
        let reports = child.stdout.take().ok_or_else(no_pipe)?;
        rustix::io::ioctl_fionbio(&reports, true)?;
        Ok(Self { child, orders, reports, text: Vec::new(), run_id: None })
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the pid is still its own.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
    }

    /// Returns the messages that have arrived; `Err` at the end of its output.
    fn read(&mut self) -> Result<Vec<LaneEvent>, ()> {
        let mut ended = false;
        let mut bytes = [0; 16 << 10];
        loop {
            match self.reports.read(&mut bytes) {
                Ok(0) => ended = true,
                Ok(n) => {
                    self.text.extend_from_slice(&bytes[..n]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => ended = true,
            }
            break;
        }
        let mut messages = Vec::new();
        while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            match serde_json::from_slice::<LaneMessage>(&line) {
                Ok(LaneMessage::Done(report)) if self.run_id.as_ref() == Some(&report.run_id) => {
                    self.run_id = None;
                    messages.push(LaneEvent::Ended(report));
                }
                Ok(LaneMessage::Waiting { run_id, holder }) if self.run_id.as_ref() == Some(&run_id) => {
                    messages.push(LaneEvent::Waiting { run_id, holder });
                }
                _ => {}
            }
        }
        // Messages come first: the next call finds the end again.
        if ended && messages.is_empty() { Err(()) } else { Ok(messages) }
    }

    /// Closes its pipes and waits for its end.
    fn end(mut self) -> Option<ExitStatus> {
        drop((self.orders, self.reports));
        wait(&mut self.child, Instant::now() + EXIT)
    }
}

/// Waits for the end of a lane; after the deadline, leaves it to itself: it supervises a run, and must not be killed.
fn wait(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
}
