//! Writes stderr, and a run's stdout, each in its own thread, so that printing can never affect a run.
//!
//! Owns the two descriptors during a run; the printer, the diagnostics, the panic hook, the trace's follower and the progress bar write
//! through it. On a full disk, after the reader has gone, or into a pipe that is never read, only the text is lost: no write panics, and
//! none waits longer than its limit.
//!
//! A writer normally waits until its text is written, so that stdout and stderr keep their order on a terminal. If nothing could be written
//! for [`PATIENCE`], the stream is *stuck*: texts are queued without waiting, up to [`QUEUE`] bytes, until the reader continues. At the end
//! of the process [`OutputStream::finish`] waits one last time, up to [`LAST`].

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a text may make no progress before its writer continues without it.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the remaining text may make no progress at the end of the process.
const LAST: Duration = Duration::from_secs(5);
/// Maximum number of bytes queued for a reader that does not read.
const QUEUE: usize = 64 << 10;
/// Number of bytes per system call: a pipe with free space accepts them at once.
const PIECE: usize = 4096;

/// Standard error.
pub(crate) static STDERR: OutputStream = OutputStream::new(rustix::stdio::stderr);
/// Stdout of a run. Other commands write theirs directly, and wait for a pager without a limit.
pub(crate) static STDOUT: OutputStream = OutputStream::new(rustix::stdio::stdout);

/// Stdout or stderr.
pub(crate) struct OutputStream {
    fd: fn() -> BorrowedFd<'static>,
    state: Mutex<StreamState>,
    changed: Condvar,
}

struct StreamState {
    queue: VecDeque<Vec<u8>>,
    /// Number of bytes in the queue and in the thread's current write.
    queued: usize,
    pushed: u64,
    written: u64,
    /// When the first text in the queue began to wait, or when a piece of one was last written.
    progress: Option<Instant>,
    stuck: bool,
    /// Number of bytes that did not fit into the queue of a stuck stream.
    dropped: usize,
    thread: Thread,
    error: Option<io::Error>,
}

#[derive(PartialEq, Eq)]
enum Thread {
    NotStarted,
    Running,
    /// The system cannot start another thread (`ulimit -u`).
    Refused,
}

