//! One stream of a tap: its files, one a version, and its counts. Talks to [`appender`](crate::appender).
//!
//! Without versions there is one file. With them, records of a new version wait in a file of their own until the tap says
//! ACTIVATE_VERSION; then that file takes the place of the old one, and the records of the old version are gone, as the
//! specification wants it. When exactly is [`archive`](crate::archive)'s business.

use crate::appender::Appender;
use crate::checkpoint::Lengths;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The longest text of a time that is passed on.
const MAX_TIME: usize = 40;

/// What a run has added to a stream.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Records.
    pub(crate) records: u64,
    /// Bytes of their lines.
    pub(crate) bytes: u64,
    /// `time_extracted` of the first record that has one.
    pub(crate) first_extracted: Option<String>,
    /// `time_extracted` of the last record that has one.
    pub(crate) last_extracted: Option<String>,
}

/// A stream and its files.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: String,
    dir: PathBuf,
    active: Appender,
    version: Option<i64>,
    pending: BTreeMap<i64, Appender>,
    activate: Option<i64>,
    pub(crate) counts: Counts,
    /// What there was at the last mark: lengths and counts.
    marked: (Lengths, Counts),
    /// What there was at the mark that is in the checkpoint.
    kept: (Lengths, Counts),
    /// Whether anything was added since the mark.
    pub(crate) is_dirty: bool,
    /// Whether anything was added since the last sync.
    unsynced: bool,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Kept,
    /// Its version was retired before: not kept.
    Retired,
    /// A file must be entered into the checkpoint first: call [`Stream::begin_version`].
    NewVersion(i64),
}

/// A file that is shorter than the checkpoint says.
#[derive(Debug)]
pub(crate) struct Shorter {
    pub(crate) path: PathBuf,
    pub(crate) found: u64,
    pub(crate) expected: u64,
}

