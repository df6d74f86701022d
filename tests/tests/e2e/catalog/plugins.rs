//! Library files: `plugins list`, `check`, `install`, `remove`. Their output, their effects, and that a concurrent reader sees exactly one
//! complete library of a package at every moment.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually, processes};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const HEADER: usize = 16;

/// The library of misbehave with texts of its manifest replaced by others of the same length. Its root module keeps the old ones, so the
/// library can be installed and listed, but not loaded.
fn altered(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = fs::read(Fixture::Misbehave.built()).unwrap();
    let len_at = |at: usize| u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let at = (0..bytes.len() - HEADER)
        .find(|&at| bytes[at..].starts_with(b"LORCH\0\x01\0") && bytes.get(at + HEADER + len_at(at) - 1) == Some(&b'}'))
        .expect("a manifest");
    let json = at + HEADER..at + HEADER + len_at(at);
    let mut text = String::from_utf8(bytes[json.clone()].to_vec()).unwrap();
    for (from, to) in changes {
        assert!(from.len() == to.len() && text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(text.as_bytes());
    bytes[json].copy_from_slice(text.as_bytes());
    bytes[at + 12..at + HEADER].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The next version of misbehave: one job is renamed, one has another signature.
fn next_version() -> Vec<u8> {
    altered(&[
        ("\"version\":\"0.3.0\"", "\"version\":\"0.4.0\""),
        ("\"name\":\"noop\"", "\"name\":\"noap\""),
        ("page_size: u32 = 500", "page_size: u64 = 500"),
    ])
}

fn write(path: &Path, bytes: &[u8]) -> String {
    fs::write(path, bytes).unwrap();
    path.display().to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Names that do not begin with a dot.
fn libraries(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn every_file_is_listed_with_its_state_and_reason() {
    let sandbox = Sandbox::with(&[Fixture::Ingester, Fixture::Canonizer]);
    let plugins = sandbox.plugins();
    let broken = plugins.join("broken.so");
    fs::write(&broken, "text").unwrap();
    fs::write(plugins.join("ignored.txt"), "").unwrap();
    fs::hard_link(plugins.join("libingester.so"), plugins.join("second.so")).unwrap();
    let open = sandbox.install(Fixture::Misbehave, "open.so");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o646)).unwrap();
    symlink("/no/such/file.so", plugins.join("dangling.so")).unwrap();
    let missing = [("LORCHESTRA_PLUGIN_PATH", &*sandbox.arg("missing"))];
    let listed = sandbox.lorchestra_with(&missing, &["plugins", "list"]).exits(0);
    insta::assert_snapshot!(listed.snapshot(&sandbox));

    let json = sandbox.lorchestra_with(&missing, &["plugins", "list", "--json"]).exits(0).json("lorchestra.plugins-list/1");
    let files: Vec<(&str, &str)> = json["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["state"].as_str().unwrap(), file["reason"].as_str().unwrap_or_default()))
        .collect();
    let expected = [
        ("unusable", "not-elf"),
        ("unusable", "dangling-link"),
        ("usable", ""),
        ("usable", ""),
        ("unusable", "not-trusted"),
        ("alias", ""),
    ];
    assert_eq!(files, expected, "{json}");
    assert_eq!(json["files"][4]["package"], "misbehave");
    assert_eq!(json["files"][5]["of"], plugins.join("libingester.so").display().to_string());
    assert_eq!(json["files"][2]["locked"], Value::Null);
    assert!(json["files"][2]["bytes"].as_u64() > Some(100_000));
    let states: Vec<_> = json["directories"].as_array().unwrap().iter().map(|dir| dir["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["read", "missing"]);
    // With a lock file, each library is reported as locked or not.
    sandbox.lorchestra(&["plugins", "lock", "ingester"]).exits(0);
    let listed = sandbox.lorchestra(&["plugins", "list"]).exits(0);
    assert!(listed.out().contains("usable: ingester 0.1.0, 2 jobs, locked\n"), "{}", listed.shown());
    assert!(listed.out().contains("usable: canonizer 0.1.0, 2 jobs, not as in plugins.lock\n"), "{}", listed.shown());
}

#[test]
fn a_check_reports_everything_before_installation() {
    let sandbox = Sandbox::with(&[]);
    let file = sandbox.path("libingester.so");
    fs::copy(Fixture::Ingester.built(), &file).unwrap();
    let file = file.display().to_string();
    let checked = sandbox.lorchestra(&["plugins", "check", &file]).exits(0);
    let text = checked.snapshot(&sandbox);
    let text = regex_lite::Regex::new(r"\d+\.\d+ (MB|ms)").unwrap().replace_all(&text, "[N] $1");
    let text = regex_lite::Regex::new(r"rustc .*").unwrap().replace_all(&text, "[RUSTC]");
    let text = regex_lite::Regex::new(r"2\.\d+").unwrap().replace_all(&text, "[GLIBC]");
    insta::assert_snapshot!(text);

    let json = sandbox.lorchestra(&["plugins", "check", "--json", &file]).exits(0).json("lorchestra.plugins-check/1");
    assert_eq!((&json["ok"], &json["package"], &json["load"]["state"]), (&json!(true), &json!("ingester"), &json!("loaded")));
    assert_eq!((&json["jobs"][0]["name"], &json["problem"]), (&json!("extract_gmail"), &Value::Null));
    assert!(json["load"]["micros"].as_u64().is_some_and(|micros| micros > 0), "{json}");
    assert!(sandbox.runs().is_empty() && !sandbox.plugins().join("libingester.so").exists(), "nothing was recorded or installed");
    // A file name need not be valid UTF-8.
    let odd = sandbox.root().join(std::ffi::OsStr::from_bytes(b"lib\xff.so"));
    fs::copy(Fixture::Ingester.built(), &odd).unwrap();
    for what in ["check", "install"] {
        let mut command = sandbox.command(&["plugins", what]);
        command.arg(&odd);
        Running::start(command).wait().exits(0);
    }
}

#[test]
fn a_check_reports_what_installing_would_change() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let same = sandbox.path("same.so");
    fs::copy(Fixture::Misbehave.built(), &same).unwrap();
    let same = sandbox.lorchestra(&["plugins", "check", &same.display().to_string()]).exits(0);
    assert!(same.out().contains("installed:  identical to "), "{}", same.shown());
    let next = write(&sandbox.path("next.so"), &next_version());
    let checked = sandbox.lorchestra(&["plugins", "check", &next]).exits(126);
    let installed = sandbox.plugins().join("libmisbehave.so");
    let line = format!("installed:  0.3.0, {}; adds noap; removes noop; changes typed\n", installed.display());
    assert!(checked.out().contains(&line), "{}", checked.shown());
    // Only loading reveals this.
    assert!(checked.err().contains("its manifest and its root module differ in the package's version"), "{}", checked.shown());
}

#[test]
fn a_library_that_dies_or_hangs_while_loading_is_reported() {
    let sandbox = Sandbox::with(&[]);
    let file = sandbox.path("libconstructor.so");
    fs::copy(Fixture::Constructor.built(), &file).unwrap();
    let file = file.display().to_string();
    let marker = sandbox.arg("marker");
    for (n, (fault, how)) in
        [("abort", "was killed by SIGABRT"), ("null", "was killed by SIGSEGV"), ("exit", "exited with code 0")]
            .into_iter()
            .enumerate()
    {
        let environment = [("CONSTRUCTOR_MARKER", &*marker), ("CONSTRUCTOR_FAULT", fault)];
        let checked = sandbox.lorchestra_with(&environment, &["plugins", "check", &file]).exits(126);
        assert_eq!(sandbox.read("marker").lines().count(), n + 1, "the constructor ran");
        assert!(checked.err().contains(&format!("the process that loads it {how}")), "{}", checked.shown());
        let checked = sandbox.lorchestra_with(&environment[1..], &["plugins", "check", "--json", &file]).exits(126);
        let json = checked.json("lorchestra.plugins-check/1");
        assert_eq!((&json["ok"], &json["load"]["state"]), (&json!(false), &json!("died")));
    }
    // Opening a FIFO for writing waits for a reader, so the constructor blocks forever.
    let fifo = sandbox.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let mut command = sandbox.command(&["plugins", "check", "--timeout", "1s", &file]);
    command.env("CONSTRUCTOR_MARKER", &fifo);
    let running = Running::start(command);
    eventually("the worker is there", || !running.children().is_empty());
    let worker = running.children()[0];
    let checked = running.wait().exits(126);
    assert!(checked.err().contains("it was still loading after 1s"), "{}", checked.shown());
    assert!(!processes::is_alive(worker), "the worker stayed");
}

/// A constructor forks. The copy returns from loading, the worker does not: the copy's answer is not taken for the worker's.
#[test]
fn a_forked_copy_does_not_answer_for_a_loading_worker() {
    let sandbox = Sandbox::with(&[]);
    let file = sandbox.path("libconstructor.so");
    fs::copy(Fixture::Constructor.built(), &file).unwrap();
    let marker = sandbox.arg("marker");
    let environment = [("CONSTRUCTOR_MARKER", &*marker), ("CONSTRUCTOR_FAULT", "instead")];
    let args = ["plugins", "check", "--timeout", "2s", &*file.display().to_string()];
    let checked = sandbox.lorchestra_with(&environment, &args).exits(126);
    assert!(checked.err().contains("it was still loading after 2s"), "{}", checked.shown());
    let pids: Vec<u32> = sandbox.read("marker").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2, "the worker and its copy");
    assert!(!pids.into_iter().any(processes::is_alive), "one of them stayed");
}

/// A library that another user could have changed is not loaded even for a check.
#[test]
fn a_check_does_not_load_an_untrusted_library() {
    let sandbox = Sandbox::with(&[]);
    let file = sandbox.path("libconstructor.so");
    fs::copy(Fixture::Constructor.built(), &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let environment = [("CONSTRUCTOR_MARKER", &*sandbox.arg("marker"))];
    let checked = sandbox.lorchestra_with(&environment, &["plugins", "check", &file.display().to_string()]).exits(126);
    assert!(checked.out().contains("loads:      not tried\n"), "the readable part is reported: {}", checked.shown());
    assert!(checked.err().contains(&format!("fix: chmod go-w {}", file.display())), "{}", checked.shown());
    assert_eq!(sandbox.read("marker"), "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    sandbox.lorchestra_with(&environment, &["plugins", "check", &file.display().to_string()]).exits(0);
    assert_eq!(sandbox.read("marker").lines().count(), 1);
}

#[test]
fn an_unusable_file_is_neither_checked_nor_installed() {
    let sandbox = Sandbox::with(&[Fixture::Ingester]);
    let cut = write(&sandbox.path("cut.so"), &fs::read(Fixture::Misbehave.built()).unwrap()[..100_000]);
    let good = Fixture::Misbehave.built().display().to_string();
    for file in [&*cut, "/no/such/file.so", "/dev/null", "/"] {
        let checked = sandbox.lorchestra(&["plugins", "check", file]).exits(126);
        assert!(checked.err().contains("cannot be used: ") && checked.err().contains("  fix: "), "{}", checked.shown());
        let json = sandbox.lorchestra(&["plugins", "check", "--json", file]).exits(126).json("lorchestra.plugins-check/1");
        assert!(json["problem"]["reason"].is_string(), "{json}");
        // Nothing is installed if one library is bad.
        let installed = sandbox.lorchestra(&["plugins", "install", &good, file]).exits(126);
        assert!(installed.err().contains("cannot be used: "), "{}", installed.shown());
        if file.starts_with("/no/") {
            for ended in [checked, installed] {
                assert!(ended.err().contains("there is no such file (unreadable)"), "{}", ended.shown());
                assert!(!ended.err().contains("again"), "nothing to copy: {}", ended.shown());
            }
        }
    }
    assert_eq!(names(&sandbox.plugins()), ["libingester.so"]);
}

#[test]
fn installing_reports_changes() {
    let sandbox = Sandbox::with(&[]);
    fs::remove_dir(sandbox.plugins()).unwrap();
    let built = Fixture::Ingester.built().display().to_string();
    let first = sandbox.lorchestra(&["plugins", "install", &built]).exits(0);
    insta::assert_snapshot!("a_first_installation", first.snapshot(&sandbox));
    let meta = |name: &str| fs::metadata(sandbox.plugins().join(name)).unwrap();
    assert_eq!((meta(".").mode() & 0o777, meta("libingester.so").mode() & 0o777), (0o755, 0o644));
    let inode = meta("libingester.so").ino();
    let again = sandbox.lorchestra(&["plugins", "install", &built]).exits(0);
    assert!(again.out().contains("✓ ingester 0.1.0 is already installed: "), "{}", again.shown());
    assert_eq!(meta("libingester.so").ino(), inode, "the file is unchanged");

    // Another version; the file that contained the package had another name.
    let old = sandbox.install(Fixture::Misbehave, "old-name.so");
    fs::hard_link(&old, sandbox.plugins().join("second.so")).unwrap();
    let next = write(&sandbox.path("next.so"), &next_version());
    let installed = sandbox.lorchestra(&["plugins", "install", &next]).exits(0);
    let text = installed.snapshot(&sandbox);
    // The job with one parameter of each type, whichever those are.
    let text = regex_lite::Regex::new(r"typed\(.*page_size: (u32|u64) = 500.*\)")
        .unwrap()
        .replace_all(&text, "typed(… page_size: $1 = 500 …)");
    insta::assert_snapshot!("a_new_version", text);
    assert_eq!(libraries(&sandbox.plugins()), ["libingester.so", "libmisbehave.so"]);
    let json = sandbox.lorchestra(&["plugins", "install", "--json", &Fixture::Misbehave.built().display().to_string()]).exits(0);
    let json = json.json("lorchestra.plugins-install/1")["installed"][0].clone();
    assert_eq!((&json["package"], &json["version"], &json["replaces"]), (&json!("misbehave"), &json!("0.3.0"), &json!("0.4.0")));
    assert_eq!((&json["added"][0]["name"], &json["removed"][0]["name"]), (&json!("noop"), &json!("noap")));
    assert_eq!(
        (&json["changed"][0]["name"], &json["locked"], &json["unchanged"]),
        (&json!("typed"), &Value::Null, &json!(false))
    );
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn an_unusable_file_is_replaced_too() {
    let sandbox = Sandbox::with(&[]);
    let newer = lorchestra_tests::corrupt::abi(|_| 9);
    write(&sandbox.plugins().join("newer.so"), &newer);
    write(&sandbox.plugins().join("libmisbehave.so"), b"half a copy");
    // Left by a command that was killed.
    write(&sandbox.plugins().join(".lorchestra-install-x7Gh2"), &newer[..1000]);
    let installed = sandbox.lorchestra(&["plugins", "install", &Fixture::Misbehave.built().display().to_string()]).exits(0);
    assert!(installed.out().contains("newer.so, which could not be used (abi-too-new)\n"), "{}", installed.shown());
    assert_eq!(names(&sandbox.plugins()), [".lorchestra.lock", "libmisbehave.so"]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn installing_does_not_conflict_with_another_package() {
    let sandbox = Sandbox::with(&[]);
    let misbehave = Fixture::Misbehave.built().display().to_string();
    // The file name belongs to another package.
    let taken = sandbox.install(Fixture::Ingester, "libmisbehave.so");
    let refused = sandbox.lorchestra(&["plugins", "install", &misbehave]).exits(126);
    assert!(refused.err().contains(&format!("{} contains the package ingester", taken.display())), "{}", refused.shown());
    let hint = refused.err().lines().find_map(|line| line.trim().strip_prefix("give it another name: ")).unwrap().to_owned();
    assert!(std::process::Command::new("/bin/sh").args(["-c", &hint]).status().unwrap().success(), "{hint}");
    sandbox.lorchestra(&["plugins", "install", &misbehave]).exits(0);
    assert_eq!(sandbox.lorchestra(&["jobs", "list", "ingester"]).exits(0).err(), "");

    // Another directory of the search path contains the package.
    let elsewhere = sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let there = elsewhere.join("canon.so");
    fs::copy(Fixture::Canonizer.built(), &there).unwrap();
    let path = [("LORCHESTRA_PLUGIN_PATH", elsewhere.to_str().unwrap())];
    let canonizer = Fixture::Canonizer.built().display().to_string();
    let refused = sandbox.lorchestra_with(&path, &["plugins", "install", &canonizer]).exits(126);
    assert!(refused.err().contains(&there.display().to_string()), "{}", refused.shown());
    assert!(refused.err().contains(&format!("--plugin-dir {} plugins install", elsewhere.display())), "{}", refused.shown());
    let dir = elsewhere.display().to_string();
    sandbox.lorchestra(&["--plugin-dir", &dir, "plugins", "install", &canonizer]).exits(0);
    assert_eq!(libraries(&elsewhere), ["libcanonizer.so"]);

    // Others may write to the directory: its libraries are not run.
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = sandbox.lorchestra(&["--plugin-dir", &dir, "plugins", "install", &misbehave]).exits(126);
    assert!(refused.err().contains(&format!("\n  chmod go-w {dir}\n")), "{}", refused.shown());
    assert_eq!(libraries(&elsewhere), ["libcanonizer.so"]);
}

#[test]
fn an_unwritable_directory_is_reported() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Ingester]);
    let file = sandbox.path("new.so");
    fs::copy(Fixture::Misbehave.built(), &file).unwrap();
    let plugins = sandbox.plugins();
    fs::set_permissions(&plugins, fs::Permissions::from_mode(0o555)).unwrap();
    for args in [&["plugins", "install", &*file.display().to_string()][..], &["plugins", "remove", "ingester"]] {
        let refused = sandbox.lorchestra(args).exits(74);
        assert!(refused.err().contains(&format!("\n  chmod u+rwx {}\n", plugins.display())), "{}", refused.shown());
    }
    assert_eq!(names(&plugins), ["libingester.so"]);
}

/// Sixteen commands install two versions of one package into a directory where it has another name, while another process keeps listing.
#[test]
fn concurrent_installs_leave_one_complete_package_at_every_moment() {
    let sandbox = Sandbox::with(&[]);
    let versions = [sandbox.path("one.so"), sandbox.path("two.so")];
    fs::copy(Fixture::Misbehave.built(), &versions[0]).unwrap();
    fs::write(&versions[1], next_version()).unwrap();
    let (done, mut looks) = (AtomicBool::new(false), 0);
    for round in 0..3 {
        let installed = sandbox.plugins().join("libmisbehave.so");
        let other = sandbox.plugins().join("other-name.so");
        if round == 0 {
            fs::copy(&versions[1], &other).unwrap();
        } else {
            fs::rename(&installed, &other).unwrap();
        }
        done.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let listed = sandbox.lorchestra(&["jobs", "list"]).exits(0);
                    assert!(listed.out().starts_with("misbehave:\n") && listed.err().is_empty(), "{}", listed.shown());
                    looks += 1;
                }
                looks
            });
            let install = |n: usize| sandbox.start(&["plugins", "install", versions[n % 2].to_str().unwrap()]);
            let all: Vec<Running> = (0..16).map(install).collect();
            let ended: Vec<_> = all.into_iter().map(Running::wait).collect();
            done.store(true, Ordering::Relaxed);
            ended.into_iter().for_each(|ended| drop(ended.exits(0)));
            looks += looking.join().unwrap();
        });
        assert_eq!(names(&sandbox.plugins()), [".lorchestra.lock", "libmisbehave.so"]);
        let bytes = fs::read(&installed).unwrap();
        assert!(versions.iter().any(|version| fs::read(version).unwrap() == bytes), "one of the two, complete");
    }
    assert!(looks > 3, "somebody looked: {looks}");
}

#[test]
fn removing_takes_the_file_and_leaves_the_rest() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Ingester]);
    let library = sandbox.plugins().join("libmisbehave.so");
    fs::hard_link(&library, sandbox.plugins().join("zweiter.so")).unwrap();
    sandbox.lorchestra(&["run-job", "misbehave", "typed"]).exits(0);
    let removed = sandbox.lorchestra(&["plugins", "remove", "misbehave"]).exits(0);
    insta::assert_snapshot!(removed.snapshot(&sandbox));
    assert_eq!(libraries(&sandbox.plugins()), ["libingester.so"]);
    assert!(sandbox.data().join("misbehave").is_dir() && sandbox.runs().len() == 1, "its data stays");
    let unknown = sandbox.lorchestra(&["plugins", "remove", "ingestr"]).exits(1);
    assert!(unknown.err().contains("did you mean ingester?"), "{}", unknown.shown());
    let json = sandbox.lorchestra(&["plugins", "remove", "--json", "ingester"]).exits(0).json("lorchestra.plugins-remove/1");
    assert_eq!(json["removed"], json!([sandbox.plugins().join("libingester.so").display().to_string()]));
    assert!(libraries(&sandbox.plugins()).is_empty());
}

