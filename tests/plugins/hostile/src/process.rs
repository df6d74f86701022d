//! Jobs that turn against their process: forks, descriptors, signals, limits, and what happens after the end.

use super::mark;
use lorchestra_plugin_api::prelude::*;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, Signal};
use std::io::Write;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

unsafe extern "C" {
    fn _exit(code: i32) -> !;
    fn close(fd: RawFd) -> i32;
    fn fork() -> i32;
    fn setsid() -> i32;
    fn signal(number: i32, handler: usize) -> usize;
    fn syscall(number: i64, ...) -> i64;
}

const SYS_CLONE: i64 = if cfg!(target_arch = "x86_64") { 56 } else { 220 };
const SIGCHLD: i64 = 17;

const SIG_IGN: usize = 1;
const FOR_EVER: Duration = Duration::from_secs(3000);

/// Forks, with the C library or behind its back; both processes go on, emit, and return.
#[job]
pub(crate) fn fork_and_return(cx: &JobContext, marker: PathBuf, bare: bool) -> JobResult {
    cx.emit("before", json!({}))?;
    // SAFETY: none: the process has another thread. This is the fault.
    let child = if bare { unsafe { syscall(SYS_CLONE, SIGCHLD, 0, 0, 0, 0) } } else { unsafe { fork() }.into() };
    mark(&marker)?;
    let taken = (0..100).filter(|n| cx.emit("number", json!({"n": n})).is_ok()).count();
    if child == 0 {
        std::fs::write(marker.with_extension("copy"), taken.to_string())?;
    } else {
        // The copy gets as far as it can before the worker ends and takes its group with it.
        eventually(|| marker.with_extension("copy").exists());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Leaves a process in a session of its own that is gone before anybody has seen it, and has left another one like it.
#[job]
pub(crate) fn hydra(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    // SAFETY: none: the process has another thread. This is the fault.
    if unsafe { fork() } == 0 {
        // SAFETY: of a process that leads no group.
        unsafe { setsid() };
        loop {
            // SAFETY: as above.
            if unsafe { fork() } != 0 {
                // SAFETY: leaves without cleaning up, as what cleans up is the other process's.
                unsafe { _exit(0) };
            }
        }
    }
    Ok(())
}

/// Leaves eight hundred processes, each in a session of its own and with a child.
#[job]
pub(crate) fn swarm(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    for _ in 0..800 {
        // SAFETY: none: the process has another thread. This is the fault.
        if unsafe { fork() } == 0 {
            // SAFETY: of a process that leads no group; the other one as above.
            unsafe {
                setsid();
                fork();
            }
            loop {
                std::thread::sleep(FOR_EVER);
            }
        }
    }
    Ok(())
}

/// Shuts its control socket down, and goes on.
#[job]
pub(crate) fn shut_control(cx: &JobContext, marker: PathBuf) -> JobResult {
    let mut shut = 0;
    for number in 3..64 {
        // SAFETY: none: the descriptor is not ours. This is the fault.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        shut += usize::from(rustix::net::shutdown(socket, rustix::net::Shutdown::Both).is_ok());
    }
    mark(&marker)?;
    // Long enough for a watchdog to act on it.
    std::thread::sleep(Duration::from_millis(1500));
    cx.emit("after", json!({"shut": shut}))?;
    Ok(())
}

fn eventually(done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Becomes another program.
#[job]
pub(crate) fn exec(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    Err(std::process::Command::new("/bin/true").exec())?
}

/// Leaves the process from a thread.
#[job]
pub(crate) fn exit_in_thread(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    std::thread::spawn(|| std::process::exit(3));
    std::thread::sleep(FOR_EVER);
    Ok(())
}

/// Does not hear any signal that can be ignored.
#[job]
pub(crate) fn ignore_signals(_cx: &JobContext, marker: PathBuf) -> JobResult {
    for number in (1..32).filter(|n| ![9, 19].contains(n)) {
        // SAFETY: none: the handlers are not ours. This is the fault.
        unsafe { signal(number, SIG_IGN) };
    }
    mark(&marker)?;
    std::thread::sleep(FOR_EVER);
    Ok(())
}

/// Stops itself.
#[job]
pub(crate) fn stop_self(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)?;
    std::thread::sleep(FOR_EVER);
    Ok(())
}

/// Stops its supervisor; then stays for ever, returns (`return`), kills itself (`die`), or does it again and again (`again`).
#[job]
pub(crate) fn stop_supervisor(_cx: &JobContext, marker: PathBuf, #[param(default = "stay")] then: String) -> JobResult {
    let supervisor = rustix::process::getppid().ok_or("an orphan")?;
    rustix::process::kill_process(supervisor, Signal::STOP)?;
    let stat = format!("/proc/{}/stat", supervisor.as_raw_nonzero());
    eventually(|| std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
    mark(&marker)?;
    match &*then {
        "return" => return Ok(()),
        "die" => rustix::process::kill_process(rustix::process::getpid(), Signal::KILL)?,
        "again" => loop {
            rustix::process::kill_process(supervisor, Signal::STOP)?;
        },
        _ => std::thread::sleep(FOR_EVER),
    }
    Err("survived")?
}

/// Kills its process group.
#[job]
pub(crate) fn kill_group(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    rustix::process::kill_current_process_group(Signal::KILL)?;
    Err("survived")?
}

/// Allows itself no files, and emits.
#[job]
pub(crate) fn forbid_files(cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    rustix::process::setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) })?;
    cx.emit("after", json!({}))?;
    Ok(())
}

