//! One stream of a tap: its files, one per version, and its counts. Uses [`appender`](crate::appender).
//!
//! Without versions there is one file. With versions, records of a new version go to a separate file until the tap sends
//! ACTIVATE_VERSION. Then that file replaces the old one, and the records of the old version are deleted, as the specification
//! requires. [`archive`](crate::archive) decides when. In Parquet, a version has several files.

use crate::appender::Appender;
use crate::checkpoint::{self, Format, Lengths};
use crate::layout::{Layout, Widened};
use crate::parts::Parts;
use crate::record_file::RecordFile;
use crate::rows::Misfit;
use crate::schema::Schema;
use lorchestra_plugin_api::serde_json::Value;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum length of a time text that is passed on.
const MAX_TIME: usize = 40;

/// What a run has added to a stream.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Number of records.
    pub(crate) records: u64,
    /// Size of their lines, in bytes.
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
    format: Format,
    /// Path of the active file; of Parquet files, a pattern.
    path: PathBuf,
    active: RecordFile,
    version: Option<i64>,
    pending: BTreeMap<i64, RecordFile>,
    activate: Option<i64>,
    /// The JSON Schema, and the columns for it. Only for Parquet.
    schema: Value,
    layout: Arc<Layout>,
    widened: Widened,
    /// Columns widened by this run, which are not reported yet.
    unreported: Vec<Option<String>>,
    last_part: u64,
    /// Size of the files of the version that is replaced by the next activation.
    retired: u64,
    pub(crate) counts: Counts,
    /// Lengths and counts at the last mark.
    marked: (Lengths, Counts),
    /// Lengths and counts at the mark that is in the checkpoint.
    kept: (Lengths, Counts),
    /// Whether anything was added since the last mark.
    pub(crate) is_dirty: bool,
    /// Whether anything was added since the last sync.
    unsynced: bool,
}

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Kept,
    /// Its version was retired: the record is not stored.
    Retired,
    /// A name in it is not valid Unicode, as Parquet requires: the record is not stored.
    NotText,
    /// A new file must be added to the checkpoint first: call [`Stream::begin_version`].
    NewVersion(i64),
}

/// A file that is shorter than its length in the checkpoint.
#[derive(Debug)]
pub(crate) struct Shorter {
    pub(crate) path: PathBuf,
    pub(crate) found: u64,
    pub(crate) expected: u64,
}

