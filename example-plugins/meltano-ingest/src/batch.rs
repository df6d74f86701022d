//! The files of a BATCH message: JSON Lines on this machine, plain or compressed with gzip, as taps of the Meltano SDK write
//! them. A line is a record, not a message.
//!
//! The files are not removed, as Meltano's targets do not remove them.

use crate::message::{Encoding, Text};
use flate2::read::MultiGzDecoder;
use package_support::lines::MAX_LINE;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Why the records of a BATCH message cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("batch files of format {0} are not supported; set `encoding` of the tap's batch_config to jsonl")]
    Format(String),
    #[error("batch files with compression {0} are not supported; set it to gzip or none in the tap's batch_config")]
    Compression(String),
    #[error(
        "batch files in {0} storage are not supported; set `storage` of the tap's batch_config to a local directory (file://…)"
    )]
    Storage(String),
    #[error("cannot read the batch file {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of the batch file {} is longer than {} MiB", .path.display(), MAX_LINE >> 20)]
    TooLong { path: PathBuf, line: u64 },
    #[error("line {line} of the batch file {} is not JSON; see the line in the log of this run", .path.display())]
    NotJson { path: PathBuf, line: u64 },
}

impl BatchError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Format(_) | Self::Compression(_) | Self::Storage(_))
    }
}

/// One batch file, read line by line.
pub(crate) struct BatchFile {
    pub(crate) path: PathBuf,
    reader: Box<dyn BufRead>,
    /// Number of lines read.
    pub(crate) lines: u64,
}

impl BatchFile {
    /// Opens the file of a URL in the manifest.
    pub(crate) fn open(url: &Text<'_>, encoding: &Encoding<'_>) -> Result<Self, BatchError> {
        let name = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric()).take(40).collect::<String>();
        if encoding.format != "jsonl" {
            return Err(BatchError::Format(name(&encoding.format)));
        }
        let is_compressed = match encoding.compression.as_ref().map(|text| &*text.0) {
            None | Some("" | "none") => false,
            Some("gzip") => true,
            Some(other) => return Err(BatchError::Compression(name(other))),
        };
        let path = local_path(&url.0).ok_or_else(|| BatchError::Storage(name(url.0.split(':').next().unwrap_or_default())))?;
        let file = File::open(&path).map_err(|source| BatchError::Read { path: path.clone(), source })?;
        let file = BufReader::with_capacity(256 << 10, file);
        let reader: Box<dyn BufRead> =
            if is_compressed { Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(file))) } else { Box::new(file) };
        Ok(Self { path, reader, lines: 0 })
    }

    /// Reads the next line, without its line ending; `false` at the end of the file.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, BatchError> {
        line.clear();
        let read = self.reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', line);
        if read.map_err(|source| BatchError::Read { path: self.path.clone(), source })? == 0 {
            return Ok(false);
        }
        self.lines += 1;
        if line.len() as u64 > MAX_LINE {
            return Err(BatchError::TooLong { path: self.path.clone(), line: self.lines });
        }
        line.truncate(line.trim_ascii_end().len());
        Ok(true)
    }
}

/// The path of a `file:` URL of this machine, or of an absolute path.
fn local_path(url: &str) -> Option<PathBuf> {
    if url.starts_with('/') {
        return Some(url.into());
    }
    let rest = url.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return None;
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let [byte, more @ ..] = rest {
        let hex = more.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &more[2..];
            }
            None => {
                bytes.push(*byte);
                rest = more;
            }
        }
    }
    Some(OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_this_machine_is_a_path() {
        for (url, path) in [
            ("file:///tmp/a%20b/c%C3%A9%2.gz", Some("/tmp/a b/cé%2.gz")),
            ("file://localhost/a", Some("/a")),
            ("/a%20b", Some("/a%20b")),
            ("file://host/a", None),
            ("s3://bucket/a", None),
            ("a", None),
        ] {
            assert_eq!(local_path(url), path.map(PathBuf::from), "{url}");
        }
    }
}
