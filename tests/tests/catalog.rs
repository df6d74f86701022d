//! Files that cannot be used: each is named with one reason and a mend, and hides no other.

use lorchestra_tests::{Fixture, Sandbox, built};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const HEADER: usize = 16;

fn misbehave() -> Vec<u8> {
    fs::read(Fixture::Misbehave.built()).unwrap()
}

/// The library with `change` made.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = misbehave();
    change(&mut bytes);
    bytes
}

/// Where the manifest begins: magic, format 1, a length that ends in `}`.
fn manifest_at(bytes: &[u8]) -> (usize, usize) {
    let found = (0..bytes.len() - HEADER).find_map(|at| {
        let rest = &bytes[at..];
        let len = u32::from_le_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
        (rest.starts_with(b"LORCH\0\x01\0") && rest.get(HEADER + len - 1) == Some(&b'}')).then_some((at, len))
    });
    found.expect("a manifest")
}

/// The library with one byte of its manifest changed, counted from its beginning.
fn with_manifest_byte(offset: usize, value: u8) -> Vec<u8> {
    changed(|bytes| {
        let at = manifest_at(bytes).0 + offset;
        assert_ne!(bytes[at], value);
        bytes[at] = value;
    })
}

/// The library with one letter of a docstring changed: what it says can still be read, and is not what was written.
fn with_other_docs() -> Vec<u8> {
    let text = "Does nothing.";
    let bytes = misbehave();
    let (at, len) = manifest_at(&bytes);
    let found = bytes[at..at + HEADER + len].windows(text.len()).position(|window| window == text.as_bytes());
    with_manifest_byte(found.expect("a docstring"), b'X')
}

/// The library with `from` written as `to` in its manifest, whose checksum is right again.
fn with_manifest(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    changed(|bytes| {
        let (at, len) = manifest_at(bytes);
        let json = at + HEADER..at + HEADER + len;
        let text = String::from_utf8(bytes[json.clone()].to_vec()).unwrap();
        let new = text.replacen(from, to, 1);
        assert_ne!(text, new, "{from} is in the manifest");
        bytes[json.clone()].copy_from_slice(new.as_bytes());
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(new.as_bytes());
        bytes[at + 12..at + HEADER].copy_from_slice(&crc.to_le_bytes());
    })
}

/// The library as built on a host whose glibc is far newer.
fn for_newer_glibc() -> Vec<u8> {
    changed(|bytes| {
        let mut n = 0;
        for at in 0..bytes.len() - 8 {
            if bytes[at..].starts_with(b"GLIBC_2.") {
                bytes[at + 6] = b'9';
                n += 1;
            }
        }
        assert!(n > 0, "it needs a glibc");
    })
}

/// The library whose manifest section has another name.
fn without_manifest() -> Vec<u8> {
    changed(|bytes| {
        let name = b"\0.lorchestra\0";
        let at = bytes.windows(name.len()).rposition(|window| window == name).expect("the section's name");
        bytes[at + 1..at + 4].copy_from_slice(b".no");
    })
}

/// The C library that this process has loaded.
fn libc() -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| path.ends_with("/libc.so.6"));
    path.expect("a libc").to_owned()
}

/// What is put beside a good library: how, and the reason that is given.
type Kind = (&'static str, fn(&Path), &'static str);

