//! Files that are not usable libraries: each is reported with one reason and a hint, hides no other file, and is refused without harm, by
//! the catalog or (if only loading can detect it) in the worker.

use super::{Book, COMPLETED, NO_RUN, another_works, ended_as};
use lorchestra_core::packages::catalog::{Reason, inspect};
use lorchestra_tests::corrupt::{self, changed, cut, manifest, manifest_byte, manifest_bytes, replaced, whole};
use lorchestra_tests::{Fixture, Sandbox, built};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Name; contents; the reason in a listing, or none if only loading can detect it; exit code and end of a run.
type Specimen = (&'static str, fn(&Path), &'static str, i32, &'static str);

/// Detected only by the loader: the file is listed, and fails to load.
const LISTED: &str = "";

#[rustfmt::skip]
const SPECIMENS: &[Specimen] = &[
    // Not files, or files without a library's bytes.
    ("no-bytes",          |path| put(path, ""),                                          "empty",              1, NO_RUN),
    ("text",              |path| put(path, "#!/bin/sh\necho hello\n"),                   "not-elf",            1, NO_RUN),
    ("directory",         |path| fs::create_dir(path).unwrap(),                          "not-a-file",         1, NO_RUN),
    ("dangling",          |path| symlink("/no/such/library.so", path).unwrap(),          "dangling-link",      1, NO_RUN),
    ("fifo",              fifo,                                                          "not-a-file",         1, NO_RUN),
    ("socket",            |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), "not-a-file",    1, NO_RUN),
    ("device",            |path| symlink("/dev/zero", path).unwrap(),                    "not-a-file",         1, NO_RUN),
    ("endless",           endless,                                                       "too-large",          1, NO_RUN),
    // Truncated.
    ("four-bytes",        |path| put(path, b"\x7fELF"),                                  "truncated",          1, NO_RUN),
    ("cut-in-the-header", |path| put(path, cut(40)),                                     "truncated",          1, NO_RUN),
    ("half",              |path| put(path, cut(whole().len() / 2)),                      "truncated",          1, NO_RUN),
    ("cut-by-1-kb",       |path| put(path, cut(whole().len() - 1024)),                   "truncated",          1, NO_RUN),
    ("cut-by-a-byte",     |path| put(path, cut(whole().len() - 1)),                      "truncated",          1, NO_RUN),
    // Of another type. EM_AARCH64, EM_X86_64: one of the two is another machine's.
    ("machine",           |path| put(path, changed(|b| b[18] ^= 62 ^ 183)),              "wrong-architecture", 1, NO_RUN),
    ("class",             |path| put(path, changed(|b| b[4] = 1)),                       "wrong-architecture", 1, NO_RUN),
    ("byte-order",        |path| put(path, changed(|b| b[5] = 2)),                       "wrong-architecture", 1, NO_RUN),
    ("executable",        |path| put(path, fs::read(built::lorchestra()).unwrap()),      "not-a-library",      1, NO_RUN),
    ("object",            |path| put(path, changed(|b| b[16] = 1)),                      "not-a-library",      1, NO_RUN),
    // An executable that is also a library.
    ("libc",              |path| put(path, fs::read(libc()).unwrap()),                   "no-manifest",        1, NO_RUN),
    ("newer-glibc",       |path| put(path, corrupt::for_newer_glibc()),                  "needs-newer-glibc",  126, NO_RUN),
    // Manifests.
    ("no-manifest",       |path| put(path, corrupt::without_manifest()),                 "no-manifest",        1, NO_RUN),
    ("no-magic",          |path| put(path, manifest_byte(0, b'X')),                      "bad-manifest",       1, NO_RUN),
    ("flipped-bit",       |path| put(path, corrupt::flipped_docs()),                     "bad-manifest",       1, NO_RUN),
    ("claims-1-gib",      |path| put(path, corrupt::manifest_claims(1 << 30)),           "bad-manifest",       1, NO_RUN),
    ("claims-too-much",   |path| put(path, corrupt::manifest_claims(1_000_000)),         "bad-manifest",       1, NO_RUN),
    ("no-json",           |path| put(path, manifest("{", "[")),                          "bad-manifest",       1, NO_RUN),
    ("not-utf8",          |path| put(path, manifest_bytes(b"Does nothing.", b"Does \xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8")), "bad-manifest", 126, NO_RUN),
    ("raw-escapes",       |path| put(path, manifest("\"misbehave\"", "\"\x1b[2J\x07have\"")), "bad-manifest",     1, NO_RUN),
    ("escaped-name",      |path| put(path, manifest("\"misbehave\"", "\"m\\u001bve\"")), "bad-manifest",       1, NO_RUN),
    ("bad-name",          |path| put(path, manifest("\"misbehave\"", "\"../behave\"")),  "bad-manifest",       1, NO_RUN),
    ("bad-default",       |path| put(path, manifest("\"default\":500", "\"default\":-50")), "bad-manifest",    126, NO_RUN),
    ("flag-of-ours",      |path| put(path, manifest("\"name\":\"stay\"", "\"name\":\"help\"")), "bad-manifest", 126, NO_RUN),
    // Other revisions.
    ("newer-format",      |path| put(path, manifest_byte(6, 2)),                         "abi-too-new",        1, NO_RUN),
    ("newer-abi",         |path| put(path, corrupt::abi(|present| present + 1)),            "abi-too-new",        126, NO_RUN),
    ("older-abi",         |path| put(path, corrupt::abi(|_| 0)),                            "abi-too-old",        126, NO_RUN),
    ("diverged-abi",      |path| put(path, replaced(b"abi_revision;", b"abi_revisiom;")), LISTED,              126, "load"),
    ("other-abi-stable",  |path| put(path, corrupt::for_other_abi_stable()),             LISTED,               126, "load"),
    // Complete, but different from what they claim.
    ("escaped-docs",      |path| put(path, manifest("Does nothing.", r"\u001b\u0007!")), LISTED,               126, "load"),
    ("other-version",     |path| put(path, manifest("\"version\":\"0.3.0\"", "\"version\":\"0.4.0\"")), LISTED, 126, "load"),
    ("no-root-module",    |path| put(path, replaced(b"\0lorchestra_root_module_of_", b"\0lorchestra_root_module_og_")), LISTED, 126, "load"),
    ("missing-library",   |path| put(path, replaced(b"\0libgcc_s.so.1\0", b"\0libgcc_x.so.1\0")), LISTED,      126, "load"),
    ("missing-symbol",    |path| put(path, replaced(b"\0_Unwind_Resume\0", b"\0_Unwind_Resumf\0")), LISTED,    126, "load"),
    ("wild-dynamic",      |path| put(path, corrupt::with_wild_dynamic_section()),        LISTED,               126, "load"),
    ("vast-data",         |path| put(path, corrupt::with_vast_data()),                   LISTED,               126, "load"),
    // Several names.
    ("twice",             twice,                                                         "duplicate",          126, NO_RUN),
    ("no-text",           no_text,                                                       LISTED,               0, COMPLETED),
    ("link-out",          link_out,                                                      "link-out",           126, NO_RUN),
    ("hard-link",         hard_link,                                                     LISTED,               0, COMPLETED),
];

fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap();
}

/// The C library that this process has loaded.
fn libc() -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| path.ends_with("/libc.so.6"));
    path.expect("a libc").to_owned()
}

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap();
}

/// A good library followed by a hole of a terabyte: it takes no disk space, but would take all memory.
fn endless(path: &Path) {
    put(path, whole());
    File::options().write(true).open(path).and_then(|file| file.set_len(1 << 40)).unwrap();
}

/// A good library whose name is not UTF-8.
fn no_text(path: &Path) {
    put(&path.with_file_name(OsStr::from_bytes(b"lib\xff.so")), whole());
}

fn twice(path: &Path) {
    put(path, whole());
    put(&path.with_extension("again.so"), whole());
}

/// A link to a good library next to the home directory.
fn link_out(path: &Path) {
    let root = path.ancestors().find(|at| at.ends_with("home")).and_then(Path::parent).expect("a sandbox");
    put(&root.join("elsewhere.so"), whole());
    symlink(root.join("elsewhere.so"), path).unwrap();
}

fn hard_link(path: &Path) {
    put(path, whole());
    fs::hard_link(path, path.with_extension("again.so")).unwrap();
}

/// Path and reason of each problem in the JSON, after the checks that hold for all.
fn problems(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    let mut found = BTreeMap::new();
    for problem in list["problems"].as_array().unwrap() {
        let text = |key: &str| problem[key].as_str().unwrap_or_else(|| panic!("{key} in {problem}")).to_owned();
        let name = Path::new(&text("path")).file_name().unwrap().to_string_lossy().into_owned();
        assert!(!text("detail").is_empty() && !text("fix").is_empty(), "{problem}");
        assert_eq!(found.insert(name, text("reason")), None, "one reason each: {problem}");
    }
    found
}