impl OutputStream {
    const fn new(fd: fn() -> BorrowedFd<'static>) -> Self {
        let state = StreamState {
            queue: VecDeque::new(),
            queued: 0,
            pushed: 0,
            written: 0,
            progress: None,
            stuck: false,
            dropped: 0,
            thread: Thread::NotStarted,
            error: None,
        };
        Self { fd, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Writes the text if possible, waiting at most [`PATIENCE`].
    pub(crate) fn write(&'static self, text: &[u8]) {
        let _ = self.push(text, PATIENCE, true);
    }

    /// Like [`write`](Self::write), but does not queue for a stuck stream. Returns whether the text was accepted.
    pub(crate) fn try_write(&'static self, text: &[u8]) -> bool {
        self.push(text, PATIENCE, false).is_some()
    }

    /// Writes the text, and returns errors, including that nothing was read for [`LAST`].
    pub(crate) fn write_all(&'static self, text: &[u8]) -> io::Result<()> {
        match self.push(text, LAST, false) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(timed_out()),
        }
    }

    /// Whether the reader has stopped reading.
    pub(crate) fn is_stuck(&self) -> bool {
        self.lock().stuck
    }

    /// Waits for remaining text at the end of the process.
    pub(crate) fn finish(&self) {
        let pushed = self.lock().pushed;
        drop(self.wait(self.lock(), pushed, LAST));
    }

    /// Returns `None` if the stream is stuck and the text was not queued. `queue`: whether to queue a text for a stuck stream.
    fn push(&'static self, text: &[u8], patience: Duration, queue: bool) -> Option<io::Result<()>> {
        let mut state = self.lock();
        if state.thread == Thread::NotStarted {
            let writing = std::thread::Builder::new().name("lorchestra-output".into()).stack_size(64 << 10);
            let running = writing.spawn(move || self.write_queue()).is_ok();
            state.thread = if running { Thread::Running } else { Thread::Refused };
        }
        if state.thread == Thread::Refused {
            return self.write_here(state, text, patience);
        }
        if state.stuck && (!queue || state.queued + text.len() > QUEUE) {
            state.dropped += if queue { text.len() } else { 0 };
            return None;
        }
        if state.queued == 0 {
            state.progress = Some(Instant::now());
        }
        state.queue.push_back(text.to_owned());
        state.queued += text.len();
        state.pushed += 1;
        let ticket = state.pushed;
        self.changed.notify_all();
        if state.stuck {
            return Some(Err(timed_out()));
        }
        let mut state = self.wait(state, ticket, patience);
        if state.written >= ticket {
            return Some(state.error.take().map_or(Ok(()), Err));
        }
        state.stuck = true;
        Some(Err(timed_out()))
    }

    /// Waits until this many texts are written, while there is progress.
    fn wait<'a>(&self, mut state: MutexGuard<'a, StreamState>, ticket: u64, patience: Duration) -> MutexGuard<'a, StreamState> {
        while state.written < ticket {
            let idle = state.progress.map_or(Duration::ZERO, |at| at.elapsed());
            let left = patience.saturating_sub(idle);
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// The thread's loop. It ends with the process, even if it is blocked.
    fn write_queue(&self) {
        loop {
            let mut state = self.lock();
            while state.queue.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(text) = state.queue.pop_front() else { continue };
            drop(state);
            let mut left = text.as_slice();
            let mut error = None;
            while !left.is_empty() && error.is_none() {
                match rustix::io::write((self.fd)(), &left[..left.len().min(PIECE)]) {
                    Ok(n) => left = &left[n..],
                    Err(Errno::INTR) => continue,
                    // Another process that shares the terminal or pipe has made it non-blocking.
                    Err(Errno::AGAIN) => {
                        let _ = poll(&mut [PollFd::from_borrowed_fd((self.fd)(), PollFlags::OUT)], None);
                        continue;
                    }
                    Err(e) => error = Some(e.into()),
                }
                let mut state = self.lock();
                state.progress = Some(Instant::now());
                state.stuck = false;
            }
            let mut state = self.lock();
            state.queued -= text.len();
            state.written += 1;
            state.error = error;
            if state.dropped > 0 && state.queue.is_empty() {
                let note = format!("({} bytes of lorchestra's output were dropped: nothing read them)\n", state.dropped);
                state.dropped = 0;
                state.queued += note.len();
                state.pushed += 1;
                state.queue.push_back(note.into_bytes());
            }
            self.changed.notify_all();
        }
    }

    /// Without a thread: writes while the descriptor is ready. Another writer may use up the space in between, and then the write blocks.
    fn write_here(&self, mut state: MutexGuard<'_, StreamState>, text: &[u8], patience: Duration) -> Option<io::Result<()>> {
        let patience = if state.stuck { Duration::ZERO } else { patience };
        for piece in text.chunks(PIECE) {
            let wait = lorchestra_core::host::clock::timespec(patience);
            let ready = poll(&mut [PollFd::from_borrowed_fd((self.fd)(), PollFlags::OUT)], Some(&wait));
            state.stuck = !matches!(ready, Ok(1..));
            if state.stuck {
                return None;
            }
            if let Err(error) = rustix::io::write((self.fd)(), piece) {
                return Some(Err(error.into()));
            }
        }
        Some(Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nothing read it for {} s", LAST.as_secs()))
}

/// A writer that never fails, whatever happens to the text.
pub(crate) struct BestEffort(pub(crate) &'static OutputStream);

impl io::Write for BestEffort {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A run's stdout as a writer with errors and a time limit.
pub(crate) struct Limited;

impl io::Write for Limited {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        STDOUT.write_all(text).map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reports panics on [`STDERR`] from now on, in the format of the standard library.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let mut text = format!("\nthread '{}' {info}\n", thread.name().unwrap_or("<unnamed>"));
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            text.push_str(&format!("stack backtrace:\n{backtrace}"));
        }
        STDERR.write(text.as_bytes());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::sync::OnceLock;

    /// A pipe that a stream writes to.
    fn pipe(fd: fn() -> BorrowedFd<'static>, end: &'static OnceLock<File>) -> (&'static OutputStream, File) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        end.set(File::from(write)).unwrap();
        (Box::leak(Box::new(OutputStream::new(fd))), File::from(read))
    }

    #[test]
    fn a_pipe_that_is_never_read_is_waited_for_once_and_then_loses_text() {
        static END: OnceLock<File> = OnceLock::new();
        let (stream, mut read) = pipe(|| END.get().unwrap().as_fd(), &END);
        let begun = Instant::now();
        for _ in 0..1000 {
            stream.write(&[b'x'; 1000]);
        }
        assert!(begun.elapsed() < PATIENCE * 4, "one wait, not a thousand: {:?}", begun.elapsed());
        assert!(stream.is_stuck() && !stream.try_write(b"y"));
        // The reader continues: first comes the queued text, then the number of dropped bytes.
        let mut shown = Vec::new();
        let mut buffer = [0; 8192];
        while !shown.ends_with(b"nothing read them)\n") {
            let n = read.read(&mut buffer).unwrap();
            shown.extend_from_slice(&buffer[..n]);
        }
        let shown = String::from_utf8(shown).unwrap();
        let kept = shown.bytes().filter(|b| *b == b'x').count();
        assert!(shown.contains(&format!("({} bytes", 1_000_000 - kept)), "{kept}: {}", &shown[shown.len() - 100..]);
        assert!(stream.try_write(b"and on\n") && !stream.is_stuck());
    }

    #[test]
    fn a_closed_pipe_is_an_error_only_for_write_all() {
        static END: OnceLock<File> = OnceLock::new();
        let (stream, read) = pipe(|| END.get().unwrap().as_fd(), &END);
        drop(read);
        stream.write(b"x");
        assert_eq!(stream.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