const KINDS: &[Kind] = &[
    ("no-bytes", |path| fs::write(path, "").unwrap(), "empty"),
    ("text", |path| fs::write(path, "#!/bin/sh\necho hello\n").unwrap(), "not-elf"),
    ("four-bytes", |path| fs::write(path, b"\x7fELF").unwrap(), "truncated"),
    ("half", |path| fs::write(path, &misbehave()[..misbehave().len() / 2]).unwrap(), "truncated"),
    ("cut-at-the-end", |path| fs::write(path, &misbehave()[..misbehave().len() - 1]).unwrap(), "truncated"),
    ("cut-in-the-header", |path| fs::write(path, &misbehave()[..40]).unwrap(), "truncated"),
    // EM_AARCH64, EM_X86_64: one of the two is another machine's.
    ("machine", |path| fs::write(path, changed(|b| b[18] ^= 62 ^ 183)).unwrap(), "wrong-architecture"),
    ("class", |path| fs::write(path, changed(|b| b[4] = 1)).unwrap(), "wrong-architecture"),
    ("byte-order", |path| fs::write(path, changed(|b| b[5] = 2)).unwrap(), "wrong-architecture"),
    ("executable", |path| fs::write(path, fs::read(built::lorchestra()).unwrap()).unwrap(), "not-a-library"),
    ("object", |path| fs::write(path, changed(|b| b[16] = 1)).unwrap(), "not-a-library"),
    ("directory", |path| fs::create_dir(path).unwrap(), "not-a-file"),
    ("dangling", |path| symlink("/no/such/library.so", path).unwrap(), "dangling-link"),
    ("fifo", |path| rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap(), "not-a-file"),
    ("socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), "not-a-file"),
    ("device", |path| symlink("/dev/zero", path).unwrap(), "not-a-file"),
    // It can be run, and is a library all the same.
    ("libc", |path| fs::write(path, fs::read(libc()).unwrap()).unwrap(), "no-manifest"),
    ("no-manifest", |path| fs::write(path, without_manifest()).unwrap(), "no-manifest"),
    ("flipped-bit", |path| fs::write(path, with_other_docs()).unwrap(), "bad-manifest"),
    ("no-magic", |path| fs::write(path, with_manifest_byte(0, b'X')).unwrap(), "bad-manifest"),
    ("no-json", |path| fs::write(path, with_manifest("{", "[")).unwrap(), "bad-manifest"),
    ("bad-name", |path| fs::write(path, with_manifest("\"misbehave\"", "\"../behave\"")).unwrap(), "bad-manifest"),
    ("bad-default", |path| fs::write(path, with_manifest("\"default\":500", "\"default\":-50")).unwrap(), "bad-manifest"),
    ("flag-of-ours", |path| fs::write(path, with_manifest("\"name\":\"stay\"", "\"name\":\"help\"")).unwrap(), "bad-manifest"),
    ("newer-format", |path| fs::write(path, with_manifest_byte(6, 2)).unwrap(), "abi-too-new"),
    ("newer-abi", |path| fs::write(path, with_manifest("\"abi\":1", "\"abi\":9")).unwrap(), "abi-too-new"),
    ("newer-glibc", |path| fs::write(path, for_newer_glibc()).unwrap(), "needs-newer-glibc"),
];

/// Path and reason of each problem in the JSON, and the looks that every one must pass.
fn problems(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    let problems = list["problems"].as_array().unwrap();
    let mut found = BTreeMap::new();
    for problem in problems {
        let text = |key: &str| problem[key].as_str().unwrap_or_else(|| panic!("{key} in {problem}")).to_owned();
        let name = Path::new(&text("path")).file_name().unwrap().to_string_lossy().into_owned();
        assert!(!text("detail").is_empty() && !text("fix").is_empty(), "{problem}");
        assert_eq!(found.insert(name, text("reason")), None, "one reason each: {problem}");
    }
    found
}

#[test]
fn each_kind_has_its_reason_and_hides_nothing() {
    for (name, put, reason) in KINDS {
        let sandbox = Sandbox::with(&[Fixture::Ingester]);
        let path = sandbox.plugins().join(format!("{name}.so"));
        put(&path);
        let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
        assert_eq!(ended.out(), "ingester:\n  extract_gmail\n", "{name}");
        let lines: Vec<&str> = ended.err().lines().collect();
        assert_eq!(lines.len(), 2, "what and mend: {}", ended.shown());
        assert!(lines[0].starts_with(&format!("warning: {}: ", path.display())), "{}", ended.shown());
        assert!(lines[0].ends_with(&format!("({reason})")), "{name}: {}", ended.shown());
        assert!(lines[1].starts_with("  fix: "), "{}", ended.shown());
        assert_eq!(problems(&sandbox), BTreeMap::from([(format!("{name}.so"), (*reason).to_owned())]));
        sandbox.lorchestra(&["jobs", "show", "ingester", "extract_gmail"]).exits(0);
    }
}

#[test]
fn all_kinds_at_once() {
    let sandbox = Sandbox::with(&[Fixture::Ingester, Fixture::Canonizer]);
    for (name, put, _) in KINDS {
        put(&sandbox.plugins().join(format!("{name}.so")));
    }
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_eq!(ended.out(), "canonizer:\n  canonicalize_email\ningester:\n  extract_gmail\n");
    assert!(ended.err().lines().count() <= 8, "{}", ended.shown());
    assert!(ended.err().contains(&format!("{} more files cannot be used: lorchestra jobs list --json", KINDS.len() - 3)));
    let expected: BTreeMap<String, String> =
        KINDS.iter().map(|(name, _, reason)| (format!("{name}.so"), (*reason).to_owned())).collect();
    assert_eq!(problems(&sandbox), expected);
}

#[test]
fn what_is_said_of_each_kind() {
    let sandbox = Sandbox::with(&[]);
    for (name, put, _) in KINDS {
        put(&sandbox.plugins().join(format!("{name}.so")));
    }
    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    let mut text = String::new();
    for problem in list["problems"].as_array().unwrap() {
        let word = |key: &str| problem[key].as_str().unwrap();
        let name = Path::new(word("path")).file_name().unwrap().to_string_lossy();
        text.push_str(&format!("{name} ({}): {}\n  fix: {}\n", word("reason"), word("detail"), word("fix")));
    }
    let text = text.replace(&sandbox.plugins().display().to_string(), "[PLUGINS]");
    let (this, other) = if cfg!(target_arch = "x86_64") { ("x86_64", "aarch64") } else { ("aarch64", "x86_64") };
    let text = text.replace(this, "[THIS]").replace(other, "[OTHER]");
    // Sizes and versions are this build's and this host's.
    let text = regex_lite::Regex::new(r"\d{4,}").unwrap().replace_all(&text, "[N]");
    let text = regex_lite::Regex::new(r"has 2\.\d+").unwrap().replace_all(&text, "has [HOST]");
    let text = regex_lite::Regex::new(r"glibc 9\.\d+").unwrap().replace_all(&text, "glibc [NEWER]");
    insta::assert_snapshot!(text);
}

/// Cut anywhere, a library is truncated or (before its fourth byte) no library; it never reaches the loader, where it would kill
/// the process.
#[test]
fn a_library_cut_anywhere_is_told() {
    let sandbox = Sandbox::with(&[Fixture::Ingester]);
    let bytes = misbehave();
    let path = sandbox.plugins().join("cut.so");
    for part in 1..64 {
        fs::write(&path, &bytes[..bytes.len() * part / 64]).unwrap();
        assert_eq!(problems(&sandbox)["cut.so"], "truncated", "{part}/64");
    }
    fs::write(&path, &bytes).unwrap();
    assert!(problems(&sandbox).is_empty());
}

#[test]
fn a_file_that_this_user_cannot_read_is_told() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Ingester]);
    let path = sandbox.install(Fixture::Misbehave, "theirs.so");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_eq!(ended.out(), "ingester:\n  extract_gmail\n");
    assert_eq!(problems(&sandbox)["theirs.so"], "unreadable");
    assert!(ended.err().contains(&format!("fix: chmod u+r {}", path.display())), "{}", ended.shown());
}