#[test]
fn an_unusable_file_is_named_and_hides_nothing() {
    let mut book = Book::default();
    for (name, put, reason, code, end) in SPECIMENS {
        let sandbox = Sandbox::with(&[Fixture::Constructor]);
        let path = sandbox.plugins().join(format!("{name}.so"));
        put(&path);
        let listed = sandbox.lorchestra(&["jobs", "list"]).exits(0);
        assert!(listed.out().starts_with("constructor:\n  loaded\n"), "{name}: {}", listed.shown());
        let found = problems(&sandbox);
        assert_eq!(listed.err().lines().count(), 2 * found.len(), "what and hint: {}", listed.shown());
        assert_eq!(listed.out().contains("misbehave:"), *reason == LISTED, "{name}: {}", listed.shown());
        if *reason == LISTED {
            assert!(found.is_empty(), "{name}: {found:?}");
        } else {
            assert_eq!(found.get(&format!("{name}.so")).map(String::as_str), Some(*reason), "{name}");
            assert!(listed.err().contains(&format!("warning: {}: ", path.display())), "{}", listed.shown());
            assert!(listed.err().lines().step_by(2).all(|line| line.ends_with(&format!("({reason})"))), "{}", listed.shown());
            assert!(listed.err().lines().skip(1).step_by(2).all(|line| line.starts_with("  fix: ")), "{}", listed.shown());
        }
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]);
        let run = ended_as(&sandbox, name, &ended, *code, end);
        book.page(name, &sandbox, &ended, run.as_ref());
        another_works(&sandbox, name, "constructor", "loaded");
    }
    insta::assert_snapshot!("files", book.text());
}

/// The catalog's message for each: the problems of all of them at once.
#[test]
fn all_files_at_once() {
    let sandbox = Sandbox::with(&[Fixture::Ingester, Fixture::Canonizer]);
    let alone = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert!(alone.out().contains("  canonicalize_email\n") && alone.out().contains("  extract_gmail\n"), "{}", alone.shown());
    let unusable = || SPECIMENS.iter().filter(|specimen| specimen.2 != LISTED && specimen.2 != "duplicate");
    for (name, put, ..) in unusable() {
        put(&sandbox.plugins().join(format!("{name}.so")));
    }
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_eq!(ended.out(), alone.out());
    assert!(ended.err().lines().count() <= 8, "{}", ended.shown());
    let more = format!("{} more files cannot be used: lorchestra jobs list --json", unusable().count() - 3);
    assert!(ended.err().contains(&more), "{}", ended.shown());
    let expected = unusable().map(|(name, _, reason, ..)| (format!("{name}.so"), (*reason).to_owned()));
    assert_eq!(problems(&sandbox), expected.collect());

    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    let mut book = Book::default();
    for problem in list["problems"].as_array().unwrap() {
        let word = |key: &str| problem[key].as_str().unwrap();
        let name = Path::new(word("path")).file_name().unwrap().to_string_lossy();
        book.0.push_str(&format!("{name} ({}): {}\n  fix: {}\n", word("reason"), word("detail"), word("fix")));
    }
    insta::assert_snapshot!("problems", lorchestra_tests::ended::redacted(&book.text(), &sandbox));
}

/// Truncated at every 4 kB, a library never reaches the loader, where it would kill the process.
#[test]
fn a_library_truncated_anywhere_is_reported() {
    let sandbox = Sandbox::with(&[]);
    let path = sandbox.plugins().join("cut.so");
    put(&path, whole());
    assert!(problems(&sandbox).is_empty());
    let file = File::options().read(true).write(true).open(&path).unwrap();
    for (n, len) in (1..whole().len()).step_by(4096).rev().enumerate() {
        file.set_len(len as u64).unwrap();
        let fault = inspect(&file).expect_err("a part of a library");
        let expected = if len < 4 { Reason::NotElf } else { Reason::Truncated };
        assert_eq!(fault.reason, expected, "at {len}");
        // The same end to end, for fewer cases, because each needs a process.
        if n % 64 == 0 && len >= 4 {
            assert_eq!(problems(&sandbox)["cut.so"], "truncated", "at {len}");
        }
    }
}

/// Overwritten in place repeatedly, by a library, by half of it, by text, by nothing: a concurrent reader sees one of them or a mixture,
/// and reports it; nothing else is affected, and a run uses complete bytes.
#[test]
fn a_file_replaced_while_it_is_read_harms_nothing() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    let sandbox = Sandbox::with(&[Fixture::Constructor]);
    let path = sandbox.plugins().join("changing.so");
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let texts: [&[u8]; 4] = [whole(), &whole()[..whole().len() / 2], b"text", b""];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                put(&path, texts[rounds.load(SeqCst) % texts.len()]);
                rounds.fetch_add(1, SeqCst);
            }
        });
        for _ in 0..40 {
            let before = rounds.load(SeqCst);
            let listed = sandbox.lorchestra(&["jobs", "list"]).exits(0);
            assert!(listed.out().starts_with("constructor:\n"), "{}", listed.shown());
            let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]);
            assert!(matches!(ended.code(), Some(0 | 1 | 126)), "{}", ended.shown());
            lorchestra_tests::eventually("it was replaced", || rounds.load(SeqCst) > before);
        }
        stop.store(true, SeqCst);
    });
    assert!(
        sandbox.runs().iter().all(|run| run.state() == "completed"),
        "the bytes that ran were complete: {:?}",
        sandbox.runs()
    );
    another_works(&sandbox, "changing", "constructor", "loaded");
}
