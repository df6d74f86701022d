//! Where the records of a version go: lines that are appended to one file, or Parquet files. Uses [`appender`](crate::appender) and
//! [`parts`](crate::parts).

use crate::appender::Appender;
use crate::layout::Layout;
use crate::parts::Parts;
use crate::rows::Misfit;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The records of a version. Positions are bytes of lines, or rows of parts.
#[derive(Debug)]
pub(crate) enum RecordFile {
    Lines(Appender),
    Parts(Box<Parts>),
}

impl RecordFile {
    /// Adds a record. The inner error means that it does not fit into the columns.
    pub(crate) fn push(&mut self, record: &str) -> io::Result<Result<(), Misfit>> {
        match self {
            Self::Lines(lines) => lines.line(record.as_bytes()).map(Ok),
            Self::Parts(parts) => parts.push(record),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Lines(lines) => lines.len(),
            Self::Parts(parts) => parts.len(),
        }
    }

    pub(crate) fn mark(&mut self) {
        if let Self::Parts(parts) = self {
            parts.mark();
        }
    }

    /// Writes everything to disk; of parts, everything up to the mark.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(lines) => lines.sync(),
            Self::Parts(parts) => parts.sync(),
        }
    }

    pub(crate) fn cut(&mut self, len: u64) -> io::Result<()> {
        match self {
            Self::Lines(lines) => lines.cut(len),
            Self::Parts(parts) => parts.cut(len),
        }
    }

    /// Closes files until they are needed again.
    pub(crate) fn release(&mut self) {
        match self {
            Self::Lines(lines) => lines.release(),
            Self::Parts(parts) => parts.close_early(),
        }
    }

    pub(crate) fn renamed(&mut self, path: PathBuf) {
        if let Self::Lines(lines) = self {
            lines.renamed(path);
        }
    }

    pub(crate) fn set_layout(&mut self, layout: &Arc<Layout>) -> io::Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::Parts(parts) => parts.set_layout(layout),
        }
    }

    /// Returns the size of what waits in memory, in bytes.
    pub(crate) fn buffered(&self) -> usize {
        match self {
            Self::Lines(_) => 0,
            Self::Parts(parts) => parts.buffered(),
        }
    }

    /// Writes rows that wait in memory.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::Parts(parts) => parts.flush(),
        }
    }

    /// Returns the temporary files of complete parts up to the mark, in order.
    pub(crate) fn finished(&self) -> Vec<&Path> {
        match self {
            Self::Lines(_) => Vec::new(),
            Self::Parts(parts) => parts.finished().collect(),
        }
    }

    pub(crate) fn published(&mut self) {
        if let Self::Parts(parts) = self {
            parts.published();
        }
    }
}
