//! One worker process: started with its order, watched, and killed with everything it started.
//!
//! Only the main thread calls this. As its first action the worker makes itself the leader of a new session without a terminal
//! ([`worker::main`]), so its group id is its pid. Until then it is in the supervisor's group and has no plugin code. Processes that leave
//! the group are still found, because the supervisor is a subreaper: orphans become its children.

use crate::host::process::{self, Stat};
use crate::packages::library::Library;
use crate::run::decision::{Death, WorkerFault};
use crate::run::worker::{self, order::WorkerInput, watchdog};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions};
use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long to wait for orphans after SIGKILL, counted from the last one that disappeared. Only the kernel can delay them longer.
const ORPHANS: Duration = Duration::from_secs(2);
/// Limit for all rounds: processes that fork faster than they are killed would never end.
const ORPHANS_IN_ALL: Duration = Duration::from_secs(30);

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pid: Pid,
    /// Our end of the control socket. When it closes, the worker knows that we are gone.
    pub(super) control: UnixStream,
    /// Standard output and standard error of the worker, combined.
    pub(super) output: File,
    /// Children that this process had before, inherited by `exec` from a shell or a container entry point: not the job's.
    before: Vec<Pid>,
    /// The environment variable that marks the processes of the job.
    mark: Option<(&'static str, String)>,
    library_fd: RawFd,
    ended: bool,
}

/// Kills a worker whose run could not be recorded.
impl Drop for Worker {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.end()
        {
            tracing::debug!(%error, "cannot kill a worker that is no longer needed");
        }
    }
}

/// A change of a worker that is still alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopChange {
    /// This signal stopped it.
    Stopped(i32),
    /// SIGCONT resumed it.
    Continued,
}

/// How to start a worker.
pub(super) struct Start<'a> {
    /// The executable that becomes the worker.
    pub(super) exe: &'a Path,
    /// Name shown in process listings.
    pub(super) title: &'a str,
    /// Variables to add to its environment.
    pub(super) environment: &'a [(&'static str, String)],
    /// Its working directory; `None` for that of this process.
    pub(super) directory: Option<&'a Path>,
}

/// What a worker has left on its control socket.
pub(super) struct LastWords {
    /// The fault that it reported before it had a spool, or because its final record could not be written.
    pub(super) fault: Option<WorkerFault>,
    /// Its watchdog has ended the job at its deadline, because this process was stopped.
    pub(super) timed_out: bool,
}

