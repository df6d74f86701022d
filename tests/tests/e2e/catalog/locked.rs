//! `plugins.lock`: with `locked = true` or --locked, exactly the locked bytes run, whatever happens to the file in the meantime.
//!
//! The races have 200 rounds with one run each. `LORCHESTRA_TEST_ROUNDS` sets a tenth of that number (default 20).

use lorchestra_tests::{Ended, Fixture, Running, Sandbox};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Variables read by the library's constructor and by that of the other version; each creates its own marker.
const MARKER: &str = "CONSTRUCTOR_MARKER";
const OTHER_MARKER: &str = "CONSTRUCTOR_MARKEX";

fn rounds() -> u32 {
    // These rounds are shorter than those that kill something, by this factor.
    10 * lorchestra_tests::rounds(20)
}

fn library(sandbox: &Sandbox) -> PathBuf {
    sandbox.plugins().join("libconstructor.so")
}

/// The same package and version, which can be loaded and run, but behaves differently when loaded.
fn other_bytes() -> Vec<u8> {
    let mut bytes = fs::read(Fixture::Constructor.built()).unwrap();
    let mut found = 0;
    for at in 0..bytes.len() - MARKER.len() {
        if bytes[at..].starts_with(MARKER.as_bytes()) {
            bytes[at..at + MARKER.len()].copy_from_slice(OTHER_MARKER.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "the name of the variable is in the library");
    bytes
}

/// Runs the job with both markers enabled.
fn run(sandbox: &Sandbox, args: &[&str]) -> Ended {
    let (marker, other) = (sandbox.arg("marker"), sandbox.arg("other"));
    let args = [&["run-job"], args, &["constructor", "loaded"]].concat();
    sandbox.lorchestra_with(&[(MARKER, &marker), (OTHER_MARKER, &other)], &args)
}

fn count(sandbox: &Sandbox, marker: &str) -> usize {
    sandbox.read(marker).lines().count()
}

#[test]
fn only_locked_bytes_run() {
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    let locked = sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(locked.out().starts_with("✓ 1 package locked: "), "{}", locked.shown());
    run(&sandbox, &["--locked"]).exits(0);
    assert_eq!((count(&sandbox, "marker"), sandbox.runs().len()), (1, 1));

    fs::write(library(&sandbox), other_bytes()).unwrap();
    for args in [&["--locked"][..], &["--locked", "--dry-run"]] {
        let ended = run(&sandbox, args).exits(126);
        assert!(
            ended.err().contains("its bytes differ from the constructor 0.1.0 in plugins.lock (lock-differs)"),
            "{}",
            ended.shown()
        );
        assert!(ended.err().contains("fix: run lorchestra plugins lock"), "{}", ended.shown());
    }
    let behind = sandbox.lorchestra(&["run-job", "constructor", "loaded", "--locked"]).exits(126);
    assert!(behind.err().contains("lock-differs"), "{}", behind.shown());
    assert_eq!((count(&sandbox, "other"), sandbox.runs().len()), (0, 1), "nothing was loaded, and no run was recorded");

    // The bytes are valid: without the lock they run, and leave their own marker.
    run(&sandbox, &[]).exits(0);
    assert_eq!((count(&sandbox, "marker"), count(&sandbox, "other")), (1, 1));
    // Once they are locked, only they run.
    let locked = sandbox.lorchestra(&["plugins", "lock", "constructor"]).exits(0);
    assert!(locked.out().contains("  changed: constructor 0.1.0, other bytes\n"), "{}", locked.shown());
    run(&sandbox, &["--locked"]).exits(0);
    fs::copy(Fixture::Constructor.built(), library(&sandbox)).unwrap();
    run(&sandbox, &["--locked"]).exits(126);
    assert_eq!((count(&sandbox, "marker"), count(&sandbox, "other")), (1, 2));
}

#[test]
fn the_configuration_locks_listings_and_runs() {
    let sandbox = Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave]);
    let json = sandbox.lorchestra(&["plugins", "lock", "--json", "constructor"]).exits(0).json("lorchestra.plugins-lock/1");
    assert_eq!((&json["added"], &json["removed"]), (&json!(["constructor"]), &json!([])));
    let sha256 = json["packages"][0]["sha256"].as_str().unwrap();
    let bytes = &json["packages"][0]["bytes"];
    let text = sandbox.read("home/.config/lorchestra/plugins.lock");
    assert!(
        text.contains(&format!("name = \"constructor\"\nversion = \"0.1.0\"\nbytes = {bytes}\nsha256 = \"{sha256}\"")),
        "{text}"
    );

    sandbox.configure("locked = true");
    let listed = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_eq!(listed.out(), "constructor:\n  loaded\n");
    assert!(listed.err().contains("plugins.lock does not list the package misbehave (not-locked)"), "{}", listed.shown());
    let files = sandbox.lorchestra(&["plugins", "list", "--json"]).exits(0).json("lorchestra.plugins-list/1")["files"].clone();
    assert_eq!((&files[0]["state"], &files[0]["locked"]), (&json!("usable"), &json!(true)));
    assert_eq!((&files[1]["state"], &files[1]["reason"]), (&json!("unusable"), &json!("not-locked")));
    sandbox.lorchestra(&["run-job", "constructor", "loaded"]).exits(0);
    for args in [
        &["run-job", "misbehave", "noop"][..],
        &["run-job", "--dry-run", "misbehave", "noop"],
        &["jobs", "show", "misbehave", "noop"],
    ] {
        let ended = sandbox.lorchestra(args).exits(126);
        assert!(ended.err().contains("(not-locked)"), "{}", ended.shown());
    }
    // Without names, exactly the installed packages are locked.
    fs::remove_file(library(&sandbox)).unwrap();
    let locked = sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(locked.out().ends_with("  added:   misbehave 0.3.0\n  removed: constructor 0.1.0\n"), "{}", locked.shown());
    assert_eq!(locked.err(), "", "a run was refused because of the lock");
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

/// Locked from the first day, as in docs/guides/sandbox.md: installing and listing must work before the lock file exists.
#[test]
fn locking_can_be_configured_before_the_lock_file_exists() {
    let sandbox = Sandbox::with(&[]);
    sandbox.configure("locked = true");
    let built = Fixture::Constructor.built().display().to_string();
    let installed = sandbox.lorchestra(&["plugins", "install", &built]).exits(0);
    assert!(
        installed.err().contains("there is no plugins.lock: run lorchestra plugins lock constructor to allow"),
        "{}",
        installed.shown()
    );
    let listed = sandbox.lorchestra(&["plugins", "list"]).exits(0);
    assert!(listed.out().contains("libconstructor.so  not-locked: "), "{}", listed.shown());
    let checked = sandbox.lorchestra(&["plugins", "check", &library(&sandbox).display().to_string()]).exits(0);
    assert!(checked.out().contains("locked:     no: there is no plugins.lock"), "{}", checked.shown());
    run(&sandbox, &[]).exits(78);
    sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    run(&sandbox, &[]).exits(0);
    assert_eq!(count(&sandbox, "marker"), 1);
}

/// With an untrusted lock file nothing runs, and the error is one of configuration.
#[test]
fn an_untrusted_lock_file_is_a_configuration_error() {
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    let path = sandbox.home().join(".config/lorchestra/plugins.lock");
    let refused = |what: &str, hint: &str| {
        let ended = run(&sandbox, &["--locked"]).exits(78);
        assert!(ended.err().contains(what) && ended.err().contains(hint), "{}", ended.shown());
    };
    refused("does not exist", "run lorchestra plugins lock to create it");
    sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    let text = fs::read_to_string(&path).unwrap();
    for (bad, what) in [
        (text.replace("version = 1", "version = 2"), "its format is 2"),
        (text.replace("sha256 = \"", "sha256 = \"zz"), "the sha256 of constructor is not"),
        (text.replace("[[package]]", "[[packages]]"), "unknown field `packages`"),
        ("<<<<<<< HEAD".to_owned(), "plugins.lock: "),
    ] {
        fs::write(&path, bad).unwrap();
        refused(what, "run lorchestra plugins lock to create it again");
    }
    let relock = sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(relock.err().starts_with("warning: "), "{}", relock.shown());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    run(&sandbox, &["--locked"]).exits(0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    refused("any user may write to it", "chmod o-w");
    assert_eq!(count(&sandbox, "marker"), 1);
    // A user who did not request the lock is not affected by a bad lock file.
    run(&sandbox, &[]).exits(0);
}

/// Listing and checking report an untrusted lock file in the same way as a run, with the same fix, which is not to lock again.
#[test]
fn listings_report_how_to_fix_a_lock_file() {
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    let path = sandbox.home().join(".config/lorchestra/plugins.lock");
    let file = library(&sandbox).display().to_string();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    let hint = format!("chmod o-w {}", path.display());
    for locked in [true, false] {
        sandbox.configure(&format!("locked = {locked}"));
        let listed = sandbox.lorchestra(&["plugins", "list"]).exits(0);
        let checked = sandbox.lorchestra(&["plugins", "check", &file]).exits(0);
        let installed = sandbox.lorchestra(&["plugins", "install", &file]).exits(0);
        for ended in [&listed, &checked, &installed] {
            assert!(ended.err().contains("any user may write to it"), "{}", ended.shown());
            assert!(ended.err().contains(&format!("  {hint}\n")), "{}", ended.shown());
            let all = format!("{}{}", ended.out(), ended.err());
            assert!(
                !all.contains("lorchestra plugins lock"),
                "the hint must not suggest writing the lock file again: {}",
                ended.shown()
            );
        }
        assert_eq!(
            listed.out().contains("not-locked: plugins.lock cannot be trusted: any user may"),
            locked,
            "{}",
            listed.shown()
        );
        assert_eq!(listed.out().contains(&format!("fix: {hint}\n")), locked, "{}", listed.shown());
        assert_eq!(checked.out().contains("locked:     no: plugins.lock cannot be trusted"), locked, "{}", checked.shown());
    }
    // A lock file that is written where others may replace it is reported immediately.
    let dir = path.parent().unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    let locked = sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(locked.err().contains(&format!("chmod go-w {}\n", dir.display())), "{}", locked.shown());
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let locked = sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(!locked.err().contains("chmod"), "{}", locked.shown());
    // A missing file is reported as missing, not as lacking a package.
    fs::remove_file(&path).unwrap();
    sandbox.configure("locked = true");
    let listed = sandbox.lorchestra(&["plugins", "list"]).exits(0);
    assert!(listed.out().contains("not-locked: there is no plugins.lock\n"), "{}", listed.shown());
    assert!(listed.out().contains("fix: run lorchestra plugins lock"), "{}", listed.shown());
    let json = sandbox.lorchestra(&["plugins", "list", "--json"]).exits(0).json("lorchestra.plugins-list/1");
    assert_eq!((&json["files"][0]["state"], &json["files"][0]["reason"]), (&json!("unusable"), &json!("not-locked")));
}

#[test]
fn unusable_files_are_not_locked() {
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    fs::write(sandbox.plugins().join("broken.so"), "text").unwrap();
    let locked = sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(
        locked.err().starts_with(&format!("warning: {}", sandbox.plugins().join("broken.so").display())),
        "{}",
        locked.shown()
    );
    let unknown = sandbox.lorchestra(&["plugins", "lock", "constructr"]).exits(1);
    assert!(unknown.err().contains("did you mean constructor?"), "{}", unknown.shown());
    fs::set_permissions(library(&sandbox), fs::Permissions::from_mode(0o666)).unwrap();
    sandbox.lorchestra(&["plugins", "lock", "constructor"]).exits(126);
}

/// How to swap the file while runs are in progress.
#[derive(Clone, Copy)]
enum Swap {
    Rename,
    InPlace,
}

/// Keeps swapping the library with another version while it is run with --locked. The other version is valid, and creates a marker wherever
/// it is loaded.
fn race(swap: Swap) {
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    let (good, other) = (fs::read(Fixture::Constructor.built()).unwrap(), other_bytes());
    assert_eq!(good.len(), other.len());
    let sources = [sandbox.path("good"), sandbox.path("other-bytes")];
    fs::write(&sources[0], &good).unwrap();
    fs::write(&sources[1], &other).unwrap();
    let path = library(&sandbox);
    let next = sandbox.plugins().join(".next");
    let done = AtomicBool::new(false);
    let (mut ran, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0_u64;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                match swap {
                    Swap::Rename => {
                        fs::hard_link(&sources[n as usize % 2], &next).unwrap();
                        fs::rename(&next, &path).unwrap();
                    }
                    // Overwrites the existing bytes in pieces, so that a reader also finds mixtures.
                    Swap::InPlace => {
                        let file = File::options().write(true).open(&path).unwrap();
                        let bytes = if n.is_multiple_of(2) { &good } else { &other };
                        for (piece, bytes) in bytes.chunks(1 << 20).enumerate() {
                            file.write_all_at(bytes, (piece << 20) as u64).unwrap();
                        }
                    }
                }
                // These delays cover the moments between listing, opening, reading and loading.
                std::thread::sleep(Duration::from_micros(n * 7919 % 4000));
            }
        });
        for _ in 0..rounds() {
            let ended = run(&sandbox, &["--locked"]);
            match ended.code() {
                Some(0) => ran += 1,
                Some(126) => refused += 1,
                _ => panic!("neither run nor refused: {}", ended.shown()),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(count(&sandbox, "other"), 0, "bytes ran that were not locked");
    assert_eq!(count(&sandbox, "marker"), ran, "each run loaded the locked bytes once");
    assert!(ran > 0 && refused > 0, "the race did not happen: {ran} ran, {refused} were refused");
    // These bytes are the ones that were refused.
    fs::write(&path, &other).unwrap();
    run(&sandbox, &[]).exits(0);
    assert_eq!(count(&sandbox, "other"), 1);
}

#[test]
fn swapping_by_rename_never_runs_other_bytes() {
    race(Swap::Rename);
}

#[test]
fn swapping_in_place_never_runs_other_bytes() {
    race(Swap::InPlace);
}

/// Readers never see a partial lock file: if the locking command is killed halfway, the old file remains.
#[test]
fn several_commands_may_lock_at_once() {
    let sandbox = Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave]);
    let running: Vec<Running> = (0..8).map(|_| sandbox.start(&["plugins", "lock"])).collect();
    running.into_iter().for_each(|running| drop(running.wait().exits(0)));
    let names: Vec<_> =
        fs::read_dir(sandbox.home().join(".config/lorchestra")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["plugins.lock"], "nothing else is left in the directory");
    run(&sandbox, &["--locked"]).exits(0);
}
