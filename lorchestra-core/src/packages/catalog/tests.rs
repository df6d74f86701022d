//! Tests of the catalog, on small ELF files built here and on libraries of this machine. The end-to-end tests list and damage real plugins.

use super::*;
use lorchestra_plugin_api::abi::ABI_REVISION;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

/// A section of a generated file.
struct Section {
    name: &'static str,
    bytes: Vec<u8>,
    link: u32,
}

/// Builds a library with these sections (numbered from 1; the last is the table of names), mapped as a whole by one segment.
fn library(sections: Vec<Section>) -> Vec<u8> {
    let mut names = vec![0];
    let mut file = vec![0; 64 + 56];
    let mut headers = vec![[0u8; 64]];
    let mut all = sections;
    all.push(Section { name: ".shstrtab", bytes: Vec::new(), link: 0 });
    let count = all.len();
    for (i, section) in all.into_iter().enumerate() {
        let name_at = names.len() as u32;
        names.extend(section.name.bytes().chain([0]));
        let bytes = if i + 1 == count { names.clone() } else { section.bytes };
        let mut header = [0; 64];
        header[0..4].copy_from_slice(&name_at.to_le_bytes());
        header[4..8].copy_from_slice(&1u32.to_le_bytes());
        header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        header[40..44].copy_from_slice(&section.link.to_le_bytes());
        headers.push(header);
        file.extend(bytes);
    }
    let sections_at = file.len() as u64;
    file.extend(headers.iter().flatten());
    let len = file.len() as u64;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    file[0..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    file[16..18].copy_from_slice(&3u16.to_le_bytes());
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[20..24].copy_from_slice(&1u32.to_le_bytes());
    file[32..40].copy_from_slice(&64u64.to_le_bytes());
    file[40..48].copy_from_slice(&sections_at.to_le_bytes());
    file[52..54].copy_from_slice(&64u16.to_le_bytes());
    file[54..56].copy_from_slice(&56u16.to_le_bytes());
    file[56..58].copy_from_slice(&1u16.to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    file[62..64].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
    file[64..68].copy_from_slice(&1u32.to_le_bytes());
    file[96..104].copy_from_slice(&len.to_le_bytes());
    file
}

/// Wraps this JSON in a manifest section.
fn manifest_section(json: &str) -> Vec<u8> {
    let mut bytes = b"LORCH\0\x01\x00".to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(json.as_bytes()).to_le_bytes());
    bytes.extend(json.bytes());
    bytes
}

fn json(package: &str, abi: u32, default: &str) -> String {
    format!(
        r#"{{"abi":{abi},"package":"{package}","version":"1.0.0","jobs":[{{"name":"a_job","params":[{{"name":"n","kind":"u8","default":{default}}}]}}]}}
{{"rustc":"r","target":"t","jobs":[{{"signature":"(cx)","docs":"Does.","file":"src/lib.rs","line":3,"params":[{{"rust_type":"u8"}}]}}]}}"#
    )
}

/// Builds a library with the package's manifest and no code.
pub(crate) fn plugin(package: &str) -> Vec<u8> {
    library(vec![Section { name: ".lorchestra", bytes: manifest_section(&json(package, ABI_REVISION, "5")), link: 0 }])
}

fn inspected(bytes: &[u8]) -> Result<Manifest, FileFault> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    inspect(&File::open(file.path()).unwrap())
}

fn reason(bytes: &[u8]) -> Reason {
    inspected(bytes).unwrap_err().reason
}

fn scan(dirs: &[&Path]) -> Catalog {
    let dirs: Vec<_> = dirs.iter().map(|dir| SearchDir { path: dir.to_path_buf(), origin: "test".into() }).collect();
    Catalog::scan(&dirs)
}

#[test]
fn a_plugin_is_read() {
    let manifest = inspected(&plugin("pack")).unwrap();
    assert_eq!((manifest.package.as_str(), manifest.jobs[0].name.as_str()), ("pack", "a_job"));
}

#[test]
fn a_copy_that_hits_the_file_size_limit_reports_it() {
    let fault = FileFault::unreadable(Path::new("/x.so"), &rustix::io::Errno::FBIG.into());
    assert_eq!((fault.reason, &*fault.fix), (Reason::Unreadable, "raise ulimit -f above the size of /x.so"));
}

