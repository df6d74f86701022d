//! Reads a log from its beginning, also while it is written. Reports bytes that are missing between two files of the log.

use super::{Part, parts};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Reads the files of a log, one after the other.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: Option<File>,
    /// Offset of the file that was opened or passed last.
    from: Option<u64>,
    /// Number of bytes read or missing so far.
    at: u64,
}

/// What [`LogReader::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogChunk {
    /// This many bytes are in the buffer.
    Bytes(usize),
    /// The log has not kept these bytes.
    Missing {
        /// Offset of the first one.
        after: u64,
        /// How many.
        bytes: u64,
    },
    /// There is nothing more for now.
    End,
}

impl LogReader {
    /// Begins before the first byte. The log need not exist yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, from: None, at: 0 }
    }

    /// Whether the log existed.
    #[must_use]
    pub fn found(&self) -> bool {
        self.from.is_some()
    }

    /// Reads the next bytes. After [`LogChunk::End`] it may be called again, to read what was written in the meantime.
    ///
    /// # Errors
    /// If a file of the log cannot be read.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<LogChunk> {
        loop {
            // List the files before reading the open one: if there is a next file, the open one was complete by then.
            let next = parts(&self.path)?.into_iter().find(|part| self.from.is_none_or(|from| part.from > from));
            if let Some(file) = &mut self.file {
                let n = file.read(buffer)?;
                if n > 0 {
                    self.at += n as u64;
                    return Ok(LogChunk::Bytes(n));
                }
            }
            let Some(Part { from, path }) = next else { return Ok(LogChunk::End) };
            self.from = Some(from);
            match crate::host::files::regular_file(&path) {
                Ok(file) => self.file = Some(file),
                // The run continues and has removed it: its bytes are missing.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.file = None;
                    continue;
                }
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
            }
            if from > self.at {
                let chunk = LogChunk::Missing { after: self.at, bytes: from - self.at };
                self.at = from;
                return Ok(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Log, MIN_MAX};
    use super::*;

    fn all(reader: &mut LogReader) -> (Vec<u8>, u64) {
        let (mut bytes, mut missing, mut buffer) = (Vec::new(), 0, [0; 100]);
        loop {
            match reader.read(&mut buffer).unwrap() {
                LogChunk::Bytes(n) => bytes.extend_from_slice(&buffer[..n]),
                LogChunk::Missing { bytes, .. } => missing += bytes,
                LogChunk::End => return (bytes, missing),
            }
        }
    }

    #[test]
    fn a_growing_log_is_read_completely_and_what_it_dropped_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.out");
        let mut reader = LogReader::new(&path);
        assert_eq!((all(&mut reader), reader.found()), ((Vec::new(), 0), false));
        let mut log = Log::open(&path, MIN_MAX).unwrap();
        let (mut written, mut read) = (Vec::new(), Vec::new());
        for n in 0..20_u8 {
            let bytes = vec![n; 500];
            log.write(&bytes);
            written.extend_from_slice(&bytes);
            let (bytes, missing) = all(&mut reader);
            assert_eq!(missing, 0);
            read.extend(bytes);
        }
        assert_eq!((read == written, reader.found()), (true, true));
        let (late, missing) = all(&mut LogReader::new(&path));
        assert_eq!(late.len() as u64 + missing, written.len() as u64);
        assert!(missing > 0 && written.ends_with(&late[late.len() - 1000..]));
    }
}
