//! Records of a version as Parquet files, called parts. Uses [`rows`](crate::rows).
//!
//! A part is written under a temporary name and is complete (with its footer, on disk) before it gets its name, which
//! [`archive`](crate::archive) does after the checkpoint has both names. Positions are numbers of rows.
//!
//! Records can be removed back to the last mark, although rows of a file cannot be removed: a part never contains rows before and after
//! the last mark. Rows wait in memory; when they must be written, those before the mark go to the part, and those after it wait or start
//! a new part.

use crate::checkpoint::UNFINISHED;
use crate::layout::Layout;
use crate::rows::{Misfit, Rows};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Size at which a part is finished, in bytes.
const MAX_PART: usize = 256 << 20;

/// The parts of a version that this run has written, and the rows that are not written yet.
#[derive(Debug)]
pub(crate) struct Parts {
    dir: PathBuf,
    /// Start of the names of temporary files.
    file: String,
    rows: Rows,
    open: Option<Part>,
    finished: Vec<Finished>,
    /// Rows of all parts, also of earlier runs.
    written: u64,
    /// The last mark.
    marked: u64,
    /// Whether a part is finished after each row group, because there are too many streams to keep their files open.
    closes_early: bool,
    /// Whether writing has failed: then no part of this run can be completed.
    is_lost: bool,
}

/// A part that is being written.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    writer: SerializedFileWriter<BufWriter<File>>,
    start: u64,
}

/// A complete part under its temporary name.
#[derive(Debug)]
struct Finished {
    path: PathBuf,
    start: u64,
    end: u64,
}

impl Parts {
    /// Continues after this many rows.
    pub(crate) fn new(dir: &Path, file: &str, layout: Arc<Layout>, written: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            file: file.to_owned(),
            rows: Rows::new(layout),
            open: None,
            finished: Vec::new(),
            written,
            marked: written,
            closes_early: false,
            is_lost: false,
        }
    }

    /// Returns the number of rows, including those in memory.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.rows.len() as u64
    }

    /// Returns the size of the rows in memory, in bytes of JSON.
    pub(crate) fn buffered(&self) -> usize {
        self.rows.bytes()
    }

    /// Adds a record. The inner error means that it does not fit into the columns.
    pub(crate) fn push(&mut self, record: &[u8]) -> io::Result<Result<(), Misfit>> {
        let Ok(record) = std::str::from_utf8(record) else { return Ok(Err(Misfit::NotText)) };
        if let Err(misfit) = self.rows.push(record) {
            return Ok(Err(misfit));
        }
        if self.rows.is_full() {
            self.flush()?;
        }
        Ok(Ok(()))
    }

    /// Uses other columns for the following records, in a new part.
    pub(crate) fn set_layout(&mut self, layout: &Arc<Layout>) -> io::Result<()> {
        if self.rows.layout() == layout {
            return Ok(());
        }
        while self.rows.len() > 0 {
            self.flush()?;
        }
        self.finish_open()?;
        self.rows = Rows::new(layout.clone());
        Ok(())
    }

    /// Sets the mark: everything up to here belongs to a state.
    pub(crate) fn mark(&mut self) {
        self.marked = self.len();
    }

    /// Writes rows that are in memory: those before the mark if there are any, otherwise all.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let before_mark = usize::try_from(self.marked.saturating_sub(self.written)).unwrap_or(usize::MAX).min(self.rows.len());
        let count = if before_mark > 0 { before_mark } else { self.rows.len() };
        if count == 0 {
            return Ok(());
        }
        if before_mark == 0 && self.open.is_some() && self.written <= self.marked {
            // The rows of the open part are before the mark, and these are not.
            self.finish_open()?;
        }
        let start = self.written;
        let mut part = match self.open.take() {
            Some(part) => part,
            None => Part::create(&self.dir, &self.file, self.rows.layout(), start)?,
        };
        self.written += count as u64;
        // Rows that could not be written are gone from memory: the run fails, and the next one continues from the stored state.
        let result = self.rows.write(count, &mut part.writer).map_err(io_error).inspect_err(|_| self.is_lost = true);
        let is_large = part.writer.bytes_written() >= MAX_PART;
        self.open = Some(part);
        result?;
        if is_large || self.closes_early { self.finish_open() } else { Ok(()) }
    }

    /// Completes all parts up to the mark, on disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.is_lost {
            return Err(io::Error::other("an earlier write to disk failed"));
        }
        if self.written < self.marked {
            self.flush()?;
        }
        if self.written <= self.marked { self.finish_open() } else { Ok(()) }
    }

    fn finish_open(&mut self) -> io::Result<()> {
        let Some(part) = self.open.take() else { return Ok(()) };
        let finished = Finished { path: part.path.clone(), start: part.start, end: self.written };
        // Also if it fails: `cut` removes the file.
        self.finished.push(finished);
        part.finish().inspect_err(|_| self.is_lost = true)
    }

    /// Removes everything after this position: the last mark, or one that is stored.
    pub(crate) fn cut(&mut self, len: u64) -> io::Result<()> {
        self.marked = self.marked.min(len);
        if len >= self.written {
            self.rows.truncate(usize::try_from(len - self.written).unwrap_or(usize::MAX));
            return Ok(());
        }
        self.rows.truncate(0);
        if let Some(part) = self.open.take() {
            self.written = part.start;
            fs::remove_file(&part.path)?;
        }
        while let Some(last) = self.finished.pop_if(|last| last.end > len) {
            self.written = last.start;
            fs::remove_file(&last.path)?;
        }
        if self.written == len { Ok(()) } else { Err(io::Error::other("a part contains rows before and after the last state")) }
    }

    /// Returns the temporary files of complete parts up to the mark, in order.
    pub(crate) fn finished(&self) -> impl Iterator<Item = &Path> {
        self.finished.iter().filter(|part| part.end <= self.marked).map(|part| &*part.path)
    }

    /// The parts up to the mark have their names now.
    pub(crate) fn published(&mut self) {
        let marked = self.marked;
        self.finished.retain(|part| part.end > marked);
    }

    /// Keeps no file open between row groups.
    pub(crate) fn close_early(&mut self) {
        self.closes_early = true;
    }
}

impl Part {
    fn create(dir: &Path, file: &str, layout: &Layout, start: u64) -> io::Result<Self> {
        let temporary = tempfile::Builder::new().prefix(&format!(".{file}.")).suffix(UNFINISHED).tempfile_in(dir)?;
        // The next run removes what this one leaves.
        let (file, path) = temporary.keep().map_err(|e| e.error)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let schema = layout.parquet_type().map_err(io_error)?;
        let writer = SerializedFileWriter::new(BufWriter::new(file), schema, Arc::new(properties)).map_err(io_error)?;
        Ok(Self { path, writer, start })
    }

    fn finish(self) -> io::Result<()> {
        let file = self.writer.into_inner().map_err(io_error)?.into_inner().map_err(|e| e.into_error())?;
        file.sync_all()
    }
}

/// Returns the error of the system, if it is one: a full disk has its own message.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests;
