//! What a concurrent reader sees while a library is replaced. The end-to-end tests cover the output of the commands.

use super::*;
use crate::packages::catalog::tests::plugin;
use std::sync::atomic::{AtomicBool, Ordering};

struct PluginsDirectory {
    dir: tempfile::TempDir,
}

impl PluginsDirectory {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    fn search(&self) -> [SearchDir; 1] {
        [SearchDir { path: self.plugins(), origin: "test".into() }]
    }

    /// Builds a library of this package whose last byte is `n`.
    fn library(&self, package: &str, n: u8) -> Library {
        let path = self.dir.path().join(format!("{package}-{n}.so"));
        fs::write(&path, [plugin(package), vec![n]].concat()).unwrap();
        Library::named(&path).unwrap()
    }

    fn install(&self, library: &Library) -> Installed {
        install(library, &self.search()).unwrap()
    }

    /// Names in the directory that could be plugins.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.plugins()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

#[test]
fn there_is_one_file_of_the_package_at_every_moment() {
    let place = PluginsDirectory::new();
    let libraries = [place.library("pack", 1), place.library("pack", 2)];
    place.install(&libraries[0]);
    let (installed, other) = (place.plugins().join("libpack.so"), place.plugins().join("other.so"));
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut counts = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                counts.insert(place.names().len());
            }
            counts
        });
        for n in 0..200 {
            if n % 2 == 0 {
                fs::rename(&installed, &other).unwrap();
            }
            let Installed { before, removed, .. } = place.install(&libraries[(n + 1) % 2]);
            assert!(matches!(before, Previous::Package(_)), "{before:?}");
            assert_eq!(removed.len(), 1 - n % 2);
        }
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert_eq!(seen, [1].into(), "numbers of files that were seen");
    assert_eq!(place.names(), ["libpack.so"]);
}

#[test]
fn an_open_old_file_stays_readable() {
    let place = PluginsDirectory::new();
    let installed = place.install(&place.library("pack", 1));
    let mut open = File::open(&installed.path).unwrap();
    place.install(&place.library("pack", 2));
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open, &mut bytes).unwrap();
    assert_eq!(bytes.last(), Some(&1));
    assert_eq!(fs::read(&installed.path).unwrap().last(), Some(&2));
}

#[test]
fn the_same_bytes_change_nothing_unless_they_have_another_name() {
    let place = PluginsDirectory::new();
    let library = place.library("pack", 1);
    assert!(matches!(place.install(&library).before, Previous::Nothing));
    assert!(matches!(place.install(&library).before, Previous::Same));
    fs::rename(place.plugins().join("libpack.so"), place.plugins().join("other.so")).unwrap();
    assert!(matches!(place.install(&library).before, Previous::Package(_)));
    assert_eq!(place.names(), ["libpack.so"]);
}

#[test]
fn one_command_at_a_time_changes_a_directory() {
    let place = PluginsDirectory::new();
    place.install(&place.library("pack", 1));
    let held = lock(&place.plugins()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| place.install(&place.library("pack", 2)));
        let removing = scope.spawn(|| remove("pack", &place.search()));
        // By now they are waiting for the lock, or have wrongly changed the directory.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(fs::read(place.plugins().join("libpack.so")).unwrap().last(), Some(&1));
        drop(held);
        waiting.join().unwrap();
        drop(removing.join().unwrap());
    });
}

#[test]
fn all_names_of_a_package_are_removed() {
    let place = PluginsDirectory::new();
    place.install(&place.library("pack", 1));
    place.install(&place.library("stays", 1));
    fs::hard_link(place.plugins().join("libpack.so"), place.plugins().join("a.so")).unwrap();
    std::os::unix::fs::symlink("libpack.so", place.plugins().join("z.so")).unwrap();
    assert_eq!(remove("pack", &place.search()).unwrap().paths.len(), 3);
    assert_eq!(place.names(), ["libstays.so"]);
    assert!(matches!(remove("pack", &place.search()), Err(InstallError::Unknown)));
}

/// A directory that is on the search path in two spellings lists each name twice, and both refer to the same file.
#[test]
fn a_directory_searched_twice_has_each_file_once() {
    let place = PluginsDirectory::new();
    place.install(&place.library("pack", 1));
    let linked = place.dir.path().join("linked");
    std::os::unix::fs::symlink("plugins", &linked).unwrap();
    for second in [place.plugins(), linked] {
        let search = [place.plugins(), second].map(|path| SearchDir { path, origin: "test".into() });
        let installed = install(&place.library("pack", 2), &search).unwrap();
        assert!(installed.removed.is_empty(), "{installed:?}");
        assert_eq!(place.names(), ["libpack.so"]);
        assert!(matches!(install(&place.library("pack", 2), &search).unwrap().before, Previous::Same));
        assert_eq!(remove("pack", &search).unwrap().paths, [place.plugins().join("libpack.so")]);
        place.install(&place.library("pack", 1));
    }
}