/// Closes every descriptor, and opens files of its own in their places; then goes on, or stays for ever.
#[job]
pub(crate) fn own_files(cx: &JobContext, marker: PathBuf, stay: bool) -> JobResult {
    cx.emit("before", json!({}))?;
    mark(&marker)?;
    for fd in 0..256 {
        // SAFETY: none: the descriptors are not ours. This is the fault.
        unsafe { close(fd) };
    }
    for n in 0..32 {
        let mut file = std::fs::File::create(marker.with_extension(n.to_string()))?;
        file.write_all(b"mine\n")?;
        // Open as long as the process lives.
        let _ = file.into_raw_fd();
    }
    if stay {
        std::fs::write(marker.with_extension("staying"), "")?;
        std::thread::sleep(FOR_EVER);
    }
    for n in 0..200 {
        let _ = cx.emit("after", json!({"n": n}));
    }
    Ok(())
}

/// Moves to `/`, lets everybody read and write what is made from now on, and goes on.
#[job]
pub(crate) fn wander(cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    std::env::set_current_dir("/")?;
    rustix::process::umask(Mode::empty());
    cx.emit("after", json!({}))?;
    cx.flush()?;
    lorchestra_plugin_api::tracing::info!("somewhere else");
    std::fs::write(cx.data_dir()?.join("left"), "")?;
    Ok(())
}

/// What is done when the process ends, after the final record.
struct AtEnd(fn());

impl Drop for AtEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    static ABORTS: AtEnd = const { AtEnd(|| std::process::abort()) };
    static LINGERS: AtEnd = const { AtEnd(|| std::thread::sleep(FOR_EVER)) };
}

/// Aborts when the job has returned and its end is written.
#[job]
pub(crate) fn abort_after_end(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    ABORTS.with(|_| Ok(()))
}

/// Does not let the process end when the job has returned.
#[job]
pub(crate) fn linger(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    LINGERS.with(|_| Ok(()))
}

/// The descriptor of the spool's open segment, and its path.
pub(crate) fn spool() -> std::io::Result<(OwnedFd, std::path::PathBuf)> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let is_segment = target.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        if is_segment && in_spool(&target) {
            let number = entry.file_name().to_string_lossy().parse().map_err(std::io::Error::other)?;
            // SAFETY: the number is of an open descriptor; it is not ours and only borrowed for the copy.
            let borrowed = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
            return Ok((borrowed.try_clone_to_owned()?, target));
        }
    }
    Err(std::io::Error::other("no descriptor of the spool was found"))
}

fn in_spool(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "spool")
}
