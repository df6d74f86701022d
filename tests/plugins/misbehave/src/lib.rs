//! Jobs that end in every possible way. Each writes a marker file just before its fault, so that a test can check that the fault
//! caused the outcome.
#![expect(unsafe_code, reason = "faults that safe code cannot make")]
#![expect(clippy::disallowed_methods, reason = "leaving the process is what these jobs are for")]

use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::tracing;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

plugin! {
    package = "misbehave",
    jobs = [
        noop, fail, fail_permanently, fail_with, panic_now, panic_with_a_number, panic_in_drop, abort, null, overflow, exit, kill_self, numbered,
        burst, wait, ignore_term, leave_group, ask_terminal, shell, leave_child, leave_daemon, print, emit_after_end, emit_bad, hijack, typed, traced, close_all, confide,
        fail_at_first, leave_grandchild, allocate, wait_for_file, trace_much, windowed, from_bookmark, bookmark_nothing, surroundings,
    ]
}

fn mark(marker: Option<&Path>) -> JobResult {
    if let Some(path) = marker {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    }
    Ok(())
}

/// Does nothing.
#[job]
fn noop(_cx: &JobContext) -> JobResult {
    Ok(())
}

/// Returns an error.
#[job]
fn fail(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    std::fs::read("/no/such/file")?;
    Ok(())
}

/// Returns a permanent error.
#[job]
fn fail_permanently(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    Err("the mailbox is not yours").permanent()
}

/// Returns an error with this message.
#[job]
fn fail_with(_cx: &JobContext, message: String) -> JobResult {
    Err(message)?
}

/// Panics.
#[job]
fn panic_now(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    panic!("the answer was {}", 43);
}

/// Panics with a payload that is not a string and whose drop panics again.
#[job]
fn panic_with_a_number(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    std::panic::panic_any(PanicsInDrop);
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Panics while a value is dropped.
#[job]
fn panic_in_drop(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    drop(PanicsInDrop);
    Ok(())
}

/// Aborts.
#[job]
fn abort(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    std::process::abort();
}

/// Writes through a null pointer.
#[job]
fn null(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    // SAFETY: none. This is the intended fault.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    Ok(())
}

/// Overflows the stack.
#[job]
fn overflow(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    fn deeper(n: u64) -> u64 {
        let block = std::hint::black_box([n; 512]);
        if n == u64::MAX { 0 } else { deeper(n + 1) + block[7] }
    }
    mark(marker.as_deref())?;
    let depth = deeper(0);
    Err(format!("the stack did not overflow: {depth}"))?
}

/// Exits the process.
#[job]
fn exit(_cx: &JobContext, code: i32, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    std::process::exit(code);
}

/// Reads a password from the terminal, as getpass does.
#[job]
fn ask_terminal(_cx: &JobContext, marker: PathBuf) -> JobResult {
    mark(Some(&marker))?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(std::fs::File::open("/dev/tty")?), &mut line)?;
    Ok(())
}

/// Runs a shell command with C's `system`, which inherits signal dispositions; Rust's `Command` resets SIGPIPE.
#[job]
fn shell(_cx: &JobContext, command: String) -> JobResult {
    unsafe extern "C" {
        fn system(command: *const std::ffi::c_char) -> std::ffi::c_int;
    }
    let command = std::ffi::CString::new(command)?;
    // SAFETY: a POSIX function, called with a NUL-terminated string that outlives the call.
    match unsafe { system(command.as_ptr()) } {
        0 => Ok(()),
        status => Err(format!("the command ended with {status}").into()),
    }
}

/// Kills itself with SIGKILL.
#[job]
fn kill_self(_cx: &JobContext, marker: Option<PathBuf>) -> JobResult {
    mark(marker.as_deref())?;
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("survived")?
}

