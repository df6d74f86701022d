//! Explains a refused system call by the limits of this host: those of the process and its user, a seccomp filter, a /proc that is not
//! mounted. Examines the host when the message is written; returns `None` if the system's own error says enough.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::path::Path;

/// File descriptors that a run may need: its files, the store, the worker's pipes, and a connection to each destination.
pub const DESCRIPTORS: u64 = 64;

/// The operation that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedOperation {
    /// Opening or creating a file.
    Opening,
    /// Starting a process or a thread.
    Starting,
    /// Creating a memory file for a library.
    Memory,
}

/// Why the system refused an operation, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The reason, as a clause.
    pub what: String,
    /// How to raise the limit.
    pub hint: String,
}

/// Returns the limit that caused an error.
pub fn behind(error: &io::Error, doing: RefusedOperation) -> Option<Limit> {
    let errno = Errno::from_io_error(error)?;
    let limit = |what: String, hint: &str| Some(Limit { what, hint: hint.to_owned() });
    match (errno, doing) {
        (Errno::MFILE, _) => few_files(soft(Resource::Nofile)),
        (Errno::NFILE, _) => limit("this host has reached its limit of open files".into(), "raise it: sysctl fs.file-max"),
        (Errno::AGAIN, RefusedOperation::Starting) => {
            let most = soft(Resource::Nproc).map(|most| format!(" ({most} by ulimit -u)")).unwrap_or_default();
            limit(
                format!("this user or this container has reached its limit of processes and threads{most}"),
                "raise ulimit -u, TasksMax= of the systemd unit, or the pids limit of the container",
            )
        }
        (Errno::NOMEM, RefusedOperation::Starting | RefusedOperation::Memory) => {
            let most = soft(Resource::As).map(|most| format!(" ({} KiB by ulimit -v)", most >> 10)).unwrap_or_default();
            limit(format!("not enough memory{most}"), "raise ulimit -v, or the memory limit of the unit or container")
        }
        (Errno::NOENT, RefusedOperation::Starting) if !has_proc() => limit(
            "/proc is not mounted".into(),
            "mount it: mount -t proc proc /proc (lorchestra starts its workers from /proc/self/exe)",
        ),
        (Errno::NOENT, RefusedOperation::Starting) if !Path::new("/proc/sys/kernel").exists() => limit(
            "/proc shows only processes, and lorchestra identifies them by /proc/sys/kernel/random/boot_id".into(),
            "set ProcSubset=all in the systemd unit, or mount /proc without subset=pid",
        ),
        (Errno::PERM | Errno::ACCESS | Errno::NOSYS, RefusedOperation::Starting) => limit(
            "this host refuses to start a process; the likely cause is a seccomp filter".into(),
            "allow clone and clone3; a filter that does not know clone3 must return ENOSYS for it (newer container runtimes do)",
        ),
        (Errno::PERM | Errno::ACCESS | Errno::NOSYS, RefusedOperation::Memory) => limit(
            "this host refuses memory files; the likely cause is a seccomp filter".into(),
            "allow memfd_create: a library is run from a sealed copy in memory",
        ),
        _ => None,
    }
}

/// Returns the descriptor limit of this process if it is too low for a run.
pub fn too_few_files() -> Option<Limit> {
    let most = soft(Resource::Nofile).filter(|most| *most < DESCRIPTORS);
    most.and_then(|most| few_files(Some(most)))
}

fn few_files(most: Option<u64>) -> Option<Limit> {
    let most = most.map(|most| format!("{most} ")).unwrap_or_default();
    let what = format!("this process may have {most}files open at a time, and a run needs {DESCRIPTORS}");
    Some(Limit { what, hint: "raise the limit: ulimit -n 1024, or LimitNOFILE=1024 in a systemd unit".into() })
}

fn soft(resource: Resource) -> Option<u64> {
    getrlimit(resource).current
}

/// Whether /proc is mounted and shows this process.
pub fn has_proc() -> bool {
    Path::new("/proc/self/exe").symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_explained_by_its_operation() {
        let of = |errno: Errno, doing| behind(&errno.into(), doing).map(|limit| limit.what);
        let expect =
            |what: Option<String>, part: &str| assert!(what.as_ref().is_some_and(|what| what.contains(part)), "{what:?}");
        for doing in [RefusedOperation::Opening, RefusedOperation::Starting, RefusedOperation::Memory] {
            expect(of(Errno::MFILE, doing), "files open at a time, and a run needs 64");
        }
        expect(of(Errno::AGAIN, RefusedOperation::Starting), "limit of processes and threads");
        expect(of(Errno::PERM, RefusedOperation::Starting), "refuses to start a process");
        expect(of(Errno::NOSYS, RefusedOperation::Memory), "refuses memory files");
        // The system's own error says enough.
        assert_eq!(of(Errno::NOENT, RefusedOperation::Starting), None, "there is a /proc here");
        for errno in [Errno::NOENT, Errno::PERM, Errno::AGAIN, Errno::NOSPC] {
            assert_eq!(of(errno, RefusedOperation::Opening), None);
        }
        assert_eq!(behind(&io::Error::other("text"), RefusedOperation::Starting), None);
    }
}