impl Stream {
    /// Opens its files, and cuts them to what is kept. Answers also with how many bytes were cut off.
    pub(crate) fn open(dir: &Path, name: &str, kept: &Lengths) -> io::Result<Result<(Self, u64), Shorter>> {
        let mut cut = 0;
        let mut open = |path: PathBuf, len: u64| -> io::Result<Result<Appender, Shorter>> {
            Ok(match Appender::open(path.clone(), len)? {
                Ok((appender, bytes)) => {
                    cut += bytes;
                    Ok(appender)
                }
                Err(found) => Err(Shorter { path, found, expected: len }),
            })
        };
        let active = match open(kept.active_path(dir), kept.bytes)? {
            Ok(active) => active,
            Err(shorter) => return Ok(Err(shorter)),
        };
        let mut pending = BTreeMap::new();
        for (&version, &len) in &kept.pending {
            match open(kept.pending_path(dir, version), len)? {
                Ok(appender) => drop(pending.insert(version, appender)),
                Err(shorter) => return Ok(Err(shorter)),
            }
        }
        let mut stream = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            active,
            version: kept.version,
            pending,
            activate: None,
            counts: Counts::default(),
            marked: (kept.clone(), Counts::default()),
            kept: (kept.clone(), Counts::default()),
            is_dirty: false,
            unsynced: false,
        };
        stream.mark();
        stream.is_kept();
        Ok(Ok((stream, cut)))
    }

    /// Adds a record to the file of its version.
    pub(crate) fn record(&mut self, version: Option<i64>, record: &[u8], extracted: Option<&str>) -> io::Result<Taken> {
        // Those without a version go where the reader will look.
        let version = version.or(self.activate).or(self.version);
        let appender = match version {
            Some(version) if self.version != Some(version) => {
                if self.version.is_some_and(|active| version < active) {
                    return Ok(Taken::Retired);
                }
                if self.version.is_none() && self.active.len() == 0 {
                    // Nothing is there that the new version would replace.
                    self.version = Some(version);
                    &mut self.active
                } else {
                    match self.pending.get_mut(&version) {
                        Some(appender) => appender,
                        None => return Ok(Taken::NewVersion(version)),
                    }
                }
            }
            _ => &mut self.active,
        };
        appender.line(record)?;
        self.touch();
        self.counts.records += 1;
        self.counts.bytes += record.len() as u64 + 1;
        if let Some(time) = extracted.filter(|time| time.len() <= MAX_TIME) {
            match &mut self.counts.last_extracted {
                Some(last) => time.clone_into(last),
                None => {
                    self.counts.first_extracted = Some(time.to_owned());
                    self.counts.last_extracted = Some(time.to_owned());
                }
            }
        }
        Ok(Taken::Kept)
    }

    /// The tap is done with a version: at the next mark it takes the place of the active one. `Retired` if it is older than that.
    pub(crate) fn activate(&mut self, version: i64) -> Taken {
        if self.version == Some(version) {
            return Taken::Kept;
        }
        if self.version.max(self.activate).is_some_and(|newest| version < newest) {
            return Taken::Retired;
        }
        if self.version.is_none() && self.active.len() == 0 {
            self.version = Some(version);
        } else if self.pending.contains_key(&version) {
            self.activate = Some(version);
        } else {
            return Taken::NewVersion(version);
        }
        self.touch();
        Taken::Kept
    }

    /// Makes the file of a version; the checkpoint knows of it.
    pub(crate) fn begin_version(&mut self, version: i64) -> io::Result<()> {
        let path = self.marked.0.pending_path(&self.dir, version);
        // What is there without being in the checkpoint was left by a version that was retired.
        if let Ok((appender, _)) = Appender::open(path, 0)? {
            self.pending.insert(version, appender);
        }
        self.touch();
        Ok(())
    }

    /// Brings all to the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.active.sync()?;
            self.pending.values_mut().try_for_each(Appender::sync)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Closes its files until they are needed again, where the disk has all of them.
    pub(crate) fn release(&mut self) {
        self.active.release();
        self.pending.values_mut().for_each(Appender::release);
    }

    /// Until here is what the next checkpoint keeps.
    pub(crate) fn mark(&mut self) {
        let lengths = Lengths {
            file: std::mem::take(&mut self.marked.0.file),
            bytes: self.active.len(),
            version: self.version,
            pending: self.pending.iter().map(|(version, appender)| (*version, appender.len())).collect(),
            activate: self.activate,
        };
        self.marked = (lengths, self.counts.clone());
        self.is_dirty = false;
    }

    /// What there was at the last mark.
    pub(crate) fn marked(&self) -> (&Lengths, &Counts) {
        (&self.marked.0, &self.marked.1)
    }

    /// The last mark is in the checkpoint.
    pub(crate) fn is_kept(&mut self) {
        self.kept.clone_from(&self.marked);
    }

    /// The last mark cannot be kept: the one in the checkpoint is the last.
    pub(crate) fn back_to_kept(&mut self) {
        self.marked.clone_from(&self.kept);
    }

    /// The version that is active at the last mark, and how many bytes of another one it has replaced. For after
    /// [`Checkpoint::finish_activations`](crate::checkpoint::Checkpoint::finish_activations).
    pub(crate) fn activated(&mut self) -> Option<(i64, u64)> {
        let version = self.marked.0.activate.take()?;
        let newer = self.pending.split_off(&version);
        drop(std::mem::replace(&mut self.pending, newer));
        let retired = self.active.len();
        if let Some(mut active) = self.pending.remove(&version) {
            active.renamed(self.marked.0.active_path(&self.dir));
            self.active = active;
        }
        self.version = Some(version);
        if self.activate == Some(version) {
            self.activate = None;
        }
        self.mark();
        self.is_kept();
        Some((version, retired))
    }

    /// Takes away what was added after the last mark.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        self.active.cut(self.marked.0.bytes)?;
        for (version, appender) in &mut self.pending {
            appender.cut(self.marked.0.pending.get(version).copied().unwrap_or(0))?;
        }
        self.counts = self.marked.1.clone();
        self.is_dirty = false;
        Ok(())
    }

    /// The file of the active version.
    pub(crate) fn path(&self) -> &Path {
        self.active.path()
    }

    /// Records of versions that wait to be activated: their number of files.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    fn touch(&mut self) {
        self.is_dirty = true;
        self.unsynced = true;
    }
}
