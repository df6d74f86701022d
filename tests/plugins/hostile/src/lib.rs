//! Jobs that attack the process that runs them, while those of `misbehave` only end badly. Each writes its process id to `marker` just
//! before its fault, so that a test can check that the fault caused the outcome.
//!
//! - here: panics, loops, floods, and error messages
//! - `process.rs`: forks, descriptors, signals, limits
//! - `events.rs`: invalid events, and tampering with the spool
#![expect(unsafe_code, reason = "faults that safe code cannot make")]
#![expect(clippy::disallowed_methods, reason = "leaving the process is what some of these jobs are for")]

mod events;
mod process;

use events::{
    cut_spool, emit_raw, emit_sized, flood_spool, forge, obstruct, obstruct_next, obstruct_recovery, remove_spool, scribble,
};
use lorchestra_plugin_api::prelude::*;
use process::{
    abort_after_end, exec, exit_in_thread, forbid_files, fork_and_return, hydra, ignore_signals, kill_group, linger, own_files,
    shut_control, stop_self, stop_supervisor, swarm, wander,
};
use std::fmt;
use std::io::Write;
use std::path::Path;

plugin! {
    package = "hostile",
    jobs = [
        panic_in_thread, panic_twice, panic_in_display, overflow_in_thread, spin, print_much, say_much, say_nothing, steer,
        abort_after_end, exec, exit_in_thread, forbid_files, fork_and_return, hydra, ignore_signals, kill_group, linger, own_files, stop_self,
        stop_supervisor, swarm, shut_control, wander, cut_spool, emit_raw, emit_sized, flood_spool, forge, obstruct, obstruct_next, obstruct_recovery,
        remove_spool, scribble,
    ]
}

/// Writes this process's id just before the fault. A single write, because a forked child writes at the same time.
fn mark(marker: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(marker)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// Panics in a thread; propagates the panic, or ignores it and returns.
#[job]
fn panic_in_thread(_cx: &JobContext, marker: PathBuf, pass_on: bool) -> JobResult {
    mark(&marker)?;
    let thread = std::thread::spawn(|| panic!("the thread's answer was {}", 44));
    match thread.join() {
        Err(panic) if pass_on => std::panic::resume_unwind(panic),
        _ => Ok(()),
    }
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("the second one");
    }
}

/// Panics while unwinding from a panic, which aborts the process.
#[job]
fn panic_twice(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    let _second = PanicsInDrop;
    panic!("the first one");
}

#[derive(Debug)]
struct PanicsInDisplay;

impl fmt::Display for PanicsInDisplay {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("the message cannot be formatted")
    }
}

impl std::error::Error for PanicsInDisplay {}

/// Returns an error whose Display panics.
#[job]
fn panic_in_display(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    Err(PanicsInDisplay)?
}

/// Overflows the stack of another thread.
#[job]
fn overflow_in_thread(_cx: &JobContext, marker: PathBuf) -> JobResult {
    fn deeper(n: u64) -> u64 {
        let block = std::hint::black_box([n; 512]);
        if n == u64::MAX { 0 } else { deeper(n + 1) + block[7] }
    }
    mark(&marker)?;
    let depth = std::thread::spawn(|| deeper(0)).join();
    Err(format!("the stack did not overflow: {depth:?}"))?
}

/// Loops forever and ignores cancellation.
#[job]
fn spin(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    loop {
        std::hint::spin_loop();
    }
}

/// Prints this many megabytes of lines.
#[job]
fn print_much(_cx: &JobContext, marker: PathBuf, #[param(default = 100)] megabytes: u32) -> JobResult {
    mark(&marker)?;
    let block =
        "what a job has to say, again and again, and to nobody in particular: sixty-four bytes of it, and more\n".repeat(10_000);
    let mut left = u64::from(megabytes) << 20;
    let mut out = std::io::stdout().lock();
    while left > 0 {
        let n = usize::try_from(left)?.min(block.len());
        out.write_all(&block.as_bytes()[..n])?;
        left -= n as u64;
    }
    Ok(())
}

/// Returns a four-megabyte error with many lines and terminal control sequences.
#[job]
fn say_much(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    Err("\u{1b}[2J\u{9b}31m\u{202e}It is a long story.\r\n\u{7}".repeat(120_000))?
}

/// Returns an error with an empty message.
#[job]
fn say_nothing(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(&marker)?;
    Err("")?
}

#[doc = "Clears the screen \u{1b}[2J, rings \u{7}, and turns \u{202e}text around."]
#[job]
fn steer(
    _cx: &JobContext,
    #[doc = "Where \u{1b}]0;owned\u{7} it marks."] marker: PathBuf,
    #[param(default = "\u{1b}[31m")] colour: String,
) -> JobResult {
    mark(&marker)?;
    Err(colour)?
}
