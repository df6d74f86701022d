//! The bytes of one plugin, exactly as they will run.
//!
//! The supervisor copies the file into a sealed memory file. It reads the manifest *from that copy*, and the checksum is that of the bytes
//! that were copied; the worker loads exactly those bytes. Changes of the file on disk in the meantime (replaced, overwritten in place,
//! truncated) cannot change what runs, nor kill the worker.

use crate::host::limits::{self, Limit, RefusedOperation};
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
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A plugin's bytes, sealed.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    memory: File,
    sha256: Checksum,
    manifest: Manifest,
}

impl Library {
    /// Copies and checks the file at `path`, which no one else may be able to change ([`catalog::trust`]).
    pub fn open(path: &Path) -> Result<Self, FileFault> {
        Self::copy(path, catalog::open_trusted(path)?)
    }

    /// Copies and checks a file that a person named, with any owner, to inspect or install it.
    pub fn named(path: &Path) -> Result<Self, FileFault> {
        Self::copy(path, catalog::open(path)?)
    }

    fn copy(path: &Path, file: File) -> Result<Self, FileFault> {
        let unreadable = |e: io::Error| FileFault::unreadable(path, &e);
        // Checked before copying: the file may be as large as the memory of this host.
        let len = file.metadata().map_err(unreadable)?.len();
        if len > catalog::MAX_FILE {
            return Err(catalog::too_large(len));
        }
        // Do not copy much of what header or manifest already disqualify. Checked again in the copy, since the file may change.
        if len > SMALL {
            catalog::inspect(&file)?;
        }
        let memory = rustix::fs::memfd_create("lorchestra-plugin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map(File::from)
            .map_err(|e| no_memory_file(path, e.into()))?;
        // One byte more than allowed is enough for the check below to refuse it, however fast the file grows.
        copy_bytes(&file, &memory, catalog::MAX_FILE + 1).map_err(unreadable)?;
        seal(&memory).map_err(unreadable)?;
        let sha256 = Checksum::of(&memory).map_err(unreadable)?;
        let manifest = catalog::inspect(&memory)?;
        Ok(Self { path: path.to_owned(), memory, sha256, manifest })
    }

    /// The path from which the bytes were read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the bytes in hexadecimal. Computes it or waits for it: ask for it as late as possible.
    pub fn sha256(&self) -> &str {
        self.sha256.get(&self.memory)
    }

    /// The manifest in these bytes.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.memory.metadata()?.len())
    }

    /// Writes the bytes to `out`.
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

    /// Returns the newest glibc version that it requires, and this host's; `None` if unknown.
    pub fn needed_glibc(&self) -> (Option<String>, Option<String>) {
        catalog::needed_glibc(&self.memory)
    }

    /// Lets children inherit the descriptor while `work` runs, and passes its number to `work`.
    pub(crate) fn inheritable<T>(&self, work: impl FnOnce(RawFd) -> io::Result<T>) -> io::Result<T> {
        rustix::io::fcntl_setfd(&self.memory, FdFlags::empty())?;
        let result = work(self.memory.as_raw_fd());
        rustix::io::fcntl_setfd(&self.memory, FdFlags::CLOEXEC)?;
        result
    }
}

/// A checksum that is computed while the run's worker starts: a large one by another thread, a small one by its first user. A
/// thread that still computes when the worker is started keeps the processor on which the run would continue: on two processors that took
/// longer than the checksum of a small library.
#[derive(Debug)]
struct Checksum {
    text: OnceLock<String>,
    hashing: Mutex<Option<JoinHandle<io::Result<String>>>>,
}

impl Checksum {
    /// The checksum of a sealed file. Not earlier: the kernel does not seal a file while another thread reads it.
    fn of(memory: &File) -> io::Result<Self> {
        let mut hashing = None;
        if memory.metadata()?.len() > SMALL {
            let copy = memory.try_clone()?;
            // With a limit on the number of threads, it is computed when it is asked for.
            hashing = thread::Builder::new().name("checksum".into()).spawn(move || digest_of(&copy)).ok();
        }
        Ok(Self { text: OnceLock::new(), hashing: Mutex::new(hashing) })
    }

