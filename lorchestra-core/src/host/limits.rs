//! What a host does not have or does not allow, when a system call is refused: limits of this process and its user, a seccomp filter, a /proc
//! that is not mounted. Looks at the host at the moment of the message; `None` where the system's own error says all there is.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::path::Path;

/// Descriptors that a run may need: its files, the store, the worker's pipes, one connection to each destination.
pub const DESCRIPTORS: u64 = 64;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// A file was opened or made.
    Opening,
    /// A process or a thread was started.
    Starting,
    /// A memory file for a library was made.
    Memory,
}

/// Why the system refused, and what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// A clause.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// The limit behind an error.
pub fn behind(error: &io::Error, doing: Doing) -> Option<Limit> {
    let errno = Errno::from_io_error(error)?;
    let limit = |what: String, hint: &str| Some(Limit { what, hint: hint.to_owned() });
    match (errno, doing) {
        (Errno::MFILE, _) => few_files(soft(Resource::Nofile)),
        (Errno::NFILE, _) => limit("this host has as many files open as it may".into(), "raise it: sysctl fs.file-max"),
        (Errno::AGAIN, Doing::Starting) => {
            let most = soft(Resource::Nproc).map(|most| format!(" ({most} by ulimit -u)")).unwrap_or_default();
            limit(
                format!("this user or this container may have no more processes and threads{most}"),
                "raise ulimit -u, TasksMax= of the systemd unit, or the pids limit of the container",
            )
        }
        (Errno::NOMEM, Doing::Starting | Doing::Memory) => {
            let most = soft(Resource::As).map(|most| format!(" ({} KiB by ulimit -v)", most >> 10)).unwrap_or_default();
            limit(format!("there is no memory for it{most}"), "raise ulimit -v, or the memory limit of the unit or container")
        }
        (Errno::NOENT, Doing::Starting) if !has_proc() => limit(
            "/proc is not mounted".into(),
            "mount it: mount -t proc proc /proc (lorchestra starts its workers from /proc/self/exe)",
        ),
        (Errno::PERM | Errno::ACCESS | Errno::NOSYS, Doing::Starting) => limit(
            "this host refuses to start a process, which a seccomp filter does".into(),
            "allow clone and clone3; a filter that knows no clone3 must answer ENOSYS to it (newer container runtimes do)",
        ),
        (Errno::PERM | Errno::ACCESS | Errno::NOSYS, Doing::Memory) => limit(
            "this host refuses memory files, which a seccomp filter does".into(),
            "allow memfd_create: a library is run from a sealed copy in memory",
        ),
        _ => None,
    }
}

/// The limit of descriptors of this process, where it is too low for a run.
pub fn too_few_files() -> Option<Limit> {
    let most = soft(Resource::Nofile).filter(|most| *most < DESCRIPTORS);
    most.and_then(|most| few_files(Some(most)))
}

fn few_files(most: Option<u64>) -> Option<Limit> {
    let most = most.map(|most| format!("{most} ")).unwrap_or_default();
    let what = format!("this process may have {most}files open at a time, and a run needs {DESCRIPTORS}");
    Some(Limit { what, hint: "raise the limit: ulimit -n 1024; of a systemd unit LimitNOFILE=1024".into() })
}

fn soft(resource: Resource) -> Option<u64> {
    getrlimit(resource).current
}

/// Whether /proc is there, and shows this process.
pub fn has_proc() -> bool {
    Path::new("/proc/self/exe").symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_explained_by_what_was_being_done() {
        let of = |errno: Errno, doing| behind(&errno.into(), doing).map(|limit| limit.what);
        let expect =
            |what: Option<String>, part: &str| assert!(what.as_ref().is_some_and(|what| what.contains(part)), "{what:?}");
        for doing in [Doing::Opening, Doing::Starting, Doing::Memory] {
            expect(of(Errno::MFILE, doing), "files open at a time, and a run needs 64");
        }
        expect(of(Errno::AGAIN, Doing::Starting), "no more processes and threads");
        expect(of(Errno::PERM, Doing::Starting), "refuses to start a process");
        expect(of(Errno::NOSYS, Doing::Memory), "refuses memory files");
        // What the error itself says.
        assert_eq!(of(Errno::NOENT, Doing::Starting), None, "there is a /proc here");
        for errno in [Errno::NOENT, Errno::PERM, Errno::AGAIN, Errno::NOSPC] {
            assert_eq!(of(errno, Doing::Opening), None);
        }
        assert_eq!(behind(&io::Error::other("text"), Doing::Starting), None);
    }
}