#[test]
fn a_package_in_several_files_must_be_removed_manually() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let files: Vec<PathBuf> = ["libmisbehave.so", "second.so"].iter().map(|name| sandbox.plugins().join(name)).collect();
    fs::copy(&files[0], &files[1]).unwrap();
    let refused = sandbox.lorchestra(&["plugins", "remove", "misbehave"]).exits(126);
    for file in &files {
        assert!(refused.err().contains(&format!("\n  rm {}\n", file.display())), "{}", refused.shown());
    }
    assert_eq!(libraries(&sandbox.plugins()).len(), 2);
    // Installing fixes it, because the intended library is clear.
    sandbox.lorchestra(&["plugins", "install", &Fixture::Misbehave.built().display().to_string()]).exits(0);
    assert_eq!(libraries(&sandbox.plugins()), ["libmisbehave.so"]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

/// A run uses its own copy.
#[test]
fn a_job_continues_while_its_package_is_replaced_and_removed() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let marker = sandbox.arg("marker");
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &marker]);
    eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    let next = write(&sandbox.path("next.so"), &next_version());
    sandbox.lorchestra(&["plugins", "install", &next]).exits(0);
    sandbox.lorchestra(&["plugins", "remove", "misbehave"]).exits(0);
    running.signal(rustix::process::Signal::TERM);
    running.wait().exits(143);
    assert_eq!(sandbox.run().cause(), "cancelled");
}

