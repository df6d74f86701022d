//! The supervisor's observations about an attempt, written before it acts on them: why it stopped the job, how the worker died, and which
//! fault the worker had reported.
//!
//! One small file next to the attempt's spool. Its blocks are allocated before the job starts, so a full disk does not prevent writing it.
//! Only the supervisor writes it. Recovery reads it if the supervisor died or could not record the end: without it, a run that was stopped
//! would be closed as abandoned. It survives the death of every process, but not power loss.

use crate::run::decision::{Death, Ending, WorkerFault};
use crate::text;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Size of the file: one block of most file systems. A note is far shorter, except for a worker's message about a fault.
const SIZE: usize = 4096;
/// Length of the checksum (crc32c, hexadecimal) at the beginning.
const SUM: usize = 8;
/// Maximum length of a worker's message in bytes: each byte may take six in JSON.
const MAX_MESSAGE: usize = 500;

/// The observations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct NotedFacts {
    /// Written before the first SIGTERM.
    pub(crate) ending: Option<Ending>,
    /// Written after the worker's death.
    pub(crate) death: Option<Death>,
    /// The fault that the worker had reported, its message truncated to fit. Written together with `death`.
    #[serde(default)]
    pub(crate) fault: Option<WorkerFault>,
    /// The signal that stopped the run after this attempt had failed and before the next one.
    #[serde(default)]
    pub(crate) between: Option<i32>,
}

/// Truncates a worker's message so that it fits into a note.
pub(crate) fn cut(fault: &WorkerFault) -> WorkerFault {
    WorkerFault { message: text::shortened_to_bytes(&fault.message, MAX_MESSAGE), ..*fault }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Note {
    file: File,
    last: RefCell<NotedFacts>,
}

impl Note {
    /// Creates the file, with space for any note. Fails if it exists: the job of an earlier attempt may have put anything there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all_at(&[b' '; SIZE], 0)?;
        Ok(Self { file, last: RefCell::default() })
    }

    /// Replaces the note, in place and with one write: a death in between leaves the old or the new one.
    pub(crate) fn write(&self, seen: &NotedFacts) -> io::Result<()> {
        let json = serde_json::to_vec(seen)?;
        let mut text = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
        text.extend(json);
        text.resize(SIZE, b' ');
        self.last.replace(seen.clone());
        self.file.write_all_at(&text, 0)
    }

    /// Adds that a signal stopped the run after the attempt had failed.
    pub(crate) fn between(&self, signal: i32) -> io::Result<()> {
        let seen = NotedFacts { between: Some(signal), ..self.last.borrow().clone() };
        self.write(&seen)
    }
}

/// Reads the note of an attempt whose supervisor is dead. Empty if none was written, or if it is damaged: a flipped digit could change the
/// cause.
pub(crate) fn read(path: &Path) -> NotedFacts {
    let mut text = Vec::new();
    match crate::host::files::regular_file(path).and_then(|file| file.take(SIZE as u64).read_to_end(&mut text)) {
        Ok(_) => parse(&text).unwrap_or_else(|| {
            let path = path.display();
            tracing::warn!("{path} is damaged: the reason why its run was stopped and how its worker died may be unknown");
            NotedFacts::default()
        }),
        Err(_) => NotedFacts::default(),
    }
}

/// Returns `None` if the note is damaged.
fn parse(text: &[u8]) -> Option<NotedFacts> {
    if text.len() != SIZE {
        return None;
    }
    let text = text.trim_ascii_end();
    if text.is_empty() {
        return Some(NotedFacts::default());
    }
    let (sum, json) = (text.get(..SUM)?, text.get(SUM + 1..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == crc32c::crc32c(json)).then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::decision::Stop;
    use std::time::Duration;

    /// Two hundred changes of each kind: the result is never a different note.
    #[test]
    fn a_damaged_note_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.end");
        let note = Note::create(&path).unwrap();
        let seen =
            NotedFacts { ending: Some(Ending::Cancelled { signal: 15 }), death: Some(Death::Exited(0)), ..NotedFacts::default() };
        note.write(&seen).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut random = fastrand::Rng::with_seed(12);
        for n in 0..800 {
            let mut text = whole.clone();
            // Most of a note is blank.
            let at = random.usize(..120);
            match n % 4 {
                0 => text.truncate(random.usize(..SIZE)),
                1 => text[at] ^= 1 << random.u8(..8),
                2 => text.swap(at, random.usize(..120)),
                _ => text[at..at + random.usize(1..80)].fill(0),
            }
            std::fs::write(&path, &text).unwrap();
            let found = read(&path);
            assert!(found == seen || found == NotedFacts::default(), "{n}: {found:?}");
        }
    }

    #[test]
    fn the_last_note_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.end");
        assert_eq!(read(&path), NotedFacts::default());
        let note = Note::create(&path).unwrap();
        assert_eq!(read(&path), NotedFacts::default());
        let stopped = Some(Stop { signal: Some(19), process: Some(u32::MAX) });
        let mut seen =
            NotedFacts { ending: Some(Ending::Timeout { after: Duration::from_secs(3), stopped }), ..NotedFacts::default() };
        note.write(&seen).unwrap();
        assert_eq!(read(&path), seen);
        seen.death = Some(Death::Killed { signal: 9, core: false });
        note.write(&seen).unwrap();
        assert_eq!(read(&path), seen);
        // The longest possible note must still be complete JSON of the same size.
        seen.fault = Some(cut(&WorkerFault { spool: true, message: "\u{1}".repeat(100_000) }));
        note.write(&seen).unwrap();
        assert_eq!(read(&path), seen);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE as u64, "the file does not grow");
    }
}
