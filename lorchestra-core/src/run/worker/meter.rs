//! A job's progress, for a person who waits: two numbers in a file that the supervisor's side reads from time to time.
//!
//! Uses neither the spool nor the control socket: progress is not an event, nothing waits for it, and losing it does no harm. A job may
//! report progress in every iteration of a loop, so it is written at most once per `INTERVAL`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Minimum time between two writes.
const INTERVAL: Duration = Duration::from_millis(50);
/// Size of the file: `done` and `total`, little endian.
const LEN: usize = 16;

/// Writes a job's progress.
#[derive(Debug)]
pub(super) struct Meter {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nothing was reported yet: most jobs never do, so there is no file.
    Unopened,
    Open(File, Instant),
    /// The file could not be created. Progress is only for display: the job continues without it.
    Failed,
}

impl Meter {
    /// Creates the meter of an attempt. The progress of an earlier attempt is removed.
    pub(super) fn new(path: &Path, attempt: u32) -> Self {
        if attempt > 1 {
            let _ = crate::host::files::remove_any(path);
        }
        Self { path: path.to_owned(), state: Mutex::new(State::Unopened) }
    }

    /// Records `done` of `total`.
    pub(super) fn note(&self, done: u64, total: u64) {
        // Another thread is writing: its numbers are just as good.
        let Ok(mut state) = self.state.try_lock() else { return };
        match &*state {
            State::Open(_, at) if at.elapsed() < INTERVAL && done != total => return,
            State::Open(..) => {}
            State::Failed => return,
            State::Unopened => *state = create(&self.path).map_or(State::Failed, |file| State::Open(file, Instant::now())),
        }
        if let State::Open(file, at) = &mut *state {
            *at = Instant::now();
            let mut bytes = [0; LEN];
            bytes[..8].copy_from_slice(&done.to_le_bytes());
            bytes[8..].copy_from_slice(&total.to_le_bytes());
            let _ = file.write_all_at(&bytes, 0);
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    // A job may have put something else there.
    crate::host::files::remove_any(path)?;
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Returns what a `Meter` wrote last, `done` and `total`; `None` if nothing.
pub fn read(path: &Path) -> Option<(u64, u64)> {
    let mut bytes = [0; LEN];
    crate::host::files::regular_file(path).ok()?.read_exact_at(&mut bytes, 0).ok()?;
    let (done, total) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*done), u64::from_le_bytes(total.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_progress_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress");
        assert_eq!(read(&path), None);
        let meter = Meter::new(&path, 1);
        assert_eq!(read(&path), None, "nothing was noted");
        meter.note(1, 10);
        assert_eq!(read(&path), Some((1, 10)));
        // The last value is always written, however soon it comes.
        meter.note(10, 10);
        assert_eq!(read(&path), Some((10, 10)));
        drop(Meter::new(&path, 2));
        assert_eq!(read(&path), None, "the next attempt starts without progress");
    }

    /// Opening it would block forever.
    #[test]
    fn a_fifo_in_its_place_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert_eq!(read(&path), None);
    }
}
