//! What the kernel knows of processes, read from /proc: identity beyond a pid, children, processor time. Reads, and signals what
//! it has identified.

use crate::host::clock::timespec;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Looks for what runs left behind, at most.
const ROUNDS: u32 = 10;
/// How long what was killed is waited for, in each of them.
const GONE: Duration = Duration::from_millis(500);

/// A process beyond its pid, which is given to another one day: the boot and the moment of its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// The kernel's id of this boot.
    pub boot_id: String,
}

impl Identity {
    /// This process.
    pub fn own() -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, start: Stat::of(pid)?.start, boot_id: boot_id()? })
    }

    /// A descriptor of the process if it still is the one that was recorded; `None` when it is gone.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // Looked at after the descriptor was opened: it is this process that the descriptor names.
        match Stat::of(self.pid) {
            Ok(stat) if stat.start == self.start && stat.state != 'Z' => Ok(Some(fd)),
            _ => Ok(None),
        }
    }

    /// Lets the process go on if a signal has stopped it; whether it had. One that a debugger holds is left alone.
    pub fn resume_if_stopped(&self) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        if Stat::of(self.pid)?.state != 'T' {
            return Ok(false);
        }
        rustix::process::pidfd_send_signal(pidfd, Signal::CONT)?;
        Ok(true)
    }
}

/// Fields of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// `R`, `S`, `T`, `Z`, ….
    pub state: char,
    /// Processor time in user mode, of it and its waited-for children, in clock ticks.
    pub user: u64,
    /// The same in the kernel.
    pub system: u64,
    /// Start, in clock ticks since boot.
    pub start: u64,
    /// The signal that has stopped it, where the kernel (5.17 or newer) says so and nobody has waited for the stop.
    pub stop_signal: Option<i32>,
}

impl Stat {
    /// Of a process. Works for one that has ended and was not waited for yet.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat cannot be read")))
    }

    fn parse(text: &str) -> Option<Self> {
        // The command's name is in parentheses and may hold anything, also parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            user: number(11)? + number(13)?,
            system: number(12)? + number(14)?,
            start: number(19)?,
            // As for wait(2). Of a process that has ended it is the exit code.
            stop_signal: number(49).filter(|code| (1..=64).contains(code)).and_then(|code| i32::try_from(code).ok()),
        })
    }
}

/// Clock ticks as milliseconds: the kernel's interface has 100 a second on every Linux that Rust supports.
pub fn ticks_to_ms(ticks: u64) -> u64 {
    ticks * 10
}

/// The children of this process, also those that became its children as a subreaper.
pub fn children() -> Vec<Pid> {
    // Not by its pid: /proc may be that of another PID namespace.
    children_in("self").into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
}

/// The children of a process, of all its threads; none, where that cannot be read.
pub fn children_of(pid: u32) -> Vec<u32> {
    children_in(&pid.to_string())
}

fn children_in(process: &str) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The environment variable of what belongs to a run: the run's id.
pub(crate) const RUN: &str = "LORCHESTRA_RUN_ID";
/// The environment variable of what belongs to a run: the state directory that has the run. A copy of that directory has runs of the same ids,
/// and must not end those of the original.
pub(crate) const STATE: &str = "LORCHESTRA_STATE_ID";
/// The environment variable of what belongs to a library's trial: who supervises it ([`trial_mark`]).
pub(crate) const TRIAL: &str = "LORCHESTRA_TRIAL";

/// Whether a process carries a variable with that value in its environment. Not, where that cannot be read.
pub(crate) fn carries(pid: u32, name: &str, value: &str) -> bool {
    variable_of(pid, name).is_some_and(|found| found == value)
}

fn variable_of(pid: u32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    // The first counts, as for getenv.
    let mut entries = environment.split(|byte| *byte == 0);
    let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(std::str::from_utf8(value).ok()?.to_owned())
}

/// The value of [`TRIAL`] for what this process starts: its pid and its start.
pub(crate) fn trial_mark() -> io::Result<String> {
    let pid = std::process::id();
    Ok(format!("{pid}.{}", Stat::of(pid)?.start))
}

