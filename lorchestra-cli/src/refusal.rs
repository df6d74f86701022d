//! Determines which directory or file makes the system refuse a path, and the fix. Examines the file system when the message is written;
//! [`crate::failure`] formats the message.

use lorchestra_core::host::limits::{self, RefusedOperation};
use lorchestra_core::host::rights::{self, Change, Kind, Target};
use lorchestra_core::text::{path_text, shell};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why a path was refused, and the fix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// A clause that names the directory or file.
    pub(crate) what: String,
    /// A command, or another instruction.
    pub(crate) hint: String,
}

/// Explains an error at `path`. `None` if the error itself says enough.
pub(crate) fn of(path: &Path, error: &Error) -> Option<Rejection> {
    if let Some(limit) = limits::behind(error, RefusedOperation::Opening) {
        return Some(Rejection { what: limit.what, hint: limit.hint });
    }
    let (at, meta) = path.ancestors().find_map(|at| Some((at, std::fs::metadata(at).ok()?)))?;
    let shown = path_text(at);
    match error.kind() {
        ErrorKind::PermissionDenied => unwritable(at, path),
        ErrorKind::ReadOnlyFilesystem => Some(read_only(at)),
        ErrorKind::StorageFull => Some(full(at)),
        ErrorKind::QuotaExceeded => Some(Rejection {
            what: format!("this user's quota on the file system of {shown} is used up"),
            hint: "run quota -s to see it".into(),
        }),
        ErrorKind::FileTooLarge => Some(Rejection {
            what: format!("{shown} would exceed this process's file size limit"),
            hint: "raise the limit (ulimit -f, or LimitFSIZE= in a systemd unit)".into(),
        }),
        // A component of the path is a file.
        ErrorKind::NotADirectory if !meta.is_dir() => {
            Some(Rejection { what: format!("{shown} is not a directory"), hint: rights::move_away(at) })
        }
        _ => None,
    }
}

/// Explains why a file cannot be written: because of the file or of its directory.
pub(crate) fn of_file(path: &Path) -> Option<Rejection> {
    path.ancestors().take(2).filter(|at| at.exists()).find_map(|at| unwritable(at, path))
}

/// The file system is mounted read-only.
fn read_only(at: &Path) -> Rejection {
    Rejection {
        what: format!("the file system of {} is mounted read-only", path_text(at)),
        hint: format!("run findmnt -T {} to see the mount", shell(at)),
    }
}

/// Whether a file or directory can have the attribute `i`. Those of `/proc` cannot, and refuse writes in the same way.
fn has_attributes(at: &Path) -> bool {
    std::fs::File::open(at).is_ok_and(|file| rustix::fs::ioctl_getflags(file).is_ok())
}

/// Whether the file system has no free space or no free inodes for this user.
pub(crate) fn is_full(at: &Path) -> bool {
    rustix::fs::statvfs(at).is_ok_and(|stat| stat.f_bavail == 0 || stat.f_files > 0 && stat.f_favail == 0)
}

/// The file system is full.
pub(crate) fn full(at: &Path) -> Rejection {
    let (shown, typed) = (path_text(at), shell(at));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    let limit = limit.map(|bytes| format!("; or raise ulimit -f (now {} KiB)", bytes >> 10)).unwrap_or_default();
    Rejection {
        what: format!("the file system of {shown} is full"),
        hint: format!("free space or inodes (check with: df -h {typed}; df -i {typed}){limit}"),
    }
}

