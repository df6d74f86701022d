//! Records of a version as Parquet files, called parts. Uses [`rows`](crate::rows).
//!
//! A part is written under a temporary name and is complete (with its footer, on disk) before it gets its name, which
//! [`archive`](crate::archive) does after the checkpoint has both names. Positions are numbers of rows.
//!
//! A part has one layout. A stream whose schema alternates between a few forms has a lane for each: rows that wait in memory and an open
//! part. So each change of the schema does not begin a file.
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
/// Maximum number of layouts with open parts: with two hundred streams, that many files may be open.
const MAX_LANES: usize = 4;
/// What the footer needs in memory until the part is finished, for each column of a row group, in bytes (measured).
const FOOTER_ENTRY: usize = 1 << 10;
/// Size in memory at which a footer is written: thousands of columns need as much as the rows.
const MAX_FOOTER: usize = 16 << 20;

/// The parts of a version that this run has written, and the rows that are not written yet.
#[derive(Debug)]
pub(crate) struct Parts {
    dir: PathBuf,
    /// Start of the names of temporary files.
    file: String,
    /// In the order of their first records. At least one.
    lanes: Vec<Lane>,
    /// The lane of the current layout.
    current: usize,
    finished: Vec<Finished>,
    /// Rows of all parts, also of earlier runs, and in memory.
    len: u64,
    /// Rows up to the last mark.
    marked: u64,
    /// Rows up to the mark that is in the checkpoint.
    kept: u64,
    /// Whether a part is finished after each row group, because there are too many streams to keep their files open.
    closes_early: bool,
    /// Whether writing has failed: then no part of this run can be completed.
    is_lost: bool,
}

/// Records of one layout.
#[derive(Debug)]
struct Lane {
    rows: Rows,
    /// Number of the rows in memory that are before the mark.
    marked_rows: usize,
    open: Option<Part>,
    /// Position when this became the current lane.
    used: u64,
}

/// A part that is being written.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    writer: SerializedFileWriter<BufWriter<File>>,
    /// Whether all of its rows are before the mark; otherwise none is.
    is_marked: bool,
    footer_bytes: usize,
}

/// A complete part under its temporary name.
#[derive(Debug)]
struct Finished {
    path: PathBuf,
    is_marked: bool,
}

