//! A library with a constructor that runs at dlopen. It appends the process id to the file `CONSTRUCTOR_MARKER`, then causes the
//! fault in `CONSTRUCTOR_FAULT`.
#![expect(unsafe_code, reason = "a constructor, and faults that safe code cannot make")]
#![expect(clippy::disallowed_methods, reason = "a constructor has no other way to receive parameters")]

use lorchestra_plugin_api::prelude::*;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::time::Duration;

plugin! { package = "constructor", jobs = [loaded] }

/// Does nothing; running it shows that the library was loaded.
#[job]
fn loaded(cx: &JobContext) -> JobResult {
    cx.emit("loaded", json!({"pid": std::process::id()}))?;
    Ok(())
}

unsafe extern "C" {
    fn _exit(code: i32) -> !;
    fn close(fd: i32) -> i32;
    fn fork() -> i32;
    fn setsid() -> i32;
    fn signal(number: i32, handler: usize) -> usize;
    fn syscall(number: i64, ...) -> i64;
}

const SYS_CLONE: i64 = if cfg!(target_arch = "x86_64") { 56 } else { 220 };
const SIGCHLD: i64 = 17;

const FOR_EVER: Duration = Duration::from_secs(3000);

#[used]
// SAFETY: the loader calls the functions in this section; they do not read its arguments.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    mark();
    match std::env::var("CONSTRUCTOR_FAULT").as_deref() {
        Ok("abort") => std::process::abort(),
        // SAFETY: none. This is the intended fault.
        Ok("null") => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        Ok("exit") => std::process::exit(0),
        // SAFETY: exits without cleanup, which is the intended fault.
        Ok("leave") => unsafe { _exit(0) },
        Ok("panic") => panic!("nothing catches a panic in a constructor"),
        Ok("overflow") => {
            std::hint::black_box(deeper(0));
        }
        Ok("sleep") => std::thread::sleep(FOR_EVER),
        Ok("deaf") => {
            for number in [1, 2, 15] {
                // SAFETY: none: the handlers are not ours. This is the intended fault.
                unsafe { signal(number, 1) };
            }
            std::thread::sleep(FOR_EVER);
        }
        // SAFETY: none: the process has another thread. This is the intended fault. The child sleeps and keeps the inherited descriptors.
        Ok("fork") => match unsafe { fork() } {
            0 => {
                mark();
                std::thread::sleep(FOR_EVER);
            }
            _ => wait_for_copy(),
        },
        // SAFETY: as above. Both sleep.
        Ok("pair") => match unsafe { fork() } {
            0 => {
                mark();
                std::thread::sleep(FOR_EVER);
            }
            _ => std::thread::sleep(FOR_EVER),
        },
        // SAFETY: as above. Both processes continue as the worker.
        Ok("double") => match unsafe { fork() } {
            0 => mark(),
            _ => wait_for_copy(),
        },
        // SAFETY: as above. The child continues as the worker, while the worker sleeps.
        Ok("instead") => match unsafe { fork() } {
            0 => mark(),
            _ => std::thread::sleep(FOR_EVER),
        },
        // SAFETY: as above, and the raw system call skips the C library's fork handlers.
        Ok("clone") => match unsafe { syscall(SYS_CLONE, SIGCHLD, 0, 0, 0, 0) } {
            0 => mark(),
            _ => std::thread::sleep(FOR_EVER),
        },
        // SAFETY: as above. The child leaves the process group and keeps the inherited descriptors.
        Ok("daemon") => match unsafe { fork() } {
            0 => {
                // SAFETY: the process is not a group leader.
                unsafe { setsid() };
                mark();
                std::thread::sleep(FOR_EVER);
            }
            _ => wait_for_copy(),
        },
        Ok("exec") => drop(std::process::Command::new("/bin/true").exec()),
        Ok("close") => {
            // Except the library's own descriptor, which the loader closes: a build with debug assertions aborts if that fails.
            let is_library = |fd: &i32| {
                std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|path| path.to_string_lossy().contains("memfd"))
            };
            for fd in (0..256).filter(|fd| !is_library(fd)) {
                // SAFETY: none: the descriptors are not ours. This is the intended fault.
                unsafe { close(fd) };
            }
        }
        Ok("flood") => {
            let line = "a constructor that has much to say\n".repeat(30_000);
            for _ in 0..16 {
                let _ = std::io::stdout().write_all(line.as_bytes());
            }
        }
        Ok("thread") => drop(std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        })),
        _ => {}
    }
}

fn mark() {
    if let Some(path) = std::env::var_os("CONSTRUCTOR_MARKER")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        // A single write, because a forked child writes at the same time.
        let _ = file.write_all(format!("{}\n", std::process::id()).as_bytes());
    }
}

/// Waits until the other process has written its marker.
fn wait_for_copy() {
    let Some(path) = std::env::var_os("CONSTRUCTOR_MARKER") else { return };
    for _ in 0..2000 {
        if std::fs::read_to_string(&path).unwrap_or_default().lines().count() == 2 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn deeper(n: u64) -> u64 {
    let block = std::hint::black_box([n; 512]);
    if n == u64::MAX { 0 } else { deeper(n + 1) + block[7] }
}