/// Explains why this user may not write to `at`, a component of `wanted` that exists.
fn unwritable(at: &Path, wanted: &Path) -> Option<Rejection> {
    let meta = std::fs::metadata(at).ok()?;
    let needed =
        if meta.is_dir() { Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK } else { Access::READ_OK | Access::WRITE_OK };
    // The mode of an immutable file or directory does not matter.
    let refused = access(at, needed).err()?;
    // Nor does that of a file on a mount that is read-only.
    if refused == Errno::ROFS {
        return Some(read_only(at));
    }
    if refused == Errno::PERM && !has_attributes(at) {
        let what = format!("{} does not take files or changes", path_text(at));
        return Some(Rejection { what, hint: "choose another path".into() });
    }
    if refused == Errno::PERM {
        let hint = format!("run lsattr -d {0} to see its attributes; root can remove the attribute i: chattr -i {0}", shell(at));
        return Some(Rejection { what: format!("no process may write to {}, which is immutable", path_text(at)), hint });
    }
    let (user, owner) = (rustix::process::geteuid().as_raw(), meta.uid());
    let (kind, rights) = if meta.is_dir() { (Kind::Directory, "rwx") } else { (Kind::File, "rw") };
    let (change, whose) = if owner == user {
        (Change::OwnerMay(rights), String::new())
    } else {
        let change = if meta.is_dir() { Change::OwnerOfAll(user) } else { Change::Owner(user) };
        (change, format!(", owned by {}", rights::owner_text(owner)))
    };
    // Another user's file stays theirs, whatever is in it.
    let of_another = kind == Kind::File && owner != user && !at.parent().is_some_and(rights::is_ours);
    // Nor do libraries change hands with a directory that has them next to what is wanted, as the one of plugins and data does.
    let with_plugins = owner != user && at != wanted && at.join("plugins").exists();
    let below = || wanted.strip_prefix(at).ok()?.components().next().map(|first| at.join(first));
    let command = match with_plugins {
        true => below().and_then(|below| rights::make_for(&below, user)),
        false => rights::command(Target { path: at, owner, kind }, change, user).filter(|_| !of_another),
    };
    let may_enter = !meta.is_dir() || access(at, Access::EXEC_OK).is_ok();
    let command = command.or_else(|| rights::give_back(at, wanted, user).filter(|_| !may_enter));
    let hint = command.or_else(|| rights::make_for(wanted, user).filter(|_| at != Path::new("/"))).unwrap_or_else(|| {
        format!("choose a directory that user {user} may write to; run ls -ld {} to see the permissions of this one", shell(at))
    });
    let right = if may_enter { "write to" } else { "enter" };
    Some(Rejection { what: format!("this user may not {right} {}{whose}", path_text(at)), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: Errno) -> Error {
        errno.into()
    }

    #[test]
    fn the_nearest_existing_path_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (file, root) = (dir.path().join("file"), dir.path().display().to_string());
        std::fs::write(&file, "").unwrap();
        let refusal = of(&file.join("a/b"), &error(Errno::NOTDIR)).unwrap();
        assert_eq!(refusal.what, format!("{root}/file is not a directory"));
        assert_eq!(refusal.hint, format!("choose a path other than {root}/file"));
        let refusal = of(&dir.path().join("a/b/c"), &error(Errno::NOSPC)).unwrap();
        assert_eq!(refusal.what, format!("the file system of {root} is full"));
        assert!(refusal.hint.contains(&format!("df -h {root}")), "{refusal:?}");
        let refusal = of(&dir.path().join("a"), &error(Errno::ROFS)).unwrap();
        assert!(refusal.what.contains(&root) && refusal.what.contains("read-only"), "{refusal:?}");
        let refusal = of(&file, &error(Errno::FBIG)).unwrap();
        assert!(refusal.what.contains(&format!("{root}/file")) && refusal.hint.contains("ulimit -f"), "{refusal:?}");
    }

    #[test]
    fn a_command_can_be_copied_for_any_path() {
        let dir = tempfile::tempdir().unwrap();
        let spaced = dir.path().join("a b");
        std::fs::create_dir(&spaced).unwrap();
        let root = dir.path().display();
        let refusal = of(&spaced.join("c"), &error(Errno::NOSPC)).unwrap();
        assert_eq!(refusal.what, format!("the file system of {root}/a b is full"));
        assert!(refusal.hint.contains(&format!("df -h '{root}/a b'; df -i '{root}/a b'")), "{refusal:?}");
        let refusal = of(&spaced.join("c"), &error(Errno::ROFS)).unwrap();
        assert!(refusal.hint.starts_with(&format!("run findmnt -T '{root}/a b' ")), "{refusal:?}");
    }

    /// Needs root, and a file system with attributes: elsewhere no directory is immutable.
    #[test]
    fn an_immutable_directory_is_not_one_with_a_wrong_mode() {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        let dir = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(dir.path()).unwrap();
        let Ok(flags) = ioctl_getflags(&open) else { return };
        if ioctl_setflags(&open, flags | IFlags::IMMUTABLE).is_err() {
            return;
        }
        let refused = std::fs::write(dir.path().join("a"), "").unwrap_err();
        let refusal = of(&dir.path().join("a"), &refused);
        ioctl_setflags(&open, flags).unwrap();
        let refusal = refusal.unwrap();
        assert!(refusal.what.ends_with("which is immutable"), "{refusal:?}");
        assert!(refusal.hint.contains("chattr -i ") && !refusal.hint.contains("chmod"), "{refusal:?}");
    }

    #[test]
    fn no_reason_is_invented() {
        let dir = tempfile::tempdir().unwrap();
        // It is writable, so the cause of the error is unknown.
        assert_eq!(of(dir.path(), &error(Errno::ACCESS)), None);
        assert_eq!(of(dir.path(), &error(Errno::IO)), None);
        assert_eq!(of_file(&dir.path().join("lorchestra.db")), None);
    }
}
