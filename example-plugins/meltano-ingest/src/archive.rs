//! The data of a tap and an account: a directory with one file per stream, the records set aside, and the [`checkpoint`].
//! Owned by one run at a time, under a lock. Uses [`stream`](crate::stream).
//!
//! A transaction ends at each mark: a STATE of the tap, or its end. Marks are written to disk once per second and not
//! individually, because taps may send a state after every record. Records after the last mark are removed when the run fails
//! ([`Archive::roll_back`]), or by the next run if this one was killed.

use crate::appender::Appender;
use crate::checkpoint::{self, Checkpoint, Format, Lengths, SET_ASIDE};
use crate::name::{self, NameError};
use crate::stream::{Stream, Taken};
use lorchestra_plugin_api::serde_json::{self, Value, value::RawValue};
use lorchestra_plugin_api::tracing;
use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file with the state, to pass to the tap.
const FOR_TAP: &str = "state-for-tap.json";
/// Maximum number of idle streams whose files stay open. With more streams, files are opened for each write.
const OPEN: usize = 200;
/// Interval between two checkpoints.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two checkpoints if each of them completes Parquet files: many small ones are slow to read.
const INTERVAL_PARQUET: Duration = Duration::from_mins(5);
/// Maximum size of the rows and footers that wait in memory, over all streams, in bytes.
const MAX_BUFFERED: usize = 128 << 20;
/// After this many bytes of records, the size of what waits in memory is checked.
const CHECK_EVERY: usize = 1 << 20;

/// Why the archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("{}: another run is writing to this directory; wait for it to end, then run the job again", .0.display())]
    Busy(PathBuf),
    #[error(
        "{}: cannot parse the tap state ({reason}); move it away to start over, the records are kept",
        .path.display()
    )]
    Foreign { path: PathBuf, reason: serde_json::Error },
    #[error(
        "{}: has {found} bytes, but {expected} belong to the tap state; another program modified it. Move it away to start a new file",
        .path.display()
    )]
    Shorter { path: PathBuf, found: u64, expected: u64 },
    #[error(
        "{}: contains records as {found}, and --format is {wanted}; use --format {found}, or another --name for a directory of its own",
        .path.display()
    )]
    OtherFormat { path: PathBuf, found: &'static str, wanted: &'static str },
    #[error("{}: does not end with a line break; repair it, or move it away to start a new file", .0.display())]
    NoLine(PathBuf),
    #[error("cannot store its records")]
    Name(#[from] NameError),
    #[error("{}: {doing} failed", .path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
}

impl ArchiveError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Busy(_) | Self::Io { .. })
    }
}

/// A version that replaced another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Activated {
    pub(crate) stream: String,
    pub(crate) version: i64,
    /// Size of the replaced records, in bytes.
    pub(crate) retired: u64,
}

/// A column of a Parquet file that is wider than its schema.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Widening {
    pub(crate) stream: String,
    /// `None`: the column with properties that the schema does not list.
    pub(crate) column: Option<String>,
}

/// Files of a stream that belong to no state, which were renamed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) stream: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The directory of a tap and an account, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct Archive {
    dir: PathBuf,
    /// The checkpoint on disk.
    kept: Checkpoint,
    streams: Vec<Stream>,
    by_name: HashMap<String, usize>,
    /// The stream of the last record.
    last: usize,
    set_aside: Appender,
    /// Length of `set_aside` at the last mark.
    set_aside_marked: u64,
    /// The state at the last mark.
    state: Option<Box<RawValue>>,
    /// Whether a checkpoint was written but the renames it requires are not complete. Nothing may be truncated or stored any
    /// more; the next run completes them.
    is_unfinished: bool,
    /// Whether there is a mark that is not in `kept`.
    is_marked: bool,
    interval: Duration,
    written: Instant,
    activated: Vec<Activated>,
    widened: Vec<Widening>,
    stale: Vec<Stale>,
    /// Size of the records since the last check of what waits in memory.
    unchecked: usize,
    _lock: File,
}

