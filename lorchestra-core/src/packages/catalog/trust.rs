//! Decides whether a library can be trusted: only this user and root may be able to change its contents, or which file its path refers to.
//! Checks owners, modes and links; reads no files except those of `accounts`.
//!
//! The rules, for the file and every directory from `/` down to it:
//!
//! - It is owned by this user or root.
//! - Others have no write permission. A group may have it if it has no other members (`umask 002`) and no access control list grants more.
//! - A parent directory may be world-writable if it is sticky, as `/tmp` is: there no one can move or replace another user's files, and the
//!   next component must be owned by this user or root. This does not apply to the directory with the libraries itself, where anyone could
//!   add files.
//! - Symbolic links on the path to the directory are followed and checked by the same rules. A library may be a link only to a file in its
//!   own directory.
//!
//! Paths are checked from `/` down: once it is established that no one else can change a directory, what was read in it stays true. The
//! file is checked through its descriptor. So no one else can invalidate a passed check before the file is read.

use super::accounts;
use super::problem::{FileFault, Reason};
use crate::host::rights::{self, Change, Kind, Target};
use crate::text::{path_text, shell};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Maximum number of links to follow on one path, the same as the kernel's.
const LINKS: usize = 40;
/// Where a library can be kept instead.
const OTHER_PLUGINS: &str =
    "move it to a directory that only this user and root can change (--plugin-dir, plugin_dirs in config.toml)";
/// Where the configuration can be kept instead.
const OTHER_CONFIG: &str = "move it to a directory that only this user and root can change (--config, XDG_CONFIG_HOME)";

/// The role of a path component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathRole {
    File,
    /// The directory that contains the libraries.
    Directory,
    /// A directory above it.
    Parent,
    /// A symbolic link on the path.
    Link,
}

/// Who else could change the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Its owner.
    Owner,
    /// Everyone.
    Others,
    /// The members of its group.
    Group,
    /// The users that an access control list names.
    List,
}

/// Owner, group and mode of a path component, and its role.
#[derive(Debug, Clone, Copy)]
struct Access {
    what: PathRole,
    owner: u32,
    group: u32,
    mode: u32,
}

impl Access {
    fn of(what: PathRole, meta: &Metadata) -> Self {
        Self { what, owner: meta.uid(), group: meta.gid(), mode: meta.mode() }
    }

    /// Returns the first problem for `user`. The two functions are called only if a group has write permission.
    fn flaw(self, user: u32, is_own_group: impl FnOnce(u32) -> bool, has_list: impl FnOnce() -> bool) -> Option<Flaw> {
        const STICKY: u32 = 0o1000;
        if self.owner != user && self.owner != 0 {
            return Some(Flaw::Owner);
        }
        // A link has no mode of its own.
        let protected = self.what == PathRole::Link || (self.what == PathRole::Parent && self.mode & STICKY != 0);
        if self.mode & 0o022 == 0 || protected {
            return None;
        }
        if self.mode & 0o002 != 0 {
            return Some(Flaw::Others);
        }
        if !is_own_group(self.group) {
            return Some(Flaw::Group);
        }
        // If there is an access control list, the group bits of the mode are its mask, the upper bound for all entries.
        has_list().then_some(Flaw::List)
    }
}

/// Checks an open file that was found at `path`.
pub(super) fn file(path: &Path, meta: &Metadata) -> Result<(), FileFault> {
    look(PathRole::File, path, meta, OTHER_PLUGINS)
}

/// Checks a file of the configuration, which names commands, and every directory on its path. If the file does not exist, checks the
/// directory in which another user could create it.
///
/// # Errors
/// The first component that someone else could change, or that cannot be inspected.
pub fn configuration(path: &Path) -> Result<(), FileFault> {
    if !path.exists() {
        let Some(dir) = path.ancestors().skip(1).find(|at| at.exists()) else { return Ok(()) };
        return walk(dir, OTHER_CONFIG).map(drop);
    }
    let file = walk(path, OTHER_CONFIG)?;
    let meta = file.metadata().map_err(|e| unseen(&file, &e))?;
    look(PathRole::File, &file, &meta, OTHER_CONFIG)
}

