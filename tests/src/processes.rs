//! Information about processes from /proc.

use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The state of a process; `None` if it is gone.
fn stat(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether the process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The id of a state directory in the environment of its runs' processes: device and inode.
///
/// # Panics
/// If it does not exist.
pub fn state_id(state: &Path) -> String {
    let meta = fs::metadata(state).expect("the state directory");
    format!("{:x}.{:x}", meta.dev(), meta.ino())
}

/// Whether the process does not handle a signal: it ignores it, or dies of it.
pub fn ignores_or_dies_of(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    caught.unwrap_or(0) >> (signal.as_raw() - 1) & 1 == 0
}

/// Lets processes started from now on receive SIGINT, even if this process was started with it ignored, as shells do for background jobs:
/// an ignored signal is inherited, a handled one is not.
pub(crate) fn hear_interrupts() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
        if ignored.unwrap_or(0) >> (Signal::INT.as_raw() - 1) & 1 == 1 {
            signal_hook::flag::register(Signal::INT.as_raw(), Arc::new(AtomicBool::new(false))).expect("a handler of SIGINT");
        }
    });
}

/// Whether the process is stopped.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid) == Some('T')
}

/// The children of all threads of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Limits the size of files that the process may write from now on (`ulimit -f`).
pub fn limit_files(pid: u32, bytes: u64) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).expect("a limit can be lowered");
}

/// Whether this is the first argument of the process's command line.
pub fn is_named(pid: u32, name: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).next() == Some(name.as_bytes()))
}

/// Processes with this entry in their environment, except zombies.
pub fn carrying(entry: &str) -> Vec<u32> {
    let carries = |pid: &u32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == entry.as_bytes()))
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_alive(*pid)).filter(carries).collect()
}

/// Sends SIGKILL. Succeeds if the process is gone.
pub fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends a signal. Succeeds if the process is gone.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Whether this is root, to whom permissions do not apply.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
