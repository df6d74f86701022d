//! The bytes of one plugin, as they will be run.
//!
//! The supervisor copies the file into a sealed memory file and reads manifest and checksum *from that*; the worker loads
//! exactly those bytes. Whatever happens to the file on disk meanwhile (replaced, overwritten in place, truncated) cannot
//! change what runs, nor kill the worker.

use crate::host::limits::{self, Doing, Limit};
use crate::host::locks::hex;
use crate::packages::catalog::{self, FileFault, Reason};
use lorchestra_plugin_api::manifest::Manifest;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A plugin's bytes, sealed.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    memory: File,
    sha256: String,
    manifest: Manifest,
}

impl Library {
    /// Copies and checks the file at `path`, which nobody else may be able to change ([`catalog::trust`]).
    pub fn open(path: &Path) -> Result<Self, FileFault> {
        Self::copy(path, catalog::open_trusted(path)?)
    }

    /// The same of a file that a person named, wherever it is and whoever's it is: to be looked at or installed.
    pub fn named(path: &Path) -> Result<Self, FileFault> {
        Self::copy(path, catalog::open(path)?)
    }

    fn copy(path: &Path, file: File) -> Result<Self, FileFault> {
        let unreadable = |e: io::Error| FileFault::unreadable(path, &e);
        // Before anything is copied: what it has now may be as much as the memory of this host.
        let len = file.metadata().map_err(unreadable)?.len();
        if len > catalog::MAX_FILE {
            return Err(catalog::too_large(len));
        }
        // What is refused by its header or its manifest is not copied. Looked at again in the copy: it may change until then.
        catalog::inspect(&file)?;
        // One byte more than is allowed is enough to be refused below, however fast the file grows.
        let mut file = file.take(catalog::MAX_FILE + 1);
        let memory = rustix::fs::memfd_create("lorchestra-plugin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map(File::from)
            .map_err(|e| no_memory_file(path, e.into()))?;
        let sha256 = digest(|buffer| {
            let n = file.read(buffer)?;
            (&memory).write_all(&buffer[..n]).map(|()| n)
        })
        .map_err(unreadable)?;
        seal(&memory).map_err(unreadable)?;
        let manifest = catalog::inspect(&memory)?;
        Ok(Self { path: path.to_owned(), memory, sha256, manifest })
    }

    /// Where the bytes were read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the bytes, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The manifest in the bytes.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of the bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.memory.metadata()?.len())
    }

    /// Writes the bytes out.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        loop {
            let n = self.memory.read_at(&mut buffer, at)?;
            if n == 0 {
                return Ok(());
            }
            out.write_all(&buffer[..n])?;
            at += n as u64;
        }
    }

    /// The newest glibc that it asks for, and this host's; each where it is known.
    pub fn needed_glibc(&self) -> (Option<String>, Option<String>) {
        catalog::needed_glibc(&self.memory)
    }

    /// Lets children inherit the descriptor while `work` runs, and hands `work` its number.
    pub(crate) fn inheritable<T>(&self, work: impl FnOnce(RawFd) -> io::Result<T>) -> io::Result<T> {
        rustix::io::fcntl_setfd(&self.memory, FdFlags::empty())?;
        let result = work(self.memory.as_raw_fd());
        rustix::io::fcntl_setfd(&self.memory, FdFlags::CLOEXEC)?;
        result
    }
}

/// The library cannot be copied into memory; it may be as good as any.
fn no_memory_file(path: &Path, error: io::Error) -> FileFault {
    match limits::behind(&error, Doing::Memory) {
        Some(Limit { what, hint }) => FileFault::new(Reason::Unreadable, format!("{what}: {error}"), hint),
        None => FileFault::unreadable(path, &error),
    }
}

/// Tries to seal before it is given up, and the wait between two.
const SEAL_TRIES: u32 = 100;
const SEAL_WAIT: Duration = Duration::from_millis(20);

/// Makes the memory file's bytes unchangeable. The kernel refuses (EBUSY) while one of its pages is held for a moment by somebody else,
/// as its own writing to the LRU lists of another processor, and it looks at that for a tenth of a second only (seen under load).
fn seal(memory: &File) -> io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    for _ in 1..SEAL_TRIES {
        match rustix::fs::fcntl_add_seals(memory, seals) {
            Err(Errno::BUSY) => std::thread::sleep(SEAL_WAIT),
            result => return Ok(result?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(memory, seals)?)
}

/// Bytes that are read at once: few calls, and what was read is still near when it is hashed.
const CHUNK: usize = 256 << 10;

/// sha256 of what `read` puts into the buffer until there is no more, in hexadecimal.
fn digest(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// sha256 of a file's bytes, in hexadecimal. Reads no more than a library may have.
pub fn sha256(path: &Path) -> Result<String, FileFault> {
    let unreadable = |e: io::Error| FileFault::unreadable(path, &e);
    let file = catalog::open(path)?;
    let len = file.metadata().map_err(unreadable)?.len();
    if len > catalog::MAX_FILE {
        return Err(catalog::too_large(len));
    }
    // It may grow as fast as it is read.
    let mut file = file.take(catalog::MAX_FILE + 1);
    let sha256 = digest(|buffer| file.read(buffer)).map_err(unreadable)?;
    if file.limit() == 0 { Err(catalog::too_large(catalog::MAX_FILE + 1)) } else { Ok(sha256) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that was put in the place of a library after it was listed: a terabyte of nothing is not read to its end.
    #[test]
    fn what_is_larger_than_any_library_is_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endless.so");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(sha256(&path).unwrap_err().reason, Reason::TooLarge);
        // Nor copied: the fault has the file's own length, not that of as much of it as was copied.
        let fault = Library::named(&path).unwrap_err();
        assert!(fault.reason == Reason::TooLarge && fault.detail.contains(&(1_u64 << 40).to_string()), "{fault:?}");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