#[test]
fn each_kind_of_file_has_its_own_reason() {
    let good = plugin("pack");
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let with_manifest = |json: &str| library(vec![Section { name: ".lorchestra", bytes: manifest_section(json), link: 0 }]);
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("0 bytes", Vec::new(), Reason::Empty),
        ("text", b"hello\n".to_vec(), Reason::NotElf),
        ("a script", b"#!/bin/sh\n".to_vec(), Reason::NotElf),
        ("gzip", vec![0x1f, 0x8b, 8, 0], Reason::NotElf),
        ("4 bytes of ELF", good[..4].to_vec(), Reason::Truncated),
        ("32 bits", patched(4, &[1]), Reason::WrongArchitecture),
        ("big-endian", patched(5, &[2]), Reason::WrongArchitecture),
        ("another machine", patched(18, &[243, 0]), Reason::WrongArchitecture),
        ("an executable", patched(16, &[2, 0]), Reason::NotALibrary),
        ("an object file", patched(16, &[1, 0]), Reason::NotALibrary),
        ("no segments", patched(56, &[0, 0]), Reason::NotALibrary),
        ("a segment of 2^60 bytes", patched(96, &(1u64 << 60).to_le_bytes()), Reason::Truncated),
        ("a segment that overflows", patched(72, &u64::MAX.to_le_bytes()), Reason::Truncated),
        ("sections past the end", patched(40, &(1u64 << 60).to_le_bytes()), Reason::Truncated),
        ("no sections", patched(60, &[0, 0]), Reason::NoManifest),
        ("names of sections out of range", patched(62, &[99, 0]), Reason::NoManifest),
        ("no manifest", library(vec![]), Reason::NoManifest),
        ("an empty manifest", library(vec![Section { name: ".lorchestra", bytes: vec![], link: 0 }]), Reason::BadManifest),
        ("garbage", library(vec![Section { name: ".lorchestra", bytes: vec![7; 99], link: 0 }]), Reason::BadManifest),
        ("not JSON", with_manifest("{"), Reason::BadManifest),
        ("a name with a slash", with_manifest(&json("a/b", ABI_REVISION, "5")), Reason::BadManifest),
        ("a default out of range", with_manifest(&json("pack", ABI_REVISION, "256")), Reason::BadManifest),
        ("a default of another type", with_manifest(&json("pack", ABI_REVISION, "\"x\"")), Reason::BadManifest),
        ("a newer ABI", with_manifest(&json("pack", ABI_REVISION + 1, "5")), Reason::AbiTooNew),
        (
            "a newer ABI with unknown kinds",
            with_manifest(&json("pack", 99, "5").replace("\"kind\":\"u8\"", "\"kind\":\"tensor\"")),
            Reason::AbiTooNew,
        ),
    ];
    for (what, bytes, expected) in cases {
        let fault = inspected(&bytes).expect_err(what);
        assert_eq!(fault.reason, expected, "{what}: {fault:?}");
        assert!(!fault.detail.is_empty() && !fault.fix.is_empty(), "{what}");
    }
}

#[test]
fn a_library_that_needs_a_newer_glibc_is_refused_with_both_versions() {
    let needing = |version: &str| {
        let strings = format!("\0libc.so.6\0{version}\0");
        let mut need = Vec::new();
        for (value, size) in [(1u32, 2), (1, 2), (1, 4), (16, 4), (0, 4), (0, 4), (0, 2), (2, 2), (11, 4), (0, 4)] {
            need.extend(&value.to_le_bytes()[..size]);
        }
        library(vec![
            Section { name: ".dynstr", bytes: strings.into_bytes(), link: 0 },
            Section { name: ".gnu.version_r", bytes: need, link: 1 },
            Section { name: ".lorchestra", bytes: manifest_section(&json("pack", ABI_REVISION, "5")), link: 0 },
        ])
    };
    assert!(inspected(&needing("GLIBC_2.2.5")).is_ok());
    let fault = inspected(&needing("GLIBC_2.999")).unwrap_err();
    assert_eq!(fault.reason, Reason::NeedsNewerGlibc);
    assert!(fault.detail.contains("2.999") && fault.detail.contains("this host has 2."), "{}", fault.detail);
    assert_eq!(fault.package.as_deref(), Some("pack"));
}

