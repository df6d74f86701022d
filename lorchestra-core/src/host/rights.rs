//! Decides which change of an owner or a mode a hint may suggest. The only place that writes such a command.
//!
//! People copy hints into a shell, often as root. So a hint changes only what belongs to lorchestra: [`command`] returns nothing for a
//! directory that others use too (`/`, a home, `/srv`), nor for a user that this user namespace does not map. Callers then state which
//! permission is missing and what else can be done. This module reads modes, directories and `/proc/self/uid_map`; it changes nothing.

use crate::text::shell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Names in a state directory: `lorchestra.db` with SQLite's companion files, `lorchestra.newest`, and the directories of
/// [`StateDir`](crate::host::state::StateDir).
const STATE: [&str; 7] =
    ["lorchestra.db", "lorchestra.db-wal", "lorchestra.db-shm", "lorchestra.newest", "spool", "logs", "locks"];
/// File that `plugins install` creates in a directory into which it has installed a library.
pub(crate) const PLUGIN_LOCK: &str = ".lorchestra.lock";
/// Maximum number of directory entries to examine. One of our directories has few entries, or they are libraries.
const ENTRIES: usize = 10_000;
/// The uid of unmapped users (`/proc/sys/kernel/overflowuid`, whose default is never changed in practice).
const OVERFLOW: u32 = 65534;

/// A change of an owner or a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Give the owner these permissions: `r`, `rw`, `rwx`.
    OwnerMay(&'static str),
    /// Remove write permission from these classes: `o`, `g`, `go`.
    NotWritableBy(&'static str),
    /// Only the owner may read or write the file.
    Private,
    /// Make this user the owner.
    Owner(u32),
    /// Make this user the owner, recursively.
    OwnerOfAll(u32),
    /// Remove the access control list.
    NoList,
}

/// The path for which a change is suggested.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its owner.
    pub owner: u32,
    /// Whether it is a file, a directory or a link.
    pub kind: Kind,
}

/// The type of a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file that the user named, or one of lorchestra's own.
    File,
    /// A directory.
    Directory,
    /// A symbolic link on the path to a file or directory.
    Link,
}

/// Returns the command that makes a change, prefixed with `as root:` where needed; `None` if the change must not be suggested. `user` is
/// the uid of this process.
pub fn command(target: Target<'_>, change: Change, user: u32) -> Option<String> {
    let Target { path, owner, kind } = target;
    if kind != Kind::File && !is_ours(path) {
        return None;
    }
    let typed = shell(path);
    let (by_owner, command) = match change {
        Change::OwnerMay(rights) => (true, format!("chmod u+{rights} {typed}")),
        Change::NotWritableBy(whom) => (true, format!("chmod {whom}-w {typed}")),
        Change::Private => (true, format!("chmod 600 {typed}")),
        Change::NoList => (true, format!("setfacl -b {typed}")),
        Change::Owner(_) | Change::OwnerOfAll(_) if !is_mapped(owner) => return None,
        Change::Owner(to) | Change::OwnerOfAll(to) if !is_mapped(to) => return None,
        Change::Owner(0) if kind == Kind::Link => (false, format!("chown -h root {typed}")),
        Change::Owner(0) if kind == Kind::Directory => (false, format!("chown root {typed}")),
        Change::Owner(to) => (false, format!("chown {to} {typed}")),
        Change::OwnerOfAll(to) => (false, format!("chown -R {to} {typed}")),
    };
    let may = user == 0 || (by_owner && owner == user);
    Some(if may { command } else { format!("as root: {command}") })
}

/// Returns the hint for a path that this user may not read: names the first component that denies access, and the change, or who can make
/// it.
pub fn readable(path: &Path) -> String {
    use rustix::fs::{Access, access};
    let user = rustix::process::geteuid().as_raw();
    let way: Vec<&Path> = path.ancestors().skip(1).filter(|at| !at.as_os_str().is_empty()).collect();
    let closed = way.into_iter().rev().find(|at| access(*at, Access::EXEC_OK).is_err());
    let at = closed.unwrap_or(path);
    let Ok(meta) = fs::metadata(at) else { return format!("see ls -ld {}", shell(at)) };
    let (kind, rights) = if meta.is_dir() { (Kind::Directory, "rx") } else { (Kind::File, "r") };
    let own =
        (meta.uid() == user).then(|| command(Target { path: at, owner: user, kind }, Change::OwnerMay(rights), user)).flatten();
    if own.is_none() && meta.uid() == user {
        return format!("ls -ld {} shows who may read it", shell(at));
    }
    own.unwrap_or_else(|| {
        let right = if closed.is_some() { "enter" } else { "read" };
        format!("ask {} to let user {user} {right} {}", owner_text(meta.uid()), shell(at))
    })
}