impl Stream {
    /// Opens the stream's files, and truncates them to their valid lengths. Also returns the number of removed bytes.
    pub(crate) fn open(dir: &Path, name: &str, format: Format, kept: &Lengths) -> io::Result<Result<(Self, u64), Shorter>> {
        let schema = match format {
            Format::Jsonl => Value::Null,
            // A tap may send records of a stream whose schema it has sent in an earlier run.
            Format::Parquet => Schema::read(dir, &kept.file).map_or(Value::Null, Schema::into_json),
        };
        let layout = Arc::new(Layout::of(&schema, &kept.widened));
        let mut cut = 0;
        let mut open = |path: PathBuf, len: u64| -> io::Result<Result<RecordFile, Shorter>> {
            if format == Format::Parquet {
                return Ok(Ok(RecordFile::Parts(Box::new(Parts::new(dir, &kept.file, layout.clone(), len)))));
            }
            Ok(match Appender::open(path.clone(), len)? {
                Ok((appender, bytes)) => {
                    cut += bytes;
                    Ok(RecordFile::Lines(appender))
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
                Ok(file) => drop(pending.insert(version, file)),
                Err(shorter) => return Ok(Err(shorter)),
            }
        }
        let mut stream = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            format,
            path: match format {
                Format::Jsonl => kept.active_path(dir),
                Format::Parquet => dir.join(format!("{}.?????.parquet", kept.file)),
            },
            active,
            version: kept.version,
            pending,
            activate: None,
            schema,
            layout,
            widened: kept.widened.clone(),
            unreported: Vec::new(),
            last_part: kept.last_part,
            retired: 0,
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

    /// Uses the columns for this JSON Schema.
    pub(crate) fn set_schema(&mut self, schema: &Value) -> io::Result<()> {
        if self.format == Format::Parquet && self.schema != *schema {
            self.schema = schema.clone();
            self.set_layout()?;
        }
        Ok(())
    }

    fn set_layout(&mut self) -> io::Result<()> {
        self.layout = Arc::new(Layout::of(&self.schema, &self.widened));
        self.unsynced = true;
        let layout = &self.layout;
        self.active.set_layout(layout)?;
        self.pending.values_mut().try_for_each(|file| file.set_layout(layout))
    }

    /// Appends a record to the file of its version.
    pub(crate) fn record(&mut self, version: Option<i64>, record: &str, extracted: Option<&str>) -> io::Result<Taken> {
        // Records without a version go to the active file.
        let version = version.or(self.activate).or(self.version);
        loop {
            let file = match version {
                Some(version) if self.version != Some(version) => {
                    if self.version.is_some_and(|active| version < active) {
                        return Ok(Taken::Retired);
                    }
                    if self.version.is_none() && self.active.len() == 0 {
                        // There is nothing that the new version would replace.
                        self.version = Some(version);
                        &mut self.active
                    } else {
                        match self.pending.get_mut(&version) {
                            Some(file) => file,
                            None => return Ok(Taken::NewVersion(version)),
                        }
                    }
                }
                _ => &mut self.active,
            };
            match file.push(record)? {
                Ok(()) => break,
                Err(Misfit::NotText) => return Ok(Taken::NotText),
                Err(Misfit::Unlisted) => {
                    self.widened.unlisted = true;
                    self.unreported.push(None);
                }
                Err(Misfit::Column(at)) => {
                    let name = self.layout.columns[at].0.clone();
                    self.widened.json.insert(name.clone());
                    self.unreported.push(Some(name));
                }
            }
            self.set_layout()?;
        }
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

    /// Activates a version: at the next mark it replaces the active one. `Retired` if it is older than that.
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

    /// Creates the file of a version that is already in the checkpoint.
    pub(crate) fn begin_version(&mut self, version: i64) -> io::Result<()> {
        if self.format == Format::Parquet {
            let parts = Parts::new(&self.dir, &self.marked.0.file, self.layout.clone(), 0);
            self.pending.insert(version, RecordFile::Parts(Box::new(parts)));
            self.touch();
            return Ok(());
        }
        let path = self.marked.0.pending_path(&self.dir, version);
        // An existing file that is not in the checkpoint belongs to a retired version.
        if let Ok((appender, _)) = Appender::open(path, 0)? {
            self.pending.insert(version, RecordFile::Lines(appender));
        }
        self.touch();
        Ok(())
    }

    /// Syncs all files to disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.active.sync()?;
            self.pending.values_mut().try_for_each(RecordFile::sync)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Closes files until they are needed again, if everything is on disk.
    pub(crate) fn release(&mut self) {
        self.active.release();
        self.pending.values_mut().for_each(RecordFile::release);
    }

    /// Returns the size of what waits in memory, in bytes.
    pub(crate) fn buffered(&self) -> usize {
        self.active.buffered() + self.pending.values().map(RecordFile::buffered).sum::<usize>()
    }

    /// Writes rows that wait in memory.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.active.flush()?;
        self.pending.values_mut().try_for_each(RecordFile::flush)
    }

    /// Adds the names of complete Parquet files to the marked lengths, from which the checkpoint is written. Call it after
    /// [`sync`](Self::sync).
    pub(crate) fn name_parts(&mut self) -> io::Result<()> {
        if self.format == Format::Jsonl {
            return Ok(());
        }
        let lengths = &mut self.marked.0;
        (lengths.renames, lengths.removes) = (Vec::new(), Vec::new());
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut last = lengths.last_part;
        let active_start = lengths.parts_of(None);
        if let Some(version) = lengths.activate {
            let replaced = [&self.active].into_iter().chain(self.pending.range(..version).map(|(_, file)| file));
            lengths.removes.extend(replaced.flat_map(RecordFile::finished).map(name));
            self.retired = 0;
            for (_, part) in checkpoint::parts(&self.dir, &active_start)? {
                self.retired += std::fs::metadata(self.dir.join(&part)).map_or(0, |metadata| metadata.len());
                lengths.removes.push(part);
            }
            for older in self.pending.range(..version).map(|(version, _)| *version) {
                let parts = checkpoint::parts(&self.dir, &lengths.parts_of(Some(older)))?;
                lengths.removes.extend(parts.into_iter().map(|(_, part)| part));
            }
            for (number, part) in checkpoint::parts(&self.dir, &lengths.parts_of(Some(version)))? {
                lengths.renames.push((part, checkpoint::part_name(&active_start, number)));
            }
        }
        let mut publish = |lengths: &mut Lengths, file: &RecordFile, start: &str| {
            for path in file.finished() {
                last += 1;
                lengths.renames.push((name(path), checkpoint::part_name(start, last)));
            }
        };
        if lengths.activate.is_none() {
            publish(lengths, &self.active, &active_start);
        }
        for (version, file) in self.pending.range(lengths.activate.unwrap_or(i64::MIN)..) {
            let is_activated = lengths.activate == Some(*version);
            let start = if is_activated { active_start.clone() } else { lengths.parts_of(Some(*version)) };
            publish(lengths, file, &start);
        }
        lengths.last_part = last;
        self.last_part = last;
        Ok(())
    }

    /// Returns columns that were widened since the last call; `None` for the one with unlisted properties.
    pub(crate) fn take_widened(&mut self) -> Vec<Option<String>> {
        std::mem::take(&mut self.unreported)
    }

    /// Sets the mark: the next checkpoint includes everything up to here.
    pub(crate) fn mark(&mut self) {
        self.active.mark();
        self.pending.values_mut().for_each(RecordFile::mark);
        let lengths = Lengths {
            file: std::mem::take(&mut self.marked.0.file),
            bytes: self.active.len(),
            version: self.version,
            pending: self.pending.iter().map(|(version, appender)| (*version, appender.len())).collect(),
            activate: self.activate,
            last_part: self.last_part,
            renames: Vec::new(),
            removes: Vec::new(),
            widened: self.widened.clone(),
        };
        self.marked = (lengths, self.counts.clone());
        // Rows after the last mark were left in memory by the last sync.
        self.unsynced |= self.is_dirty;
        self.is_dirty = false;
    }

    /// Returns the lengths at the last mark.
    pub(crate) fn marked(&self) -> (&Lengths, &Counts) {
        (&self.marked.0, &self.marked.1)
    }

    /// The last mark is now in the checkpoint.
    pub(crate) fn is_kept(&mut self) {
        (self.marked.0.renames, self.marked.0.removes) = (Vec::new(), Vec::new());
        self.active.published();
        self.pending.values_mut().for_each(RecordFile::published);
        self.kept.clone_from(&self.marked);
    }

    /// The last mark cannot be stored: returns to the one in the checkpoint.
    pub(crate) fn back_to_kept(&mut self) {
        self.marked.clone_from(&self.kept);
    }

    /// Returns the active version at the last mark, and the size of the version that it replaced. Call it after
    /// [`Checkpoint::finish_activations`](crate::checkpoint::Checkpoint::finish_activations).
    pub(crate) fn activated(&mut self) -> Option<(i64, u64)> {
        let version = self.marked.0.activate.take()?;
        let newer = self.pending.split_off(&version);
        drop(std::mem::replace(&mut self.pending, newer));
        let retired = if self.format == Format::Jsonl { self.active.len() } else { self.retired };
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

    /// Removes everything after the last mark.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        self.active.cut(self.marked.0.bytes)?;
        for (version, appender) in &mut self.pending {
            appender.cut(self.marked.0.pending.get(version).copied().unwrap_or(0))?;
        }
        self.counts = self.marked.1.clone();
        self.is_dirty = false;
        Ok(())
    }

    /// Returns the file of the active version; of Parquet files, a pattern.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of versions that are not active yet.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    fn touch(&mut self) {
        self.is_dirty = true;
        self.unsynced = true;
    }
}