/// Checks a directory of libraries and all its parents. Returns its path with links resolved.
///
/// # Errors
/// The first directory that someone else could change, or that cannot be inspected.
pub fn directory(dir: &Path) -> Result<PathBuf, FileFault> {
    walk(dir, OTHER_PLUGINS)
}

/// Checks that a library that is a link points to a file in `dir` (as returned by [`directory`]).
pub(super) fn link(path: &Path, dir: &Path) -> Result<(), FileFault> {
    let target = walk(path, OTHER_PLUGINS)?;
    if target.starts_with(dir) {
        return Ok(());
    }
    Err(FileFault::new(
        Reason::LinkOut,
        format!("it is a symbolic link to {}, outside its directory", path_text(&target)),
        format!("run lorchestra plugins install {} to copy it, or add its directory to plugin_dirs", shell(&target)),
    ))
}

fn unseen(at: &Path, error: &io::Error) -> FileFault {
    let detail = format!("cannot inspect {}: {error}", path_text(at));
    FileFault::new(Reason::NotTrusted, detail, format!("see ls -ld {}", shell(at)))
}

/// Follows a path from `/` down, and checks every component, except a file at the end. `elsewhere` is the hint where nothing on the path
/// may be changed.
fn walk(path: &Path, elsewhere: &str) -> Result<PathBuf, FileFault> {
    let path = std::path::absolute(path).map_err(|e| unseen(path, &e))?;
    let mut at = PathBuf::from("/");
    let mut pending = Vec::new();
    push(&mut pending, &path);
    let mut links = 0;
    let root = at.symlink_metadata().map_err(|e| unseen(&at, &e))?;
    look(if pending.is_empty() { PathRole::Directory } else { PathRole::Parent }, &at, &root, elsewhere)?;
    while let Some(name) = pending.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let meta = next.symlink_metadata().map_err(|e| unseen(&next, &e))?;
        if meta.is_symlink() {
            look(PathRole::Link, &next, &meta, elsewhere)?;
            links += 1;
            if links > LINKS {
                return Err(unseen(&next, &rustix::io::Errno::LOOP.into()));
            }
            let target = std::fs::read_link(&next).map_err(|e| unseen(&next, &e))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            push(&mut pending, &target);
            continue;
        }
        if meta.is_dir() {
            let what = if pending.is_empty() { PathRole::Directory } else { PathRole::Parent };
            look(what, &next, &meta, elsewhere)?;
        }
        at = next;
    }
    Ok(at)
}

/// Pushes the components of a path onto the stack of those still to follow, the first one on top.
fn push(pending: &mut Vec<OsString>, path: &Path) {
    pending.extend(path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }));
}

fn look(what: PathRole, at: &Path, meta: &Metadata, elsewhere: &str) -> Result<(), FileFault> {
    let seen = Access::of(what, meta);
    let user = rustix::process::geteuid().as_raw();
    if rights::is_unknown(seen.owner) {
        return Err(fault(seen, Flaw::Owner, (at, elsewhere), user));
    }
    match seen.flaw(user, |group| accounts::is_own_group(group, user), || has_access_list(at)) {
        None => Ok(()),
        Some(flaw) => Err(fault(seen, flaw, (at, elsewhere), user)),
    }
}

fn has_access_list(path: &Path) -> bool {
    // ENODATA and ENOTSUP mean that there is no list. Any other error, such as a list that is too long, counts as having one.
    let none = [rustix::io::Errno::NODATA, rustix::io::Errno::NOTSUP];
    match rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 512]) {
        Ok(bytes) => bytes > 0,
        Err(error) => !none.contains(&error),
    }
}