impl Archive {
    /// Opens or creates the directory (mode 0700), and removes what a killed run wrote after the last checkpoint.
    pub(crate) fn open(dir: &Path, format: Format) -> Result<Self, ArchiveError> {
        Self::open_with(dir, format, if format == Format::Parquet { INTERVAL_PARQUET } else { INTERVAL })
    }

    pub(crate) fn open_with(dir: &Path, format: Format, interval: Duration) -> Result<Self, ArchiveError> {
        let failed = |doing| move |source| failed(dir, doing, source);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("creating it"))?;
        let lock = lock(&dir.join(".lock"))?;
        let mut kept = match Checkpoint::read(dir).map_err(failed("reading its state.json"))? {
            None => {
                // Immediately: everything after these lengths belongs to this run, however it ends.
                let first = Checkpoint::first(format, adopted(&dir.join(SET_ASIDE))?);
                first.write(dir).map_err(failed("writing its state.json"))?;
                first
            }
            Some(Ok(kept)) => kept,
            Some(Err(reason)) => return Err(ArchiveError::Foreign { path: dir.join(checkpoint::NAME), reason }),
        };
        if kept.format != format {
            if !kept.streams.is_empty() {
                let [found, wanted] = [kept.format, format].map(Format::name);
                return Err(ArchiveError::OtherFormat { path: dir.to_owned(), found, wanted });
            }
            kept.format = format;
        }
        kept.finish_activations(dir).map_err(failed("completing the changes of a killed run"))?;
        checkpoint::remove_unfinished(dir).map_err(failed("removing the files of a killed run"))?;
        kept.reset_missing_files(dir).map_err(failed("restarting streams whose files were removed"))?;
        let (set_aside, mut cut) = open_set_aside(dir, kept.set_aside)?;
        let mut archive = Self {
            dir: dir.to_owned(),
            streams: Vec::new(),
            by_name: HashMap::new(),
            last: 0,
            set_aside_marked: set_aside.len(),
            set_aside,
            state: kept.state.clone(),
            is_unfinished: false,
            is_marked: false,
            interval,
            written: Instant::now(),
            activated: Vec::new(),
            widened: Vec::new(),
            stale: Vec::new(),
            unchecked: 0,
            _lock: lock,
            kept,
        };
        for (name, lengths) in archive.kept.streams.clone() {
            archive.set_stale_aside(&name, &lengths)?;
            cut += archive.open_stream(&name, &lengths)?;
        }
        if cut > 0 {
            tracing::warn!(bytes = cut, "removed what a killed run had written after its last state");
        }
        Ok(archive)
    }

    fn open_stream(&mut self, name: &str, lengths: &Lengths) -> Result<u64, ArchiveError> {
        let opened = Stream::open(&self.dir, name, self.kept.format, lengths);
        match opened.map_err(|source| failed(&lengths.active_path(&self.dir), "opening it", source))? {
            Ok((mut stream, cut)) => {
                if self.streams.len() >= OPEN {
                    stream.release();
                }
                self.by_name.insert(name.to_owned(), self.streams.len());
                self.streams.push(stream);
                Ok(cut)
            }
            Err(shorter) => Err(ArchiveError::Shorter { path: shorter.path, found: shorter.found, expected: shorter.expected }),
        }
    }

    /// Renames files of a stream that are not in the checkpoint. They belong to a `state.json` that was removed or replaced; as names of
    /// their versions or numbers may be used again, their records would be mixed with those that the tap sends again.
    fn set_stale_aside(&mut self, stream: &str, lengths: &Lengths) -> Result<(), ArchiveError> {
        let set_aside = checkpoint::set_stale_aside(&self.dir, self.kept.format, lengths);
        let (files, bytes) = set_aside.map_err(|source| failed(&self.dir, "renaming files that belong to no state", source))?;
        if files > 0 {
            tracing::warn!(stream, files, bytes, "renamed files that belong to no state to *.stale");
            self.stale.push(Stale { stream: stream.to_owned(), files, bytes });
        }
        Ok(())
    }

    /// Returns the files set aside since the last call.
    pub(crate) fn take_stale(&mut self) -> Vec<Stale> {
        std::mem::take(&mut self.stale)
    }

    /// Returns the path of the directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the stored state to a file for the tap; `None` if there is none.
    pub(crate) fn state_file(&self) -> Result<Option<PathBuf>, ArchiveError> {
        // A tap that sends `null` wants to start over.
        let Some(state) = self.kept.state.as_ref().filter(|state| state.get() != "null") else { return Ok(None) };
        checkpoint::replace(&self.dir, FOR_TAP, state.get().as_bytes())
            .map_err(|source| failed(&self.dir.join(FOR_TAP), "writing it", source))?;
        Ok(Some(self.dir.join(FOR_TAP)))
    }

    /// Returns the file to pass to the tap for a state that was given manually: the tap's state may be inside of one of
    /// Meltano's (`meltano state get`) or of a `state.json` of this package.
    pub(crate) fn state_by_hand(&self, path: &Path) -> Result<PathBuf, ArchiveError> {
        // A pipe can be read only once, by the tap.
        if !path.is_file() {
            return Ok(path.to_owned());
        }
        let text = std::fs::read_to_string(path).map_err(|source| failed(path, "reading it", source))?;
        let Some(inner) = checkpoint::inner_state(&text) else { return Ok(path.to_owned()) };
        let file = self.dir.join(FOR_TAP);
        checkpoint::replace(&self.dir, FOR_TAP, inner.get().as_bytes()).map_err(|source| failed(&file, "writing it", source))?;
        Ok(file)
    }

    /// Records a stream of the tap in the checkpoint, if it is new.
    pub(crate) fn begin_stream(&mut self, name: &str) -> Result<(), ArchiveError> {
        if self.by_name.contains_key(name) {
            return Ok(());
        }
        let file = name::file_name("a stream", name)?;
        let mut lengths = Lengths { file, ..Lengths::default() };
        let path = lengths.active_path(&self.dir);
        // Files without a checkpoint date from before the checkpoint was moved away: keep their content.
        if self.kept.format == Format::Parquet {
            let parts = checkpoint::parts(&self.dir, &lengths.file);
            let parts = parts.map_err(|source| failed(&self.dir, "listing its files", source))?;
            lengths.last_part = parts.last().map_or(0, |(number, _)| *number);
        } else {
            lengths.bytes = adopted(&path)?;
        }
        self.set_stale_aside(name, &lengths)?;
        self.enter(name, lengths.clone())?;
        self.open_stream(name, &lengths)?;
        Ok(())
    }

    /// Uses the columns for a stream's JSON Schema.
    pub(crate) fn set_schema(&mut self, name: &str, schema: &Value) -> Result<(), ArchiveError> {
        let Some(&index) = self.by_name.get(name) else { return Ok(()) };
        let stream = &mut self.streams[index];
        stream.set_schema(schema).map_err(|source| failed(stream.path(), "writing to it", source))
    }

    /// Returns the columns widened since the last call.
    pub(crate) fn take_widened(&mut self) -> Vec<Widening> {
        std::mem::take(&mut self.widened)
    }

    /// Writes the largest rows in memory if there are too many.
    fn check_memory(&mut self, added: usize) -> Result<(), ArchiveError> {
        self.unchecked += added;
        if self.kept.format == Format::Jsonl || self.unchecked < CHECK_EVERY {
            return Ok(());
        }
        self.unchecked = 0;
        let total: usize = self.streams.iter().map(Stream::buffered).sum();
        match self.streams.iter_mut().max_by_key(|stream| stream.buffered()).filter(|_| total > MAX_BUFFERED) {
            Some(stream) => stream.flush().map_err(|source| failed(stream.path(), "writing to it", source)),
            None => Ok(()),
        }
    }

    /// Appends a record. `None`: the tap has not announced this stream.
    pub(crate) fn record(
        &mut self,
        stream: &str,
        version: Option<i64>,
        record: &RawValue,
        extracted: Option<&str>,
    ) -> Result<Option<Taken>, ArchiveError> {
        if self.streams.get(self.last).is_none_or(|last| last.name != stream) {
            let Some(&index) = self.by_name.get(stream) else { return Ok(None) };
            self.last = index;
        }
        let index = self.last;
        let add = |archive: &mut Self| {
            let stream = &mut archive.streams[index];
            let added = stream.record(version, record.get(), extracted);
            added.map_err(|source| failed(stream.path(), "writing to it", source))
        };
        let taken = match add(self)? {
            Taken::NewVersion(version) => {
                self.begin_version(index, version)?;
                add(self)?
            }
            taken => taken,
        };
        for column in self.streams[index].take_widened() {
            self.widened.push(Widening { stream: stream.to_owned(), column });
        }
        self.check_memory(record.get().len())?;
        Ok(Some(taken))
    }

    /// Activates a version of a stream. `None`: the tap has not announced this stream.
    pub(crate) fn activate(&mut self, stream: &str, version: i64) -> Result<Option<Taken>, ArchiveError> {
        let Some(&index) = self.by_name.get(stream) else { return Ok(None) };
        if let Taken::NewVersion(version) = self.streams[index].activate(version) {
            self.begin_version(index, version)?;
        }
        Ok(Some(self.streams[index].activate(version)))
    }

    fn begin_version(&mut self, index: usize, version: i64) -> Result<(), ArchiveError> {
        let name = self.streams[index].name.clone();
        let mut lengths = self.kept.streams.get(&name).cloned().unwrap_or_default();
        lengths.pending.insert(version, 0);
        self.enter(&name, lengths)?;
        let stream = &mut self.streams[index];
        stream.begin_version(version).map_err(|source| failed(stream.path(), "beginning a version", source))
    }

    /// Adds a stream's files to the checkpoint on disk, which is otherwise unchanged.
    fn enter(&mut self, name: &str, lengths: Lengths) -> Result<(), ArchiveError> {
        self.kept.streams.insert(name.to_owned(), lengths);
        self.write_kept()
    }

    /// Appends a line that was set aside.
    pub(crate) fn set_aside(&mut self, line: &[u8]) -> Result<(), ArchiveError> {
        self.set_aside.line(line).map_err(|source| failed(self.set_aside.path(), "writing to it", source))
    }

    /// Handles a state of the tap: the records before it belong to it.
    pub(crate) fn mark(&mut self, state: &RawValue) -> Result<(), ArchiveError> {
        self.state = Some(state.to_owned());
        self.mark_files()
    }

    fn mark_files(&mut self) -> Result<(), ArchiveError> {
        self.set_aside_marked = self.set_aside.len();
        self.is_marked = true;
        let mut activates = false;
        for stream in self.streams.iter_mut().filter(|stream| stream.is_dirty) {
            stream.mark();
            activates |= stream.marked().0.activate.is_some();
        }
        if activates || self.written.elapsed() >= self.interval { self.commit() } else { Ok(()) }
    }

    /// Writes the last mark to disk if that is due.
    pub(crate) fn tick(&mut self) -> Result<(), ArchiveError> {
        if self.written.elapsed() >= self.interval { self.commit() } else { Ok(()) }
    }

    /// Handles the successful end of the tap: all records are kept, including those after its last state.
    pub(crate) fn finish(&mut self) -> Result<(), ArchiveError> {
        self.mark_files()?;
        self.commit()
    }

    /// Handles a failed run: stores everything up to the last mark, and removes the rest. Returns the number of removed bytes,
    /// or `None` if the next run must remove them.
    pub(crate) fn roll_back(&mut self) -> Result<Option<u64>, ArchiveError> {
        if self.is_unfinished {
            return Ok(None);
        }
        // Before the last mark is written, because the disk may be full of the bytes removed here.
        let mut gone = self.cut()?;
        if let Err(error) = self.commit() {
            if self.is_unfinished {
                return Ok(Some(gone));
            }
            tracing::warn!(error = %error, "could not store the last state; keeping the one before it");
            self.set_aside_marked = self.kept.set_aside;
            self.streams.iter_mut().for_each(Stream::back_to_kept);
            gone += self.cut()?;
        }
        Ok(Some(gone))
    }

    /// Removes everything after the last mark.
    fn cut(&mut self) -> Result<u64, ArchiveError> {
        let mut gone = self.set_aside.len() - self.set_aside_marked;
        let cut = self.set_aside.cut(self.set_aside_marked);
        cut.map_err(|source| failed(self.set_aside.path(), "cutting it", source))?;
        for stream in &mut self.streams {
            gone += stream.counts.bytes - stream.marked().1.bytes;
            stream.cut().map_err(|source| failed(stream.path(), "cutting it", source))?;
        }
        Ok(gone)
    }

    fn commit(&mut self) -> Result<(), ArchiveError> {
        if !self.is_marked {
            return Ok(());
        }
        self.set_aside.sync().map_err(|source| failed(self.set_aside.path(), "syncing it to disk", source))?;
        let many = self.streams.len() > OPEN;
        for stream in &mut self.streams {
            stream.sync().map_err(|source| failed(stream.path(), "syncing it to disk", source))?;
            if many {
                stream.release();
            }
            stream.name_parts().map_err(|source| failed(&self.dir, "listing its files", source))?;
            self.kept.streams.insert(stream.name.clone(), stream.marked().0.clone());
        }
        self.kept.set_aside = self.set_aside_marked;
        self.kept.state.clone_from(&self.state);
        self.write_kept()?;
        self.is_unfinished = true;
        let finished = self.kept.finish_activations(&self.dir);
        finished.map_err(|source| failed(&self.dir, "activating a version", source))?;
        self.is_unfinished = false;
        for stream in &mut self.streams {
            stream.is_kept();
            if let Some((version, retired)) = stream.activated() {
                self.activated.push(Activated { stream: stream.name.clone(), version, retired });
            }
        }
        self.is_marked = false;
        self.written = Instant::now();
        Ok(())
    }

    fn write_kept(&mut self) -> Result<(), ArchiveError> {
        let failed = |source| failed(&self.dir.join(checkpoint::NAME), "writing it", source);
        self.kept.place(&self.dir).map_err(failed)?;
        self.is_unfinished = true;
        checkpoint::sync_dir(&self.dir).map_err(failed)?;
        self.is_unfinished = false;
        Ok(())
    }

    /// Returns the versions activated since the last call.
    pub(crate) fn take_activated(&mut self) -> Vec<Activated> {
        std::mem::take(&mut self.activated)
    }

    /// Returns all known streams, including those of earlier runs.
    pub(crate) fn streams(&self) -> &[Stream] {
        &self.streams
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // The tap has read it. A file left by a killed run is replaced by the next one.
        let _ = std::fs::remove_file(self.dir.join(FOR_TAP));
    }
}