impl Parts {
    /// Continues after this many rows.
    pub(crate) fn new(dir: &Path, file: &str, layout: Arc<Layout>, written: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            file: file.to_owned(),
            lanes: vec![Lane::new(layout, written)],
            current: 0,
            finished: Vec::new(),
            len: written,
            marked: written,
            kept: written,
            closes_early: false,
            is_lost: false,
        }
    }

    /// Returns the number of rows, including those in memory.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the size of what waits in memory, in bytes.
    pub(crate) fn buffered(&self) -> usize {
        self.lanes.iter().map(|lane| lane.rows.bytes() + lane.footer_bytes()).sum()
    }

    /// Adds a record. The inner error means that it does not fit into the columns.
    pub(crate) fn push(&mut self, record: &str) -> io::Result<Result<(), Misfit>> {
        let rows = &mut self.lanes[self.current].rows;
        if let Err(misfit) = rows.push(record) {
            return Ok(Err(misfit));
        }
        self.len += 1;
        if rows.is_full() {
            self.flush_lane(self.current)?;
        }
        Ok(Ok(()))
    }

    /// Uses these columns for the following records.
    pub(crate) fn set_layout(&mut self, layout: &Arc<Layout>) -> io::Result<()> {
        if let Some(at) = self.lanes.iter().position(|lane| lane.rows.layout() == layout) {
            self.current = at;
            self.lanes[at].used = self.len;
            return Ok(());
        }
        if self.lanes.len() >= MAX_LANES {
            let least = (0..self.lanes.len()).min_by_key(|at| self.lanes[*at].used).unwrap_or_default();
            while self.lanes[least].rows.len() > 0 {
                self.flush_lane(least)?;
            }
            self.finish_open(least)?;
            self.lanes.remove(least);
        }
        self.current = self.lanes.len();
        self.lanes.push(Lane::new(layout.clone(), self.len));
        Ok(())
    }

    /// Sets the mark: everything up to here belongs to a state.
    pub(crate) fn mark(&mut self) {
        for lane in &mut self.lanes {
            lane.marked_rows = lane.rows.len();
            if let Some(part) = &mut lane.open {
                part.is_marked = true;
            }
        }
        self.finished.iter_mut().for_each(|part| part.is_marked = true);
        self.marked = self.len;
    }

    /// Writes rows that are in memory: of each lane those before the mark if there are any, otherwise all.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        for at in 0..self.lanes.len() {
            self.flush_lane(at)?;
            // If a few large footers are written early, many streams do not add up.
            if self.lanes[at].footer_bytes() >= MAX_FOOTER / 16 {
                self.finish_open(at)?;
            }
        }
        Ok(())
    }

    fn flush_lane(&mut self, at: usize) -> io::Result<()> {
        let is_marked = self.lanes[at].marked_rows > 0;
        if !is_marked && self.lanes[at].rows.len() > 0 && self.lanes[at].open.as_ref().is_some_and(|part| part.is_marked) {
            self.finish_open(at)?;
        }
        let lane = &mut self.lanes[at];
        let count = if is_marked { std::mem::take(&mut lane.marked_rows) } else { lane.rows.len() };
        if count == 0 {
            return Ok(());
        }
        let part = match &mut lane.open {
            Some(part) => part,
            none => none.insert(Part::create(&self.dir, &self.file, lane.rows.layout(), is_marked)?),
        };
        // Rows that could not be written are gone from memory: the run fails, and the next one continues from the stored state.
        lane.rows.write(count, &mut part.writer).map_err(io_error).inspect_err(|_| self.is_lost = true)?;
        part.footer_bytes += lane.rows.layout().columns.len() * FOOTER_ENTRY;
        let is_large = part.writer.bytes_written() >= MAX_PART || part.footer_bytes >= MAX_FOOTER;
        if is_large || self.closes_early { self.finish_open(at) } else { Ok(()) }
    }

    /// Completes all parts up to the mark, on disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.is_lost {
            return Err(io::Error::other("an earlier write to disk failed"));
        }
        for at in 0..self.lanes.len() {
            if self.lanes[at].marked_rows > 0 {
                self.flush_lane(at)?;
            }
            if self.lanes[at].open.as_ref().is_some_and(|part| part.is_marked) {
                self.finish_open(at)?;
            }
        }
        Ok(())
    }

    fn finish_open(&mut self, at: usize) -> io::Result<()> {
        let Some(part) = self.lanes[at].open.take() else { return Ok(()) };
        // Also if it fails: `cut` removes the file.
        self.finished.push(Finished { path: part.path.clone(), is_marked: part.is_marked });
        part.finish().inspect_err(|_| self.is_lost = true)
    }

    /// Removes everything after this position: the last mark, or the one that is stored.
    pub(crate) fn cut(&mut self, len: u64) -> io::Result<()> {
        let keeps_marked = len == self.marked;
        if !keeps_marked && len != self.kept {
            let (marked, kept) = (self.marked, self.kept);
            return Err(io::Error::other(format!("row {len} is no state: the last ones are {marked} and {kept}")));
        }
        (self.len, self.marked) = (len, len);
        for lane in &mut self.lanes {
            let marked_rows = if keeps_marked { lane.marked_rows } else { 0 };
            lane.rows.truncate(marked_rows);
            lane.marked_rows = marked_rows;
            if let Some(part) = lane.open.take_if(|part| !keeps_marked || !part.is_marked) {
                fs::remove_file(&part.path)?;
            }
        }
        for part in self.finished.extract_if(.., |part| !keeps_marked || !part.is_marked) {
            fs::remove_file(&part.path)?;
        }
        Ok(())
    }

    /// Returns the temporary files of complete parts up to the mark.
    pub(crate) fn finished(&self) -> impl Iterator<Item = &Path> {
        self.finished.iter().filter(|part| part.is_marked).map(|part| &*part.path)
    }

    /// The parts up to the mark have their names now.
    pub(crate) fn published(&mut self) {
        self.finished.retain(|part| !part.is_marked);
        self.kept = self.marked;
    }

    /// Keeps no file open between row groups.
    pub(crate) fn close_early(&mut self) {
        self.closes_early = true;
    }
}

impl Lane {
    fn new(layout: Arc<Layout>, used: u64) -> Self {
        Self { rows: Rows::new(layout), marked_rows: 0, open: None, used }
    }

    fn footer_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |part| part.footer_bytes)
    }
}

impl Part {
    fn create(dir: &Path, file: &str, layout: &Layout, is_marked: bool) -> io::Result<Self> {
        let temporary = tempfile::Builder::new().prefix(&format!(".{file}.")).suffix(UNFINISHED).tempfile_in(dir)?;
        // The next run removes what this one leaves.
        let (file, path) = temporary.keep().map_err(|e| e.error)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let schema = layout.parquet_type().map_err(io_error)?;
        let writer = SerializedFileWriter::new(BufWriter::new(file), schema, Arc::new(properties)).map_err(io_error)?;
        Ok(Self { path, writer, is_marked, footer_bytes: 0 })
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