#[test]
fn no_truncation_is_usable_and_nothing_panics() {
    let good = plugin("pack");
    for cut in 0..good.len() {
        assert!(inspected(&good[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let good = plugin("pack");
    for at in 0..good.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= mask;
            // Most are refused, some changes do not matter; none may cause a panic.
            let _ = inspected(&bytes);
        }
    }
}

#[test]
fn libraries_of_this_machine_are_inspected() {
    let test = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(reason(&test), Reason::NotALibrary);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.ends_with("libc.so.6")).unwrap();
    let fault = inspect(&File::open(libc).unwrap()).unwrap_err();
    assert!(matches!(fault.reason, Reason::NoManifest | Reason::NotALibrary), "{fault:?}");
}

#[test]
fn anything_but_a_file_is_reported_and_does_not_hide_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("libgood.so"), plugin("good")).unwrap();
    std::fs::create_dir(path("a-directory.so")).unwrap();
    symlink("/nowhere/lib.so", path("b-dangling.so")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("c-fifo.so"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(path("d-socket.so")).unwrap();
    std::fs::write(path("e-empty.so"), "").unwrap();
    std::fs::write(path(".hidden.so"), "").unwrap();
    std::fs::write(path("README"), "").unwrap();
    let catalog = scan(&[dir.path()]);
    assert_eq!(catalog.packages.len(), 1);
    let reasons: Vec<&str> = catalog.problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(reasons, ["not-a-file", "dangling-link", "not-a-file", "not-a-file", "empty"]);
    let text: String = catalog.problems.iter().map(|p| format!("{p}\n")).collect();
    for word in ["a directory", "/nowhere/lib.so", "a FIFO", "a socket"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn one_library_by_many_names_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("liba.so");
    std::fs::write(&file, plugin("pack")).unwrap();
    std::fs::hard_link(&file, dir.path().join("libb.so")).unwrap();
    symlink(&file, dir.path().join("libc.so")).unwrap();
    let catalog = scan(&[dir.path(), dir.path()]);
    assert_eq!((catalog.packages.len(), catalog.problems.len()), (1, 0));
    assert_eq!(catalog.packages[0].path, file);
}

/// A file that is renamed between the listing of its directory and its opening.
#[test]
fn a_package_whose_file_is_renamed_is_never_missed() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a.so", "b.so"].map(|name| dir.path().join(name));
    std::fs::write(&names[0], plugin("pack")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&names[0], &names[1]).unwrap();
                std::fs::rename(&names[1], &names[0]).unwrap();
            }
        });
        for _ in 0..2000 {
            let catalog = scan(&[dir.path()]);
            let found = (catalog.packages.len(), catalog.problems.len());
            if found != (1, 0) {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{found:?}: {:?}", catalog.problems);
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn two_files_with_one_package_are_both_unusable_and_named() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(one.path().join("liba.so"), plugin("pack")).unwrap();
    std::fs::write(two.path().join("libb.so"), plugin("pack")).unwrap();
    std::fs::write(two.path().join("libc.so"), plugin("other")).unwrap();
    let catalog = scan(&[one.path(), two.path()]);
    let Err(Lookup::Unusable(problems)) = catalog.find("pack") else { panic!("a duplicate was usable") };
    assert_eq!(problems.len(), 2);
    for (problem, other) in problems.iter().zip([two.path(), one.path()]).take(if one.path() < two.path() { 2 } else { 0 }) {
        assert!(problem.detail.contains(&other.display().to_string()), "{}", problem.detail);
    }
    assert!(problems.iter().all(|p| p.reason == Reason::Duplicate && p.detail.contains("lib")));
    assert!(catalog.find("other").is_ok());
}

#[test]
fn many_files_of_one_package_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let detail = |n: usize| {
        std::fs::write(dir.path().join(format!("lib{n}.so")), plugin("pack")).unwrap();
        scan(&[dir.path()]).problems.first().map(|problem| problem.detail.replace(&dir.path().display().to_string(), "D"))
    };
    assert_eq!(detail(0), None);
    assert_eq!(detail(1).as_deref(), Some("package pack is also in D/lib1.so"));
    assert_eq!(detail(2).as_deref(), Some("package pack is also in D/lib1.so, D/lib2.so"));
    assert_eq!(detail(3).as_deref(), Some("package pack is also in D/lib1.so, D/lib2.so, and 1 more"));
    for n in 4..40 {
        detail(n);
    }
    assert_eq!(detail(40).as_deref(), Some("package pack is also in D/lib1.so, D/lib10.so, and 38 more"));
}