/// Bytes read by a command that has ended, including its threads but not its children.
fn read_by(mut command: std::process::Command) -> (Option<i32>, u64) {
    use rustix::process::{WaitId, WaitIdOptions};
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    // Not reaped yet, so its statistics can be read.
    rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let io = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap();
    (child.wait().unwrap().code(), read)
}

/// A sparse library takes no disk space, but reading it takes time for each byte.
#[test]
fn a_large_library_is_read_once_and_one_that_its_header_refuses_not_at_all() {
    const SIZE: u64 = 256 << 20;
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let path = sandbox.plugins().join("libmisbehave.so");
    let grow = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(SIZE).unwrap();
    grow(&path);
    let check = |path: &Path| read_by(sandbox.command(&["plugins", "check", &path.display().to_string()]));
    let (code, read) = check(&path);
    assert_eq!(code, Some(0));
    // The file once, and for the checksum its copy in memory.
    assert!((2 * SIZE..2 * SIZE + (64 << 20)).contains(&read), "{read} bytes were read");
    // A listing needs the manifest and some tables only, whatever the size.
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let listed = sandbox.lorchestra(&["jobs", "list", "--names"]).exits(0);
    assert!(listed.out().contains("misbehave"), "{}", listed.shown());
    let (code, read) = read_by(sandbox.command(&["jobs", "list"]));
    assert!(code == Some(0) && read < 4 << 20, "{code:?}, {read} bytes were read");
    for (name, change) in [("arm.so", 18), ("other.so", 0)] {
        let other = sandbox.path(name);
        fs::copy(Fixture::Misbehave.built(), &other).unwrap();
        let mut bytes = fs::read(&other).unwrap();
        // The machine, or the magic number.
        bytes[change] = 183;
        fs::write(&other, bytes).unwrap();
        grow(&other);
        let (code, read) = check(&other);
        assert!(code == Some(126) && read < 4 << 20, "{name}: {code:?}, {read} bytes were read");
    }
}

/// A search reads only the outline of a manifest. What reads its texts too reports a mistake in them, and nothing runs.
#[test]
fn a_mistake_in_the_texts_of_a_manifest_is_reported() {
    let sandbox = Sandbox::with(&[]);
    let path = sandbox.plugins().join("libmisbehave.so");
    fs::write(&path, lorchestra_tests::corrupt::manifest("Does nothing.", "\x1b[2J\x07\x1b]0;x\x07\r!")).unwrap();
    assert!(sandbox.lorchestra(&["jobs", "list"]).exits(0).out().starts_with("misbehave:\n"));
    let listed = sandbox.lorchestra(&["plugins", "list"]).exits(0);
    assert!(listed.out().contains("bad-manifest: the manifest's JSON is invalid: control character"), "{}", listed.shown());
    let doctor = sandbox.lorchestra(&["doctor"]).exits(1);
    assert!(doctor.out().contains("(bad-manifest)"), "{}", doctor.shown());
    for command in [["run-job", "misbehave", "noop"].as_slice(), &["jobs", "show", "misbehave", "noop"]] {
        let refused = sandbox.lorchestra(command).exits(126);
        assert!(refused.err().contains("the manifest's JSON is invalid"), "{}", refused.shown());
    }
}
