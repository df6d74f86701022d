//! The one place where plugin code comes into a process: dlopen, the root module, the comparison with the manifest.
//!
//! Relies on the supervisor for the bytes (checked ELF, sealed), on `lorchestra_plugin_api::abi` for the layout check, and on
//! being in a process of its own for everything that a library's constructors may do.
#![expect(
    unsafe_code,
    reason = "dlopen, the library's descriptor, telling copies of the process; one of the two modules with unsafe"
)]

use super::order::WorkerInput;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use lorchestra_plugin_api::abi::{self, ABI_REVISION, AbiError, AbiHeaderRef, JobEntry_Ref, Root_Ref, header_symbol};
use lorchestra_plugin_api::manifest::{JobManifest, Manifest};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Why a library could not be loaded.
pub(super) struct LoadError {
    /// One sentence for a person.
    pub(super) message: String,
    /// abi_stable's own words, which may be a thousand lines: for a trace.
    pub(super) detail: Option<String>,
}

impl From<String> for LoadError {
    fn from(message: String) -> Self {
        Self { message, detail: None }
    }
}

/// Whether the C library has forked this process from the worker.
static COPY: AtomicBool = AtomicBool::new(false);
/// A page whose first byte is set in the worker, and which the kernel clears in every copy of it, however that was made: `_Fork` and the
/// bare system call tell the C library nothing. Null where the kernel cannot do that. A comparison of pids would say the same, at the price
/// of a system call an event.
static WORKERS_OWN: AtomicPtr<AtomicBool> = AtomicPtr::new(std::ptr::null_mut());

/// Whether this process is a copy of the worker: plugin code may fork without exec, and then both go on with the worker's open spool.
pub(super) fn is_copy() -> bool {
    // SAFETY: null, or the page of `tell_copies`, which holds an `AtomicBool` and stays mapped until the process ends.
    let own = unsafe { WORKERS_OWN.load(Ordering::Relaxed).as_ref() };
    COPY.load(Ordering::Relaxed) || own.is_some_and(|own| !own.load(Ordering::Relaxed))
}

extern "C" fn in_copy() {
    COPY.store(true, Ordering::Relaxed);
}

/// From now on [`is_copy`] tells the worker from its copies.
fn tell_copies() -> io::Result<()> {
    // SAFETY: the declaration is POSIX's; the function sets an atomic, which is allowed between fork and exec, and is never unloaded.
    if unsafe { pthread_atfork(None, None, Some(in_copy)) } != 0 {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // The kernel makes a page of it.
    let len = size_of::<AtomicBool>();
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
    // SAFETY: all of the mapping above, which nobody else knows. Kernels before 4.14 and some that play Linux refuse it.
    if unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.is_ok() {
        let own = page.cast::<AtomicBool>();
        // SAFETY: the page is aligned, long enough, and writable.
        unsafe { own.write(AtomicBool::new(true)) };
        WORKERS_OWN.store(own, Ordering::Relaxed);
    }
    Ok(())
}

unsafe extern "C" {
    /// POSIX, in the C library: what is to be called around each fork.
    fn pthread_atfork(prepare: Option<extern "C" fn()>, parent: Option<extern "C" fn()>, child: Option<extern "C" fn()>) -> i32;
}

/// Loads the ordered library and finds the ordered job.
pub(super) fn load(order: &WorkerInput) -> Result<JobEntry_Ref, LoadError> {
    root(order.library_fd, &order.library_path)?
        .jobs()
        .as_slice()
        .iter()
        .find(|job| job.name().as_str() == order.spec.job)
        .copied()
        .ok_or_else(|| format!("its root module has no job {}", order.spec.job).into())
}

/// Loads the library behind the descriptor, once, and holds its root module to its manifest. `origin` is for messages.
pub(super) fn root(library_fd: RawFd, origin: &Path) -> Result<Root_Ref, LoadError> {
    tell_copies().map_err(|e| format!("the worker could not be told from its copies: {e}"))?;
    // SAFETY: the supervisor opened this descriptor for us and said so in the order; nothing else in this process knows it.
    // Owning it makes it close on drop: what the job starts does not inherit it.
    let memory = File::from(unsafe { OwnedFd::from_raw_fd(library_fd) });
    let manifest = crate::packages::catalog::inspect(&memory).map_err(|fault| fault.detail)?;
    let path = format!("/proc/self/fd/{library_fd}");
    // SAFETY: this runs the library's constructors, which may do anything: that is what this process is for. The bytes
    // are a complete ELF library for this machine (inspect) and cannot change (sealed).
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| format!("the dynamic loader refused it: {}", spoken(&e, &path, origin)))?;
    let symbol = header_symbol(&manifest.package);
    // SAFETY: the symbol is a `LibHeader`, whose address is a valid `AbiHeaderRef`: a library with our manifest got a symbol of this
    // name from `plugin!`, which makes it one. The reference stays valid: the library is never closed.
    let header = unsafe { library.get::<AbiHeaderRef>(symbol.as_bytes()) }
        .map(|symbol| *symbol)
        .map_err(|_| "it has a manifest and no root module: it was changed after it was built".to_owned())?;
    // Statics, threads and thread-locals of the plugin point into it until the process ends.
    #[expect(clippy::mem_forget, reason = "a loaded plugin is never unloaded")]
    std::mem::forget(library);
    let root = abi::root_module(header).map_err(|e| LoadError {
        message: format!("{e}; rebuild it with the lorchestra-plugin-api of this lorchestra (ABI revision {ABI_REVISION})"),
        detail: if let AbiError::Layout(detail) = e { Some(detail) } else { None },
    })?;
    compare(root, &manifest)?;
    Ok(root)
}

/// Both descriptions are made from the same constants: a difference means that the file is not what it says.
fn compare(root: Root_Ref, manifest: &Manifest) -> Result<(), String> {
    let differs = |what: String| Err(format!("its manifest and its root module differ in {what}: rebuild it"));
    if root.package().as_str() != manifest.package {
        return differs("the package's name".into());
    }
    if root.version().as_str() != manifest.version {
        return differs("the package's version".into());
    }
    let jobs = root.jobs();
    if jobs.len() != manifest.jobs.len() {
        return differs("the number of jobs".into());
    }
    match jobs.as_slice().iter().zip(&manifest.jobs).find(|(entry, job)| !same(**entry, job)) {
        Some((_, job)) => differs(format!("the job {}", job.name)),
        None => Ok(()),
    }
}

fn same(entry: JobEntry_Ref, job: &JobManifest) -> bool {
    entry.name().as_str() == job.name
        && entry.signature().as_str() == job.signature
        && entry.docs().as_str() == job.docs
        && entry.file().as_str() == job.file
        && entry.line() == job.line
}

/// dlerror's text, with the file's real path, and what fixes it.
fn spoken(error: &libloading::Error, path: &str, origin: &Path) -> String {
    use std::error::Error;
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let text = text.replace(path, &origin.display().to_string());
    let hint = if text.contains("cannot open shared object file") {
        "; install that library on this host, or build the package without it"
    } else if text.contains("undefined symbol") {
        "; build the package on this host, or install the version of that library it was built with"
    } else {
        ""
    };
    text + hint
}