fn open_set_aside(dir: &Path, kept: u64) -> Result<(Appender, u64), ArchiveError> {
    let path = dir.join(SET_ASIDE);
    match Appender::open(path.clone(), kept).map_err(|source| failed(&path, "opening it", source))? {
        Ok(opened) => Ok(opened),
        Err(found) => Err(ArchiveError::Shorter { path, found, expected: kept }),
    }
}

/// Returns the length of a file that is in no checkpoint; 0 if it does not exist.
fn adopted(path: &Path) -> Result<u64, ArchiveError> {
    use std::os::unix::fs::FileExt;
    let look = || -> io::Result<Option<u64>> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(0)),
            other => other?,
        };
        let len = file.metadata()?.len();
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        Ok((last == [b'\n']).then_some(len))
    };
    look().map_err(|source| failed(path, "looking at it", source))?.ok_or_else(|| ArchiveError::NoLine(path.to_owned()))
}

fn failed(path: &Path, doing: &'static str, source: io::Error) -> ArchiveError {
    ArchiveError::Io { path: path.to_owned(), doing, source }
}

fn lock(path: &Path) -> Result<File, ArchiveError> {
    let file = package_support::lock::open(path).map_err(|source| failed(path, "opening it", source))?;
    match package_support::lock::acquire(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(ArchiveError::Busy(path.parent().unwrap_or(path).to_owned())),
        Err(source) => Err(failed(path, "locking it", source)),
    }
}

#[cfg(test)]
mod tests;
