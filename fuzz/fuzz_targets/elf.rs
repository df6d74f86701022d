//! A file in a plugin directory. Any contents are one package or one problem, and inspecting and listing the file agree.
//!
//! If the manifest's magic is in the input, half of the inputs get a correct length and checksum after it, because a fuzzer does not guess
//! a checksum.
#![no_main]
#![expect(clippy::expect_used, reason = "a panic is a finding")]

use libfuzzer_sys::fuzz_target;
use lorchestra_core::packages::catalog::{Catalog, SearchDir, inspect};
use std::fs::File;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = lorchestra_fuzz::directory();
    let file = dir.path().join("lib.so");
    (dir, file)
});

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_last() else { return };
    let mut bytes = data.to_vec();
    if mode % 2 == 1 {
        hint(&mut bytes);
    }
    let (dir, path) = &*DIR;
    std::fs::write(path, &bytes).expect("a file");
    let read = inspect(&File::open(path).expect("a file"));
    let mut listed = Catalog::scan(&[SearchDir { path: dir.path().to_owned(), origin: "fuzz".into() }]);
    listed.check_texts();
    match read {
        Ok(manifest) => {
            assert_eq!((listed.packages.len(), listed.problems.len()), (1, 0), "{:?}", listed.problems);
            assert_eq!(listed.packages[0].summary.package, manifest.package);
            let again = listed.packages[0].manifest().expect("it was read before");
            assert_eq!(again, manifest);
        }
        Err(fault) => {
            assert_eq!((listed.packages.len(), listed.problems.len()), (0, 1), "{fault:?}");
            let problem = &listed.problems[0];
            assert_eq!((problem.reason, &problem.detail), (fault.reason, &fault.detail));
            let shown = problem.to_string();
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{shown:?}");
            assert!(!problem.fix.is_empty() && shown.lines().count() <= 4, "{shown}");
        }
    }
});

/// Makes the length and checksum of the manifest match the following bytes.
fn hint(bytes: &mut [u8]) {
    let Some(at) = bytes.windows(6).position(|w| w == b"LORCH\0") else { return };
    let Some((header, rest)) = bytes[at..].split_at_mut_checked(16) else { return };
    // The JSON ends where the text ends.
    let len = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    header[12..16].copy_from_slice(&crc32fast::hash(&rest[..len]).to_le_bytes());
}