/// A listing and a run see the same packages: if one refuses a file, so does the other, for the same reason.
#[test]
fn a_package_that_cannot_run_is_not_listed() {
    let two = |first: &str, second: &str| {
        let json = json("pack", ABI_REVISION, "5");
        let (start, param) = json.split_at(json.find(r#"{"name":"n""#).unwrap());
        let (param, end) = param.split_at(param.find("]}]}").unwrap());
        let outline = format!("{start}{},{}{end}", param.replace("\"n\"", first), param.replace("\"n\"", second));
        outline.replace(r#"{"rust_type":"u8"}"#, r#"{"rust_type":"u8"},{"rust_type":"u8"}"#)
    };
    let of = |json: &str| library(vec![Section { name: ".lorchestra", bytes: manifest_section(json), link: 0 }]);
    for (what, json) in [
        ("256", json("pack", ABI_REVISION, "256")),
        ("is listed twice", two("\"a\"", "\"a\"")),
        ("share the flag --a-b", two("\"a_b\"", "\"a-b\"")),
        ("--help", two("\"help\"", "\"a\"")),
        ("kind \"tensor\"", json("pack", ABI_REVISION, "5").replace("\"kind\":\"u8\"", "\"kind\":\"tensor\"")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("liba.so"), of(&json)).unwrap();
        let fault = inspected(&of(&json)).expect_err(what);
        let catalog = scan(&[dir.path()]);
        let Err(Lookup::Unusable(problems)) = catalog.find("pack") else { panic!("{what}: listed, or not known") };
        assert_eq!((problems.len(), problems[0].reason, &problems[0].detail), (1, Reason::BadManifest, &fault.detail));
        assert!(fault.detail.contains(what), "{what}: {}", fault.detail);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("liba.so"), of(&two("\"a\"", "\"b\""))).unwrap();
    let catalog = scan(&[dir.path()]);
    assert_eq!(catalog.find("pack").unwrap().manifest().unwrap().jobs[0].params.len(), 2);
}

#[test]
fn a_mistake_in_the_texts_is_reported_by_those_who_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let json = json("pack", ABI_REVISION, "5").replace(r#""docs":"Does.","#, "");
    std::fs::write(
        dir.path().join("liba.so"),
        library(vec![Section { name: ".lorchestra", bytes: manifest_section(&json), link: 0 }]),
    )
    .unwrap();
    let mut catalog = scan(&[dir.path()]);
    let problem = catalog.find("pack").unwrap().manifest().unwrap_err();
    assert_eq!((problem.reason, problem.package.as_deref()), (Reason::BadManifest, Some("pack")));
    assert!(problem.detail.contains("missing field `docs`"), "{}", problem.detail);
    catalog.check_texts();
    assert!(catalog.packages.is_empty());
    assert_eq!(catalog.problems, [problem]);
}

#[test]
fn an_unknown_name_is_reported_with_the_nearest_names() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lib\u{e4}.so"), plugin("ingester")).unwrap();
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"lib\xff.so")), plugin("canonizer")).unwrap();
    let catalog = scan(&[dir.path(), Path::new("/no/such/directory"), &dir.path().join("lib\u{e4}.so")]);
    assert_eq!(catalog.packages.len(), 2, "file names need not be UTF-8");
    let Err(Lookup::Unknown { nearest }) = catalog.find("ingster") else { panic!("found") };
    assert_eq!(nearest, ["ingester"]);
    let Err(Lookup::Unknown { nearest }) = catalog.find_job("ingester", "ajob") else { panic!("found") };
    assert_eq!(nearest, ["a_job"]);
    let outcomes: Vec<_> = catalog.searched.iter().map(|s| s.outcome.clone()).collect();
    assert_eq!(outcomes, [SearchOutcome::Read { files: 2 }, SearchOutcome::Missing, SearchOutcome::NotADirectory]);
}

#[test]
fn a_directory_named_twice_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, linked) = (dir.path().join("plugins"), dir.path().join("linked"));
    std::fs::create_dir(&plugins).unwrap();
    symlink("plugins", &linked).unwrap();
    std::fs::write(plugins.join("a.so"), plugin("pack")).unwrap();
    std::fs::hard_link(plugins.join("a.so"), plugins.join("b.so")).unwrap();
    symlink("nowhere", plugins.join("c.so")).unwrap();
    for second in [&plugins, &linked] {
        let Catalog { searched, packages, problems, aliases } = scan(&[&plugins, second]);
        assert_eq!((packages.len(), problems.len(), aliases.len()), (1, 1, 1), "{problems:?} {aliases:?}");
        assert_eq!(searched[1].outcome, SearchOutcome::Before(plugins.clone()));
    }
}

#[test]
fn a_problem_cannot_control_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lib\u{1b}[2J.so"), "x").unwrap();
    let text = scan(&[dir.path()]).problems[0].to_string();
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}"), "{text}");
}
