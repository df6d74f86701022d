//! One worker process: started with its order, watched, ended with everything it started.
//!
//! Only the main thread calls this. The worker makes itself the leader of a session of its own, without a terminal, as the first thing it does
//! ([`worker::main`]); its group has its pid then. Until that it is in the supervisor's group, and has no plugin code. What leaves the group is found again because
//! the supervisor is a subreaper: orphans become its children.

use crate::host::process::{self, Stat};
use crate::packages::library::Library;
use crate::run::decision::{Death, WorkerFault};
use crate::run::worker::{self, order::WorkerInput};
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

/// How long what re-parented to us is waited for after its SIGKILL, from the last one that went: only the kernel can make it longer.
const ORPHANS: Duration = Duration::from_secs(2);
/// How long in all: what forks faster than it is killed has no end.
const ORPHANS_IN_ALL: Duration = Duration::from_secs(30);

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pid: Pid,
    /// Our end of the control socket. Its closing tells the worker that we are gone.
    pub(super) control: UnixStream,
    /// Standard output and standard error of the worker, together.
    pub(super) output: File,
    /// Children this process had before, which a shell or a container's entry point left to it by `exec`: not the job's.
    before: Vec<Pid>,
    /// The environment variable by which what the job left behind is known.
    mark: Option<(&'static str, String)>,
    library_fd: RawFd,
    ended: bool,
}

/// A worker that is given up (its run could not be recorded) does not stay.
impl Drop for Worker {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.end()
        {
            tracing::debug!(%error, "a worker that was given up could not be ended");
        }
    }
}

/// What happened to a worker that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopChange {
    /// This signal stopped it.
    Stopped(i32),
    /// SIGCONT.
    Continued,
}

/// How a worker is started.
pub(super) struct Start<'a> {
    /// The executable that becomes the worker.
    pub(super) exe: &'a Path,
    /// Shown in process listings.
    pub(super) title: &'a str,
    /// Added to its environment.
    pub(super) environment: &'a [(&'static str, String)],
    /// Its working directory; `None`: that of this process.
    pub(super) directory: Option<&'a Path>,
}

impl Worker {
    /// Starts a worker that waits for its order. The first variable of the environment marks what belongs to it.
    pub(super) fn start(library: &Library, start: &Start<'_>) -> io::Result<Self> {
        let Start { exe, title, environment, directory } = *start;
        // Without it orphans would go to init and out of reach. It is not inherited by the worker.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let before = process::children();
        let (control, theirs) = UnixStream::pair()?;
        // One pipe for both streams: the order between them is kept.
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
        // Ours are the only copies that may stay open: the pipe ends when the worker's do.
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

    /// Sends the worker its order. Should it have died meanwhile, the dispatcher finds it dead.
    pub(super) fn order(&self, order: &WorkerInput) {
        let sent = order.send(&self.control);
        if sent.is_err() {
            // It would wait for ever for an order that could not be written; now it says that it got none.
            let _ = self.control.shutdown(Shutdown::Write);
        }
        // From here on it is only asked, once the worker is dead, whether there is something in it.
        if let Err(error) = self.control.set_nonblocking(true).and(sent) {
            tracing::debug!(%error, "the worker did not take its order");
        }
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the worker has ended; it is not reaped yet, so its pid still is its own.
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

    /// Whether the worker was stopped or continued since the last call.
    pub(super) fn stop_change(&self) -> Option<StopChange> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::Pid(self.pid), options).ok().flatten()?;
        status.stopping_signal().map(StopChange::Stopped).or_else(|| status.continued().then_some(StopChange::Continued))
    }

    /// The pids of what re-parented to us.
    pub(super) fn orphan_pids(&self) -> impl Iterator<Item = u32> {
        self.orphans().into_iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Sends a signal to all in the worker's group, and to the worker, which a job may have moved to another. Both ids stay
    /// reserved until [`end`](Self::end) reaps.
    pub(super) fn signal(&self, signal: Signal) {
        // Each fails only when nobody is left.
        let _ = rustix::process::kill_process_group(self.pid, signal);
        if rustix::process::getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid) {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Reaps what re-parented to us and has ended, whoever started it, while the worker goes on.
    pub(super) fn reap_orphans(&self) {
        for pid in self.adopted() {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }

    /// After [`has_ended`](Self::has_ended): kills the group, reaps the worker, then kills and reaps all that became our
    /// children. On return, nothing that the job started is left, unless the kernel holds on to it (or, beside children that were here
    /// before the worker, it had emptied its environment). How many are left, is the last of the answers.
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

    /// Each round kills the children there are, all of them before it waits for any; their own children then become ours. Answers with how
    /// many are left.
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
                // Not reaped by anyone but us, so the pid is still the orphan's.
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            if let Ok(pidfd) = rustix::process::pidfd_open(orphans[0], PidfdFlags::empty()) {
                let _ = rustix::event::poll(
                    &mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)],
                    Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 }),
                );
            }
            let reaped =
                orphans.iter().filter(|pid| matches!(rustix::process::waitpid(Some(**pid), WaitOptions::NOHANG), Ok(Some(_))));
            if reaped.count() > 0 {
                deadline = Instant::now() + ORPHANS;
            }
        }
    }

    /// What the job left to us. Without children before the worker, all that became our child is the job's: nobody else has
    /// descendants whose parent we could become. With such children it may be theirs as well, and nothing that lorchestra did not start is killed:
    /// only what carries the mark counts then.
    fn orphans(&self) -> Vec<Pid> {
        let alone = self.before.is_empty();
        let marked = |pid| self.mark.as_ref().is_some_and(|(name, value)| process::carries(pid, name, value));
        let of_run = |pid: &Pid| alone || marked(pid.as_raw_nonzero().get().unsigned_abs());
        self.adopted().filter(of_run).collect()
    }

    /// Our children but for the worker and those from before.
    fn adopted(&self) -> impl Iterator<Item = Pid> {
        process::children().into_iter().filter(|pid| *pid != self.pid && !self.before.contains(pid))
    }

    /// What the worker said on the control socket: a trouble from before it had a spool.
    pub(super) fn fault(&self) -> Option<WorkerFault> {
        let mut text = Vec::new();
        // The plugin could write here too: a limit, and nothing but a failure can come of it.
        let _ = (&self.control).take(64 << 10).read_to_end(&mut text);
        serde_json::from_slice(&text).ok()
    }
}