/// Returns the command by which root creates a directory of lorchestra's for this user. `None` if the path does not show that the directory
/// is lorchestra's. The command changes no directory that exists.
pub fn make_for(directory: &Path, user: u32) -> Option<String> {
    use rustix::fs::{Access, access};
    // An unreadable parent may already contain this directory, owned by another user; and a new one there could not be reached.
    let is_missing = fs::symlink_metadata(directory).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let reachable = || {
        let existing = directory.ancestors().skip(1).find(|at| at.exists());
        existing.is_some_and(|at| access(at, Access::EXEC_OK).is_ok())
    };
    let may = user != 0 && is_named_ours(directory) && is_missing && is_mapped(0) && is_mapped(user) && reachable();
    may.then(|| format!("as root: install -d -m 700 -o {user} {}", shell(directory)))
}

/// Returns the command by which root gives a directory back that it created in a user's home, as lorchestra does when it is started once
/// with sudo. `at` is the directory that the user may not enter, and `wanted` the path of lorchestra's below it. The user owns the directory
/// around `at`, and could rename `at` anyway.
pub fn give_back(at: &Path, wanted: &Path, user: u32) -> Option<String> {
    let owner = |path: &Path| fs::metadata(path).ok().map(|meta| meta.uid());
    let ours = wanted.ancestors().find(|path| path.file_name().is_some_and(|name| name == "lorchestra"))?;
    let is_below = ours != at && ours.starts_with(at) && is_named_ours(wanted);
    let may = user != 0 && owner(at) == Some(0) && owner(at.parent()?) == Some(user) && is_mapped(0) && is_mapped(user);
    (is_below && may).then(|| format!("as root: chown -R {user} {} && chown {user} {}", shell(ours), shell(at)))
}

/// Returns the hint for a file where a directory is expected: move it away if it is in one of lorchestra's directories, otherwise choose
/// another path.
pub fn move_away(path: &Path) -> String {
    match path.parent() {
        Some(parent) if is_ours(parent) || is_named_ours(path) => format!("move {} away", shell(path)),
        _ => format!("choose a path other than {}", shell(path)),
    }
}

/// Whether only lorchestra uses a directory: its name says so, or it has nothing else in it.
pub fn is_ours(directory: &Path) -> bool {
    is_named_ours(directory) || holds_only_ours(directory)
}

/// Whether the path has a component `lorchestra`, as the default locations do. The home of a service user of that name does not count.
fn is_named_ours(path: &Path) -> bool {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return false;
    }
    path.ancestors().any(|at| {
        let above = at.parent().unwrap_or(Path::new("/"));
        at.file_name().is_some_and(|name| name == "lorchestra") && !["/", "/home", ""].iter().any(|no| above == Path::new(no))
    })
}

/// Whether a directory holds files of lorchestra and nothing else.
fn holds_only_ours(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    let (mut state, mut lock, mut libraries, mut others) = (false, false, 0, false);
    for (n, entry) in entries.enumerate() {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        match () {
            () if n >= ENTRIES => others = true,
            () if STATE.contains(&&*name) => state = true,
            () if name == PLUGIN_LOCK => lock = true,
            () if name.ends_with(".so") => libraries += 1,
            () => others = true,
        }
    }
    !others && (state != lock) && (lock || libraries == 0)
}

/// Whether this user namespace maps this user. Files of unmapped users show the overflow uid (65534).
pub fn is_mapped(uid: u32) -> bool {
    fs::read_to_string("/proc/self/uid_map").map_or(true, |map| maps(&map, uid))
}

/// The map of a new namespace is empty until it is written; then no user is mapped.
fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (Some(Some(first)), Some(Some(count))) = (numbers.next(), numbers.nth(1)) else { return false };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