#[test]
fn a_directory_that_this_user_cannot_read_is_told() {
    let sandbox = Sandbox::unprivileged(&[]);
    let theirs = sandbox.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o000)).unwrap();
    let ended = sandbox.lorchestra(&["--plugin-dir", &theirs.display().to_string(), "jobs", "list", "x"]).exits(1);
    assert!(ended.err().contains("(--plugin-dir): cannot be read: Permission denied"), "{}", ended.shown());
    // Beside others, and where nothing is missed.
    let good = sandbox.path("good");
    fs::create_dir(&good).unwrap();
    fs::copy(Fixture::Ingester.built(), good.join("x.so")).unwrap();
    let path = format!("{}:{}", theirs.display(), good.display());
    let list = sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", &path)], &["jobs", "list"]).exits(0);
    assert_eq!(list.out(), "ingester:\n  extract_gmail\n");
    let warning = format!(
        "warning: {dir}: the directory cannot be read: Permission denied (os error 13) (LORCHESTRA_PLUGIN_PATH) (unreadable)\n  \
         fix: chmod u+rx {dir}, or give it to this user\n",
        dir = theirs.display()
    );
    assert_eq!(list.err(), warning);
    let json = sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", &path)], &["jobs", "list", "--json"]).exits(0);
    let problems = json.json("lorchestra.jobs-list/1")["problems"].clone();
    assert_eq!(
        (problems[0]["path"].as_str(), problems[0]["reason"].as_str()),
        (theirs.to_str(), Some("unreadable")),
        "{problems}"
    );
    // So that it can be removed.
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_directory_that_is_none_or_not_there_is_told() {
    let sandbox = Sandbox::with(&[Fixture::Ingester]);
    let plugins = sandbox.plugins().display().to_string();
    let (file, missing) = (sandbox.arg("file\nname"), sandbox.arg("missing"));
    fs::write(&file, "").unwrap();
    let dirs = ["--plugin-dir", &plugins, "--plugin-dir", &file, "--plugin-dir", &missing, "jobs", "list"];
    let ended = sandbox.lorchestra(&dirs).exits(0);
    assert_eq!(ended.out(), "ingester:\n  extract_gmail\n");
    let warned: Vec<&str> = ended.err().lines().filter(|line| line.starts_with("warning: ")).collect();
    let expected = [
        format!("warning: {}: it is no directory (--plugin-dir) (not-a-directory)", file.replace('\n', "\\n")),
        format!("warning: {missing}: the directory is not there (--plugin-dir) (missing)"),
    ];
    assert_eq!(warned, expected, "{}", ended.shown());
    // Nothing at all: where it was looked says why.
    let ended = sandbox.lorchestra(&["--plugin-dir", &file, "--plugin-dir", &missing, "jobs", "list"]).exits(0);
    let looked = format!(
        "No packages found.\n  looked in {} (--plugin-dir): is not a directory\n  looked in {missing} (--plugin-dir): does not exist\n",
        file.replace('\n', "\\n")
    );
    assert_eq!(ended.err(), looked);
    // The default directory need not be there.
    fs::remove_dir_all(sandbox.plugins()).unwrap();
    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    assert_eq!(list["problems"], serde_json::json!([]));
}

