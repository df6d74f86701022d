//! What a hint may suggest about owners and modes. The only place that writes a command which changes one.
//!
//! A hint is copied into a shell, often by root. So it changes what is lorchestra's own, and nothing else: [`command`] has no command for a
//! directory that others use too (`/`, a home, `/srv`), nor for a user that this user namespace does not map. Callers then say which right is
//! missing and what else can be done. Reads modes, directories and `/proc/self/uid_map`; changes nothing.

use crate::text::shell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Names in a state directory: `lorchestra.db` with what SQLite keeps next to it, and the directories of
/// [`StateDir`](crate::host::state::StateDir).
const STATE: [&str; 6] = ["lorchestra.db", "lorchestra.db-wal", "lorchestra.db-shm", "spool", "logs", "locks"];
/// Is in a directory that `plugins install` has put a library into.
pub(crate) const PLUGIN_LOCK: &str = ".lorchestra.lock";
/// Entries of a directory that are looked at, at most: one of ours has few, or they are libraries.
const ENTRIES: usize = 10_000;
/// The number of users that have none here (`/proc/sys/kernel/overflowuid`, which nobody changes).
const OVERFLOW: u32 = 65534;

/// A change of an owner or a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The owner gets these rights: `r`, `rw`, `rwx`.
    OwnerMay(&'static str),
    /// These lose the right to write: `o`, `g`, `go`.
    NotWritableBy(&'static str),
    /// Nobody but the owner may read or write the file.
    Private,
    /// It becomes this user's.
    Owner(u32),
    /// It becomes this user's, with all that is in it.
    OwnerOfAll(u32),
    /// Its access list goes.
    NoList,
}

/// What a change is suggested for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its owner.
    pub owner: u32,
    /// What kind of thing.
    pub kind: Kind,
}

/// What kind of thing a change is suggested for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file that the user named, or that is lorchestra's.
    File,
    /// A directory.
    Directory,
    /// A symbolic link on the way to one.
    Link,
}

/// The command that makes a change, with who has to run it; `None`, where it is not to be suggested. `user` is this user.
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

/// The hint for a path that this user may not read: the first place on the way that refuses it, and the change, or who can make one.
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
        format!("ask {} for the right to {right} {} as user {user}", owner_text(meta.uid()), shell(at))
    })
}

/// The command by which root makes a directory that is to be lorchestra's, for this user; `None` where its name does not say that it
/// is to be. Nothing that is there already is changed.
pub fn make_for(directory: &Path, user: u32) -> Option<String> {
    let may = user != 0 && is_named_ours(directory) && !directory.exists() && is_mapped(0) && is_mapped(user);
    may.then(|| format!("as root: install -d -m 700 -o {user} {}", shell(directory)))
}

/// Whether nobody but lorchestra uses a directory: by its name, or because nothing else is in it.
pub fn is_ours(directory: &Path) -> bool {
    is_named_ours(directory) || holds_only_ours(directory)
}

/// Whether the path leads through a directory `lorchestra`, as the default places do. The home of a service user of that name is no such
/// directory.
fn is_named_ours(path: &Path) -> bool {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return false;
    }
    path.ancestors().any(|at| {
        let above = at.parent().unwrap_or(Path::new("/"));
        at.file_name().is_some_and(|name| name == "lorchestra") && !["/", "/home", ""].iter().any(|no| above == Path::new(no))
    })
}

/// Whether something of lorchestra's is in a directory, and nothing else.
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

/// Whether this user namespace has a number for a user of its own. Files of those it does not map show the overflow uid (65534).
pub fn is_mapped(uid: u32) -> bool {
    fs::read_to_string("/proc/self/uid_map").map_or(true, |map| maps(&map, uid))
}

/// The map is empty until somebody has written it: nobody is mapped then.
fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (Some(Some(first)), Some(Some(count))) = (numbers.next(), numbers.nth(1)) else { return false };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

/// Whether the owner of a file is a user that this user namespace does not map: anybody, then, also where the number is this user's own.
pub(crate) fn is_unknown(owner: u32) -> bool {
    owner == OVERFLOW && !is_mapped(owner)
}

/// The user that a path belongs to, for a message.
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

    /// Every change of every directory of a machine, by every user: none is suggested.
    #[test]
    fn a_directory_that_others_use_is_never_to_be_changed() {
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
    fn what_is_lorchestras_is_known_by_its_name_or_by_all_that_is_in_it() {
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
    fn a_command_says_who_has_to_run_it() {
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
    fn users_that_a_namespace_does_not_map_are_known() {
        let all = "         0          0 4294967295\n";
        assert!(maps(all, 0) && maps(all, 65534) && maps(all, 123_456));
        let one = "      1000          0          1\n";
        assert!(maps(one, 1000) && !maps(one, 0) && !maps(one, 65534));
        let two = "0 100000 1000\n65534 165534 1\n";
        assert!(maps(two, 65534) && maps(two, 999) && !maps(two, 1000));
        assert!(!maps("", 0) && !maps("", 65534));
    }
}