/// Whether the owner of a file is a user that this user namespace does not map. That can be any user, even if the number equals this user's
/// uid.
pub(crate) fn is_unknown(owner: u32) -> bool {
    owner == OVERFLOW && !is_mapped(owner)
}

/// Describes the owner of a path, for a message.
pub fn owner_text(owner: u32) -> String {
    if is_mapped(owner) {
        format!("user {owner}")
    } else {
        format!("a user whom this user namespace does not map (it shows as {owner})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const CHANGES: [Change; 8] = [
        Change::OwnerMay("rwx"),
        Change::NotWritableBy("go"),
        Change::NotWritableBy("g"),
        Change::Private,
        Change::Owner(0),
        Change::Owner(1000),
        Change::OwnerOfAll(123_456),
        Change::NoList,
    ];

    /// Tries every change on every shared directory of a machine, as every user: none may be suggested.
    #[test]
    fn no_change_is_suggested_for_a_shared_directory() {
        let machine = [
            "/",
            "/home",
            "/home/anna",
            "/home/lorchestra",
            "/lorchestra",
            "/tmp",
            "/usr",
            "/usr/lib",
            "/var/lib",
            "/srv",
            "/root",
        ];
        let homes =
            ["/.local", "/.local/state", "/home/anna/.local/share", "/home/anna/.config", "/srv/lorchestra/..", "relative"];
        for path in machine.iter().chain(&homes) {
            for kind in [Kind::Directory, Kind::Link] {
                for owner in [0, 1000, 65534] {
                    for user in [0, 1000, 123_456] {
                        for change in CHANGES {
                            let target = Target { path: Path::new(path), owner, kind };
                            assert_eq!(command(target, change, user), None, "{target:?} {change:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn own_directories_are_recognized_by_name_or_contents() {
        for path in
            ["/home/anna/.local/state/lorchestra", "/var/lib/lorchestra/state/spool", "/srv/lorchestra", "/home/a/lorchestra/x"]
        {
            assert!(is_ours(Path::new(path)), "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        let with = |names: &[&str]| -> PathBuf {
            let at = dir.path().join(names.join("+"));
            fs::create_dir(&at).unwrap();
            names.iter().for_each(|name| fs::write(at.join(name), "").unwrap());
            at
        };
        for names in [&["lorchestra.db", "spool", "logs", "locks"][..], &["spool"], &["libx.so", PLUGIN_LOCK]] {
            assert!(is_ours(&with(names)), "{names:?}");
        }
        for names in [&["lorchestra.db", "other"][..], &["libc.so"], &["libx.so", PLUGIN_LOCK, "notes"], &["spool", "libx.so"]] {
            assert!(!is_ours(&with(names)), "{names:?}");
        }
        assert!(!is_ours(&dir.path().join("missing")) && !is_ours(Path::new("")));
    }

    #[test]
    fn a_command_names_who_must_run_it() {
        let path = Path::new("/home/anna/.local/state/lorchestra/a b");
        let of = |owner, kind, change, user| command(Target { path, owner, kind }, change, user);
        let typed = "'/home/anna/.local/state/lorchestra/a b'";
        let expect = |text: &str| Some(format!("{text} {typed}"));
        assert_eq!(of(7, Kind::Directory, Change::OwnerMay("rwx"), 7), expect("chmod u+rwx"));
        assert_eq!(of(8, Kind::Directory, Change::NotWritableBy("o"), 7), expect("as root: chmod o-w"));
        assert_eq!(of(7, Kind::File, Change::Private, 7), expect("chmod 600"));
        assert_eq!(of(8, Kind::Directory, Change::OwnerOfAll(0), 0), expect("chown -R 0"));
        assert_eq!(of(7, Kind::Link, Change::Owner(0), 7), expect("as root: chown -h root"));
    }

    #[test]
    fn unmapped_users_are_recognized() {
        let all = "         0          0 4294967295\n";
        assert!(maps(all, 0) && maps(all, 65534) && maps(all, 123_456));
        let one = "      1000          0          1\n";
        assert!(maps(one, 1000) && !maps(one, 0) && !maps(one, 65534));
        let two = "0 100000 1000\n65534 165534 1\n";
        assert!(maps(two, 65534) && maps(two, 999) && !maps(two, 1000));
        assert!(!maps("", 0) && !maps("", 65534));
    }
}
