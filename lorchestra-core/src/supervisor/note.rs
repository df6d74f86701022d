//! What the supervisor has seen of an attempt, written down before it acts on it: why it ended the job, and how the worker died.
//!
//! One small file beside the attempt's spool, its blocks taken before the job begins: a full disk does not keep it from being
//! written. Only the supervisor writes it. Recovery reads it when the supervisor died, or could not record the end: without it a run
//! that was told to end would be closed as abandoned. It survives the death of every process, not power loss.

use crate::outcome::{Death, Ending};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the file; a note is far shorter.
const ROOM: usize = 512;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Written before the first SIGTERM.
    pub(crate) ending: Option<Ending>,
    /// Written after the worker's death.
    pub(crate) death: Option<Death>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Note {
    file: File,
}

impl Note {
    /// Makes the file, with room for any note.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all_at(&[b' '; ROOM], 0)?;
        Ok(Self { file })
    }

    /// Replaces the note. In place and in one write: a death in between leaves the old or the new one.
    pub(super) fn write(&self, seen: &Seen) -> io::Result<()> {
        let mut text = serde_json::to_vec(seen)?;
        text.resize(ROOM, b' ');
        self.file.write_all_at(&text, 0)
    }
}

/// The note of an attempt whose supervisor is dead; nothing, where none was written.
pub(crate) fn read(path: &Path) -> Seen {
    std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_note_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.end");
        assert_eq!(read(&path), Seen::default());
        let note = Note::create(&path).unwrap();
        assert_eq!(read(&path), Seen::default());
        let mut seen = Seen { ending: Some(Ending::Timeout { after: Duration::from_secs(3) }), death: None };
        note.write(&seen).unwrap();
        assert_eq!(read(&path), seen);
        seen.death = Some(Death::Killed { signal: 9, core: false });
        note.write(&seen).unwrap();
        assert_eq!(read(&path), seen);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), ROOM as u64, "no room beyond what was taken at first");
    }
}