#[test]
fn two_files_of_one_package_are_both_unusable_and_both_named() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Ingester]);
    let one = sandbox.plugins().join("libmisbehave.so");
    let elsewhere = sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let other = elsewhere.join("another-name.so");
    fs::copy(&one, &other).unwrap();
    let environment = [("LORCHESTRA_PLUGIN_PATH", elsewhere.to_str().unwrap())];
    let list = sandbox.lorchestra_with(&environment, &["jobs", "list"]).exits(0);
    assert_eq!(list.out(), "ingester:\n  extract_gmail\n", "the rest works");
    assert_eq!(list.err().matches("(duplicate)").count(), 2, "{}", list.shown());
    for args in [
        &["run-job", "misbehave", "noop"][..],
        &["run-job", "--dry-run", "misbehave", "noop"],
        &["jobs", "show", "misbehave", "noop"],
        &["jobs", "list", "misbehave"],
    ] {
        let ended = sandbox.lorchestra_with(&environment, args).exits(126);
        for path in [&one, &other] {
            assert!(ended.err().contains(&path.display().to_string()), "{}", ended.shown());
        }
    }
    assert!(sandbox.runs().is_empty());
    // Without the other directory there is only one.
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn one_file_of_several_names_is_one_library() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let path = sandbox.plugins().join("libmisbehave.so");
    fs::hard_link(&path, sandbox.plugins().join("hard.so")).unwrap();
    symlink(&path, sandbox.plugins().join("soft.so")).unwrap();
    let twice = sandbox.plugins().display().to_string();
    let ended = sandbox.lorchestra(&["--plugin-dir", &twice, "--plugin-dir", &twice, "jobs", "list"]).exits(0);
    assert_eq!(ended.out().matches("misbehave:").count(), 1, "{}", ended.shown());
    assert_eq!(ended.err(), "");
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn only_names_of_libraries_are_looked_at() {
    let sandbox = Sandbox::with(&[Fixture::Ingester]);
    for name in [".hidden.so", "backup.so.bak", "libx.so.1", "README", "so"] {
        fs::write(sandbox.plugins().join(name), "text").unwrap();
    }
    assert_eq!(sandbox.lorchestra(&["jobs", "list"]).exits(0).err(), "");
    // And a name means nothing else.
    fs::rename(sandbox.plugins().join("libingester.so"), sandbox.plugins().join("whatever it is.so")).unwrap();
    assert_eq!(sandbox.lorchestra(&["jobs", "list"]).exits(0).out(), "ingester:\n  extract_gmail\n");
}