impl Worker {
    /// Starts a worker that waits for its order. The first environment variable marks its processes.
    pub(super) fn start(library: &Library, start: &Start<'_>) -> io::Result<Self> {
        let Start { exe, title, environment, directory } = *start;
        // Without this, orphans would be re-parented to init, out of reach. The worker does not inherit it.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let before = process::children_of_main_thread();
        let (control, theirs) = UnixStream::pair()?;
        // One pipe for both streams preserves their relative order.
        let (output, out) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let err = out.try_clone()?;
        let mut command = Command::new(exe);
        command
            .arg0("lorchestra-worker")
            .args([worker::ARGUMENT, title])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(err));
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        let (child, library_fd) = library.inheritable(|fd| Ok((command.spawn()?, fd)))?;
        // Only the worker may keep these ends open: the pipe must end when it does.
        drop(command);
        let pid = Pid::from_child(&child);
        Ok(Self {
            child,
            pid,
            library_fd,
            control,
            output: File::from(output),
            before,
            mark: environment.first().cloned(),
            ended: false,
        })
    }

    /// Number of the library's descriptor in the worker.
    pub(super) fn library_fd(&self) -> RawFd {
        self.library_fd
    }

    /// Sends the worker its order. If the worker has died, the dispatcher detects that.
    pub(super) fn order(&self, order: &WorkerInput) {
        let sent = order.send(&self.control);
        if sent.is_err() {
            // Without a complete order the worker would wait forever; now it reports that it got none.
            let _ = self.control.shutdown(Shutdown::Write);
        }
        // From now on the socket is only read, after the worker's death, and must not block.
        if let Err(error) = self.control.set_nonblocking(true).and(sent) {
            tracing::debug!(%error, "cannot send the order to the worker");
        }
    }

    /// The worker's pid.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the worker has ended. It is not reaped yet, so its pid is still its own.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match rustix::process::waitid(WaitId::Pid(self.pid), options) {
                Ok(status) => return Ok(status.is_some()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Returns whether the worker was stopped or continued since the last call.
    pub(super) fn stop_change(&self) -> Option<StopChange> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::Pid(self.pid), options).ok().flatten()?;
        status.stopping_signal().map(StopChange::Stopped).or_else(|| status.continued().then_some(StopChange::Continued))
    }

    /// The pids of the processes re-parented to us.
    pub(super) fn orphan_pids(&self) -> impl Iterator<Item = u32> {
        self.orphans().into_iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Sends a signal to the worker's group, and to the worker itself, which a job may have moved to another group. Both ids stay reserved
    /// until [`end`](Self::end) reaps the worker.
    pub(super) fn signal(&self, signal: Signal) {
        // Each call fails only if no process is left.
        let _ = rustix::process::kill_process_group(self.pid, signal);
        if rustix::process::getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid) {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Reaps ended processes that were re-parented to us while the worker runs, including those that the job did not start.
    pub(super) fn reap_orphans(&self) {
        for pid in self.adopted() {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }

    /// Call after [`has_ended`](Self::has_ended). Kills the group, reaps the worker, then kills and reaps all processes that became our
    /// children. On return no process of the job is left, unless the kernel holds on to it (or, if this process had children before the
    /// worker, it has emptied its environment). The last value returned is the number of remaining processes.
    pub(super) fn end(&mut self) -> io::Result<(Death, process::ProcessorTime, usize)> {
        self.signal(Signal::KILL);
        let time = Stat::of(self.child.id())
            .map(|stat| process::ProcessorTime {
                user_ms: process::ticks_to_ms(stat.user),
                system_ms: process::ticks_to_ms(stat.system),
            })
            .unwrap_or_default();
        let status = self.child.wait()?;
        self.ended = true;
        let left = self.end_orphans();
        let death = match (status.code(), status.signal()) {
            (Some(code), _) => Death::Exited(code),
            (None, Some(signal)) => Death::Killed { signal, core: status.core_dumped() },
            (None, None) => Death::Unknown,
        };
        Ok((death, time, left))
    }

    /// In each round, kills all current children before waiting for any; their own children then become ours. Returns how many are left.
    fn end_orphans(&self) -> usize {
        let begun = Instant::now();
        let mut deadline = begun + ORPHANS;
        loop {
            self.reap_orphans();
            let orphans = self.orphans();
            let now = Instant::now();
            if orphans.is_empty() || now > deadline || now > begun + ORPHANS_IN_ALL {
                return orphans.len();
            }
            for pid in &orphans {
                // No one else can reap it, so the pid is still the orphan's.
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            if let Ok(pidfd) = rustix::process::pidfd_open(orphans[0], PidfdFlags::empty()) {
                let _ = rustix::event::poll(
                    &mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)],
                    Some(&crate::host::clock::timespec(Duration::from_millis(50))),
                );
            }
            let reaped =
                orphans.iter().filter(|pid| matches!(rustix::process::waitpid(Some(**pid), WaitOptions::NOHANG), Ok(Some(_))));
            if reaped.count() > 0 {
                deadline = Instant::now() + ORPHANS;
            }
        }
    }

    /// The orphans of the job. If this process had no other children before the worker, every child is one. Otherwise a child may be
    /// theirs, and nothing that lorchestra did not start may be killed: only processes with the mark count.
    fn orphans(&self) -> Vec<Pid> {
        let alone = self.before.is_empty();
        let marked = |pid| self.mark.as_ref().is_some_and(|(name, value)| process::carries(pid, name, value));
        let of_run = |pid: &Pid| alone || marked(pid.as_raw_nonzero().get().unsigned_abs());
        self.adopted().filter(of_run).collect()
    }

    /// Our children, except the worker and those from before.
    fn adopted(&self) -> impl Iterator<Item = Pid> {
        process::children_of_main_thread().into_iter().filter(|pid| *pid != self.pid && !self.before.contains(pid))
    }

    /// Returns the message that a dead worker has left on the control socket.
    pub(super) fn last_words(&self) -> LastWords {
        let mut text = Vec::new();
        // The plugin can write here too: limit the size. The worst result is a failed run.
        let _ = (&self.control).take(64 << 10).read_to_end(&mut text);
        LastWords { fault: serde_json::from_slice(&text).ok(), timed_out: text == watchdog::TIMED_OUT }
    }
}
