//! Jobs that attack their process: forks, descriptors, signals, limits, and actions after the end of the job.

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

/// Forks, with the C library or with a raw system call. Both processes emit and return.
#[job]
pub(crate) fn fork_and_return(cx: &JobContext, marker: PathBuf, bare: bool) -> JobResult {
    cx.emit("before", json!({}))?;
    // SAFETY: none: the process has another thread. This is the intended fault.
    let child = if bare { unsafe { syscall(SYS_CLONE, SIGCHLD, 0, 0, 0, 0) } } else { unsafe { fork() }.into() };
    mark(&marker)?;
    let taken = (0..100).filter(|n| cx.emit("number", json!({"n": n})).is_ok()).count();
    if child == 0 {
        std::fs::write(marker.with_extension("copy"), taken.to_string())?;
    } else {
        // Gives the child time before the worker ends and its process group is killed.
        eventually(|| marker.with_extension("copy").exists());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Leaves a process in a session of its own that keeps forking a successor and exiting, so that a scan rarely sees it.
#[job]
pub(crate) fn hydra(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    // SAFETY: none: the process has another thread. This is the intended fault.
    if unsafe { fork() } == 0 {
        // SAFETY: the process is not a group leader.
        unsafe { setsid() };
        loop {
            // SAFETY: as above.
            if unsafe { fork() } != 0 {
                // SAFETY: exits without cleanup, which belongs to the parent.
                unsafe { _exit(0) };
            }
        }
    }
    Ok(())
}

/// Leaves 800 processes, each in its own session and with a child.
#[job]
pub(crate) fn swarm(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    for _ in 0..800 {
        // SAFETY: none: the process has another thread. This is the intended fault.
        if unsafe { fork() } == 0 {
            // SAFETY: the process is not a group leader; the fork is as above.
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

/// Shuts down its control socket and continues.
#[job]
pub(crate) fn shut_control(cx: &JobContext, marker: PathBuf) -> JobResult {
    let mut shut = 0;
    for number in 3..64 {
        // SAFETY: none: the descriptor is not ours. This is the intended fault.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        shut += usize::from(rustix::net::shutdown(socket, rustix::net::Shutdown::Both).is_ok());
    }
    mark(&marker)?;
    // Long enough for a watchdog to react.
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

/// Replaces itself with another program (exec).
#[job]
pub(crate) fn exec(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    Err(std::process::Command::new("/bin/true").exec())?
}

/// Exits the process from another thread.
#[job]
pub(crate) fn exit_in_thread(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    std::thread::spawn(|| std::process::exit(3));
    std::thread::sleep(FOR_EVER);
    Ok(())
}

/// Ignores every signal that can be ignored.
#[job]
pub(crate) fn ignore_signals(_cx: &JobContext, marker: PathBuf) -> JobResult {
    for number in (1..32).filter(|n| ![9, 19].contains(n)) {
        // SAFETY: none: the handlers are not ours. This is the intended fault.
        unsafe { signal(number, SIG_IGN) };
    }
    mark(&marker)?;
    std::thread::sleep(FOR_EVER);
    Ok(())
}

/// Stops itself with SIGSTOP.
#[job]
pub(crate) fn stop_self(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)?;
    std::thread::sleep(FOR_EVER);
    Ok(())
}

/// Stops its supervisor, then hangs, returns (`return`), kills itself (`die`), or keeps stopping it (`again`).
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

/// Sets its limit of open files to 0, and emits.
#[job]
pub(crate) fn forbid_files(cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    rustix::process::setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) })?;
    cx.emit("after", json!({}))?;
    Ok(())
}

/// Closes every descriptor and opens other files with the same numbers, then continues or hangs.
#[job]
pub(crate) fn own_files(cx: &JobContext, marker: PathBuf, stay: bool) -> JobResult {
    cx.emit("before", json!({}))?;
    mark(&marker)?;
    for fd in 0..256 {
        // SAFETY: none: the descriptors are not ours. This is the intended fault.
        unsafe { close(fd) };
    }
    for n in 0..32 {
        let mut file = std::fs::File::create(marker.with_extension(n.to_string()))?;
        file.write_all(b"mine\n")?;
        // Keep open until the process ends.
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

/// Changes to `/`, sets the umask to 0, and continues.
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

/// What to do at process exit, after the final record.
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

/// Aborts after the job has returned and the final record is written.
#[job]
pub(crate) fn abort_after_end(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    ABORTS.with(|_| Ok(()))
}

/// Keeps the process alive after the job has returned.
#[job]
pub(crate) fn linger(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    LINGERS.with(|_| Ok(()))
}

/// Returns the descriptor and the path of the spool's open segment.
pub(crate) fn spool() -> std::io::Result<(OwnedFd, std::path::PathBuf)> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let is_segment = target.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        if is_segment && in_spool(&target) {
            let number = entry.file_name().to_string_lossy().parse().map_err(std::io::Error::other)?;
            // SAFETY: the descriptor is open; it is not owned here, and only borrowed to duplicate it.
            let borrowed = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
            return Ok((borrowed.try_clone_to_owned()?, target));
        }
    }
    Err(std::io::Error::other("no descriptor of the spool was found"))
}

fn in_spool(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "spool")
}