#[test]
fn a_package_that_is_there_and_unusable_is_not_unknown() {
    for (bytes, reason) in [
        (with_manifest("\"abi\":1", "\"abi\":9"), "abi-too-new"),
        (for_newer_glibc(), "needs-newer-glibc"),
        (with_manifest("\"default\":500", "\"default\":-50"), "bad-manifest"),
        (with_manifest("\"name\":\"stay\"", "\"name\":\"help\""), "bad-manifest"),
    ] {
        let sandbox = Sandbox::with(&[]);
        fs::write(sandbox.plugins().join("libmisbehave.so"), bytes).unwrap();
        // Another job of the package than the one that is broken.
        for args in
            [&["run-job", "misbehave", "noop"][..], &["jobs", "list", "misbehave"], &["jobs", "list", "misbehave", "--json"]]
        {
            let ended = sandbox.lorchestra(args).exits(126);
            assert!(ended.err().contains(reason) && ended.err().contains("fix: "), "{}", ended.shown());
        }
        assert!(sandbox.runs().is_empty());
    }
}

/// A plugin that is older than a flag of run-job: its manifest has a parameter `timeout`. Only planned: the library has none.
#[test]
fn an_older_jobs_parameter_keeps_its_flag_wherever_it_stands() {
    let sandbox = Sandbox::with(&[]);
    fs::write(sandbox.plugins().join("older.so"), with_manifest("\"name\":\"seconds\"", "\"name\":\"timeout\"")).unwrap();
    let plan = |args: &[&str]| {
        let ended = sandbox.lorchestra(&[&["run-job", "--dry-run"], args].concat()).exits(0);
        let plan = ended.json("lorchestra.plan/1")["plan"].clone();
        (plan["timeout"].as_u64(), plan["params"]["timeout"].as_u64(), plan["params"]["return_ok"].as_bool())
    };
    for behind in [
        &["--timeout", "7", "--return-ok", "--json"][..],
        &["--return-ok", "--json", "--timeout=7"],
        &["--json", "--param", "timeout=7", "--return-ok"],
    ] {
        assert_eq!(plan(&[&["misbehave", "wait"], behind].concat()), (None, Some(7), Some(true)), "{behind:?}");
        // Before PACKAGE there are only run-job's.
        let both = [&["--timeout", "5s", "misbehave", "wait"], behind].concat();
        assert_eq!(plan(&both), (Some(5), Some(7), Some(true)), "{behind:?}");
    }
    let help = sandbox.lorchestra(&["run-job", "misbehave", "wait", "--help"]).exits(0);
    assert!(help.out().contains("--timeout <N>") && help.out().contains("--run-job:timeout <DURATION>"), "{}", help.shown());
}

/// The manifest can be read and the library can be loaded, and the two do not agree: known only in the worker.
#[test]
fn a_manifest_that_lies_is_a_failure_to_load() {
    let sandbox = Sandbox::with(&[]);
    let marker = sandbox.arg("marker");
    let lies = [("\"misbehave\"", "\"misbehavf\"", "misbehavf"), ("\"version\":\"0.3.0\"", "\"version\":\"0.4.0\"", "misbehave")];
    for (from, to, package) in lies {
        fs::write(sandbox.plugins().join("liar.so"), with_manifest(from, to)).unwrap();
        let ended = sandbox.lorchestra(&["run-job", package, "typed", "--marker", &marker]).exits(126);
        assert!(ended.err().contains("its manifest and its root module differ"), "{}", ended.shown());
        let run = sandbox.runs().remove(0);
        assert_eq!(run.cause(), "load");
        sandbox.whole_events_of(&run);
        assert_eq!(sandbox.read("marker"), "", "the job was not entered");
    }
}

/// What is in the file when the run begins is what runs, whatever happens to the file afterwards.
#[test]
fn a_library_that_is_overwritten_while_it_runs_harms_nothing() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let marker = sandbox.arg("marker");
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &marker]);
    lorchestra_tests::eventually("the job is entered", || sandbox.read("marker").ends_with('\n'));
    // In place, as `cp` does it: truncated and written over.
    fs::write(sandbox.plugins().join("libmisbehave.so"), vec![0xcc; 8 << 20]).unwrap();
    running.signal(rustix::process::Signal::TERM);
    running.wait().exits(143);
    let run = sandbox.run();
    assert_eq!((run.cause(), run.0["job_result"].as_str()), ("cancelled", Some("error: cancelled")));
}
