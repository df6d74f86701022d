//! Reads what the kernel knows about processes from /proc: an identity that outlives a pid, children, processor time. Sends signals only to
//! processes that it has identified.

use crate::host::clock::timespec;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Maximum number of searches for leftover processes.
const ROUNDS: u32 = 10;
/// How long to wait, in each round, for killed processes to disappear.
const GONE: Duration = Duration::from_millis(500);

/// Reads a file of /proc. Their sizes are reported as 0, for which [`fs::read_to_string`] begins with reads of a few bytes.
pub(crate) fn kernel_text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(8 << 10);
    fs::File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Identifies a process even after its pid is reused: by the boot and its start time.
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

    /// Opens a descriptor of the process if it is still the recorded one; `None` if it is gone.
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
        // Checked after the descriptor was opened, so the descriptor refers to the process that was checked.
        match Stat::of(self.pid) {
            Ok(stat) if stat.start == self.start && stat.state != 'Z' => Ok(Some(fd)),
            _ => Ok(None),
        }
    }

    /// Resumes the process if a signal has stopped it, and returns whether it had. Does not touch a process that is being traced by a
    /// debugger.
    pub fn resume_if_stopped(&self) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        if Stat::of(self.pid)?.state != 'T' {
            return Ok(false);
        }
        rustix::process::pidfd_send_signal(pidfd, Signal::CONT)?;
        Ok(true)
    }
}

/// Whether a process is stopped (SIGSTOP, Ctrl-Z, a debugger); `None` if it does not have this file open, or cannot be examined.
pub(crate) fn is_stopped(pid: u32, open: &Path) -> Option<bool> {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let file = id(open).ok()?;
    let mut files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let state = Stat::of(pid).ok()?.state;
    files.any(|entry| id(&entry.path()).is_ok_and(|opened| opened == file)).then_some(matches!(state, 'T' | 't'))
}

/// Fields of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// `R`, `S`, `T`, `Z`, ….
    pub state: char,
    /// Its parent; 0 if it has none, or none in this PID namespace.
    pub parent: u32,
    /// Processor time in user mode of the process and the children it waited for, in clock ticks.
    pub user: u64,
    /// The same in kernel mode.
    pub system: u64,
    /// Start time, in clock ticks since boot.
    pub start: u64,
    /// The signal that stopped it, if the kernel (5.17 or newer) reports it and no one has waited for the stop.
    pub stop_signal: Option<i32>,
}

impl Stat {
    /// Reads the fields of a process. Works for a zombie too.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = kernel_text(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat cannot be read")))
    }

    fn parse(text: &str) -> Option<Self> {
        // The command name is in parentheses and may contain anything, including parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(1)?).ok()?,
            user: number(11)? + number(13)?,
            system: number(12)? + number(14)?,
            start: number(19)?,
            // Encoded as for wait(2). For a process that has exited it is the exit code.
            stop_signal: number(49).filter(|code| (1..=64).contains(code)).and_then(|code| i32::try_from(code).ok()),
        })
    }
}

/// Converts clock ticks to milliseconds: the kernel's interface has 100 ticks per second on every Linux that Rust supports.
pub fn ticks_to_ms(ticks: u64) -> u64 {
    ticks * 10
}