/// Emits numbered events one by one, and writes each number to `acknowledged` after `emit` returned.
#[job]
fn numbered(
    cx: &JobContext,
    #[param(default = 100)] count: u64,
    acknowledged: Option<PathBuf>,
    /// Account; runs for different accounts do not exclude each other
    account: Option<String>,
    /// What to do after the last number: `return`, `fail`, `panic` or `abort`
    #[param(default = "return")]
    then: String,
    /// Create `<file>.wanted`, then wait for this file before the first number
    begin: Option<PathBuf>,
    /// Wait for this file after the last number
    end: Option<PathBuf>,
) -> JobResult {
    tracing::debug!(account, count, "numbering");
    if let Some(begin) = begin {
        std::fs::write(begin.with_extension("wanted"), "")?;
        while !begin.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let mut file = match &acknowledged {
        Some(path) => Some(std::fs::OpenOptions::new().create(true).append(true).open(path)?),
        None => None,
    };
    for n in 0..count {
        cx.emit("number", json!({"n": n}))?;
        if let Some(file) = &mut file {
            // A single write, so that every number in the file was acknowledged.
            file.write_all(format!("{n}\n").as_bytes())?;
        }
    }
    while end.as_ref().is_some_and(|end| !end.exists()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    match &*then {
        "fail" => Err("failed after the last number")?,
        "panic" => panic!("panicked after the last number"),
        "abort" => std::process::abort(),
        _ => Ok(()),
    }
}

/// Emits many events with `emit_all`.
#[job]
fn burst(cx: &JobContext, #[param(default = 1000)] count: u64, #[param(default = 0)] bytes: u64) -> JobResult {
    let filler = "x".repeat(usize::try_from(bytes)?);
    let mut events = (0..count).map(|n| Event::new("number", json!({"n": n, "filler": filler})));
    let mut failed = None;
    let taken = cx.emit_all(events.by_ref().map_while(|event| event.map_err(|e| failed = Some(e)).ok()))?;
    if taken == count { Ok(()) } else { Err(format!("{taken} of {count} events were taken; {failed:?}"))? }
}

/// Waits until it is cancelled, and ends cleanly.
#[job]
fn wait(cx: &JobContext, marker: Option<PathBuf>, #[param(default = 60)] seconds: u64, return_ok: bool) -> JobResult {
    mark(marker.as_deref())?;
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        if cx.is_cancelled() {
            cx.emit("cancelled.seen", json!({}))?;
            return if return_ok { Ok(()) } else { Err("cancelled")? };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("it was not cancelled")?
}

/// Waits until a file exists.
#[job]
fn wait_for_file(_cx: &JobContext, marker: Option<PathBuf>, file: PathBuf) -> JobResult {
    mark(marker.as_deref())?;
    let until = Instant::now() + Duration::from_secs(60);
    while !file.exists() {
        if Instant::now() > until {
            Err("the file was not created")?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Ignores cancellation.
#[job]
fn ignore_term(_cx: &JobContext, marker: Option<PathBuf>, #[param(default = 60)] seconds: u64) -> JobResult {
    mark(marker.as_deref())?;
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

/// Tries to join its supervisor's process group, and ignores cancellation.
#[job]
fn leave_group(_cx: &JobContext, marker: PathBuf) -> JobResult {
    let parents = rustix::process::getpgid(rustix::process::getppid())?;
    // The worker is a session leader, which the kernel does not allow to change its group.
    if rustix::process::setpgid(None, Some(parents)).is_ok() {
        return Err("a session's leader left its group".into());
    }
    mark(Some(&marker))?;
    std::thread::sleep(Duration::from_secs(300));
    Ok(())
}

/// Starts a process in its own group, then waits or returns at once.
#[job]
fn leave_child(_cx: &JobContext, marker: PathBuf, stay: bool) -> JobResult {
    let child = std::process::Command::new("sleep").arg("300").spawn()?;
    std::fs::write(&marker, format!("{}\n", child.id()))?;
    if stay {
        std::thread::sleep(Duration::from_secs(300));
    }
    Ok(())
}

/// Starts an orphaned daemon in another session that keeps the output pipe open, then waits or returns at once.
#[job]
fn leave_daemon(_cx: &JobContext, marker: PathBuf, stay: bool) -> JobResult {
    let script = format!("setsid sh -c 'echo $$ > {}; sleep 300' &", marker.display());
    std::process::Command::new("sh").args(["-c", &script]).status()?;
    let until = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(&marker).unwrap_or_default().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    if stay {
        std::thread::sleep(Duration::from_secs(300));
    }
    Ok(())
}

/// Prints to stdout and stderr, including invalid UTF-8.
#[job]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the job is for")]
fn print(_cx: &JobContext, #[param(default = 1)] lines: u32) -> JobResult {
    for n in 0..lines {
        println!("out {n}");
        eprintln!("err {n}");
    }
    std::io::stdout().write_all(b"\xff\xfe without an end")?;
    std::io::stdout().flush()?;
    Ok(())
}

/// Emits from a thread that outlives the job until an event is refused. The marker then holds the number of accepted events and the error.
#[job]
fn emit_after_end(cx: &JobContext, marker: PathBuf) -> JobResult {
    // SAFETY: none: the context is dropped when the job returns. The sink behind it is still alive, because the tracing bridge holds it
    // too, and emitting uses nothing else of the copy.
    let copy = std::mem::ManuallyDrop::new(unsafe { std::ptr::read(cx) });
    std::thread::Builder::new().spawn(move || {
        for taken in 0.. {
            if let Err(e) = copy.emit("number", json!({"n": taken})) {
                let _ = std::fs::write(&marker, format!("{taken} {e}"));
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    })?;
    // The process lives for a moment after the final record. In this time the thread is refused.
    LINGERS.with(|_| std::thread::sleep(Duration::from_millis(5)));
    Ok(())
}

struct Lingers;

impl Drop for Lingers {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

thread_local! {
    static LINGERS: Lingers = const { Lingers };
}

/// Emits invalid events, and emits the error for each.
#[job]
fn emit_bad(cx: &JobContext) -> JobResult {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let raw = |text: String| lorchestra_plugin_api::serde_json::value::RawValue::from_string(text);
    let answers = [
        cx.emit("array", json!([1])),
        cx.emit("number", json!(1)),
        cx.emit("", json!({})),
        cx.emit("job.completed", json!({})),
        cx.emit("large", json!({"x": "y".repeat(1 << 20)})),
        cx.emit(&"t".repeat(2000), json!({})),
        match raw(format!("{{\"x\":{deep}}}")) {
            Ok(raw) => cx.emit("deep", raw),
            Err(_) => cx.emit("deep", json!("too deep to be made")),
        },
    ];
    let texts: Vec<String> = answers.iter().map(|a| a.as_ref().map_or_else(ToString::to_string, |()| "taken".into())).collect();
    cx.emit("answers", json!({"answers": texts, "nan": f64::NAN}))?;
    Ok(())
}

/// Closes the spool's descriptor and opens another file with the same number. With `flush`, exits if a flush does not notice.
#[job]
fn hijack(cx: &JobContext, other: PathBuf, flush: bool) -> JobResult {
    cx.emit("before", json!({}))?;
    let spool = descriptors()?.into_iter().find(|(_, target)| target.contains("/spool/") && !target.ends_with(".lock"));
    let (fd, _) = spool.ok_or("no spool descriptor was found")?;
    let file = std::fs::File::create(other)?;
    // SAFETY: none: the descriptor is not ours. This is the intended fault.
    let mut stolen = unsafe { <rustix::fd::OwnedFd as rustix::fd::FromRawFd>::from_raw_fd(fd) };
    rustix::io::dup2(&file, &mut stolen)?;
    #[expect(clippy::mem_forget, reason = "the number stays in use")]
    std::mem::forget(stolen);
    if flush {
        if cx.flush().is_ok() {
            std::process::exit(3);
        }
        return Ok(());
    }
    for n in 0..200 {
        let _ = cx.emit("after", json!({"n": n}));
    }
    Ok(())
}

/// Closes every descriptor above 2.
#[job]
fn close_all(cx: &JobContext) -> JobResult {
    cx.emit("before", json!({}))?;
    for (fd, _) in descriptors()?.into_iter().filter(|(fd, _)| *fd > 2) {
        // SAFETY: none: the descriptors are not ours. This is the intended fault. (Dropping an OwnedFd for a closed descriptor would
        // abort.)
        drop(unsafe { <rustix::fd::OwnedFd as rustix::fd::FromRawFd>::from_raw_fd(fd) });
    }
    Ok(())
}

fn descriptors() -> std::io::Result<Vec<(i32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).map(|path| path.display().to_string()).unwrap_or_default();
        if let Ok(fd) = entry.file_name().to_string_lossy().parse()
            && !target.is_empty()
            && !target.starts_with("/proc/")
        {
            found.push((fd, target));
        }
    }
    Ok(found)
}

/// Takes a parameter of every type, and emits the values.
///
/// The second paragraph.
#[job]
#[expect(clippy::too_many_arguments, reason = "one of each")]
fn typed(
    cx: &JobContext,
    /// Any text
    text: Option<String>,
    small: Option<i8>,
    #[param(default = 500)] page_size: u32,
    big: Option<u64>,
    ratio: Option<f64>,
    dry: bool,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    day: Option<NaiveDate>,
    path: Option<PathBuf>,
    #[param(default = "-7d")] horizon: DateTime<Utc>,
    account: Option<String>,
    marker: Option<PathBuf>,
) -> JobResult {
    mark(marker.as_deref())?;
    cx.emit(
        "typed",
        json!({
            "text": text, "small": small, "page_size": page_size, "big": big, "ratio": ratio, "dry": dry, "since": since,
            "until": until, "day": day, "path": path, "horizon": horizon, "account": account, "run_id": cx.run_id(),
            "attempt": cx.attempt(), "data_dir": cx.data_dir()?,
        }),
    )?;
    Ok(())
}

/// Traces at every level, in a span.
#[job]
fn traced(_cx: &JobContext) -> JobResult {
    let span = tracing::info_span!("mailbox", account = "acct1");
    let _entered = span.enter();
    tracing::error!(code = 7, "an error");
    tracing::info!(ratio = 0.5, ok = true, "an info");
    tracing::debug!("a debug");
    tracing::trace!("a trace");
    Ok(())
}

/// Emits events about a person with the name `about` and the secret `secret`.
#[job]
fn confide(cx: &JobContext, about: String, secret: String, #[param(default = 3)] count: u32) -> JobResult {
    for n in 0..count {
        cx.emit_with(Event::new("confided", json!({"n": n, "secret": secret}))?.subject_id(about.as_str()))?;
    }
    Ok(())
}

/// Fails in the first attempts, in a chosen way, and succeeds later. Emits its parameters.
#[job]
fn fail_at_first(
    cx: &JobContext,
    marker: Option<PathBuf>,
    /// Number of attempts that fail
    #[param(default = 1)]
    times: u32,
    /// `error`, `permanent`, `panic`, `abort`, `exit`, or `hang` (until cancelled)
    #[param(default = "error")]
    how: String,
    until: Option<DateTime<Utc>>,
    account: Option<String>,
) -> JobResult {
    let seen = (cx.attempt(), std::env::var("LORCHESTRA_ATTEMPT").unwrap_or_default());
    cx.emit("attempt.seen", json!({"attempt": seen.0, "environment": seen.1, "until": until, "account": account}))?;
    mark(marker.as_deref())?;
    if cx.attempt() > times {
        return Ok(());
    }
    match &*how {
        "permanent" => Err("it will never be").permanent(),
        "panic" => panic!("not this time"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "hang" => {
            while !cx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err("asked to stop")?
        }
        _ => Err(format!("not in attempt {}", cx.attempt()))?,
    }
}

/// Starts a daemon with a double fork, in a session of its own, that keeps the job's output open; then waits or returns at
/// once.
#[job]
fn leave_grandchild(_cx: &JobContext, marker: PathBuf, stay: bool) -> JobResult {
    let script = format!("(setsid sh -c '(exec sh -c \"echo \\$\\$ > {}; exec sleep 300\") &' &)", marker.display());
    std::process::Command::new("sh").args(["-c", &script]).status()?;
    let until = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&marker).unwrap_or_default().ends_with('\n') && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    if stay {
        std::thread::sleep(Duration::from_secs(300));
    }
    Ok(())
}

/// Allocates and uses memory until allocation fails. The marker holds the number of MiB.
#[job]
fn allocate(_cx: &JobContext, marker: PathBuf) -> JobResult {
    const STEP: usize = 4;
    let mut blocks = Vec::new();
    while blocks.len() * STEP < 2048 {
        std::fs::write(&marker, (blocks.len() * STEP).to_string())?;
        blocks.push(std::hint::black_box(vec![1_u8; STEP << 20]));
    }
    Err("there was no limit")?
}
/// Traces many times.
#[job]
fn trace_much(_cx: &JobContext, #[param(default = 1000)] count: u64) -> JobResult {
    for n in 0..count {
        tracing::info!(n, "traced");
    }
    Ok(())
}

/// Emits its window and parameters.
#[job]
#[expect(clippy::too_many_arguments, reason = "one flag for each optional part of a window")]
fn windowed(
    cx: &JobContext,
    account: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    /// Bookmark to set, in the first attempt only
    reached: Option<DateTime<Utc>>,
    /// What to do then: `return`, `fail`, `fail_at_first`, `panic`, `abort`, or `wait` (until cancelled, then return);
    /// or instead of waiting for `go`: `fail_without_go`
    #[param(default = "return")]
    then: String,
    marker: Option<PathBuf>,
    /// Wait for this file
    go: Option<PathBuf>,
) -> JobResult {
    cx.emit("window.seen", json!({"since": since, "until": until, "account": account}))?;
    if let Some(reached) = reached
        && cx.attempt() == 1
    {
        cx.set_bookmark(Utc::now())?;
        cx.set_bookmark(reached)?;
    }
    mark(marker.as_deref())?;
    let end = Instant::now() + Duration::from_secs(60);
    while go.as_ref().is_some_and(|go| !go.exists()) && Instant::now() < end {
        if then == "fail_without_go" {
            Err("not yet")?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    match &*then {
        "fail" => Err("not this window")?,
        "fail_at_first" if cx.attempt() == 1 => Err("not this time")?,
        "panic" => panic!("not this window"),
        "abort" => std::process::abort(),
        "wait" => {
            while !cx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Starts at its bookmark by default.
#[job]
fn from_bookmark(cx: &JobContext, #[param(default = "last:-30d")] since: DateTime<Utc>) -> JobResult {
    cx.emit("window.seen", json!({"since": since}))?;
    Ok(())
}

/// Sets a bookmark without having a `since`, and emits the error.
#[job]
fn bookmark_nothing(cx: &JobContext, until: Option<DateTime<Utc>>) -> JobResult {
    let answer = cx.set_bookmark(Utc::now()).err().map(|e| e.to_string());
    cx.emit("answered", json!({"answer": answer, "until": until}))?;
    Ok(())
}

/// Emits its working directory and the value of an environment variable.
#[job]
fn surroundings(cx: &JobContext, #[param(default = "HOME")] name: String) -> JobResult {
    let directory = std::env::current_dir()?;
    cx.emit("surroundings", json!({"directory": directory, "value": std::env::var(name).ok()}))?;
    Ok(())
}
