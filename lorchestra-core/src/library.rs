//! The bytes of one plugin, as they will be run.
//!
//! The supervisor copies the file into a sealed memory file and reads manifest and checksum *from that*; the worker loads
//! exactly those bytes. Whatever happens to the file on disk meanwhile (replaced, overwritten in place, truncated) cannot
//! change what runs, nor kill the worker.

use crate::catalog::{self, Fault};
use crate::locks::hex;
use lorchestra_plugin_api::manifest::Manifest;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::FdFlags;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// A plugin's bytes, sealed.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    memory: File,
    sha256: String,
    manifest: Manifest,
}

impl Library {
    /// Copies and checks the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let unreadable = |e: io::Error| Fault::unreadable(path, &e);
        // One byte more than is allowed is enough to be refused below, however fast the file grows.
        let mut file = catalog::open(path)?.take(catalog::MAX_FILE + 1);
        let memory = rustix::fs::memfd_create("lorchestra-plugin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map(File::from)
            .map_err(|e| unreadable(e.into()))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(unreadable(e)),
            };
            hasher.update(&buffer[..n]);
            (&memory).write_all(&buffer[..n]).map_err(unreadable)?;
        }
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&memory, seals).map_err(|e| unreadable(e.into()))?;
        let manifest = catalog::inspect(&memory)?;
        Ok(Self { path: path.to_owned(), memory, sha256: hex(&hasher.finalize()), manifest })
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

    /// Lets children inherit the descriptor while `work` runs, and hands `work` its number.
    pub(crate) fn inheritable<T>(&self, work: impl FnOnce(RawFd) -> io::Result<T>) -> io::Result<T> {
        rustix::io::fcntl_setfd(&self.memory, FdFlags::empty())?;
        let result = work(self.memory.as_raw_fd());
        rustix::io::fcntl_setfd(&self.memory, FdFlags::CLOEXEC)?;
        result
    }
}

/// sha256 of a file's bytes, in hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}