    fn get(&self, memory: &File) -> &str {
        self.text.get_or_init(|| {
            let hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner).take();
            let digest = match hashing.map(JoinHandle::join) {
                Some(Ok(digest)) => digest,
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => digest_of(memory),
            };
            digest.unwrap_or_else(|error| panic!("a sealed copy in memory cannot be read: {error}"))
        })
    }
}

/// Copies up to `max` bytes within the kernel, or with a buffer if the file system does not support that.
fn copy_bytes(from: &File, to: &File, max: u64) -> io::Result<()> {
    let mut left = max;
    while left > 0 {
        match rustix::fs::sendfile(to, from, None, usize::try_from(left).unwrap_or(usize::MAX)) {
            Ok(0) => break,
            Ok(n) => left -= n as u64,
            Err(Errno::INTR) => {}
            // Both files have moved on by what was copied.
            Err(Errno::INVAL | Errno::NOSYS) => return io::copy(&mut from.take(left), &mut &*to).map(drop),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The library cannot be copied into memory, although it may be valid.
fn no_memory_file(path: &Path, error: io::Error) -> FileFault {
    match limits::behind(&error, RefusedOperation::Memory) {
        Some(Limit { what, hint }) => FileFault::new(Reason::Unreadable, format!("{what}: {error}"), hint),
        None => FileFault::unreadable(path, &error),
    }
}

/// Number of attempts to seal the file, and the delay between them.
const SEAL_TRIES: u32 = 100;
const SEAL_WAIT: Duration = Duration::from_millis(20);

/// Makes the memory file immutable. The kernel refuses (EBUSY) while something briefly holds one of its pages, for example the LRU lists of
/// another processor, and itself retries only for a tenth of a second (observed under load).
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

/// Number of bytes to read at once: few calls, and the data is still in the cache when it is hashed.
const CHUNK: usize = 64 << 10;
/// A file that is copied in less time than it takes to check it first, and hashed in about the time that a worker needs to start.
const SMALL: u64 = 4 << 20;

/// SHA-256, in hexadecimal, of everything that `read` writes into the buffer until it returns 0.
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

/// SHA-256 of a file's bytes in hexadecimal, from its beginning.
fn digest_of(file: &File) -> io::Result<String> {
    let mut at = 0;
    digest(|buffer| {
        let n = file.read_at(buffer, at)?;
        at += n as u64;
        Ok(n)
    })
}

/// SHA-256 of a file's bytes in hexadecimal. Reads at most the maximum size of a library.
pub fn sha256(path: &Path) -> Result<String, FileFault> {
    let unreadable = |e: io::Error| FileFault::unreadable(path, &e);
    let file = catalog::open(path)?;
    let len = file.metadata().map_err(unreadable)?.len();
    if len > catalog::MAX_FILE {
        return Err(catalog::too_large(len));
    }
    // The file may grow while it is read.
    let mut file = file.take(catalog::MAX_FILE + 1);
    let sha256 = digest(|buffer| file.read(buffer)).map_err(unreadable)?;
    if file.limit() == 0 { Err(catalog::too_large(catalog::MAX_FILE + 1)) } else { Ok(sha256) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Below and above the size from which another thread computes it.
    #[test]
    fn a_checksum_is_that_of_all_bytes() {
        for len in [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 5, usize::try_from(SMALL).unwrap() + 1] {
            let mut file = tempfile::tempfile().unwrap();
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            file.write_all(&bytes).unwrap();
            let checksum = Checksum::of(&file).unwrap();
            assert_eq!(checksum.hashing.lock().unwrap().is_some(), bytes.len() as u64 > SMALL);
            assert_eq!(checksum.get(&file), hex(&Sha256::digest(&bytes)), "{len} bytes");
            assert_eq!(checksum.get(&file), hex(&Sha256::digest(&bytes)), "asked for again");
        }
    }

    /// A file that replaced a library after it was listed: a sparse file of a terabyte is not read to its end.
    #[test]
    fn a_file_larger_than_any_library_is_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endless.so");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(sha256(&path).unwrap_err().reason, Reason::TooLarge);
        // Nor is it copied: the fault reports the file's own length, not the number of bytes copied.
        let fault = Library::named(&path).unwrap_err();
        assert!(fault.reason == Reason::TooLarge && fault.detail.contains(&(1_u64 << 40).to_string()), "{fault:?}");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
