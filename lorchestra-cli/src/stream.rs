//! Standard error, and a run's standard output: written by one thread each, so that nothing lorchestra prints can change a run.
//!
//! Owns the two descriptors while a run goes on; the printer, the diagnostics, the panic hook, the trace's follower and the progress bar
//! write through it. A disk that is full, a reader that is gone and a pipe that nobody reads cost the text and nothing else: no write
//! panics, and none waits longer than its limit.
//!
//! A writer normally waits until its text is written, so that standard output and standard error keep their order on a terminal. Once
//! nothing has been taken for [`PATIENCE`], the stream is *stuck*: texts are queued without waiting, up to [`QUEUE`] bytes, until the
//! reader takes something again. At the end of the process [`OutputStream::finish`] waits a last time, up to [`LAST`].

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a text may make no progress before its writer goes on without it.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the rest may make no progress at the end of the process.
const LAST: Duration = Duration::from_secs(5);
/// Bytes that are queued for a reader who takes nothing.
const QUEUE: usize = 64 << 10;
/// Bytes in one system call: a pipe that has room takes them at once.
const PIECE: usize = 4096;

/// Standard error.
pub(crate) static STDERR: OutputStream = OutputStream::new(rustix::stdio::stderr);
/// Standard output of a run. Other commands write theirs directly, and wait for a pager as long as it likes.
pub(crate) static STDOUT: OutputStream = OutputStream::new(rustix::stdio::stdout);

/// One of the two.
pub(crate) struct OutputStream {
    fd: fn() -> BorrowedFd<'static>,
    state: Mutex<StreamState>,
    changed: Condvar,
}

struct StreamState {
    queue: VecDeque<Vec<u8>>,
    /// Bytes in the queue and in the thread's hands.
    queued: usize,
    pushed: u64,
    written: u64,
    /// Since when the first text in the queue waits, or the last time that a piece of one was taken.
    progress: Option<Instant>,
    stuck: bool,
    /// Bytes that a stuck stream had no room for.
    dropped: usize,
    thread: Thread,
    error: Option<io::Error>,
}

#[derive(PartialEq, Eq)]
enum Thread {
    NotStarted,
    Running,
    /// The system has no thread for us (`ulimit -u`).
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

    /// Writes the text if that is possible, and waits no longer than [`PATIENCE`] for it.
    pub(crate) fn write(&'static self, text: &[u8]) {
        let _ = self.push(text, PATIENCE, true);
    }

    /// The same, but leaves a text to the caller that the stream has no hope for now. Returns whether it was taken.
    pub(crate) fn try_write(&'static self, text: &[u8]) -> bool {
        self.push(text, PATIENCE, false).is_some()
    }

    /// Writes the text, and reports what went wrong, or that nobody took anything for [`LAST`].
    pub(crate) fn write_all(&'static self, text: &[u8]) -> io::Result<()> {
        match self.push(text, LAST, false) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(timed_out()),
        }
    }

    /// Whether nobody takes what is written.
    pub(crate) fn is_stuck(&self) -> bool {
        self.lock().stuck
    }

    /// Waits for what is still to be written, at the end of the process.
    pub(crate) fn finish(&self) {
        let pushed = self.lock().pushed;
        drop(self.wait(self.lock(), pushed, LAST));
    }

    /// `None`: the stream is stuck, and the text was not queued. `queue`: whether to queue a text for a stream that is stuck.
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

    /// Waits until so many texts are written, as long as something is taken every now and then.
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

    /// The thread. It ends with the process, whatever it waits for.
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
                    // Another process that has the same terminal or pipe open made it non-blocking.
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

    /// Without a thread: as long as the descriptor has room. Room for a piece may be taken by another writer in between, and the
    /// write waits then.
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

/// A stream as a writer: whatever becomes of a text, writing it is no error.
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

/// Standard output of a run as a writer that has errors, and a limit.
pub(crate) struct Limited;

impl io::Write for Limited {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        STDOUT.write_all(text).map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on a panic is reported on [`STDERR`], as the standard library would report it.
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

    /// A pipe that a stream writes into.
    fn pipe(fd: fn() -> BorrowedFd<'static>, end: &'static OnceLock<File>) -> (&'static OutputStream, File) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        end.set(File::from(write)).unwrap();
        (Box::leak(Box::new(OutputStream::new(fd))), File::from(read))
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_one_wait_and_then_its_text() {
        static END: OnceLock<File> = OnceLock::new();
        let (stream, mut read) = pipe(|| END.get().unwrap().as_fd(), &END);
        let begun = Instant::now();
        for _ in 0..1000 {
            stream.write(&[b'x'; 1000]);
        }
        assert!(begun.elapsed() < PATIENCE * 4, "one wait, not a thousand: {:?}", begun.elapsed());
        assert!(stream.is_stuck() && !stream.try_write(b"y"));
        // Somebody reads again: what was queued comes, then how much did not.
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
    fn a_reader_that_is_gone_is_an_error_for_who_asks_and_no_panic() {
        static END: OnceLock<File> = OnceLock::new();
        let (stream, read) = pipe(|| END.get().unwrap().as_fd(), &END);
        drop(read);
        stream.write(b"x");
        assert_eq!(stream.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
