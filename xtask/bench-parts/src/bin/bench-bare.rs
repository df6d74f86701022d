//! Opens the libraries of a directory and reads, with positioned reads, what `jobs list` must read: the ELF header with the segments, the
//! section headers, the names of sections, the manifest, and the required versions of other libraries. Interprets only the offsets, and
//! prints nothing.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).ok_or_else(|| Error::other("usage: bench-bare DIR"))?;
    let mut names = std::fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    for name in names {
        read(&Path::new(&dir).join(name))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.metadata()?;
    let first = bytes(&file, 0, 1024)?;
    let headers = bytes(&file, number(&first, 0x28, 8)?, number(&first, 0x3a, 2)? * number(&first, 0x3c, 2)?)?;
    let headers: Vec<&[u8]> = headers.chunks_exact(64).collect();
    let place = |header: &[u8]| Ok::<_, Error>((number(header, 0x18, 8)?, number(header, 0x20, 8)?));
    let names_at = usize::try_from(number(&first, 0x3e, 2)?).unwrap_or(usize::MAX);
    let (start, len) = place(headers.get(names_at).ok_or_else(malformed)?)?;
    let names = bytes(&file, start, len)?;
    let mut found = 0;
    for header in headers {
        let name = names.get(usize::try_from(number(header, 0, 4)?).unwrap_or(usize::MAX)..).ok_or_else(malformed)?;
        if name.starts_with(b".lorchestra\0") || name.starts_with(b".gnu.version_r\0") {
            let (start, len) = place(header)?;
            std::hint::black_box(bytes(&file, start, len)?);
            found += 1;
        }
    }
    if found == 2 { Ok(()) } else { Err(malformed()) }
}

fn bytes(file: &File, start: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| malformed())?];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// A little-endian number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + len).ok_or_else(malformed)?;
    Ok(bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

fn malformed() -> Error {
    ErrorKind::InvalidData.into()
}