/// Kills what trials left behind whose supervisor was killed: a trial has no run and no directory by which it could be found, and its
/// worker may be stopped. Only processes of this user in this pid namespace: in another one the supervisor has another pid.
pub(crate) fn kill_remains_of_trials() -> usize {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace("self");
    kill_all(&|pid| {
        let Some(mark) = variable_of(pid, TRIAL) else { return false };
        let Some((supervisor, start)) = mark.split_once('.') else { return false };
        let (Ok(supervisor), Ok(start)) = (supervisor.parse::<u32>(), start.parse::<u64>()) else { return false };
        let lives = Stat::of(supervisor).is_ok_and(|stat| stat.start == start && stat.state != 'Z');
        !lives && own.is_some() && namespace(&pid.to_string()) == own
    })
}

/// Tells which signals a process ignores now; none, where that cannot be read.
pub fn ignored_by(pid: u32) -> impl Fn(i32) -> bool {
    ignored(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
}

fn ignored(status: &str) -> impl Fn(i32) -> bool + use<> {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let mask = mask.unwrap_or(0);
    // The first bit is signal 1.
    move |signal| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

/// Kills the processes of this user that carry `LORCHESTRA_RUN_ID` with one of these ids, and `LORCHESTRA_STATE_ID` with the id of this state
/// directory, in their environment, whatever group or session they are in: what runs left behind when nobody was alive to end it. Looks again until it finds none, since what it
/// kills may have forked meanwhile, and waits a moment for them to be gone. Answers with how many there were. This process is
/// none of them, even when it was started by such a run.
pub fn kill_remains_of(state_id: &str, run_ids: &HashSet<&str>) -> usize {
    kill_all(&|pid| carries(pid, STATE, state_id) && variable_of(pid, RUN).is_some_and(|id| run_ids.contains(id.as_str())))
}

fn kill_all(remains: &dyn Fn(u32) -> bool) -> usize {
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let found = all_that(remains);
        if found.is_empty() {
            break;
        }
        killed += found.iter().filter(|pidfd| kill(pidfd).is_ok()).count();
        let until = Instant::now() + GONE;
        for pidfd in &found {
            let left = until.saturating_duration_since(Instant::now());
            let left = timespec(left);
            let _ = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left));
        }
    }
    killed
}

/// Processes of this user, but for this one, of which that holds.
fn all_that(remains: &dyn Fn(u32) -> bool) -> Vec<OwnedFd> {
    let own = std::process::id();
    let user = rustix::process::geteuid().as_raw();
    // Root can read environments of others, and leaves them alone all the same.
    let belongs = |pid: u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == user) && remains(pid);
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && belongs(*pid))
        .filter_map(|pid| {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
            let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).ok()?;
            // Asked again with the descriptor in hand: the pid may have been given to another meanwhile.
            belongs(pid).then_some(pidfd)
        })
        .collect()
}

/// Peak memory of this process in KiB.
pub fn max_rss_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// Sends SIGKILL through a descriptor: never to another process that got the pid meanwhile.
pub fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself_and_no_other() {
        let own = Identity::own().unwrap();
        assert!(own.open().unwrap().is_some());
        assert!(Identity { start: own.start + 1, ..own.clone() }.open().unwrap().is_none(), "same pid, another start");
        assert!(Identity { boot_id: "another".into(), ..own }.open().unwrap().is_none(), "another boot");
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 12345 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.user, stat.system, stat.start), ('S', 57, 68, 12345));
    }

    #[test]
    fn ignored_signals_are_told_by_their_bits() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        let ignores = ignored(status);
        let found: Vec<i32> = (-1..=65).filter(|signal| ignores(*signal)).collect();
        assert_eq!(found, [1, 13]);
        assert!(!ignored("Name:\tx\n")(1));
        assert!(ignored_by(std::process::id())(13), "Rust programs ignore SIGPIPE");
    }

    #[test]
    fn peak_memory_is_known() {
        assert!(max_rss_kib().unwrap() > 100);
    }
}

/// Processor time of a worker and what it waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessorTime {
    pub(crate) user_ms: u64,
    pub(crate) system_ms: u64,
}