fn fault(seen: Access, flaw: Flaw, (at, elsewhere): (&Path, &str), user: u32) -> FileFault {
    let shown = path_text(at);
    let group = || accounts::group_name(seen.group);
    let (it, write) = match seen.what {
        PathRole::File => ("it".to_owned(), "write to it".to_owned()),
        PathRole::Directory => (format!("its directory {shown}"), format!("put files into its directory {shown}")),
        PathRole::Parent => {
            (format!("its parent directory {shown}"), format!("replace files in {shown}, a parent of its directory"))
        }
        PathRole::Link => (format!("the link {shown} on its path"), String::new()),
    };
    let detail = match flaw {
        Flaw::Owner => format!("{it} belongs to {}, who could change what runs", rights::owner_text(seen.owner)),
        Flaw::Others => format!("any user may {write}"),
        Flaw::Group => format!("any member of group {} may {write}", group()),
        Flaw::List => format!("users in its access control list may {write}"),
    };
    let change = match (flaw, seen.what) {
        (Flaw::Owner, PathRole::File | PathRole::Directory) => Change::Owner(user),
        (Flaw::Owner, PathRole::Parent | PathRole::Link) => Change::Owner(0),
        (Flaw::Others, _) if seen.mode & 0o020 != 0 => Change::NotWritableBy("go"),
        (Flaw::Others, _) => Change::NotWritableBy("o"),
        (Flaw::Group, _) => Change::NotWritableBy("g"),
        (Flaw::List, _) => Change::NoList,
    };
    let kind = match seen.what {
        PathRole::File => Kind::File,
        PathRole::Directory | PathRole::Parent => Kind::Directory,
        PathRole::Link => Kind::Link,
    };
    let fix = match rights::command(Target { path: at, owner: seen.owner, kind }, change, user) {
        _ if flaw == Flaw::Owner && !rights::is_mapped(seen.owner) => {
            "run it in a user namespace that maps that user (see /proc/self/uid_map), or outside of any".to_owned()
        }
        // Do not suggest giving away another user's home for a plugin.
        _ if flaw == Flaw::Owner && seen.what == PathRole::Parent => format!("run it as user {}, or {elsewhere}", seen.owner),
        Some(command) => command,
        // Others use the directory too: lorchestra does not decide who may write there.
        None => format!("{elsewhere}; ls -ld {} shows this one", shell(at)),
    };
    FileFault::new(Reason::NotTrusted, detail, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    const ANNA: u32 = 1000;
    const BOB: u32 = 1001;

    /// Tests all owners, modes, groups and kinds: nothing that someone else could change is trusted.
    #[test]
    fn nothing_that_others_can_change_is_trusted() {
        for what in [PathRole::File, PathRole::Directory, PathRole::Parent, PathRole::Link] {
            for owner in [0, ANNA, BOB] {
                for mode in 0..0o2000_u32 {
                    for (own_group, list) in [(false, false), (false, true), (true, false), (true, true)] {
                        let seen = Access { what, owner, group: 7, mode };
                        let flaw = seen.flaw(ANNA, |_| own_group, || list);
                        let sticky = what == PathRole::Parent && mode & 0o1000 != 0;
                        let others = mode & 0o002 != 0 || (mode & 0o020 != 0 && (!own_group || list));
                        let trusted = owner != BOB && (what == PathRole::Link || sticky || !others);
                        assert_eq!(flaw.is_none(), trusted, "{seen:?}, own group {own_group}, list {list}: {flaw:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn accounts_and_lists_are_read_only_where_a_group_may_write() {
        for mode in [0o755, 0o700, 0o644, 0o1755] {
            let seen = Access { what: PathRole::Directory, owner: ANNA, group: 7, mode };
            assert_eq!(seen.flaw(ANNA, |_| panic!("read"), || panic!("read")), None);
        }
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Creates the directory `root/a/lorchestra/plugins`, accessible only to its owner.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/lorchestra/plugins");
        fs::create_dir_all(&dir).unwrap();
        for dir in dir.ancestors().take(4) {
            mode(dir, 0o755);
        }
        (root, dir)
    }

    #[test]
    fn every_parent_counts_and_the_hint_names_it() {
        let (root, dir) = tree();
        assert_eq!(directory(&dir).unwrap(), fs::canonicalize(&dir).unwrap());
        for (name, own) in [("a", false), ("a/lorchestra", false), ("a/lorchestra/plugins", true)] {
            let bad = root.path().join(name);
            for (bits, fix) in [(0o757, "chmod o-w"), (0o777, "chmod go-w")] {
                mode(&bad, bits);
                let fault = directory(&dir).unwrap_err();
                let shown = format!("ls -ld {} shows this one", bad.display());
                assert_eq!(fault.reason, Reason::NotTrusted);
                if name == "a" {
                    assert!(
                        fault.fix.ends_with(&shown) && !fault.fix.contains("chmod"),
                        "other users use the directory: {fault:?}"
                    );
                } else {
                    assert_eq!(fault.fix, format!("{fix} {}", bad.display()));
                }
                assert!(fault.detail.starts_with("any user may ") && fault.detail.contains(&*bad.display().to_string()));
            }
            // The sticky bit prevents others from replacing files in the directory, but not from adding some.
            mode(&bad, 0o1777);
            assert_eq!(directory(&dir).is_ok(), !own, "{name}");
            mode(&bad, 0o755);
        }
    }

    /// An access control list in the kernel's format: user 1 has all permissions, and the mask permits them.
    #[test]
    fn an_access_control_list_is_detected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!has_access_list(file.path()));
        let nobody = u32::MAX;
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, may, who) in [(1_u16, 7_u16, nobody), (2, 7, 1), (4, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody)] {
            list.extend(tag.to_le_bytes().into_iter().chain(may.to_le_bytes()).chain(who.to_le_bytes()));
        }
        let set = rustix::fs::setxattr(file.path(), "system.posix_acl_access", &list, rustix::fs::XattrFlags::empty());
        if set == Err(rustix::io::Errno::NOTSUP) {
            return;
        }
        set.unwrap();
        assert!(has_access_list(file.path()));
        // The mode shows its mask as the group bits.
        let meta = fs::metadata(file.path()).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o775);
        assert_eq!(
            Access::of(PathRole::File, &meta).flaw(meta.uid(), |_| true, || has_access_list(file.path())),
            Some(Flaw::List)
        );
    }

    #[test]
    fn links_on_the_path_follow_the_same_rules() {
        let (root, dir) = tree();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        symlink("../a/./lorchestra/../lorchestra", open.join("relative")).unwrap();
        symlink(open.join("relative"), root.path().join("absolute")).unwrap();
        let through = root.path().join("absolute/plugins");
        assert_eq!(directory(&through).unwrap(), fs::canonicalize(&dir).unwrap());
        mode(&open, 0o777);
        let fault = directory(&through).unwrap_err();
        assert!(fault.fix.contains(&format!("ls -ld {} ", open.display())), "another user could change the link: {fault:?}");
        mode(&open, 0o755);
        symlink("loop", root.path().join("loop")).unwrap();
        let fault = directory(&root.path().join("loop")).unwrap_err();
        assert!(fault.detail.contains("cannot inspect"), "{fault:?}");
        assert!(directory(&root.path().join("missing")).is_err());
    }

    #[test]
    fn a_link_must_point_to_a_file_in_its_directory() {
        let (root, dir) = tree();
        let resolved = directory(&dir).unwrap();
        fs::write(dir.join("real.so"), "").unwrap();
        fs::write(root.path().join("elsewhere.so"), "").unwrap();
        fs::create_dir(dir.join("old")).unwrap();
        fs::write(dir.join("old/libx.so"), "").unwrap();
        for (target, good) in [
            ("real.so", true),
            ("old/libx.so", true),
            ("../plugins/real.so", true),
            ("../../../elsewhere.so", false),
            ("../plugins/../../../elsewhere.so", false),
        ] {
            let name = dir.join("link.so");
            symlink(target, &name).unwrap();
            let linked = link(&name, &resolved);
            assert_eq!(linked.is_ok(), good, "{target}: {linked:?}");
            if let Err(fault) = linked {
                assert_eq!(fault.reason, Reason::LinkOut);
                assert!(fault.fix.contains("elsewhere.so"), "{fault:?}");
            }
            fs::remove_file(&name).unwrap();
        }
        // A directory whose name has the other's name as a prefix.
        let beside = root.path().join("a/lorchestra/plugins2");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("libx.so"), "").unwrap();
        symlink(beside.join("libx.so"), dir.join("link.so")).unwrap();
        assert!(link(&dir.join("link.so"), &resolved).is_err());
    }
}