/// The children of this process's main thread: those it started there, and those that the process adopted as a subreaper, which the kernel
/// gives to its first thread. Children of other threads (for example, a program that prints credentials) are not included.
pub fn children_of_main_thread() -> Vec<Pid> {
    // Not by pid: /proc may belong to another PID namespace.
    let Ok(main) = fs::read_link("/proc/self") else { return Vec::new() };
    let text = kernel_text(Path::new("/proc/self/task").join(main).join("children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// The children of all threads of a process; empty if they cannot be read.
pub fn children_of(pid: u32) -> Vec<u32> {
    children_in(&pid.to_string())
}

/// Memory in use by a process and its descendants, in KiB; `None` if the process no longer exists. Pages that several of them share count
/// several times.
pub fn tree_rss_kib(pid: u32) -> Option<u64> {
    let rss = |pid: u32| -> Option<u64> {
        let status = kernel_text(format!("/proc/{pid}/status")).ok()?;
        // A process that has ended and was not waited for has no such line.
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let mut sum = rss(pid)?;
    let mut open = children_of(pid);
    // Processes may end and start during the walk: a limit, so that it ends.
    for _ in 0..10_000 {
        let Some(next) = open.pop() else { break };
        sum += rss(next).unwrap_or(0);
        open.extend(children_of(next));
    }
    Some(sum)
}

fn children_in(process: &str) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| kernel_text(task.ok()?.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Environment variable that marks the processes of a run: the run's id.
pub(crate) const RUN: &str = "LORCHESTRA_RUN_ID";
/// Environment variable that marks the processes of a run: the id of its state directory. A copy of that directory has the same run ids,
/// and must not kill the processes of the original.
pub(crate) const STATE: &str = "LORCHESTRA_STATE_ID";
/// Environment variable that marks the processes of a library's trial: the id of its supervisor ([`trial_mark`]).
pub(crate) const TRIAL: &str = "LORCHESTRA_TRIAL";

/// Whether a process has a variable with that value in its environment; false if it cannot be read.
pub(crate) fn carries(pid: u32, name: &str, value: &str) -> bool {
    variable_of(pid, name).is_some_and(|found| found == value)
}

fn variable_of(pid: u32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    // The first one counts, as for getenv.
    let mut entries = environment.split(|byte| *byte == 0);
    let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(std::str::from_utf8(value).ok()?.to_owned())
}

/// Returns the processes of this user that a run of this state directory has started, directly or not, except this one: pid, name and run id.
pub(crate) fn of_state(state_id: &str) -> Vec<(u32, String, String)> {
    let found = own_pids(&|pid| carries(pid, STATE, state_id));
    found.into_iter().filter_map(|pid| Some((pid, name_of(pid)?, variable_of(pid, RUN)?))).collect()
}

/// The name of a process, as the kernel has it: at most 15 bytes, and any.
fn name_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

/// The value of [`TRIAL`] for processes that this process starts: its pid and its start time.
pub(crate) fn trial_mark() -> io::Result<String> {
    let pid = std::process::id();
    Ok(format!("{pid}.{}", Stat::of(pid)?.start))
}

/// Kills the processes that a trial left because its supervisor was killed. A trial has no run and no directory by which it could be found,
/// and its worker may be stopped. Considers only processes of this user in this PID namespace: in another one the supervisor has another
/// pid.
pub(crate) fn kill_trial_leftovers() -> usize {
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

/// Returns a test for the signals that a process ignores now; always false if they cannot be read.
pub fn ignored_by(pid: u32) -> impl Fn(i32) -> bool {
    ignored(&kernel_text(format!("/proc/{pid}/status")).unwrap_or_default())
}

fn ignored(status: &str) -> impl Fn(i32) -> bool + use<> {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let mask = mask.unwrap_or(0);
    // Bit 0 is signal 1.
    move |signal| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

/// Kills what runs left behind when their supervisor died: the processes of this user whose environment has `LORCHESTRA_RUN_ID` with one of
/// these ids and `LORCHESTRA_STATE_ID` with the id of this state directory, in any group or session. Searches again until it finds none,
/// since a process may fork before it is killed, and waits briefly for them to disappear. Returns how many there were. Never kills this
/// process, even if such a run started it.
pub fn kill_leftovers(state_id: &str, run_ids: &HashSet<&str>) -> usize {
    kill_leftovers_except(state_id, run_ids, &[])
}

/// Like [`kill_leftovers`], without these processes.
pub(crate) fn kill_leftovers_except(state_id: &str, run_ids: &HashSet<&str>, spared: &[u32]) -> usize {
    let is_of_run = |pid| variable_of(pid, RUN).is_some_and(|id| run_ids.contains(id.as_str()));
    kill_all(&|pid| !spared.contains(&pid) && carries(pid, STATE, state_id) && is_of_run(pid))
}

/// Returns the parents of this process, from its own up.
pub(crate) fn ancestors() -> Vec<u32> {
    let mut found = Vec::new();
    let mut pid = std::process::id();
    while let Ok(stat) = Stat::of(pid)
        && stat.parent > 1
        && !found.contains(&stat.parent)
    {
        pid = stat.parent;
        found.push(pid);
    }
    found
}

/// Returns the number of processes that are gone. One that sleeps uninterruptibly is found and killed in every round, and may outlive them.
fn kill_all(remains: &dyn Fn(u32) -> bool) -> usize {
    let mut killed: BTreeMap<u32, OwnedFd> = BTreeMap::new();
    let is_gone = |pidfd: &OwnedFd, until: Instant| {
        let left = timespec(until.saturating_duration_since(Instant::now()));
        matches!(rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)), Ok(1..))
    };
    for _ in 0..ROUNDS {
        let found = own_processes(remains);
        if found.is_empty() {
            break;
        }
        let until = Instant::now() + GONE;
        for (pid, pidfd) in found.into_iter().filter(|(_, pidfd)| kill(pidfd).is_ok()) {
            killed.insert(pid, pidfd);
        }
        for pidfd in killed.values() {
            is_gone(pidfd, until);
        }
    }
    killed.values().filter(|pidfd| is_gone(pidfd, Instant::now())).count()
}

/// Returns the pids and descriptors of this user's processes, except this one, that match the predicate.
fn own_processes(remains: &dyn Fn(u32) -> bool) -> Vec<(u32, OwnedFd)> {
    let found = own_pids(remains).into_iter().filter_map(|pid| {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // Checked again with the descriptor open: the pid may have been reused.
        (is_users(pid) && remains(pid)).then_some((pid, pidfd))
    });
    found.collect()
}

/// Returns the pids of this user's processes, except this one, that match the predicate.
fn own_pids(matches: &dyn Fn(u32) -> bool) -> Vec<u32> {
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && is_users(*pid) && matches(*pid)).collect()
}

/// Whether a process belongs to this user. Root can read the environments of other users' processes, but must not touch those.
fn is_users(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw())
}

/// Returns a duplicate of a descriptor that this process was started with, with the same position. Fails for one that is not open, or that
/// this process has opened itself, which the next exec would close.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // O_CLOEXEC, in octal digits.
    const CLOSED_BY_EXEC: u64 = 0o200_0000;
    let info = kernel_text(format!("/proc/self/fdinfo/{number}")).map_err(|_| rustix::io::Errno::BADF)?;
    let flags = info.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    if flags.is_none_or(|flags| flags & CLOSED_BY_EXEC != 0) {
        return Err(rustix::io::Errno::BADF.into());
    }
    match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        2 => io::stderr().as_fd().try_clone_to_owned(),
        // The safe way to duplicate a descriptor of which only the number is known.
        _ => {
            let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
            Ok(rustix::process::pidfd_getfd(own, number, rustix::process::PidfdGetfdFlags::empty())?)
        }
    }
}

/// Peak memory of this process in KiB.
pub fn max_rss_kib() -> Option<u64> {
    let status = kernel_text("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// Sends SIGKILL through a pid descriptor, which never refers to another process that reuses the pid.
pub fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Returns the name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the id of this boot of the host.
pub fn boot_id() -> io::Result<String> {
    Ok(kernel_text("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
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

    /// What another thread started is its own (a program that prints credentials); an orphan goes to the main thread.
    #[test]
    fn orphans_are_distinguished_from_children_of_other_threads() {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let mut own = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let output = std::process::Command::new("sh").args(["-c", "sleep 20 >/dev/null & echo $!"]).output().unwrap();
        let orphan: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let found = children_of_main_thread();
        let pid = |raw: i32| Pid::from_raw(raw).unwrap();
        assert!(found.contains(&pid(orphan)), "{found:?} has the orphan {orphan}");
        assert!(!found.contains(&pid(own.id().cast_signed())), "{found:?} has the child of this thread");
        for pid in [pid(orphan), pid(own.id().cast_signed())] {
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
        own.wait().unwrap();
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 12345 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.user, stat.system, stat.start), ('S', 57, 68, 12345));
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        let ignores = ignored(status);
        let found: Vec<i32> = (-1..=65).filter(|signal| ignores(*signal)).collect();
        assert_eq!(found, [1, 13]);
        assert!(!ignored("Name:\tx\n")(1));
        assert!(ignored_by(std::process::id())(13), "Rust programs ignore SIGPIPE");
    }

    #[test]
    fn memory_of_a_process_tree_is_the_sum_of_its_processes() {
        use std::io::BufRead as _;
        use std::os::unix::process::CommandExt as _;
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; sleep 60 & sleep 60 & sleep 60 & wait"])
            .process_group(0)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let first: u32 = line.trim().parse().unwrap();
        // The shell and four equal processes.
        let is_sum = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            tree_rss_kib(shell.id()).zip(tree_rss_kib(first)).is_some_and(|(whole, part)| part > 0 && whole >= 3 * part)
        });
        rustix::process::kill_process_group(rustix::process::Pid::from_child(&shell), rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert!(is_sum);
        assert_eq!(tree_rss_kib(shell.id()), None);
    }

    #[test]
    fn peak_memory_is_known() {
        assert!(max_rss_kib().unwrap() > 100);
    }
}

/// Processor time of a worker and of the children it waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessorTime {
    pub(crate) user_ms: u64,
    pub(crate) system_ms: u64,
}
