//! The only place where plugin code enters a process: dlopen, the root module, the comparison with the manifest.
//!
//! Relies on the supervisor for the bytes (checked ELF, sealed), on `lorchestra_plugin_api::abi` for the layout check, and on running in a
//! separate process, because a library's constructors may do anything.
#![expect(
    unsafe_code,
    reason = "dlopen, the library's descriptor, detecting forked copies of the process; one of the two modules with unsafe"
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
    /// The reason, one sentence for a person.
    pub(super) message: String,
    /// abi_stable's own message, which may have a thousand lines: for the trace.
    pub(super) detail: Option<String>,
}

impl From<String> for LoadError {
    fn from(message: String) -> Self {
        Self { message, detail: None }
    }
}

/// Whether this process is a fork of the worker made by the C library.
static COPY: AtomicBool = AtomicBool::new(false);
/// A page whose first byte is set in the worker, and which the kernel clears in every forked copy, even one made by `_Fork` or the bare
/// system call, of which the C library does not know. Null if the kernel does not support that. Comparing pids would work too, at the cost
/// of a system call per event.
static WORKERS_OWN: AtomicPtr<AtomicBool> = AtomicPtr::new(std::ptr::null_mut());

/// Whether this process is a fork of the worker. Plugin code may fork without exec; then both processes have the worker's open spool.
pub(super) fn is_copy() -> bool {
    // SAFETY: null, or the page of `detect_copies`, which holds an `AtomicBool` and stays mapped until the process ends.
    let own = unsafe { WORKERS_OWN.load(Ordering::Relaxed).as_ref() };
    COPY.load(Ordering::Relaxed) || own.is_some_and(|own| !own.load(Ordering::Relaxed))
}

extern "C" fn in_copy() {
    COPY.store(true, Ordering::Relaxed);
}

/// Sets up the detection of forked copies by [`is_copy`].
fn detect_copies() -> io::Result<()> {
    // SAFETY: the declaration matches POSIX; the function sets an atomic, which is allowed between fork and exec, and is never unloaded.
    if unsafe { pthread_atfork(None, None, Some(in_copy)) } != 0 {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // The kernel rounds it up to a page.
    let len = size_of::<AtomicBool>();
    // SAFETY: a new mapping at an address that the kernel chooses.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
    // SAFETY: covers exactly the mapping above, which no one else uses. Kernels before 4.14, and some emulations of Linux, refuse it.
    if unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.is_ok() {
        let own = page.cast::<AtomicBool>();
        // SAFETY: the page is aligned, long enough, and writable.
        unsafe { own.write(AtomicBool::new(true)) };
        WORKERS_OWN.store(own, Ordering::Relaxed);
    }
    Ok(())
}

unsafe extern "C" {
    /// POSIX, in the C library: registers functions to call around each fork.
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

/// Loads the library behind the descriptor, once, and compares its root module with its manifest. `origin` is for messages.
pub(super) fn root(library_fd: RawFd, origin: &Path) -> Result<Root_Ref, LoadError> {
    detect_copies().map_err(|e| format!("cannot set up the detection of forked copies: {e}"))?;
    // SAFETY: the supervisor opened this descriptor for us and named it in the order; nothing else in this process uses it. Owning it
    // closes it on drop, so processes that the job starts do not inherit it.
    let memory = File::from(unsafe { OwnedFd::from_raw_fd(library_fd) });
    let manifest = crate::packages::catalog::inspect(&memory).map_err(|fault| fault.detail)?;
    let path = format!("/proc/self/fd/{library_fd}");
    // SAFETY: this runs the library's constructors, which may do anything; that is the purpose of this process. The bytes are a complete
    // ELF library for this machine (inspect) and cannot change (sealed).
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| format!("the dynamic loader refused it: {}", loader_message(&e, &path, origin)))?;
    let symbol = header_symbol(&manifest.package);
    // SAFETY: the symbol is a `LibHeader`, whose address is a valid `AbiHeaderRef`: in a library with our manifest, `plugin!` created the
    // symbol of this name. The reference stays valid because the library is never closed.
    let header = unsafe { library.get::<AbiHeaderRef>(symbol.as_bytes()) }
        .map(|symbol| *symbol)
        .map_err(|_| "it has a manifest but no root module: it was changed after it was built".to_owned())?;
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

/// Manifest and root module are generated from the same constants, so a difference means that the file was changed.
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

/// Formats dlerror's text with the file's real path, and adds a hint.
fn loader_message(error: &libloading::Error, path: &str, origin: &Path) -> String {
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
